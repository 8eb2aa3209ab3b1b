//! The bytes of one layer's keys and values, checked against the geometry they claim.

use std::fmt;

use bytes::Bytes;

use crate::{KvDtype, KvGeometry, LayerDigest};

/// Why bytes are not the layer they claim to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayerError {
    /// The payload is longer or shorter than the geometry says.
    #[error("a layer of {expected} bytes was expected, {actual} arrived")]
    Length {
        /// Bytes by geometry, token count and dtype.
        expected: usize,
        /// Bytes at hand.
        actual: usize,
    },
}

/// One layer's keys, then values, each `[kv_head, token, head_dim]`, little-endian, post-RoPE.
///
/// Heads come first so that a node which computes only some heads can be sent one contiguous
/// slice of each half.
///
/// They may be those of private tokens, so printing shows their shape and never the numbers.
#[derive(Clone, PartialEq, Eq)]
pub struct LayerKv {
    payload: Bytes,
    dtype: KvDtype,
    token_count: usize,
}

impl fmt::Debug for LayerKv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (tokens, dtype, bytes) = (self.token_count, self.dtype, self.payload.len());
        write!(f, "LayerKv({tokens} tokens, {dtype:?}, {bytes} bytes)")
    }
}

impl LayerKv {
    /// Wraps a payload whose length must be what the geometry says.
    ///
    /// # Errors
    /// [`LayerError::Length`].
    pub fn new(
        payload: Bytes,
        geometry: &KvGeometry,
        token_count: usize,
        dtype: KvDtype,
    ) -> Result<Self, LayerError> {
        let expected = geometry.layer_bytes(token_count, dtype);
        if payload.len() != expected {
            return Err(LayerError::Length {
                expected,
                actual: payload.len(),
            });
        }
        Ok(Self {
            payload,
            dtype,
            token_count,
        })
    }

    /// The raw bytes, as they travel.
    pub const fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// The keys' half of the payload.
    pub fn keys(&self) -> &[u8] {
        &self.payload[..self.payload.len() / 2]
    }

    /// The values' half of the payload.
    pub fn values(&self) -> &[u8] {
        &self.payload[self.payload.len() / 2..]
    }

    /// The number format of the payload.
    pub const fn dtype(&self) -> KvDtype {
        self.dtype
    }

    /// Tokens in the segment.
    pub const fn token_count(&self) -> usize {
        self.token_count
    }

    /// The digest of the payload.
    pub fn digest(&self) -> LayerDigest {
        LayerDigest::of(&self.payload)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_is_checked_and_the_digest_is_of_every_byte() {
        let geometry = KvGeometry::new(1, 2, 4).unwrap();
        let bytes = Bytes::from((0..192u8).collect::<Vec<_>>());
        let layer = LayerKv::new(bytes.clone(), &geometry, 3, KvDtype::F32).unwrap();
        assert_eq!((layer.keys().len(), layer.values()[0]), (96, 96));
        assert_eq!(format!("{layer:?}"), "LayerKv(3 tokens, F32, 192 bytes)");

        let mut corrupt = bytes.to_vec();
        corrupt[100] ^= 1;
        let corrupt = LayerKv::new(corrupt.into(), &geometry, 3, KvDtype::F32).unwrap();
        assert_ne!(corrupt.digest(), layer.digest());
        let short = LayerKv::new(bytes.slice(..191), &geometry, 3, KvDtype::F32);
        assert_eq!(
            short,
            Err(LayerError::Length {
                expected: 192,
                actual: 191
            })
        );
    }
}
