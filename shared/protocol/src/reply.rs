//! What a cloud answers: a manifest before the layers, a list of prompts, or a refusal.

use edgeprompt_kv::{
    KvDtype, KvGeometry, LayerRange, ModelDigest, PromptId, TokenId, TokenPosition,
};
use serde::{Deserialize, Serialize};

use crate::invalid::check_layers;
use crate::prompt::{check_text, check_tokens};
use crate::{FetchId, InvalidMessage, PromptName, Refusal};

/// Most entries of a list of prompts: at under 170 bytes each they fit a third of a message.
pub const PROMPT_ENTRIES_MAX: usize = 4096;

/// Largest layer: 131 072 tokens of 8 KV heads of 128 in f32, as in the longest Llama contexts.
pub const LAYER_BYTES_MAX: usize = 1 << 30;

/// Everything a cloud can answer.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CloudReply {
    /// The layers follow, each on a stream of its own.
    Manifest(Manifest),
    /// The prompts served by name.
    Prompts(Vec<PromptEntry>),
    /// The request was understood and is not served.
    Refused(Refusal),
}

/// What the layers of one fetch are, sent before any of them.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The fetch this answers.
    pub fetch: FetchId,
    /// The identity of the prompt: the hash of `model` and `tokens`, checked on arrival.
    pub prompt: PromptId,
    /// The model that computes it.
    pub model: ModelDigest,
    /// The shape of the model's KV.
    pub geometry: KvGeometry,
    /// The number format of the layers.
    pub dtype: KvDtype,
    /// The layers that follow.
    pub layers: LayerRange,
    /// The tokens of the prompt, so that an edge can compute missing layers itself.
    pub tokens: Vec<TokenId>,
    /// The public text, when the prompt was made from one.
    pub text: Option<String>,
    /// Whether the layers exist already.
    pub source: KvSource,
}

/// Where a prompt's layers come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum KvSource {
    /// Computed before, read from the store.
    Stored,
    /// Computed now, each sent as soon as it exists.
    Computing,
}

/// A prompt that a cloud serves by name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PromptEntry {
    /// Its name.
    pub name: PromptName,
    /// Its identity under the cloud's model.
    pub prompt: PromptId,
    /// Its length in tokens; also the position of the first private token.
    pub token_count: u32,
}

impl CloudReply {
    pub(crate) fn check(&self) -> Result<(), InvalidMessage> {
        match self {
            Self::Manifest(manifest) => manifest.check(),
            Self::Prompts(entries) if entries.len() > PROMPT_ENTRIES_MAX => {
                Err(InvalidMessage::TooManyEntries {
                    entry_count: entries.len(),
                })
            }
            Self::Prompts(_) | Self::Refused(_) => Ok(()),
        }
    }
}

impl Manifest {
    /// Bytes of every layer's payload.
    pub const fn layer_bytes(&self) -> usize {
        self.geometry.layer_bytes(self.tokens.len(), self.dtype)
    }

    /// Bytes of all layers' payloads together.
    pub const fn total_bytes(&self) -> usize {
        self.layer_bytes() * self.layers.len()
    }

    /// The position of the first token after the prompt.
    pub fn end(&self) -> TokenPosition {
        let count = u32::try_from(self.tokens.len());
        TokenPosition(count.expect("a checked manifest has at most PROMPT_TOKENS_MAX tokens"))
    }

    fn check(&self) -> Result<(), InvalidMessage> {
        let geometry = self.geometry.validated()?;
        check_layers(self.layers, geometry.layer_count())?;
        check_tokens(&self.tokens)?;
        self.text.as_deref().map_or(Ok(()), check_text)?;
        if self.layer_bytes() > LAYER_BYTES_MAX {
            return Err(InvalidMessage::LayerTooLarge {
                bytes: self.layer_bytes(),
            });
        }
        if self.prompt != PromptId::of(&self.model, &self.tokens) {
            return Err(InvalidMessage::PromptId {
                claimed: self.prompt,
            });
        }
        Ok(())
    }
}
