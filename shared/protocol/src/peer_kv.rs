//! Private keys and values on the wire between edges: a small fixed header, then the bytes of every
//! layer, one after the other.

use edgeprompt_kv::{KvDtype, KvGeometry};

/// Bytes of the header.
pub const KV_CHUNK_HEADER_BYTES: usize = 16;

/// Most bytes of one chunk, all layers of it.
pub const KV_CHUNK_BYTES_MAX: usize = 16 << 20;

/// "EPKV" and the version of this format.
const MAGIC: [u8; 4] = *b"EPK1";

/// Keys and values of the private tokens `start..start + len`, of all layers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvChunkHeader {
    /// The first token, counted from the private prompt's first.
    pub start: u32,
    /// How many tokens.
    pub len: u32,
    /// The number format.
    pub dtype: KvDtype,
}

/// Why bytes are no chunk that can be taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum KvChunkError {
    /// They begin with something else.
    #[error("the bytes are not keys and values of a session")]
    NotAChunk,
    /// The number format is not known.
    #[error("number format {0} is not known")]
    Dtype(u8),
    /// No tokens, or too many.
    #[error("a chunk of {bytes} bytes exceeds {KV_CHUNK_BYTES_MAX}, or is empty")]
    Size {
        /// Bytes of all layers.
        bytes: usize,
    },
}

impl KvChunkHeader {
    /// As bytes: magic, start, length, format, three bytes of nothing; little-endian.
    pub fn to_bytes(self) -> [u8; KV_CHUNK_HEADER_BYTES] {
        let mut bytes = [0; KV_CHUNK_HEADER_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..8].copy_from_slice(&self.start.to_le_bytes());
        bytes[8..12].copy_from_slice(&self.len.to_le_bytes());
        bytes[12] = code(self.dtype);
        bytes
    }

    /// Reads a header for a model of this shape.
    ///
    /// # Errors
    /// [`KvChunkError`]; nothing is allocated for a chunk before.
    pub fn parse(
        bytes: [u8; KV_CHUNK_HEADER_BYTES],
        geometry: &KvGeometry,
    ) -> Result<Self, KvChunkError> {
        let [
            m0,
            m1,
            m2,
            m3,
            s0,
            s1,
            s2,
            s3,
            l0,
            l1,
            l2,
            l3,
            dtype,
            zeros @ ..,
        ] = bytes;
        if [m0, m1, m2, m3] != MAGIC || zeros != [0; 3] {
            return Err(KvChunkError::NotAChunk);
        }
        let known = KvDtype::ALL.into_iter().find(|known| code(*known) == dtype);
        let header = Self {
            start: u32::from_le_bytes([s0, s1, s2, s3]),
            len: u32::from_le_bytes([l0, l1, l2, l3]),
            dtype: known.ok_or(KvChunkError::Dtype(dtype))?,
        };
        let bytes = header.bytes(geometry);
        if header.len == 0
            || bytes > KV_CHUNK_BYTES_MAX
            || header.start.checked_add(header.len).is_none()
        {
            return Err(KvChunkError::Size { bytes });
        }
        Ok(header)
    }

    /// Bytes of all layers.
    pub fn bytes(&self, geometry: &KvGeometry) -> usize {
        let layers = geometry.layer_count() as usize;
        let tokens = self.len as usize;
        // A claimed length may be absurd, and is not to overflow.
        match tokens > KV_CHUNK_BYTES_MAX {
            true => usize::MAX,
            false => geometry
                .layer_bytes(tokens, self.dtype)
                .saturating_mul(layers),
        }
    }
}

const fn code(dtype: KvDtype) -> u8 {
    match dtype {
        KvDtype::F32 => 0,
        KvDtype::F16 => 1,
        KvDtype::Bf16 => 2,
        KvDtype::Int8 => 3,
        KvDtype::Int4 => 4,
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn geometry() -> KvGeometry {
        KvGeometry::new(2, 3, 4).unwrap()
    }

    #[test]
    fn the_bytes_are_those_of_the_version() {
        let header = KvChunkHeader {
            start: 0x0102,
            len: 7,
            dtype: KvDtype::Int8,
        };
        let bytes = *b"EPK1\x02\x01\0\0\x07\0\0\0\x03\0\0\0";
        assert_eq!(header.to_bytes(), bytes);
        assert_eq!(KvChunkHeader::parse(bytes, &geometry()), Ok(header));
    }

    proptest! {
        #[test]
        fn whatever_is_taken_is_small(bytes: [u8; KV_CHUNK_HEADER_BYTES], valid: bool) {
            let mut bytes = bytes;
            if valid {
                bytes[..4].copy_from_slice(&MAGIC);
                bytes[12] %= 6;
                bytes[13..].fill(0);
            }
            if let Ok(header) = KvChunkHeader::parse(bytes, &geometry()) {
                prop_assert!(header.bytes(&geometry()) <= KV_CHUNK_BYTES_MAX);
                prop_assert_eq!(header.to_bytes(), bytes);
            }
        }
    }
}
