//! Layers that are not sent as they should be, by a cloud that is broken or lies: what an edge is
//! tested with. Compiled with the feature `fault-injection` only, which no program enables.

use std::num::NonZeroU8;

use bytes::Bytes;
use edgeprompt_kv::{LayerIndex, LayerKv};
use edgeprompt_protocol::{LayerHeader, LayerTimings, LayerTrailer};

use super::{LayerSender, SendLayerError};
use crate::close::{LinkLost, StreamEnd};

/// What is wrong with a layer's stream. Places count from the first byte of its header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Damage {
    /// One byte is another.
    Flip {
        /// Its place; one beyond the stream counts from the beginning again.
        at: usize,
        /// The bits that change.
        bits: NonZeroU8,
    },
    /// It ends after so many bytes, as if that were all.
    Truncate(usize),
    /// It is reset after so many bytes.
    Reset(usize),
    /// Nothing comes after so many bytes, until the sender is dropped.
    Stall(usize),
    /// So many bytes follow its trailer.
    Overlong(usize),
    /// Header and digest are the layer's, the bytes between are others of the same length.
    Payload(LayerKv),
}

/// How a damaged stream ends.
enum End {
    Finished,
    Reset,
    Open,
}

impl LayerSender {
    /// Sends one layer, damaged. It counts as sent.
    ///
    /// # Errors
    /// [`SendLayerError`]; whether the edge takes the bytes is not waited for.
    pub async fn send_damaged(
        &self,
        layer: LayerIndex,
        kv: &LayerKv,
        damage: &Damage,
    ) -> Result<(), SendLayerError> {
        self.claim(layer)?;
        let (bytes, end) = damage.apply(self.stream_of(layer, kv, damage));
        let opened = self.link.connection.open_uni().await;
        let mut stream = opened.map_err(LinkLost::from)?;
        stream.write_chunk(bytes).await?;
        let closed = match end {
            End::Finished => stream.finish(),
            End::Reset => stream.reset(StreamEnd::Abandoned.code()),
            End::Open => Ok(()),
        };
        closed.map_err(|_| SendLayerError::Withdrawn)?;
        self.progress().streams.push(stream);
        Ok(())
    }

    fn stream_of(&self, layer: LayerIndex, kv: &LayerKv, damage: &Damage) -> Vec<u8> {
        let header = LayerHeader::of(&self.manifest, layer);
        let trailer = LayerTrailer {
            digest: header.digest(&self.manifest.prompt, kv.payload()),
            timings: LayerTimings::default(),
        };
        let payload = match damage {
            Damage::Payload(other) => other.payload(),
            _ => kv.payload(),
        };
        [&header.encode()[..], payload, &trailer.encode()].concat()
    }
}

impl Damage {
    fn apply(&self, mut bytes: Vec<u8>) -> (Bytes, End) {
        let end = match self {
            Self::Flip { at, bits } => {
                let at = at % bytes.len();
                bytes[at] ^= bits.get();
                End::Finished
            }
            Self::Truncate(at) => {
                bytes.truncate(*at);
                End::Finished
            }
            Self::Reset(at) => {
                bytes.truncate(*at);
                End::Reset
            }
            Self::Stall(at) => {
                bytes.truncate(*at);
                End::Open
            }
            Self::Overlong(count) => {
                bytes.resize(bytes.len() + count, 0);
                End::Finished
            }
            Self::Payload(_) => End::Finished,
        };
        (bytes.into(), end)
    }
}
