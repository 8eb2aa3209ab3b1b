//! Three nodes, a reader, and the network between them.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::Duration;

use edgeprompt_handover::session::{
    Claim, ClaimReply, Epoch, Patience, Seat, SeatAction, ToSource, ToTarget, Ue, UeAction, Verdict,
};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::faults::Faults;
use crate::message::{AnswerBy, Message, OrderBy};

const NODES: usize = 3;
/// The reader, as an address.
const UE: usize = NODES;
/// Tokens of a session.
const LEN: usize = 60;
const TOKEN_MS: u64 = 20;
/// Between two moves, about.
const MOVE_MS: u64 = 150;
/// No session takes longer than that.
const END_MS: u64 = 600_000;

const PATIENCE: Patience = Patience {
    repeat: Duration::from_millis(100),
    answer: Duration::from_millis(1000),
    orphan: Duration::from_millis(8000),
};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Ending {
    Whole,
    Failed,
}

#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Arrives {
        from: usize,
        to: usize,
        message: Message,
    },
    /// Every node's time to generate, and everybody's to look at the clock.
    Tick,
    Move,
    Crash,
    Cut,
    Mend,
}

#[derive(Default)]
struct Node {
    seat: Option<Seat>,
    tokens: Vec<u64>,
    /// The session is going to, or has gone to.
    target: usize,
    /// The session comes from.
    source: usize,
    /// A reader listens.
    reader: bool,
    switch_at: Option<u64>,
}

pub(crate) struct World {
    now_ms: u64,
    /// Events by time, and in the order of their making.
    events: BinaryHeap<Reverse<(u64, u64, Event)>>,
    made: u64,
    nodes: [Node; NODES],
    ue: Ue<usize>,
    read: Vec<u64>,
    cut: BTreeMap<(usize, usize), ()>,
    faults: Faults,
    random: ChaCha8Rng,
    seed: u64,
    pub(crate) moves: u64,
}

impl World {
    pub(crate) fn new(seed: u64, faults: Faults) -> Self {
        let mut world = Self {
            now_ms: 0,
            events: BinaryHeap::new(),
            made: 0,
            nodes: Default::default(),
            ue: Ue::new(Duration::ZERO, 0, PATIENCE),
            read: Vec::new(),
            cut: BTreeMap::new(),
            faults,
            random: ChaCha8Rng::seed_from_u64(seed),
            seed,
            moves: 0,
        };
        world.nodes[0].seat = Some(Seat::owner(Epoch::FIRST, 0, PATIENCE));
        world.nodes[0].reader = true;
        for node in 1..NODES {
            world.ue.know(node);
        }
        world.after(TOKEN_MS, Event::Tick);
        world.after(MOVE_MS, Event::Move);
        world.plan_fault(faults.crashes_per_second, Event::Crash);
        world.plan_fault(faults.cuts_per_second, Event::Cut);
        world
    }

    pub(crate) fn run(&mut self) -> Ending {
        while let Some(Reverse((at, _, event))) = self.events.pop() {
            self.now_ms = at;
            assert!(at < END_MS, "seed {}: a session has no end", self.seed);
            self.happens(event);
            self.check();
            if self.ue.has_ended() {
                let whole: Vec<u64> = (0..LEN).map(|index| self.truth(index)).collect();
                assert_eq!(self.read, whole, "seed {}", self.seed);
                return Ending::Whole;
            }
            if self.ue.has_failed() {
                return Ending::Failed;
            }
        }
        panic!("seed {}: nothing happens any more", self.seed);
    }

    fn truth(&self, index: usize) -> u64 {
        (self.seed << 16) + (index as u64) * 31
    }

    fn now(&self) -> Duration {
        Duration::from_millis(self.now_ms)
    }

    /// What must hold whatever has happened.
    fn check(&self) {
        let counts = |node: &&Node| {
            let owned = node.seat.as_ref().and_then(Seat::owned);
            owned.is_some_and(|epoch| epoch >= self.ue.epoch())
        };
        let owners = self.nodes.iter().filter(counts).count();
        assert!(owners <= 1, "seed {}: {owners} owners", self.seed);
        for (index, token) in self.read.iter().enumerate() {
            assert_eq!(
                *token,
                self.truth(index),
                "seed {}: token {index}",
                self.seed
            );
        }
    }

    fn happens(&mut self, event: Event) {
        match event {
            Event::Tick => self.tick(),
            Event::Move => {
                self.start_move();
                self.after(MOVE_MS, Event::Move);
            }
            Event::Crash => {
                let node = self.random.random_range(0..NODES);
                self.nodes[node] = Node::default();
                self.plan_fault(self.faults.crashes_per_second, Event::Crash);
            }
            Event::Cut => {
                let (a, b) = (
                    self.random.random_range(0..=NODES),
                    self.random.random_range(0..=NODES),
                );
                self.cut.insert((a.min(b), a.max(b)), ());
                let for_ms = self.random.random_range(10..3000);
                self.after(for_ms, Event::Mend);
                self.plan_fault(self.faults.cuts_per_second, Event::Cut);
            }
            Event::Mend => {
                self.cut.pop_first();
            }
            Event::Arrives { from, to, message } if to == UE => self.ue_hears(from, message),
            Event::Arrives { from, to, message } => self.node_hears(from, to, message),
        }
    }

