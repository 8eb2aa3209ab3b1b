//! What one node knows of one session: it owns it, owned it, or is to have it.

use std::collections::VecDeque;
use std::time::Duration;

use super::{
    Busy, ClaimReply, Epoch, GivenUp, HandoverPhase, Patience, Source, SourceAction, Target,
    TargetAction, ToSource, ToTarget,
};

/// What a node is to do about a session.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SeatAction {
    /// Send it to the target of the move.
    ToTarget(ToTarget),
    /// Send it to the source of the move.
    ToSource(ToSource),
    /// Emit from here on, beginning with token `len`.
    Activate {
        /// The right held.
        epoch: Epoch,
        /// Tokens that there are.
        len: usize,
    },
    /// Tell the reader that the session has moved to the target, under this epoch.
    Redirect(Epoch),
    /// The move is off, and the session stays.
    GiveUp(GivenUp),
    /// Nobody knows whether the target has the session.
    TargetSilent,
    /// The session is elsewhere: what is private can be wiped.
    Wipe,
    /// The session will not come: forget it.
    Discard,
}

/// One session at one node: at most one of source and target at a time.
#[derive(Clone, Debug)]
pub struct Seat {
    role: Role,
    patience: Patience,
    actions: VecDeque<SeatAction>,
}

#[derive(Clone, Debug)]
enum Role {
    Source(Source),
    Target(Target),
}

impl Seat {
    /// That of a session which begins here, or is brought by its reader.
    pub const fn owner(epoch: Epoch, len: usize, patience: Patience) -> Self {
        Self {
            role: Role::Source(Source::new(epoch, len, patience)),
            patience,
            actions: VecDeque::new(),
        }
    }

    /// That of a session which is offered to this node, and which it has room for.
    pub fn accepting(now: Duration, epoch: Epoch, len: usize, patience: Patience) -> Self {
        let mut seat = Self {
            role: Role::Target(Target::accept(now, epoch, len, patience)),
            patience,
            actions: VecDeque::new(),
        };
        seat.settle();
        seat
    }

    /// The right to emit, if it is here.
    pub const fn owned(&self) -> Option<Epoch> {
        match &self.role {
            Role::Source(source) => source.owned(),
            Role::Target(target) => target.owned(),
        }
    }

    /// The highest epoch heard of.
    pub const fn latest(&self) -> Epoch {
        match &self.role {
            Role::Source(source) => source.latest(),
            Role::Target(target) => target.epoch(),
        }
    }

    /// The right that is, or was last, here; of a session that is still to come, the one it has there.
    pub const fn last_owned(&self) -> Epoch {
        match &self.role {
            Role::Source(source) => source.epoch(),
            Role::Target(target) => target.epoch(),
        }
    }

    /// How far a move from here is; `None` without one.
    pub const fn phase(&self) -> Option<HandoverPhase> {
        match &self.role {
            Role::Source(source) => source.phase(),
            Role::Target(_) => None,
        }
    }

    /// Whether a target has agreed to take the session.
    pub const fn is_accepted(&self) -> bool {
        match &self.role {
            Role::Source(source) => source.is_accepted(),
            Role::Target(_) => false,
        }
    }

    /// Whether an offer is news: of a session that is owned elsewhere under a higher epoch than any
    /// that this node has heard of. It needs room then, and a new seat.
    pub fn is_new_offer(&self, epoch: Epoch) -> bool {
        epoch > self.latest()
    }

    /// The session is to move.
    ///
    /// # Errors
    /// [`Busy`] also if it is not here.
    pub fn handle_start(&mut self, now: Duration) -> Result<(), Busy> {
        let Role::Source(source) = &mut self.role else {
            return Err(Busy);
        };
        source.handle_start(now)?;
        self.settle();
        Ok(())
    }

    /// One more token was generated here.
    ///
    /// # Panics
    /// If the right to emit is not here.
    pub fn handle_token(&mut self) {
        if let Role::Source(source) = &mut self.role {
            source.handle_token();
        }
        self.settle();
    }

    /// The session has ended here.
    pub fn handle_finished(&mut self) {
        if let Role::Source(source) = &mut self.role {
            source.handle_finished();
        }
        self.settle();
    }

    /// The user is leaving: from here on the target emits.
    pub fn handle_switch(&mut self, now: Duration) {
        if let Role::Source(source) = &mut self.role {
            source.handle_switch(now);
        }
        self.settle();
    }

    /// From the target of a move.
    pub fn handle_answer(&mut self, now: Duration, message: ToSource) {
        if let Role::Source(source) = &mut self.role {
            source.handle_message(now, message);
        }
        self.settle();
    }

    /// From the source of a move; an offer for which [`Seat::is_new_offer`] holds is not for this seat.
    pub fn handle_order(&mut self, now: Duration, message: ToTarget) {
        match &mut self.role {
            Role::Target(target) => target.handle_message(now, message),
            Role::Source(source) => {
                let answer = source.handle_order(message);
                self.actions.extend(answer.map(SeatAction::ToSource));
            }
        }
        self.settle();
    }

    /// The reader claims the session, having read up to token `len`.
    pub fn handle_claim(&mut self, now: Duration, epoch: Epoch, len: usize) -> ClaimReply {
        let reply = match &mut self.role {
            Role::Source(source) => source.handle_claim(epoch, len),
            Role::Target(target) => target.handle_claim(now, epoch, len),
        };
        self.settle();
        reply
    }

    /// The reader brought another answer than the one that is here, of `len` tokens, and has claimed the
    /// session: it goes on from that one.
    pub const fn handle_other_answer(&mut self, len: usize) {
        if let Role::Source(source) = &mut self.role {
            source.handle_other_answer(len);
        }
    }

    /// When [`Seat::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Duration> {
        match &self.role {
            Role::Source(source) => source.poll_timeout(),
            Role::Target(target) => target.poll_timeout(),
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Duration) {
        match &mut self.role {
            Role::Source(source) => source.handle_timeout(now),
            Role::Target(target) => target.handle_timeout(now),
        }
        self.settle();
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<SeatAction> {
        self.actions.pop_front()
    }

    /// Takes over what the role wants done; a target that owns the session is a source from then on.
    fn settle(&mut self) {
        let mut activated = None;
        match &mut self.role {
            Role::Source(source) => {
                while let Some(action) = source.poll_action() {
                    self.actions.push_back(match action {
                        SourceAction::Send(message) => SeatAction::ToTarget(message),
                        SourceAction::Redirect(epoch) => SeatAction::Redirect(epoch),
                        SourceAction::GiveUp(why) => SeatAction::GiveUp(why),
                        SourceAction::TargetSilent => SeatAction::TargetSilent,
                        SourceAction::Wipe => SeatAction::Wipe,
                    });
                }
            }
            Role::Target(target) => {
                while let Some(action) = target.poll_action() {
                    self.actions.push_back(match action {
                        TargetAction::Send(message) => SeatAction::ToSource(message),
                        TargetAction::Activate { epoch, len } => {
                            activated = Some((epoch, len));
                            SeatAction::Activate { epoch, len }
                        }
                        TargetAction::Discard => SeatAction::Discard,
                    });
                }
            }
        }
        if let Some((epoch, len)) = activated {
            self.role = Role::Source(Source::new(epoch, len, self.patience));
        }
    }
}
