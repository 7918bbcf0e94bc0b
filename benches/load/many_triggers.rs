//! Ten thousand triggers, polled every ten seconds: what that takes of a CPU, of PostgreSQL's and of ours.

use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    client::Connection,
    fixture::{self, Usage},
    fleet::{self, Habits, Kind},
    report::Row,
    support::{cluster::Cluster, database::Database},
};

const TRIGGERS: u32 = 10_000;

/// Objects that were made one after the other are polled one after the other.
const HABITS: Habits = Habits {
    polling: Duration::from_secs(10),
    spread: Duration::from_secs(10),
    hpa: Duration::from_secs(15),
    lasting: Duration::from_secs(40),
};

/// Measures with a reading for each trigger, and with one for all.
pub(crate) async fn run() -> Value {
    let cluster = Cluster::private().await;
    let (mut rows, mut ways) = (Vec::new(), Vec::new());
    for (way, query, parameter) in
        [("a reading each", "depth", "param.queue"), ("one grouped query", "depths", "param.name")]
    {
        let database = Database::empty(&cluster).await;
        fixture::queues(&database, TRIGGERS).await;
        let server = fixture::server(&fixture::configuration(&database)).await;
        let (connection, _driver) = Connection::open(server.grpc).await;
        let triggers: Vec<_> =
            fixture::same(TRIGGERS, query, parameter).into_iter().map(|trigger| (Kind::ScaledJob, trigger)).collect();
        // The first calls open the pool's sessions, whose time is then counted from the start.
        for (_, trigger) in &triggers[..100] {
            trigger.metrics().to(&connection).make().await;
        }
        let before = (Usage::read(server.process.pid()).cpu, fixture::sessions_cpu(&database).await);
        let start = Instant::now();
        let seen = fleet::run(&connection, &triggers, HABITS).await;
        let took = start.elapsed();
        let usage = Usage::read(server.process.pid());
        let share = |time: Duration| 100.0 * time.as_secs_f64() / took.as_secs_f64();
        let ours = share(usage.cpu - before.0);
        let postgres = share(fixture::sessions_cpu(&database).await - before.1);
        let slowest = seen.metrics.quantile(1.0);
        let wrong = seen.parts().iter().map(|(_, tally)| tally.wrong + tally.failed.values().sum::<u64>()).sum::<u64>();
        println!("{way}: {ours:.1} % of a CPU, PostgreSQL {postgres:.1} %, GetMetrics {}", seen.metrics);
        for quote in seen.parts().iter().flat_map(|(_, tally)| &tally.quotes) {
            println!("      {quote}");
        }
        rows.push(Row {
            what: format!("{TRIGGERS} triggers polled every {} s, {way}", HABITS.polling.as_secs()),
            baseline: "none".to_owned(),
            bar: "every answer right".to_owned(),
            measured: format!(
                "{wrong} wrong or missing; {ours:.0} % of a CPU, PostgreSQL {postgres:.0} %, {} MiB; p99 {:.1?}, slowest {slowest:.0?}",
                usage.peak / 1024,
                seen.metrics.quantile(0.99),
            ),
            holds: wrong == 0,
        });
        ways.push(
            json!({"way": way, "cpu_percent": ours, "postgres_cpu_percent": postgres, "calls": seen.metrics.json()}),
        );
    }
    json!({"rows": rows, "ways": ways})
}
