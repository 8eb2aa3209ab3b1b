//! What it takes to come from the placement in use to another one.
//!
//! Workers are linked with the leader only, so what moves between two workers crosses both their
//! links, one after the other:
//!
//! ```text
//! leave(j)  = state / min(R_j, R_0)                            0 for the leader
//! arrive(j) = (state + weights it lacks) / min(R_j, R_0)       0 for the leader, which has all weights
//! D_mig     = Σ over stages and devices of leave(j)·(before − after)⁺ + arrive(j)·(after − before)⁺
//! ```
//!
//! The sum is what the paper has, and more than the time if links work side by side. Moving is in the
//! background of generation; its whole time is charged all the same, for as long as it lasts nothing
//! is gained. A job whose device is gone only arrives: the leader computes its keys and values again.

use crate::device::{DeviceId, WeightCopy};
use crate::instance::Instance;
use crate::placement::{Counts, Placement};
use crate::workload::{JobCost, Part};

/// One job that changes its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Move {
    /// 0-based.
    pub layer: usize,
    /// Which part of the layer.
    pub part: Part,
    /// Which KV head, or which slice.
    pub job_index: usize,
    /// Who has it; nobody if it is new or its device is gone.
    pub from: Option<DeviceId>,
    /// Who gets it.
    pub to: DeviceId,
    /// Keys and values that travel, or are computed again if `from` is nobody.
    pub state_bytes: u64,
    /// Weights that travel.
    pub weight_bytes: u64,
}

/// What leaving and arriving cost on each device, for the jobs of one kind.
pub(crate) struct MoveSeconds {
    pub(crate) leave: Vec<f64>,
    pub(crate) arrive: Vec<f64>,
}

impl MoveSeconds {
    pub(crate) fn new(instance: &Instance, job: &JobCost) -> Self {
        let devices = instance.devices();
        let hub_rate = devices[0].link.bits_per_second;
        let seconds = |index: usize, bytes: u64| match index {
            0 => 0.0,
            _ => bytes as f64 * 8.0 / devices[index].link.bits_per_second.min(hub_rate),
        };
        let leave = |index| seconds(index, job.state_bytes);
        let arrive = |index| seconds(index, job.state_bytes + lacking_bytes(instance, index, job));
        Self {
            leave: (0..devices.len()).map(leave).collect(),
            arrive: (0..devices.len()).map(arrive).collect(),
        }
    }

    /// Of one device.
    pub(crate) fn of(&self, index: usize, before: usize, after: usize) -> f64 {
        self.leave[index] * before.saturating_sub(after) as f64
            + self.arrive[index] * after.saturating_sub(before) as f64
    }
}

/// Weights of a job that a device lacks. The leader loads from its own copy.
fn lacking_bytes(instance: &Instance, index: usize, job: &JobCost) -> u64 {
    match (index, instance.devices()[index].weights) {
        (0, _) | (_, WeightCopy::Whole) => 0,
        (_, WeightCopy::OfItsJobs) => job.weight_bytes,
    }
}

/// D_mig; nothing is migrated where nothing was before.
pub fn migration_seconds(instance: &Instance, counts: &Counts) -> f64 {
    let Some(previous) = instance.previous_counts() else {
        return 0.0;
    };
    let mut seconds = 0.0;
    let rows = previous.rows().iter().zip(counts.rows());
    for (stage, (before, after)) in instance.workload().stages.iter().zip(rows) {
        let moves = MoveSeconds::new(instance, &stage.job);
        let of = |index| moves.of(index, before[index], after[index]);
        seconds += (0..before.len()).map(of).sum::<f64>();
    }
    seconds
}

/// The moves from the placement in use, in an order in which each device has room when a job arrives,
/// as far as there is one: the source holds a job until it has moved.
pub fn moves(instance: &Instance, placement: &Placement) -> Vec<Move> {
    let mut waiting = unordered(instance, placement);
    let devices = instance.devices();
    let place = |id: DeviceId| devices.iter().position(|device| device.id == id);
    let mut free: Vec<_> = (0..devices.len())
        .map(|index| instance.memory_for_jobs(index))
        .collect();
    if let Some(counts) = instance.previous_counts() {
        let used = super::memory::memory_bytes(instance, counts);
        for (free, used) in free.iter_mut().zip(used) {
            *free = free.saturating_sub(used);
        }
    }
    let mut ordered = Vec::with_capacity(waiting.len());
    while !waiting.is_empty() {
        let before = waiting.len();
        waiting.retain(|(step, bytes)| {
            let Some(to) = place(step.to).filter(|to| free[*to] >= *bytes) else {
                return true;
            };
            free[to] -= bytes;
            if let Some(from) = step.from.and_then(place) {
                free[from] += bytes;
            }
            ordered.push(*step);
            false
        });
        if waiting.len() == before {
            ordered.extend(waiting.drain(..).map(|(step, _)| step));
        }
    }
    ordered
}

/// The moves and what memory each job takes.
fn unordered(instance: &Instance, placement: &Placement) -> Vec<(Move, u64)> {
    let devices = instance.devices();
    let place = |id: DeviceId| devices.iter().position(|device| device.id == id);
    let mut moves = Vec::new();
    for (index, stage) in instance.workload().stages.iter().enumerate() {
        let before = instance.previous().map(|it| &it.owners()[index]);
        for (job_index, to) in placement.owners()[index].iter().enumerate() {
            let from = before.map(|owners| owners[job_index]);
            if from == Some(*to) {
                continue;
            }
            let lacking = place(*to).map_or(0, |to| lacking_bytes(instance, to, &stage.job));
            let step = Move {
                layer: stage.layer,
                part: stage.part,
                job_index,
                from: from.filter(|from| place(*from).is_some()),
                to: *to,
                state_bytes: stage.job.state_bytes,
                weight_bytes: lacking,
            };
            moves.push((step, stage.job.memory_bytes()));
        }
    }
    moves
}
