//! Why a cloud does not serve a request it understood, in words that say what to do next.

use edgeprompt_kv::{KvDtype, ModelDigest, TokenId};
use serde::{Deserialize, Serialize};

use crate::PromptName;

/// Why a cloud does not serve a request.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum Refusal {
    /// No prompt has that name.
    #[error(
        "the cloud has no prompt named {name}: ask it for the names it serves, or add the prompt there"
    )]
    UnknownPrompt {
        /// The name asked for.
        name: PromptName,
    },
    /// No prompt has that identity.
    #[error(
        "the cloud does not hold that prompt id: ask for the prompt by name, or send its public text"
    )]
    UnknownPromptId,
    /// The nodes run different models.
    #[error("the cloud runs model {}: start both nodes with the same model files", .cloud.short())]
    ModelMismatch {
        /// The cloud's model.
        cloud: ModelDigest,
    },
    /// The prompt does not fit the cloud's limit or the model's context.
    #[error(
        "the prompt has {token_count} tokens and the cloud takes {token_count_max}: shorten it"
    )]
    PromptTooLong {
        /// Tokens of the prompt.
        token_count: u32,
        /// Tokens the cloud takes.
        token_count_max: u32,
    },
    /// The prompt has no tokens.
    #[error("the prompt is empty: send at least one token")]
    PromptEmpty,
    /// The public prompt cannot be computed.
    #[error("the cloud refused the public prompt: {0}")]
    PublicPromptRefused(PublicPromptProblem),
    /// The cloud does not send that number format.
    #[error("the cloud does not send keys and values as {dtype}: ask for another number format")]
    UnsupportedDtype {
        /// The format asked for.
        dtype: KvDtype,
    },
    /// The model has fewer layers than asked for.
    #[error("the model has {layer_count} layers: ask for layers below that")]
    LayersOutOfRange {
        /// Layers of the model.
        layer_count: u32,
    },
    /// The cloud is at its limit.
    #[error(
        "the cloud is busy, for {waiting_count_max} prompts wait to be computed already: try again shortly"
    )]
    Busy {
        /// Prompts that may wait, of this edge or of all.
        waiting_count_max: u32,
    },
    /// The cloud failed; its own log says why.
    #[error("the cloud failed to serve the request: its log says why")]
    Internal,
}

/// What is wrong with a public prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum PublicPromptProblem {
    /// The cloud serves its own prompts only.
    #[error("it serves its own prompts only, so ask for one of them by name")]
    NotOffered,
    /// A token is not in the model's vocabulary.
    #[error("token {} is outside the vocabulary of {vocabulary_len}, so use the model's own tokenizer", .token.0)]
    OutsideVocabulary {
        /// The offending token.
        token: TokenId,
        /// Tokens in the vocabulary.
        vocabulary_len: u32,
    },
    /// The text cannot be tokenised.
    #[error("its tokenizer cannot read the text, so send token ids instead")]
    NotTokenisable,
}
