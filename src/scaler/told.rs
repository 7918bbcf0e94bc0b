//! Records what KEDA was told about each trigger: a number, or why there is none.

use tokio::time::Instant;
use tonic::Status;

use super::{
    Scaler,
    metadata::Trigger,
    status::{cause, code_name},
};
use crate::{
    fault::Fault,
    metrics::{Told, TriggerKey},
    proto::ScaledObjectRef,
    recorder::{Answer, Asker, LOOKING},
};

impl Scaler {
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
    pub(super) fn note_answer(&self, asker: Asker<'_>, key: TriggerKey, told: Told) {
        let Asker { namespace, name, .. } = asker;
        let now = Instant::now();
        let answer = match told {
            Told::Active { is_active, .. } => Answer::Active(is_active),
            Told::Value(value) => Answer::Value(value),
            Told::NoValue(..) | Told::NoActivity(..) => return,
        };
        self.metrics.recorder.told(asker, answer, now);
        let is_told = |_: &String| name != LOOKING && self.refusal_log.take_line(now);
        for query in self.metrics.trigger_told(key, told, now).into_iter().filter(is_told) {
            tracing::info!(namespace, name, query, "a trigger that was refused is answered again");
        }
    }

    fn record_fault(&self, reference: &ScaledObjectRef, trigger: &Trigger, told: Told, status: &Status, now: Instant) {
        let answer = match told {
            Told::NoActivity(..) | Told::Active { .. } => Answer::NoActivity(cause(status)),
            Told::NoValue(..) | Told::Value(_) => Answer::NoValue(cause(status)),
        };
        self.metrics.recorder.told(trigger.asker(&reference.namespace, &reference.name), answer, now);
    }
}
