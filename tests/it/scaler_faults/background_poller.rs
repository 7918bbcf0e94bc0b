//! A scaler beside a database with sixty rows, and a client that polls it in the background.

use std::time::Duration;

use clapometer::proto::ScaledObjectRef;
use tokio::{sync::watch, task::JoinHandle};
use tonic::{Code, Status};

use crate::support::{
    cluster::Cluster,
    database::{Access, Database},
    fixture::{Fixture, SOON},
    grpc::{Scaler, trigger},
    wait,
};

/// The true number, all the time.
pub(super) const ROWS: f64 = 60.0;

/// The pause between two polls. KEDA asks once a second at most, but for each of its objects.
const PACE: Duration = Duration::from_millis(100);

/// Makes a database with the seed's tables and sixty rows.
pub(super) async fn sixty_rows(cluster: &Cluster) -> Database<'_> {
    let database = Database::seed(cluster).await;
    database.execute("INSERT INTO make_it_clap (duration_seconds) SELECT 40 FROM generate_series(1, 60)").await;
    database
}

/// Starts a scaler for rows that are reached this way; it has not been asked yet.
pub(super) async fn serve(access: Access) -> Fixture {
    let queries = "
  other: {sql: SELECT 7}
  endless: {sql: 'SELECT 1 FROM pg_sleep(60)', timeout: 10s}
";
    Fixture::with(&access, queries).await
}

/// Starts a scaler for sixty rows, and waits until it answers sixty. No connection has failed: on a busy machine one
/// may, and another scaler is started.
pub(super) async fn serve_sixty_rows(cluster: &Cluster) -> (Database<'_>, Fixture) {
    let database = sixty_rows(cluster).await;
    for _ in 0..5 {
        let fixture = serve(database.scaler()).await;
        fixture.scaler.reaches(&pending_claps(), ROWS, SOON).await;
        let failures = fixture.metric("clapometer_database_failures_total", "database=\"claps\"").await;
        if failures.is_none_or(|failures| failures == 0.0) {
            return (database, fixture);
        }
    }
    panic!("each time a connection has failed");
}

/// Returns the trigger of the rows, by the built-in query.
pub(super) fn pending_claps() -> ScaledObjectRef {
    trigger("pending-claps", &[])
}

/// Checks that the log has one outage of the database: a line at its start, a line at its end.
pub(super) async fn logs_one_outage(fixture: &Fixture) {
    logs_once(fixture, "database fails", "database answers again").await;
}

/// Waits for the line at the end, and checks that the log has each of the two lines once.
pub(super) async fn logs_once(fixture: &Fixture, start: &str, end: &str) {
    wait::eventually("the log has the end", SOON, || fixture.logged(end) > 0).await;
    assert_eq!((fixture.logged(start), fixture.logged(end)), (1, 1), "{}", fixture.serving.process.errors());
}

/// A client that asks all the time, on a connection of its own.
pub(super) struct BackgroundPoller {
    end: watch::Sender<()>,
    asking: JoinHandle<Vec<Heard>>,
}

/// One answer.
#[derive(Debug)]
enum Heard {
    Value(Result<f64, Status>),
    Activity(Result<bool, Status>),
    Spec(Result<(), Status>),
}

impl BackgroundPoller {
    /// Begins to ask.
    pub(super) fn start(fixture: &Fixture) -> Self {
        let scaler = Scaler::at(fixture.serving.grpc);
        let trigger = pending_claps();
        let (end, mut ended) = watch::channel(());
        let asking = tokio::spawn(async move {
            let mut heard = Vec::new();
            loop {
                heard.push(Heard::Spec(scaler.spec(&trigger).await.map(|_| ())));
                heard.push(Heard::Value(scaler.value(&trigger).await));
                heard.push(Heard::Activity(scaler.active(&trigger).await));
                tokio::select! {
                    _ = ended.changed() => return heard,
                    () = tokio::time::sleep(PACE) => {}
                }
            }
        });
        Self { end, asking }
    }

    /// Stops asking, and checks what was heard: the truth, or an error with one of these codes.
    ///
    /// # Panics
    /// When something else was heard: a silent zero, a failing `GetMetricSpec`, another code.
    pub(super) async fn saw_only(self, codes: &[Code]) {
        drop(self.end);
        let heard = self.asking.await.expect("the poller does not panic");
        let wrong: Vec<&Heard> = heard.iter().filter(|answer| !answer.is_fine(codes)).collect();
        assert!(wrong.is_empty(), "{} of {} answers were wrong: {wrong:#?}", wrong.len(), heard.len());
        assert!(heard.len() >= 3, "the poller was not there");
    }
}

impl Heard {
    fn is_fine(&self, codes: &[Code]) -> bool {
        match self {
            Self::Value(Ok(value)) => *value == ROWS,
            Self::Activity(Ok(active)) => *active,
            Self::Spec(spec) => spec.is_ok(),
            Self::Value(Err(status)) | Self::Activity(Err(status)) => codes.contains(&status.code()),
        }
    }
}

#[test]
fn a_silent_zero_is_not_fine() {
    let error = || Status::unavailable("away");
    for (heard, fine) in [
        (Heard::Value(Ok(ROWS)), true),
        (Heard::Value(Ok(0.0)), false),
        (Heard::Value(Err(error())), true),
        (Heard::Value(Err(Status::internal("a bug"))), false),
        (Heard::Activity(Ok(true)), true),
        (Heard::Activity(Ok(false)), false),
        (Heard::Spec(Ok(())), true),
        (Heard::Spec(Err(error())), false),
    ] {
        assert_eq!(heard.is_fine(&[Code::Unavailable]), fine, "{heard:?}");
    }
}
