//! Placements that look at memory and at nothing else.

use crate::instance::Instance;
use crate::placement::Counts;
use crate::planner::{Plan, PlanError, Proof, shortage};

/// Every job on the first device, in order, that has room: the paper's greedy baseline.
///
/// # Errors
/// Where a job fits nowhere.
pub fn first_fit(instance: &Instance) -> Result<Plan, PlanError> {
    fill(instance, |_| 0)
}

/// Every job on the next device, in turn, that has room.
///
/// # Errors
/// Where a job fits nowhere.
pub fn round_robin(instance: &Instance) -> Result<Plan, PlanError> {
    let devices = instance.devices().len();
    fill(instance, |last| last.map_or(0, |last| (last + 1) % devices))
}

/// The placement in use as long as it fits; without one, first fit.
///
/// # Errors
/// Where the placement in use no longer fits: it never changes.
pub fn unchanged(instance: &Instance) -> Result<Plan, PlanError> {
    match instance.previous_counts() {
        Some(counts) => Plan::from_counts(instance, counts.clone(), Proof::Heuristic),
        None => first_fit(instance),
    }
}

/// Everything on the leader.
///
/// # Errors
/// Where the leader lacks memory.
pub fn leader_only(instance: &Instance) -> Result<Plan, PlanError> {
    let row = |stage: &crate::Stage| {
        let mut row = vec![0; instance.devices().len()];
        row[0] = stage.job_count;
        row
    };
    let counts = Counts::new(instance.workload().stages.iter().map(row).collect());
    Plan::from_counts(instance, counts, Proof::Heuristic)
}

/// Job by job on the first device with room, looking from `start(device of the last job)` on.
fn fill(instance: &Instance, start: impl Fn(Option<usize>) -> usize) -> Result<Plan, PlanError> {
    let devices = instance.devices().len();
    let stages = &instance.workload().stages;
    let mut counts = Counts::none(stages.len(), devices);
    let mut left: Vec<_> = (0..devices)
        .map(|it| instance.memory_for_jobs(it))
        .collect();
    let mut last = None;
    for (stage, row) in stages.iter().zip(counts.rows_mut()) {
        let bytes = stage.job.memory_bytes();
        for _ in 0..stage.job_count {
            let from = start(last);
            let turn = (0..devices).map(|step| (from + step) % devices);
            let Some(device) = turn.into_iter().find(|device| left[*device] >= bytes) else {
                return Err(shortage(instance).unwrap_or(PlanError::NotFound));
            };
            left[device] -= bytes;
            row[device] += 1;
            last = Some(device);
        }
    }
    Plan::from_counts(instance, counts, Proof::Heuristic)
}
