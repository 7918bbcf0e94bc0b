//! Records what each trigger was told, and logs its refusals: each once, and once when the trigger is answered again.
//!
//! Without these lines nobody could see in the log why one trigger does not scale while the others do.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    sync::{Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;
use tonic::{Code, Status};

use super::{
    Scaler,
    metadata::{MAXIMUM_NAME, Trigger, best_spec},
    status::code_name,
};
use crate::{
    fault::Fault,
    metrics::{RefusalNews, Refused, Thresholds, Told, TriggerId, TriggerKey},
    proto::ScaledObjectRef,
    recorder::{Answer, Asker, Cause},
};

/// The pause between two lines about refusals that have no line of their own.
const PAUSE: Duration = Duration::from_secs(60);

/// The most lines about single triggers within [`PAUSE`]. Whoever may ask could fill the log by changing a trigger's
/// metadata with each call.
const LINES: u32 = 100;

/// The refusals that are counted together: those without a place in the metrics, those by a limit of the process, and
/// those beyond [`LINES`].
pub(super) struct RefusalLog {
    hasher: RandomState,
    counted: Mutex<HashMap<&'static str, Counted>>,
    window: Mutex<Window>,
}

/// The lines about single triggers of the present pause.
#[derive(Default)]
struct Window {
    began_at: Option<Instant>,
    lines: u32,
}

#[derive(Default)]
struct Counted {
    refusals: u64,
    logged_at: Option<Instant>,
}

impl RefusalLog {
    pub(super) fn new() -> Self {
        Self { hasher: RandomState::new(), counted: Mutex::default(), window: Mutex::default() }
    }

    /// Takes a line about a single trigger. Returns false if there is none left.
    fn take_line(&self, now: Instant) -> bool {
        let mut window = self.window.lock().unwrap_or_else(PoisonError::into_inner);
        if window.began_at.is_none_or(|at| now.saturating_duration_since(at) >= PAUSE) {
            *window = Window { began_at: Some(now), lines: 0 };
        }
        window.lines += 1;
        window.lines <= LINES
    }

    /// Counts a refusal, and returns the number to log: none if a line was written less than [`PAUSE`] ago.
    fn count(&self, code: &'static str, now: Instant) -> Option<u64> {
        let mut counted = self.counted.lock().unwrap_or_else(PoisonError::into_inner);
        let Counted { refusals, logged_at } = counted.entry(code).or_default();
        *refusals += 1;
        if logged_at.is_some_and(|at| now.saturating_duration_since(at) < PAUSE) {
            return None;
        }
        *logged_at = Some(now);
        Some(std::mem::take(refusals))
    }
}

impl Scaler {
    /// Records that a trigger was refused, and logs it if that is news.
    pub(super) fn note_refusal(&self, reference: &ScaledObjectRef, status: &Status, now: Instant) {
        let ScaledObjectRef { name, namespace, .. } = reference;
        let catalog = self.catalog.borrow();
        let (query, _) = best_spec(reference, &catalog);
        if is_nameable(reference) {
            let asker = Asker { id: None, namespace, name, query, target: None, activation: None };
            self.metrics.recorder.told(asker, Answer::Refused(cause(status)), now);
        }
        self.log_refusal(reference, query, status, now);
    }

