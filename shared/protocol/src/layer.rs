//! A layer's stream: a fixed header, the raw tensor bytes, a fixed trailer. The bytes between are
//! never touched here.
//!
//! ```text
//! header  32 bytes  magic "EPKV" · version u16 · dtype u8 · 0 u8 · fetch u64 · layer u32 · 0 u32 · payload_bytes u64
//! payload           keys and values in the header's number format
//! trailer 56 bytes  digest · compute_start_us u64 · compute_end_us u64 · send_start_us u64
//! ```
//! All integers are little-endian. The digest is BLAKE3 of header and payload, keyed with the prompt's
//! id: bytes of another prompt, layer, fetch or number format do not verify. It comes last so that the first byte can leave before
//! the last one is hashed.

use edgeprompt_kv::{KvDtype, LayerDigest, LayerHasher, LayerIndex, PromptId};

use crate::{FetchId, Manifest, PROTOCOL_VERSION};

/// Bytes of every header.
pub const LAYER_HEADER_BYTES: usize = 32;

/// Bytes of every trailer.
pub const LAYER_TRAILER_BYTES: usize = 56;

const MAGIC: [u8; 4] = *b"EPKV";

/// What a layer's stream starts with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerHeader {
    /// The fetch it belongs to.
    pub fetch: FetchId,
    /// The layer.
    pub layer: LayerIndex,
    /// The number format.
    pub dtype: KvDtype,
    /// Bytes between header and trailer; trust it only after [`LayerHeader::check_against`].
    pub payload_bytes: u64,
}

/// Why bytes are not a header.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The stream is not a layer's.
    #[error("the stream does not start with a layer header")]
    Magic,
    /// The stream is of another protocol version.
    #[error(
        "layer header version {version}, this node speaks {PROTOCOL_VERSION}: update both nodes to the same release"
    )]
    Version {
        /// The version in the header.
        version: u16,
    },
    /// The number format is not known.
    #[error("layer header with unknown number format {code}")]
    Dtype {
        /// The code in the header.
        code: u8,
    },
    /// A reserved field is not zero.
    #[error("a reserved field of the layer header is not zero")]
    Reserved,
}

/// Why a header does not belong to a manifest.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HeaderMismatch {
    /// It names another fetch.
    #[error("the layer belongs to fetch {}", .fetch.0)]
    Fetch {
        /// The fetch in the header.
        fetch: FetchId,
    },
    /// The layer is not one of the manifest's.
    #[error("layer {} was not announced", .layer.0)]
    Layer {
        /// The layer in the header.
        layer: LayerIndex,
    },
    /// The number format is not the manifest's.
    #[error("the layer comes as {actual} instead of {expected}")]
    Dtype {
        /// The manifest's format.
        expected: KvDtype,
        /// The header's.
        actual: KvDtype,
    },
    /// The length is not what geometry, tokens and format imply.
    #[error("the layer claims {claimed} bytes instead of {expected}")]
    PayloadBytes {
        /// What the manifest implies.
        expected: usize,
        /// What the header claims.
        claimed: u64,
    },
}

impl LayerHeader {
    /// The header of one of `manifest`'s layers.
    pub const fn of(manifest: &Manifest, layer: LayerIndex) -> Self {
        Self {
            fetch: manifest.fetch,
            layer,
            dtype: manifest.dtype,
            payload_bytes: manifest.layer_bytes() as u64,
        }
    }

    /// The header's bytes.
    pub fn encode(&self) -> [u8; LAYER_HEADER_BYTES] {
        let mut bytes = [0; LAYER_HEADER_BYTES];
        bytes[..4].copy_from_slice(&MAGIC);
        bytes[4..6].copy_from_slice(&PROTOCOL_VERSION.to_le_bytes());
        bytes[6] = dtype_code(self.dtype);
        bytes[8..16].copy_from_slice(&self.fetch.0.to_le_bytes());
        bytes[16..20].copy_from_slice(&self.layer.0.to_le_bytes());
        bytes[24..].copy_from_slice(&self.payload_bytes.to_le_bytes());
        bytes
    }

    /// Reads a header.
    ///
    /// # Errors
    /// [`HeaderError`].
    pub fn decode(bytes: &[u8; LAYER_HEADER_BYTES]) -> Result<Self, HeaderError> {
        if bytes[..4] != MAGIC {
            return Err(HeaderError::Magic);
        }
        let version = u16::from_le_bytes(field(bytes, 4));
        if version != PROTOCOL_VERSION {
            return Err(HeaderError::Version { version });
        }
        let dtype = dtype_of(bytes[6]).ok_or(HeaderError::Dtype { code: bytes[6] })?;
        if bytes[7] != 0 || bytes[20..24] != [0; 4] {
            return Err(HeaderError::Reserved);
        }
        Ok(Self {
            fetch: FetchId(u64::from_le_bytes(field(bytes, 8))),
            layer: LayerIndex(u32::from_le_bytes(field(bytes, 16))),
            dtype,
            payload_bytes: u64::from_le_bytes(field(bytes, 24)),
        })
    }

