//! The ways to a session's keeper, for whoever has to do with it.

use std::sync::Arc;
use std::time::Duration;

use edgeprompt_handover::planning::choose::LeavingSession;
use edgeprompt_handover::session::{ClaimReply, Epoch};
use edgeprompt_kv::TokenId;
use edgeprompt_protocol::{SessionKey, Ticket};
use tokio::sync::{mpsc, oneshot};

use super::keeper::{ClaimError, Command};
use super::log::{Log, MovedTo, Reader, ReaderKind, Standing};
use crate::serve::access::Caller;

/// A way to a session's keeper.
#[derive(Clone)]
pub(super) struct Handle {
    pub(super) commands: mpsc::Sender<Command>,
    pub(super) log: Arc<Log>,
    pub(super) ticket: Ticket,
    pub(super) caller: Option<Caller>,
    /// Tokens of the private prompt, and of the cloud prompt before it.
    pub(super) prompt_lens: (usize, usize),
}

/// A session as its user may see it.
pub(crate) struct Listed {
    pub(crate) key: SessionKey,
    pub(crate) token_count: usize,
    pub(crate) state: &'static str,
    pub(crate) target: Option<String>,
}

pub(super) struct NewHandle {
    pub(super) key: SessionKey,
    pub(super) handle: Handle,
}

/// Why a session is not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Taken {
    /// There is one of that name with another ticket.
    ByAnother,
    /// It is generated here, and cannot come here.
    Here,
    /// It is here under a right that is as good, or better.
    Under(Epoch),
}

/// A keeper's way to itself, for what it sends out to come back.
pub(super) enum Own {
    /// Of a session whose user stays: it has a reader to serve, whoever keeps the session meanwhile.
    Strong(Handle),
    /// Of any other, which ends when it is replaced.
    Weak(mpsc::WeakSender<Command>),
}

impl Own {
    pub(super) fn of(handle: &Handle, reader: ReaderKind) -> Self {
        match reader {
            ReaderKind::Staying => Self::Strong(handle.clone()),
            ReaderKind::Following => Self::Weak(handle.commands.downgrade()),
        }
    }

    pub(super) fn weak(&self) -> mpsc::WeakSender<Command> {
        match self {
            Self::Strong(handle) => handle.commands.downgrade(),
            Self::Weak(commands) => commands.clone(),
        }
    }
}

/// A session that somebody may have to do with.
#[derive(Clone)]
pub(crate) struct SessionHandle(pub(super) Handle);

impl SessionHandle {
    /// Claims the session for a reader that has these tokens.
    ///
    /// # Errors
    /// [`ClaimError`].
    pub(crate) async fn claim(
        &self,
        epoch: Epoch,
        transcript: Vec<TokenId>,
    ) -> Result<(ClaimReply, Option<MovedTo>), ClaimError> {
        let (reply, answer) = oneshot::channel();
        let command = Command::Claim {
            epoch,
            transcript,
            reply,
        };
        let sent = self.0.commands.send(command).await;
        sent.map_err(|_| ClaimError::Unknown)?;
        // A keeper that has ended knows nothing any more.
        answer.await.unwrap_or(Err(ClaimError::Unknown))
    }

    /// A reader has gone of its own will.
    pub(super) async fn reader_left(&self) {
        // A keeper that is gone needs no word.
        let _ = self.0.commands.send(Command::ReaderLeft).await;
    }

    /// Reads on, and follows the session.
    pub(crate) fn read(&self, from: usize) -> Reader {
        self.0.log.reader(from, ReaderKind::Following)
    }

    /// As a plan needs it.
    pub(super) fn leaving(&self) -> LeavingSession {
        let small = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let (private_len, cloud_len) = self.0.prompt_lens;
        LeavingSession {
            context_len: small(private_len + self.0.log.len()),
            past_len: small(cloud_len),
            leaves_in: Duration::ZERO,
            decode_tokens_per_s: 0.0,
        }
    }
}

impl Handle {
    pub(super) fn epoch(&self) -> Epoch {
        match self.log.standing() {
            Standing::Coming(epoch) | Standing::Here(epoch) => epoch,
            Standing::Moved(moved) => moved.epoch,
            Standing::Broken => Epoch::FIRST,
        }
    }

    pub(super) fn opens_with(&self, ticket: &Ticket) -> bool {
        // Comparing hashes takes the same time wherever they differ.
        blake3::hash(&ticket.0) == blake3::hash(&self.ticket.0)
    }

    /// Whether a session of the same name may take this one's place.
    pub(super) fn may_be_replaced(&self, by: &Self) -> Result<(), Taken> {
        if !self.opens_with(&by.ticket) {
            return Err(Taken::ByAnother);
        }
        self.may_be_replaced_by(by.epoch())
    }

    /// Whether it may come under a right.
    pub(super) fn may_be_replaced_by(&self, epoch: Epoch) -> Result<(), Taken> {
        let mine = self.epoch();
        if mine >= epoch {
            return Err(Taken::Under(mine));
        }
        // What is generated here is given away to other nodes only, and what comes back from there is
        // not generated here: unless its reader has claimed it elsewhere meanwhile.
        let is_here = matches!(self.log.standing(), Standing::Here(_));
        match is_here && mine.claim == epoch.claim {
            true => Err(Taken::Here),
            false => Ok(()),
        }
    }

    pub(super) fn listed(&self, key: SessionKey) -> Listed {
        let (state, target) = match self.log.standing() {
            Standing::Broken => ("broken", None),
            _ if self.log.has_ended() => ("ended", None),
            Standing::Coming(_) => ("coming", None),
            Standing::Here(_) => ("here", None),
            Standing::Moved(moved) => ("moved", Some(moved.addr)),
        };
        Listed {
            key,
            token_count: self.log.len(),
            state,
            target,
        }
    }
}
