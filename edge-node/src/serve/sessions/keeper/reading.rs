//! Whoever reads a session, wherever it is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use edgeprompt_handover::session::{ClaimReply, Epoch, UeAction, Verdict};
use edgeprompt_kv::TokenId;
use edgeprompt_protocol::{ReaderNews, Reading};
use edgeprompt_telemetry::names;

use super::Keeper;
use crate::serve::generator::{Begun, Tokens};
use crate::serve::sessions::departure::MoveError;
use crate::serve::sessions::log::{Entry, MovedTo, Standing, entry, finish};
use crate::serve::sessions::relay::Relay;
use crate::serve::sessions::without_probability;

impl Keeper {
    pub(super) async fn act_as_reader(&mut self, action: UeAction<Option<SocketAddr>>) {
        match action {
            UeAction::Claim {
                node: Some(addr),
                claim,
                epoch,
                from,
            } => {
                self.reading_count += 1;
                let reading = Reading {
                    session: self.facts.key,
                    ticket: self.facts.ticket,
                    epoch,
                    claim,
                    answer: self.log.tokens(0).into_iter().take(from).collect(),
                };
                let links = Arc::clone(&self.sessions.0.links);
                let number = self.reading_count;
                self.relay = Some(Relay::begin(
                    (addr, number),
                    reading,
                    links,
                    self.own.clone(),
                ));
            }
            UeAction::Claim {
                node: None,
                epoch,
                from,
                ..
            } => {
                self.relay = None;
                let (reply, moved) = self.claimed(epoch, from, Vec::new()).await;
                let to = moved.and_then(|moved| moved.addr.parse().ok()).map(Some);
                let now = self.now();
                if let Some(ue) = &mut self.ue {
                    ue.handle_claim_reply(now, None, (reply, to));
                }
            }
            UeAction::Fail(failure) => {
                tracing::warn!(%failure, session = %self.facts.key, "a session is lost");
                self.relay = None;
                self.log.stands(Standing::Broken);
            }
        }
    }

    /// The node that has the session says something to the user who stays here.
    pub(super) fn relayed(&mut self, now: Duration, addr: SocketAddr, news: Option<ReaderNews>) {
        let moved_len = self.moved_len();
        let Some(ue) = &mut self.ue else {
            return;
        };
        let from = Some(addr);
        match news {
            None | Some(ReaderNews::Broken | ReaderNews::Declined) => ue.handle_lost(now, from),
            Some(ReaderNews::Claim(reply, to)) => {
                let to = to.and_then(|to| to.parse().ok()).map(Some);
                ue.handle_claim_reply(now, from, (reply, to));
            }
            Some(ReaderNews::Token {
                epoch,
                index,
                token,
                last,
            }) => {
                if ue.handle_token(now, from, epoch, index as usize) != Verdict::Accepted {
                    return;
                }
                let gap = self.last_token_at.elapsed();
                if self.log.len() == moved_len {
                    metrics::histogram!(names::EDGE_HANDOVER_INTERRUPTION_SECONDS).record(gap);
                }
                self.last_token_at = Instant::now();
                let entry = Entry {
                    finish: last.map(finish),
                    ..entry(token)
                };
                self.log.push(entry);
                if last.is_some() {
                    ue.handle_end(now, from, epoch, index as usize + 1);
                    self.relay = None;
                }
            }
            Some(ReaderNews::Alive { epoch }) => ue.handle_alive(now, from, epoch),
            Some(ReaderNews::Moved { epoch, addr: to }) => {
                if let Ok(to) = to.parse() {
                    ue.handle_redirect(now, from, epoch, Some(to));
                }
            }
        }
    }

    pub(super) fn moved_len(&self) -> usize {
        match self.log.standing() {
            Standing::Moved(moved) => moved.len,
            Standing::Here(_) | Standing::Broken => usize::MAX,
        }
    }

    /// A reader claims the session, having read up to token `from`.
    pub(super) async fn claimed(
        &mut self,
        epoch: Epoch,
        from: usize,
        transcript: Vec<TokenId>,
    ) -> (ClaimReply, Option<MovedTo>) {
        let now = self.now();
        let here = self.log.len();
        let reply = self
            .seat
            .handle_claim(now, epoch, from.max(transcript.len()));
        if let ClaimReply::Granted(epoch) = reply {
            let missing: Vec<TokenId> = transcript.into_iter().skip(here).collect();
            self.log
                .extend(missing.iter().copied().map(without_probability));
            if let Some(local) = self.local.as_ref().filter(|_| self.arrival.is_some()) {
                local.mover().extend(missing);
            }
            self.log.stands(Standing::Here(epoch));
            let is_arriving = self.arrival.is_some() && self.local.is_some();
            if self.seat.owned().is_some() && !self.runs && !is_arriving && !self.log.has_ended() {
                self.resume().await;
            }
        }
        let moved = match self.log.standing() {
            Standing::Moved(moved) => Some(moved),
            Standing::Here(_) | Standing::Broken => None,
        };
        (reply, moved)
    }

    /// Generates here from the answer so far.
    pub(super) async fn resume(&mut self) {
        if let Some(departure) = &mut self.departure {
            departure.fail(MoveError::Silent);
        }
        let answered = self.log.tokens(0);
        if let Some(mover) = self.local.as_ref().map(Tokens::mover)
            && let Some(progress) = mover.progress().await
        {
            let known = progress.token_count.saturating_sub(self.facts.prompt.len());
            mover.extend(answered[known.min(answered.len())..].to_vec());
            mover.release();
            self.runs = true;
            return;
        }
        let begun = Begun {
            answered,
            compute_max: usize::MAX,
        };
        let node = &self.sessions.0.node;
        match node.generator.hold(self.facts.generation(), begun).await {
            Ok(tokens) => {
                tokens.mover().release();
                self.local = Some(tokens);
                self.runs = true;
            }
            Err(error) => {
                tracing::warn!(%error, session = %self.facts.key, "a session cannot go on here");
                self.log.stands(Standing::Broken);
            }
        }
    }
}
