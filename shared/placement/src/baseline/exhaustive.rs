//! The oracle: every placement, each looked at by itself. For small instances.

use crate::delay::step_seconds;
use crate::instance::Instance;
use crate::memory::is_feasible;
use crate::migration::migration_seconds;
use crate::placement::Counts;
use crate::planner::{Plan, PlanError, Proof};

/// Counts that are tried at most: some seconds of one processor.
pub const PLACEMENTS_MAX: u64 = 2_000_000;

/// The best of all placements in the workload's dataflow.
///
/// # Errors
/// Where no placement fits, and where there are more than [`PLACEMENTS_MAX`].
pub fn exhaustive(instance: &Instance) -> Result<Plan, PlanError> {
    if instance.placement_count() > PLACEMENTS_MAX {
        return Err(PlanError::TooMany {
            placements_max: PLACEMENTS_MAX,
        });
    }
    let devices = instance.devices().len();
    let stages = instance.workload().stages.iter();
    let rows: Vec<_> = stages.map(|it| rows(it.job_count, devices)).collect();
    let mut best: Option<(f64, Counts)> = None;
    let mut choice = vec![0; rows.len()];
    loop {
        let chosen = rows.iter().zip(&choice);
        let counts = Counts::new(chosen.map(|(rows, at)| rows[*at].clone()).collect());
        let seconds = objective(instance, &counts);
        if let Some(seconds) = seconds.filter(|it| best.as_ref().is_none_or(|best| *it < best.0)) {
            best = Some((seconds, counts));
        }
        let Some(stage) = (0..rows.len()).find(|stage| choice[*stage] + 1 < rows[*stage].len())
        else {
            break;
        };
        choice[stage] += 1;
        choice[..stage].fill(0);
    }
    let (_, counts) = best.ok_or(PlanError::Fragmented)?;
    Plan::from_counts(instance, counts, Proof::Optimal)
}

fn objective(instance: &Instance, counts: &Counts) -> Option<f64> {
    if !is_feasible(instance, counts) {
        return None;
    }
    let step = step_seconds(instance, counts, instance.workload().dataflow)?;
    Some(step + migration_seconds(instance, counts) / instance.remaining_len() as f64)
}

fn rows(jobs: usize, devices: usize) -> Vec<Vec<usize>> {
    if devices == 1 {
        return vec![vec![jobs]];
    }
    let with = |first: usize| {
        let rest = rows(jobs - first, devices - 1);
        rest.into_iter().map(move |mut row| {
            row.insert(0, first);
            row
        })
    };
    (0..=jobs).flat_map(with).collect()
}
