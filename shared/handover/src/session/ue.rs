//! The reader of a session: the user's own program, or the node that holds the user's connection.

use std::collections::VecDeque;
use std::time::Duration;

use super::{Claim, ClaimReply, Epoch, Patience};

/// How often every node is tried before a session counts as lost.
const ROUNDS_MAX: usize = 3;

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
    /// Claims of other nodes before this one.
    tried: usize,
}

impl<N: Copy + PartialEq> Ue<N> {
    /// The reader of a session that begins at a node.
    pub fn new(now: Duration, at: N, patience: Patience) -> Self {
        Self {
            epoch: Epoch::FIRST,
            next: 0,
            nodes: vec![at],
            state: State::Following { at, heard_at: now },
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
            self.claim(now, from, (Claim::Attach, 0));
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
        self.epoch = epoch;
        self.nodes.retain(|node| *node != to);
        if self.nodes.len() >= NODES_MAX {
            self.nodes.remove(0);
        }
        self.nodes.push(to);
        self.claim(now, to, (Claim::Attach, 0));
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
                self.try_next(now, from, claiming.tried);
            }
            // An old answer.
            (ClaimReply::Granted(_) | ClaimReply::Stale(_), _) => {}
            (ClaimReply::Moved(_), None) => self.try_next(now, from, claiming.tried),
        }
    }

    /// A node is gone, or does not want the session.
    pub fn handle_lost(&mut self, now: Duration, from: N) {
        match self.state {
            State::Following { at, .. } if at == from => self.try_next(now, from, 0),
            State::Claiming(claiming) if claiming.node == from => {
                self.try_next(now, from, claiming.tried);
            }
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
                self.claim(now, at, (Claim::Attach, 0));
            }
            State::Claiming(claiming) => {
                if now >= claiming.since + self.patience.answer {
                    self.try_next(now, claiming.node, claiming.tried);
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
    fn try_next(&mut self, now: Duration, from: N, tried: usize) {
        if tried + 1 >= ROUNDS_MAX * self.nodes.len() {
            self.state = State::Failed;
            self.actions.push_back(UeAction::Fail(UeFailure {
                node_count: self.nodes.len(),
                token_count: self.next,
            }));
            return;
        }
        let at = self.nodes.iter().position(|node| *node == from);
        let next = match at {
            Some(0) | None => self.nodes.len() - 1,
            Some(at) => at - 1,
        };
        // Whatever the others think: from here on only this right counts.
        self.epoch = self.epoch.next_claim();
        self.claim(now, self.nodes[next], (Claim::Take, tried + 1));
    }

    fn claim(&mut self, now: Duration, node: N, (claim, tried): (Claim, usize)) {
        self.ask(Claiming {
            node,
            claim,
            since: now,
            repeat_at: now + self.patience.repeat,
            tried,
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
