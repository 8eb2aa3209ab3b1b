//! Going for a placement, with what devices have room for.

use edgeprompt_engine::{Engine, Job, Owner, Owners, Spread};

use super::{Foreman, LEADER_MEMORY, Urgency, forecast};
use crate::crew::figures;
use crate::crew::hand::Hand;
use crate::crew::legs::{deal, first_leg};

impl Foreman {
    /// Jobs dealt to all devices in turn, as far as they have room.
    pub(super) fn dealt(&self, engine: &Engine) -> Owners {
        let staying = self.hands.iter().filter(|it| it.1.is_of_use());
        let all = [(Owner::Here, LEADER_MEMORY)].into_iter();
        let all = all.chain(staying.map(|(id, hand)| (Owner::Worker(*id), hand.memory_bytes)));
        let bytes = job_bytes(engine);
        let shape = engine.shard_shape();
        let counts = [shape.layer_count, shape.kv_head_count, shape.slice_count];
        deal(counts, all.collect(), bytes)
    }

    pub(super) fn go_even(&mut self, engine: &mut Engine) {
        let goal = self.dealt(engine);
        if engine.spread().is_some_and(|it| *it.owners() != goal) {
            forecast(self.step_seconds_with(engine, &goal));
            self.aim(engine, goal);
        }
    }

    /// Goes for a placement, as far as all find room on the way.
    pub(super) fn aim(&mut self, engine: &mut Engine, goal: Owners) {
        let Some(spread) = engine.spread() else {
            return;
        };
        let room = |id| self.hands.get(&id).map_or(0, |hand| hand.memory_bytes);
        let leg = first_leg(spread.owners(), &goal, room, job_bytes(engine));
        if leg == *spread.owners() {
            // Nothing that could be let go makes room for it.
            return;
        }
        if leg != goal {
            tracing::info!("a worker is short of memory: it lets go before it takes");
            self.destination = Some(goal);
            self.urge(Urgency::Soon);
        }
        engine.aim(leg);
    }

    /// Whether all whom a placement names are there, and to be given something.
    pub(super) fn is_there(&self, goal: &Owners) -> bool {
        !goal.any(|owner| match owner {
            Owner::Here => false,
            Owner::Worker(id) => !self.hands.get(&id).is_some_and(Hand::is_of_use),
        })
    }
}

/// What a device needs for a job: weights, all blocks of keys and values, its part of cloud prompts.
fn job_bytes(engine: &Engine) -> impl Fn(Job) -> u64 {
    let shape = engine.shard_shape();
    // The next cloud prompt may be as long as any: who had no room for it would be lost.
    let shared_len = engine.spread().map_or(0, Spread::shared_len) + engine.context_len_max();
    let prefix = figures::prefix_bytes(shape, shared_len);
    move |job| {
        let prefix = match job {
            Job::Head(_) => prefix,
            Job::Slice(_) => 0,
        };
        shape.weight_bytes(job) + shape.state_bytes(job) + prefix
    }
}
