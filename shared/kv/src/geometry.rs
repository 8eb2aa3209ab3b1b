//! The shape of a KV cache and the bytes it takes.

use serde::{Deserialize, Serialize};

/// The number format of keys and values on the wire and in the store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum KvDtype {
    /// IEEE 754 single precision, little-endian: what exactness is proved with.
    F32,
    /// IEEE 754 half precision, little-endian.
    F16,
}

impl KvDtype {
    /// Bytes of one number.
    pub const fn bytes(self) -> usize {
        match self {
            Self::F32 => 4,
            Self::F16 => 2,
        }
    }
}

/// Why a geometry is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GeometryError {
    /// A dimension is zero.
    #[error("a KV geometry needs layers, heads and a head dimension")]
    Zero,
    /// A dimension is larger than any model this project serves.
    #[error(
        "a KV geometry of {layer_count} layers × {kv_head_count} heads × {head_dim} is beyond the limit"
    )]
    TooLarge {
        /// Layers asked for.
        layer_count: u32,
        /// KV heads asked for.
        kv_head_count: u32,
        /// Head dimension asked for.
        head_dim: u32,
    },
}

/// The shape of one model's KV cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct KvGeometry {
    layer_count: u32,
    kv_head_count: u32,
    head_dim: u32,
}

impl KvGeometry {
    /// Most layers of any model; the largest published Llama has 126.
    pub const LAYER_COUNT_MAX: u32 = 1024;
    /// Most KV heads of a layer.
    pub const KV_HEAD_COUNT_MAX: u32 = 1024;
    /// Largest head dimension.
    pub const HEAD_DIM_MAX: u32 = 4096;

    /// Checks the dimensions against zero and against the limits above.
    ///
    /// # Errors
    /// [`GeometryError`] if a dimension is zero or beyond its limit.
    pub const fn new(
        layer_count: u32,
        kv_head_count: u32,
        head_dim: u32,
    ) -> Result<Self, GeometryError> {
        if layer_count == 0 || kv_head_count == 0 || head_dim == 0 {
            return Err(GeometryError::Zero);
        }
        if layer_count > Self::LAYER_COUNT_MAX
            || kv_head_count > Self::KV_HEAD_COUNT_MAX
            || head_dim > Self::HEAD_DIM_MAX
        {
            return Err(GeometryError::TooLarge {
                layer_count,
                kv_head_count,
                head_dim,
            });
        }
        Ok(Self {
            layer_count,
            kv_head_count,
            head_dim,
        })
    }

    /// Checks again what a peer sent: deserialising does not.
    ///
    /// # Errors
    /// As [`KvGeometry::new`].
    pub const fn validated(self) -> Result<Self, GeometryError> {
        Self::new(self.layer_count, self.kv_head_count, self.head_dim)
    }

    /// Layers of the model.
    pub const fn layer_count(&self) -> u32 {
        self.layer_count
    }

    /// KV heads of each layer.
    pub const fn kv_head_count(&self) -> usize {
        self.kv_head_count as usize
    }

    /// Numbers in one head's key or value.
    pub const fn head_dim(&self) -> usize {
        self.head_dim as usize
    }

    /// Numbers in the keys (or the values) of one layer of `token_count` tokens.
    pub const fn elements(&self, token_count: usize) -> usize {
        self.kv_head_count() * self.head_dim() * token_count
    }

    /// Bytes of one layer's keys and values: `2·H_kv·d·S·bytes` (MATH §1; EdgePrompt's `2·H·D·S`
    /// counts the heads twice).
    pub const fn layer_bytes(&self, token_count: usize, dtype: KvDtype) -> usize {
        2 * self.elements(token_count) * dtype.bytes()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn llama_2_7b_takes_512_kib_a_token_in_f16() {
        let llama = KvGeometry::new(32, 32, 128).unwrap();
        assert_eq!(32 * llama.layer_bytes(1, KvDtype::F16), 512 * 1024);
    }

    #[test]
    fn zero_and_absurd_dimensions_are_refused() {
        assert_eq!(KvGeometry::new(0, 1, 1), Err(GeometryError::Zero));
        assert!(matches!(
            KvGeometry::new(1, 1, u32::MAX),
            Err(GeometryError::TooLarge { .. })
        ));
    }
}
