//! The node that a session leaves.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use edgeprompt_handover::planning::strategy::Strategy;
use edgeprompt_handover::session::{Epoch, GivenUp, ToTarget, Ue};
use edgeprompt_protocol::{AnswerToken, Move, MoveAnswer, SessionOffer};
use edgeprompt_telemetry::names;
use edgeprompt_transport::PeerLink;
use tokio::sync::oneshot;

use super::{Keeper, next};
use crate::serve::sessions::PATIENCE;
use crate::serve::sessions::departure::{
    BLOCK_LEN, Beginning, COPYING_MAX, Departure, KvBound, MoveError, MoveReport, Out,
};
use crate::serve::sessions::log::{MovedTo, Standing, bare};
use crate::serve::sessions::planned::{BLOCKS_MISSING_MAX, Plan, Tail};

/// Alternatives that go along with the tokens of an offer; a message has room for about 200,000.
const ALTERNATIVES_MAX: usize = 50_000;

impl Keeper {
    /// Begins to leave for another node.
    pub(super) fn leave(
        &mut self,
        (addr, target, link): (SocketAddr, String, PeerLink),
        (priority, plan, began_at): (i32, Plan, Instant),
        reply: oneshot::Sender<Result<MoveReport, MoveError>>,
    ) {
        let refused = match () {
            () if self.log.has_ended() => Some(MoveError::Ended),
            () if self.seat.owned().is_none() || self.seat.phase().is_some() => {
                Some(MoveError::Busy)
            }
            () if self.log.len() == 0 || !self.runs => Some(MoveError::NotBegun),
            () => None,
        };
        if let Some(refused) = refused {
            let _ = reply.send(Err(refused));
            return;
        }
        let beginning = Beginning {
            addr,
            target,
            link,
            reply,
            plan,
            began_at,
            priority,
        };
        let links = Arc::clone(&self.sessions.0.links);
        self.departure = Some(Departure::begin(beginning, links, self.own.weak()));
        // It is the owner and nothing moves: looked at above.
        let _ = self.seat.handle_start(self.now());
    }

    /// The target says something.
    pub(super) async fn answered(&mut self, answer: MoveAnswer) {
        if answer.answer.epoch() != self.seat.latest() {
            // Of a move that is off.
            return;
        }
        let was_accepted = self.seat.is_accepted();
        if let Some(departure) = &mut self.departure {
            if let Some(refusal) = answer.refusal {
                departure.refusal = Some(refusal.to_string());
            }
            if answer.url.is_some() {
                departure.url = answer.url;
            }
        }
        self.seat.handle_answer(self.now(), answer.answer);
        if !self.seat.is_accepted() {
            return;
        }
        if !was_accepted {
            self.begin_kv();
        }
        let is_copied =
            answer.computed_len as usize + BLOCKS_MISSING_MAX * BLOCK_LEN >= self.private_len();
        let departure = self.departure.as_ref();
        let goes = departure.is_some_and(|departure| {
            let waited = departure.began_at.elapsed();
            departure.plan.strategy != Strategy::PreCopy || is_copied || waited >= COPYING_MAX
        });
        if goes {
            self.switch().await;
        }
    }

    pub(super) fn begin_kv(&mut self) {
        let known = self.private_len();
        let (Some(departure), Some(local)) = (&mut self.departure, &self.local) else {
            return;
        };
        if departure.plan.prefill_len >= known {
            return;
        }
        let bound = KvBound {
            known: match departure.plan.strategy {
                Strategy::PreCopy => known,
                // Nothing before it has stopped.
                _ => 0,
            },
            end: None,
        };
        let geometry = self.sessions.0.node.model.geometry;
        let epoch = self.seat.latest();
        departure.send_kv(
            local.mover(),
            (self.facts.key, self.facts.ticket, epoch),
            (geometry, self.sessions.0.config.dtype),
            (departure.plan.prefill_len, bound),
        );
    }

    /// Stops between two tokens, and gives the right away.
    pub(super) async fn switch(&mut self) {
        let Some(local) = &self.local else {
            return;
        };
        let held = local.mover().hold(0).await;
        // Tokens that it had generated before it heard.
        while let Some(held) = held
            && self.private_len() < held.token_count
        {
            let output = next(&mut self.local).await;
            let is_lost = output.is_none();
            self.hear(output).await;
            if is_lost {
                return;
            }
        }
        let Some(held) = held else {
            // It has ended; its last token is on the way.
            return;
        };
        self.runs = false;
        let now = self.now();
        if let Some(departure) = &mut self.departure {
            departure.switched_at = Some(Instant::now());
            if let Some(kv) = &departure.kv {
                let end = match (departure.plan.strategy, departure.plan.tail) {
                    // The chunk on its way is the last one.
                    (Strategy::PreCopy, Tail::Computed) => 0,
                    (Strategy::PreCopy, Tail::Sent) => held.computed_count / BLOCK_LEN * BLOCK_LEN,
                    _ => held.computed_count,
                };
                kv.bound.send_modify(|bound| bound.end = Some(end));
            }
        }
        self.seat.handle_switch(now);
    }

