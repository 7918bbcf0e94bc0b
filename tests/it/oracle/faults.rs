//! The named faults, each made for real, with what the contract (section 7 of the design) demands of the answers.

use std::time::Duration;

use clapometer::proto::ScaledObjectRef;
use rustix::process::{Pid, Signal};
use tokio::{task::spawn_blocking, time::sleep};
use tonic::Code;

use super::{
    crowd,
    testbed::{MEMORY, Testbed},
};
use crate::support::{cluster::SCALER_PASSWORD, grpc::trigger, processes, proxy::Mode};

/// The duration of an observed fault. One that is silent lasts long enough for calls of 2.5 s to run into it, and into
/// the breaker that it opens.
const OBSERVED: Duration = Duration::from_secs(1);
const OBSERVED_IN_SILENCE: Duration = Duration::from_secs(5);

/// The step of a clock, in seconds.
const STEP: i32 = 3_600;

/// A fault of a database, of the way to it, or of the machine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fault {
    Blackhole,
    Reset,
    Close,
    Truncate,
    Slow,
    Frozen,
    Stopped,
    Restarted,
    Killed,
    SessionsEnded,
    StatementsCancelled,
    TableLocked,
    TableRenamed,
    ColumnRenamed,
    TypeChanged,
    GrantRevoked,
    RowSecurity,
    PasswordChanged,
    LoginForbidden,
    ConnectionLimit,
    DatabaseClosed,
    TooComplex,
    Reloaded,
    ScalerPaused,
    ReplicaPaused,
    CpuThrottled,
    DescriptorsExhausted,
    ThreadsExhausted,
    ScalerClockAhead,
    ScalerClockBehind,
    ServerClockAhead,
    ServerClockBehind,
    ResolverSilent,
    NameMoved,
    ReplayPaused,
    StandbyBehind,
    FailedOver,
    PoolerDemoted,
    PoolerFrozen,
    PoolerRestarted,
    TableLeftBehind,
    MassReconnect,
    MemoryLimit,
}

const NONE: &[Code] = &[];
const LOST: &[Code] = &[Code::Unavailable];
const LATE: &[Code] = &[Code::DeadlineExceeded, Code::Unavailable];
const SLOW: &[Code] = &[Code::DeadlineExceeded];
const WRONG: &[Code] = &[Code::FailedPrecondition];

impl Fault {
    pub(super) const ALL: [Self; 43] = [
        Self::Blackhole,
        Self::Reset,
        Self::Close,
        Self::Truncate,
        Self::Slow,
        Self::Frozen,
        Self::Stopped,
        Self::Restarted,
        Self::Killed,
        Self::SessionsEnded,
        Self::StatementsCancelled,
        Self::TableLocked,
        Self::TableRenamed,
        Self::ColumnRenamed,
        Self::TypeChanged,
        Self::GrantRevoked,
        Self::RowSecurity,
        Self::PasswordChanged,
        Self::LoginForbidden,
        Self::ConnectionLimit,
        Self::DatabaseClosed,
        Self::TooComplex,
        Self::Reloaded,
        Self::ScalerPaused,
        Self::ReplicaPaused,
        Self::CpuThrottled,
        Self::DescriptorsExhausted,
        Self::ResolverSilent,
        Self::NameMoved,
        Self::ReplayPaused,
        Self::StandbyBehind,
        Self::FailedOver,
        Self::PoolerDemoted,
        Self::PoolerFrozen,
        Self::PoolerRestarted,
        Self::TableLeftBehind,
        Self::ThreadsExhausted,
        Self::ScalerClockAhead,
        Self::ScalerClockBehind,
        Self::ServerClockAhead,
        Self::ServerClockBehind,
        Self::MassReconnect,
        Self::MemoryLimit,
    ];

