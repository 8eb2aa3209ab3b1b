//! Text to token ids and back, and the exact cut between a public and a private text.

use std::path::Path;

use edgeprompt_kv::TokenId;
use tokenizers::Tokenizer;

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
        "the cut between cloud prompt and private prompt is not at a token boundary (the whole prompt tokenises differently from cloud token {first_difference} of {cloud_len} on); end the cloud prompt, or begin the private one, with a space or a new line"
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

/// A model's tokenizer.
#[derive(Clone, Debug)]
pub struct TextTokenizer {
    inner: Tokenizer,
}

impl TextTokenizer {
    /// Reads a `tokenizer.json`.
    ///
    /// # Errors
    /// [`TokenizerError::File`].
    pub fn open(file: &Path) -> Result<Self, TokenizerError> {
        let error = |reason: String| TokenizerError::File {
            file: file.display().to_string(),
            reason,
        };
        let bytes = std::fs::read(file).map_err(|e| error(e.to_string()))?;
        Self::from_json(&bytes).map_err(error)
    }

    /// Parses the bytes of a `tokenizer.json`; the error is the library's sentence.
    pub(crate) fn from_json(bytes: &[u8]) -> Result<Self, String> {
        let mut inner = Tokenizer::from_bytes(bytes).map_err(|e| e.to_string())?;
        // A prompt is never silently shortened or padded, whatever the file was trained with.
        inner.with_truncation(None).map_err(|e| e.to_string())?;
        inner.with_padding(None);
        Ok(Self { inner })
    }

    /// The tokens of a text that begins a sequence, with the special tokens the model begins with.
    ///
    /// # Errors
    /// [`TokenizerError::Encode`].
    pub fn encode(&self, text: &str) -> Result<Vec<TokenId>, TokenizerError> {
        let encoding = self.inner.encode_fast(text, true);
        let encoding = encoding.map_err(|_| TokenizerError::Encode { bytes: text.len() })?;
        Ok(encoding.get_ids().iter().copied().map(TokenId).collect())
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
#[derive(Debug)]
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
}
