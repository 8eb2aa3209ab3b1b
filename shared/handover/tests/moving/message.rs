//! What nodes and reader say to each other.

use edgeprompt_handover::session::{Epoch, ToSource, ToTarget};

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Message {
    /// With the tokens it speaks of.
    Order(OrderBy, Vec<u64>),
    Answer(AnswerBy),
    Claim {
        /// Not one that takes.
        attach: bool,
        epoch: Epoch,
        transcript: Vec<u64>,
    },
    Reply {
        granted: Option<Epoch>,
        moved: Option<(Epoch, usize)>,
        stale: Option<Epoch>,
    },
    Declined,
    Token {
        epoch: Epoch,
        index: usize,
        token: u64,
    },
    End {
        epoch: Epoch,
        len: usize,
    },
    Redirect {
        epoch: Epoch,
        to: usize,
    },
}

/// The messages of the library have no order, events need one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OrderBy(pub(crate) ToTarget);
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct AnswerBy(pub(crate) ToSource);

macro_rules! never_compared {
    ($($name:ident),*) => {$(
        impl PartialOrd for $name {
            fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
                Some(self.cmp(other))
            }
        }
        impl Ord for $name {
            fn cmp(&self, _: &Self) -> std::cmp::Ordering {
                std::cmp::Ordering::Equal
            }
        }
    )*};
}
never_compared!(OrderBy, AnswerBy);
