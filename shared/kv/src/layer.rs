//! The bytes of one layer's keys and values, checked against the geometry they claim.

use std::fmt;

use bytes::Bytes;

use crate::codec;
use crate::{KvDtype, KvGeometry};

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

/// One layer's keys and values, post-RoPE, little-endian: in f32, f16 and bf16 all keys, then all
/// values, each `[kv_head, token, head_dim]`; otherwise as `codec/layout.rs` says.
///
/// Heads come first so that a node which computes only some heads can be sent one contiguous
/// slice of each half.
///
/// They may be those of private tokens, so printing shows their shape and never the numbers.
#[derive(Clone, PartialEq, Eq)]
pub struct LayerKv {
    payload: Bytes,
    geometry: KvGeometry,
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
            geometry: *geometry,
            dtype,
            token_count,
        })
    }

    /// The raw bytes, as they travel.
    pub const fn payload(&self) -> &Bytes {
        &self.payload
    }

    /// Encodes keys and values, each `[kv_head, token, head_dim]`.
    ///
    /// The same numbers give the same bytes everywhere. Numbers that are not finite, or that the
    /// format cannot reach, do not come back finite from [`LayerKv::decode`].
    ///
    /// # Errors
    /// [`LayerError::Length`] if the numbers do not have the geometry's shape.
    pub fn encode(
        numbers: [&[f32]; 2],
        geometry: &KvGeometry,
        dtype: KvDtype,
    ) -> Result<Self, LayerError> {
        let [keys, values] = numbers;
        let token_count = keys.len() / geometry.elements(1);
        let expected = geometry.elements(token_count);
        for actual in [keys.len(), values.len()] {
            if actual != expected {
                let (expected, actual) = (4 * expected, 4 * actual);
                return Err(LayerError::Length { expected, actual });
            }
        }
        let payload = codec::encode(numbers, geometry, dtype);
        Self::new(payload.into(), geometry, token_count, dtype)
    }

    /// Keys and values, each `[kv_head, token, head_dim]`. Any payload decodes, to numbers that may
    /// not be finite.
    pub fn decode(&self) -> [Vec<f32>; 2] {
        codec::decode(&self.payload, &self.geometry, self.token_count, self.dtype)
    }

    /// The same layer in another format; itself if it has that format.
    pub fn recoded(&self, dtype: KvDtype) -> Self {
        if dtype == self.dtype {
            return self.clone();
        }
        let [keys, values] = self.decode();
        let payload = codec::encode([&keys, &values], &self.geometry, dtype);
        Self {
            payload: payload.into(),
            dtype,
            ..*self
        }
    }

    /// The number format of the payload.
    pub const fn dtype(&self) -> KvDtype {
        self.dtype
    }

    /// Tokens in the segment.
    pub const fn token_count(&self) -> usize {
        self.token_count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_length_is_checked() {
        let geometry = KvGeometry::new(1, 2, 4).unwrap();
        let bytes = Bytes::from((0..192u8).collect::<Vec<_>>());
        let layer = LayerKv::new(bytes.clone(), &geometry, 3, KvDtype::F32).unwrap();
        assert_eq!(layer.decode().map(|half| half.len()), [24, 24]);
        assert_eq!(layer.decode()[1][0], f32::from_le_bytes([96, 97, 98, 99]));
        assert_eq!(format!("{layer:?}"), "LayerKv(3 tokens, F32, 192 bytes)");
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