    fn tick(&mut self) {
        let now = self.now();
        for index in 0..NODES {
            self.generate(index);
            let (now_ms, node) = (self.now_ms, &mut self.nodes[index]);
            if let Some(seat) = &mut node.seat {
                if seat.poll_timeout().is_some_and(|due| now >= due) {
                    seat.handle_timeout(now);
                }
                if node.switch_at.is_some_and(|at| now_ms >= at) && seat.is_accepted() {
                    node.switch_at = None;
                    seat.handle_switch(now);
                }
            }
            self.act(index);
        }
        if self.ue.poll_timeout().is_some_and(|due| now >= due) {
            self.ue.handle_timeout(now);
        }
        self.ue_acts();
        self.after(TOKEN_MS, Event::Tick);
    }

    fn generate(&mut self, index: usize) {
        let node = &mut self.nodes[index];
        let Some((seat, epoch)) = node
            .seat
            .as_mut()
            .and_then(|seat| Some((seat.owned()?, seat)).map(|(epoch, seat)| (seat, epoch)))
        else {
            return;
        };
        let at = node.tokens.len();
        if at == LEN {
            seat.handle_finished();
            if node.reader {
                self.send(index, UE, Message::End { epoch, len: LEN });
            }
            return;
        }
        seat.handle_token();
        let token = self.truth(at);
        let node = &mut self.nodes[index];
        node.tokens.push(token);
        if node.reader {
            let index_of_token = at;
            self.send(
                index,
                UE,
                Message::Token {
                    epoch,
                    index: index_of_token,
                    token,
                },
            );
        }
    }

    fn start_move(&mut self) {
        let now = self.now();
        for index in 0..NODES {
            let target = (index + self.random.random_range(1..NODES)) % NODES;
            let switch_at = self.now_ms + self.random.random_range(0..100);
            let node = &mut self.nodes[index];
            let Some(seat) = &mut node.seat else { continue };
            if seat.handle_start(now).is_ok() {
                node.target = target;
                node.switch_at = Some(switch_at);
            }
            self.act(index);
        }
    }

    /// Does what the seat of a node wants done.
    fn act(&mut self, index: usize) {
        while let Some(action) = self.nodes[index].seat.as_mut().and_then(Seat::poll_action) {
            let node = &mut self.nodes[index];
            match action {
                SeatAction::ToTarget(message) => {
                    let tokens = match message {
                        ToTarget::Offer { len, .. } => node.tokens[..len].to_vec(),
                        ToTarget::Tokens { start, end, .. } => node.tokens[start..end].to_vec(),
                        ToTarget::Commit { .. } | ToTarget::Withdraw { .. } => Vec::new(),
                    };
                    let target = node.target;
                    self.send(index, target, Message::Order(OrderBy(message), tokens));
                }
                SeatAction::ToSource(message) => {
                    let source = node.source;
                    self.send(index, source, Message::Answer(AnswerBy(message)));
                }
                SeatAction::Redirect(epoch) => {
                    let to = node.target;
                    if node.reader {
                        self.send(index, UE, Message::Redirect { epoch, to });
                    }
                    self.nodes[index].reader = false;
                }
                SeatAction::Activate { len, .. } => {
                    node.tokens.truncate(len);
                    assert_eq!(node.tokens.len(), len, "seed {}", self.seed);
                    self.moves += 1;
                }
                SeatAction::Discard
                | SeatAction::Wipe
                | SeatAction::GiveUp(_)
                | SeatAction::TargetSilent => {}
            }
        }
    }

    fn node_hears(&mut self, from: usize, to: usize, message: Message) {
        let now = self.now();
        match message {
            Message::Order(OrderBy(order), tokens) => self.ordered(from, to, order, &tokens),
            Message::Answer(AnswerBy(answer)) => {
                let node = &mut self.nodes[to];
                if from == node.target
                    && let Some(seat) = &mut node.seat
                {
                    seat.handle_answer(now, answer);
                }
            }
            Message::Claim {
                attach,
                epoch,
                transcript,
            } => self.claimed(to, (attach, epoch), &transcript),
            _ => unreachable!("nothing else is for nodes"),
        }
        self.act(to);
    }

    fn ordered(&mut self, from: usize, to: usize, order: ToTarget, tokens: &[u64]) {
        let (now, full) = (self.now(), self.random.random_bool(0.02));
        let node = &mut self.nodes[to];
        if let ToTarget::Offer { epoch, len } = order
            && node
                .seat
                .as_ref()
                .is_none_or(|seat| seat.is_new_offer(epoch))
        {
            if full {
                let refused = ToSource::Refused { epoch };
                self.send(to, from, Message::Answer(AnswerBy(refused)));
                return;
            }
            node.tokens = tokens.to_vec();
            node.seat = Some(Seat::accepting(now, epoch, len, PATIENCE));
            (node.source, node.reader, node.switch_at) = (from, false, None);
            return;
        }
        let Some(seat) = &mut node.seat else {
            if let ToTarget::Tokens { epoch, .. } | ToTarget::Commit { epoch, .. } = order {
                let refused = ToSource::Refused { epoch };
                self.send(to, from, Message::Answer(AnswerBy(refused)));
            }
            return;
        };
        if seat.owned().is_none() {
            let start = match order {
                ToTarget::Tokens { start, .. } => start,
                _ => 0,
            };
            for (index, token) in (start..).zip(tokens) {
                if index == node.tokens.len() {
                    node.tokens.push(*token);
                }
            }
        }
        seat.handle_order(now, order);
        node.source = from;
    }

