//! What the reader of a session is told.

use std::error::Error;
use std::fmt;
use std::time::Duration;

use edgeprompt_handover::session::UeFailure;

use crate::edge_url::EdgeUrl;
use crate::http::HttpError;

/// One thing after the other, in order.
#[derive(Debug)]
pub enum Event {
    /// The answer goes on.
    Text(Piece),
    /// Another node goes on with it: told with its first token.
    Moved(Moved),
    /// That was all.
    Ended(FinishReason),
    /// There will be no more, though it has not ended.
    Failed(Box<Lost>),
}

/// A part of the answer. Its `Debug` tells lengths only.
#[derive(Clone, PartialEq, Eq)]
pub struct Piece {
    /// Its text; empty where tokens do not make a character yet.
    pub text: String,
    /// The tokens that were said with it.
    pub token_ids: Vec<u32>,
}

/// A move as the user saw it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Moved {
    /// The node that goes on; the same as before if it was only asked again.
    pub url: EdgeUrl,
    /// From the last token before to the first one after.
    pub gap: Duration,
}

/// Why an answer ended, as OpenAI says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FinishReason {
    /// The model ended it, or a stop string did.
    Stop,
    /// It is as long as was asked for.
    Length,
}

/// A session that no known node goes on with, and what there is of its answer. Its `Debug` and its
/// message do not tell the answer.
pub struct Lost {
    pub(crate) failure: UeFailure,
    pub(crate) cause: Option<HttpError>,
    pub(crate) text: String,
    pub(crate) token_ids: Vec<u32>,
}

impl Lost {
    /// The text so far.
    pub fn text(&self) -> &str {
        &self.text
    }

    /// Its tokens.
    pub fn token_ids(&self) -> &[u32] {
        &self.token_ids
    }
}

impl fmt::Debug for Piece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Piece")
            .field("text_bytes", &self.text.len())
            .field("token_count", &self.token_ids.len())
            .finish()
    }
}

impl fmt::Debug for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Lost")
            .field("failure", &self.failure)
            .field("cause", &self.cause)
            .finish_non_exhaustive()
    }
}

impl fmt::Display for Lost {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.failure)?;
        match &self.cause {
            Some(cause) => write!(f, "; the last one: {cause}"),
            None => Ok(()),
        }
    }
}

impl Error for Lost {}
