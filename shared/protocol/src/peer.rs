//! What edges of one trust domain say to each other about a user's session.
//!
//! Most of it is private: the types are not `Debug`, and none of them can be encoded for a cloud.

use std::fmt;

use edgeprompt_handover::session::{Claim, ClaimReply, Epoch, ToSource, ToTarget};
use edgeprompt_kv::{KvDtype, KvGeometry, ModelDigest, PromptId, TokenId};
use serde::{Deserialize, Serialize};

use crate::InvalidMessage;
use crate::prompt::{PROMPT_TOKENS_MAX, PromptName};

/// Most stop strings of a session, their longest, and the longest address.
const STOPS_MAX: usize = 16;
const STOP_BYTES_MAX: usize = 1024;
const URL_BYTES_MAX: usize = 1024;
/// Most tokens that end an answer.
const END_TOKENS_MAX: usize = 64;
/// Most alternatives told for a token.
const TOP_LOGPROBS_MAX: usize = 32;

/// Names a session: chance, so that none is named twice.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct SessionKey(pub [u8; 16]);

impl fmt::Display for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for SessionKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Lets whoever shows it read a session. A secret: neither printed nor logged.
#[derive(Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Ticket(pub [u8; 32]);

/// The first message of a stream.
#[derive(Clone, Serialize, Deserialize)]
pub enum PeerRequest {
    /// [`Move`]s follow, and [`MoveAnswer`]s come back.
    Move(Box<SessionOffer>),
    /// Keys and values of the session follow, as [`KvChunkHeader`](crate::KvChunkHeader) says.
    Kv {
        /// The session.
        session: SessionKey,
        /// Shows that the session was here.
        ticket: Ticket,
        /// The right that the move gives.
        epoch: Epoch,
    },
    /// [`ReaderNews`] come back.
    Read(Reading),
    /// A [`TargetSpeed`] comes back.
    Speed,
}

/// What an edge has measured of itself, for whoever plans to bring a session: it tells nothing of
/// anybody's text.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct TargetSpeed {
    /// Seconds of a prefill for each of its tokens.
    pub prefill_token_s: f64,
    /// Seconds of a prefill for each pair of tokens that see each other.
    pub prefill_pair_s: f64,
    /// How many times as long a prefill takes while keys and values come.
    pub receiving_factor: f64,
    /// Seconds of a step that only decodes.
    pub decode_s: f64,
    /// Tokens that a step computes, at most, of sessions that come and that nobody waits for yet.
    pub behind_len_max: u32,
}

/// A reader of a session.
#[derive(Clone, Serialize, Deserialize)]
pub struct Reading {
    /// The session.
    pub session: SessionKey,
    /// Lets it in.
    pub ticket: Ticket,
    /// Under which right.
    pub epoch: Epoch,
    /// What it wants.
    pub claim: Claim,
    /// The answer so far: the node may not have all of it yet.
    pub answer: Vec<TokenId>,
}

/// A session as its source offers it.
#[derive(Clone, Serialize, Deserialize)]
pub struct SessionOffer {
    /// The session.
    pub session: SessionKey,
    /// Lets its reader in.
    pub ticket: Ticket,
    /// The right that the move gives.
    pub epoch: Epoch,
    /// The model both nodes must run.
    pub model: ModelDigest,
    /// Its shape.
    pub geometry: KvGeometry,
    /// The cloud prompt before it, which the target has or gets for itself.
    pub cloud_prompt: Option<(PromptName, PromptId)>,
    /// The private prompt.
    pub prompt: Vec<TokenId>,
    /// Tokens before the prompt's end that spacing depends on, the cloud prompt's among them.
    pub context: Vec<TokenId>,
    /// The answer so far.
    pub answer: Vec<AnswerToken>,
    /// How it goes on.
    pub terms: SessionTerms,
    /// Private tokens that the target is to prefill; what follows comes as keys and values.
    pub prefill_len: u32,
    /// The number format of the keys and values.
    pub dtype: KvDtype,
}

