//! Jobs on their way to other devices: weights, and keys and values as they are, travel while tokens
//! are generated. What was written meanwhile follows, in rounds until it is little.

use std::collections::{BTreeMap, BTreeSet};

use edgeprompt_attention::BlockPlace;
use edgeprompt_kv::LayerIndex;

use super::{Losses, Lost, Owner, Owners, Spread, WorkerId, confused, unknown};
use crate::CloudSegment;
use crate::pass_plan::RowPlan;
use crate::shard::{Answer, Job, Order, Reply, Shard, Task};

/// Rounds after which jobs change hands, however much is left: long prompts may come one after another.
const ROUNDS_MAX: u32 = 8;

/// Answers that are taken in between two steps, of each worker.
const HEARD_MAX: usize = 64;

/// A moment of a migration: passes and other writes so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Moment(u64);

/// A placement that is being brought about.
pub(super) struct Migration {
    pub(super) goal: Owners,
    pub(super) moves: Vec<Moving>,
    now: Moment,
    /// Blocks written since it began, each with when that was last.
    written: BTreeMap<usize, Moment>,
    /// Blocks overwritten since, with when: what they held is not to be sent any more.
    wiped: BTreeMap<usize, Moment>,
    /// Of the last pass.
    row_count: usize,
    pub(super) kv_bytes: u64,
    pub(super) weight_bytes: u64,
}

pub(super) struct Moving {
    pub(super) layer: LayerIndex,
    pub(super) job: Job,
    pub(super) from: Owner,
    pub(super) to: Owner,
    state: State,
    /// Since when what is written is late.
    since: Moment,
    /// To be sent before that.
    rest: Vec<usize>,
    /// Asked for.
    blocks: Vec<usize>,
    rounds: u32,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    /// Weights are on their way, with an order of this number.
    Weights(u64),
    /// Keys and values were asked for.
    Taking(u64),
    /// Keys and values are on their way.
    Putting(u64),
    Ready,
}

impl Migration {
    /// A pass writes its rows' private tokens.
    pub(super) fn wrote(&mut self, rows: &[RowPlan<CloudSegment>], block_len: usize) {
        self.now.0 += 1;
        self.row_count = rows.len();
        for row in rows {
            let blocks = row.start / block_len..row.end().div_ceil(block_len);
            let written = row.blocks[blocks].iter();
            self.written.extend(written.map(|block| (*block, self.now)));
        }
    }

    /// Blocks of those in use that a job lacks if what was sent of it is of `since`.
    fn late(&self, since: Moment, used: &BTreeSet<usize>) -> Vec<usize> {
        let late = self.written.iter().filter(|(_, when)| **when > since);
        let late = late.map(|(block, _)| *block);
        late.filter(|block| used.contains(block)).collect()
    }

    /// What follows at the switch.
    fn last(&self, used: &BTreeSet<usize>) -> Vec<usize> {
        let heads = self
            .moves
            .iter()
            .filter(|it| matches!(it.job, Job::Head(_)));
        let first = heads.map(|it| it.since).min();
        first.map_or_else(Vec::new, |since| self.late(since, used))
    }

    /// Blocks that hold nothing any more that anybody may read.
    pub(super) fn wiped(&self, used: &[usize]) -> Vec<usize> {
        let wiped = self.wiped.keys().copied();
        wiped.filter(|block| !used.contains(block)).collect()
    }
}

impl Spread {
    /// Keys and values of these places were written, and not by a pass.
    pub(crate) fn touched(&mut self, places: &[BlockPlace]) {
        if let Some(migration) = &mut self.migration {
            migration.now.0 += 1;
            let written = places.iter().map(|it| (it.block, migration.now));
            migration.written.extend(written);
        }
    }

    /// Keys and values of these blocks were overwritten here: they are wherever else they are, too.
    pub(crate) fn wipe(&mut self, blocks: &[usize]) {
        if let Some(migration) = &mut self.migration {
            migration.now.0 += 1;
            let wiped = blocks.iter().map(|block| (*block, migration.now));
            migration.written.extend(wiped.clone());
            migration.wiped.extend(wiped);
        }
        let turn = self.turn();
        for worker in self.workers.values_mut() {
            let blocks = blocks.to_vec();
            let task = Task::Wipe { blocks };
            worker.port.send(Order { turn, task });
        }
    }

