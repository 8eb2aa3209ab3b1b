//! The parity of a layer, on a stream of its own: a fixed header, then two planes of parity bytes. With
//! it an edge rebuilds what a few lost packets took from a layer's stream, a round trip before they
//! could come again. How is the transport's; this is the layout.
//!
//! ```text
//! header  32 bytes  magic "EPKX" · version u16 · 0 u16 · fetch u64 · layer u32 · stride u32 · stride u32 · 0 u32
//! planes            as many bytes as the first stride says, then as many as the second
//! ```
//! All integers are little-endian. What is protected is the layer's stream after its header: payload
//! and trailer. Byte `c` of a plane is the exclusive or of the protected bytes `c`, `c + stride`,
//! `c + 2·stride` and so on.

use edgeprompt_kv::LayerIndex;

use crate::layer::field;
use crate::{FetchId, LAYER_HEADER_BYTES, LAYER_TRAILER_BYTES, Manifest, PROTOCOL_VERSION};

/// Bytes of every header: as many as of a layer's, so that a reader knows what it has after as many.
pub const PARITY_HEADER_BYTES: usize = LAYER_HEADER_BYTES;

/// Planes of every layer's parity: packets that meet in one are apart in the other.
pub const PARITY_PLANE_COUNT: usize = 2;

const MAGIC: [u8; 4] = *b"EPKX";

/// What the stream of a layer's parity starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ParityHeader {
    /// The fetch it belongs to.
    pub fetch: FetchId,
    /// The layer that it protects.
    pub layer: LayerIndex,
    /// Bytes of each plane; trust them only after [`ParityHeader::check_against`].
    pub strides: [u32; PARITY_PLANE_COUNT],
}

/// Why bytes are not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParityHeaderError {
    /// The stream is not a parity's.
    #[error("the stream does not start with a parity header")]
    Magic,
    /// The stream is of another protocol version.
    #[error(
        "parity header version {version}, this node speaks {PROTOCOL_VERSION}: update both nodes to the same release"
    )]
    Version {
        /// The version in the header.
        version: u16,
    },
    /// A reserved field is not zero.
    #[error("a reserved field of the parity header is not zero")]
    Reserved,
}

/// Why a header does not belong to a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParityMismatch {
    /// It names another fetch.
    #[error("the parity belongs to fetch {}", .fetch.0)]
    Fetch {
        /// The fetch in the header.
        fetch: FetchId,
    },
    /// The layer is not one of the manifest's.
    #[error("the parity is of layer {}, which was not announced", .layer.0)]
    Layer {
        /// The layer in the header.
        layer: LayerIndex,
    },
    /// A plane is empty, or the planes are longer than what they protect.
    #[error("planes of {} and {} bytes cannot be the parity of {protected_bytes} bytes", .strides[0], .strides[1])]
    Strides {
        /// The header's.
        strides: [u32; PARITY_PLANE_COUNT],
        /// Bytes of the layer's stream after its header.
        protected_bytes: usize,
    },
}

impl ParityHeader {
    /// Whether a stream that starts with these bytes claims to be a parity's.
    pub fn begins(bytes: &[u8; PARITY_HEADER_BYTES]) -> bool {
        bytes[..4] == MAGIC
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; PARITY_HEADER_BYTES] {
        let mut bytes = [0; PARITY_HEADER_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
        bytes[8..16].copy_from_slice(&self.fetch.0.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.layer.0.to_le_bytes());
        bytes[20..24].copy_from_slice(&self.strides[0].to_le_bytes());
        bytes[24..28].copy_from_slice(&self.strides[1].to_le_bytes());
        bytes
    }

    /// Reads a header.
    ///
    /// # Errors
    /// [`ParityHeaderError`].
    pub fn decode(bytes: &[u8; PARITY_HEADER_BYTES]) -> Result<Self, ParityHeaderError> {
        if !Self::begins(bytes) {
            return Err(ParityHeaderError::Magic);
        }
        let version = u16::from_le_bytes(field(bytes, 4));
        if version != PROTOCOL_VERSION {
            return Err(ParityHeaderError::Version { version });
        }
        if bytes[6..8] != [0; 2] || bytes[28..] != [0; 4] {
            return Err(ParityHeaderError::Reserved);
        }
        Ok(Self {
            fetch: FetchId(u64::from_le_bytes(field(bytes, 8))),
            layer: LayerIndex(u32::from_le_bytes(field(bytes, 16))),
            strides: [20, 24].map(|at| u32::from_le_bytes(field(bytes, at))),
        })
    }

    /// The strides as lengths, if the header is of one of `manifest`'s layers.
    ///
    /// Only these lengths may be allocated: together no more than the layer itself.
    ///
    /// # Errors
    /// [`ParityMismatch`].
    pub fn check_against(
        &self,
        manifest: &Manifest,
    ) -> Result<[usize; PARITY_PLANE_COUNT], ParityMismatch> {
        if self.fetch != manifest.fetch {
            return Err(ParityMismatch::Fetch { fetch: self.fetch });
        }
        if !manifest.layers.contains(self.layer) {
            return Err(ParityMismatch::Layer { layer: self.layer });
        }
        let protected_bytes = manifest.layer_bytes() + LAYER_TRAILER_BYTES;
        let strides = self.strides.map(|stride| stride as usize);
        let fits = strides[0]
            .checked_add(strides[1])
            .is_some_and(|sum| sum <= protected_bytes);
        if !fits || strides.contains(&0) {
            let strides = self.strides;
            return Err(ParityMismatch::Strides {
                strides,
                protected_bytes,
            });
        }
        Ok(strides)
    }
}
