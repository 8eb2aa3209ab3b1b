//! Whoever reads a session, wherever it is.

use std::net::SocketAddr;
use std::time::Instant;

use edgeprompt_handover::session::{ClaimReply, Epoch, UeAction, Verdict};
use edgeprompt_kv::TokenId;
use edgeprompt_protocol::{ReaderNews, Reading};
use edgeprompt_telemetry::names;

use super::{ClaimError, Keeper};
use crate::serve::generator::{Begun, Tokens};
use crate::serve::sessions::handle::Own;
use crate::serve::sessions::log::{Entry, MovedTo, Standing, bare, entry, finish};
use crate::serve::sessions::relay::Relay;

impl Keeper {
    pub(super) async fn act_as_reader(&mut self, action: UeAction<Option<SocketAddr>>) {
        match action {
            UeAction::Claim {
                node: Some(addr),
                claim,
                epoch,
                from,
            } => {
                let wanted = (addr, claim, epoch);
                if self.relay.as_ref().is_some_and(|it| it.asks(wanted)) {
                    // A link repeats what is lost.
                    return;
                }
                self.reading_count += 1;
                let reading = Reading {
                    session: self.facts.key,
                    ticket: self.facts.ticket,
                    epoch,
                    claim,
                    answer: self.log.tokens(0).into_iter().take(from).collect(),
                };
                let (sessions, number) = (self.sessions.clone(), self.reading_count);
                let own = self.own.weak();
                self.relay = Some(Relay::begin((addr, number), reading, sessions, own));
            }
            UeAction::Claim {
                node: None,
                epoch,
                from,
                ..
            } => {
                self.relay = None;
                let answer = self.log.tokens(0).into_iter().take(from).collect();
                let claimed = self.claimed(epoch, answer).await;
                let now = self.now();
                let Some(ue) = &mut self.ue else {
                    return;
                };
                match claimed {
                    Ok((reply, moved)) => {
                        let to = moved.and_then(|moved| moved.addr.parse().ok()).map(Some);
                        ue.handle_claim_reply(now, None, (reply, to));
                    }
                    Err(_) => ue.handle_lost(now, None),
                }
                if let (Some(_), Own::Strong(handle)) = (self.seat.owned(), &self.own) {
                    // It may have come back here before, and gone again.
                    self.sessions.restore(self.facts.key, handle.clone());
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
    pub(super) fn relayed(&mut self, addr: SocketAddr, news: Option<ReaderNews>) {
        let (now, moved_len) = (self.now(), self.moved_len());
        let news = news.filter(|news| self.can_be(news));
        if news.is_none() {
            self.relay = None;
        }
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

    /// Whether this node could go on after what another one says.
    fn can_be(&self, news: &ReaderNews) -> bool {
        let ReaderNews::Token { token, last, .. } = news else {
            return true;
        };
        let is_too_long = self.log.len() + 1 >= self.facts.terms.max_tokens as usize;
        self.sessions.0.node.bounds().have_all_of(token) && (last.is_some() || !is_too_long)
    }

    pub(super) fn moved_len(&self) -> usize {
        match self.log.standing() {
            Standing::Moved(moved) => moved.len,
            Standing::Coming(_) | Standing::Here(_) | Standing::Broken => usize::MAX,
        }
    }

    /// A reader who has this answer claims the session.
    pub(super) async fn claimed(
        &mut self,
        epoch: Epoch,
        transcript: Vec<TokenId>,
    ) -> Result<(ClaimReply, Option<MovedTo>), ClaimError> {
        if self.is_wiped && epoch > self.seat.latest() {
            // All that was here is in what the reader brings.
            return Err(ClaimError::Unknown);
        }
        let is_running = self.runs && self.seat.owned() == Some(epoch);
        let is_complete = transcript.len() >= self.facts.terms.max_tokens as usize;
        if is_complete || (is_running && !self.log.begins_with(&transcript)) {
            return Err(ClaimError::OtherAnswer);
        }
        let now = self.now();
        let reply = self.seat.handle_claim(now, epoch, transcript.len());
        // A move that this ends is over before anything else begins.
        while let Some(action) = self.seat.poll_action() {
            self.act_once(action).await;
        }
        if let ClaimReply::Granted(epoch) = reply {
            self.has_left = false;
            self.log.reopen();
            self.adopt(&transcript);
            self.log.stands(Standing::Here(epoch));
            if self.arrival.is_none() && !self.runs && !self.log.has_ended() {
                self.resume().await;
            }
        }
        let moved = match self.log.standing() {
            Standing::Moved(moved) => Some(moved),
            Standing::Coming(_) | Standing::Here(_) | Standing::Broken => None,
        };
        Ok((reply, moved))
    }

    /// What the reader has is the answer, whatever is here.
    fn adopt(&mut self, transcript: &[TokenId]) {
        if self.log.begins_with(transcript) {
            return;
        }
        if self.log.begins(transcript) && !self.log.has_ended() {
            let missing = &transcript[self.log.len()..];
            self.log.extend(missing.iter().copied().map(bare));
            if let Some(local) = self.local.as_ref().filter(|_| self.arrival.is_some()) {
                local.mover().extend(missing.to_vec());
                return;
            }
            if !self.runs {
                return;
            }
        } else {
            self.log.replace(transcript.iter().copied().map(bare));
            self.seat.handle_other_answer(transcript.len());
        }
        // What was computed here goes on from another token.
        self.local = None;
        self.arrival = None;
        self.runs = false;
    }

    /// Generates here from the answer so far.
    pub(super) async fn resume(&mut self) {
        let answered = self.log.tokens(0);
        if let Some(mover) = self.local.as_ref().map(Tokens::mover)
            && let Some(progress) = mover.progress().await
            && let Some(new) =
                answered.get(progress.token_count.saturating_sub(self.facts.prompt.len())..)
        {
            mover.extend(new.to_vec());
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