    fn claimed(&mut self, to: usize, (attach, epoch): (bool, Epoch), transcript: &[u64]) {
        let (now, full) = (self.now(), self.random.random_bool(0.02));
        let node = &mut self.nodes[to];
        if node.seat.is_none() && (full || attach) {
            self.send(to, UE, Message::Declined);
            return;
        }
        let seat = node
            .seat
            .get_or_insert_with(|| Seat::owner(epoch, transcript.len(), PATIENCE));
        let reply = seat.handle_claim(now, epoch, transcript.len());
        let (mut granted, mut moved, mut stale) = (None, None, None);
        match reply {
            ClaimReply::Granted(epoch) => granted = Some(epoch),
            ClaimReply::Moved(epoch) => moved = Some((epoch, node.target)),
            ClaimReply::Stale(epoch) => stale = Some(epoch),
        }
        if granted.is_some() {
            if node.tokens.len() < transcript.len() {
                node.tokens = transcript.to_vec();
            }
            node.reader = true;
        }
        let reply = Message::Reply {
            granted,
            moved,
            stale,
        };
        self.act(to);
        self.send(to, UE, reply);
        if let Some(epoch) = granted {
            for index in transcript.len()..self.nodes[to].tokens.len() {
                let token = self.nodes[to].tokens[index];
                self.send(
                    to,
                    UE,
                    Message::Token {
                        epoch,
                        index,
                        token,
                    },
                );
            }
        }
    }

    fn ue_hears(&mut self, from: usize, message: Message) {
        let now = self.now();
        match message {
            Message::Token {
                epoch,
                index,
                token,
            } => match self.ue.handle_token(now, from, epoch, index) {
                Verdict::Accepted => self.read.push(token),
                Verdict::Repeated | Verdict::Early | Verdict::Stale => {}
            },
            Message::End { epoch, len } => self.ue.handle_end(now, from, epoch, len),
            Message::Redirect { epoch, to } => self.ue.handle_redirect(now, from, epoch, to),
            Message::Reply {
                granted,
                moved,
                stale,
            } => {
                let reply = match (granted, moved, stale) {
                    (Some(epoch), ..) => (ClaimReply::Granted(epoch), None),
                    (_, Some((epoch, to)), _) => (ClaimReply::Moved(epoch), Some(to)),
                    (.., Some(epoch)) => (ClaimReply::Stale(epoch), None),
                    (None, None, None) => return,
                };
                self.ue.handle_claim_reply(now, from, reply);
            }
            Message::Declined => self.ue.handle_lost(now, from),
            Message::Order(..) | Message::Answer(_) | Message::Claim { .. } => {
                unreachable!("nothing of that is for readers")
            }
        }
        self.ue_acts();
    }

    fn ue_acts(&mut self) {
        while let Some(action) = self.ue.poll_action() {
            match action {
                UeAction::Claim {
                    node,
                    claim,
                    epoch,
                    from,
                } => {
                    assert_eq!(from, self.read.len(), "seed {}", self.seed);
                    let message = Message::Claim {
                        attach: claim == Claim::Attach,
                        epoch,
                        transcript: self.read.clone(),
                    };
                    self.send(UE, node, message);
                }
                UeAction::Fail(_) => {}
            }
        }
    }

    fn send(&mut self, from: usize, to: usize, message: Message) {
        if self.cut.contains_key(&(from.min(to), from.max(to)))
            || self.random.random_bool(self.faults.lost)
        {
            return;
        }
        // A claim is a request of its own, which no transport repeats.
        let repeated = match message {
            Message::Claim { .. } => 0.0,
            _ => self.faults.repeated,
        };
        let copies = 1 + usize::from(self.random.random_bool(repeated));
        for _ in 0..copies {
            let delay = self.random.random_range(1..=self.faults.delay_ms_max);
            let message = message.clone();
            self.after(delay, Event::Arrives { from, to, message });
        }
    }

    fn plan_fault(&mut self, per_second: f64, fault: Event) {
        if per_second > 0.0 {
            let uniform: f64 = self.random.random_range(0.0001..1.0);
            #[expect(
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a positive time of some seconds"
            )]
            let wait = (-uniform.ln() / per_second * 1000.0) as u64;
            self.after(wait + 1, fault);
        }
    }

    fn after(&mut self, delay_ms: u64, event: Event) {
        self.made += 1;
        self.events
            .push(Reverse((self.now_ms + delay_ms, self.made, event)));
    }
}
