//! Jobs on their way to other devices: weights, and keys and values as they are, travel while tokens
//! are generated; what was written meanwhile follows between two steps, and then the jobs change hands.

use std::collections::BTreeSet;
use std::time::Duration;

use edgeprompt_attention::BlockPlace;
use edgeprompt_kv::LayerIndex;

use super::{Losses, Lost, Owner, Owners, Spread, SpreadEvent, WorkerId, confused, unknown};
use crate::CloudSegment;
use crate::pass_plan::RowPlan;
use crate::shard::{Answer, Job, Order, Reply, Shard, Task};

/// Jobs whose weights or keys and values are under way at a time: what waits for a link is in memory.
const UNDER_WAY_MAX: usize = 8;

/// A placement that is being brought about.
pub(super) struct Migration {
    goal: Owners,
    moves: Vec<Moving>,
    /// Blocks written since it began.
    dirty: BTreeSet<usize>,
    kv_bytes: u64,
    weight_bytes: u64,
}

struct Moving {
    layer: LayerIndex,
    job: Job,
    from: Owner,
    to: Owner,
    state: State,
    /// Asked for.
    blocks: Vec<usize>,
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
        for row in rows {
            let blocks = row.start / block_len..row.end().div_ceil(block_len);
            self.dirty.extend(&row.blocks[blocks]);
        }
    }
}

