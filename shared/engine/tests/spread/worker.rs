//! A worker in this process, as slow in the background as the seed will have it. It dies when its fate
//! says so, and its manners may be bad.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use burn::tensor::Device;
use edgeprompt_engine::{Answer, Gone, Order, Reply, Shard, ShardShape, Task, WorkerPort};
use edgeprompt_model::Model;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

/// How often what happened.
#[derive(Default)]
pub(crate) struct Seen(Mutex<BTreeMap<String, usize>>);

impl Seen {
    pub(crate) fn note(&self, what: impl Into<String>) {
        *self.0.lock().unwrap().entry(what.into()).or_default() += 1;
    }

    pub(crate) fn count(&self, what: &str) -> usize {
        self.0.lock().unwrap().get(what).copied().unwrap_or(0)
    }

    /// All of it happened.
    pub(crate) fn assert_all(&self, expected: &[&str]) {
        println!("{:?}", self.0.lock().unwrap());
        for what in expected {
            assert!(self.count(what) > 0, "never: {what}");
        }
    }
}

/// An order of a step, or the reply to one, by name.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Moment {
    pub(crate) at: &'static str,
    pub(crate) kind: &'static str,
}

/// When a worker dies.
pub(crate) struct Fate {
    lives: AtomicBool,
    /// At which order of a step from now, and at which reply.
    orders: AtomicUsize,
    replies: AtomicUsize,
    /// At which kind of them, whenever it comes.
    moment: Mutex<Option<Moment>>,
    pub(crate) seen: Arc<Seen>,
}

impl Fate {
    pub(crate) fn new(seen: &Arc<Seen>) -> Arc<Self> {
        Arc::new(Self {
            lives: AtomicBool::new(true),
            orders: AtomicUsize::new(usize::MAX),
            replies: AtomicUsize::new(usize::MAX),
            moment: Mutex::default(),
            seen: Arc::clone(seen),
        })
    }

    pub(crate) fn die_now(&self) {
        self.lives.store(false, Ordering::Relaxed);
    }

    pub(crate) fn die_at_order(&self, count: usize) {
        self.orders.store(count, Ordering::Relaxed);
    }

    pub(crate) fn die_at_reply(&self, count: usize) {
        self.replies.store(count, Ordering::Relaxed);
    }

    pub(crate) fn die_at(&self, moment: Moment) {
        *self.moment.lock().unwrap() = Some(moment);
    }

    /// Whether this is the moment; it dies then.
    fn comes(&self, at: &'static str, kind: &'static str) -> bool {
        let count = match at {
            "order" => &self.orders,
            _ => &self.replies,
        };
        let moment = Moment { at, kind };
        let is_last = count.fetch_sub(1, Ordering::Relaxed) == 1;
        let comes = is_last || *self.moment.lock().unwrap() == Some(moment);
        if comes {
            self.seen.note(format!("died at {at}: {kind}"));
            self.die_now();
        }
        comes
    }
}

/// How likely a worker does what it should not.
#[derive(Clone, Copy, Default)]
pub(crate) struct Manners {
    /// Says again what it has said.
    pub(crate) repeats: f64,
    /// Answers nonsense.
    pub(crate) lies: f64,
}

pub(crate) struct InProcess {
    shard: Shard,
    has_model: bool,
    fate: Arc<Fate>,
    manners: Manners,
    rng: StdRng,
    /// With what was asked for.
    replies: VecDeque<(&'static str, Reply)>,
    said: Option<Reply>,
    aside: VecDeque<Order>,
    aside_replies: VecDeque<Reply>,
    /// What came aside, by layer, head and block.
    put: BTreeSet<[usize; 3]>,
}

impl InProcess {
    pub(crate) fn new(
        (shape, own): (ShardShape, Option<Arc<Model>>),
        (fate, manners): (Arc<Fate>, Manners),
        seed: u64,
    ) -> Self {
        Self {
            has_model: own.is_some(),
            shard: Shard::empty(shape, own, &Device::flex()),
            fate,
            manners,
            rng: StdRng::seed_from_u64(seed),
            replies: VecDeque::new(),
            said: None,
            aside: VecDeque::new(),
            aside_replies: VecDeque::new(),
            put: BTreeSet::new(),
        }
    }

