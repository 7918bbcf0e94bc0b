//! `make load`: the server under KEDA's whole fleet, judged by what must hold at any speed.

use std::{fmt, time::Duration};

use serde_json::{Value, json};
use tokio::time::Instant;

use crate::{
    client::Connection,
    fixture::{self, MAX_AGE, POOL, Sessions, Usage},
    fleet::{self, Habits, Seen},
    support::{cluster::Cluster, database::Database},
};

const TRIGGERS: u32 = 1_200;
const QUEUES: u32 = 100;

/// One for each queue, and one for all of them.
const GAUGES: i64 = 101;

/// A pool's connection looks once at what its role may do, and is opened again if it was broken.
const OF_A_CONNECTION: i64 = 4;

/// The memory limit of the container that we ship (deploy/helm/clapometer/values.yaml), in KiB.
const MEMORY: u64 = 256 * 1024;

/// The bound from SIGTERM to the end; the server's own limit is 20 s.
const END: Duration = Duration::from_secs(30);

/// The operator of this check: faster than in a cluster, although the server may be a debug build.
const HABITS: Habits = Habits {
    polling: Duration::from_secs(4),
    spread: Duration::ZERO,
    hpa: Duration::from_secs(6),
    lasting: Duration::from_secs(20),
};

/// A measurement with its limits.
pub(crate) struct Verdict {
    seen: Seen,
    afterwards: Seen,
    facts: Vec<Fact>,
    took: Duration,
}

/// One measured count with its bounds.
struct Fact {
    what: &'static str,
    least: i64,
    measured: i64,
    most: i64,
}

impl Fact {
    fn holds(&self) -> bool {
        (self.least..=self.most).contains(&self.measured)
    }
}

impl Verdict {
    /// Returns whether all facts hold.
    pub(crate) fn holds(&self) -> bool {
        self.facts.iter().all(Fact::holds)
    }

    /// Returns JSON for programs.
    pub(crate) fn json(&self) -> Value {
        let calls = |seen: &Seen| -> Value {
            seen.parts()
                .into_iter()
                .map(|(name, tally)| (name.to_owned(), tally.json()))
                .collect::<serde_json::Map<_, _>>()
                .into()
        };
        let facts: Vec<Value> = self
            .facts
            .iter()
            .map(|fact| json!({"what": fact.what, "least": fact.least, "measured": fact.measured, "most": fact.most, "holds": fact.holds()}))
            .collect();
        json!({
            "seconds": self.took.as_secs_f64(),
            "triggers": TRIGGERS,
            "fleet": calls(&self.seen),
            "afterwards": calls(&self.afterwards),
            "facts": facts,
            "holds": self.holds(),
        })
    }
}

impl fmt::Display for Verdict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{TRIGGERS} triggers on one connection, {:.1?}", self.took)?;
        for (moment, seen) in [("fleet", &self.seen), ("roll call", &self.afterwards)] {
            for (name, tally) in seen.parts() {
                writeln!(f, "  {moment:<9} {name:<14} {tally}")?;
                for quote in &tally.quotes {
                    writeln!(f, "      {quote}")?;
                }
            }
        }
        for fact in &self.facts {
            let Fact { what, least, measured, most } = fact;
            let mark = if fact.holds() { "holds " } else { "BROKEN" };
            writeln!(f, "  {mark} {what}: {measured} ({least} to {most})")?;
        }
        Ok(())
    }
}

/// Runs the fleet and the roll call, stops the server, and judges.
pub(crate) async fn run() -> Verdict {
    let cluster = Cluster::private().await;
    let database = Database::empty(&cluster).await;
    fixture::queues(&database, QUEUES).await;
    let triggers = fixture::fleet(fixture::triggers(TRIGGERS, QUEUES));
    let before = fixture::transactions(&cluster, database.name()).await;

    let start = Instant::now();
    let server = fixture::server(&fixture::configuration(&database)).await;
    let sessions = Sessions::watch(&database).await;
    let (connection, driver) = Connection::open(server.grpc).await;
    let seen = fleet::run(&connection, &triggers, HABITS).await;
    let afterwards = fleet::roll_call(&connection, &triggers).await;
    let usage = Usage::read(server.process.pid());
    let most = sessions.most();
    drop(driver);
    let finished = server.process.terminate(END).await;
    let took = start.elapsed();
    drop(sessions);
    let statements = fixture::transactions(&cluster, database.name()).await - before;

    let facts = facts(&seen, &afterwards, Measured { most, statements, usage, took, code: finished.code() });
    Verdict { seen, afterwards, facts, took }
}

struct Measured {
    most: i64,
    statements: i64,
    usage: Usage,
    took: Duration,
    code: Option<i32>,
}

fn facts(seen: &Seen, afterwards: &Seen, measured: Measured) -> Vec<Fact> {
    let Measured { most, statements, usage, took, code } = measured;
    let signed = |count: u64| i64::try_from(count).unwrap_or(i64::MAX);
    let all = |seen: &Seen, of: fn(&crate::tally::Tally) -> u64| -> i64 {
        signed(seen.parts().into_iter().map(|(_, tally)| of(tally)).sum())
    };
    let late = |tally: &crate::tally::Tally| tally.failed.get("DeadlineExceeded").copied().unwrap_or_default();
    let failed = |tally: &crate::tally::Tally| tally.failed.values().sum::<u64>();
    let exactly = |what, measured, right| Fact { what, least: right, measured, most: right };
    // The first reading of each, and another whenever the one before is as old as it may be.
    let lives = i64::try_from(took.as_nanos() / MAX_AGE.as_nanos()).unwrap_or(i64::MAX) + 1;
    let count = i64::from(TRIGGERS);
    vec![
        exactly("wrong answers", all(seen, |tally| tally.wrong) + all(afterwards, |tally| tally.wrong), 0),
        // A slow machine may make an answer late, and late ones say so; anything else is a fault.
        exactly("failures under load that are not lateness", all(seen, failed) - all(seen, late), 0),
        exactly("failures afterwards", all(afterwards, failed), 0),
        exactly("triggers answered right afterwards", signed(afterwards.metrics.right), count),
        Fact { what: "answers under load", least: 6 * count, measured: all(seen, |tally| tally.right), most: i64::MAX },
        exactly("streams that were ended", signed(seen.ended_streams), 0),
        Fact { what: "messages on streams", least: count / 4, measured: signed(seen.streams.right), most: i64::MAX },
        Fact {
            what: "statements (distinct gauges / max_age)",
            least: GAUGES,
            measured: statements,
            most: GAUGES * lives + OF_A_CONNECTION * (POOL + 1),
        },
        Fact { what: "sessions in PostgreSQL (pool_size + 1)", least: 1, measured: most, most: POOL + 1 },
        Fact { what: "KiB resident at most", least: 1, measured: signed(usage.peak), most: signed(MEMORY) },
        exactly("exit code after SIGTERM", code.map_or(-1, i64::from), 0),
    ]
}
