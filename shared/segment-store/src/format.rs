//! The bytes of a segment file's head, and what is derived from them. Pure.
//!
//! All integers are little-endian. A file is
//!
//! ```text
//! offset  bytes
//! 0       8      "EPSEGMT1"
//! 8       4      H, bytes of the header
//! 12      H      the header: id 32, model 32, layers 4, KV heads 4, head dimension 4,
//!                number format 1, whether there is a text 1, zero 2,
//!                tokens 4, bytes of the text 4, each token 4, the text
//! 12+H    32     BLAKE3 of everything before
//! ```
//! then for each layer its payload and 32 bytes of BLAKE3, keyed with the digest above, over the
//! layer's index (4) and the payload: a layer of another file, or in another place, does not verify.

use std::sync::Arc;

use edgeprompt_kv::{KvDtype, KvGeometry, LayerIndex, ModelDigest, PromptId, TokenId};
use edgeprompt_protocol::{LAYER_BYTES_MAX, PROMPT_TOKENS_MAX, PUBLIC_TEXT_BYTES_MAX};

/// How every file begins; another layout is another word.
pub(crate) const MAGIC: [u8; 8] = *b"EPSEGMT1";

/// Bytes before the header.
pub(crate) const PREFIX_BYTES: usize = MAGIC.len() + 4;

/// Bytes of a digest.
pub(crate) const DIGEST_BYTES: usize = 32;

/// Bytes of a header without tokens and text.
const HEADER_FIXED_BYTES: usize = 2 * 32 + 3 * 4 + 4 + 2 * 4;

/// Largest header: that of the longest prompt that travels between nodes.
pub const SEGMENT_HEADER_BYTES_MAX: usize =
    HEADER_FIXED_BYTES + 4 * PROMPT_TOKENS_MAX + PUBLIC_TEXT_BYTES_MAX;

/// What a segment is of: everything but the numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SegmentInfo {
    /// The model that computes it.
    pub model: ModelDigest,
    /// The shape of the model's keys and values.
    pub geometry: KvGeometry,
    /// The number format of the layers.
    pub dtype: KvDtype,
    /// The public tokens.
    pub tokens: Arc<[TokenId]>,
    /// The public text, if the prompt was made from one.
    pub text: Option<Arc<str>>,
}

impl SegmentInfo {
    /// The identity of the prompt.
    pub fn id(&self) -> PromptId {
        PromptId::of(&self.model, &self.tokens)
    }

    /// Bytes of every layer's payload.
    pub fn layer_bytes(&self) -> usize {
        self.geometry.layer_bytes(self.tokens.len(), self.dtype)
    }

    /// Bytes of the whole file.
    pub fn file_bytes(&self) -> u64 {
        let head = PREFIX_BYTES + self.header_bytes() + DIGEST_BYTES;
        let layer = self.layer_bytes() as u64 + DIGEST_BYTES as u64;
        head as u64 + layer * u64::from(self.geometry.layer_count())
    }

    pub(crate) fn header_bytes(&self) -> usize {
        let text_bytes = self.text.as_ref().map_or(0, |text| text.len());
        HEADER_FIXED_BYTES + 4 * self.tokens.len() + text_bytes
    }

    /// Whether this can be written and read back.
    pub(crate) fn check(&self) -> Result<(), SegmentProblem> {
        let text_bytes = self.text.as_ref().map_or(0, |text| text.len());
        let tokens_fit = (1..=PROMPT_TOKENS_MAX).contains(&self.tokens.len());
        if !tokens_fit || text_bytes > PUBLIC_TEXT_BYTES_MAX {
            return Err(SegmentProblem::Size);
        }
        match self.layer_bytes() <= LAYER_BYTES_MAX {
            true => Ok(()),
            false => Err(SegmentProblem::Size),
        }
    }

    /// Everything before the first layer, and the key of the layers' digests.
    pub(crate) fn head(&self) -> Result<(Vec<u8>, [u8; DIGEST_BYTES]), SegmentProblem> {
        self.check()?;
        let narrow = |count: usize| u32::try_from(count).map_err(|_| SegmentProblem::Size);
        let header_bytes = self.header_bytes();
        let mut head = Vec::with_capacity(PREFIX_BYTES + header_bytes + DIGEST_BYTES);
        head.extend(MAGIC);
        head.extend(narrow(header_bytes)?.to_le_bytes());
        head.extend(self.id().as_bytes());
        head.extend(self.model.as_bytes());
        head.extend(self.geometry.layer_count().to_le_bytes());
        head.extend(narrow(self.geometry.kv_head_count())?.to_le_bytes());
        head.extend(narrow(self.geometry.head_dim())?.to_le_bytes());
        let text = self.text.as_deref();
        head.extend([dtype_code(self.dtype), u8::from(text.is_some()), 0, 0]);
        head.extend(narrow(self.tokens.len())?.to_le_bytes());
        head.extend(narrow(text.map_or(0, str::len))?.to_le_bytes());
        head.extend(self.tokens.iter().flat_map(|token| token.0.to_le_bytes()));
        head.extend(text.unwrap_or_default().as_bytes());
        let digest = blake3::hash(&head);
        head.extend(digest.as_bytes());
        Ok((head, *digest.as_bytes()))
    }