    /// Begins to bring about another placement; one that was under way is given up.
    ///
    /// # Panics
    /// If it is of another shape, or names workers that are not there.
    pub fn aim(&mut self, goal: Owners, shard: &mut Shard) {
        assert!(goal.fits(shard.shape()), "an owner for each job");
        let is_there = |layer| {
            let mut workers = goal.workers_of(layer).into_iter();
            workers.all(|id| self.workers.contains_key(&id))
        };
        let layers = (0u32..).map(LayerIndex).take(goal.layers().len());
        assert!(layers.into_iter().all(is_there), "workers that are there");
        self.stop_migration(shard);
        let moves = self.owners.moves_to(&goal).into_iter();
        let moves: Vec<_> = moves
            .map(|(layer, job, [from, to])| Moving {
                layer,
                job,
                from,
                to,
                state: State::Waiting,
                since: Moment::default(),
                rest: Vec::new(),
                blocks: Vec::new(),
                rounds: 0,
            })
            .collect();
        if moves.is_empty() {
            return;
        }
        self.migration = Some(Migration {
            goal,
            moves,
            now: Moment::default(),
            written: BTreeMap::new(),
            wiped: BTreeMap::new(),
            row_count: 0,
            kv_bytes: 0,
            weight_bytes: 0,
        });
    }

    /// Between two steps: goes on with what is on its way, and lets jobs change hands once all of it
    /// has come. `used`: blocks with keys and values.
    ///
    /// # Errors
    /// [`Losses`].
    pub(crate) fn between_steps(
        &mut self,
        shard: &mut Shard,
        used: impl Fn() -> Vec<usize>,
    ) -> Result<(), Losses> {
        let mut migration = self.migration.take();
        let mut losses = Losses::default();
        let ids: Vec<_> = self.workers.keys().copied().collect();
        for id in ids {
            if let Err(lost) = self.listen((migration.as_mut(), id), &used, shard) {
                losses.add(lost);
            }
        }
        let heard = losses.check();
        let Some(mut migration) = migration else {
            heard?;
            return Ok(self.provide(None).map(|_| ())?);
        };
        let went_on = heard.and_then(|()| self.go_on(&mut migration, &used, shard));
        match went_on {
            Ok(Some(late)) => self.hand_over(migration, (&late, &used()), shard),
            Ok(None) => {
                self.migration = Some(migration);
                Ok(())
            }
            Err(losses) => {
                self.migration = Some(migration);
                Err(losses)
            }
        }
    }

    /// What is late, once there is nothing else to wait for.
    fn go_on(
        &mut self,
        migration: &mut Migration,
        used: &dyn Fn() -> Vec<usize>,
        shard: &mut Shard,
    ) -> Result<Option<Vec<usize>>, Losses> {
        let are_prefixes_there = self.provide(Some(&migration.goal))?;
        self.send_more(migration, used, shard)?;
        let is_ready = |it: &Moving| it.state == State::Ready;
        if !are_prefixes_there || !migration.moves.iter().all(is_ready) {
            return Ok(None);
        }
        let used_blocks: BTreeSet<_> = used().into_iter().collect();
        let late = migration.last(&used_blocks);
        let rounds = migration.moves.iter().map(|it| it.rounds).max();
        let is_little = late.len() <= self.portions.late_blocks * migration.row_count.max(1);
        if is_little || rounds >= Some(ROUNDS_MAX) {
            return Ok(Some(late));
        }
        // Too much to wait for: it goes the way of the first.
        for index in 0..migration.moves.len() {
            let Moving {
                since, rounds, job, ..
            } = migration.moves[index];
            if matches!(job, Job::Head(_)) {
                let rest = migration.late(since, &used_blocks);
                let now = migration.now;
                let moving = &mut migration.moves[index];
                (moving.rest, moving.since, moving.rounds) = (rest, now, rounds + 1);
                self.send_kv(migration, index, shard)?;
            }
        }
        Ok(None)
    }

