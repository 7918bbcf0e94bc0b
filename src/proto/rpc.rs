//! The methods of the protocol's service.

/// A method of the service.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rpc {
    /// Asks for the metric's name and target.
    GetMetricSpec,
    /// Asks for the value.
    GetMetrics,
    /// Asks whether there is work.
    IsActive,
    /// Waits for changes of what IsActive tells.
    StreamIsActive,
    /// Waits for changes of what GetMetricSpec tells.
    StreamMetricSpec,
}

impl Rpc {
    /// Returns the method's name in paths and metrics.
    pub fn name(self) -> &'static str {
        match self {
            Self::GetMetricSpec => "GetMetricSpec",
            Self::GetMetrics => "GetMetrics",
            Self::IsActive => "IsActive",
            Self::StreamIsActive => "StreamIsActive",
            Self::StreamMetricSpec => "StreamMetricSpec",
        }
    }

    /// Returns whether the server answers with a stream of messages.
    pub fn is_stream(self) -> bool {
        match self {
            Self::GetMetricSpec | Self::GetMetrics | Self::IsActive => false,
            Self::StreamIsActive | Self::StreamMetricSpec => true,
        }
    }
}
