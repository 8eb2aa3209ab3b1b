//! Who may speak for a session, and how that right moves: state machines of the node that a session
//! leaves ([`Source`]), of the one it comes to ([`Target`]), and of its reader ([`Ue`]).
//!
//! Tokens are the authoritative state and always travel; keys and values only save the target
//! work. So nothing here knows of keys and values, and a loss of them costs time and nothing else.
//!
//! # Why there are never two owners
//! The right to emit has a number, an [`Epoch`]. A source gives its right away with
//! [`ToTarget::Commit`], which carries the next number, and emits nothing from then on, whatever it
//! hears or does not hear. Only the reader can take a right back: it claims a higher number from a
//! node, and refuses whatever comes under a lower one. A node that was cut off and knows of nothing
//! may go on, but nobody listens to it.
//!
//! Time comes in as a [`Duration`] since any fixed moment. Every message may be lost, late, repeated
//! or reordered.

mod seat;
mod source;
mod target;
mod ue;

use std::time::Duration;

use serde::{Deserialize, Serialize};

pub use seat::{Seat, SeatAction};
pub use source::{Busy, GivenUp, HandoverPhase, Source, SourceAction};
pub use target::{Target, TargetAction};
pub use ue::{Ue, UeAction, UeFailure, Verdict};

/// The number of a right to emit; the highest one counts.
///
/// Claims of the reader come before moves between nodes, so that a claim overrides every move that
/// the reader has not heard of.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub struct Epoch {
    /// How often the reader has claimed the session.
    pub claim: u32,
    /// Moves tried since.
    pub hop: u32,
}

impl Epoch {
    /// That of a session which begins.
    pub const FIRST: Self = Self { claim: 0, hop: 0 };

    /// What a move to another node gives.
    #[must_use]
    pub const fn next_hop(self) -> Self {
        Self {
            hop: self.hop.saturating_add(1),
            ..self
        }
    }

    /// What a reader claims.
    #[must_use]
    pub const fn next_claim(self) -> Self {
        Self {
            claim: self.claim.saturating_add(1),
            hop: 0,
        }
    }
}

/// From the node that a session leaves. `epoch` is the one the target is to have, and names the move.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToTarget {
    /// Would you take this session? Its first `len` tokens come with it.
    Offer {
        /// Of the target.
        epoch: Epoch,
        /// Tokens.
        len: usize,
    },
    /// The tokens `start..end`.
    Tokens {
        /// Of the target.
        epoch: Epoch,
        /// The first of them.
        start: usize,
        /// After the last.
        end: usize,
    },
    /// It is yours from token `len` on.
    Commit {
        /// Of the target.
        epoch: Epoch,
        /// Tokens so far.
        len: usize,
    },
    /// It will not come, or it is gone again.
    Withdraw {
        /// The highest epoch known; whatever is lower is void.
        epoch: Epoch,
    },
}

impl ToTarget {
    /// The right that it is about.
    pub const fn epoch(&self) -> Epoch {
        match self {
            Self::Offer { epoch, .. }
            | Self::Tokens { epoch, .. }
            | Self::Commit { epoch, .. }
            | Self::Withdraw { epoch } => *epoch,
        }
    }

    /// Tokens of the answer that it speaks of.
    pub const fn len(&self) -> usize {
        match self {
            Self::Offer { len, .. } | Self::Commit { len, .. } => *len,
            Self::Tokens { end, .. } => *end,
            Self::Withdraw { .. } => 0,
        }
    }

    /// Whether it speaks of none.
    pub const fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// To the node that a session leaves.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ToSource {
    /// It can come.
    Accepted {
        /// As offered.
        epoch: Epoch,
        /// Tokens here.
        has: usize,
    },
    /// It cannot come, or nothing is known of it.
    Refused {
        /// As offered or committed.
        epoch: Epoch,
    },
    /// So many tokens are here.
    Has {
        /// As offered.
        epoch: Epoch,
        /// Tokens here, without a gap.
        has: usize,
    },
    /// The session is here now.
    Active {
        /// The right held.
        epoch: Epoch,
    },
}

impl ToSource {
    /// The right that it is about.
    pub const fn epoch(&self) -> Epoch {
        match self {
            Self::Accepted { epoch, .. }
            | Self::Refused { epoch }
            | Self::Has { epoch, .. }
            | Self::Active { epoch } => *epoch,
        }
    }
}

/// What a reader may want of a node.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Claim {
    /// To read a session that the node has. One that knows nothing of it declines: it may have known,
    /// and given it away.
    Attach,
    /// That the node goes on with it, from what the reader brings if need be.
    Take,
}

/// What a reader's claim comes to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum ClaimReply {
    /// It is served here, under this epoch.
    Granted(Epoch),
    /// It has moved, under this epoch.
    Moved(Epoch),
    /// A later claim was heard.
    Stale(Epoch),
}

/// How long what may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// Until a message without an answer is sent again.
    pub repeat: Duration,
    /// Until a node that does not answer counts as gone.
    pub answer: Duration,
    /// Until a session that nobody reads, or whose source is silent, is dropped.
    pub orphan: Duration,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            repeat: Duration::from_millis(500),
            answer: Duration::from_secs(5),
            orphan: Duration::from_secs(60),
        }
    }
}
