//! Content identities: a model, a tokenizer, a cloud prompt and one layer's bytes, each a BLAKE3 hash.

use std::fmt;
use std::marker::PhantomData;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::TokenId;

/// Why a printed digest could not be read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 64 hexadecimal digits")]
pub struct ParseDigestError;

/// What a [`Digest`] names; a digest of one kind never stands where another belongs.
pub trait DigestKind {
    /// The word that `Debug` prints.
    const NAME: &'static str;
}

/// A BLAKE3 hash that names a `K`.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Digest<K> {
    bytes: [u8; 32],
    kind: PhantomData<K>,
}

/// Marks digests of models.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Model {}
/// Marks digests of cloud prompts.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Prompt {}
/// Marks digests of layer payloads.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Layer {}

impl DigestKind for Model {
    const NAME: &'static str = "ModelDigest";
}
impl DigestKind for Prompt {
    const NAME: &'static str = "PromptId";
}
impl DigestKind for Layer {
    const NAME: &'static str = "LayerDigest";
}

/// Identifies a model between nodes: configuration, tensors and tokenizer.
pub type ModelDigest = Digest<Model>;
/// Identifies a cloud prompt: the model that computes it and its token ids.
pub type PromptId = Digest<Prompt>;
/// Identifies the bytes of one layer's keys and values.
pub type LayerDigest = Digest<Layer>;

impl<K> Digest<K> {
    /// Wraps 32 hash bytes.
    pub const fn new(bytes: [u8; 32]) -> Self {
        Self {
            bytes,
            kind: PhantomData,
        }
    }

    /// The 32 hash bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.bytes
    }

    /// The first eight hexadecimal digits: enough for a person to tell two apart.
    pub fn short(&self) -> String {
        self.to_string()[..8].to_owned()
    }
}

impl<K> From<blake3::Hash> for Digest<K> {
    fn from(hash: blake3::Hash) -> Self {
        Self::new(*hash.as_bytes())
    }
}

impl<K> fmt::Display for Digest<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&blake3::Hash::from_bytes(self.bytes).to_hex())
    }
}

impl<K: DigestKind> fmt::Debug for Digest<K> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}({})", K::NAME, self.short())
    }
}

impl<K> FromStr for Digest<K> {
    type Err = ParseDigestError;

    fn from_str(text: &str) -> Result<Self, ParseDigestError> {
        blake3::Hash::from_hex(text)
            .map(Self::from)
            .map_err(|_| ParseDigestError)
    }
}

impl PromptId {
    /// The identity of `tokens` under a model; the model digest already covers the tokenizer.
    ///
    /// Token ids, not text, go under the hash: two texts that tokenise alike share their KV, and a
    /// template that renders differently does not.
    pub fn of(model: &ModelDigest, tokens: &[TokenId]) -> Self {
        let mut hasher = blake3::Hasher::new_derive_key("edgeprompt 2026-11 prompt id");
        hasher.update(model.as_bytes());
        hasher.update(&(tokens.len() as u64).to_le_bytes());
        for token in tokens {
            hasher.update(&token.0.to_le_bytes());
        }
        hasher.finalize().into()
    }
}

impl LayerDigest {
    /// The digest of a layer's payload.
    pub fn of(payload: &[u8]) -> Self {
        blake3::hash(payload).into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_survives_printing() {
        let digest = LayerDigest::of(b"layer");
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!("xyz".parse::<LayerDigest>(), Err(ParseDigestError));
    }

    #[test]
    fn a_prompt_id_depends_on_the_model_and_every_token() {
        let tokens = |ids: &[u32]| ids.iter().copied().map(TokenId).collect::<Vec<_>>();
        let (a, b) = (ModelDigest::new([1; 32]), ModelDigest::new([2; 32]));
        let id = PromptId::of(&a, &tokens(&[1, 2, 3]));
        assert_eq!(id, PromptId::of(&a, &tokens(&[1, 2, 3])));
        assert_ne!(id, PromptId::of(&b, &tokens(&[1, 2, 3])));
        assert_ne!(id, PromptId::of(&a, &tokens(&[1, 2])));
        assert_ne!(id, PromptId::of(&a, &tokens(&[1, 3, 2])));
    }
}
