//! The reader of a session: the user's own program, or the node that holds the user's connection.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Claim, ClaimReply, Epoch, Patience};

/// How often every node is tried without a token before a session counts as lost.
const ROUNDS_MAX: usize = 3;

/// Most moves in a row that bring no token.
const REDIRECTS_MAX: usize = 32;

/// Most nodes remembered.
const NODES_MAX: usize = 16;

/// What a reader is to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum UeAction<N> {
    /// Ask a node for the session from token `from` on, and bring all tokens before.
    Claim {
        /// The node.
        node: N,
        /// Whether it may take a session that it does not know.
        claim: Claim,
        /// The right it is to have.
        epoch: Epoch,
        /// The next token.
        from: usize,
    },
    /// The session is lost: say so, beside the text so far.
    Fail(UeFailure),
}

/// Why a session is lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("none of {node_count} edge nodes goes on with the session after {token_count} tokens")]
pub struct UeFailure {
    /// Nodes that were asked.
    pub node_count: usize,
    /// Tokens that came.
    pub token_count: usize,
}

/// What a token is to the reader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The next one.
    Accepted,
    /// It came before.
    Repeated,
    /// One before it is missing; it will come again.
    Early,
    /// Of a node that is not the owner, or not any more.
    Stale,
}

/// One session as its reader sees it. `N` names nodes.
#[derive(Clone, Debug)]
pub struct Ue<N> {
    epoch: Epoch,
    /// The next token.
    next: usize,
    /// Those that may have the session, the latest last.
    nodes: Vec<N>,
    state: State<N>,
    /// Claims after one that came to nothing, and moves, since the last token: a node that grants a claim
    /// and brings nothing is none that goes on.
    tried: usize,
    redirected: usize,
    patience: Patience,
    actions: VecDeque<UeAction<N>>,
}

#[derive(Clone, Copy, Debug)]
enum State<N> {
    Following { at: N, heard_at: Duration },
    Claiming(Claiming<N>),
    Ended,
    Failed,
}

#[derive(Clone, Copy, Debug)]
struct Claiming<N> {
    node: N,
    claim: Claim,
    since: Duration,
    repeat_at: Duration,
}

impl<N: Copy + PartialEq> Ue<N> {
    /// The reader of a session that begins at a node.
    pub fn new(now: Duration, at: N, patience: Patience) -> Self {
        Self {
            epoch: Epoch::FIRST,
            next: 0,
            nodes: vec![at],
            state: State::Following { at, heard_at: now },
            tried: 0,
            redirected: 0,
            patience,
            actions: VecDeque::new(),
        }
    }

    /// The reader of a session that has had `next` tokens of it under a right.
    pub fn resuming(
        now: Duration,
        at: N,
        (epoch, next): (Epoch, usize),
        patience: Patience,
    ) -> Self {
        Self {
            epoch,
            next,
            ..Self::new(now, at, patience)
        }
    }

    /// The right that counts.
    pub const fn epoch(&self) -> Epoch {
        self.epoch
    }

    /// The next token.
    pub const fn next(&self) -> usize {
        self.next
    }

    /// Whether every token has come.
    pub const fn has_ended(&self) -> bool {
        matches!(self.state, State::Ended)
    }

    /// Whether the session is lost.
    pub const fn has_failed(&self) -> bool {
        matches!(self.state, State::Failed)
    }

    /// One more node that may be asked for the session if all else fails.
    pub fn know(&mut self, node: N) {
        if !self.nodes.contains(&node) && self.nodes.len() < NODES_MAX {
            self.nodes.insert(0, node);
        }
    }

    /// A token has come.
    pub fn handle_token(&mut self, now: Duration, from: N, epoch: Epoch, index: usize) -> Verdict {
        let State::Following { at, heard_at } = &mut self.state else {
            return Verdict::Stale;
        };
        if *at != from || epoch != self.epoch {
            return Verdict::Stale;
        }
        *heard_at = now;
        match index.cmp(&self.next) {
            std::cmp::Ordering::Less => Verdict::Repeated,
            std::cmp::Ordering::Greater => Verdict::Early,
            std::cmp::Ordering::Equal => {
                self.next += 1;
                (self.tried, self.redirected) = (0, 0);
                Verdict::Accepted
            }
        }
    }

