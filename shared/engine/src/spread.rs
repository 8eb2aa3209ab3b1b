//! A leader's side of a model that is spread over devices: who has which heads and slices, what is
//! sent to whom for each layer, and how jobs change their device between two steps.
//!
//! The leader scatters the normalised hidden state of a layer, everybody computes its part, and the
//! leader sums what comes back (head-level partitioning, arXiv 2505.02533). It reads no clock and
//! opens no socket itself: both are handed in.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use burn::tensor::{Tensor, TensorData};
use edgeprompt_kv::LayerIndex;

use crate::CloudSegment;
use crate::pass_plan::{Prefix, RowPlan};
use crate::shard::{
    Answer, LayerJobs, Order, OrderError, PrefixKey, RowShape, Shard, Task, numbers,
};

mod losing;
mod migration;
mod owners;
mod port;
mod portions;
mod prefixes;
mod switching;
mod timing;

use migration::Migration;
use owners::LayerPlaces;
pub use owners::{LayerOwners, Owner, Owners};
pub(crate) use port::Losses;
pub use port::{Clock, Gone, Lost, Pace, Patience, SpreadEvent, WorkerId, WorkerPort};
pub use portions::Portions;
use prefixes::{PrefixesThere, Shared};
pub use timing::{Part, Timing};

/// What it takes to look for an answer that is there.
const NOTICED: Duration = Duration::from_micros(50);

/// A pass of this process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PassId(pub(crate) u64);

struct Worker {
    port: Box<dyn WorkerPort>,
    /// The pass that it was told of last.
    pass: Option<PassId>,
    prefixes: PrefixesThere,
}

/// Devices that compute with an engine, and what each of them does.
pub struct Spread {
    workers: BTreeMap<WorkerId, Worker>,
    owners: Owners,
    /// Of each layer, as `owners` has it.
    places: Vec<LayerPlaces>,
    migration: Option<Migration>,
    /// The last used last.
    shared: Vec<Shared>,
    next_key: u64,
    /// The pass at hand, as workers are told of it.
    told: Option<(PassId, Vec<RowShape>)>,
    turn: u64,
    clock: Clock,
    pace: Pace,
    patience: Patience,
    portions: Portions,
    timings: BTreeMap<(Owner, Part), Timing>,
    /// Tokens of the pass at hand, and the tokens that they see; nothing while prompts are in it: what is
    /// planned for is a step of generation, and many tokens of one row take less time each.
    sizes: Option<(usize, usize)>,
    /// Keys and values of some heads were lost with a hand-over that failed.
    is_stale: bool,
    events: Vec<SpreadEvent>,
}

impl Spread {
    /// Nobody yet: everything is at the leader.
    pub fn new(owners: Owners, (clock, pace): (Clock, Pace)) -> Self {
        Self {
            workers: BTreeMap::new(),
            places: owners.places(),
            owners,
            migration: None,
            shared: Vec::new(),
            next_key: 0,
            told: None,
            turn: 0,
            clock,
            pace,
            patience: Patience::default(),
            portions: Portions::default(),
            timings: BTreeMap::new(),
            sizes: None,
            is_stale: false,
            events: Vec::new(),
        }
    }

    /// Somebody lends a device.
    pub fn join(&mut self, id: WorkerId, port: Box<dyn WorkerPort>) {
        let worker = Worker {
            port,
            pass: None,
            prefixes: PrefixesThere::default(),
        };
        self.workers.insert(id, worker);
    }

    /// How long workers are waited for from now on.
    pub const fn be_patient(&mut self, patience: Patience) {
        self.patience = patience;
    }

    /// How much travels beside the steps from now on.
    pub const fn move_in(&mut self, portions: Portions) {
        self.portions = portions;
    }

