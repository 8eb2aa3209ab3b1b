//! The shape of a KV cache and the bytes it takes.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::codec::{Bits, Layout};

/// The number format of keys and values on the wire, on disk and in the store. What attention reads
/// is f32 whichever it is. A lesser one loses less.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize,
)]
pub enum KvDtype {
    /// IEEE 754 single precision: what exactness is proved with.
    #[default]
    F32,
    /// IEEE 754 half precision.
    F16,
    /// The upper half of single precision.
    Bf16,
    /// Eight bits and scales: keys by channel, values by token.
    Int8,
    /// Four bits and scales: keys by channel, values by token.
    Int4,
}

/// A word is no number format.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a number format is f32, f16, bf16, int8 or int4")]
pub struct ParseDtypeError;

impl KvDtype {
    /// All of them, the largest first.
    pub const ALL: [Self; 5] = [Self::F32, Self::F16, Self::Bf16, Self::Int8, Self::Int4];

    /// The format as people write it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::F32 => "f32",
            Self::F16 => "f16",
            Self::Bf16 => "bf16",
            Self::Int8 => "int8",
            Self::Int4 => "int4",
        }
    }

    /// Whether numbers of an f32 come back as they were.
    pub const fn is_exact(self) -> bool {
        matches!(self, Self::F32)
    }
}

impl fmt::Display for KvDtype {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

impl FromStr for KvDtype {
    type Err = ParseDtypeError;

    fn from_str(word: &str) -> Result<Self, ParseDtypeError> {
        let named = Self::ALL.into_iter().find(|dtype| dtype.name() == word);
        named.ok_or(ParseDtypeError)
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
    /// counts the heads twice), with scales where the format has them.
    pub const fn layer_bytes(&self, token_count: usize, dtype: KvDtype) -> usize {
        let number_count = 2 * self.elements(token_count);
        match dtype {
            KvDtype::F32 => 4 * number_count,
            KvDtype::F16 | KvDtype::Bf16 => 2 * number_count,
            KvDtype::Int8 => Layout::new(self, token_count, Bits::Eight).bytes(),
            KvDtype::Int4 => Layout::new(self, token_count, Bits::Four).bytes(),
        }
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
