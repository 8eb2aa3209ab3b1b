//! The node that a session comes to.

use edgeprompt_handover::session::{ToSource, ToTarget};
use edgeprompt_protocol::{AnswerToken, Move, MoveAnswer};
use tokio::sync::mpsc;

use super::Keeper;
use crate::serve::generator::{Mover, Tokens};

impl Keeper {
    pub(super) async fn reply(&mut self, answer: ToSource) {
        let progress = match &self.local {
            Some(local) => local.mover().progress().await,
            None => None,
        };
        let computed = progress.map_or(0, |progress| progress.computed_count);
        let url = matches!(answer, ToSource::Accepted { .. } | ToSource::Active { .. })
            .then(|| self.sessions.0.config.url.clone());
        if let Some(arrival) = &self.arrival {
            // A source that does not listen asks again.
            let _ = arrival.answers.try_send(MoveAnswer {
                answer,
                computed_len: u32::try_from(computed).unwrap_or(u32::MAX),
                refusal: None,
                url,
            });
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

    /// Keys and values from the source; those of tokens that are not known yet wait for them.
    pub(super) async fn put_in(&mut self) {
        let known = self.private_len();
        let mover: Option<Mover> = self.local.as_ref().map(Tokens::mover);
        let Some((arrival, mover)) = self.arrival.as_mut().zip(mover) else {
            return;
        };
        while let Some(chunk) = arrival.next_of(known) {
            if let Some(Err(error)) = mover.put_in(chunk).await {
                tracing::debug!(%error, "keys and values of a session are computed here");
                arrival.kv_ended = true;
            }
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
