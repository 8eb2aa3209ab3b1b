//! Decides, every so many tokens, which device computes what, from what was measured; on the thread of
//! the engine, between two steps.

use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use edgeprompt_engine::{Clock, Engine, Owner, Owners, Pace, Part, SpreadEvent, Timing, WorkerId};
use edgeprompt_placement::{
    Decision, Device, Instance, Link, Load, ModelShape, Policy, WeightCopy, decide, exact,
    step_seconds,
};
use edgeprompt_telemetry::names;
use metrics::{counter, gauge, histogram};

use crate::crew::debt::Debt;
use crate::crew::figures::{self, model_shape, owners, placement};
use crate::crew::gate::Newcomer;
use crate::crew::hand::{Hand, ONE_WAY_UNKNOWN};
use crate::crew::measures::Smoothed;
use crate::crew::roster::Roster;
use crate::crew::setbacks::Setbacks;

mod aiming;
mod telling;

/// What the leader's own link is taken to carry: its workers' links are what is measured.
const LEADER_RATE: f64 = 1e10;

/// What a leader that says nothing of it gives to its own jobs: it holds the whole model anyway.
const LEADER_MEMORY: u64 = 1 << 50;

/// Tokens of context that are planned for while nobody asks anything.
const CONTEXT_IDLE: usize = 256;

/// Tokens still to come that are planned for while nobody asks anything.
const REMAINING_IDLE: usize = 1024;

/// How the foreman decides.
#[derive(Clone, Copy, Debug)]
pub struct ForemanConfig {
    /// λ: tokens between two plans.
    pub plan_every: usize,
    /// What this node computes, in floating-point operations a second.
    pub own_flops_per_second: f64,
    /// How it decides.
    pub policy: PlacementPolicy,
    /// How much of the time this node computes while workers are linked, from 1 to 100.
    pub own_percent: u8,
    /// How long workers are waited for at most.
    pub patience: Duration,
}

/// What is placed where.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum PlacementPolicy {
    /// Where a token takes least time, which may be this node alone
    Best,
    /// The same number of heads and slices on every device, whatever that costs
    Even,
    /// This node alone, whatever its workers could do
    Here,
}

/// When the next plan is due.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Urgency {
    /// After so many tokens.
    InTime,
    /// As soon as nothing is on its way.
    Soon,
    /// At once: what is on its way goes to somebody who wants to go.
    Now,
}

/// Keeps the list of workers and decides what they do.
pub struct Foreman {
    config: ForemanConfig,
    model: ModelShape,
    hands: BTreeMap<WorkerId, Hand>,
    own: Smoothed,
    next_id: u32,
    tokens_since: usize,
    urgency: Urgency,
    setbacks: Setbacks,
    roster: Roster,
    /// Of whom it was said that they have nothing to do.
    idle: BTreeSet<WorkerId>,
    /// What is gone for in two legs.
    destination: Option<Owners>,
}

impl Foreman {
    /// Nobody yet. Who comes, and what becomes of them, is in the roster.
    pub fn new(engine: &Engine, config: ForemanConfig, roster: Roster) -> Self {
        Self {
            model: model_shape(engine.shard_shape(), engine.vocab_len()),
            own: Smoothed::new(config.own_flops_per_second),
            hands: BTreeMap::new(),
            next_id: 0,
            tokens_since: 0,
            urgency: Urgency::InTime,
            setbacks: Setbacks::default(),
            idle: BTreeSet::new(),
            destination: None,
            roster,
            config,
        }
    }

