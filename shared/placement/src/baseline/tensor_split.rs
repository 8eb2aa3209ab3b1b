//! A static tensor split as Galaxy's planner makes it (arXiv 2405.17245): every device takes part in
//! every stage, in proportion to its speed, and what its memory cannot take goes to the others. Galaxy
//! sums over a ring; here the leader sums, which takes fewer delays.

use crate::instance::Instance;
use crate::placement::Counts;
use crate::planner::{Plan, PlanError, Proof, shortage};

/// Jobs in proportion to speed, a stage of one job on the fastest device with room.
///
/// # Errors
/// Where the jobs do not fit in this way.
pub fn tensor_split(instance: &Instance) -> Result<Plan, PlanError> {
    let devices = instance.devices();
    let stages = &instance.workload().stages;
    let mut counts = Counts::none(stages.len(), devices.len());
    // An equal share of a device's memory for each stage, so that early stages leave room for late ones.
    let needed: u64 = stages
        .iter()
        .map(|stage| stage.job_count as u64 * stage.job.memory_bytes())
        .sum();
    let mut left: Vec<_> = (0..devices.len())
        .map(|index| instance.memory_for_jobs(index))
        .collect();
    let mut needed_left = needed;
    for (stage, row) in stages.iter().zip(counts.rows_mut()) {
        let job_bytes = stage.job.memory_bytes();
        let stage_bytes = stage.job_count as u64 * job_bytes;
        let room = |left: u64| {
            let share = u128::from(left) * u128::from(stage_bytes);
            let share = share.checked_div(u128::from(needed_left)).unwrap_or(0);
            let share = u64::try_from(share).unwrap_or(left);
            (left, share)
        };
        let rooms: Vec<_> = left.iter().map(|left| room(*left)).collect();
        for _ in 0..stage.job_count {
            let next = next(instance, row, &rooms, job_bytes);
            let Some(device) = next else {
                return Err(shortage(instance).unwrap_or(PlanError::NotFound));
            };
            row[device] += 1;
        }
        for (left, count) in left.iter_mut().zip(row.iter()) {
            *left -= *count as u64 * job_bytes;
        }
        needed_left -= stage_bytes;
    }
    Plan::from_counts(instance, counts, Proof::Heuristic)
}

/// Who ends its jobs first with one more: within its share of memory if anybody has room there, else
/// within all of its memory.
fn next(instance: &Instance, row: &[usize], rooms: &[(u64, u64)], job_bytes: u64) -> Option<usize> {
    let ends =
        |device: &usize| (row[*device] + 1) as f64 / instance.devices()[*device].flops_per_second;
    let fits = |device: &usize, room: u64| (row[*device] as u64 + 1) * job_bytes <= room;
    let first = |limit: fn(&(u64, u64)) -> u64| {
        (0..row.len())
            .filter(|device| fits(device, limit(&rooms[*device])))
            .min_by(|a, b| ends(a).total_cmp(&ends(b)))
    };
    first(|room| room.1).or_else(|| first(|room| room.0))
}