    /// The node lives, though it has nothing new.
    pub fn handle_alive(&mut self, now: Duration, from: N, epoch: Epoch) {
        if let State::Following { at, heard_at } = &mut self.state
            && *at == from
            && epoch == self.epoch
        {
            *heard_at = now;
        }
    }

    /// The session has ended after `len` tokens.
    pub fn handle_end(&mut self, now: Duration, from: N, epoch: Epoch, len: usize) {
        let State::Following { at, .. } = self.state else {
            return;
        };
        if at != from || epoch != self.epoch {
            return;
        }
        if self.next >= len {
            self.state = State::Ended;
        } else {
            // The rest was lost on the way.
            self.claim(now, from, Claim::Attach);
        }
    }

    /// The node that serves the session has given it to another.
    pub fn handle_redirect(&mut self, now: Duration, from: N, epoch: Epoch, to: N) {
        let current = match self.state {
            State::Following { at, .. } => at,
            State::Claiming(Claiming { node, .. }) => node,
            State::Ended | State::Failed => return,
        };
        if current != from || epoch <= self.epoch {
            return;
        }
        self.redirected += 1;
        if self.redirected > REDIRECTS_MAX {
            return self.try_next(now, from);
        }
        self.epoch = epoch;
        self.nodes.retain(|node| *node != to);
        if self.nodes.len() >= NODES_MAX {
            self.nodes.remove(0);
        }
        self.nodes.push(to);
        self.claim(now, to, Claim::Attach);
    }

    /// What a claim came to; `to` is where it has moved, if it has.
    pub fn handle_claim_reply(
        &mut self,
        now: Duration,
        from: N,
        (reply, to): (ClaimReply, Option<N>),
    ) {
        let State::Claiming(claiming) = self.state else {
            return;
        };
        if claiming.node != from {
            return;
        }
        match (reply, to) {
            (ClaimReply::Granted(epoch), _) if epoch == self.epoch => {
                self.state = State::Following {
                    at: from,
                    heard_at: now,
                };
            }
            (ClaimReply::Moved(epoch), Some(to)) => self.handle_redirect(now, from, epoch, to),
            (ClaimReply::Stale(epoch), _) if epoch > self.epoch => {
                // A claim of ours that we took for lost was heard.
                self.epoch = epoch;
                self.try_next(now, from);
            }
            // An old answer.
            (ClaimReply::Granted(_) | ClaimReply::Stale(_), _) => {}
            (ClaimReply::Moved(_), None) => self.try_next(now, from),
        }
    }

    /// A node is gone, or does not want the session.
    pub fn handle_lost(&mut self, now: Duration, from: N) {
        match self.state {
            State::Following { at, .. } if at == from => self.try_next(now, from),
            State::Claiming(claiming) if claiming.node == from => self.try_next(now, from),
            _ => {}
        }
    }

    /// When [`Ue::handle_timeout`] is due.
    pub fn poll_timeout(&self) -> Option<Duration> {
        match self.state {
            State::Following { heard_at, .. } => Some(heard_at + self.patience.answer),
            State::Claiming(claiming) => {
                let given_up_at = claiming.since + self.patience.answer;
                Some(claiming.repeat_at.min(given_up_at))
            }
            State::Ended | State::Failed => None,
        }
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Duration) {
        match self.state {
            State::Following { at, heard_at } if now >= heard_at + self.patience.answer => {
                // First the same node under the same right: it may only have gone quiet, or moved it.
                self.tried += 1;
                match self.tried < self.tried_max() {
                    true => self.claim(now, at, Claim::Attach),
                    false => self.fail(),
                }
            }
            State::Claiming(claiming) => {
                if now >= claiming.since + self.patience.answer {
                    self.try_next(now, claiming.node);
                } else if now >= claiming.repeat_at {
                    if claiming.claim == Claim::Take {
                        // A right is claimed once: whoever was heard late has an old one.
                        self.epoch = self.epoch.next_claim();
                    }
                    let repeat_at = now + self.patience.repeat;
                    self.ask(Claiming {
                        repeat_at,
                        ..claiming
                    });
                }
            }
            State::Following { .. } | State::Ended | State::Failed => {}
        }
    }

