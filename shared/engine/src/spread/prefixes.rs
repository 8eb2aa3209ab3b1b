//! Cloud prompts on several devices: each has the keys and values of the heads that are there, or will
//! be. They travel beside the steps, one head of one layer at a time, and nobody computes with a
//! prompt before it has come.

use std::collections::{BTreeMap, BTreeSet};

use edgeprompt_kv::LayerIndex;

use super::{LayerPlaces, Lost, Owner, Owners, Spread, WorkerId, confused, unknown};
use crate::CloudSegment;
use crate::pass_plan::Prefix;
use crate::shard::{Answer, Job, Order, PrefixKey, Shard, SharedPrefix, Task, numbers, pick};

/// Cloud prompts that devices hold parts of, so that the next request for one costs nothing.
const PREFIXES_KEPT: usize = 8;

/// A head of a layer of a cloud prompt.
type PrefixPlace = (PrefixKey, u32, usize);

/// A cloud prompt that is shared with workers.
pub(super) struct Shared {
    key: PrefixKey,
    segment: CloudSegment,
    /// Whoever needs a part of it has that part.
    is_everywhere: bool,
}

/// What a worker has of cloud prompts.
#[derive(Default)]
pub(super) struct PrefixesThere {
    here: BTreeSet<PrefixPlace>,
    /// With the number of the order and how many numbers it has.
    coming: BTreeMap<PrefixPlace, (u64, usize)>,
}

impl PrefixesThere {
    /// Keeps what is of use still, as the worker does.
    pub(super) fn retain(&mut self, is_of_use: impl Fn(LayerIndex, usize) -> bool) {
        let stays = |(_, layer, head): &PrefixPlace| is_of_use(LayerIndex(*layer), *head);
        self.here.retain(stays);
        self.coming.retain(|place, _| stays(place));
    }

    /// Whether this is the answer to something that is on its way, which has come then.
    fn came(&mut self, turn: u64) -> bool {
        let place = self.coming.iter().find(|(_, (other, _))| *other == turn);
        let place = place.map(|(place, _)| *place);
        if let Some(place) = place {
            self.coming.remove(&place);
            self.here.insert(place);
        }
        place.is_some()
    }

    fn is_full(&self, more: usize, max: usize) -> bool {
        let coming: usize = self.coming.values().map(|(_, count)| count).sum();
        coming > 0 && coming + more > max
    }
}

impl Spread {
    /// Whether every device has what it needs of a cloud prompt.
    pub(crate) fn has_everywhere(&self, segment: &CloudSegment) -> bool {
        let mut shared = self.shared.iter();
        let shared = shared.find(|it| it.segment.is_same(segment));
        self.places.iter().all(LayerPlaces::is_here) || shared.is_some_and(|it| it.is_everywhere)
    }

