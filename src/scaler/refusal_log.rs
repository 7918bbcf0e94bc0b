//! Logs the refusals of each trigger, each once. Their end is logged where the next answer is recorded.
//!
//! Without these lines nobody could see in the log why one trigger does not scale while the others do.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tonic::{Code, Status};

use super::{
    Scaler,
    metadata::{MAXIMUM_NAME, best_spec},
    status::{cause, code_name},
};
use crate::{
    metrics::{RefusalNews, Refused, TriggerId},
    proto::ScaledObjectRef,
    recorder::{Answer, Asker, LOOKING},
    telemetry::CountedLog,
};

/// The time for which the number of lines about single triggers is bounded.
const WINDOW: Duration = Duration::from_secs(60);

/// The most lines about single triggers within [`WINDOW`]. Whoever may ask could fill the log by changing a trigger's
/// metadata with each call.
const LINES: u32 = 100;

/// The refusals that are counted together: those without a place in the metrics, those by a limit of the process, and
/// those beyond [`LINES`].
pub(super) struct RefusalLog {
    hasher: RandomState,
    counted: Mutex<HashMap<&'static str, CountedLog>>,
    window: Mutex<Window>,
}

/// The lines about single triggers of the present window.
#[derive(Default)]
struct Window {
    began_at: Option<Instant>,
    lines: u32,
}

impl RefusalLog {
    pub(super) fn new() -> Self {
        Self { hasher: RandomState::new(), counted: Mutex::default(), window: Mutex::default() }
    }

    /// Takes a line about a single trigger. Returns false if there is none left.
    pub(super) fn take_line(&self, now: Instant) -> bool {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.began_at.is_none_or(|at| now.saturating_duration_since(at) >= WINDOW) {
            *window = Window { began_at: Some(now), lines: 0 };
        }
        window.lines += 1;
        window.lines <= LINES
    }

    /// Counts a refusal with this code. Returns the number for a line of the log if one is due.
    fn count(&self, code: &'static str) -> Option<u64> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner).entry(code).or_default().count()
    }
}

impl Scaler {
    /// Records that a trigger was refused, and logs it if that is news.
    pub(super) fn note_refusal(&self, reference: &ScaledObjectRef, status: &Status, now: Instant) {
        let catalog = self.catalog.borrow();
        let (query, _) = best_spec(reference, &catalog);
        let changed = self.log_refusal(reference, query, status, now);
        if is_nameable(reference) {
            let ScaledObjectRef { namespace, name, .. } = reference;
            let asker = Asker { id: None, namespace, name, query, target: None, activation: None, divide_by: None };
            if let Some(keys) = changed {
                self.metrics.recorder.changed(asker, &keys, now);
            }
            self.metrics.recorder.told(asker, Answer::Refused(cause(status)), now);
        }
    }

    /// Counts a refusal of a trigger of this query, and logs it if that is news. Returns the names of the keys of its
    /// metadata that have changed since it was answered, as far as it was.
    pub(super) fn log_refusal(
        &self,
        reference: &ScaledObjectRef,
        query: &str,
        status: &Status,
        now: Instant,
    ) -> Option<Arc<str>> {
        let ScaledObjectRef { name, namespace, .. } = reference;
        let code = code_name(status.code());
        // Refusals by a limit depend on the moment of the call, so that they begin and end with each call.
        let text = (status.code() != Code::ResourceExhausted)
            .then(|| self.refusal_log.hasher.hash_one((code, status.message())));
        let (news, changed) = if is_nameable(reference) {
            // Without a hash of its metadata, which may hold a secret.
            let metadata = Some(&reference.scaler_metadata);
            let trigger = TriggerId { hash: 0, namespace, name, query, thresholds: None, divide_by: None, metadata };
            self.metrics.trigger_refused(trigger, Refused { code, message: status.message(), text }, now)
        } else {
            (RefusalNews::Untracked, None)
        };
        match (news, text) {
            (RefusalNews::Known, Some(_)) => {}
            // A person who looks has the answer in front of them, and KEDA does nothing for it.
            (RefusalNews::New, Some(_)) if name == LOOKING => {}
            (RefusalNews::New, Some(_)) if self.refusal_log.take_line(now) => {
                let error = status.message();
                tracing::warn!(namespace, name, query, code, error, "a trigger is refused; KEDA holds still for it");
            }
            (RefusalNews::New | RefusalNews::Untracked, _) | (_, None) => {
                if let Some(count) = self.refusal_log.count(code) {
                    tracing::warn!(code, count, "more requests were refused than are logged one by one");
                }
            }
        }
        changed
    }
}

/// Returns whether an object of Kubernetes can have these names. What has longer ones is counted and not remembered.
fn is_nameable(reference: &ScaledObjectRef) -> bool {
    reference.name.len() <= MAXIMUM_NAME && reference.namespace.len() <= MAXIMUM_NAME
}