impl Spread {
    /// Keys and values of these places were written, and not by a pass.
    pub(crate) fn touched(&mut self, places: &[BlockPlace]) {
        if let Some(migration) = &mut self.migration {
            migration.dirty.extend(places.iter().map(|it| it.block));
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
                blocks: Vec::new(),
            })
            .collect();
        if moves.is_empty() {
            return;
        }
        self.migration = Some(Migration {
            goal,
            moves,
            dirty: BTreeSet::new(),
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
        let ids: Vec<_> = self.workers.keys().copied().collect();
        let Some(mut migration) = self.migration.take() else {
            // Only to hear of those that are gone.
            let mut losses = Losses::default();
            let gone = ids.into_iter().filter_map(|id| self.poll(id).err());
            gone.for_each(|lost| losses.add(lost));
            return losses.check();
        };
        let went_on = self.go_on(&mut migration, (&ids, &used), shard);
        let is_ready = migration.moves.iter().all(|it| it.state == State::Ready);
        let went_on = match went_on {
            Ok(()) if is_ready => {
                let used: BTreeSet<usize> = used().into_iter().collect();
                let late: Vec<usize> = migration.dirty.intersection(&used).copied().collect();
                return self.hand_over(migration, &late, shard);
            }
            other => other,
        };
        self.migration = Some(migration);
        went_on
    }

    fn go_on(
        &mut self,
        migration: &mut Migration,
        (ids, used): (&[WorkerId], &dyn Fn() -> Vec<usize>),
        shard: &mut Shard,
    ) -> Result<(), Losses> {
        let mut losses = Losses::default();
        for id in ids {
            if let Err(lost) = self.listen(migration, *id, used, shard) {
                losses.add(lost);
            }
        }
        losses.check()?;
        let under_way = |it: &&Moving| !matches!(it.state, State::Waiting | State::Ready);
        let mut count = migration.moves.iter().filter(under_way).count();
        for index in 0..migration.moves.len() {
            if count >= UNDER_WAY_MAX {
                break;
            }
            if migration.moves[index].state == State::Waiting {
                self.send_weights(migration, index, used, shard)?;
                count += usize::from(migration.moves[index].state != State::Ready);
            }
        }
        Ok(())
    }

    /// Takes in what a worker has answered aside: no more than it can have been asked, however much it
    /// says.
    fn listen(
        &mut self,
        migration: &mut Migration,
        id: WorkerId,
        used: &dyn Fn() -> Vec<usize>,
        shard: &mut Shard,
    ) -> Result<(), Lost> {
        for _ in 0..UNDER_WAY_MAX {
            let Some(reply) = self.poll(id)? else {
                break;
            };
            self.heard(migration, (id, reply), used, shard)?;
        }
        Ok(())
    }

    fn poll(&mut self, id: WorkerId) -> Result<Option<Reply>, Lost> {
        let worker = self.workers.get_mut(&id).ok_or_else(|| unknown(id))?;
        worker.port.poll_aside().map_err(|gone| Lost {
            worker: id,
            reason: gone.reason,
        })
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
            return self.send_kv(migration, index, used, shard);
        };
        let worker = self.workers.get(&id).ok_or_else(|| unknown(id))?;
        let numbers = (!worker.port.has_model()).then(|| shard.weights(layer, job));
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

    /// Keys and values of a job whose weights have come.
    fn send_kv(
        &mut self,
        migration: &mut Migration,
        index: usize,
        used: &dyn Fn() -> Vec<usize>,
        shard: &mut Shard,
    ) -> Result<(), Lost> {
        let Moving {
            layer, job, from, ..
        } = migration.moves[index];
        let blocks = used();
        let (Job::Head(head), false) = (job, blocks.is_empty()) else {
            migration.moves[index].state = State::Ready;
            return Ok(());
        };
        match from {
            Owner::Here => {
                let taken = shard.take(layer, head, &blocks);
                let numbers = taken.expect("the leader has the head");
                self.put(migration, index, (blocks, numbers), shard)
            }
            Owner::Worker(id) => {
                let task = Task::Take {
                    layer: layer.as_usize(),
                    head,
                    blocks: blocks.clone(),
                };
                migration.moves[index].blocks = blocks;
                migration.moves[index].state = State::Taking(self.aside(id, task)?);
                Ok(())
            }
        }
    }

    fn put(
        &mut self,
        migration: &mut Migration,
        index: usize,
        (blocks, numbers): (Vec<usize>, Vec<f32>),
        shard: &mut Shard,
    ) -> Result<(), Lost> {
        let Moving { layer, job, to, .. } = migration.moves[index];
        let Job::Head(head) = job else {
            return Ok(());
        };
        migration.kv_bytes += size_of_val(numbers.as_slice()) as u64;
        migration.moves[index].state = match to {
            Owner::Here => {
                let put = shard.put(layer, head, &blocks, &numbers);
                put.expect("the head is staged");
                State::Ready
            }
            Owner::Worker(id) => {
                let task = Task::Put {
                    layer: layer.as_usize(),
                    head,
                    blocks,
                    numbers,
                };
                State::Putting(self.aside(id, task)?)
            }
        };
        Ok(())
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
            (State::Weights(_), Answer::Done) => self.send_kv(migration, index, used, shard),
            (State::Taking(_), Answer::Kv(numbers)) => {
                let blocks = std::mem::take(&mut migration.moves[index].blocks);
                if !are_kv(&numbers, blocks.len(), shard) {
                    return Err(confused(id));
                }
                self.put(migration, index, (blocks, numbers), shard)
            }
            (State::Putting(_), Answer::Done) => {
                migration.moves[index].state = State::Ready;
                Ok(())
            }
            _ => Err(confused(id)),
        }
    }

    fn hand_over(
        &mut self,
        migration: Migration,
        late: &[usize],
        shard: &mut Shard,
    ) -> Result<(), Losses> {
        let done = self.finish(migration, late, shard);
        if done.is_err() {
            // Some may have switched and some not.
            self.unstage(shard);
            self.collapse(shard);
            self.is_stale = true;
        }
        done
    }

    /// Sends what was written since, lets the jobs change hands, and is done. Between two steps, so that
    /// nothing is written meanwhile.
    fn finish(
        &mut self,
        mut migration: Migration,
        late: &[usize],
        shard: &mut Shard,
    ) -> Result<(), Losses> {
        if !late.is_empty() {
            self.send_late(&mut migration, late, shard)?;
        }
        let goal = migration.goal;
        let ids: Vec<_> = self.workers.keys().copied().collect();
        let mut turns = Vec::new();
        for id in ids {
            let layers = self.changes(&goal, Owner::Worker(id));
            if !layers.is_empty() {
                turns.push((id, self.order(id, Task::Switch { layers })?));
            }
        }
        for jobs in self.changes(&goal, Owner::Here) {
            let switched = shard.switch(&jobs);
            switched.expect("what goes to the leader is staged there");
        }
        let until = self.deadline();
        self.all_done(turns, until)?;
        for (id, worker) in &mut self.workers {
            // With a head, a device gives up its part of cloud prompts.
            worker.prefixes.retain(|(_, layer, head)| {
                goal.owner(LayerIndex(*layer), Job::Head(*head)) == Owner::Worker(*id)
            });
        }
        self.owners = goal;
        self.events.push(SpreadEvent::Moved {
            jobs: migration.moves.len(),
            kv_bytes: migration.kv_bytes,
            weight_bytes: migration.weight_bytes,
        });
        Ok(())
    }

