//! How an edge names a cloud prompt: by name, by id, or by sending text that is public.
//!
//! Nothing here can hold the private part of a prompt.

use std::fmt;
use std::str::FromStr;

use edgeprompt_kv::{PromptId, TokenId};
use serde::{Deserialize, Serialize};

use crate::InvalidMessage;

/// Longest name of a prompt: it becomes a file name, and file systems allow 255 bytes.
pub const PROMPT_NAME_BYTES_MAX: usize = 128;

/// Longest public text; more than the longest context needs at four bytes a token.
pub const PUBLIC_TEXT_BYTES_MAX: usize = 1 << 20;

/// Most tokens of a prompt: the longest context of a Llama-family model.
pub const PROMPT_TOKENS_MAX: usize = 131_072;

/// Why a name is not a prompt's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PromptNameError {
    /// Empty or too long.
    #[error("a prompt name has 1 to {PROMPT_NAME_BYTES_MAX} bytes, not {bytes}")]
    Length {
        /// Bytes of the name.
        bytes: usize,
    },
    /// A character that file names and terminals do not all take.
    #[error("a prompt name has letters, digits, `.`, `_` and `-`, and does not start with `.`")]
    Character,
}

/// The name of a cloud prompt, safe as a file name and on a terminal.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PromptName(String);

impl PromptName {
    /// The name as text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for PromptName {
    type Error = PromptNameError;

    fn try_from(name: String) -> Result<Self, PromptNameError> {
        if name.is_empty() || name.len() > PROMPT_NAME_BYTES_MAX {
            return Err(PromptNameError::Length { bytes: name.len() });
        }
        let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
        if name.starts_with('.') || !name.bytes().all(allowed) {
            return Err(PromptNameError::Character);
        }
        Ok(Self(name))
    }
}

impl FromStr for PromptName {
    type Err = PromptNameError;

    fn from_str(name: &str) -> Result<Self, PromptNameError> {
        Self::try_from(name.to_owned())
    }
}

impl From<PromptName> for String {
    fn from(name: PromptName) -> Self {
        name.0
    }
}

impl fmt::Display for PromptName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for PromptName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PromptName({})", self.0)
    }
}

/// Which cloud prompt an edge asks for.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PromptRef {
    /// A prompt the cloud serves under a name.
    Named(PromptName),
    /// A prompt whose identity the edge knows already.
    Id(PromptId),
    /// A prompt whose content the edge's user declared public.
    Public(PublicPrompt),
}

/// Prompt content that its user declared public.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum PublicPrompt {
    /// Text, tokenised by the cloud.
    Text(String),
    /// Token ids of the model's own vocabulary.
    Tokens(Vec<TokenId>),
}

impl PromptRef {
    pub(crate) fn check(&self) -> Result<(), InvalidMessage> {
        match self {
            Self::Named(_) | Self::Id(_) => Ok(()),
            Self::Public(PublicPrompt::Text(text)) => check_text(text),
            Self::Public(PublicPrompt::Tokens(tokens)) => check_tokens(tokens),
        }
    }
}

pub(crate) fn check_text(text: &str) -> Result<(), InvalidMessage> {
    if text.is_empty() {
        return Err(InvalidMessage::EmptyPrompt);
    }
    if text.len() > PUBLIC_TEXT_BYTES_MAX {
        return Err(InvalidMessage::TextTooLong { bytes: text.len() });
    }
    Ok(())
}

pub(crate) fn check_tokens(tokens: &[TokenId]) -> Result<(), InvalidMessage> {
    if tokens.is_empty() {
        return Err(InvalidMessage::EmptyPrompt);
    }
    if tokens.len() > PROMPT_TOKENS_MAX {
        return Err(InvalidMessage::TooManyTokens {
            token_count: tokens.len(),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_safe_as_file_names() {
        for good in [
            "a",
            "support-desk_v1.2",
            "A9",
            &"n".repeat(PROMPT_NAME_BYTES_MAX),
        ] {
            assert_eq!(good.parse::<PromptName>().unwrap().as_str(), good);
        }
        for bad in [".hidden", "a/b", "a b", "é", "..", "a\n", "\u{1b}[2J"] {
            assert_eq!(
                bad.parse::<PromptName>(),
                Err(PromptNameError::Character),
                "{bad:?}"
            );
        }
        assert_eq!(
            "".parse::<PromptName>(),
            Err(PromptNameError::Length { bytes: 0 })
        );
        let long = "n".repeat(PROMPT_NAME_BYTES_MAX + 1);
        assert_eq!(
            long.parse::<PromptName>(),
            Err(PromptNameError::Length { bytes: 129 })
        );
    }
}
