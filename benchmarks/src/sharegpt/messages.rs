//! What the harness and its edge process say to each other.

use std::fmt;
use std::net::SocketAddr;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::pipeline::messages::TokensSpec;
use crate::pipeline::plan::CloudStore;

/// Where the cloud prompt's keys and values come from, and how they are read. Names as in the
/// literature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Mode {
    /// Computed again for every request; read by each (PagedAttention).
    Paged,
    /// Computed for the first request and kept in blocks; read by each (automatic prefix caching).
    PagedPc,
    /// Computed by the edge before the first request; read once for all (RelayAttention).
    Relay,
    /// Computed by the cloud while the first requests are under way; read once for all.
    Edgeprompt,
    /// Computed by the cloud, waited for, put into blocks; read by each.
    Concat,
}

impl Mode {
    /// Whether the cloud computes.
    pub(crate) const fn is_streamed(self) -> bool {
        matches!(self, Self::Edgeprompt | Self::Concat)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Paged => "paged",
            Self::PagedPc => "paged-pc",
            Self::Relay => "relay",
            Self::Edgeprompt => "edgeprompt",
            Self::Concat => "concat",
        })
    }
}

/// What an edge is told to do.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EdgeOrder {
    /// To join a cloud's trust domain, and to reach the cloud at an address.
    Join {
        /// The cloud's token.
        token: String,
        /// Where the cloud is reached.
        addr: SocketAddr,
    },
    /// To count the tokens of a text of a data set.
    CountTokens(String),
    /// To make an engine for a mode; one of that mode is dropped.
    Open(Setting),
    /// To answer some requests.
    Answer {
        /// In which mode.
        mode: Mode,
        /// The requests, in the order of arrival.
        requests: Vec<Request>,
    },
    /// To drop every engine.
    Close,
}

/// What an engine is for.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Setting {
    /// The mode.
    pub(crate) mode: Mode,
    /// The cloud prompt.
    pub(crate) cloud: TokensSpec,
    /// When the edge computes it, in mode relay.
    pub(crate) relay_fill: RelayFill,
    /// Whether the cloud has computed it before, in modes that stream.
    pub(crate) cloud_store: CloudStore,
    /// Sequences at a time.
    pub(crate) max_num_seqs: usize,
    /// Tokens of a step.
    pub(crate) max_num_batched_tokens: usize,
    /// Of a hundred parts of the time, those in which the edge computes.
    pub(crate) edge_share: u8,
    /// Most tokens of a private prompt and its answer.
    pub(crate) private_len_max: usize,
}

/// When an edge computes the cloud prompt that it reads once for all.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum RelayFill {
    /// Before the first request; how long that takes is told apart.
    Beforehand,
    /// When requests begin to come, as every other mode does.
    WithTheFirst,
}

/// One request.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Request {
    /// Its private prompt.
    pub(crate) private: TokensSpec,
    /// Tokens of its answer.
    pub(crate) output_len: usize,
    /// When it comes, in seconds after the first could.
    pub(crate) arrival_s: f64,
}

/// What an edge says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EdgeReply {
    /// It is done.
    Done,
    /// So many tokens; nothing if its model has no tokenizer.
    Counted(Option<usize>),
    /// An engine is ready; so long did its cloud prompt take, if that is computed beforehand.
    Opened {
        /// Seconds.
        fill_s: f64,
    },
    /// All requests are answered.
    Answered(Answered),
}

/// Some requests, measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Answered {
    /// From the first arrival that could be to the last token.
    pub(crate) seconds: f64,
    /// Keys and values received meanwhile.
    pub(crate) received_bytes: u64,
    /// Each request.
    pub(crate) requests: Vec<RequestTimes>,
}

/// One request, measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct RequestTimes {
    /// From its arrival to its first token.
    pub(crate) ttft_s: f64,
    /// From its arrival to its last token.
    pub(crate) e2e_s: f64,
    /// Tokens of its answer.
    pub(crate) output_len: usize,
    /// Tokens of its prompt whose keys and values were in blocks already.
    pub(crate) shared_len: usize,
    /// A hash of its tokens, to compare: prompts here are random numbers.
    pub(crate) digest: String,
}
