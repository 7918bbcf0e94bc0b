//! The state of one StreamMetricSpec.

use std::sync::Arc;

use tokio::sync::watch;

use super::{limits::StreamPermit, request::KeptRequest};
use crate::{
    proto::{GetMetricSpecResponse, ScaledObjectRef},
    scaler::{
        Catalog, convert,
        metadata::{Metadata, best_spec},
        refusal::Refusal,
    },
};

/// The specs of one trigger, as reloads change them.
pub(super) struct SpecUpdates {
    request: KeptRequest,
    permit: StreamPermit,
    catalog: watch::Receiver<Arc<Catalog>>,
    sent: Option<GetMetricSpecResponse>,
}

impl SpecUpdates {
    pub(super) fn new(request: KeptRequest, permit: StreamPermit, mut catalog: watch::Receiver<Arc<Catalog>>) -> Self {
        catalog.mark_changed();
        Self { request, permit, catalog, sent: None }
    }

    /// Waits for the next message: the answer of GetMetricSpec, whenever a reload has changed it. None once the query
    /// is gone.
    ///
    /// # Cancel safety
    /// Not safe: what woke the stream while it waited for its turn is forgotten.
    pub(super) async fn next(&mut self) -> Option<GetMetricSpecResponse> {
        loop {
            self.catalog.changed().await.ok()?;
            self.permit.turn(self.request.peer()).await;
            let catalog = Arc::clone(&self.catalog.borrow_and_update());
            let reference = self.request.reference();
            self.follow_reload(&reference, &catalog)?;
            let (name, target) = best_spec(&reference, &catalog);
            let spec = convert::spec(name, target);
            if self.sent.as_ref() != Some(&spec) {
                self.sent = Some(spec.clone());
                return Some(spec);
            }
        }
    }

    fn follow_reload(&mut self, reference: &ScaledObjectRef, catalog: &Catalog) -> Option<()> {
        let metadata = Metadata::parse(reference).ok()?;
        if metadata.is_keeper() {
            return Some(());
        }
        match metadata.resolve(reference, catalog) {
            Ok(trigger) => self.permit.admit(trigger.id).ok(),
            Err(Refusal::Denied) if self.permit.is_waiting() => Some(()),
            Err(_) => None,
        }
    }
}