/// How an answer is generated and told. The names are those of the API.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct SessionTerms {
    /// Divides the scores.
    pub temperature: f32,
    /// The most probable tokens that together have this share.
    pub top_p: f32,
    /// So many of the most probable.
    pub top_k: u32,
    /// At least this share of the most probable one's.
    pub min_p: f32,
    /// For tokens seen.
    pub repetition_penalty: f32,
    /// For tokens of the answer.
    pub presence_penalty: f32,
    /// For tokens of the answer, as often as they are in it.
    pub frequency_penalty: f32,
    /// Of the sampler.
    pub seed: u64,
    /// Most tokens of the answer.
    pub max_tokens: u32,
    /// Tokens that end it.
    pub end_tokens: Vec<TokenId>,
    /// Strings that end it.
    pub stops: Vec<String>,
    /// How many alternatives to tell of each token.
    pub top_logprobs: Option<u32>,
}

/// From the source of a move.
#[derive(Clone, Serialize, Deserialize)]
pub struct Move {
    /// What it is.
    pub order: ToTarget,
    /// The tokens that it speaks of.
    pub tokens: Vec<AnswerToken>,
}

/// A token of an answer, with what is told of it.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct AnswerToken {
    /// The token.
    pub token: TokenId,
    /// ln of its probability, if that is known.
    pub logprob: Option<f32>,
    /// The most probable tokens in its place.
    pub top: Vec<(TokenId, f32)>,
}

/// From the target of a move.
#[derive(Clone, Serialize, Deserialize)]
pub struct MoveAnswer {
    /// What it is.
    pub answer: ToSource,
    /// Private tokens whose keys and values are there, from the first on.
    pub computed_len: u32,
    /// Why it refuses, if it does.
    pub refusal: Option<MoveRefusal>,
    /// Where users reach the target, once it has agreed.
    pub url: Option<String>,
}

/// Why a token is the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum LastToken {
    /// It says so, and is not part of the answer.
    EndToken,
    /// The answer is as long as it may be.
    Length,
}

/// Why an edge does not take a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
pub enum MoveRefusal {
    /// Another model.
    #[error("the target runs another model")]
    OtherModel,
    /// No room.
    #[error("the target has no room for the session")]
    NoRoom,
    /// The cloud prompt cannot be had there.
    #[error("the target cannot get the session's cloud prompt")]
    NoCloudPrompt,
    /// Nothing is known of the session.
    #[error("the target knows nothing of the session")]
    Unknown,
    /// What was offered contradicts itself.
    #[error("the target takes the offer for invalid")]
    Invalid,
    /// A token that the model does not have.
    #[error("the session has a token that is outside the target's vocabulary")]
    Vocabulary,
    /// Prompt and answer are longer than the target allows, or the answer is complete.
    #[error("the session is longer than the target allows: see its --max-model-len")]
    TooLong,
    /// It is there already.
    #[error("the session is at the target already")]
    Here,
    /// Keys and values in another number format.
    #[error("the target takes keys and values in another number format")]
    OtherFormat,
    /// Nobody computes there any more.
    #[error("the target's engine has stopped")]
    Stopped,
}

/// To the reader of a session.
#[derive(Clone, Serialize, Deserialize)]
pub enum ReaderNews {
    /// What its claim comes to, and where the session is if it has moved.
    Claim(ClaimReply, Option<String>),
    /// The session is not here.
    Declined,
    /// A token.
    Token {
        /// Under which right it was generated.
        epoch: Epoch,
        /// Its place in the answer.
        index: u32,
        /// The token.
        token: AnswerToken,
        /// Whether it is the last, and why.
        last: Option<LastToken>,
    },
    /// Nothing new, but it will come.
    Alive {
        /// Under which right.
        epoch: Epoch,
    },
    /// The session has moved.
    Moved {
        /// The right that the target has.
        epoch: Epoch,
        /// The target's address, as nodes reach it.
        addr: String,
    },
    /// The session cannot go on here.
    Broken,
}

impl PeerRequest {
    pub(crate) fn check(&self) -> Result<(), InvalidMessage> {
        match self {
            Self::Move(offer) => offer.check(),
            Self::Kv { .. } | Self::Speed => Ok(()),
            Self::Read(reading) => match reading.answer.len() {
                0..=PROMPT_TOKENS_MAX => Ok(()),
                token_count => Err(InvalidMessage::TooManyTokens { token_count }),
            },
        }
    }
}

