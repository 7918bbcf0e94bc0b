//! Streaming standbys, and their promotion.

use std::{fs, net::SocketAddr, process::Command, time::Duration};

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
        let port = free_port();
        let (postmaster, templates) = Default::default();
        let standby = Self { directory, port, postmaster, clock: None, templates };
        standby.configure(&format!("port = {port}\nunix_socket_directories = '{}'\n", standby.directory.display()));
        standby.follow(self).await;
        standby.catches_up_with(self).await;
        standby
    }

    /// Starts a cluster that was stopped, as a standby of `primary`.
    async fn follow(&self, primary: &Self) {
        self.configure(&format!(
            "primary_conninfo = 'host={} port={} user=postgres'\nwal_retrieve_retry_interval = '100ms'\n",
            primary.directory.display(),
            primary.port,
        ));
        self.start_as_standby().await;
    }

    /// Makes a standby connect to its primary at this address from now on.
    pub(crate) async fn follow_by_way_of(&self, primary: SocketAddr) {
        let (host, port) = (primary.ip(), primary.port());
        self.configure(&format!("primary_conninfo = 'host={host} port={port} user=postgres sslmode=disable'\n"));
        self.superuser_runs("SELECT pg_reload_conf()").await;
    }

    /// Makes `standby` the primary and this one its standby, and loses nothing: everything written here is sent first.
    pub(crate) async fn switch_over_to(&self, standby: &Self) {
        standby.receives_from(self).await;
        self.stop().await;
        standby.promote().await;
        self.follow(standby).await;
    }

    /// Waits until a standby receives what `primary` writes. One whose replay was paused before does not begin to.
    pub(crate) async fn receives_from(&self, primary: &Self) {
        let client = database::connect(&primary.superuser("postgres")).await;
        wait::first("the standby receives", CATCH_UP, async || {
            let streams = "SELECT EXISTS (SELECT FROM pg_stat_replication WHERE state = 'streaming')";
            client.query_one(streams, &[]).await.expect("a superuser may").get::<_, bool>(0).then_some(())
        })
        .await;
    }

    /// Appends lines to the configuration; the last line of a name counts.
    fn configure(&self, lines: &str) {
        let settings = self.data().join("postgresql.auto.conf");
        let before = fs::read_to_string(&settings).expect("every cluster has one");
        fs::write(&settings, before + "\n" + lines).expect("the data directory is ours");
    }

    async fn start_as_standby(&self) {
        let signal = self.data().join("standby.signal");
        fs::write(&signal, "").expect("the data directory is ours");
        processes::give_away(&signal);
        self.start().await;
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
        self.start_as_standby().await;
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