    /// What to do next.
    pub fn poll_action(&mut self) -> Option<UeAction<N>> {
        self.actions.pop_front()
    }

    /// Another node than `from`, the latest first; the same again if there is no other.
    fn try_next(&mut self, now: Duration, from: N) {
        self.tried += 1;
        if self.tried >= self.tried_max() {
            return self.fail();
        }
        let at = self.nodes.iter().position(|node| *node == from);
        let next = match at {
            Some(0) | None => self.nodes.len() - 1,
            Some(at) => at - 1,
        };
        // Whatever the others think: from here on only this right counts.
        self.epoch = self.epoch.next_claim();
        self.claim(now, self.nodes[next], Claim::Take);
    }

    fn tried_max(&self) -> usize {
        ROUNDS_MAX * self.nodes.len()
    }

    fn fail(&mut self) {
        self.state = State::Failed;
        self.actions.push_back(UeAction::Fail(UeFailure {
            node_count: self.nodes.len(),
            token_count: self.next,
        }));
    }

    fn claim(&mut self, now: Duration, node: N, claim: Claim) {
        self.ask(Claiming {
            node,
            claim,
            since: now,
            repeat_at: now + self.patience.repeat,
        });
    }

    fn ask(&mut self, claiming: Claiming<N>) {
        self.state = State::Claiming(claiming);
        self.actions.push_back(UeAction::Claim {
            node: claiming.node,
            claim: claiming.claim,
            epoch: self.epoch,
            from: self.next,
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    /// Every claim is granted, and nothing comes of it.
    fn claims_until_it_fails(mut lose: impl FnMut(&mut Ue<u8>, Duration, u8)) -> usize {
        let mut ue = Ue::new(Duration::ZERO, 0, Patience::default());
        ue.know(1);
        let mut now = Duration::ZERO;
        ue.handle_lost(now, 0);
        let mut claim_count = 0;
        while let Some(action) = ue.poll_action() {
            let UeAction::Claim { node, epoch, .. } = action else {
                assert!(ue.has_failed());
                return claim_count;
            };
            claim_count += 1;
            assert!(claim_count < 100, "it is asked for ever");
            now += MS;
            ue.handle_claim_reply(now, node, (ClaimReply::Granted(epoch), None));
            lose(&mut ue, now, node);
        }
        panic!("nothing is done");
    }

    #[test]
    fn nodes_that_grant_and_bring_nothing_are_not_asked_for_ever() {
        let breaks_off = claims_until_it_fails(|ue, now, node| ue.handle_lost(now, node));
        assert_eq!(breaks_off, 5);
        let is_silent = claims_until_it_fails(|ue, now, _| {
            ue.handle_timeout(now + ue.patience.answer);
        });
        assert_eq!(is_silent, 5);
    }

    #[test]
    fn a_token_is_a_new_beginning() {
        let mut left = 3;
        let claims = claims_until_it_fails(|ue, now, node| {
            if left > 0 {
                left -= 1;
                ue.handle_token(now, node, ue.epoch(), ue.next());
            }
            ue.handle_lost(now, node);
        });
        assert_eq!(claims, 8);
    }

    #[test]
    fn nodes_that_send_a_reader_to_and_fro_are_given_up() {
        let mut ue = Ue::new(Duration::ZERO, 0, Patience::default());
        for _ in 0..1000 {
            let (at, epoch) = match ue.state {
                State::Following { at, .. } => (at, ue.epoch),
                State::Claiming(claiming) => (claiming.node, ue.epoch),
                State::Ended | State::Failed => return,
            };
            ue.handle_redirect(MS, at, epoch.next_hop(), 1 - at);
        }
        panic!("it goes on for ever");
    }
}
