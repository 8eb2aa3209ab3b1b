//! Text to token ids and back, and the exact cut between a public and a private text.

use std::fmt;
use std::path::Path;

use edgeprompt_kv::TokenId;
use serde_json::Value;
use tokenizers::Tokenizer;

use crate::file_bytes::read_within;
use crate::published_tokenizer::check_published;

/// Why text and tokens could not be turned into each other.
#[derive(Debug, thiserror::Error)]
pub enum TokenizerError {
    /// The file is not a tokenizer.
    #[error("{file}: {reason}")]
    File {
        /// The file.
        file: String,
        /// What the tokenizer library said.
        reason: String,
    },
    /// The library failed on this text; the text itself is not repeated.
    #[error("the tokenizer failed on {bytes} bytes of text")]
    Encode {
        /// Length of the text.
        bytes: usize,
    },
    /// The text has a token that the model has no weights for.
    #[error("token {token} is outside the model's vocabulary of {vocab_size}")]
    OutsideVocabulary {
        /// The token.
        token: u32,
        /// Tokens of the model.
        vocab_size: usize,
    },
    /// The library failed on these tokens.
    #[error("the tokenizer failed to decode {tokens} tokens")]
    Decode {
        /// How many tokens.
        tokens: usize,
    },
}

/// Why a public and a private text cannot be cut where they meet.
#[derive(Debug, thiserror::Error)]
pub enum SplitError {
    /// Tokenising the whole prompt merges characters across the cut.
    #[error(
        "the cut between cloud prompt and private prompt is not at a token boundary (the whole prompt tokenises differently from cloud token {first_difference} of {cloud_len} on); end the cloud prompt with a line break, and begin the private one with neither a space nor another line break"
    )]
    InsideToken {
        /// The first cloud token that whole-prompt tokenisation disagrees with.
        first_difference: usize,
        /// Tokens of the cloud prompt alone.
        cloud_len: usize,
    },
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// Largest `tokenizer.json` read, in bytes; those of published models are below 40 million.
pub(crate) const TOKENIZER_BYTES_MAX: u64 = 64 << 20;

/// A model's tokenizer.
#[derive(Clone, Debug)]
pub struct TextTokenizer {
    inner: Tokenizer,
    vocab_size: usize,
}

impl TextTokenizer {
    /// Reads a `tokenizer.json` for a model of `vocab_size` tokens.
    ///
    /// # Errors
    /// [`TokenizerError::File`].
    pub fn open(file: &Path, vocab_size: usize) -> Result<Self, TokenizerError> {
        let error = |reason: String| TokenizerError::File {
            file: file.display().to_string(),
            reason,
        };
        let bytes = read_within(file, TOKENIZER_BYTES_MAX).map_err(|e| error(e.to_string()))?;
        Self::from_json(&bytes, vocab_size).map_err(error)
    }

    /// Parses the bytes of a `tokenizer.json`; the error is one sentence.
    pub(crate) fn from_json(bytes: &[u8], vocab_size: usize) -> Result<Self, String> {
        let published: Value = serde_json::from_slice(bytes).map_err(|e| e.to_string())?;
        check_published(&published)?;
        let inner = serde_json::from_value(published);
        let mut inner: Tokenizer = inner.map_err(|e| e.to_string())?;
        // A prompt is never silently shortened or padded, whatever the file was trained with.
        inner.with_truncation(None).map_err(|e| e.to_string())?;
        inner.with_padding(None);
        Ok(Self { inner, vocab_size })
    }

    /// The tokens of a text that begins a sequence, with the special tokens the model begins with.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`] or [`TokenizerError::OutsideVocabulary`].
    pub fn encode(&self, text: &str) -> Result<Vec<TokenId>, TokenizerError> {
        let encoding = self.inner.encode_fast(text, true);
        let encoding = encoding.map_err(|_| TokenizerError::Encode { bytes: text.len() })?;
        let ids = encoding.get_ids().iter();
        ids.map(|id| self.known(*id)).collect()
    }

    fn known(&self, token: u32) -> Result<TokenId, TokenizerError> {
        let vocab_size = self.vocab_size;
        if usize::try_from(token).is_ok_and(|token| token < vocab_size) {
            return Ok(TokenId(token));
        }
        Err(TokenizerError::OutsideVocabulary { token, vocab_size })
    }

