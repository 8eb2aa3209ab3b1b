//! The node that a session comes to.

use edgeprompt_handover::session::{ToSource, ToTarget};
use edgeprompt_protocol::{AnswerToken, Move, MoveAnswer};
use tokio::sync::mpsc;

use super::Keeper;
use crate::serve::generator::{Mover, Tokens};

impl Keeper {
    /// Answers the source at once, with how far this node is known to be. The engine tells that between
    /// two steps, which may take longer than a source has patience.
    pub(super) fn reply(&mut self, answer: ToSource) {
        let url = matches!(answer, ToSource::Accepted { .. } | ToSource::Active { .. })
            .then(|| self.sessions.0.config.url.clone());
        let Some(arrival) = &self.arrival else {
            return;
        };
        // A source that does not listen asks again.
        let _ = arrival.answers.try_send(MoveAnswer {
            answer,
            computed_len: u32::try_from(arrival.progress.known()).unwrap_or(u32::MAX),
            refusal: None,
            url,
        });
        if let Some(local) = &self.local {
            arrival.progress.ask(local.mover());
        }
    }

    /// The source of a move says something.
    pub(super) async fn ordered(&mut self, order: Move, answers: mpsc::Sender<MoveAnswer>) {
        let now = self.now();
        let Move { order, tokens } = order;
        if let Some(arrival) = &mut self.arrival {
            arrival.answers = answers;
        }
        if self.seat.owned().is_none() {
            self.learn(order, tokens);
            self.put_in().await;
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
    pub(super) async fn put_in(&mut self) {
        let known = self.private_len();
        let mover: Option<Mover> = self.local.as_ref().map(Tokens::mover);
        let Some((arrival, mover)) = self.arrival.as_mut().zip(mover) else {
            return;
        };
        while let Some(chunk) = arrival.next_of(known) {
            arrival.put_in(chunk, &mover).await;
        }
    }

    /// Generates, once the right is here and nothing is to be waited for.
    pub(super) fn go_if_arrived(&mut self) {
        let is_owner = self.seat.owned().is_some();
        let Some(arrival) = &self.arrival else {
            return;
        };
        if is_owner && arrival.may_go() {
            if let Some(local) = &self.local {
                local.mover().release();
                self.runs = true;
            }
            self.arrival = None;
        }
    }
}
