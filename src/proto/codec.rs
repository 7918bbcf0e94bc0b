//! prost's codec with buffers of our messages' size.
//!
//! tonic takes 8 KiB for each direction of each call before it knows what comes: for messages of
//! 200 bytes that is most of an open stream's memory, and much of a short call's time.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// A trigger's metadata is a few hundred bytes; longer ones make the buffer grow.
const REQUEST: usize = 512;

/// One metric with its name.
const ANSWER: usize = 128;

/// tonic's own value: after this many bytes a stream lets others write.
const YIELD: usize = 32 * 1024;

/// Encodes `T` and decodes `U`.
#[derive(Debug, Clone)]
pub struct SizedProstCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SizedProstCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SizedProstCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(ANSWER, YIELD))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(REQUEST, YIELD))
    }
}
