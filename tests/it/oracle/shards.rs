//! The oracle over sixteen databases: some of them fail at random, and no answer may be a sum without them.
//!
//! Each database holds a number that only grows. A sum is right if it lies between the sums of the smallest and of the
//! largest numbers that may have been committed since as long ago as the contract allows.

use std::{
    env,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use clapometer::proto::GetMetricsRequest;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::{sleep, timeout};
use tokio_postgres::{Client, NoTls};

use super::{PATIENCE, RECOVERY, SLACK, journal::Journal};
use crate::support::{
    cluster::{Cluster, Settings},
    database::Database,
    fixture::Fixture,
    grpc::{Scaler, trigger},
    proxy::{Mode, Proxy},
};

/// The databases of the shared instance, and the instances that have one each.
const SHARED: usize = 13;
const ALONE: usize = 3;

/// The number that each database holds at first: far more than all writers add, so that a sum without one is far too
/// small.
const START: u32 = 1_000_000;

const CLIENTS: u64 = 12;

const QUERIES: [(&str, &str, Duration); 3] = [
    ("strict", "sql: SELECT n FROM truth, max_age: 0s", Duration::ZERO),
    ("shared", "sql: SELECT n FROM truth WHERE true, max_age: 500ms", Duration::from_millis(500)),
    (
        "listening",
        "sql: SELECT n FROM truth WHERE n > 0, max_age: 500ms, notify: {channel: truth, resync: 2s}",
        Duration::from_secs(2),
    ),
];

/// A database with the wire that leads to it, and what it has held.
struct Shard {
    database: Database<'static>,
    wire: Proxy,
    journal: Journal,
}

/// A fault of one database.
#[derive(Debug, Clone, Copy)]
enum Fault {
    Wire(Mode),
    SessionsEnded,
    OtherSchema,
    Null,
    Negative,
    Frozen,
    Killed,
}

const FAULTS: [Fault; 10] = [
    Fault::Wire(Mode::Blackhole),
    Fault::Wire(Mode::Reset),
    Fault::Wire(Mode::Close),
    Fault::Wire(Mode::Truncate(30)),
    Fault::Wire(Mode::Slow(Duration::from_millis(200))),
    Fault::SessionsEnded,
    Fault::OtherSchema,
    Fault::Null,
    Fault::Negative,
    Fault::Frozen,
];

impl Shard {
    async fn of(cluster: &'static Cluster) -> Self {
        let database = Database::empty(cluster).await;
        let table = format!(
            "CREATE TABLE held AS SELECT {START}::int AS n; CREATE VIEW truth AS SELECT n FROM held;
             GRANT SELECT ON truth TO scaler"
        );
        database.execute(&table).await;
        let wire = Proxy::to(SocketAddr::from(([127, 0, 0, 1], cluster.port()))).await;
        Self { database, wire, journal: Journal::new(START) }
    }

    /// Commits one number after another, past the wire.
    async fn write(&self, stop: &AtomicBool) {
        let mut writer: Option<Client> = None;
        while !stop.load(Ordering::Relaxed) {
            if writer.as_ref().is_none_or(Client::is_closed) {
                writer = self.session().await;
            }
            let number = self.journal.begin();
            if let Some(client) = &writer {
                // A write that was given up may still wait for a lock, and must not take effect after a later one.
                let statement = format!("UPDATE held SET n = {number} WHERE n < {number}; NOTIFY truth");
                match timeout(Duration::from_secs(1), client.batch_execute(&statement)).await {
                    Ok(Ok(())) => self.journal.committed(),
                    _ => writer = None,
                }
            }
            sleep(Duration::from_millis(60)).await;
        }
    }

    async fn session(&self) -> Option<Client> {
        let config = self.database.cluster().superuser(self.database.name());
        let (client, connection) = timeout(Duration::from_secs(1), config.connect(NoTls)).await.ok()?.ok()?;
        tokio::spawn(connection);
        Some(client)
    }

    async fn strike(&self, fault: Fault) {
        let view = |column: &str| format!("CREATE OR REPLACE VIEW truth AS SELECT {column} AS n FROM held");
        match fault {
            Fault::Wire(mode) => self.wire.set(mode),
            Fault::SessionsEnded => {
                let end = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                           WHERE usename = 'scaler' AND datname = current_database()";
                self.database.execute(end).await;
            }
            Fault::OtherSchema => self.database.execute("ALTER VIEW truth RENAME TO elsewhere").await,
            Fault::Null => self.database.execute(&view("NULL::int")).await,
            Fault::Negative => self.database.execute(&view("-n")).await,
            Fault::Frozen => self.database.cluster().freeze(),
            Fault::Killed => self.database.cluster().kill().await,
        }
    }

    async fn heal(&self, fault: Fault) {
        match fault {
            Fault::Wire(_) => self.wire.set(Mode::Pass),
            Fault::SessionsEnded => {}
            Fault::OtherSchema => self.database.execute("ALTER VIEW elsewhere RENAME TO truth").await,
            Fault::Null | Fault::Negative => {
                self.database.execute("CREATE OR REPLACE VIEW truth AS SELECT n FROM held").await;
            }
            Fault::Frozen => self.database.cluster().thaw(),
            Fault::Killed => self.database.cluster().start().await,
        }
    }
}

/// Checks a sum that has just come to a question of `since`.
///
/// # Panics
/// When the databases held no such numbers since `age` before the question.
fn bears_out<'a>(held: impl Iterator<Item = &'a Journal>, value: f64, since: Instant, age: Duration, asked: &str) {
    let held: Vec<(u32, u32)> = held.map(|journal| journal.range(since, age)).collect();
    let least: f64 = held.iter().map(|(least, _)| f64::from(*least)).sum();
    let most: f64 = held.iter().map(|(_, most)| f64::from(*most)).sum();
    assert!(
        (least..=most).contains(&value),
        "{asked}: {value} is a lie; since {age:?} before the question it was {least} to {most}"
    );
}

