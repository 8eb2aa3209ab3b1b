//! The node that owns a session and may give it away.

use std::collections::VecDeque;
use std::time::Duration;

use super::{ClaimReply, Epoch, Patience, ToSource, ToTarget};

/// What a source is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceAction {
    /// Send it to the target of the move.
    Send(ToTarget),
    /// Tell the reader that the session has moved to the target, under this epoch.
    Redirect(Epoch),
    /// The move is off, and the session stays.
    GiveUp(GivenUp),
    /// The target took the right and may not have it: the reader may want to claim the session back.
    TargetSilent,
    /// The target has the session: what is private can be wiped.
    Wipe,
}

/// Why a move is off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum GivenUp {
    /// The target does not want it.
    Refused,
    /// The target does not answer.
    Silent,
    /// There is nothing to move any more.
    Finished,
    /// The reader has claimed the session back.
    Claimed,
}

/// 3GPP's phases of a handover.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum HandoverPhase {
    /// The target is asked, and copies what there is.
    Preparation,
    /// The right to emit is on its way.
    Execution,
    /// The target has it.
    Completion,
}

/// A move is under way, or the session is not here.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the session is being moved, or is not here any more")]
pub struct Busy;

/// One session at its owner, until it has moved.
#[derive(Clone, Debug)]
pub struct Source {
    epoch: Epoch,
    /// Of the latest move that was tried.
    latest: Epoch,
    /// Tokens.
    len: usize,
    state: State,
    patience: Patience,
    actions: VecDeque<SourceAction>,
}

#[derive(Clone, Copy, Debug)]
enum State {
    Serving,
    Offered(Waiting),
    Copying { waiting: Waiting, has: usize },
    Committed { waiting: Waiting, has: usize },
    Moved,
}

/// For an answer of the target.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    heard_at: Duration,
    repeat_at: Duration,
}

impl Source {
    /// The owner of a session of `len` tokens.
    pub const fn new(epoch: Epoch, len: usize, patience: Patience) -> Self {
        Self {
            epoch,
            latest: epoch,
            len,
            state: State::Serving,
            patience,
            actions: VecDeque::new(),
        }
    }

    /// The right to emit, if it is here.
    pub const fn owned(&self) -> Option<Epoch> {
        match self.state {
            State::Serving | State::Offered(_) | State::Copying { .. } => Some(self.epoch),
            State::Committed { .. } | State::Moved => None,
        }
    }

    /// The right that is, or was last, here.
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The highest epoch heard of: of the right held, or of the latest move.
    pub const fn latest(&self) -> Epoch {
        self.latest
    }

    /// How far a move is; `None` without one.
    pub const fn phase(&self) -> Option<HandoverPhase> {
        match self.state {
            State::Serving => None,
            State::Offered(_) | State::Copying { .. } => Some(HandoverPhase::Preparation),
            State::Committed { .. } => Some(HandoverPhase::Execution),
            State::Moved => Some(HandoverPhase::Completion),
        }
    }

    /// Whether the target has agreed, so that [`Source::handle_switch`] may come.
    pub const fn is_accepted(&self) -> bool {
        matches!(self.state, State::Copying { .. })
    }

    /// Tokens of the session.
    pub const fn len(&self) -> usize {
        self.len
    }

    /// Whether it has no tokens.
    pub const fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// The session is to move.
    ///
    /// # Errors
    /// [`Busy`].
    pub fn handle_start(&mut self, now: Duration) -> Result<(), Busy> {
        let State::Serving = self.state else {
            return Err(Busy);
        };
        // Each attempt has a number of its own, so that no late message of one is taken for another's.
        self.latest = self.latest.next_hop();
        self.state = State::Offered(self.wait(now));
        self.offer();
        Ok(())
    }

    /// One more token was generated here.
    ///
    /// # Panics
    /// If the right to emit is not here: that would be a second owner.
    pub fn handle_token(&mut self) {
        assert!(self.owned().is_some(), "only the owner of a session emits");
        let start = self.len;
        self.len += 1;
        if let State::Copying { .. } = self.state {
            self.send_tokens(start);
        }
    }

    /// The session has ended here.
    pub fn handle_finished(&mut self) {
        if let State::Offered(_) | State::Copying { .. } = self.state {
            self.give_up(GivenUp::Finished);
        }
    }

    /// The user is leaving: from here on the target emits. Before the target has agreed, or after the
    /// switch, that is nothing.
    pub fn handle_switch(&mut self, now: Duration) {
        if let State::Copying { has, .. } = self.state {
            let waiting = self.wait(now);
            self.state = State::Committed { waiting, has };
            self.commit();
            self.actions.push_back(SourceAction::Redirect(self.latest));
        }
    }

    /// The target's answer.
    pub fn handle_message(&mut self, now: Duration, message: ToSource) {
        if message.epoch() != self.latest {
            return;
        }
        let waiting = self.wait(now);
        match (self.state, message) {
            (State::Offered(_), ToSource::Accepted { has, .. }) => {
                let has = has.min(self.len);
                self.state = State::Copying { waiting, has };
                if has < self.len {
                    self.send_tokens(has);
                }
            }
            (State::Offered(_) | State::Copying { .. }, ToSource::Refused { .. }) => {
                self.give_up(GivenUp::Refused);
            }
            (State::Copying { has: before, .. }, ToSource::Has { has, .. }) => {
                let has = has.min(self.len).max(before);
                self.state = State::Copying { waiting, has };
            }
            (State::Committed { has: before, .. }, ToSource::Has { has, .. }) => {
                // It is told what it lacks, and that it is its own.
                let has = has.min(self.len).max(before);
                self.state = State::Committed { waiting, has };
                if has < self.len {
                    self.send_tokens(has);
                    self.commit();
                }
            }
            (State::Committed { .. }, ToSource::Active { .. }) => {
                self.state = State::Moved;
                self.actions.push_back(SourceAction::Wipe);
            }
            (State::Committed { .. }, ToSource::Refused { .. }) => {
                self.actions.push_back(SourceAction::TargetSilent);
            }
            _ => {}
        }
    }

