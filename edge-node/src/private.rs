//! What the user keeps private, in types that cannot be printed, stored or sent.
//!
//! They implement neither `Debug` nor `Serialize`, and nothing turns them into the content of a
//! request. A private text cannot be declared public by mistake:
//!
//! ```compile_fail,E0308
//! # use edge_node::private::PrivateText;
//! # use edgeprompt_protocol::PublicPrompt;
//! let text = PrivateText::new("my diagnosis".to_owned());
//! let public = PublicPrompt::Text(text);
//! ```
//!
//! nor can private tokens:
//!
//! ```compile_fail,E0308
//! # use edge_node::private::PrivateTokens;
//! # use edgeprompt_protocol::PublicPrompt;
//! let tokens = PrivateTokens::new(vec![]);
//! let public = PublicPrompt::Tokens(tokens);
//! ```
//!
//! nor can they pass the gate to the cloud:
//!
//! ```compile_fail,E0277
//! # use edge_node::private::PrivateTokens;
//! edgeprompt_protocol::codec::encode_to_cloud(&PrivateTokens::new(vec![]));
//! ```
//!
//! nor be printed:
//!
//! ```compile_fail,E0277
//! # use edge_node::private::PrivateText;
//! println!("{:?}", PrivateText::new("my diagnosis".to_owned()));
//! ```

use std::convert::Infallible;
use std::str::FromStr;

use edgeprompt_kv::TokenId;
use zeroize::Zeroize;

/// The user's words.
#[derive(Clone)]
pub struct PrivateText(String);

impl PrivateText {
    /// Takes private text in.
    pub const fn new(text: String) -> Self {
        Self(text)
    }

    /// The words, for the tokenizer on this node.
    pub fn for_tokenizer(&self) -> &str {
        &self.0
    }
}

impl FromStr for PrivateText {
    type Err = Infallible;

    fn from_str(text: &str) -> Result<Self, Infallible> {
        Ok(Self(text.to_owned()))
    }
}

/// The user's words as token ids, as they were typed: what cannot be read is not repeated.
#[derive(Clone)]
pub struct PrivateIds(String);

/// Why typed token ids are refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("private token id {place} is not a number of up to 32 bits")]
pub struct PrivateIdsError {
    /// Which of them, counted from 1.
    pub place: usize,
}

impl FromStr for PrivateIds {
    type Err = Infallible;

    fn from_str(ids: &str) -> Result<Self, Infallible> {
        Ok(Self(ids.to_owned()))
    }
}

impl PrivateIds {
    /// The tokens, for the engine on this node.
    ///
    /// # Errors
    /// [`PrivateIdsError`].
    pub fn tokens(&self) -> Result<Vec<TokenId>, PrivateIdsError> {
        let ids = (1..).zip(self.0.split(','));
        let parsed = ids.map(|(place, id)| {
            let id = id.trim().parse().map_err(|_| PrivateIdsError { place })?;
            Ok(TokenId(id))
        });
        parsed.collect()
    }
}

/// The user's words as tokens, and the tokens that follow from them.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct PrivateTokens(Vec<TokenId>);

impl PrivateTokens {
    /// Takes private tokens in.
    pub const fn new(tokens: Vec<TokenId>) -> Self {
        Self(tokens)
    }

    /// The tokens, for the engine on this node.
    pub fn for_engine(&self) -> &[TokenId] {
        &self.0
    }

    /// How many there are.
    pub const fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub const fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Overwrites and forgets them.
    pub(crate) fn wipe(&mut self) {
        for token in &mut self.0 {
            token.0.zeroize();
        }
        self.0.clear();
    }

    pub(crate) fn push(&mut self, token: TokenId) {
        self.0.push(token);
    }
}
