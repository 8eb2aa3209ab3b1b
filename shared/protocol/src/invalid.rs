//! Why a message that decodes is still refused. The checks live beside the messages.

use edgeprompt_kv::{GeometryError, LayerRange, PromptId};

use crate::prompt::{PROMPT_TOKENS_MAX, PUBLIC_TEXT_BYTES_MAX};
use crate::reply::{LAYER_BYTES_MAX, PROMPT_ENTRIES_MAX};

/// Why a well-formed message is not a valid one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum InvalidMessage {
    /// A public text is too long.
    #[error("a public text of {bytes} bytes exceeds {PUBLIC_TEXT_BYTES_MAX}")]
    TextTooLong {
        /// Bytes of the text.
        bytes: usize,
    },
    /// A prompt has too many tokens.
    #[error("a prompt of {token_count} tokens exceeds {PROMPT_TOKENS_MAX}")]
    TooManyTokens {
        /// Tokens of the prompt.
        token_count: usize,
    },
    /// A prompt has no text or no tokens.
    #[error("a prompt needs at least one token")]
    EmptyPrompt,
    /// A range of layers is empty, reversed or ends beyond the model.
    #[error("layers {start}..{end} are not a range within {layer_count} layers")]
    Layers {
        /// First layer.
        start: u32,
        /// First layer after the range.
        end: u32,
        /// Layers there are.
        layer_count: u32,
    },
    /// A geometry is zero or absurd.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
    /// One layer would be larger than any model this project serves needs.
    #[error("layers of {bytes} bytes exceed {LAYER_BYTES_MAX}")]
    LayerTooLarge {
        /// Bytes of one layer.
        bytes: usize,
    },
    /// The tokens do not hash to the prompt id beside them.
    #[error("the tokens are not those of prompt {}", .claimed.short())]
    PromptId {
        /// The id in the message.
        claimed: PromptId,
    },
    /// What moves a session contradicts itself or exceeds a limit.
    #[error("a session's {what} is not valid")]
    Session {
        /// What is wrong.
        what: &'static str,
    },
    /// The shape of what is to be spread over devices is beyond what there are models of, or
    /// contradicts itself.
    #[error("the shape of the leader's model is beyond the limits")]
    WorkerShape,
    /// More numbers follow than may.
    #[error("{count} numbers follow, more than may")]
    WorkerNumbers {
        /// How many.
        count: u32,
    },
    /// A list of rows, blocks or jobs is too long.
    #[error("a list of rows, blocks or jobs is too long")]
    WorkerList,
    /// A list of prompts is too long.
    #[error("a list of {entry_count} prompts exceeds {PROMPT_ENTRIES_MAX}")]
    TooManyEntries {
        /// Entries in the list.
        entry_count: usize,
    },
}

/// Checks that `layers` names at least one of `layer_count` layers.
pub(crate) fn check_layers(layers: LayerRange, layer_count: u32) -> Result<(), InvalidMessage> {
    let bounds = layers.bounds();
    if bounds.start < bounds.end && bounds.end <= layer_count {
        return Ok(());
    }
    Err(InvalidMessage::Layers {
        start: bounds.start,
        end: bounds.end,
        layer_count,
    })
}