    fn send_more(
        &mut self,
        migration: &mut Migration,
        used: &dyn Fn() -> Vec<usize>,
        shard: &mut Shard,
    ) -> Result<(), Lost> {
        let is_under_way = |it: &&Moving| !matches!(it.state, State::Waiting | State::Ready);
        let under_way = migration.moves.iter().filter(is_under_way);
        let mut count = under_way.clone().count();
        let bytes = under_way.map(|it| shard.shape().weight_bytes(it.job));
        let (mut bytes, mut cut): (u64, _) = (bytes.sum(), 0);
        let portions = self.portions;
        for index in 0..migration.moves.len() {
            let Moving { job, to, state, .. } = migration.moves[index];
            if state != State::Waiting {
                continue;
            }
            let size = shard.shape().weight_bytes(job);
            let is_much = |sum: u64, max: u64| sum > 0 && sum + size > max;
            if count >= portions.under_way_max || is_much(bytes, portions.under_way_bytes) {
                break;
            }
            if !self.has_weights(to) {
                if is_much(cut, portions.cut_bytes) {
                    break;
                }
                cut += size;
            }
            self.send_weights(migration, index, used, shard)?;
            if is_under_way(&&migration.moves[index]) {
                (count, bytes) = (count + 1, bytes + size);
            }
        }
        Ok(())
    }

    /// Whether nothing needs to be cut here for a device.
    fn has_weights(&self, owner: Owner) -> bool {
        match owner {
            Owner::Here => false,
            Owner::Worker(id) => {
                let worker = self.workers.get(&id);
                worker.is_none_or(|it| it.port.has_model())
            }
        }
    }

    /// Takes in what a worker has answered aside: no more than it can have been asked, however much it
    /// says.
    fn listen(
        &mut self,
        (mut migration, id): (Option<&mut Migration>, WorkerId),
        used: &dyn Fn() -> Vec<usize>,
        shard: &mut Shard,
    ) -> Result<(), Lost> {
        for _ in 0..HEARD_MAX {
            let worker = self.workers.get_mut(&id).ok_or_else(|| unknown(id))?;
            let polled = worker.port.poll_aside().map_err(|gone| Lost {
                worker: id,
                reason: gone.reason,
            })?;
            let Some(reply) = polled else {
                break;
            };
            if self.heard_of_prefix(id, (reply.turn, &reply.answer))? {
                continue;
            }
            if let Some(migration) = migration.as_deref_mut() {
                self.heard(migration, (id, reply), used, shard)?;
            }
        }
        Ok(())
    }

    fn aside(&mut self, id: WorkerId, task: Task) -> Result<u64, Lost> {
        let turn = self.turn();
        let worker = self.workers.get_mut(&id).ok_or_else(|| unknown(id))?;
        worker.port.send_aside(Order { turn, task });
        Ok(turn)
    }

    fn send_weights(
        &mut self,
        migration: &mut Migration,
        index: usize,
        used: &dyn Fn() -> Vec<usize>,
        shard: &mut Shard,
    ) -> Result<(), Lost> {
        let Moving { layer, job, to, .. } = migration.moves[index];
        let Owner::Worker(id) = to else {
            let staged = shard.stage(layer, job, None);
            staged.expect("a leader has the model");
            return self.send_first(migration, index, used, shard);
        };
        let numbers = (!self.has_weights(to)).then(|| shard.weights(layer, job));
        if numbers.is_some() {
            migration.weight_bytes += shard.shape().weight_bytes(job);
        }
        let task = Task::Weights {
            layer: layer.as_usize(),
            job,
            numbers,
        };
        migration.moves[index].state = State::Weights(self.aside(id, task)?);
        Ok(())
    }

    /// Keys and values of a job whose weights have come, as they are now.
    fn send_first(
        &mut self,
        migration: &mut Migration,
        index: usize,
        used: &dyn Fn() -> Vec<usize>,
        shard: &mut Shard,
    ) -> Result<(), Lost> {
        if matches!(migration.moves[index].job, Job::Head(_)) {
            let now = migration.now;
            let moving = &mut migration.moves[index];
            (moving.rest, moving.since) = (used(), now);
        }
        self.send_kv(migration, index, shard)
    }