async fn ask(scaler: &Scaler, client: u64, shards: &[Shard], counts: &Counts, stop: &AtomicBool, pace: Duration) {
    let mut random = StdRng::seed_from_u64(client);
    while !stop.load(Ordering::Relaxed) {
        let (query, _, max_age) = QUERIES[random.random_range(0..QUERIES.len())];
        let reference = trigger(query, &[]);
        let asked_at = Instant::now();
        let request = GetMetricsRequest { scaled_object_ref: Some(reference.clone()), metric_name: query.to_owned() };
        match scaler.client().get_metrics(request).await {
            Ok(response) => {
                let value = response.into_inner().metric_values[0].metric_value_float;
                bears_out(shards.iter().map(|shard| &shard.journal), value, asked_at, max_age + SLACK, query);
                counts.right.fetch_add(1, Ordering::Relaxed);
            }
            Err(_) => _ = counts.errors.fetch_add(1, Ordering::Relaxed),
        }
        if random.random_bool(0.2)
            && let Ok(response) = scaler.client().is_active(reference).await
        {
            assert!(response.into_inner().result, "{query}: inactive is a lie");
        }
        sleep(pace).await;
    }
}

#[derive(Default)]
struct Counts {
    right: AtomicUsize,
    errors: AtomicUsize,
}

