//! What a planner is, what it answers and why it may not.

use crate::delay::step_seconds;
use crate::instance::Instance;
use crate::memory::is_feasible;
use crate::migration::migration_seconds;
use crate::placement::{Counts, Placement};
use crate::workload::Dataflow;

/// Every planner: a function of the instance alone.
pub type Planner = fn(&Instance) -> Result<Plan, PlanError>;

/// A placement that fits, and what it is expected to do.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Where every job runs.
    pub placement: Placement,
    /// How many run where.
    pub counts: Counts,
    /// How it is to be run.
    pub dataflow: Dataflow,
    /// D: one step with it.
    pub step_seconds: f64,
    /// D_mig: coming to it from the placement in use.
    pub migration_seconds: f64,
    /// How good it is known to be.
    pub proof: Proof,
}

/// How good a plan is known to be, in what planners minimise: D + D_mig / remaining tokens.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Proof {
    /// Nothing is better.
    Optimal,
    /// Nothing is below this many seconds.
    AtLeast(f64),
    /// Nothing is known.
    Heuristic,
}

/// Why there is no plan.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum PlanError {
    /// The leader lacks memory for what only it can do.
    #[error(
        "the leader needs {needed_bytes} bytes for itself and has {memory_bytes}: give it more memory or take a smaller model"
    )]
    LeaderTooSmall {
        /// For embeddings and vocabulary.
        needed_bytes: u64,
        /// What there is.
        memory_bytes: u64,
    },
    /// All devices together lack memory.
    #[error(
        "the jobs need {needed_bytes} bytes and all devices together have {memory_bytes}: add devices or shorten the context"
    )]
    MemoryTooSmall {
        /// Of all jobs.
        needed_bytes: u64,
        /// Of all devices.
        memory_bytes: u64,
    },
    /// There is memory, but in pieces into which the jobs do not fit. No placement exists.
    #[error(
        "no placement fits: the devices' memory is enough in sum but not in pieces; cut the feed-forward network into more slices or add a device"
    )]
    Fragmented,
    /// This planner found none. Another may.
    #[error("this planner found no placement that fits the devices' memory")]
    NotFound,
    /// There are too many placements to try them all.
    #[error("more than {placements_max} placements: enumerating is for small instances")]
    TooMany {
        /// How many are tried at most.
        placements_max: u64,
    },
}

impl Plan {
    /// Counts as a plan with the workload's own dataflow; an error if they do not fit.
    pub fn from_counts(
        instance: &Instance,
        counts: Counts,
        proof: Proof,
    ) -> Result<Self, PlanError> {
        Self::with_dataflow(instance, counts, instance.workload().dataflow, proof)
    }

    /// Counts as a plan that is run in a way of its own; an error if they do not fit.
    pub fn with_dataflow(
        instance: &Instance,
        counts: Counts,
        dataflow: Dataflow,
        proof: Proof,
    ) -> Result<Self, PlanError> {
        let seconds = step_seconds(instance, &counts, dataflow);
        let Some(step_seconds) = seconds.filter(|_| is_feasible(instance, &counts)) else {
            return Err(shortage(instance).unwrap_or(PlanError::NotFound));
        };
        Ok(Self {
            placement: Placement::from_counts(&counts, instance.devices(), instance.previous()),
            dataflow,
            step_seconds,
            migration_seconds: migration_seconds(instance, &counts),
            proof,
            counts,
        })
    }

    /// What planners minimise: seconds for each token that is still expected.
    pub fn objective_seconds(&self, instance: &Instance) -> f64 {
        self.step_seconds + self.migration_seconds / instance.remaining_len() as f64
    }
}

/// A lack of memory that is plain to see.
pub(crate) fn shortage(instance: &Instance) -> Option<PlanError> {
    let leader = &instance.devices()[0];
    let needed_bytes = instance.workload().leader_bytes;
    if needed_bytes > leader.memory_bytes {
        return Some(PlanError::LeaderTooSmall {
            needed_bytes,
            memory_bytes: leader.memory_bytes,
        });
    }
    let stages = instance.workload().stages.iter();
    let needed_bytes = stages
        .map(|stage| stage.job_count as u64 * stage.job.memory_bytes())
        .sum();
    let memory_bytes = (0..instance.devices().len())
        .map(|index| instance.memory_for_jobs(index))
        .fold(0, u64::saturating_add);
    (needed_bytes > memory_bytes).then_some(PlanError::MemoryTooSmall {
        needed_bytes,
        memory_bytes,
    })
}
