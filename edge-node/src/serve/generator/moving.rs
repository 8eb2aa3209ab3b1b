//! Generations on their way to or from another node.

use std::ops::Range;
use std::sync::mpsc::Sender;

use edgeprompt_engine::{KvChunk, Progressed, SequenceId};
use edgeprompt_kv::TokenId;
use tokio::sync::oneshot;

use super::{Command, Worker};

/// What is known of a generation that was begun elsewhere: it is held until it is released.
pub(crate) struct Begun {
    /// The answer so far.
    pub(crate) answered: Vec<TokenId>,
    /// Private tokens that may be computed before.
    pub(crate) compute_max: usize,
}

pub(super) enum Moving {
    Hold(usize, oneshot::Sender<Progressed>),
    Hasten,
    Release,
    Extend(Vec<TokenId>),
    TakeOut(Range<usize>, oneshot::Sender<KvChunk>),
    PutIn(KvChunk, oneshot::Sender<()>),
    Progress(oneshot::Sender<Progressed>),
    Wipe,
}

impl Moving {
    /// Whether keys and values are copied, which takes some time.
    pub(super) const fn copies(&self) -> bool {
        matches!(self, Self::TakeOut(..) | Self::PutIn(..))
    }
}

/// Moves a generation between nodes. It keeps nothing alive: [`Tokens`] does.
#[derive(Clone, Debug)]
pub(crate) struct Mover {
    pub(super) id: SequenceId,
    pub(super) commands: Sender<Command>,
}

impl Mover {
    /// Stops the generation between two tokens; `None` if it has ended.
    pub(crate) async fn hold(&self, compute_max: usize) -> Option<Progressed> {
        self.ask(|reply| Moving::Hold(compute_max, reply)).await
    }

    /// Somebody waits for it from now on.
    pub(crate) fn hasten(&self) {
        self.tell(Moving::Hasten);
    }

    /// Nothing will be put in any more: all of its tokens that are known may be computed.
    pub(crate) fn compute_all(&self) {
        let (reply, _) = oneshot::channel();
        self.tell(Moving::Hold(usize::MAX, reply));
    }

    /// Lets it go on.
    pub(crate) fn release(&self) {
        self.tell(Moving::Release);
    }

    /// More of the answer is known.
    pub(crate) fn extend(&self, answered: Vec<TokenId>) {
        self.tell(Moving::Extend(answered));
    }

    /// Keys and values that are computed, as far as they are; `None` if none is.
    pub(crate) async fn take_out(&self, tokens: Range<usize>) -> Option<KvChunk> {
        self.ask(|reply| Moving::TakeOut(tokens, reply)).await
    }

    /// Puts keys and values in, as far as they fit, before anything that is told later; the answer comes
    /// when they are.
    pub(crate) fn put_in(&self, chunk: KvChunk) -> oneshot::Receiver<()> {
        let (reply, answer) = oneshot::channel();
        self.tell(Moving::PutIn(chunk, reply));
        answer
    }

    /// How far it is; `None` if it has ended.
    pub(crate) async fn progress(&self) -> Option<Progressed> {
        self.ask(Moving::Progress).await
    }

    async fn ask<T>(&self, moving: impl FnOnce(oneshot::Sender<T>) -> Moving) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.tell(moving(reply));
        answer.await.ok()
    }

    pub(super) fn tell(&self, moving: Moving) {
        // An engine that has stopped has no generations to move.
        let _ = self.commands.send(Command::Moving(self.id, moving));
    }
}

impl Worker {
    /// Whoever asked may be gone; a generation that has ended is answered by silence.
    pub(super) fn move_one(&mut self, id: SequenceId, moving: Moving) {
        match moving {
            Moving::Hold(compute_max, reply) => {
                self.engine.hold(id, compute_max);
                let _ = self.engine.progress(id).map(|at| reply.send(at));
            }
            Moving::Hasten => self.engine.hasten(id),
            Moving::Release => self.engine.release(id),
            Moving::Wipe => self.engine.wipe(id),
            Moving::Extend(answered) => self.engine.extend(id, &answered),
            Moving::TakeOut(tokens, reply) => {
                let _ = self.engine.take_out(id, tokens).map(|kv| reply.send(kv));
            }
            Moving::PutIn(chunk, reply) => {
                if let Err(error) = self.engine.put_in(id, chunk) {
                    tracing::debug!(%error, "keys and values of a session are computed here");
                }
                let _ = reply.send(());
            }
            Moving::Progress(reply) => {
                let _ = self.engine.progress(id).map(|at| reply.send(at));
            }
        }
    }
}