    /// Somebody lends a device.
    pub fn admit(&mut self, engine: &mut Engine, newcomer: Newcomer) -> WorkerId {
        let id = WorkerId(self.next_id);
        self.next_id += 1;
        let Newcomer {
            port,
            hello,
            standing,
        } = newcomer;
        tracing::info!(
            worker = id.0,
            addr = %standing.addr(),
            memory_mib = hello.memory_bytes >> 20,
            gflops = hello.flops_per_second / 1e9,
            has_model = hello.has_model,
            "a worker lends its device"
        );
        let one_way = standing
            .link()
            .map_or(ONE_WAY_UNKNOWN, |link| link.rtt.div_f64(2.0));
        let hand = Hand {
            memory_bytes: hello.memory_bytes,
            has_model: hello.has_model,
            flops_per_second: Smoothed::new(hello.flops_per_second),
            one_way_seconds: Smoothed::new(one_way.as_secs_f64()),
            is_waiting: self.setbacks.is_waiting(standing.name(), Instant::now()),
            is_leaving: false,
            memory_heard_at: Instant::now(),
            standing,
        };
        self.hands.insert(id, hand);
        engine.join(id, Box::new(port));
        self.think_again(Urgency::Soon);
        self.be_patient(engine);
        self.tell(engine);
        id
    }

    fn urge(&mut self, urgency: Urgency) {
        self.urgency = self.urgency.max(urgency);
    }

    /// Whether there is anybody to look after.
    pub fn has_hands(&self) -> bool {
        !self.hands.is_empty()
    }

    /// Bytes sent to workers and received from them.
    pub fn traffic(&self) -> (u64, u64) {
        let all = self.hands.values().map(|hand| hand.standing.traffic());
        all.fold((0, 0), |sum, it| (sum.0 + it.0, sum.1 + it.1))
    }

    /// After a step that brought so many tokens: hears what happened, and plans if it is time.
    pub fn after_step(&mut self, engine: &mut Engine, token_count: usize) {
        self.tokens_since += token_count;
        self.hear(engine);
        self.hear_of_memory(engine);
        self.let_in();
        self.let_go(engine);
        let Some(spread) = engine.spread() else {
            return;
        };
        let is_time = match self.urgency {
            Urgency::Now => true,
            Urgency::Soon => !spread.is_migrating(),
            Urgency::InTime => {
                self.tokens_since >= self.config.plan_every && !spread.is_migrating()
            }
        };
        if !is_time || self.hands.is_empty() {
            return;
        }
        (self.urgency, self.tokens_since) = (Urgency::InTime, 0);
        self.measure(engine);
        self.be_patient(engine);
        self.predict(engine);
        match (self.destination.take(), self.config.policy) {
            (Some(goal), _) if self.is_there(&goal) => self.aim(engine, goal),
            (_, PlacementPolicy::Best) => self.plan(engine),
            (_, PlacementPolicy::Even) => self.go_even(engine),
            (_, PlacementPolicy::Here) => {}
        }
        self.tell(engine);
        self.tell_of_idle(engine);
    }

    /// How long the engine is to wait for workers, as fast as they are.
    fn be_patient(&self, engine: &mut Engine) {
        let seen = engine.demand().context_len + self.headroom_len(engine);
        let paces = self.hands.values().map(Hand::pace);
        let patience = figures::patience(&self.model, seen, paces, self.config.patience);
        if let Some(spread) = engine.spread_mut() {
            spread.be_patient(patience);
        }
    }

    /// Tokens that may come before the next plan.
    fn headroom_len(&self, engine: &Engine) -> usize {
        self.config.plan_every * engine.demand().sequence_count.max(1)
    }

    /// What a step takes with the placement in force, as the planner has it.
    fn step_seconds(&self, engine: &Engine) -> Option<f64> {
        let instance = self.instance(engine).ok()?;
        let counts = instance.previous_counts()?;
        step_seconds(&instance, counts, instance.workload().dataflow)
    }

    /// What it would take with another one.
    fn step_seconds_with(&self, engine: &Engine, owners: &Owners) -> Option<f64> {
        let instance = self.instance(engine).ok()?;
        let counts = placement(owners).counts(instance.devices());
        step_seconds(&instance, &counts, instance.workload().dataflow)
    }

    fn predict(&self, engine: &Engine) {
        if let Some(seconds) = self.step_seconds(engine) {
            histogram!(names::EDGE_PLACEMENT_STEP_PREDICTED_SECONDS).record(seconds);
        }
    }