    /// A late or repeated message of the move that brought the session here, or of another: what to
    /// answer.
    pub fn handle_order(&mut self, message: ToTarget) -> Option<ToSource> {
        match message {
            // The answer was lost.
            ToTarget::Commit { epoch, .. } if epoch == self.epoch => {
                Some(ToSource::Active { epoch })
            }
            ToTarget::Withdraw { epoch } => {
                self.void_below(epoch);
                None
            }
            ToTarget::Offer { epoch, .. }
            | ToTarget::Tokens { epoch, .. }
            | ToTarget::Commit { epoch, .. } => {
                (epoch != self.epoch).then_some(ToSource::Refused { epoch })
            }
        }
    }

    /// The reader has claimed the session from another node, under this epoch.
    fn void_below(&mut self, epoch: Epoch) {
        if epoch <= self.latest.max(self.epoch) {
            return;
        }
        self.state = State::Moved;
        self.latest = epoch;
        self.actions.push_back(SourceAction::Wipe);
    }

    /// The reader claims the session, having read up to token `len`.
    pub fn handle_claim(&mut self, epoch: Epoch, len: usize) -> ClaimReply {
        if epoch < self.epoch {
            return ClaimReply::Stale(self.epoch);
        }
        if epoch == self.epoch {
            return match self.owned() {
                Some(epoch) => ClaimReply::Granted(epoch),
                None => ClaimReply::Moved(self.latest),
            };
        }
        if self.owned().is_none() && epoch <= self.latest {
            return ClaimReply::Moved(self.latest);
        }
        if !matches!(self.state, State::Serving) {
            let withdraw = ToTarget::Withdraw { epoch };
            self.actions.push_back(SourceAction::Send(withdraw));
            self.actions
                .push_back(SourceAction::GiveUp(GivenUp::Claimed));
        }
        self.state = State::Serving;
        (self.epoch, self.latest) = (epoch, epoch);
        self.len = self.len.max(len);
        ClaimReply::Granted(epoch)
    }

    /// The reader brought another answer than the one that is here; it goes on from that one.
    pub const fn handle_other_answer(&mut self, len: usize) {
        self.len = len;
    }

    /// When [`Source::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Duration> {
        match self.state {
            State::Offered(waiting)
            | State::Copying { waiting, .. }
            | State::Committed { waiting, .. } => Some(
                waiting
                    .repeat_at
                    .min(waiting.heard_at + self.patience.answer),
            ),
            State::Serving | State::Moved => None,
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Duration) {
        let (State::Offered(waiting)
        | State::Copying { waiting, .. }
        | State::Committed { waiting, .. }) = self.state
        else {
            return;
        };
        let is_silent = now >= waiting.heard_at + self.patience.answer;
        let again = Waiting {
            repeat_at: now + self.patience.repeat,
            ..waiting
        };
        match self.state {
            State::Offered(_) | State::Copying { .. } if is_silent => {
                self.give_up(GivenUp::Silent);
            }
            State::Committed { has, .. } if is_silent => {
                // The right is gone, whoever has it: the reader decides, and this goes on asking.
                self.actions.push_back(SourceAction::TargetSilent);
                let waiting = self.wait(now);
                self.state = State::Committed { waiting, has };
                self.commit();
            }
            _ if now < waiting.repeat_at => {}
            State::Offered(_) => {
                self.state = State::Offered(again);
                self.offer();
            }
            State::Copying { has, .. } => {
                let waiting = again;
                self.state = State::Copying { waiting, has };
                // Without news this asks whether the target is still there.
                self.send_tokens(has);
            }
            State::Committed { has, .. } => {
                let waiting = again;
                self.state = State::Committed { waiting, has };
                self.commit();
            }
            State::Serving | State::Moved => {}
        }
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<SourceAction> {
        self.actions.pop_front()
    }

    fn wait(&self, now: Duration) -> Waiting {
        Waiting {
            heard_at: now,
            repeat_at: now + self.patience.repeat,
        }
    }

    fn offer(&mut self) {
        let (epoch, len) = (self.latest, self.len);
        self.send(ToTarget::Offer { epoch, len });
    }

    fn commit(&mut self) {
        let (epoch, len) = (self.latest, self.len);
        self.send(ToTarget::Commit { epoch, len });
    }

    fn send_tokens(&mut self, start: usize) {
        let (epoch, end) = (self.latest, self.len);
        self.send(ToTarget::Tokens { epoch, start, end });
    }

    fn send(&mut self, message: ToTarget) {
        self.actions.push_back(SourceAction::Send(message));
    }

    fn give_up(&mut self, why: GivenUp) {
        self.state = State::Serving;
        let epoch = self.latest;
        self.send(ToTarget::Withdraw { epoch });
        self.actions.push_back(SourceAction::GiveUp(why));
    }
}
