//! The node that a session comes to.

use std::collections::VecDeque;
use std::time::Duration;

use super::{ClaimReply, Epoch, Patience, ToSource, ToTarget};

/// What a target is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TargetAction {
    /// Send it to the source of the move.
    Send(ToSource),
    /// Emit from here on, under this epoch, beginning with token `len`.
    Activate {
        /// The right held.
        epoch: Epoch,
        /// Tokens that there are.
        len: usize,
    },
    /// It will not come: forget it.
    Discard,
}

/// One session on its way here.
#[derive(Clone, Debug)]
pub struct Target {
    state: State,
    /// Tokens here, without a gap.
    has: usize,
    heard_at: Duration,
    patience: Patience,
    actions: VecDeque<TargetAction>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Receiving(Epoch),
    /// The right is here, some tokens are not.
    Pending {
        epoch: Epoch,
        len: usize,
    },
    Owner(Epoch),
    Discarded(Epoch),
}

impl Target {
    /// Takes an offer that there is room for.
    pub fn accept(now: Duration, epoch: Epoch, len: usize, patience: Patience) -> Self {
        let mut target = Self {
            state: State::Receiving(epoch),
            has: len,
            heard_at: now,
            patience,
            actions: VecDeque::new(),
        };
        target.send(ToSource::Accepted { epoch, has: len });
        target
    }

    /// The right to emit, if it is here.
    pub const fn owned(&self) -> Option<Epoch> {
        match self.state {
            State::Owner(epoch) => Some(epoch),
            State::Receiving(_) | State::Pending { .. } | State::Discarded(_) => None,
        }
    }

    /// The highest epoch heard of.
    pub const fn epoch(&self) -> Epoch {
        match self.state {
            State::Receiving(epoch)
            | State::Pending { epoch, .. }
            | State::Owner(epoch)
            | State::Discarded(epoch) => epoch,
        }
    }

    /// The source says something. Offers of other moves are not for this: they are accepted anew.
    pub fn handle_message(&mut self, now: Duration, message: ToTarget) {
        match message {
            ToTarget::Offer { epoch, len } if self.is_receiving(epoch) => {
                self.heard_at = now;
                self.has = self.has.max(len);
                let has = self.has;
                self.send(ToSource::Accepted { epoch, has });
                self.activate_if_whole();
            }
            ToTarget::Tokens { epoch, start, end } if self.is_receiving(epoch) => {
                self.heard_at = now;
                if start <= self.has {
                    self.has = self.has.max(end);
                }
                let has = self.has;
                self.send(ToSource::Has { epoch, has });
                self.activate_if_whole();
            }
            ToTarget::Commit { epoch, len } if self.is_receiving(epoch) => {
                self.heard_at = now;
                self.state = State::Pending { epoch, len };
                self.activate_if_whole();
                if self.owned().is_none() {
                    let has = self.has;
                    self.send(ToSource::Has { epoch, has });
                }
            }
            // An answer was lost.
            ToTarget::Commit { epoch, .. } if self.state == State::Owner(epoch) => {
                self.send(ToSource::Active { epoch });
            }
            ToTarget::Withdraw { epoch } => {
                let is_void = match self.state {
                    State::Receiving(mine) | State::Pending { epoch: mine, .. } => epoch >= mine,
                    State::Owner(mine) => epoch > mine,
                    State::Discarded(_) => false,
                };
                if is_void {
                    self.discard(epoch);
                }
            }
            ToTarget::Offer { epoch, .. }
            | ToTarget::Tokens { epoch, .. }
            | ToTarget::Commit { epoch, .. } => {
                if self.state != State::Owner(epoch) {
                    self.send(ToSource::Refused { epoch });
                }
            }
        }
    }

    /// The reader claims the session, having read up to token `len`.
    pub fn handle_claim(&mut self, now: Duration, epoch: Epoch, len: usize) -> ClaimReply {
        let mine = self.epoch();
        if epoch < mine {
            return ClaimReply::Stale(mine);
        }
        self.heard_at = now;
        if self.state == State::Owner(epoch) {
            return ClaimReply::Granted(epoch);
        }
        // A reader that comes with the number of the move was told so by the source.
        self.has = self.has.max(len);
        self.own(epoch);
        ClaimReply::Granted(epoch)
    }

    /// When [`Target::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Duration> {
        match self.state {
            State::Receiving(_) | State::Pending { .. } => {
                Some(self.heard_at + self.patience.orphan)
            }
            State::Owner(_) | State::Discarded(_) => None,
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Duration) {
        if self.poll_timeout().is_some_and(|due| now >= due) {
            self.discard(self.epoch());
        }
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<TargetAction> {
        self.actions.pop_front()
    }

    fn is_receiving(&self, epoch: Epoch) -> bool {
        match self.state {
            State::Receiving(mine) | State::Pending { epoch: mine, .. } => mine == epoch,
            State::Owner(_) | State::Discarded(_) => false,
        }
    }

    fn activate_if_whole(&mut self) {
        if let State::Pending { epoch, len } = self.state
            && self.has >= len
        {
            // What was copied beyond it was never emitted by anybody.
            self.has = len;
            self.own(epoch);
            self.send(ToSource::Active { epoch });
        }
    }

    fn own(&mut self, epoch: Epoch) {
        self.state = State::Owner(epoch);
        let len = self.has;
        self.actions
            .push_back(TargetAction::Activate { epoch, len });
    }

    fn discard(&mut self, epoch: Epoch) {
        self.state = State::Discarded(epoch);
        self.actions.push_back(TargetAction::Discard);
    }

    fn send(&mut self, message: ToSource) {
        self.actions.push_back(TargetAction::Send(message));
    }
}