    /// The next keys and values of a job.
    fn send_kv(
        &mut self,
        migration: &mut Migration,
        index: usize,
        shard: &mut Shard,
    ) -> Result<(), Lost> {
        loop {
            let moving = &mut migration.moves[index];
            let (Job::Head(head), false) = (moving.job, moving.rest.is_empty()) else {
                moving.state = State::Ready;
                return Ok(());
            };
            let shape = shard.shape();
            let of_block = 2 * shape.block_len * shape.head.head_dim;
            let count = (self.portions.message_numbers / of_block)
                .max(1)
                .min(moving.rest.len());
            let blocks: Vec<_> = moving.rest.drain(..count).collect();
            let layer = moving.layer;
            if let Owner::Worker(id) = moving.from {
                let task = Task::Take {
                    layer: layer.as_usize(),
                    head,
                    blocks: blocks.clone(),
                };
                moving.blocks = blocks;
                let turn = self.aside(id, task)?;
                migration.moves[index].state = State::Taking(turn);
                return Ok(());
            }
            let taken = shard.take(layer, head, &blocks);
            let numbers = taken.expect("the leader has the head");
            if self.put(migration, (index, head), (blocks, numbers), shard)? {
                return Ok(());
            }
        }
    }

    /// Passes keys and values on; whether there is an answer to wait for.
    fn put(
        &mut self,
        migration: &mut Migration,
        (index, head): (usize, usize),
        (blocks, mut numbers): (Vec<usize>, Vec<f32>),
        shard: &mut Shard,
    ) -> Result<bool, Lost> {
        let Moving {
            layer, to, since, ..
        } = migration.moves[index];
        let half = numbers.len() / 2;
        let len = half / blocks.len().max(1);
        for (place, block) in blocks.iter().enumerate() {
            // What was overwritten on the way does not arrive.
            if migration.wiped.get(block).is_some_and(|when| *when > since) {
                numbers[place * len..(place + 1) * len].fill(0.0);
                numbers[half + place * len..half + (place + 1) * len].fill(0.0);
            }
        }
        migration.kv_bytes += size_of_val(numbers.as_slice()) as u64;
        match to {
            Owner::Here => {
                let put = shard.put(layer, head, &blocks, &numbers);
                put.expect("the head is staged");
                Ok(false)
            }
            Owner::Worker(id) => {
                let task = Task::Put {
                    layer: layer.as_usize(),
                    head,
                    blocks,
                    numbers,
                };
                migration.moves[index].state = State::Putting(self.aside(id, task)?);
                Ok(true)
            }
        }
    }

    /// An answer to what was sent aside; those of migrations that were given up mean nothing.
    fn heard(
        &mut self,
        migration: &mut Migration,
        (id, reply): (WorkerId, Reply),
        used: &dyn Fn() -> Vec<usize>,
        shard: &mut Shard,
    ) -> Result<(), Lost> {
        // Of this worker: another's keys and values are not its to give.
        let awaited = |moving: &Moving| match moving.state {
            State::Weights(turn) | State::Putting(turn) => {
                turn == reply.turn && moving.to == Owner::Worker(id)
            }
            State::Taking(turn) => turn == reply.turn && moving.from == Owner::Worker(id),
            State::Waiting | State::Ready => false,
        };
        let Some(index) = migration.moves.iter().position(awaited) else {
            return Ok(());
        };
        match (migration.moves[index].state, reply.answer) {
            (State::Weights(_), Answer::Done) => self.send_first(migration, index, used, shard),
            (State::Taking(_), Answer::Kv(numbers)) => {
                let Moving { blocks, job, .. } = &mut migration.moves[index];
                let blocks = std::mem::take(blocks);
                let (Job::Head(head), true) = (*job, are_kv(&numbers, blocks.len(), shard)) else {
                    return Err(confused(id));
                };
                match self.put(migration, (index, head), (blocks, numbers), shard)? {
                    true => Ok(()),
                    false => self.send_kv(migration, index, shard),
                }
            }
            (State::Putting(_), Answer::Done) => self.send_kv(migration, index, shard),
            _ => Err(confused(id)),
        }
    }
}

/// Whether these are keys and values of so many blocks of one head.
pub(super) fn are_kv(numbers: &[f32], block_count: usize, shard: &Shard) -> bool {
    let shape = shard.shape();
    let wanted = 2 * block_count * shape.block_len * shape.head.head_dim;
    numbers.len() == wanted && numbers.iter().all(|it| it.is_finite())
}
