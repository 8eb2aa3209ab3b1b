//! The wire between nodes: messages, frames, layer framing, versions and limits.
//!
//! This crate turns values into bytes and bytes into *checked* values. It opens no socket, reads
//! no clock and starts no task.
//!
//! A control stream carries one framed [`CloudRequest`] and one framed [`CloudReply`] back
//! ([`frame`], [`codec`]). Every layer travels on a unidirectional stream of its own: a
//! [`LayerHeader`], the keys and values in their number format, a [`LayerTrailer`]; on a path that loses
//! packets another may follow it with its parity ([`ParityHeader`]).

pub mod codec;
pub mod frame;
mod invalid;
mod layer;
mod parity;
mod peer;
mod peer_kv;
mod prompt;
mod refusal;
mod reply;
mod request;
mod worker;

pub use invalid::InvalidMessage;
pub use layer::{
    HeaderError, HeaderMismatch, LAYER_HEADER_BYTES, LAYER_TRAILER_BYTES, LayerHeader,
    LayerTimings, LayerTrailer, TrailerError,
};
pub use parity::{
    PARITY_HEADER_BYTES, PARITY_PLANE_COUNT, ParityHeader, ParityHeaderError, ParityMismatch,
};
pub use peer::{
    AnswerToken, LastToken, Move, MoveAnswer, MoveRefusal, PeerRequest, ReaderNews, Reading,
    SessionKey, SessionOffer, SessionTerms, TargetSpeed, Ticket,
};
pub use peer_kv::{KV_CHUNK_BYTES_MAX, KV_CHUNK_HEADER_BYTES, KvChunkError, KvChunkHeader};
pub use prompt::{
    PROMPT_NAME_BYTES_MAX, PROMPT_TOKENS_MAX, PUBLIC_TEXT_BYTES_MAX, PromptName, PromptNameError,
    PromptRef, PublicPrompt,
};
pub use refusal::{PublicPromptProblem, Refusal};
pub use reply::{CloudReply, KvSource, LAYER_BYTES_MAX, Manifest, PROMPT_ENTRIES_MAX, PromptEntry};
pub use request::{CloudRequest, Fetch, FetchId};
pub use worker::{
    NUMBERS_MAX, WorkerAnswer, WorkerHello, WorkerJob, WorkerJobs, WorkerOrder, WorkerPrefix,
    WorkerReply, WorkerRow, WorkerSetup, WorkerStream, WorkerTask,
};

/// The version of everything in this crate; a change of any byte on the wire changes it.
pub const PROTOCOL_VERSION: u16 = 2;

/// The protocol's name in the TLS handshake: nodes of different versions never get past it.
pub const ALPN: &[u8] = b"edgeprompt/2";

/// The name of what edges say to each other about users' sessions, on an endpoint of its own: a cloud
/// does not speak it.
pub const PEER_ALPN: &[u8] = b"edgeprompt-handover/2";

/// The name of what a leader says to the workers that lend it their devices, on an endpoint of its own.
pub const WORKER_ALPN: &[u8] = b"edgeprompt-worker/2";

/// What a cloud sends first, on a unidirectional stream, once it has admitted an edge.
///
/// TLS 1.3 lets the edge's side finish before the cloud has looked at its certificate; without
/// this word a refused edge would learn of it only at its first request.
pub const WELCOME: [u8; 4] = *b"EPOK";
