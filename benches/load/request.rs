//! Triggers whose right answers are known, and the calls that ask for them.

use bytes::{BufMut, Bytes, BytesMut};
use http::Request;
use prost::Message;

use crate::{
    client::{Connection, Failure},
    proto::{
        GetMetricSpecResponse, GetMetricsRequest, GetMetricsResponse, IsActiveResponse, MetricSpec, MetricValue,
        ScaledObjectRef,
    },
};

/// A trigger, and what is right for it.
#[derive(Debug, Clone)]
pub(crate) struct Trigger {
    pub(crate) reference: ScaledObjectRef,
    /// The query's name, which is the metric's.
    pub(crate) query: String,
    pub(crate) value: u32,
    pub(crate) target: u32,
    pub(crate) is_active: bool,
}

/// One kind of call, encoded once, with its right answer.
#[derive(Debug, Clone)]
pub(crate) struct Question {
    path: &'static str,
    message: Bytes,
    right: Right,
}

#[derive(Debug, Clone)]
enum Right {
    Spec(Bytes),
    Value(Bytes),
    Activity(Bytes),
    /// Whatever it is.
    Anything,
}

/// A question, addressed.
#[derive(Debug, Clone)]
pub(crate) struct Call {
    connection: Connection,
    head: Request<()>,
    question: Question,
}

/// The outcome of a call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    Right,
    /// It was answered, wrongly: what was said instead.
    Wrong(String),
    Failed(Failure),
}

impl Trigger {
    /// GetMetricSpec.
    #[allow(deprecated, reason = "KEDA before 2.17 reads only the integer")]
    pub(crate) fn spec(&self) -> Question {
        let spec = MetricSpec {
            metric_name: self.query.clone(),
            target_size: i64::from(self.target),
            target_size_float: f64::from(self.target),
        };
        let right = Right::Spec(encoded(&GetMetricSpecResponse { metric_specs: vec![spec] }));
        Question { path: "/externalscaler.ExternalScaler/GetMetricSpec", message: framed(&self.reference), right }
    }

    /// GetMetrics.
    pub(crate) fn metrics(&self) -> Question {
        let request =
            GetMetricsRequest { scaled_object_ref: Some(self.reference.clone()), metric_name: self.query.clone() };
        Question {
            path: "/externalscaler.ExternalScaler/GetMetrics",
            message: framed(&request),
            right: Right::Value(encoded(&self.right_value())),
        }
    }

    /// Returns the right answer of GetMetrics.
    #[allow(deprecated, reason = "KEDA takes the integer where the double is not above zero")]
    pub(crate) fn right_value(&self) -> GetMetricsResponse {
        let value = MetricValue {
            metric_name: self.query.clone(),
            metric_value: i64::from(self.value),
            metric_value_float: f64::from(self.value),
        };
        GetMetricsResponse { metric_values: vec![value] }
    }

    /// IsActive.
    pub(crate) fn activity(&self) -> Question {
        Question { path: "/externalscaler.ExternalScaler/IsActive", ..self.stream() }
    }

    /// StreamIsActive, with what its first message must be.
    pub(crate) fn stream(&self) -> Question {
        Question {
            path: "/externalscaler.ExternalScaler/StreamIsActive",
            message: framed(&self.reference),
            right: Right::Activity(encoded(&IsActiveResponse { result: self.is_active })),
        }
    }
}

impl Question {
    /// Addresses it.
    pub(crate) fn to(&self, connection: &Connection) -> Call {
        Call { connection: connection.clone(), head: connection.head(self.path), question: self.clone() }
    }

    /// Returns the same request, with every answer taken as right.
    pub(crate) fn unjudged(self) -> Self {
        Self { right: Right::Anything, ..self }
    }

    /// Judges the bytes of an answer.
    pub(crate) fn judge(&self, answer: &Bytes) -> Outcome {
        match &self.right {
            // The usual encoding is compared by its bytes; any other with the same meaning is right, too.
            Right::Spec(right) | Right::Value(right) | Right::Activity(right) if right == answer => Outcome::Right,
            Right::Anything => Outcome::Right,
            Right::Spec(right) => compare::<GetMetricSpecResponse>(right, answer),
            Right::Value(right) => compare::<GetMetricsResponse>(right, answer),
            Right::Activity(right) => compare::<IsActiveResponse>(right, answer),
        }
    }
}

impl Call {
    /// Makes the call and judges its answer.
    pub(crate) async fn make(&self) -> Outcome {
        match self.connection.unary(self.head.clone(), self.question.message.clone()).await {
            Ok(answer) => self.question.judge(&answer),
            Err(failure) => Outcome::Failed(failure),
        }
    }

    /// Opens the stream.
    ///
    /// # Errors
    /// The reason why it cannot be opened.
    pub(crate) async fn open(&self) -> Result<crate::client::Messages, Failure> {
        self.connection.stream(self.head.clone(), self.question.message.clone()).await
    }

    /// The question.
    pub(crate) fn question(&self) -> &Question {
        &self.question
    }
}

fn compare<M: Message + Default + PartialEq + std::fmt::Debug>(right: &Bytes, answer: &Bytes) -> Outcome {
    let right = M::decode(right.clone()).expect("it was encoded by ourselves");
    match M::decode(answer.clone()) {
        Ok(answer) if answer == right => Outcome::Right,
        Ok(answer) => Outcome::Wrong(format!("{answer:?} instead of {right:?}")),
        Err(error) => Outcome::Wrong(format!("undecodable ({error}) instead of {right:?}")),
    }
}

fn encoded(message: &impl Message) -> Bytes {
    message.encode_to_vec().into()
}

/// The message behind its five bytes: not compressed, so long.
fn framed(message: &impl Message) -> Bytes {
    let length = u32::try_from(message.encoded_len()).expect("our messages are short");
    let mut bytes = BytesMut::with_capacity(5 + message.encoded_len());
    bytes.put_u8(0);
    bytes.put_u32(length);
    message.encode(&mut bytes).expect("the buffer grows");
    bytes.freeze()
}
