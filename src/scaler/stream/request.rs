//! The request that opened a stream, for as long as the stream is open.

use prost::Message;

use crate::{places::Peer, proto::ScaledObjectRef, scaler::metadata::PARAMETER_PREFIX};

/// A request as its stream keeps it: the metadata takes as many bytes as it had on the wire. As a map it takes three
/// times as many, and only a reload needs it.
#[derive(Debug)]
pub(super) struct KeptRequest {
    peer: Peer,
    namespace: Box<str>,
    name: Box<str>,
    /// The metadata, encoded.
    metadata: Box<[u8]>,
    /// The bytes of the longest value of a parameter. A stream of a grouped query keeps one value once more: its key.
    longest_parameter: usize,
}

impl KeptRequest {
    pub(super) fn new(reference: ScaledObjectRef, peer: Peer) -> Self {
        let ScaledObjectRef { namespace, name, scaler_metadata } = reference;
        let parameters = scaler_metadata.iter().filter(|(key, _)| key.starts_with(PARAMETER_PREFIX));
        let longest_parameter = parameters.map(|(_, value)| value.len()).max().unwrap_or_default();
        let encoded = ScaledObjectRef { scaler_metadata, ..ScaledObjectRef::default() }.encode_to_vec();
        Self { peer, namespace: namespace.into(), name: name.into(), metadata: encoded.into(), longest_parameter }
    }

    /// Returns the bytes that a stream keeps of its request.
    pub(super) fn bytes(&self) -> usize {
        self.namespace.len() + self.name.len() + self.metadata.len() + self.longest_parameter
    }

    /// Returns who sent it.
    pub(super) fn peer(&self) -> Peer {
        self.peer
    }

    pub(super) fn namespace(&self) -> &str {
        &self.namespace
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// Returns the request.
    pub(super) fn reference(&self) -> ScaledObjectRef {
        let decoded = ScaledObjectRef::decode(&*self.metadata).expect("it was encoded here");
        ScaledObjectRef { namespace: self.namespace.to_string(), name: self.name.to_string(), ..decoded }
    }
}

#[cfg(test)]
mod tests {
    use std::net::{IpAddr, Ipv4Addr};

    use super::*;

    #[test]
    fn a_request_comes_back_whole_and_costs_what_is_kept() {
        let pairs =
            [("query", "jobs"), ("param.queue", "mail"), ("param.region", "eu-west"), ("divideBy", "100000000")];
        let scaler_metadata = pairs.map(|(key, value)| (key.to_owned(), value.to_owned())).into();
        let reference = ScaledObjectRef { name: "worker".into(), namespace: "billing".into(), scaler_metadata };
        let kept = KeptRequest::new(reference.clone(), Peer::from(IpAddr::from(Ipv4Addr::LOCALHOST)));
        assert_eq!(kept.reference(), reference);
        let texts: usize = pairs.iter().map(|(key, value)| key.len() + value.len()).sum();
        let field = 6;
        assert_eq!(kept.bytes(), "billing".len() + "worker".len() + texts + pairs.len() * field + "eu-west".len());
    }
}