    /// Whether every device has what it needs of cloud prompts for a layer. Those that do not are sent
    /// it from now on.
    pub(crate) fn can_compute<'a>(
        &mut self,
        layer: LayerIndex,
        segments: impl Iterator<Item = &'a CloudSegment>,
    ) -> bool {
        if self.places[layer.as_usize()].is_here() {
            return true;
        }
        let keys: Vec<_> = segments.map(|it| self.share(it).key).collect();
        let owners = self.owners.heads(layer).iter().enumerate();
        let workers = owners.filter_map(|(head, owner)| match owner {
            Owner::Worker(id) => Some((self.workers.get(id), head)),
            Owner::Here => None,
        });
        let is_there = workers.into_iter().all(|(worker, head)| {
            // Without the worker there is something else to be noticed first.
            let has = |key: &PrefixKey| {
                worker.is_none_or(|it| it.prefixes.here.contains(&(*key, layer.0, head)))
            };
            keys.iter().all(has)
        });
        if !is_there {
            // Only a worker that is gone stands in the way, which is noticed between two steps.
            let _ = self.provide(None);
        }
        is_there
    }

    /// Tokens of all cloud prompts that devices hold parts of.
    pub fn shared_len(&self) -> usize {
        let segments = self.shared.iter().map(|it| &it.segment);
        segments.map(|it| it.token_count() as usize).sum()
    }

    /// What a segment is called, from now on at least.
    pub(super) fn share(&mut self, segment: &CloudSegment) -> SharedPrefix {
        let mut known = self.shared.iter();
        let known = known.position(|it| it.segment.is_same(segment));
        let shared = match known {
            Some(place) => self.shared.remove(place),
            None => {
                self.next_key += 1;
                Shared {
                    key: PrefixKey(self.next_key),
                    segment: segment.clone(),
                    is_everywhere: false,
                }
            }
        };
        let key = shared.key;
        // The last used last.
        self.shared.push(shared);
        SharedPrefix {
            key,
            token_count: segment.token_count(),
        }
    }

    pub(super) fn key_of(&self, segment: &CloudSegment) -> Option<PrefixKey> {
        let mut shared = self.shared.iter();
        let found = shared.find(|it| it.segment.is_same(segment));
        found.map(|it| it.key)
    }

    /// Gives up cloud prompts that nobody uses, beyond some that may be used again.
    pub(crate) fn forget_unused(
        &mut self,
        is_used: impl Fn(&CloudSegment) -> bool,
        shard: &mut Shard,
    ) {
        let mut too_many = self.shared.len().saturating_sub(PREFIXES_KEPT);
        let unused = self.shared.extract_if(.., |it| {
            let goes = too_many > 0 && !is_used(&it.segment);
            too_many -= usize::from(goes);
            goes
        });
        let unused: Vec<_> = unused.map(|it| it.key).collect();
        for key in unused {
            shard.forget(key);
            let turn = self.turn();
            for worker in self.workers.values_mut() {
                let there = &mut worker.prefixes;
                let before = there.here.len() + there.coming.len();
                there.here.retain(|(other, _, _)| *other != key);
                there.coming.retain(|(other, _, _), _| *other != key);
                if there.here.len() + there.coming.len() < before {
                    // Behind what is still on its way.
                    let task = Task::Forget { key };
                    worker.port.send_aside(Order { turn, task });
                }
            }
        }
    }

    /// Adds what the leader lacks of a cloud prompt for the heads that it has.
    pub(super) fn provide_here(&self, key: PrefixKey, layer: LayerIndex, shard: &mut Shard) {
        let shared = self.shared.iter().find(|it| it.key == key);
        let Some(view) = shared.and_then(|it| it.segment.layers.get(layer)) else {
            return;
        };
        let known = shard.prefix_heads(key, layer);
        let here = shard.head_list(layer).iter().copied();
        let missing: Vec<_> = here.filter(|head| !known.contains(head)).collect();
        if missing.is_empty() {
            return;
        }
        let is_all = missing.iter().copied().eq(0..shard.shape().kv_head_count);
        let part = match is_all {
            true => view.clone(),
            false => pick(view, &missing),
        };
        shard.add_prefix((key, layer), &missing, part);
    }

    /// Sends workers what they lack of cloud prompts, as much as may be on its way at a time: for the
    /// heads that they have, and then for those that they will have. Whether none is missing for the
    /// latter that is not missing for the former.
    pub(super) fn provide(&mut self, goal: Option<&Owners>) -> Result<bool, Lost> {
        for index in 0..self.shared.len() {
            if !self.shared[index].is_everywhere {
                let now = self.owners.clone();
                self.shared[index].is_everywhere = self.provide_one(index, &now)?;
            }
        }
        let mut is_ready = true;
        if let Some(goal) = goal {
            for index in 0..self.shared.len() {
                is_ready &= self.provide_one(index, goal)? || !self.shared[index].is_everywhere;
            }
        }
        Ok(is_ready)
    }

    /// The same of one cloud prompt for one placement; whether nothing is missing.
    fn provide_one(&mut self, index: usize, owners: &Owners) -> Result<bool, Lost> {
        let Shared { key, segment, .. } = &self.shared[index];
        let (key, segment) = (*key, segment.clone());
        let prefix = SharedPrefix {
            key,
            token_count: segment.token_count(),
        };
        let mut is_everywhere = segment.is_complete();
        let prefix_numbers = self.portions.prefix_numbers;
        for (index, at_layer) in owners.layers().iter().enumerate() {
            let layer = LayerIndex(u32::try_from(index).expect("layers fit in u32"));
            let Some(view) = segment.layers.get(layer) else {
                continue;
            };
            for (head, owner) in at_layer.heads.iter().enumerate() {
                let (Owner::Worker(id), place) = (*owner, (key, layer.0, head)) else {
                    continue;
                };
                let worker = self.workers.get_mut(&id).ok_or_else(|| unknown(id))?;
                let there = &mut worker.prefixes;
                if there.here.contains(&place) {
                    continue;
                }
                is_everywhere = false;
                let count = 2 * view.keys.dims()[1] * view.keys.dims()[2];
                if there.coming.contains_key(&place) || there.is_full(count, prefix_numbers) {
                    continue;
                }
                self.turn += 1;
                there.coming.insert(place, (self.turn, count));
                let view = pick(view, &[head]);
                let task = Task::Prefix {
                    prefix,
                    layer: layer.as_usize(),
                    heads: vec![head],
                    numbers: [numbers(view.keys), numbers(view.values)].concat(),
                };
                let turn = self.turn;
                worker.port.send_aside(Order { turn, task });
            }
        }
        Ok(is_everywhere)
    }

    /// Whether an answer is to a part of a cloud prompt.
    ///
    /// # Errors
    /// [`Lost`] if it is another than it must be.
    pub(super) fn heard_of_prefix(
        &mut self,
        id: WorkerId,
        (turn, answer): (u64, &Answer),
    ) -> Result<bool, Lost> {
        let worker = self.workers.get_mut(&id).ok_or_else(|| unknown(id))?;
        match (worker.prefixes.came(turn), answer) {
            (true, Answer::Done) => Ok(true),
            (true, _) => Err(confused(id)),
            (false, _) => Ok(false),
        }
    }

    /// Whether parts of cloud prompts are missing somewhere.
    pub(super) fn awaits_prefixes(&self) -> bool {
        let mut workers = self.workers.values();
        workers.any(|it| !it.prefixes.coming.is_empty())
    }

    /// Workers keep of cloud prompts what is for the heads that they have.
    pub(super) fn prefixes_follow(&mut self) {
        let owners = &self.owners;
        for (id, worker) in &mut self.workers {
            let is_theirs =
                |layer, head| owners.owner(layer, Job::Head(head)) == Owner::Worker(*id);
            worker.prefixes.retain(is_theirs);
        }
    }
}
