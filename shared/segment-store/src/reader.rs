//! Reads one segment, a layer at a time, and believes nothing that it has not checked.

use std::io::{self, Read, Seek, SeekFrom};

use bytes::Bytes;
use edgeprompt_kv::{LayerIndex, LayerKv};

use crate::format::{
    DIGEST_BYTES, MAGIC, PREFIX_BYTES, SEGMENT_HEADER_BYTES_MAX, SegmentInfo, SegmentProblem,
    layer_digest,
};

/// Why a segment, or a layer of it, is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It is not what it claims to be.
    #[error(transparent)]
    Damaged(#[from] SegmentProblem),
    /// The system refused.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// An open segment whose head is verified.
#[derive(Debug)]
pub struct SegmentReader<R> {
    source: R,
    info: SegmentInfo,
    layer_key: [u8; DIGEST_BYTES],
    /// Where the first layer begins.
    layers_at: u64,
}

impl<R: Read + Seek> SegmentReader<R> {
    /// Reads and verifies everything before the layers. What is read is bounded by the length of
    /// the source and by [`SEGMENT_HEADER_BYTES_MAX`].
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn open(mut source: R) -> Result<Self, ReadError> {
        let actual = source.seek(SeekFrom::End(0))?;
        source.seek(SeekFrom::Start(0))?;
        let mut prefix = [0; PREFIX_BYTES];
        read_exact(&mut source, &mut prefix, SegmentProblem::Magic)?;
        let (magic, length) = prefix.split_at(MAGIC.len());
        let Some(length) = length.first_chunk().copied().map(u32::from_le_bytes) else {
            return Err(SegmentProblem::Magic.into());
        };
        if magic != MAGIC {
            return Err(SegmentProblem::Magic.into());
        }
        let header_bytes = length as usize;
        let layers_at = (PREFIX_BYTES + DIGEST_BYTES) as u64 + u64::from(length);
        if header_bytes > SEGMENT_HEADER_BYTES_MAX || layers_at > actual {
            return Err(SegmentProblem::Size.into());
        }
        let mut head = vec![0; header_bytes + DIGEST_BYTES];
        read_exact(&mut source, &mut head, SegmentProblem::Header)?;
        let (header, digest) = head.split_at(header_bytes);
        let mut hasher = blake3::Hasher::new();
        hasher.update(&prefix).update(header);
        let layer_key = *hasher.finalize().as_bytes();
        if digest != layer_key {
            return Err(SegmentProblem::HeaderDigest.into());
        }
        let info = SegmentInfo::decode(header)?;
        let expected = info.file_bytes();
        if actual != expected {
            return Err(SegmentProblem::Length { expected, actual }.into());
        }
        Ok(Self {
            source,
            info,
            layer_key,
            layers_at,
        })
    }

    /// What the segment is of.
    pub const fn info(&self) -> &SegmentInfo {
        &self.info
    }

    /// One layer, verified.
    ///
    /// # Errors
    /// [`ReadError`].
    ///
    /// # Panics
    /// If the segment has no such layer.
    pub fn layer(&mut self, layer: LayerIndex) -> Result<LayerKv, ReadError> {
        let info = &self.info;
        assert!(
            layer.0 < info.geometry.layer_count(),
            "a layer of the model"
        );
        let payload_bytes = info.layer_bytes();
        let stride = (payload_bytes + DIGEST_BYTES) as u64;
        let at = self.layers_at + u64::from(layer.0) * stride;
        self.source.seek(SeekFrom::Start(at))?;
        // The file was as long as all layers need when it was opened.
        let mut payload = vec![0; payload_bytes];
        let mut digest = [0; DIGEST_BYTES];
        let damaged = SegmentProblem::LayerDigest(layer.0);
        read_exact(&mut self.source, &mut payload, damaged)?;
        read_exact(&mut self.source, &mut digest, damaged)?;
        if layer_digest(&self.layer_key, layer, &payload) != digest {
            return Err(damaged.into());
        }
        let token_count = info.tokens.len();
        let kv = LayerKv::new(
            Bytes::from(payload),
            &info.geometry,
            token_count,
            info.dtype,
        );
        Ok(kv.map_err(|_| damaged)?)
    }

    /// Reads every layer.
    ///
    /// # Errors
    /// [`ReadError`] of the first that does not verify.
    pub fn verify(&mut self) -> Result<(), ReadError> {
        let layers = (0..self.info.geometry.layer_count()).map(LayerIndex);
        for layer in layers {
            self.layer(layer)?;
        }
        Ok(())
    }
}

/// Fills `buffer`; a source that ends before has the `problem`.
fn read_exact(
    source: &mut impl Read,
    buffer: &mut [u8],
    problem: SegmentProblem,
) -> Result<(), ReadError> {
    source
        .read_exact(buffer)
        .map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => problem.into(),
            _ => error.into(),
        })
}