    /// Returns its name, the codes that it may cause, and whether there must be one.
    pub(super) fn contract(self) -> (&'static str, &'static [Code], Must) {
        use Must::{Fail, MayFail};
        match self {
            Self::Blackhole => ("wire-blackhole", LATE, Fail),
            Self::Reset => ("wire-reset", LOST, Fail),
            Self::Close => ("wire-closed", LOST, Fail),
            Self::Truncate => ("wire-truncated", LOST, Fail),
            Self::Slow => ("wire-slow", LATE, Fail),
            Self::Frozen => ("server-frozen", LATE, Fail),
            Self::Stopped => ("server-stopped", LOST, Fail),
            Self::Restarted => ("server-restarted", LOST, MayFail),
            Self::Killed => ("server-killed", LOST, Fail),
            Self::SessionsEnded => ("sessions-ended", LOST, MayFail),
            Self::StatementsCancelled => ("statements-cancelled", SLOW, MayFail),
            Self::TableLocked => ("table-locked", SLOW, Fail),
            Self::TableRenamed => ("table-renamed", WRONG, Fail),
            Self::ColumnRenamed => ("column-renamed", WRONG, Fail),
            Self::TypeChanged => ("column-type-changed", WRONG, Fail),
            Self::GrantRevoked => ("grant-revoked", WRONG, Fail),
            Self::RowSecurity => ("row-security", WRONG, Fail),
            Self::PasswordChanged => ("password-changed", LOST, Fail),
            Self::LoginForbidden => ("login-forbidden", LOST, Fail),
            Self::ConnectionLimit => ("connections-exhausted", LOST, Fail),
            Self::DatabaseClosed => ("database-closed", LOST, Fail),
            Self::TooComplex => ("statement-too-complex", WRONG, Fail),
            Self::Reloaded => ("configuration-reloaded", NONE, MayFail),
            Self::ScalerPaused => ("scaler-paused", LATE, MayFail),
            Self::ReplicaPaused => ("replica-paused", NONE, MayFail),
            Self::CpuThrottled => ("cpu-throttled", LATE, MayFail),
            Self::DescriptorsExhausted => ("descriptors-exhausted", LOST, Fail),
            Self::ThreadsExhausted => ("threads-exhausted", LATE, MayFail),
            Self::ScalerClockAhead => ("scaler-clock-ahead", NONE, MayFail),
            Self::ScalerClockBehind => ("scaler-clock-behind", NONE, MayFail),
            // A statement that runs while the server's clock steps has run into its limit by it.
            Self::ServerClockAhead => ("server-clock-ahead", SLOW, MayFail),
            Self::ServerClockBehind => ("server-clock-behind", SLOW, MayFail),
            Self::ResolverSilent => ("resolver-silent", LATE, Fail),
            Self::NameMoved => ("name-moved", LATE, MayFail),
            Self::ReplayPaused => ("standby-replay-paused", LOST, Fail),
            Self::StandbyBehind => ("stopped-standby-behind", LOST, Fail),
            Self::FailedOver => ("failed-over", LOST, MayFail),
            Self::PoolerDemoted => ("demoted-behind-pooler", LOST, Fail),
            Self::PoolerFrozen => ("pooler-frozen", LATE, Fail),
            Self::PoolerRestarted => ("pooler-restarted", LOST, MayFail),
            Self::TableLeftBehind => ("pooled-temporary-table", NONE, MayFail),
            // A debug build on a busy machine is busy for seconds with five thousand streams that are opened at once.
            Self::MassReconnect => ("mass-reconnect", SLOW, MayFail),
            Self::MemoryLimit => ("memory-limit", NONE, MayFail),
        }
    }

    pub(super) fn lasts(self) -> Duration {
        match self {
            Self::Blackhole
            | Self::Slow
            | Self::Frozen
            | Self::ResolverSilent
            | Self::ReplayPaused
            | Self::PoolerFrozen
            | Self::MassReconnect
            | Self::MemoryLimit => OBSERVED_IN_SILENCE,
            _ => OBSERVED,
        }
    }

    /// Returns whether a server that remembers what was can be taken for one that knows, which shows after a while
    /// only.
    pub(super) fn is_of_age(self) -> bool {
        matches!(self, Self::ReplayPaused | Self::StandbyBehind | Self::FailedOver | Self::PoolerDemoted)
    }

    fn needs_pooler(self) -> bool {
        matches!(self, Self::PoolerDemoted | Self::PoolerFrozen | Self::PoolerRestarted | Self::TableLeftBehind)
    }

    /// Returns whether it is made on its own only: the test at random judges answers by clocks, and has no thread to
    /// spare and no room for a crowd.
    pub(super) fn is_made_alone(self) -> bool {
        matches!(
            self,
            Self::ThreadsExhausted
                | Self::ScalerClockAhead
                | Self::ScalerClockBehind
                | Self::ServerClockAhead
                | Self::ServerClockBehind
                | Self::MassReconnect
                | Self::MemoryLimit
        )
    }

    /// Returns those that can be made here.
    pub(super) fn possible(testbed: &Testbed) -> Vec<Self> {
        let is_possible = |fault: &Self| match fault {
            Self::MemoryLimit => testbed.memory_limit.is_some(),
            fault => testbed.pooler.is_some() || !fault.needs_pooler(),
        };
        Self::ALL.into_iter().filter(is_possible).collect()
    }

    /// Returns the trigger whose answers the fault is about.
    pub(super) fn probe(self) -> ScaledObjectRef {
        let query = match self {
            Self::ReplayPaused => "replica",
            _ if self.needs_pooler() => "pooled",
            _ => "strict",
        };
        trigger(query, &[])
    }

