//! The effects of the SQL of `clapometer notify-sql` on a table, its writers and listeners.

mod limits;
mod seen;
mod writers;

use std::time::Duration;

use tokio::{sync::mpsc, time::timeout};
use tokio_postgres::{AsyncMessage, Client, NoTls};

use crate::support::{cluster::Cluster, database::Database, executable::Executable, wait};

/// Long enough for a busy machine; a notification that comes at all comes in milliseconds.
const SOON: Duration = Duration::from_secs(20);

const JOBS: &str = "
    CREATE SCHEMA app;
    CREATE TABLE app.jobs (
        id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
        status text NOT NULL DEFAULT 'PENDING',
        beat_at timestamptz
    );
    GRANT USAGE ON SCHEMA app TO PUBLIC;
    GRANT INSERT ON app.jobs TO PUBLIC;
";

const INSERT: &str = "INSERT INTO app.jobs DEFAULT VALUES";

const TRIGGER: [&str; 6] = ["--table", "app.jobs", "--channel", "jobs", "--columns", "status"];

/// A database with the table `app.jobs`, and the trigger on it.
async fn jobs(cluster: &Cluster) -> Database<'_> {
    let database = Database::empty(cluster).await;
    database.execute(JOBS).await;
    database.execute(&printed(&TRIGGER).await).await;
    database
}

/// Returns what the command prints.
async fn printed(arguments: &[&str]) -> String {
    let finished = Executable::clapometer(["notify-sql"].iter().chain(arguments)).finish(SOON).await;
    assert_eq!(finished.code(), Some(0), "{}", finished.errors);
    finished.output
}

/// A session that listens on the channel `jobs`.
struct Listener {
    client: Client,
    heard: mpsc::UnboundedReceiver<String>,
    /// Notifications of our own so far: what came before one of them has come.
    marks: u32,
}

impl Listener {
    async fn new(database: &Database<'_>) -> Self {
        let config = database.cluster().superuser(database.name());
        let (client, mut connection) = config.connect(NoTls).await.unwrap();
        let (sender, heard) = mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
                if let AsyncMessage::Notification(notification) = message {
                    let _ = sender.send(notification.payload().to_owned());
                }
            }
        });
        client.batch_execute("LISTEN jobs").await.unwrap();
        Self { client, heard, marks: 0 }
    }

    /// Counts the notifications that were sent before now and not yet counted.
    async fn count(&mut self) -> usize {
        self.marks += 1;
        let mark = format!("mark {}", self.marks);
        self.client.execute("SELECT pg_notify('jobs', $1)", &[&mark]).await.unwrap();
        let mut count = 0;
        loop {
            let payload = wait::bounded("our own notification", SOON, self.heard.recv()).await.unwrap();
            if payload == mark {
                return count;
            }
            count += 1;
        }
    }

    /// Waits until a second has passed without a notification, and returns how many came before.
    async fn rest(&mut self) -> usize {
        let mut count = 0;
        while timeout(Duration::from_secs(1), self.heard.recv()).await.is_ok() {
            count += 1;
        }
        count
    }
}

#[tokio::test]
async fn changes_that_matter_are_told_and_heartbeats_are_not() {
    let database = jobs(Cluster::shared().await).await;
    let mut listener = Listener::new(&database).await;
    let told = [
        ("INSERT INTO app.jobs DEFAULT VALUES", 1),
        ("UPDATE app.jobs SET beat_at = now()", 0),
        ("UPDATE app.jobs SET status = 'DONE' WHERE false", 0),
        ("UPDATE app.jobs SET status = 'DONE', beat_at = now()", 1),
        ("INSERT INTO app.jobs SELECT FROM generate_series(1, 1000)", 1),
        ("DELETE FROM app.jobs WHERE id = 1", 1),
        ("TRUNCATE app.jobs", 1),
    ];
    for (statement, times) in told {
        database.execute(statement).await;
        assert_eq!(listener.count().await, times, "{statement}");
    }
}

#[tokio::test]
async fn installing_again_replaces_and_drop_removes_everything() {
    let database = jobs(Cluster::shared().await).await;
    database.execute(&printed(&TRIGGER).await).await;
    database.execute(&printed(&["--table", "app.jobs", "--channel", "jobs", "--operations", "insert"]).await).await;
    let triggers = "SELECT string_agg(pg_get_triggerdef(oid), '; ') FROM pg_trigger WHERE NOT tgisinternal";
    let definition = database.value::<Option<String>>(triggers).await.unwrap();
    assert!(definition.contains(" AFTER INSERT ON app.jobs ") && !definition.contains("TRUNCATE"), "{definition}");

    let drop = printed(&["--table", "app.jobs", "--drop"]).await;
    for _ in 0..2 {
        database.execute(&drop).await;
        assert_eq!(database.value::<Option<String>>(triggers).await, None);
        let functions = "SELECT count(*) FROM pg_proc WHERE proname LIKE 'clapometer%'";
        assert_eq!(database.value::<i64>(functions).await, 0);
    }
}

#[tokio::test]
async fn no_name_is_anything_but_a_name() {
    let database = Database::empty(Cluster::shared().await).await;
    let names = [("a\"b'c", "$clapometer$ \\' --\n"), ("$function$", "x'); DROP SCHEMA public CASCADE; --")];
    for (schema, table) in names {
        let quoted = |name: &str| format!("\"{}\"", name.replace('"', "\"\""));
        let relation = format!("{}.{}", quoted(schema), quoted(table));
        database
            .execute(&format!("CREATE SCHEMA {}; CREATE TABLE {relation} (\"c\"\"$clapometer$\" int)", quoted(schema)))
            .await;
        let mut arguments = vec!["--schema", schema, "--table", table];
        let drop = printed(&[&arguments[..], &["--drop"]].concat()).await;
        arguments.extend(["--channel", "jobs", "--columns", "c\"$clapometer$"]);
        database.execute(&printed(&arguments).await).await;
        let mut listener = Listener::new(&database).await;
        database.execute(&format!("INSERT INTO {relation} VALUES (1)")).await;
        assert_eq!(listener.count().await, 1);
        database.execute(&drop).await;
        assert_eq!(database.value::<i64>("SELECT count(*) FROM pg_trigger").await, 0);
    }
}

#[tokio::test]
async fn wrong_usage_is_told() {
    for arguments in [
        &["--table", "jobs"][..],
        &["--table", "a.b.c", "--channel", "jobs"],
        &["--table", "", "--channel", "jobs"],
        &["--table", "jobs", "--channel", "jobs", "--operations", "insert", "--columns", "status"],
        &["--table", "jobs", "--drop", "--channel", "jobs"],
    ] {
        let finished = Executable::clapometer(["notify-sql"].iter().chain(arguments)).finish(SOON).await;
        assert_eq!(finished.code(), Some(2), "{arguments:?}: {}", finished.errors);
        assert_eq!(finished.output, "");
    }
}