    /// The text of tokens, without special tokens.
    ///
    /// # Errors
    /// [`TokenizerError::Decode`].
    pub fn decode(&self, tokens: &[TokenId]) -> Result<String, TokenizerError> {
        let ids: Vec<u32> = tokens.iter().map(|token| token.0).collect();
        self.inner
            .decode(&ids, true)
            .map_err(|_| TokenizerError::Decode { tokens: ids.len() })
    }

    /// Cuts `cloud_text + private_text` after the tokens of `cloud_text`.
    ///
    /// The private tokens are those of the *whole* prompt after the cut, so the two parts
    /// concatenated are exactly what one machine would compute.
    ///
    /// # Errors
    /// [`SplitError::InsideToken`] if the whole prompt has no token boundary there.
    pub fn private_tokens(
        &self,
        cloud_tokens: &[TokenId],
        cloud_text: &str,
        private_text: &str,
    ) -> Result<Vec<TokenId>, SplitError> {
        let mut whole = self.encode(&format!("{cloud_text}{private_text}"))?;
        let pairs = cloud_tokens.iter().zip(&whole);
        let agreed = pairs.take_while(|(cloud, whole)| cloud == whole).count();
        if agreed < cloud_tokens.len() {
            let cloud_len = cloud_tokens.len();
            return Err(SplitError::InsideToken {
                first_difference: agreed,
                cloud_len,
            });
        }
        Ok(whole.split_off(agreed))
    }

    /// The written form of one token, for showing where a prompt is cut.
    pub fn token_text(&self, token: TokenId) -> Option<String> {
        self.inner.id_to_token(token.0)
    }
}

/// How many tokens before the first new one are decoded with it: spacing depends on them.
const CONTEXT_LEN: usize = 6;

/// Turns generated tokens into text as they come, never splitting a character.
pub struct TextStream<'a> {
    tokenizer: &'a TextTokenizer,
    /// The last tokens already shown, then those not shown yet.
    tokens: Vec<TokenId>,
    shown: usize,
}

impl<'a> TextStream<'a> {
    /// A stream that continues `prompt`.
    pub fn after(tokenizer: &'a TextTokenizer, prompt: &[TokenId]) -> Self {
        let tokens = prompt[prompt.len().saturating_sub(CONTEXT_LEN)..].to_vec();
        Self {
            tokenizer,
            shown: tokens.len(),
            tokens,
        }
    }

    /// Takes the next token and gives back the text that is complete by now, perhaps none.
    ///
    /// # Errors
    /// [`TokenizerError::Decode`].
    pub fn push(&mut self, token: TokenId) -> Result<String, TokenizerError> {
        self.tokens.push(token);
        let before = self.tokenizer.decode(&self.tokens[..self.shown])?;
        let now = self.tokenizer.decode(&self.tokens)?;
        // A token that ends inside a character decodes to a replacement character until the rest
        // of it arrives.
        if now.ends_with(char::REPLACEMENT_CHARACTER) || !now.starts_with(&before) {
            return Ok(String::new());
        }
        let text = now[before.len()..].to_owned();
        let keep = self.tokens.len().saturating_sub(CONTEXT_LEN);
        self.tokens.drain(..keep);
        self.shown = self.tokens.len();
        Ok(text)
    }

    /// The text held back because the last token ends inside a character, with a replacement
    /// character for what never came.
    ///
    /// # Errors
    /// [`TokenizerError::Decode`].
    pub fn finish(self) -> Result<String, TokenizerError> {
        let before = self.tokenizer.decode(&self.tokens[..self.shown])?;
        let now = self.tokenizer.decode(&self.tokens)?;
        Ok(now.strip_prefix(&before).unwrap_or_default().to_owned())
    }
}

/// Shows no text: it may be private.
impl fmt::Debug for TextStream<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let held_back = self.tokens.len() - self.shown;
        f.debug_struct("TextStream")
            .field("held_back", &held_back)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn published(change: impl FnOnce(&mut Value)) -> Result<TextTokenizer, String> {
        let mut value = json!({
            "version": "1.0", "added_tokens": [], "normalizer": null, "decoder": {"type": "Fuse"},
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 9}, "merges": ["a b"]},
        });
        change(&mut value);
        TextTokenizer::from_json(value.to_string().as_bytes(), 3)
    }

    #[test]
    fn a_token_without_weights_is_refused_where_it_occurs() {
        let tokenizer = published(|_| {}).unwrap();
        assert_eq!(tokenizer.encode("ba").unwrap(), [TokenId(1), TokenId(0)]);
        let error = tokenizer.encode("ab").unwrap_err().to_string();
        assert_eq!(error, "token 9 is outside the model's vocabulary of 3");
    }
}
