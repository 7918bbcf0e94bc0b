//! A scaler beside a database with sixty rows, and somebody who keeps asking it.

use std::time::Duration;

use clapometer::wire::ScaledObjectRef;
use tokio::{sync::watch, task::JoinHandle};
use tonic::{Code, Status};

use crate::support::{
    cluster::Cluster,
    database::{Access, Database},
    executable::{Executable, Running, Serving},
    grpc::{Scaler, trigger},
    wait,
};

/// What the true number is all the time.
pub(super) const ROWS: f64 = 60.0;

/// How often the witness asks; KEDA asks once a second at most, but that of each object.
const PACE: Duration = Duration::from_millis(100);

/// A scaler and a trigger on it. `database` is a unit where the test keeps it itself.
pub(super) struct Stand<D = ()> {
    serving: Serving,
    scaler: Scaler,
    pub(super) trigger: ScaledObjectRef,
    pub(super) database: D,
}

/// A database with the seed's tables and sixty rows.
pub(super) async fn sixty_rows(cluster: &Cluster) -> Database<'_> {
    let database = Database::seed(cluster).await;
    database.execute("INSERT INTO make_it_clap (duration_seconds) SELECT 40 FROM generate_series(1, 60)").await;
    database
}

impl Stand {
    /// A scaler for sixty rows that are reached this way; nothing has been asked yet.
    pub(super) async fn on(access: Access) -> Self {
        let queries = "  other: {sql: SELECT 7}\n  endless: {sql: 'SELECT 1 FROM pg_sleep(60)', timeout: 10s}\n";
        let configuration = format!("databases:\n{}queries:\n{queries}", access.yaml("claps"));
        let serving = Executable::serve(&configuration).serving().await;
        let scaler = Scaler::at(serving.grpc);
        Self { serving, scaler, trigger: trigger("pending-claps", &[]), database: () }
    }
}

impl<'cluster> Stand<Database<'cluster>> {
    /// A scaler that answers sixty.
    pub(super) async fn with_rows(cluster: &'cluster Cluster) -> Self {
        let database = sixty_rows(cluster).await;
        let Stand { serving, scaler, trigger, database: () } = Stand::on(database.scaler()).await;
        scaler.reaches(&trigger, ROWS, Duration::from_secs(5)).await;
        Self { serving, scaler, trigger, database }
    }
}

impl<D> Stand<D> {
    pub(super) fn scaler(&self) -> &Scaler {
        &self.scaler
    }

    pub(super) fn into_process(self) -> Running {
        self.serving.process
    }

    pub(super) fn log(&self) -> String {
        self.serving.process.errors()
    }

    /// How many lines of the log begin with this, said loud enough for production.
    pub(super) fn lines(&self, message: &str) -> usize {
        let log = self.serving.process.log();
        log.iter().filter(|line| line["message"].as_str().is_some_and(|text| text.starts_with(message))).count()
    }

    /// Checks that the log tells of one outage of the database: a line in, a line out.
    pub(super) async fn tells_of_one_outage(&self) {
        self.tells_once("database fails", "database answers again").await;
    }

    /// Checks that the log has each of these lines once.
    pub(super) async fn tells_once(&self, into: &str, out: &str) {
        wait::eventually("the log tells of the end", Duration::from_secs(5), || self.lines(out) > 0).await;
        assert_eq!((self.lines(into), self.lines(out)), (1, 1), "{}", self.log());
    }
}

/// Asks all the time, on a connection of its own.
pub(super) struct Witness {
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

impl Witness {
    /// Begins to ask.
    pub(super) fn beside<D>(stand: &Stand<D>) -> Self {
        let scaler = Scaler::at(stand.serving.grpc);
        let trigger = stand.trigger.clone();
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
        let heard = self.asking.await.expect("the witness does not panic");
        let wrong: Vec<&Heard> = heard.iter().filter(|answer| !answer.is_fine(codes)).collect();
        assert!(wrong.is_empty(), "{} of {} answers were wrong: {wrong:#?}", wrong.len(), heard.len());
        assert!(heard.len() >= 3, "the witness was not there");
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
