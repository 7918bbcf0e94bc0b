//! Streaming standbys, and their promotion.

use std::{fs, process::Command, sync::Mutex, time::Duration};

use super::{super::database, Cluster, free_port, processes, run, tempdir, wait};

const CATCH_UP: Duration = Duration::from_secs(30);

impl Cluster {
    /// Makes a standby of this one that has caught up: a copy of its directory, for which it is stopped and started.
    pub(crate) async fn standby(&self) -> Self {
        let directory = processes::give_away(&tempdir::new("standby"));
        let data = directory.join("data");
        self.stop().await;
        run(Command::new("cp").arg("-a").arg(self.data()).arg(&data));
        self.start().await;
        let signal = data.join("standby.signal");
        fs::write(&signal, "").expect("the data directory is ours");
        processes::give_away(&signal);
        let port = free_port();
        let settings = data.join("postgresql.auto.conf");
        let copied = fs::read_to_string(&settings).expect("the primary has one");
        // The last line of a name counts.
        let own = format!(
            "{copied}\nport = {port}\nunix_socket_directories = '{}'\n\
             primary_conninfo = 'host={} port={} user=postgres'\n",
            directory.display(),
            self.directory.display(),
            self.port,
        );
        fs::write(&settings, own).expect("the data directory is ours");
        let standby = Self { directory, port, postmaster: Mutex::new(None), templates: tokio::sync::Mutex::default() };
        standby.start().await;
        standby.catches_up_with(self).await;
        standby
    }

    /// Waits until everything that `primary` has written is here.
    pub(crate) async fn catches_up_with(&self, primary: &Self) {
        let written = database::connect(&primary.superuser("postgres")).await;
        let written: String =
            written.query_one("SELECT pg_current_wal_lsn()::text", &[]).await.expect("a superuser may").get(0);
        let client = database::connect(&self.superuser("postgres")).await;
        wait::first("the standby has caught up", CATCH_UP, async || {
            let replayed = "SELECT pg_last_wal_replay_lsn() >= $1::text::pg_lsn";
            let row = client.query_one(replayed, &[&written]).await.expect("a superuser may");
            row.get::<_, Option<bool>>(0).unwrap_or(false).then_some(())
        })
        .await;
    }

    /// Holds a standby's replay; it goes on receiving.
    pub(crate) async fn pause_replay(&self) {
        self.superuser_runs("SELECT pg_wal_replay_pause()").await;
    }

    /// Ends [`Cluster::pause_replay`].
    pub(crate) async fn resume_replay(&self) {
        self.superuser_runs("SELECT pg_wal_replay_resume()").await;
    }

    /// Makes a standby of a primary, one that receives nothing.
    pub(crate) async fn demote(&self) {
        self.stop().await;
        let signal = self.directory.join("data/standby.signal");
        fs::write(&signal, "").expect("the data directory is ours");
        self.start().await;
    }

    async fn superuser_runs(&self, statement: &str) {
        let client = database::connect(&self.superuser("postgres")).await;
        client.query_one(statement, &[]).await.expect("a superuser may");
    }

    /// Makes a primary of a standby.
    pub(crate) async fn promote(&self) {
        let client = database::connect(&self.superuser("postgres")).await;
        client.query_one("SELECT pg_promote()", &[]).await.expect("a superuser may promote");
    }
}