    pub(super) fn say(&mut self, order: ToTarget) {
        let tokens = match order {
            ToTarget::Tokens { start, end, .. } => self.log.answer(start..end),
            ToTarget::Offer { .. } | ToTarget::Commit { .. } | ToTarget::Withdraw { .. } => {
                Vec::new()
            }
        };
        let Some(departure) = &self.departure else {
            return;
        };
        let out = match order {
            ToTarget::Offer { epoch, len } => Out::Offer(Box::new(self.offer(epoch, len))),
            _ => Out::Order(Move { order, tokens }),
        };
        // What does not fit is said again.
        let _ = departure.to.try_send(out);
    }

    pub(super) fn offer(&self, epoch: Epoch, len: usize) -> SessionOffer {
        let node = &self.sessions.0.node;
        let prefill_len = self
            .departure
            .as_ref()
            .map_or(usize::MAX, |it| it.plan.prefill_len);
        SessionOffer {
            session: self.facts.key,
            ticket: self.facts.ticket,
            epoch,
            model: node.model.digest,
            geometry: node.model.geometry,
            cloud_prompt: self
                .facts
                .cloud
                .as_ref()
                .map(|(name, cloud)| (name.clone(), cloud.id)),
            prompt: self.facts.prompt.for_engine().to_vec(),
            context: self.facts.context.for_engine().to_vec(),
            answer: offered(self.log.answer(0..len)),
            terms: self.facts.terms.clone(),
            prefill_len: u32::try_from(prefill_len).unwrap_or(u32::MAX),
            dtype: self.sessions.0.config.dtype,
        }
    }

    /// The right is given away: whoever reads here goes where it goes.
    pub(super) fn redirect(&mut self, epoch: Epoch) {
        let Some(departure) = &self.departure else {
            return;
        };
        let len = self.log.len();
        self.log.stands(Standing::Moved(MovedTo {
            epoch,
            addr: departure.addr.to_string(),
            url: departure.url.clone(),
            len,
        }));
        if self.log.staying_count() > 0 {
            let (now, addr) = (self.now(), departure.addr);
            let epoch_before = self.seat.last_owned();
            let mut ue = Ue::resuming(now, None, (epoch_before, len), PATIENCE);
            ue.handle_redirect(now, None, epoch, Some(addr));
            self.ue = Some(ue);
        }
    }

    pub(super) fn give_up(&mut self, why: GivenUp) {
        if let Some(departure) = &mut self.departure {
            let error = match why {
                GivenUp::Refused => MoveError::Refused(
                    departure
                        .refusal
                        .take()
                        .unwrap_or_else(|| "the target refuses".to_owned()),
                ),
                GivenUp::Silent => MoveError::Silent,
                GivenUp::Finished => MoveError::Finished {
                    after: departure.began_at.elapsed(),
                },
                GivenUp::Claimed => MoveError::Claimed,
            };
            metrics::counter!(names::EDGE_HANDOVER_TOTAL, names::KIND => departure.plan.strategy.name(), names::RESULT => "given_up").increment(1);
            departure.fail(error);
        }
        self.departure = None;
    }

    /// The target has the session, and all that it needs.
    pub(super) fn leave_for_good(&mut self) {
        self.has_left = false;
        if !matches!(self.log.standing(), Standing::Moved(_)) {
            // Its reader has it from another node, which did not get it from here.
            self.log.stands(Standing::Broken);
        }
        if let Some(local) = self.local.take() {
            local.wipe();
        }
        self.runs = false;
        let (epoch, private_len) = (self.seat.latest(), self.private_len());
        if let Some(departure) = &mut self.departure {
            let report = departure.succeed(epoch, private_len);
            metrics::counter!(names::EDGE_HANDOVER_TOTAL, names::KIND => report.strategy.name(), names::RESULT => "moved").increment(1);
            metrics::counter!(names::EDGE_HANDOVER_KV_BYTES_TOTAL).increment(report.kv_bytes);
        }
        self.departure = None;
        if self.log.staying_count() == 0 {
            // A user who follows has all it needs; nobody comes back here without bringing it.
            self.facts.wipe();
            self.log.wipe();
            self.is_wiped = true;
        }
    }
}

/// An answer that goes along with an offer. What is told of its tokens beside them stays here if it would
/// be too much for one message.
fn offered(mut answer: Vec<AnswerToken>) -> Vec<AnswerToken> {
    let told: usize = answer.iter().map(|token| token.top.len()).sum();
    if told > ALTERNATIVES_MAX {
        answer = answer.iter().map(|token| bare(token.token)).collect();
    }
    answer
}
