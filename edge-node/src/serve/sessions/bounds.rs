//! What readers and other edges bring, held against what this node can compute: the engine takes a
//! token that the model does not have, or one too many, for a fault of this program. Pure.

use edgeprompt_kv::TokenId;
use edgeprompt_protocol::{AnswerToken, Move, MoveRefusal, SessionOffer};

/// What this node can compute.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Bounds {
    /// Tokens that the model knows.
    pub(crate) vocab_size: usize,
    /// Most tokens of prompt and answer together.
    pub(crate) len_max: usize,
}

impl Bounds {
    /// Whether the model has all of these tokens.
    pub(crate) fn have(&self, tokens: &[TokenId]) -> bool {
        tokens.iter().all(|token| self.has(*token))
    }

    /// Whether the model has a token and all of its alternatives.
    pub(crate) fn have_all_of(&self, token: &AnswerToken) -> bool {
        self.has(token.token) && token.top.iter().all(|(token, _)| self.has(*token))
    }

    fn has(&self, token: TokenId) -> bool {
        (token.0 as usize) < self.vocab_size
    }

    /// An offer, with the length of the cloud prompt that it builds on.
    ///
    /// # Errors
    /// [`MoveRefusal`].
    pub(crate) fn check_offer(
        &self,
        offer: &SessionOffer,
        cloud_len: usize,
    ) -> Result<(), MoveRefusal> {
        let given = [&offer.prompt, &offer.context, &offer.terms.end_tokens];
        let are_known = given.iter().all(|tokens| self.have(tokens))
            && offer.answer.iter().all(|token| self.have_all_of(token));
        if !are_known {
            return Err(MoveRefusal::Vocabulary);
        }
        let max_tokens = offer.terms.max_tokens as usize;
        // The last token of an answer takes no position.
        let len = cloud_len + offer.prompt.len() + max_tokens - 1;
        match len <= self.len_max && offer.answer.len() < max_tokens {
            true => Ok(()),
            false => Err(MoveRefusal::TooLong),
        }
    }

    /// What follows an offer of an answer of at most `max_tokens`.
    ///
    /// # Errors
    /// [`MoveRefusal`].
    pub(crate) fn check_move(&self, order: &Move, max_tokens: usize) -> Result<(), MoveRefusal> {
        if !order.tokens.iter().all(|token| self.have_all_of(token)) {
            return Err(MoveRefusal::Vocabulary);
        }
        match order.order.len() < max_tokens {
            true => Ok(()),
            false => Err(MoveRefusal::TooLong),
        }
    }
}