#[tokio::test]
async fn no_sum_is_smaller_than_the_truth_whichever_databases_fail() {
    let wanted: usize = env::var("TRUTH_ANSWERS").map_or(0, |number| number.parse().unwrap());
    let seed: u64 = env::var("TRUTH_SEED").map_or(2026, |number| number.parse().unwrap());
    let pace = if wanted > 0 { Duration::ZERO } else { Duration::from_millis(5) };
    let mut shards = Vec::new();
    for number in 0..SHARED + ALONE {
        // They live for as long as the test process: their databases refer to them. What is killed must keep what it
        // has committed.
        let cluster = if number < SHARED {
            Cluster::shared().await
        } else {
            Box::leak(Box::new(Cluster::with_settings(Settings::default().durable()).await))
        };
        shards.push(Shard::of(cluster).await);
    }
    let shards: Arc<[Shard]> = shards.into();
    let names: Vec<String> = (0..shards.len()).map(|number| format!("s{number}")).collect();
    let names = names.join(", ");
    let databases = shards.iter().zip(0..).map(|(shard, number)| {
        let access = shard.database.scaler().by_way_of(shard.wire.address());
        access.with("pool_size", 2).yaml(&format!("s{number}"))
    });
    let queries = QUERIES.map(|(name, keys, _)| format!("  {name}: {{databases: [{names}], {keys}}}\n"));
    let configuration = format!("databases:\n{}queries:\n{}", databases.collect::<String>(), queries.concat());
    let fixture = Fixture::configured(&configuration).await;
    let (counts, stop) = (Arc::<Counts>::default(), Arc::new(AtomicBool::new(false)));
    let writers: Vec<_> = (0..shards.len())
        .map(|number| {
            let (shards, stop) = (Arc::clone(&shards), Arc::clone(&stop));
            tokio::spawn(async move { shards[number].write(&stop).await })
        })
        .collect();
    let clients: Vec<_> = (0..CLIENTS)
        .map(|client| {
            let scaler = Scaler::at(fixture.serving.grpc);
            let (shards, counts, stop) = (Arc::clone(&shards), Arc::clone(&counts), Arc::clone(&stop));
            tokio::spawn(async move { ask(&scaler, client, &shards, &counts, &stop, pace).await })
        })
        .collect();

    let mut random = StdRng::seed_from_u64(seed);
    let (start, mut strikes) = (Instant::now(), 0);
    while start.elapsed() < Duration::from_secs(20) || counts.right.load(Ordering::Relaxed) < wanted {
        let mut struck: Vec<(usize, Fault)> = Vec::new();
        for _ in 0..random.random_range(1..=3) {
            let place = random.random_range(0..shards.len());
            let fault = match FAULTS[random.random_range(0..FAULTS.len())] {
                // Only an instance of its own may be stopped.
                Fault::Frozen if place < SHARED => Fault::Null,
                Fault::Frozen if random.random_bool(0.5) => Fault::Killed,
                fault => fault,
            };
            if struck.iter().all(|(other, _)| *other != place) {
                struck.push((place, fault));
                shards[place].strike(fault).await;
            }
        }
        strikes += struck.len();
        sleep(Duration::from_millis(random.random_range(50..1_500))).await;
        for (place, fault) in &struck {
            shards[*place].heal(*fault).await;
        }
        let healed = Instant::now();
        let within = if wanted > 0 { PATIENCE } else { 4 * RECOVERY };
        let request =
            GetMetricsRequest { scaled_object_ref: Some(trigger("strict", &[])), metric_name: "strict".to_owned() };
        while fixture.scaler.client().get_metrics(request.clone()).await.is_err() {
            let elapsed = healed.elapsed();
            assert!(elapsed < within, "seed {seed}: {struck:?} are not over {elapsed:?} after their end");
            sleep(Duration::from_millis(10)).await;
        }
        // The rest is good time, in which readings get shared.
        sleep(Duration::from_millis(random.random_range(0..400))).await;
        assert!(clients.iter().all(|client| !client.is_finished()), "a client has ended");
    }
    stop.store(true, Ordering::Relaxed);
    for client in clients {
        client.await.expect("every answer was the truth");
    }
    for writer in writers {
        writer.await.unwrap();
    }
    let (right, errors) = (counts.right.load(Ordering::Relaxed), counts.errors.load(Ordering::Relaxed));
    println!("seed {seed}: {right} sums in {:.0?}, all true, {errors} errors, {strikes} strikes", start.elapsed());
    assert!(right > 500 && errors > 50, "{right} answers and {errors} errors prove nothing");
    let log = fixture.serving.process.errors();
    assert!(!log.contains("panicked"), "{log}");
}

#[cfg(test)]
mod tests {
    use super::*;

    const AGE: Duration = Duration::from_millis(20);

    fn bear_out(value: u32) {
        bears_out([Journal::new(START), Journal::new(START + 5)].iter(), f64::from(value), Instant::now(), AGE, "q");
    }

    #[test]
    fn the_sum_of_what_is_there_is_true() {
        bear_out(2 * START + 5);
    }

    #[test]
    #[should_panic(expected = "1000005 is a lie")]
    fn a_sum_without_one_of_the_databases_is_a_lie() {
        bear_out(START + 5);
    }
}
