//! The cost of a notifying trigger for the writers of its table: single-row inserts, each a transaction with a real
//! flush.
//!
//! Three tables take turns: one without a trigger, one with that of `clapometer notify-sql`, one with a
//! plain NOTIFY. Somebody listens, as clapometer would. All that again while an old snapshot is held.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use clapometer::notify_sql::{Identifier, NotifyTable, NotifyTrigger, Operation};
use serde_json::{Value, json};
use tokio_postgres::{AsyncMessage, Client, NoTls};

use crate::{
    pgbench,
    report::{Row, median},
    support::{
        cluster::{Cluster, Settings},
        database::Database,
    },
    tally::real,
};

const WRITERS: u64 = 16;

/// The least that our trigger must leave of the rate without one.
const AT_LEAST: f64 = 0.70;

/// And how many times the rate with a plain NOTIFY.
const TIMES_PLAIN: f64 = 3.0;

/// The tables, which are the channels, too.
const TABLES: [&str; 3] = [BARE, OURS, PLAIN];
const BARE: &str = "bare";
const OURS: &str = "ours";
const PLAIN: &str = "plain";

/// The trigger that people write who do not know that it makes commits wait for each other.
const PLAIN_TRIGGER: &str = "
    CREATE FUNCTION plain_notify() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        PERFORM pg_notify('plain', '');
        RETURN NULL;
    END
    $$;
    CREATE TRIGGER plain_notify AFTER INSERT ON plain FOR EACH STATEMENT EXECUTE FUNCTION plain_notify();
";

/// The length of a comparison.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Length {
    /// Turns of each table, without an old snapshot, and again with one
    #[arg(long, default_value_t = 5)]
    rounds: u32,
    /// Seconds of one turn
    #[arg(long, default_value_t = 4)]
    turn: u32,
}

/// Compares without an old snapshot and with one.
pub(crate) async fn run(length: Length) -> Value {
    let cluster = Cluster::with_settings(Settings::default().durable().set("shared_buffers", "256MB")).await;
    let database = Database::empty(&cluster).await;
    prepare(&database).await;
    let heard = Heard::listen(&database).await;

    let (mut rows, mut snapshots) = (Vec::new(), Vec::new());
    for held in [false, true] {
        let snapshot = if held { Some(Snapshot::take(&database).await) } else { None };
        let rates = take_turns(&database, length).await;
        if let Some(snapshot) = snapshot {
            snapshot.release().await;
        }
        let label = if held { "an old snapshot is held" } else { "no old snapshot" };
        let sides = [OURS, PLAIN].map(|table| Ratios::new(&rates, table));
        println!("{label}: {:.0} inserts/s without a trigger", median(rates[BARE].clone()));
        for (table, ratios) in [OURS, PLAIN].into_iter().zip(&sides) {
            println!("{table:>8}: {:.0} inserts/s, ratio {ratios}", median(rates[table].clone()));
        }
        let [ours, plain] = sides;
        rows.push(Row {
            what: format!("inserts a second with our trigger, {WRITERS} writers, real flush, {label}"),
            baseline: "the same table without a trigger, and with a plain NOTIFY trigger".to_owned(),
            bar: format!(">= {AT_LEAST:.2} of its rate, >= {TIMES_PLAIN:.0} times that with a plain NOTIFY"),
            measured: format!("{ours}, {:.1} times; plain NOTIFY {plain}", ours.median / plain.median),
            holds: ours.median >= AT_LEAST && ours.median >= TIMES_PLAIN * plain.median,
        });
        snapshots.push(json!({
            "old_snapshot": held, "inserts_per_second": rates, "ours": ours.json(), "plain": plain.json(),
        }));
    }
    let heard = heard.counts();
    println!("notifications: {heard:?}");
    assert!([OURS, PLAIN].iter().all(|table| heard.contains_key(*table)), "a trigger told nothing: {heard:?}");
    json!({"rows": rows, "snapshots": snapshots, "notifications": heard})
}

async fn prepare(database: &Database<'_>) {
    for table in TABLES {
        let statements = format!(
            "CREATE TABLE {table} (id bigserial PRIMARY KEY, status text NOT NULL);
             ALTER TABLE {table} OWNER TO owner"
        );
        database.execute(&statements).await;
    }
    let name = |text: &str| Identifier::new(text).expect("it is a name");
    let trigger = NotifyTrigger {
        table: NotifyTable::parse(OURS).expect("it is a name"),
        channel: name(OURS),
        operations: vec![Operation::Insert, Operation::Update, Operation::Delete],
        columns: vec![name("status")],
    };
    database.execute(&trigger.install()).await;
    database.execute(PLAIN_TRIGGER).await;
}

