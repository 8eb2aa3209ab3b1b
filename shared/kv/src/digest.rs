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
/// Marks digests of layers on their way.
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
/// Identifies one layer on its way: its prompt, its header and its bytes.
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

/// Hashes one layer on its way: what it claims to be, then its bytes as they come.
///
/// The prompt's identity is the key, so that a layer of another prompt does not verify, whatever
/// its bytes; it covers the model and the tokens.
#[derive(Clone, Debug)]
pub struct LayerHasher(blake3::Hasher);

impl LayerHasher {
    /// Begins with the header of a layer of `prompt`.
    pub fn new(prompt: &PromptId, header: &[u8]) -> Self {
        let mut hasher = blake3::Hasher::new_keyed(prompt.as_bytes());
        hasher.update(header);
        Self(hasher)
    }

    /// Takes the next bytes of the payload.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The digest of all of it.
    pub fn finish(&self) -> LayerDigest {
        self.0.finalize().into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_digest_survives_printing() {
        let digest = LayerDigest::new([0xa5; 32]);
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!("xyz".parse::<LayerDigest>(), Err(ParseDigestError));
    }

    #[test]
    fn a_layer_digest_depends_on_the_prompt_the_header_and_every_byte() {
        let digest = |prompt: u8, header: &[u8], payload: &[u8]| {
            let mut hasher = LayerHasher::new(&PromptId::new([prompt; 32]), header);
            for byte in payload {
                hasher.update(&[*byte]);
            }
            hasher.finish()
        };
        let whole = digest(1, b"head", b"payload");
        assert_eq!(whole, digest(1, b"head", b"payload"));
        assert_ne!(whole, digest(2, b"head", b"payload"));
        assert_ne!(whole, digest(1, b"heat", b"payload"));
        assert_ne!(whole, digest(1, b"head", b"payloae"));
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