    /// Reads a header that was found to be whole.
    ///
    /// # Errors
    /// [`SegmentProblem`] if it is not one, or contradicts itself.
    pub(crate) fn decode(header: &[u8]) -> Result<Self, SegmentProblem> {
        let mut rest = Fields(header);
        let id = PromptId::new(rest.take()?);
        let model = ModelDigest::new(rest.take()?);
        let [layer_count, kv_head_count, head_dim] = [rest.int()?, rest.int()?, rest.int()?];
        let geometry = KvGeometry::new(layer_count, kv_head_count, head_dim);
        let geometry = geometry.map_err(|_| SegmentProblem::Header)?;
        let [dtype, has_text, 0, 0] = rest.take()? else {
            return Err(SegmentProblem::Header);
        };
        let (token_count, text_bytes) = (rest.int()? as usize, rest.int()? as usize);
        if token_count > PROMPT_TOKENS_MAX || text_bytes > PUBLIC_TEXT_BYTES_MAX {
            return Err(SegmentProblem::Size);
        }
        // Both are at most the header's own length from here on.
        let (tokens, _) = rest.slice(4 * token_count)?.as_chunks();
        let text = std::str::from_utf8(rest.slice(text_bytes)?);
        let text = text.map_err(|_| SegmentProblem::Header)?;
        let info = Self {
            model,
            geometry,
            dtype: dtype_of(dtype)?,
            tokens: tokens
                .iter()
                .map(|token| TokenId(u32::from_le_bytes(*token)))
                .collect(),
            text: match (has_text, text) {
                (0, "") => None,
                (1, text) => Some(text.into()),
                _ => return Err(SegmentProblem::Header),
            },
        };
        if !rest.0.is_empty() {
            return Err(SegmentProblem::Header);
        }
        info.check()?;
        match info.id() == id {
            true => Ok(info),
            false => Err(SegmentProblem::PromptId),
        }
    }
}

/// Why bytes are not the segment that they claim to be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SegmentProblem {
    /// It begins otherwise.
    #[error("it is not a segment file of this version")]
    Magic,
    /// The header does not hash to its digest.
    #[error("its header does not match its digest")]
    HeaderDigest,
    /// The header is not one.
    #[error("its header is malformed")]
    Header,
    /// It claims more tokens, text or bytes than a prompt can have.
    #[error("it claims a size that no cloud prompt has")]
    Size,
    /// The tokens do not hash to the identity.
    #[error("its tokens do not hash to its identity")]
    PromptId,
    /// It is another prompt's.
    #[error("it holds another prompt than its name says")]
    OtherPrompt,
    /// The file is longer or shorter than its header says.
    #[error("it has {actual} bytes and its header says {expected}")]
    Length {
        /// Bytes by the header.
        expected: u64,
        /// Bytes of the file.
        actual: u64,
    },
    /// A layer's bytes do not hash to its digest.
    #[error("layer {0} does not match its digest")]
    LayerDigest(u32),
}

/// The digest of one layer, bound to its file and its place by the key and the index.
pub(crate) fn layer_digest(
    key: &[u8; DIGEST_BYTES],
    layer: LayerIndex,
    payload: &[u8],
) -> blake3::Hash {
    let mut hasher = blake3::Hasher::new_keyed(key);
    hasher.update(&layer.0.to_le_bytes());
    hasher.update(payload);
    hasher.finalize()
}

const fn dtype_code(dtype: KvDtype) -> u8 {
    match dtype {
        KvDtype::F32 => 0,
        KvDtype::F16 => 1,
        KvDtype::Bf16 => 2,
        KvDtype::Int8 => 3,
        KvDtype::Int4 => 4,
    }
}

const fn dtype_of(code: u8) -> Result<KvDtype, SegmentProblem> {
    match code {
        0 => Ok(KvDtype::F32),
        1 => Ok(KvDtype::F16),
        2 => Ok(KvDtype::Bf16),
        3 => Ok(KvDtype::Int8),
        4 => Ok(KvDtype::Int4),
        _ => Err(SegmentProblem::Header),
    }
}

/// What is left of a header.
struct Fields<'a>(&'a [u8]);

impl<'a> Fields<'a> {
    fn slice(&mut self, bytes: usize) -> Result<&'a [u8], SegmentProblem> {
        let (taken, rest) = self
            .0
            .split_at_checked(bytes)
            .ok_or(SegmentProblem::Header)?;
        self.0 = rest;
        Ok(taken)
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], SegmentProblem> {
        let taken = self.0.split_first_chunk();
        let (taken, rest) = taken.ok_or(SegmentProblem::Header)?;
        self.0 = rest;
        Ok(*taken)
    }

    fn int(&mut self) -> Result<u32, SegmentProblem> {
        Ok(u32::from_le_bytes(self.take()?))
    }
}