    /// Who is there.
    pub fn workers(&self) -> impl Iterator<Item = WorkerId> + '_ {
        self.workers.keys().copied()
    }

    /// Lets a worker go that has nothing to do any more; `false` if it has.
    pub fn dismiss(&mut self, id: WorkerId) -> bool {
        let is_free = self.migration.is_none() && !self.owners.names(Owner::Worker(id));
        if is_free {
            self.workers.remove(&id);
        }
        is_free
    }

    /// Who has what now.
    pub const fn owners(&self) -> &Owners {
        &self.owners
    }

    /// Whether jobs are on their way.
    pub const fn is_migrating(&self) -> bool {
        self.migration.is_some()
    }

    /// Whether anything is on its way to workers that nobody but they can tell of.
    pub fn awaits_workers(&self) -> bool {
        self.is_migrating() || self.awaits_prefixes()
    }

    /// What happened since this was last asked.
    pub fn take_events(&mut self) -> Vec<SpreadEvent> {
        std::mem::take(&mut self.events)
    }

    /// What was measured since this was last asked.
    pub fn take_timings(&mut self) -> BTreeMap<(Owner, Part), Timing> {
        std::mem::take(&mut self.timings)
    }

    /// Whether anybody is there: also a leader that does everything itself is measured then.
    pub(crate) fn is_used(&self) -> bool {
        !self.workers.is_empty()
    }

    /// Does what only the leader does, at its pace.
    pub(crate) fn paced<T>(&self, work: impl FnOnce() -> T) -> T {
        let began = (self.clock)();
        let done = work();
        (self.pace)((self.clock)().saturating_sub(began));
        done
    }

    fn turn(&mut self) -> u64 {
        self.turn += 1;
        self.turn
    }

    /// Makes a layer of a pass known to those who will compute it.
    pub(crate) fn begin(
        &mut self,
        pass: PassId,
        rows: &[RowPlan<CloudSegment>],
        layer: LayerIndex,
        shard: &mut Shard,
    ) {
        if let Some(migration) = &mut self.migration {
            migration.wrote(rows, shard.shape().block_len);
        }
        if self.told.as_ref().is_none_or(|(told, _)| *told != pass) {
            self.sizes = rows.iter().all(|row| row.len == 1).then(|| sizes(rows));
            let told = rows.iter().map(|row| RowShape {
                len: row.len,
                start: row.start,
                prefix: row.prefix.as_ref().map(|segment| self.share(segment)),
                blocks: row.blocks.clone(),
            });
            self.told = Some((pass, told.collect()));
        }
        let told = self.told.as_ref().map_or(&[][..], |(_, rows)| rows);
        let mut keys: Vec<_> = told.iter().filter_map(|it| Some(it.prefix?.key)).collect();
        keys.dedup();
        for key in keys {
            self.provide_here(key, layer, shard);
        }
        for id in self.places[layer.as_usize()].workers.iter() {
            let Some(worker) = self.workers.get_mut(id) else {
                continue;
            };
            if worker.pass != Some(pass) {
                worker.pass = Some(pass);
                self.turn += 1;
                let rows = told.to_vec();
                let (turn, task) = (self.turn, Task::Begin { rows });
                worker.port.send(Order { turn, task });
            }
        }
    }

    /// The sum of what all heads of a layer add; `local`: computes those of the leader.
    ///
    /// # Errors
    /// [`Losses`].
    pub(crate) fn heads(
        &mut self,
        layer: LayerIndex,
        input: &Tensor<2>,
        local: impl FnOnce(
            &dyn Fn(&CloudSegment) -> Option<PrefixKey>,
        ) -> Result<Option<Tensor<2>>, OrderError>,
    ) -> Result<Tensor<2>, Losses> {
        let workers = Arc::clone(&self.places[layer.as_usize()].heads);
        let task = |input| Task::Heads {
            layer: layer.as_usize(),
            input,
        };
        let local = |spread: &Self| {
            local(&|segment| spread.key_of(segment))
                .expect("the leader has what it told its workers of")
        };
        self.sum((Part::Heads, workers), input, task, local)
    }

    /// The sum of what all slices of a layer add; `local`: computes those of the leader.
    ///
    /// # Errors
    /// [`Losses`].
    pub(crate) fn feed_forward(
        &mut self,
        layer: LayerIndex,
        input: &Tensor<2>,
        local: impl FnOnce() -> Option<Tensor<2>>,
    ) -> Result<Tensor<2>, Losses> {
        let workers = Arc::clone(&self.places[layer.as_usize()].slices);
        let task = |input| Task::FeedForward {
            layer: layer.as_usize(),
            input,
        };
        self.sum((Part::FeedForward, workers), input, task, |_| local())
    }

    fn sum(
        &mut self,
        (part, counts): (Part, Arc<[(Owner, usize)]>),
        input: &Tensor<2>,
        task: impl Fn(Arc<Vec<f32>>) -> Task,
        local: impl FnOnce(&Self) -> Option<Tensor<2>>,
    ) -> Result<Tensor<2>, Losses> {
        let (shape, device) = (input.dims(), input.device());
        let turn = self.turn();
        let elsewhere = || {
            counts.iter().filter_map(|(owner, _)| match owner {
                Owner::Worker(id) => Some(*id),
                Owner::Here => None,
            })
        };
        let began = (self.clock)();
        if elsewhere().next().is_some() {
            let numbers = Arc::new(numbers(input.clone()));
            for id in elsewhere() {
                let worker = self.workers.get_mut(&id).ok_or_else(|| unknown(id))?;
                let task = task(Arc::clone(&numbers));
                worker.port.send(Order { turn, task });
            }
        }
        let mut sum = local(self);
        if sum.is_some() {
            (self.pace)((self.clock)().saturating_sub(began));
        }
        let computed = (self.clock)();
        let own = computed.saturating_sub(began);
        self.measured((Owner::Here, part), &counts, own, None);
        // One moment for all: those that are late are late together.
        let until = computed.saturating_add(self.patience.with(shape[0]));
        let mut losses = Losses::default();
        for id in elsewhere() {
            let (numbers, busy) = match self.part((id, turn), until, shape) {
                Ok(answer) => answer,
                // The others are heard all the same: who else is lost is found at once.
                Err(lost) => {
                    losses.add(lost);
                    continue;
                }
            };
            let took = (self.clock)().saturating_sub(began);
            let busy = busy.min(took);
            // An answer that was there before anybody looked says nothing of the way.
            let away = (took > own + NOTICED).then(|| took.saturating_sub(busy));
            self.measured((Owner::Worker(id), part), &counts, busy, away);
            let part = Tensor::from_data(TensorData::new(numbers, shape), &device);
            sum = Some(match sum {
                Some(sum) => sum + part,
                None => part,
            });
        }
        losses.check()?;
        Ok(sum.expect("every job has an owner"))
    }

    /// A worker's part of a sum, with how long it was computed.
    fn part(
        &mut self,
        order: (WorkerId, u64),
        until: Duration,
        [tokens, width]: [usize; 2],
    ) -> Result<(Vec<f32>, Duration), Lost> {
        match self.answer(order, until)? {
            // One number that is none would spoil every token from then on.
            Answer::Part { numbers, busy }
                if numbers.len() == tokens * width && numbers.iter().all(|it| it.is_finite()) =>
            {
                Ok((numbers, busy))
            }
            _ => Err(confused(order.0)),
        }
    }

    /// Until when answers to what is asked between two steps are waited for.
    fn deadline(&self) -> Duration {
        (self.clock)().saturating_add(self.patience.max)
    }

    /// The answer to an order, until that moment, all earlier ones skipped: nobody waits for those any
    /// more.
    fn answer(&mut self, (id, turn): (WorkerId, u64), until: Duration) -> Result<Answer, Lost> {
        let worker = self.workers.get_mut(&id).ok_or_else(|| unknown(id))?;
        loop {
            let patience = until.saturating_sub((self.clock)());
            let reply = worker.port.receive(patience).map_err(|gone| Lost {
                worker: id,
                reason: gone.reason,
            })?;
            if reply.turn == turn {
                return Ok(reply.answer);
            }
            // Old answers win no time.
            if reply.turn > turn || patience.is_zero() {
                return Err(confused(id));
            }
        }
    }

    fn measured(
        &mut self,
        (owner, part): (Owner, Part),
        counts: &[(Owner, usize)],
        busy: Duration,
        away: Option<Duration>,
    ) {
        let jobs = counts.iter().find(|(other, _)| *other == owner);
        let (Some((_, jobs)), Some(sizes)) = (jobs, self.sizes) else {
            return;
        };
        let timing = self.timings.entry((owner, part)).or_default();
        timing.add((*jobs, sizes), busy, away);
    }

    /// Who has what changed.
    fn set_owners(&mut self, owners: Owners) {
        self.places = owners.places();
        self.owners = owners;
    }

    /// Layers in which a device has other jobs than in `goal`.
    fn changes(&self, goal: &Owners, owner: Owner) -> Vec<LayerJobs> {
        let layers = (0u32..).map(LayerIndex).zip(goal.layers());
        let jobs = layers.map(|(layer, _)| {
            let before = self.owners.layer_jobs(layer, owner);
            (before, goal.layer_jobs(layer, owner))
        });
        let changed = jobs.filter(|(before, after)| before != after);
        changed.map(|(_, after)| after).collect()
    }
}

fn unknown(worker: WorkerId) -> Lost {
    Lost {
        worker,
        reason: "it is not linked any more".into(),
    }
}

fn confused(worker: WorkerId) -> Lost {
    Lost {
        worker,
        reason: "it answers what it was not asked".into(),
    }
}

/// Tokens of rows, and the tokens that these see.
fn sizes(rows: &[RowPlan<CloudSegment>]) -> (usize, usize) {
    let tokens = rows.iter().map(|row| row.len).sum();
    let seen = rows.iter().map(|row| {
        let cloud = row.prefix.as_ref().map_or(0, Prefix::token_count) as usize;
        row.len * (cloud + row.end())
    });
    (tokens, seen.sum())
}
