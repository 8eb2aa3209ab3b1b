//! An engine whose heads and feed-forward slices are on several devices.

use edgeprompt_attention::BlockPlace;

use super::Engine;
use crate::CloudSegment;
use crate::shard::ShardShape;
use crate::spread::{Clock, Losses, Owner, Owners, Pace, Spread, WorkerId, WorkerPort};

/// What an engine is asked for, all generations together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Demand {
    /// Generations.
    pub sequence_count: usize,
    /// Tokens of both prompts and of answers so far.
    pub context_len: usize,
    /// Those of them that are of cloud prompts.
    pub cloud_len: usize,
    /// Tokens that may still be generated.
    pub remaining_len: usize,
}

impl Engine {
    /// Lets others compute with this one, each layer's feed-forward network in so many slices.
    /// Everything is here as before, until [`Engine::aim`].
    pub fn open_to_workers(&mut self, slice_count: usize, time: (Clock, Pace)) {
        self.shard.cut_into(slice_count);
        let owners = Owners::all(Owner::Here, self.shard.shape());
        self.spread = Some(Spread::new(owners, time));
    }

    /// The shape of what may be spread.
    pub const fn shard_shape(&self) -> &ShardShape {
        self.shard.shape()
    }

    /// Those that compute with this one, once that was made possible.
    pub const fn spread(&self) -> Option<&Spread> {
        self.spread.as_ref()
    }

    /// Whether everything is here: all weights, keys and values.
    pub fn is_whole(&self) -> bool {
        self.shard.is_whole()
    }

    /// As [`Engine::spread`].
    pub const fn spread_mut(&mut self) -> Option<&mut Spread> {
        self.spread.as_mut()
    }

    /// Somebody lends a device.
    ///
    /// # Panics
    /// If nobody may: [`Engine::open_to_workers`].
    pub fn join(&mut self, id: WorkerId, port: Box<dyn WorkerPort>) {
        let spread = self.spread.as_mut().expect("open to workers");
        spread.join(id, port);
    }

    /// Begins to bring about another placement, while it generates.
    ///
    /// # Panics
    /// If nobody may compute with this one, or `goal` is of another shape or names workers that are
    /// not there.
    pub fn aim(&mut self, goal: Owners) {
        let spread = self.spread.as_mut().expect("open to workers");
        spread.aim(goal, &mut self.shard);
    }

    /// What is being generated now.
    pub fn demand(&self) -> Demand {
        let running = self.sequences.values();
        let cloud = |state: &super::State| {
            let segment = state.segment.as_ref();
            segment.map_or(0, |it| it.range().len())
        };
        let private = |state: &super::State| state.tokens.len();
        let left = |state: &super::State| {
            let generated = state.tokens.len() - state.prompt_len;
            state.max_tokens.saturating_sub(generated)
        };
        let cloud_len = running.clone().map(cloud).sum();
        Demand {
            sequence_count: running.len(),
            context_len: cloud_len + running.clone().map(private).sum::<usize>(),
            cloud_len,
            remaining_len: running.map(left).sum(),
        }
    }

    /// What is to be done between two steps, also when there is nothing to compute: jobs go on to other
    /// devices, and those that are gone are noticed. `false` if one is.
    pub fn tend(&mut self) -> bool {
        let Some(spread) = &mut self.spread else {
            return true;
        };
        let (scheduler, sequences) = (&self.scheduler, &self.sequences);
        // Those that wait for their turn can wait for their cloud prompt again.
        let is_used = |segment: &CloudSegment| {
            let mut computing = sequences.iter();
            computing.any(|(id, state)| {
                let own = state.segment.as_ref();
                own.is_some_and(|it| it.layers.is_same(&segment.layers))
                    && scheduler.table(*id).is_some()
            })
        };
        spread.forget_unused(is_used, &mut self.shard);
        let used = || {
            let blocks = scheduler.used_blocks().into_iter();
            blocks.map(|block| block.as_usize()).collect()
        };
        match spread.between_steps(&mut self.shard, used) {
            Ok(()) => true,
            Err(losses) => {
                self.recover(losses);
                false
            }
        }
    }

    /// Keys and values of these places are others than they were, and no pass has written them.
    pub(super) fn touched(&mut self, places: &[BlockPlace]) {
        if let Some(spread) = &mut self.spread {
            spread.touched(places);
        }
    }

    /// Goes on without some workers: what they had is the leader's, and all keys and values are computed
    /// again, for those of their heads depend on all others of the layers before.
    pub(super) fn recover(&mut self, losses: Losses) {
        let Some(spread) = &mut self.spread else {
            return;
        };
        if spread.lose(losses, &mut self.shard) {
            self.suspended.clear();
            self.scheduler.recompute_all();
        }
    }
}