    fn obey(&mut self, order: Order) -> Option<Reply> {
        self.fate.seen.note(kind(&order.task));
        let obeyed = self.shard.obey(order.task);
        let answer = obeyed.expect("a leader makes no mistakes")?;
        let turn = order.turn;
        Some(Reply { turn, answer })
    }

    /// What is late travels in rounds, each in portions.
    fn watch(&mut self, task: &Task) {
        match task {
            Task::Put {
                layer,
                head,
                blocks,
                ..
            } => {
                let mut places = blocks.iter().map(|block| [*layer, *head, *block]);
                if !places.all(|place| self.put.insert(place)) {
                    self.fate.seen.note("another round");
                } else if self.put.len() > blocks.len() {
                    self.fate.seen.note("another portion");
                }
            }
            Task::Weights { .. } | Task::Unstage => self.put.clear(),
            _ => {}
        }
    }

    fn check(&self) -> Result<(), Gone> {
        match self.fate.lives.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err(Gone {
                reason: "killed".into(),
            }),
        }
    }

    /// Something else than the answer.
    fn lie(&mut self, reply: &mut Reply) {
        match &mut reply.answer {
            Answer::Part { numbers, .. } if self.rng.random_bool(0.5) => {
                self.fate.seen.note("lied: not a number");
                let last = numbers.len() - 1;
                numbers[last] = f32::NAN;
            }
            Answer::Part { numbers, .. } | Answer::Kv(numbers) => {
                self.fate.seen.note("lied: too few numbers");
                numbers.pop();
            }
            Answer::Done => {
                self.fate.seen.note("lied: another answer");
                reply.answer = Answer::Kv(Vec::new());
            }
        }
    }
}

fn kind(task: &Task) -> &'static str {
    match task {
        Task::Begin { .. } => "begin",
        Task::Heads { .. } => "heads",
        Task::FeedForward { .. } => "feed-forward",
        Task::Prefix { .. } => "prefix",
        Task::Forget { .. } => "forget",
        Task::Weights { .. } => "weights",
        Task::Take { .. } => "take",
        Task::Put { .. } => "put",
        Task::Switch { .. } => "switch",
        Task::Unstage => "unstage",
        Task::Wipe { .. } => "wipe",
    }
}

impl WorkerPort for InProcess {
    fn has_model(&self) -> bool {
        self.has_model
    }

    fn send(&mut self, order: Order) {
        if self.check().is_err() {
            return;
        }
        let kind = kind(&order.task);
        if self.fate.comes("order", kind) {
            return;
        }
        let reply = self.obey(order);
        self.replies.extend(reply.map(|reply| (kind, reply)));
    }

    fn receive(&mut self, _patience: Duration) -> Result<Reply, Gone> {
        self.check()?;
        if let Some(said) = &self.said
            && self.rng.random_bool(self.manners.repeats)
        {
            self.fate.seen.note("repeated");
            return Ok(said.clone());
        }
        let (kind, mut reply) = self.replies.pop_front().expect("it was asked");
        if self.fate.comes("reply", kind) {
            self.check()?;
        }
        if self.rng.random_bool(self.manners.lies) {
            self.lie(&mut reply);
        }
        self.said = Some(reply.clone());
        Ok(reply)
    }

    fn send_aside(&mut self, order: Order) {
        self.aside.push_back(order);
    }

    fn poll_aside(&mut self) -> Result<Option<Reply>, Gone> {
        self.check()?;
        // Whatever is behind waits, and may be overtaken by steps.
        while self.rng.random_bool(0.8) {
            let Some(order) = self.aside.pop_front() else {
                break;
            };
            self.watch(&order.task);
            let reply = self.obey(order);
            self.aside_replies.extend(reply);
        }
        Ok(self.aside_replies.pop_front())
    }
}
