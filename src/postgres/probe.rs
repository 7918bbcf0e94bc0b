//! Probes: whether a database is alive while its statements are silent, and whether it has returned.

use std::{
    convert::Infallible,
    future::pending,
    sync::{
        Weak,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use deadpool_postgres::Object;
use rand::Rng;
use tokio::{
    sync::{mpsc, watch},
    time::{Instant, sleep, timeout},
};

use super::{Database, connect};
use crate::{
    fault::Fault,
    reading::{Breaker, CALL_DEADLINE},
};

/// The time between the starts of two probes of a database whose breaker is open, +-20 %.
const PROBE_INTERVAL: Duration = Duration::from_millis(800);

/// The time limit of one probe.
const PROBE_TIMEOUT: Duration = Duration::from_secs(1);

/// A statement that has been silent for this long makes its connection suspect: the caller has just given up. The
/// statement may be slow, or the connection dead.
const SUSPECT_AFTER: Duration = CALL_DEADLINE;

/// A connection that has not answered BEGIN for this long is suspect, too. It is dead if another one, opened later,
/// gets an answer. The call can then still be answered in time by a new connection.
const SUSPECT_BEGIN_AFTER: Duration = Duration::from_secs(1);

impl Database {
    /// Returns when BEGIN has no answer yet, and a connection that was opened since has one.
    pub(super) async fn declared_dead(&self, has_begun: &AtomicBool, sent_at: Instant) {
        sleep(SUSPECT_BEGIN_AFTER).await;
        let mut alive = self.alive.subscribe();
        while !has_begun.load(Ordering::Relaxed) {
            let _ = self.suspicions.try_send(());
            let answered = timeout(PROBE_INTERVAL, alive.wait_for(|opened_at| *opened_at > sent_at)).await;
            if answered.is_ok() && !has_begun.load(Ordering::Relaxed) {
                return;
            }
        }
        pending().await
    }

    /// Reports the database as suspect again and again while a statement is silent.
    pub(super) async fn suspect(&self) -> Infallible {
        loop {
            sleep(SUSPECT_AFTER).await;
            // A full channel means that it has been reported already.
            let _ = self.suspicions.try_send(());
        }
    }

    /// Returns whether a new connection, beside a pool that may be full of silent ones, gets an answer within
    /// [`PROBE_TIMEOUT`]. Any answer of the server counts, also that it has no room for us.
    async fn is_alive(&self) -> bool {
        let opened_at = Instant::now();
        let asked = timeout(PROBE_TIMEOUT, async {
            let connection = self.settings.connection.resolve_aside().await.map_err(connect::Error::Credentials)?;
            let session = connect::open(
                &connection,
                self.settings.max_lag,
                PROBE_TIMEOUT,
                "clapometer/probe",
                connect::NUMBERS,
                None,
            )
            .await?;
            Ok::<_, connect::Error>(session.client.simple_query("").await.map(drop))
        });
        let (fault, detail) = match asked.await {
            Ok(Ok(Ok(()))) => {
                self.health.answered(&self.metrics);
                self.alive.send_replace(opened_at);
                return true;
            }
            Ok(Err(error)) if error.is_from_server() => return true,
            Ok(Err(error)) => (error.fault(), error.to_string()),
            Ok(Ok(Err(error))) => (Fault::ConnectionLost, connect::explain(&error)),
            Err(_) => (Fault::DeadlineExceeded, "statements are silent, and so is a probe".to_owned()),
        };
        self.health.failed(fault, &detail, &self.metrics);
        false
    }

    /// Sends an empty query, and records whether it is answered within [`PROBE_TIMEOUT`].
    pub(super) async fn probe(&self) {
        let answer = timeout(PROBE_TIMEOUT, async {
            let connection = self.pool.get().await.ok()?;
            match connection.simple_query("").await {
                Ok(_) => {
                    self.give_back(connection);
                    Some(())
                }
                Err(_) => {
                    drop(Object::take(connection));
                    None
                }
            }
        })
        .await;
        match answer {
            Ok(Some(())) => self.health.answered(&self.metrics),
            // The connector has recorded why a connect failed.
            Ok(None) => {}
            Err(_) => self.health.failed(Fault::DeadlineExceeded, "no answer to a probe", &self.metrics),
        }
    }
}

/// Probes a database whenever its breaker is open, until the handle is dropped.
pub(super) async fn while_open(database: Weak<Database>, mut breaker: watch::Receiver<Breaker>) {
    while breaker.wait_for(|breaker| *breaker == Breaker::Open).await.is_ok() {
        if let Some(database) = database.upgrade() {
            // Connections that were open when it failed may be half dead.
            database.pool.retain(|_, _| false);
        }
        while *breaker.borrow() == Breaker::Open {
            let started = Instant::now();
            let Some(database) = database.upgrade() else { return };
            database.probe().await;
            drop(database);
            if *breaker.borrow() == Breaker::Open {
                let interval = PROBE_INTERVAL.mul_f64(rand::rng().random_range(0.8..1.2));
                sleep(interval.saturating_sub(started.elapsed())).await;
            }
        }
    }
}

/// Probes a database whose statements are silent, until it answers or its breaker opens, which ends them.
pub(super) async fn when_suspected(database: Weak<Database>, mut suspicions: mpsc::Receiver<()>) {
    while suspicions.recv().await.is_some() {
        loop {
            let started = Instant::now();
            let Some(database) = database.upgrade() else { return };
            if !database.is_served() || database.is_alive().await {
                break;
            }
            drop(database);
            sleep(PROBE_INTERVAL.saturating_sub(started.elapsed())).await;
        }
        // One probe is enough for all statements that are slow at the same time.
        sleep(PROBE_INTERVAL).await;
    }
}
