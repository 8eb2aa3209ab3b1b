//! Writes one segment, a layer at a time, so that no more than one is in memory for it.

use std::io::{self, Write};

use edgeprompt_kv::{LayerIndex, LayerKv};

use crate::format::{DIGEST_BYTES, SegmentInfo, SegmentProblem, layer_digest};

/// Why a segment was not written.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// It could not be read back.
    #[error(transparent)]
    Info(#[from] SegmentProblem),
    /// A layer is of another shape or number format than announced.
    #[error("layer {0} is not of the segment")]
    Layer(u32),
    /// Layers are missing.
    #[error("{written} of {layer_count} layers were written")]
    Incomplete {
        /// Layers written.
        written: u32,
        /// Layers of the segment.
        layer_count: u32,
    },
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// A segment that is being written.
#[derive(Debug)]
pub struct SegmentWriter<W> {
    sink: W,
    info: SegmentInfo,
    layer_key: [u8; DIGEST_BYTES],
    next: LayerIndex,
}

impl<W: Write> SegmentWriter<W> {
    /// Writes everything before the layers.
    ///
    /// # Errors
    /// [`EncodeError`].
    pub fn begin(mut sink: W, info: SegmentInfo) -> Result<Self, EncodeError> {
        let (head, layer_key) = info.head()?;
        sink.write_all(&head)?;
        Ok(Self {
            sink,
            info,
            layer_key,
            next: LayerIndex(0),
        })
    }

    /// Writes the next layer; the first one first.
    ///
    /// # Errors
    /// [`EncodeError`].
    pub fn layer(&mut self, kv: &LayerKv) -> Result<(), EncodeError> {
        let (layer, info) = (self.next, &self.info);
        let is_of_segment = layer.0 < info.geometry.layer_count()
            && kv.dtype() == info.dtype
            && kv.token_count() == info.tokens.len()
            && kv.payload().len() == info.layer_bytes();
        if !is_of_segment {
            return Err(EncodeError::Layer(layer.0));
        }
        let digest = layer_digest(&self.layer_key, layer, kv.payload());
        self.sink.write_all(kv.payload())?;
        self.sink.write_all(digest.as_bytes())?;
        self.next = LayerIndex(layer.0 + 1);
        Ok(())
    }

    /// Gives what was written into, once every layer is there.
    ///
    /// # Errors
    /// [`EncodeError::Incomplete`].
    pub fn finish(self) -> Result<W, EncodeError> {
        let (written, layer_count) = (self.next.0, self.info.geometry.layer_count());
        match written == layer_count {
            true => Ok(self.sink),
            false => Err(EncodeError::Incomplete {
                written,
                layer_count,
            }),
        }
    }
}