    fn hear(&mut self, engine: &mut Engine) {
        let events = engine.spread_mut().map(|spread| spread.take_events());
        for event in events.into_iter().flatten() {
            match event {
                SpreadEvent::Moved {
                    jobs,
                    kv_bytes,
                    weight_bytes,
                } => {
                    tracing::info!(
                        jobs,
                        kv_bytes,
                        weight_bytes,
                        "heads and slices changed hands"
                    );
                    counter!(names::EDGE_PLACEMENT_MIGRATIONS_TOTAL).increment(1);
                    counter!(names::EDGE_PLACEMENT_MIGRATED_BYTES_TOTAL)
                        .increment(kv_bytes + weight_bytes);
                }
                SpreadEvent::Lost(lost) => {
                    let hand = self.hands.remove(&lost.worker);
                    let pause = hand.map_or(Duration::ZERO, |hand| {
                        self.setbacks.note(hand.standing.name(), Instant::now())
                    });
                    tracing::warn!(
                        worker = lost.worker.0,
                        reason = lost.reason,
                        pause_s = pause.as_secs(),
                        "a worker is lost: what it had is computed again, and it is given nothing for a while"
                    );
                    counter!(names::EDGE_WORKERS_LOST_TOTAL).increment(1);
                    self.think_again(Urgency::Soon);
                }
            }
            self.tell(engine);
        }
    }

    /// Who lends less than before is to have less at once: what is on its way may be on its way there.
    fn hear_of_memory(&mut self, engine: &Engine) {
        let now = Instant::now();
        let hands = self.hands.values_mut();
        let heard = hands.map(|it| it.hear_of_memory(now));
        let heard: Vec<_> = heard.filter(|it| it.is_ne()).collect();
        if heard.contains(&Ordering::Less) {
            self.think_again(Urgency::Now);
        }
        if !heard.is_empty() {
            self.tell(engine);
        }
    }

    /// Something has changed: what was gone for may be wrong now.
    fn think_again(&mut self, urgency: Urgency) {
        self.destination = None;
        self.urge(urgency);
    }

    /// Those that were lost before and have waited long enough.
    fn let_in(&mut self) {
        let now = Instant::now();
        let mut is_over = false;
        for hand in self.hands.values_mut().filter(|hand| hand.is_waiting) {
            hand.is_waiting = self.setbacks.is_waiting(hand.standing.name(), now);
            is_over |= !hand.is_waiting;
        }
        if is_over {
            self.think_again(Urgency::Soon);
        }
    }

    /// Those that want to go, and have nothing to do any more.
    fn let_go(&mut self, engine: &mut Engine) {
        let leaving = self.hands.iter_mut();
        let leaving = leaving.filter(|(_, hand)| hand.standing.is_leaving());
        let leaving: Vec<_> = leaving
            .map(|(id, hand)| (*id, std::mem::replace(&mut hand.is_leaving, true)))
            .collect();
        for (id, is_known) in leaving {
            let dismissed = engine.spread_mut().is_some_and(|it| it.dismiss(id));
            if dismissed {
                tracing::info!(worker = id.0, "a worker left");
                self.hands.remove(&id);
                self.tell(engine);
            } else {
                self.urge(match is_known {
                    true => Urgency::Soon,
                    false => Urgency::Now,
                });
            }
        }
    }

    /// Takes in what the last steps took.
    fn measure(&mut self, engine: &mut Engine) {
        let Some(spread) = engine.spread_mut() else {
            return;
        };
        let mut flops: BTreeMap<Owner, (f64, f64)> = BTreeMap::new();
        for ((owner, part), timing) in spread.take_timings() {
            let sum = flops.entry(owner).or_default();
            sum.0 += self.flops(part, &timing);
            sum.1 += timing.busy.as_secs_f64();
            if let (Owner::Worker(id), true) = (owner, timing.away_count > 0)
                && let Some(hand) = self.hands.get_mut(&id)
            {
                let each = timing.away.as_secs_f64() / f64::from(timing.away_count);
                hand.one_way_seconds.note(each / 2.0);
            }
        }
        for (owner, (flops, seconds)) in flops {
            match owner {
                Owner::Here => self.own.note(flops / seconds),
                Owner::Worker(id) => {
                    if let Some(hand) = self.hands.get_mut(&id) {
                        hand.flops_per_second.note(flops / seconds);
                    }
                }
            }
        }
    }