    /// Keys and values that were written since the first were sent. All that can be asked for at once
    /// is.
    fn send_late(
        &mut self,
        migration: &mut Migration,
        late: &[usize],
        shard: &mut Shard,
    ) -> Result<(), Losses> {
        let mut sent = Vec::new();
        for ((layer, head, to), numbers) in self.take_late(migration, late, shard)? {
            migration.kv_bytes += size_of_val(numbers.as_slice()) as u64;
            match to {
                Owner::Here => {
                    let put = shard.put(layer, head, late, &numbers);
                    put.expect("the head is staged");
                }
                Owner::Worker(id) => {
                    let task = Task::Put {
                        layer: layer.as_usize(),
                        head,
                        blocks: late.to_vec(),
                        numbers,
                    };
                    sent.push((id, self.order(id, task)?));
                }
            }
        }
        let until = self.deadline();
        self.all_done(sent, until)
    }

    /// Late keys and values of all heads that move, with where each goes.
    fn take_late(
        &mut self,
        migration: &Migration,
        late: &[usize],
        shard: &Shard,
    ) -> Result<Vec<((LayerIndex, usize, Owner), Vec<f32>)>, Losses> {
        let heads = migration.moves.iter().filter_map(|it| match it.job {
            Job::Head(head) => Some(((it.layer, head, it.to), it.from)),
            Job::Slice(_) => None,
        });
        let mut asked = Vec::new();
        for (place, from) in heads {
            let (layer, head, _) = place;
            let turn = match from {
                Owner::Here => None,
                Owner::Worker(id) => {
                    let task = Task::Take {
                        layer: layer.as_usize(),
                        head,
                        blocks: late.to_vec(),
                    };
                    Some((id, self.order(id, task)?))
                }
            };
            asked.push((place, turn));
        }
        let until = self.deadline();
        let (mut taken, mut losses) = (Vec::new(), Losses::default());
        for (place, turn) in asked {
            match turn {
                None => {
                    let numbers = shard.take(place.0, place.1, late);
                    taken.push((place, numbers.expect("the leader has the head")));
                }
                Some((id, turn)) => match self.answer((id, turn), until) {
                    Ok(Answer::Kv(numbers)) if are_kv(&numbers, late.len(), shard) => {
                        taken.push((place, numbers));
                    }
                    Ok(_) => losses.add(confused(id)),
                    Err(lost) => losses.add(lost),
                },
            }
        }
        losses.check().map(|()| taken)
    }

    /// Waits until all of these orders are done.
    fn all_done(&mut self, turns: Vec<(WorkerId, u64)>, until: Duration) -> Result<(), Losses> {
        let mut losses = Losses::default();
        for (id, turn) in turns {
            match self.answer((id, turn), until) {
                Ok(Answer::Done) => {}
                Ok(_) => losses.add(confused(id)),
                Err(lost) => losses.add(lost),
            }
        }
        losses.check()
    }

    fn order(&mut self, id: WorkerId, task: Task) -> Result<u64, Lost> {
        let turn = self.turn();
        let worker = self.workers.get_mut(&id).ok_or_else(|| unknown(id))?;
        worker.port.send(Order { turn, task });
        Ok(turn)
    }
}

/// Whether these are keys and values of so many blocks of one head.
fn are_kv(numbers: &[f32], block_count: usize, shard: &Shard) -> bool {
    let shape = shard.shape();
    let wanted = 2 * block_count * shape.block_len * shape.head.head_dim;
    numbers.len() == wanted && numbers.iter().all(|it| it.is_finite())
}
