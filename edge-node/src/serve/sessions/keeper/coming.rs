//! The node that a session comes to.

use edgeprompt_handover::session::{ToSource, ToTarget};
use edgeprompt_protocol::{AnswerToken, Move, MoveAnswer};
use tokio::sync::mpsc;

use super::Keeper;
use crate::serve::generator::{Mover, Tokens};
use crate::serve::sessions::arrival::Arrival;

impl Keeper {
    /// Answers the source at once, with how far this node is known to be. The engine tells that between
    /// two steps, which may take longer than a source has patience.
    pub(super) fn reply(&mut self, answer: ToSource) {
        let url = matches!(answer, ToSource::Accepted { .. } | ToSource::Active { .. })
            .then(|| self.sessions.0.config.url.clone());
        let Some(answers) = &self.answers else {
            return;
        };
        let computed = self.arrival.as_ref().map_or(0, |it| it.progress.known());
        // A source that does not listen asks again.
        let _ = answers.try_send(MoveAnswer {
            answer,
            computed_len: u32::try_from(computed).unwrap_or(u32::MAX),
            refusal: None,
            url,
        });
        if let Some((arrival, local)) = self.arrival.as_ref().zip(self.local.as_ref()) {
            arrival.progress.ask(local.mover());
        }
    }

    /// The source of a move says something.
    pub(super) async fn ordered(&mut self, order: Move, answers: mpsc::Sender<MoveAnswer>) {
        let now = self.now();
        let Move { order, tokens } = order;
        self.answers = Some(answers);
        if self.arrival.is_some()
            && self.seat.owned().is_none()
            && order.epoch() == self.seat.latest()
        {
            self.learn(order, tokens);
            self.put_in();
        }
        self.seat.handle_order(now, order);
    }

    /// Tokens that follow those that are here.
    pub(super) fn learn(&mut self, order: ToTarget, tokens: Vec<AnswerToken>) {
        let ToTarget::Tokens { start, .. } = order else {
            return;
        };
        let here = self.log.len();
        if start > here {
            return;
        }
        let new: Vec<AnswerToken> = tokens.into_iter().skip(here - start).collect();
        let ids = new.iter().map(|token| token.token).collect();
        self.log.extend(new);
        if let Some(mover) = self.local.as_ref().map(Tokens::mover) {
            mover.extend(ids);
        }
    }

    /// Keys and values from the source; those of tokens that are not known yet wait for them. The
    /// engine takes them between two steps, all that have come by then, before it goes on with the
    /// session; what does not fit is computed.
    pub(super) fn put_in(&mut self) {
        let known = self.private_len();
        let mover: Option<Mover> = self.local.as_ref().map(Tokens::mover);
        let Some((arrival, mover)) = self.arrival.as_mut().zip(mover) else {
            return;
        };
        while let Some(placed) = arrival.next_of(known) {
            Arrival::put_in(placed, &mover);
        }
        if arrival.has_all() {
            // What did not come will not come.
            mover.compute_all();
        }
    }

    /// Generates, once the right is here and nothing is to be waited for.
    pub(super) async fn go_if_arrived(&mut self) {
        let is_owner = self.seat.owned().is_some();
        if !is_owner || !self.arrival.as_ref().is_some_and(Arrival::may_go) {
            return;
        }
        self.arrival = None;
        match &self.local {
            Some(local) => {
                local.mover().release();
                self.runs = true;
            }
            None => self.resume().await,
        }
    }
}