    /// Counts a refusal of a trigger of this query, and logs it if that is news.
    fn log_refusal(&self, reference: &ScaledObjectRef, query: &str, status: &Status, now: Instant) {
        let ScaledObjectRef { name, namespace, .. } = reference;
        let code = code_name(status.code());
        // Refusals by a limit depend on the moment of the call, so that they begin and end with each call.
        let text = (status.code() != Code::ResourceExhausted)
            .then(|| self.refusal_log.hasher.hash_one((code, status.message())));
        let news = if is_nameable(reference) {
            let refused = Refused { code, message: status.message(), text };
            self.metrics.trigger_refused(TriggerId { hash: 0, namespace, name, query, thresholds: None }, refused, now)
        } else {
            RefusalNews::Untracked
        };
        match (news, text) {
            (RefusalNews::Known, Some(_)) => {}
            (RefusalNews::New, Some(_)) if self.refusal_log.take_line(now) => {
                let error = status.message();
                tracing::warn!(namespace, name, query, code, error, "a trigger is refused; KEDA holds still for it");
            }
            (RefusalNews::New | RefusalNews::Untracked, _) | (_, None) => {
                if let Some(count) = self.refusal_log.count(code, now) {
                    tracing::warn!(code, count, "requests were refused that have no line of their own");
                }
            }
        }
    }

    /// Records that a trigger got no reading. Whoever noticed the fault has logged it.
    pub(super) fn note_fault(
        &self,
        reference: &ScaledObjectRef,
        trigger: &Trigger,
        key: TriggerKey,
        told: fn(&'static str, Fault) -> Told,
        fault: Fault,
    ) -> Status {
        let (status, now) = (Status::from(fault), Instant::now());
        let told = told(code_name(status.code()), fault);
        self.metrics.trigger_told(key, told, now);
        self.record_fault(reference, trigger, told, &status, now);
        status
    }

    /// Records that a trigger got nothing from a reading that is good for others: its key has no row.
    pub(super) fn note_fault_of_trigger(
        &self,
        reference: &ScaledObjectRef,
        trigger: &Trigger,
        told: fn(&'static str, Fault) -> Told,
        fault: Fault,
    ) -> Status {
        let (status, now) = (Status::from(fault), Instant::now());
        self.record_fault(reference, trigger, told(code_name(status.code()), fault), &status, now);
        self.log_refusal(reference, &trigger.query().name, &status, now);
        status
    }

    /// Records what KEDA was told, and logs the end of a refusal.
    pub(super) fn note_answer(
        &self,
        reference: &ScaledObjectRef,
        key: TriggerKey,
        (query, thresholds): (&str, Thresholds),
        told: Told,
    ) {
        let ScaledObjectRef { name, namespace, .. } = reference;
        let now = Instant::now();
        let answer = match told {
            Told::Active(is_active) => Answer::Active(is_active),
            Told::Value(value) => Answer::Value(value),
            Told::NoValue(..) | Told::NoActivity(..) => return,
        };
        let (target, activation) = (Some(thresholds.target), Some(thresholds.activation));
        let asker = Asker { id: Some(key.hash()), namespace, name, query, target, activation };
        self.metrics.recorder.told(asker, answer, now);
        for query in self.metrics.trigger_told(key, told, now).into_iter().filter(|_| self.refusal_log.take_line(now)) {
            tracing::info!(namespace, name, query, "a trigger that was refused is answered again");
        }
    }

    fn record_fault(&self, reference: &ScaledObjectRef, trigger: &Trigger, told: Told, status: &Status, now: Instant) {
        let ScaledObjectRef { name, namespace, .. } = reference;
        let (query, thresholds) = (&trigger.query().name, trigger.thresholds());
        let (target, activation) = (Some(thresholds.target), Some(thresholds.activation));
        let answer = match told {
            Told::NoActivity(..) | Told::Active(_) => Answer::NoActivity(cause(status)),
            Told::NoValue(..) | Told::Value(_) => Answer::NoValue(cause(status)),
        };
        let asker = Asker { id: Some(trigger.id), namespace, name, query, target, activation };
        self.metrics.recorder.told(asker, answer, now);
    }
}

/// Returns whether an object of Kubernetes can have these names. What has longer ones is counted and not remembered.
fn is_nameable(reference: &ScaledObjectRef) -> bool {
    reference.name.len() <= MAXIMUM_NAME && reference.namespace.len() <= MAXIMUM_NAME
}

fn cause(status: &Status) -> Cause<'_> {
    Cause { code: code_name(status.code()), text: status.message() }
}