    pub(super) fn name(self) -> &'static str {
        self.contract().0
    }

    pub(super) async fn strike(self, testbed: &Testbed) {
        match self {
            Self::Blackhole => testbed.wires.now().set(Mode::Blackhole),
            Self::Reset => testbed.wires.now().set(Mode::Reset),
            Self::Close => testbed.wires.now().set(Mode::Close),
            Self::Truncate => testbed.wires.now().set(Mode::Truncate(40)),
            Self::Slow => testbed.wires.now().set(Mode::Slow(Duration::from_millis(1_300))),
            Self::Frozen => testbed.primary.freeze(),
            Self::Stopped => testbed.primary.stop().await,
            Self::Restarted => testbed.primary.restart().await,
            Self::Killed => testbed.primary.kill().await,
            Self::SessionsEnded => testbed.end_sessions().await,
            Self::StatementsCancelled => {
                testbed.execute("SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename = 'scaler'").await;
            }
            Self::TableLocked => {
                let client = testbed.session().await.expect("the database is there");
                client.batch_execute("BEGIN; LOCK TABLE truth IN ACCESS EXCLUSIVE MODE").await.unwrap();
                *testbed.held.lock().await = Some(client);
            }
            Self::TableRenamed => testbed.execute("ALTER TABLE truth RENAME TO elsewhere").await,
            Self::ColumnRenamed => testbed.execute("ALTER TABLE truth RENAME COLUMN n TO m").await,
            Self::TypeChanged => testbed.execute("ALTER TABLE truth ALTER COLUMN n TYPE text").await,
            Self::GrantRevoked => testbed.execute("REVOKE SELECT ON truth FROM scaler").await,
            Self::RowSecurity => testbed.execute("ALTER TABLE truth ENABLE ROW LEVEL SECURITY").await,
            Self::PasswordChanged => {
                testbed.execute("ALTER ROLE scaler PASSWORD 'canary-another-password'").await;
                testbed.end_sessions().await;
            }
            Self::LoginForbidden => {
                testbed.execute("ALTER ROLE scaler NOLOGIN").await;
                testbed.end_sessions().await;
            }
            Self::ConnectionLimit => {
                testbed.execute("ALTER ROLE scaler CONNECTION LIMIT 0").await;
                testbed.end_sessions().await;
            }
            Self::DatabaseClosed => {
                testbed.execute(&format!("ALTER DATABASE {} CONNECTION LIMIT 0", testbed.dbname)).await;
                testbed.end_sessions().await;
            }
            Self::TooComplex => {
                let statements = "ALTER TABLE truth RENAME TO held;
                    CREATE FUNCTION deep() RETURNS int LANGUAGE plpgsql STABLE AS 'BEGIN RETURN deep(); END';
                    CREATE VIEW truth AS SELECT n FROM held WHERE deep() > 0;
                    GRANT SELECT ON truth TO scaler";
                testbed.execute(statements).await;
            }
            Self::Reloaded => testbed.serving.process.signal(Signal::HUP),
            Self::ScalerPaused => testbed.serving.process.signal(Signal::STOP),
            Self::ReplicaPaused => testbed.second.process.signal(Signal::STOP),
            Self::CpuThrottled => {
                *testbed.throttle.lock().await = Some(tokio::spawn(throttle(testbed.serving.process.pid())));
            }
            Self::DescriptorsExhausted => {
                testbed.exhaust("nofile");
                testbed.end_sessions().await;
            }
            Self::ThreadsExhausted => {
                testbed.exhaust("nproc");
                testbed.end_sessions().await;
            }
            Self::ScalerClockAhead => testbed.scaler_clock.is_off_by(STEP.into()),
            Self::ScalerClockBehind => testbed.scaler_clock.is_off_by((-STEP).into()),
            Self::ServerClockAhead => testbed.step_server_clock(STEP).await,
            Self::ServerClockBehind => testbed.step_server_clock(-STEP).await,
            Self::ResolverSilent => {
                testbed.resolver.fall_silent();
                testbed.end_sessions().await;
            }
            Self::NameMoved => {
                let moved = testbed.wires.swap();
                testbed.resolver.answer(moved.address().ip());
            }
            Self::ReplayPaused => {
                testbed.hold_replay(true).await;
                // Without a write there is nothing to be behind with.
                testbed.execute("UPDATE truth SET n = n").await;
            }
            Self::StandbyBehind => {
                testbed.hold_replay(true).await;
                testbed.primary.stop().await;
            }
            Self::FailedOver | Self::PoolerDemoted => testbed.fail_over().await,
            Self::PoolerFrozen => testbed.pooler().signal(Signal::STOP),
            Self::PoolerRestarted => testbed.pooler().restart().await,
            Self::TableLeftBehind => testbed.leave_behind().await,
            Self::MassReconnect => {
                let address = testbed.serving.grpc;
                *testbed.crowd.lock().await = Some(spawn_blocking(move || crowd::reconnect(address)));
            }
            Self::MemoryLimit => {
                *testbed.crowd.lock().await = Some(tokio::spawn(crowd::flood(testbed.serving.grpc)));
            }
        }
    }

    pub(super) async fn heal(self, testbed: &Testbed) {
        match self {
            Self::Blackhole | Self::Reset | Self::Close | Self::Truncate | Self::Slow => {
                testbed.wires.now().set(Mode::Pass)
            }
            Self::Frozen => testbed.primary.thaw(),
            Self::Stopped | Self::Killed => testbed.primary.start().await,
            Self::Restarted | Self::SessionsEnded | Self::StatementsCancelled | Self::Reloaded => {}
            Self::TableLocked => {
                let held = testbed.held.lock().await.take();
                held.expect("it was locked").batch_execute("ROLLBACK").await.unwrap();
            }
            Self::TableRenamed => testbed.execute("ALTER TABLE elsewhere RENAME TO truth").await,
            Self::ColumnRenamed => testbed.execute("ALTER TABLE truth RENAME COLUMN m TO n").await,
            Self::TypeChanged => testbed.execute("ALTER TABLE truth ALTER COLUMN n TYPE int USING n::int").await,
            Self::GrantRevoked => testbed.execute("GRANT SELECT ON truth TO scaler").await,
            Self::RowSecurity => testbed.execute("ALTER TABLE truth DISABLE ROW LEVEL SECURITY").await,
            Self::PasswordChanged => testbed.execute(&format!("ALTER ROLE scaler PASSWORD '{SCALER_PASSWORD}'")).await,
            Self::LoginForbidden => testbed.execute("ALTER ROLE scaler LOGIN").await,
            Self::ConnectionLimit => testbed.execute("ALTER ROLE scaler CONNECTION LIMIT -1").await,
            Self::DatabaseClosed => {
                testbed.execute(&format!("ALTER DATABASE {} CONNECTION LIMIT -1", testbed.dbname)).await;
            }
            Self::TooComplex => {
                testbed.execute("DROP VIEW truth; DROP FUNCTION deep(); ALTER TABLE held RENAME TO truth").await;
            }
            Self::ScalerPaused => testbed.serving.process.signal(Signal::CONT),
            Self::ReplicaPaused => testbed.second.process.signal(Signal::CONT),
            Self::CpuThrottled => {
                let throttle = testbed.throttle.lock().await.take().expect("it was throttled");
                throttle.abort();
                // It may have been aborted before it let the scaler go on, and must not stop it once more.
                let _ = throttle.await;
                testbed.serving.process.signal(Signal::CONT);
            }
            Self::DescriptorsExhausted => testbed.give_back("nofile"),
            Self::ThreadsExhausted => testbed.give_back("nproc"),
            Self::ScalerClockAhead | Self::ScalerClockBehind => testbed.scaler_clock.is_off_by(0),
            Self::ServerClockAhead | Self::ServerClockBehind => testbed.server_clock.is_off_by(0),
            Self::ResolverSilent => testbed.resolver.answer(testbed.wires.now().address().ip()),
            // The old address never comes back.
            Self::NameMoved | Self::PoolerRestarted => {}
            Self::ReplayPaused => testbed.hold_replay(false).await,
            Self::StandbyBehind => {
                testbed.primary.start().await;
                testbed.hold_replay(false).await;
            }
            Self::FailedOver | Self::PoolerDemoted => testbed.fail_back().await,
            Self::PoolerFrozen => testbed.pooler().signal(Signal::CONT),
            // The table goes with its session.
            Self::TableLeftBehind => testbed.end_sessions().await,
            Self::MassReconnect => {
                let crowd = testbed.crowd.lock().await.take().expect("it was sent");
                crowd.await.expect("each object is answered");
            }
            Self::MemoryLimit => {
                testbed.crowd.lock().await.take().expect("it was sent").abort();
                let limit = testbed.memory_limit.as_ref().expect("it is possible");
                assert_eq!(limit.kills(), 0, "the kernel has killed the scaler");
                println!("{:>26} of {MEMORY} bytes were taken at most", limit.peak());
            }
        }
    }
}

/// Lets a process run for five milliseconds in a hundred, as a CPU quota does.
async fn throttle(pid: Pid) {
    loop {
        processes::signal(pid, Signal::STOP);
        sleep(Duration::from_millis(95)).await;
        processes::signal(pid, Signal::CONT);
        sleep(Duration::from_millis(5)).await;
    }
}

/// The demand on whether an error is seen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Must {
    Fail,
    MayFail,
}
