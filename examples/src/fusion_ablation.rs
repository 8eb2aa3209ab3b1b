//! Ways to answer a shop-desk case: split with exact fusion, and with each of the shortcuts that
//! look like attention and are not.

use edgeprompt_attention::Fusion;
use edgeprompt_engine::{CloudSegment, Sequence, SequenceOptions};
use edgeprompt_kv::{TokenId, TokenPosition};
use edgeprompt_model::{Model, ModelError, SplitError, TokenizerError};

use crate::shop_desk::Case;

/// Why a case has no tokens under a model.
#[derive(Debug, thiserror::Error)]
pub enum CaseTokensError {
    /// The model reads no text.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The tokenizer failed.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The parts do not meet at a token boundary.
    #[error(transparent)]
    Split(#[from] SplitError),
}

/// A case as token ids.
#[derive(Clone, Debug)]
pub struct CaseTokens {
    /// The cloud prompt.
    pub cloud: Vec<TokenId>,
    /// The private prompt.
    pub private: Vec<TokenId>,
    /// The right answer, up to and with its full stop.
    pub answer: Vec<TokenId>,
}

impl CaseTokens {
    /// The tokens of `case`, cut where the whole text's tokens have a boundary.
    ///
    /// # Errors
    /// [`CaseTokensError`].
    pub fn of(model: &Model, case: &Case) -> Result<Self, CaseTokensError> {
        let tokenizer = model.tokenizer()?;
        let cloud = tokenizer.encode(&case.cloud_text)?;
        let private = tokenizer.private_tokens(&cloud, &case.cloud_text, &case.edge_text)?;
        let (asked, asked_text) = (
            [&cloud[..], &private].concat(),
            format!("{}{}", case.cloud_text, case.edge_text),
        );
        let answer = tokenizer.private_tokens(&asked, &asked_text, &case.answer)?;
        Ok(Self {
            cloud,
            private,
            answer,
        })
    }
}

/// A way to answer.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Way {
    /// Both parts, split, fused in this way.
    Split(Fusion),
    /// Both parts, exactly fused, with private positions counted from 0.
    ForgottenOffset,
    /// The private prompt alone, after the token that begins every sequence.
    PrivateOnly,
    /// The cloud prompt alone.
    CloudOnly,
}

impl Way {
    /// Whether every token of the answer comes out right.
    pub fn answers(self, model: &Model, case: &CaseTokens) -> bool {
        let fusion = match self {
            Self::Split(fusion) => fusion,
            Self::ForgottenOffset | Self::PrivateOnly | Self::CloudOnly => Fusion::Exact,
        };
        let options = SequenceOptions {
            fusion,
            private_start: (self == Self::ForgottenOffset).then_some(TokenPosition(0)),
        };
        let (cloud, prompt) = match self {
            Self::Split(_) | Self::ForgottenOffset => {
                let segment = CloudSegment::computed(model, &case.cloud);
                (Some(segment), case.private.clone())
            }
            Self::PrivateOnly => (None, [&case.cloud[..1], &case.private].concat()),
            Self::CloudOnly => (None, case.cloud.clone()),
        };
        let mut sequence = Sequence::new(model, cloud, options);
        sequence.generate_greedy(&prompt, case.answer.len()) == case.answer
    }
}
