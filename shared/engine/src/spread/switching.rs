//! Jobs change hands between two steps: what is late follows first, then everybody switches.

use std::time::Duration;

use edgeprompt_kv::LayerIndex;

use super::migration::{Migration, are_kv};
use super::{Losses, Lost, Owner, Spread, SpreadEvent, WorkerId, confused, unknown};
use crate::shard::{Answer, Job, Order, Shard, Task};

/// A head whose last keys and values follow, and where to.
#[derive(Clone, Copy)]
struct LateHead {
    layer: LayerIndex,
    head: usize,
    to: Owner,
}

impl Spread {
    /// `late` and `used`: blocks that were written since, and all with keys and values.
    pub(super) fn hand_over(
        &mut self,
        migration: Migration,
        (late, used): (&[usize], &[usize]),
        shard: &mut Shard,
    ) -> Result<(), Losses> {
        let done = self.finish(migration, (late, used), shard);
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
        (late, used): (&[usize], &[usize]),
        shard: &mut Shard,
    ) -> Result<(), Losses> {
        if !late.is_empty() {
            self.send_late(&mut migration, late, shard)?;
        }
        let wiped = migration.wiped(used);
        if !wiped.is_empty() {
            // What was on its way when it was overwritten has arrived since.
            self.wipe(&wiped);
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
        self.set_owners(goal);
        // With a head, a device gives up its part of cloud prompts.
        self.prefixes_follow();
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
        for (to_head, numbers) in self.take_late(migration, late, shard)? {
            let LateHead { layer, head, to } = to_head;
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
    ) -> Result<Vec<(LateHead, Vec<f32>)>, Losses> {
        let heads = migration.moves.iter().filter_map(|it| match it.job {
            Job::Head(head) => {
                let (layer, to) = (it.layer, it.to);
                Some((LateHead { layer, head, to }, it.from))
            }
            Job::Slice(_) => None,
        });
        let mut asked = Vec::new();
        for (place, from) in heads {
            let LateHead { layer, head, .. } = place;
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
                    let numbers = shard.take(place.layer, place.head, late);
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
