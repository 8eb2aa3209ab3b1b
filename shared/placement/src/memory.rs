//! The one constraint of a placement: what its jobs take on a device is there.

use crate::instance::Instance;
use crate::placement::Counts;

/// Bytes that jobs take on each device, the leader's own needs not included.
pub fn memory_bytes(instance: &Instance, counts: &Counts) -> Vec<u64> {
    let mut used = vec![0; instance.devices().len()];
    for (stage, row) in instance.workload().stages.iter().zip(counts.rows()) {
        for (used, count) in used.iter_mut().zip(row) {
            let bytes = stage.job.memory_bytes().saturating_mul(*count as u64);
            *used = u64::saturating_add(*used, bytes);
        }
    }
    used
}

/// Whether every job is placed and every device has the memory for its jobs, the leader also for
/// itself.
pub fn is_feasible(instance: &Instance, counts: &Counts) -> bool {
    let stages = &instance.workload().stages;
    let is_placed = counts.rows().len() == stages.len()
        && counts.rows().iter().zip(stages).all(|(row, stage)| {
            row.len() == instance.devices().len() && row.iter().sum::<usize>() == stage.job_count
        });
    let leader_bytes = instance.workload().leader_bytes;
    let used = memory_bytes(instance, counts).into_iter().enumerate();
    is_placed
        && leader_bytes <= instance.devices()[0].memory_bytes
        && used
            .into_iter()
            .all(|(index, used)| used <= instance.memory_for_jobs(index))
}