impl TargetSpeed {
    /// What is beyond was not measured.
    const SECONDS_MAX: f64 = 3600.0;
    const FACTOR_MAX: f64 = 1000.0;

    pub(crate) fn check(&self) -> Result<(), InvalidMessage> {
        let seconds = [self.prefill_token_s, self.prefill_pair_s, self.decode_s];
        let fits = seconds
            .iter()
            .all(|it| (0.0..=Self::SECONDS_MAX).contains(it))
            && (1.0..=Self::FACTOR_MAX).contains(&self.receiving_factor);
        match fits {
            true => Ok(()),
            false => Err(InvalidMessage::Session { what: "speed" }),
        }
    }
}

impl SessionOffer {
    fn check(&self) -> Result<(), InvalidMessage> {
        let token_count = self.prompt.len() + self.answer.len();
        if token_count > PROMPT_TOKENS_MAX {
            return Err(InvalidMessage::TooManyTokens { token_count });
        }
        let invalid = |what| Err(InvalidMessage::Session { what });
        if self.prompt.is_empty() {
            return Err(InvalidMessage::EmptyPrompt);
        }
        if self.context.len() > self.prompt.len() + PROMPT_TOKENS_MAX {
            return invalid("context");
        }
        self.geometry.validated()?;
        self.answer.iter().try_for_each(AnswerToken::check)?;
        self.terms.check()
    }
}

impl SessionTerms {
    fn check(&self) -> Result<(), InvalidMessage> {
        let invalid = |what| Err(InvalidMessage::Session { what });
        if self.end_tokens.len() > END_TOKENS_MAX {
            return invalid("list of end tokens");
        }
        let stop_fits = |stop: &String| (1..=STOP_BYTES_MAX).contains(&stop.len());
        if self.stops.len() > STOPS_MAX || !self.stops.iter().all(stop_fits) {
            return invalid("list of stop strings");
        }
        if self
            .top_logprobs
            .is_some_and(|count| count as usize > TOP_LOGPROBS_MAX)
        {
            return invalid("number of alternatives");
        }
        if self.max_tokens == 0 || self.max_tokens as usize > PROMPT_TOKENS_MAX {
            return invalid("length");
        }
        let numbers = [
            self.temperature,
            self.top_p,
            self.min_p,
            self.repetition_penalty,
            self.presence_penalty,
            self.frequency_penalty,
        ];
        match numbers.iter().all(|number| number.is_finite()) {
            true => Ok(()),
            false => invalid("sampling parameter"),
        }
    }
}

impl Move {
    pub(crate) fn check(&self) -> Result<(), InvalidMessage> {
        let fits = match self.order {
            // That is a message of its own, which brings what it speaks of.
            ToTarget::Offer { .. } => false,
            ToTarget::Tokens { start, end, .. } => {
                end.checked_sub(start) == Some(self.tokens.len())
            }
            ToTarget::Commit { .. } | ToTarget::Withdraw { .. } => self.tokens.is_empty(),
        };
        if self.order.len() > PROMPT_TOKENS_MAX || !fits {
            return Err(InvalidMessage::Session {
                what: "range of tokens",
            });
        }
        self.tokens.iter().try_for_each(AnswerToken::check)
    }
}

impl AnswerToken {
    fn check(&self) -> Result<(), InvalidMessage> {
        match self.top.len() > TOP_LOGPROBS_MAX {
            true => Err(InvalidMessage::Session {
                what: "number of alternatives",
            }),
            false => Ok(()),
        }
    }
}

impl MoveAnswer {
    pub(crate) fn check(&self) -> Result<(), InvalidMessage> {
        check_url(self.url.as_ref())
    }
}

impl ReaderNews {
    pub(crate) fn check(&self) -> Result<(), InvalidMessage> {
        match self {
            Self::Token { token, .. } => token.check(),
            Self::Claim(_, addr) => check_url(addr.as_ref()),
            Self::Moved { addr, .. } => check_url(Some(addr)),
            Self::Declined | Self::Alive { .. } | Self::Broken => Ok(()),
        }
    }
}

fn check_url(url: Option<&String>) -> Result<(), InvalidMessage> {
    match url.is_some_and(|url| url.len() > URL_BYTES_MAX) {
        true => Err(InvalidMessage::Session { what: "address" }),
        false => Ok(()),
    }
}
