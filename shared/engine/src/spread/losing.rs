//! What is done when a worker is gone, or a migration is given up.

use edgeprompt_kv::LayerIndex;

use super::{Losses, Owner, Spread, SpreadEvent};
use crate::shard::{LayerJobs, Order, Shard, Task};

impl Spread {
    /// Takes workers out, for good. Their jobs are the leader's from now on; `true` if there were any, and
    /// keys and values are to be computed again.
    pub(crate) fn lose(&mut self, losses: Losses, shard: &mut Shard) -> bool {
        let is_lost = |owner: Owner| matches!(owner, Owner::Worker(worker) if losses.names(worker));
        self.workers.retain(|id, _| !losses.names(*id));
        let had_jobs = self.owners.any(is_lost);
        let is_stale = std::mem::take(&mut self.is_stale);
        self.stop_migration(shard);
        self.take_back(shard, is_lost);
        let lost = losses.into_inner().into_iter();
        self.events.extend(lost.map(SpreadEvent::Lost));
        had_jobs || is_stale
    }

    /// Makes the jobs of some devices the leader's, without their keys and values.
    fn take_back(&mut self, shard: &mut Shard, is_theirs: impl Fn(Owner) -> bool) {
        let mut owners = self.owners.clone();
        for index in 0..owners.layers().len() {
            let layer = LayerIndex(u32::try_from(index).expect("layers fit in u32"));
            for job in owners.all_jobs(layer) {
                if is_theirs(owners.owner(layer, job)) {
                    owners.give(layer, job, Owner::Here);
                }
                if owners.owner(layer, job) == Owner::Here && !shard.has(layer, job) {
                    let staged = shard.stage(layer, job, None);
                    staged.expect("a leader has the model");
                }
            }
            let mine = owners.layer_jobs(layer, Owner::Here);
            let switched = shard.switch(&mine);
            switched.expect("what is not there is staged");
        }
        self.set_owners(owners);
    }

    /// Everything becomes the leader's: for when it is not known who has what.
    pub(super) fn collapse(&mut self, shard: &mut Shard) {
        self.take_back(shard, |_| true);
        let turn = self.turn();
        let nothing = |layer| LayerJobs {
            layer,
            heads: Vec::new(),
            slices: Vec::new(),
        };
        let layers: Vec<_> = (0..self.owners.layers().len()).map(nothing).collect();
        for worker in self.workers.values_mut() {
            worker.prefixes.retain(|_, _| false);
            let task = Task::Switch {
                layers: layers.clone(),
            };
            worker.port.send(Order { turn, task });
        }
    }

    pub(super) fn stop_migration(&mut self, shard: &mut Shard) {
        if self.migration.take().is_some() {
            self.unstage(shard);
        }
    }

    pub(super) fn unstage(&mut self, shard: &mut Shard) {
        shard.unstage();
        self.prefixes_follow();
        let turn = self.turn();
        for worker in self.workers.values_mut() {
            // Behind what was sent aside before, which is then of no use.
            let task = Task::Unstage;
            worker.port.send_aside(Order { turn, task });
        }
    }
}