/// The rates of each table, a number a round; each round begins with another table.
async fn take_turns(database: &Database<'_>, length: Length) -> BTreeMap<&'static str, Vec<f64>> {
    let mut rates = BTreeMap::<_, Vec<f64>>::new();
    let mut order = TABLES;
    for _ in 0..length.rounds {
        for table in order {
            // Every turn pays for the first change of its pages, and no other's checkpoint falls into it.
            database.execute("CHECKPOINT").await;
            let count = format!("SELECT count(*) FROM {table}");
            let before: i64 = database.value(&count).await;
            let script = format!("INSERT INTO {table} (status) VALUES ('pending');\n");
            let rate = pgbench::rate(&database.owner(), &script, WRITERS, length.turn).await;
            let inserted = database.value::<i64>(&count).await - before;
            let inserted = real(u64::try_from(inserted).expect("nobody deletes"));
            // Connections are opened within the turn, and the last transactions end after it.
            let expected = rate * f64::from(length.turn);
            assert!(inserted > expected * 0.5 && inserted < expected * 2.0, "{table}: {inserted}, not {expected} rows");
            rates.entry(table).or_default().push(rate);
        }
        order.rotate_left(1);
    }
    rates
}

/// A transaction that sees the table as it was.
struct Snapshot {
    client: Client,
    rows: i64,
}

impl Snapshot {
    const COUNT: &str = "SELECT count(*) FROM ours";

    async fn take(database: &Database<'_>) -> Self {
        let client = database.connect().await;
        client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await.expect("a transaction can begin");
        let rows = client.query_one(Self::COUNT, &[]).await.expect("a superuser may look").get(0);
        Self { client, rows }
    }

    /// Ends it, if it has been held all the time.
    async fn release(self) {
        let rows: i64 = self.client.query_one(Self::COUNT, &[]).await.expect("the snapshot is still held").get(0);
        assert_eq!(rows, self.rows, "the snapshot was not held");
        self.client.batch_execute("COMMIT").await.expect("the snapshot is still held");
    }
}

/// A session that listens, and counts notifications.
struct Heard {
    _client: Client,
    counts: Arc<Mutex<BTreeMap<String, u64>>>,
}

impl Heard {
    async fn listen(database: &Database<'_>) -> Self {
        let connected = database.owner().driver().connect(NoTls).await;
        let (client, mut connection) = connected.expect("the database is there");
        let counts = Arc::new(Mutex::new(BTreeMap::<String, u64>::new()));
        let told = Arc::clone(&counts);
        tokio::spawn(async move {
            while let Some(Ok(message)) = std::future::poll_fn(|context| connection.poll_message(context)).await {
                if let AsyncMessage::Notification(notification) = message {
                    let mut told = told.lock().expect("nobody panics with it");
                    *told.entry(notification.channel().to_owned()).or_default() += 1;
                }
            }
        });
        for table in TABLES {
            client.batch_execute(&format!("LISTEN {table}")).await.expect("everybody may listen");
        }
        Self { _client: client, counts }
    }

    fn counts(&self) -> BTreeMap<String, u64> {
        self.counts.lock().expect("nobody panics with it").clone()
    }
}

/// Rates with a trigger, each divided by the rate without one in the same round.
struct Ratios {
    median: f64,
    lowest: f64,
    highest: f64,
}

impl Ratios {
    fn new(rates: &BTreeMap<&str, Vec<f64>>, table: &str) -> Self {
        let ratios: Vec<f64> = rates[table].iter().zip(&rates[BARE]).map(|(with, without)| with / without).collect();
        Self {
            lowest: ratios.iter().copied().fold(f64::INFINITY, f64::min),
            highest: ratios.iter().copied().fold(0.0, f64::max),
            median: median(ratios),
        }
    }

    fn json(&self) -> Value {
        json!({"ratio": self.median, "lowest": self.lowest, "highest": self.highest})
    }
}

impl std::fmt::Display for Ratios {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:.2} ({:.2} to {:.2})", self.median, self.lowest, self.highest)
    }
}