    /// What the layer's bytes are hashed with as they come.
    pub fn hasher(&self, prompt: &PromptId) -> LayerHasher {
        LayerHasher::new(prompt, &self.encode())
    }

    /// The digest of the layer with this header and these bytes.
    pub fn digest(&self, prompt: &PromptId, payload: &[u8]) -> LayerDigest {
        let mut hasher = self.hasher(prompt);
        hasher.update(payload);
        hasher.finish()
    }

    /// The length of the payload, if the header is that of one of `manifest`'s layers.
    ///
    /// Only this length may be allocated: it follows from checked, bounded facts.
    ///
    /// # Errors
    /// [`HeaderMismatch`].
    pub fn check_against(&self, manifest: &Manifest) -> Result<usize, HeaderMismatch> {
        if self.fetch != manifest.fetch {
            return Err(HeaderMismatch::Fetch { fetch: self.fetch });
        }
        if !manifest.layers.contains(self.layer) {
            return Err(HeaderMismatch::Layer { layer: self.layer });
        }
        if self.dtype != manifest.dtype {
            let (expected, actual) = (manifest.dtype, self.dtype);
            return Err(HeaderMismatch::Dtype { expected, actual });
        }
        let expected = manifest.layer_bytes();
        if self.payload_bytes != expected as u64 {
            return Err(HeaderMismatch::PayloadBytes {
                expected,
                claimed: self.payload_bytes,
            });
        }
        Ok(expected)
    }
}

/// What a layer's stream ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerTrailer {
    /// The hash of header and payload: [`LayerHeader::digest`].
    pub digest: LayerDigest,
    /// When the cloud worked on the layer.
    pub timings: LayerTimings,
}

/// When a cloud worked on a layer, in microseconds since it received the fetch.
///
/// Both compute times are zero for a layer that was stored.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LayerTimings {
    /// When its computation started.
    pub compute_start_us: u64,
    /// When its computation ended.
    pub compute_end_us: u64,
    /// When its stream was opened.
    pub send_start_us: u64,
}

/// Why bytes are not a trailer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TrailerError {
    /// The layer ends before it starts.
    #[error("the layer's computation ends at {end_us} µs before it starts at {start_us} µs")]
    Reversed {
        /// The start claimed.
        start_us: u64,
        /// The end claimed.
        end_us: u64,
    },
}

impl LayerTrailer {
    /// The trailer's bytes.
    pub fn encode(&self) -> [u8; LAYER_TRAILER_BYTES] {
        let mut bytes = [0; LAYER_TRAILER_BYTES];
        bytes[..32].copy_from_slice(self.digest.as_bytes());
        bytes[32..40].copy_from_slice(&self.timings.compute_start_us.to_le_bytes());
        bytes[40..48].copy_from_slice(&self.timings.compute_end_us.to_le_bytes());
        bytes[48..].copy_from_slice(&self.timings.send_start_us.to_le_bytes());
        bytes
    }

    /// Reads a trailer. Whether the digest is the layer's is for the reader of both to check.
    ///
    /// # Errors
    /// [`TrailerError`].
    pub fn decode(bytes: &[u8; LAYER_TRAILER_BYTES]) -> Result<Self, TrailerError> {
        let timings = LayerTimings {
            compute_start_us: u64::from_le_bytes(field(bytes, 32)),
            compute_end_us: u64::from_le_bytes(field(bytes, 40)),
            send_start_us: u64::from_le_bytes(field(bytes, 48)),
        };
        let (start_us, end_us) = (timings.compute_start_us, timings.compute_end_us);
        if start_us > end_us {
            return Err(TrailerError::Reversed { start_us, end_us });
        }
        Ok(Self {
            digest: LayerDigest::new(field(bytes, 0)),
            timings,
        })
    }
}

const fn dtype_code(dtype: KvDtype) -> u8 {
    match dtype {
        KvDtype::F32 => 1,
        KvDtype::F16 => 2,
        KvDtype::Bf16 => 3,
        KvDtype::Int8 => 4,
        KvDtype::Int4 => 5,
    }
}

const fn dtype_of(code: u8) -> Option<KvDtype> {
    match code {
        1 => Some(KvDtype::F32),
        2 => Some(KvDtype::F16),
        3 => Some(KvDtype::Bf16),
        4 => Some(KvDtype::Int8),
        5 => Some(KvDtype::Int4),
        _ => None,
    }
}

/// The `N` bytes at `start`; a place outside the fixed layout is a bug of the caller.
pub(crate) fn field<const N: usize>(bytes: &[u8], start: usize) -> [u8; N] {
    let mut field = [0; N];
    field.copy_from_slice(&bytes[start..start + N]);
    field
}