    /// Operations of what was measured: of a decode step as the planner counts them.
    fn flops(&self, part: Part, timing: &Timing) -> f64 {
        let ModelShape {
            hidden_dim,
            head_dim,
            mlp_dim,
            ..
        } = self.model;
        let group = self.model.q_head_count / self.model.kv_head_count;
        match part {
            Part::Heads => {
                let weights = (hidden_dim * head_dim * (2 * group + 2)) as f64;
                let seen = (4 * group * head_dim) as f64;
                2.0 * weights * timing.job_tokens as f64 + seen * timing.job_seen as f64
            }
            Part::FeedForward => {
                let weights = (3 * hidden_dim * mlp_dim) as f64 / SLICE_COUNT as f64;
                2.0 * weights * timing.job_tokens as f64
            }
        }
    }

    fn plan(&mut self, engine: &mut Engine) {
        let instance = self.instance(engine);
        let decision = instance.map(|it| decide(&it, exact::plan, &Policy::default()));
        match decision {
            Ok(Ok(Decision::Stay { .. })) => {}
            Ok(Ok(Decision::Move(change))) => {
                tracing::info!(
                    moves = change.moves.len(),
                    step_ms = change.step_seconds * 1e3,
                    migration_ms = change.migration_seconds * 1e3,
                    "another placement is better"
                );
                forecast(Some(change.step_seconds));
                self.aim(engine, owners(&change.placement));
            }
            Ok(Err(error)) => tracing::warn!(%error, "no placement: it stays as it is"),
            Err(error) => tracing::warn!(%error, "nothing can be planned: it stays as it is"),
        }
    }

    /// What a plan depends on. Those that want to go are not in it.
    fn instance(&self, engine: &Engine) -> Result<Instance, edgeprompt_placement::InstanceError> {
        let leader = Device {
            id: figures::device(Owner::Here),
            flops_per_second: self.own.get(),
            memory_bytes: LEADER_MEMORY,
            link: Link {
                bits_per_second: LEADER_RATE,
                one_way_seconds: 0.0,
            },
            weights: WeightCopy::Whole,
        };
        let staying = self.hands.iter().filter(|it| it.1.is_of_use());
        let devices = staying.map(|(id, hand)| hand.device(*id));
        let devices = [leader].into_iter().chain(devices).collect();
        let demand = engine.demand();
        let load = Load {
            sequence_count: demand.sequence_count.max(1),
            context_len: match demand.sequence_count {
                0 => CONTEXT_IDLE,
                _ => demand.context_len,
            },
            headroom_len: self.headroom_len(engine),
            ffn_slice_count: SLICE_COUNT,
        };
        let remaining = match demand.sequence_count {
            0 => REMAINING_IDLE,
            count => demand.remaining_len / count,
        };
        let spread = engine.spread();
        let previous = spread.map(|spread| placement(spread.owners()));
        // Cloud prompts that nobody uses now are kept for the next one.
        let kept_len = spread.map_or(0, |it| it.shared_len().saturating_sub(demand.cloud_len));
        // And the next one may be as long as any.
        let kept_len = kept_len + engine.context_len_max();
        let workload = figures::workload(&self.model, &load, (engine.shard_shape(), kept_len));
        Instance::new(devices, workload, previous, remaining)
    }
}

/// What was decided on is to take so long, as far as is known before anything moves.
fn forecast(seconds: Option<f64>) {
    if let Some(seconds) = seconds {
        gauge!(names::EDGE_PLACEMENT_FORECAST_MILLISECONDS).set(seconds * 1e3);
    }
}

/// Slices of each feed-forward network: fine enough to balance a handful of devices.
pub const SLICE_COUNT: usize = 8;

/// What an engine is to know of time that others compute with: the clock, and to rest so much after its
/// own part.
pub fn time(own_percent: u8) -> (Clock, Pace) {
    let began = Instant::now();
    let clock = Arc::new(move || began.elapsed());
    let debt = Mutex::new(Debt::of(own_percent));
    let pace = Arc::new(move |worked| {
        let mut debt = debt.lock().unwrap_or_else(PoisonError::into_inner);
        debt.pay(worked);
    });
    (clock, pace)
}
