//! `make soak`: the fleet and faults for half an hour, and then nothing may have grown.
//!
//! Each cycle runs the fleet while one fault happens to PostgreSQL, waits until every trigger is
//! answered right again, and then looks at the server at rest. Answers may fail while the database
//! is away; a wrong one, or a hang, ends the soak.

use std::{process::ExitCode, time::Duration};

use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use crate::{
    client::Connection,
    fixture::{self, POOL, Sessions, Usage},
    fleet::{self, Habits, Kind},
    report,
    request::Trigger,
    support::{admin, cluster::Cluster, database::Database, executable::Serving, wait},
};

const TRIGGERS: u32 = 600;
const QUEUES: u32 = 100;

const HABITS: Habits = Habits {
    polling: Duration::from_secs(2),
    spread: Duration::ZERO,
    hpa: Duration::from_secs(3),
    lasting: Duration::from_secs(14),
};

/// The time of the fault in a cycle, and the time for which PostgreSQL is frozen.
const FAULT_AFTER: Duration = Duration::from_secs(4);
const FROZEN: Duration = Duration::from_secs(4);

/// After a fault everything is right again within two seconds; a busy machine gets more.
const RECOVERY: Duration = Duration::from_secs(30);

/// The bound from SIGTERM to the end.
const END: Duration = Duration::from_secs(30);

/// The bound within which a server notices that its client has gone.
const REST: Duration = Duration::from_secs(10);

/// The growth that is allowed from the rests after warming up to later ones, in KiB and in percent.
const GROWTH: (u64, u64) = (4 * 1024, 10);

/// Cycles after which the process is warm: every fault has happened.
const WARM: usize = FAULTS.len();

const FAULTS: [Fault; 4] = [Fault::Kill, Fault::Freeze, Fault::Restart, Fault::Reconnect];

#[derive(Debug, Clone, Copy)]
enum Fault {
    /// SIGKILL to PostgreSQL, and a start.
    Kill,
    /// SIGSTOP to PostgreSQL for a while.
    Freeze,
    /// An administrator's restart.
    Restart,
    /// KEDA's operator goes and comes.
    Reconnect,
}

/// The length of the soak.
#[derive(Debug, Clone, Copy, clap::Args)]
pub(crate) struct Length {
    /// Minutes, at least; five cycles are the least there can be
    #[arg(long, default_value_t = 30.0)]
    minutes: f64,
}

/// Soaks and judges.
pub(crate) fn run(length: Length) -> ExitCode {
    let result = crate::block_on(soak(Duration::from_secs_f64(length.minutes * 60.0)));
    let holds = result["holds"] == true;
    report::write("soak.json", &result);
    if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

async fn soak(lasting: Duration) -> Value {
    let cluster = Cluster::private().await;
    let database = Database::empty(&cluster).await;
    fixture::queues(&database, QUEUES).await;
    let triggers = fixture::fleet(fixture::triggers(TRIGGERS, QUEUES));
    let server = fixture::server(&fixture::configuration(&database)).await;

    let start = Instant::now();
    let mut rests: Vec<(Usage, i64)> = Vec::new();
    for fault in FAULTS.into_iter().cycle() {
        if start.elapsed() >= lasting && rests.len() > WARM {
            break;
        }
        let wrong = cycle(&cluster, &server, &triggers, fault).await;
        assert_eq!(wrong, 0, "wrong answers, the fault was {fault:?}");
        let rest = at_rest(&database, &server).await;
        println!(
            "{:>5.0?} {fault:<10?} {:>6} KiB resident, {:>3} descriptors, {} threads, {} sessions",
            start.elapsed(),
            rest.0.resident,
            rest.0.descriptors,
            rest.0.threads,
            rest.1
        );
        rests.push(rest);
    }
    let finished = server.process.terminate(END).await;
    let holds = is_flat(&rests) && finished.code() == Some(0);
    println!("{}", if holds { "flat" } else { "BROKEN: something has grown, or the server did not end well" });
    let rests: Vec<Value> = rests
        .iter()
        .map(|(usage, sessions)| {
            json!({
                "resident_kibibytes": usage.resident,
                "descriptors": usage.descriptors,
                "threads": usage.threads,
                "sessions": sessions,
            })
        })
        .collect();
    json!({"seconds": start.elapsed().as_secs_f64(), "rests": rests, "exit_code": finished.code(), "holds": holds})
}

/// The fleet with one fault, until everything is right again; returns how many answers were wrong.
async fn cycle(cluster: &Cluster, server: &Serving, triggers: &[(Kind, Trigger)], fault: Fault) -> u64 {
    let (connection, driver) = Connection::open(server.grpc).await;
    let happening = async {
        sleep(FAULT_AFTER).await;
        match fault {
            Fault::Kill => {
                cluster.kill().await;
                cluster.start().await;
            }
            Fault::Freeze => {
                cluster.freeze();
                sleep(FROZEN).await;
                cluster.thaw();
            }
            Fault::Restart => cluster.restart().await,
            Fault::Reconnect => {}
        }
    };
    let (seen, ()) = tokio::join!(fleet::run(&connection, triggers, HABITS), happening);
    let mut wrong: u64 = seen.parts().into_iter().map(|(_, tally)| tally.wrong).sum();
    let deadline = Instant::now() + RECOVERY;
    loop {
        let seen = fleet::roll_call(&connection, triggers).await;
        wrong += seen.parts().into_iter().map(|(_, tally)| tally.wrong).sum::<u64>();
        if seen.parts().into_iter().all(|(_, tally)| tally.failed.is_empty()) {
            break;
        }
        assert!(Instant::now() < deadline, "not right again after {RECOVERY:?}, the fault was {fault:?}");
    }
    drop(driver);
    wrong
}

/// Returns the server's resources once its connections are gone, and its sessions in PostgreSQL.
async fn at_rest(database: &Database<'_>, server: &Serving) -> (Usage, i64) {
    let admin = server.admin;
    wait::first("the server has no connection", REST, async || {
        (admin::metric(admin, "clapometer_grpc_connections").await == 0.0).then_some(())
    })
    .await;
    let sessions = Sessions::watch(database).await;
    // The time over which sessions are counted; nothing is asked in it.
    sleep(Duration::from_secs(1)).await;
    (Usage::read(server.process.pid()), sessions.most())
}

fn is_flat(rests: &[(Usage, i64)]) -> bool {
    let (warm, later) = rests.split_at(WARM.min(rests.len()));
    let most = |of: fn(&Usage) -> u64| warm.iter().map(|(usage, _)| of(usage)).max().unwrap_or_default();
    let count = |number: usize| u64::try_from(number).unwrap_or(u64::MAX);
    let resident = most(|usage| usage.resident);
    let descriptors = most(|usage| u64::try_from(usage.descriptors).unwrap_or(u64::MAX));
    let threads = most(|usage| u64::try_from(usage.threads).unwrap_or(u64::MAX));
    let (allowance, percent) = GROWTH;
    !later.is_empty()
        && rests.iter().all(|(_, sessions)| *sessions <= POOL + 1)
        && later.iter().all(|(usage, _)| {
            usage.resident <= resident + allowance + resident * percent / 100
                && count(usage.descriptors) <= descriptors
                && count(usage.threads) <= threads
        })
}
