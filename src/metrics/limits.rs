//! The counter of what was turned away because a limit was reached: `docs/limits.md` has them all.

use prometheus_client::{
    encoding::EncodeLabelSet,
    metrics::{counter::Counter, family::Family},
    registry::Registry,
};

/// A limit of what peers make the process hold, where no status of a call tells that it was reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Limit {
    /// gRPC connections that have carried no call.
    NewConnections,
    /// gRPC connections that have carried a call.
    Connections,
    /// Frames that concern every stream of a connection.
    Frames,
    /// The bytes of requests that are not answered.
    Requests,
    /// The bytes of answers that the peer does not take.
    Reading,
    /// Connections to the admin port.
    AdminConnections,
    /// The bytes of pages that are being sent.
    Pages,
}

/// The label of a limit.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
struct LimitLabels {
    limit: &'static str,
}

/// The counter of each limit.
#[derive(Debug)]
pub(super) struct Limits(Family<LimitLabels, Counter>);

impl Limit {
    const ALL: [Self; 7] = [
        Self::NewConnections,
        Self::Connections,
        Self::Frames,
        Self::Requests,
        Self::Reading,
        Self::AdminConnections,
        Self::Pages,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::NewConnections => "new_connections",
            Self::Connections => "connections",
            Self::Frames => "frames",
            Self::Requests => "requests",
            Self::Reading => "reading",
            Self::AdminConnections => "admin_connections",
            Self::Pages => "pages",
        }
    }

    fn labels(self) -> LimitLabels {
        LimitLabels { limit: self.name() }
    }
}

impl Limits {
    /// Registers the counter, and shows each limit at 0.
    pub(super) fn new(registry: &mut Registry) -> Self {
        let help = "Connections that were closed and requests that were refused because a limit was reached, by limit.";
        let reached: Family<LimitLabels, Counter> = super::family(registry, "clapometer_limit_reached", help);
        for limit in Limit::ALL {
            drop(reached.get_or_create(&limit.labels()));
        }
        Self(reached)
    }

    pub(super) fn reached(&self, limit: Limit) {
        self.0.get_or_create(&limit.labels()).inc();
    }
}
