//! How long one step takes with a placement.
//!
//! The star, which is what runs: for each stage the leader sends the normalised hidden state to every
//! worker that has a job of it, computes its own jobs meanwhile, and sums what comes back.
//!
//! ```text
//! a_j    = operations of a job / C_j
//! o_j(k) = max(u/R_j, k·u/R_0) + max(d/R_j, k·d/R_0) + 2·δ_j        u, d: bits to and from a worker
//! T      = max(n_0·a_0,  max over workers j with n_j > 0 of o_j(k) + n_j·a_j)
//! step   = Σ T over stages + the vocabulary on the leader
//! ```
//!
//! k counts the workers of the stage. Their k messages share the leader's link fairly, so all of them
//! are through after k·u/R_0; the replies likewise, as if all came at once. That is the worst case of
//! replies, and exact for messages. Sending and computing on the leader overlap.

use crate::device::Device;
use crate::instance::Instance;
use crate::placement::Counts;
use crate::workload::{Dataflow, Part, Stage, Workload};

/// One device as a stage sees it: what time a number of its jobs take there.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Lane {
    /// a_j.
    pub(crate) job_seconds: f64,
    /// u/R_j, and for the leader what each worker adds: u/R_0.
    scatter_seconds: f64,
    /// d/R_j, and for the leader d/R_0.
    gather_seconds: f64,
    /// 2·δ_j.
    round_trip_seconds: f64,
}

impl Lane {
    fn new(device: &Device, stage: &Stage) -> Self {
        Self {
            job_seconds: stage.job.flops / device.flops_per_second,
            scatter_seconds: device.link.seconds(stage.scatter_bytes),
            gather_seconds: device.link.seconds(stage.gather_bytes),
            round_trip_seconds: 2.0 * device.link.one_way_seconds,
        }
    }
}

/// The lanes of a stage, the leader's first.
pub(crate) fn lanes(devices: &[Device], stage: &Stage) -> Vec<Lane> {
    let lane = |device| Lane::new(device, stage);
    devices.iter().map(lane).collect()
}

/// o_j(k), nothing for the leader.
pub(crate) fn overhead_seconds(lanes: &[Lane], index: usize, worker_count: usize) -> f64 {
    let (Some(leader), Some(lane), 1..) = (lanes.first(), lanes.get(index), index) else {
        return 0.0;
    };
    let workers = worker_count as f64;
    lane.scatter_seconds.max(workers * leader.scatter_seconds)
        + lane.gather_seconds.max(workers * leader.gather_seconds)
        + lane.round_trip_seconds
}

/// T of a stage in a star.
pub(crate) fn star_seconds(lanes: &[Lane], row: &[usize]) -> f64 {
    let worker_count = row.iter().skip(1).filter(|count| **count > 0).count();
    let busy = row.iter().enumerate().filter(|(_, count)| **count > 0);
    let ends = busy.map(|(index, count)| {
        overhead_seconds(lanes, index, worker_count) + *count as f64 * lanes[index].job_seconds
    });
    ends.fold(0.0, f64::max)
}

/// Seconds from a step's start to its end; nothing if the placement cannot run with this dataflow.
pub fn step_seconds(instance: &Instance, counts: &Counts, dataflow: Dataflow) -> Option<f64> {
    let workload = instance.workload();
    let devices = instance.devices();
    let leader = workload.leader_flops / devices[0].flops_per_second;
    let stages = match dataflow {
        Dataflow::Star => {
            let rows = workload.stages.iter().zip(counts.rows());
            rows.map(|(stage, row)| star_seconds(&lanes(devices, stage), row))
                .sum()
        }
        Dataflow::Gathered => gathered_seconds(devices, workload, counts)?,
        Dataflow::Chain => chain_seconds(devices, workload, counts)?,
    };
    Some(leader + stages)
}

/// From one device to another over both their links, one after the other; the leader is where links
/// meet and has one hop less.
pub(crate) fn path_seconds(devices: &[Device], from: usize, to: usize, bytes: u64) -> f64 {
    if from == to {
        return 0.0;
    }
    let hop = |index: usize| match index {
        0 => 0.0,
        _ => {
            let link = &devices[index].link;
            let rate = link.bits_per_second.min(devices[0].link.bits_per_second);
            bytes as f64 * 8.0 / rate + link.one_way_seconds
        }
    };
    hop(from) + hop(to)
}

/// The paper's delay: the slowest heads, then their outputs one after another to the projection, then
/// the projection, then its output to the feed-forward network, then that.
fn gathered_seconds(devices: &[Device], workload: &Workload, counts: &Counts) -> Option<f64> {
    let [heads, projection, ffn] = workload.stages.as_slice() else {
        return None;
    };
    let parts = [heads.part, projection.part, ffn.part];
    if parts != [Part::Heads, Part::Projection, Part::FeedForward] {
        return None;
    }
    let on = |stage: usize| counts.rows()[stage].iter().position(|count| *count > 0);
    let (p, f) = (on(1)?, on(2)?);
    let ends = counts.rows()[0].iter().zip(devices);
    let makespan =
        ends.map(|(count, device)| *count as f64 * (heads.job.flops / device.flops_per_second));
    let gather = counts.rows()[0].iter().enumerate();
    let gather = gather
        .map(|(index, count)| *count as f64 * path_seconds(devices, index, p, heads.gather_bytes));
    Some(
        makespan.fold(0.0, f64::max)
            + gather.sum::<f64>()
            + projection.job.flops / devices[p].flops_per_second
            + path_seconds(devices, p, f, projection.gather_bytes)
            + ffn.job.flops / devices[f].flops_per_second,
    )
}

/// Layers one after another, the hidden state travelling where the device changes, from the leader
/// and back to it.
fn chain_seconds(devices: &[Device], workload: &Workload, counts: &Counts) -> Option<f64> {
    let (mut at, mut layer, mut seconds) = (0, None, 0.0);
    for (stage, row) in workload.stages.iter().zip(counts.rows()) {
        let owner = row.iter().position(|count| *count == stage.job_count)?;
        if layer == Some(stage.layer) && owner != at {
            return None;
        }
        seconds += path_seconds(devices, at, owner, stage.scatter_bytes);
        seconds += stage.job_count as f64 * stage.job.flops / devices[owner].flops_per_second;
        (at, layer) = (owner, Some(stage.layer));
    }
    let last = workload.stages.last()?;
    Some(seconds + path_seconds(devices, at, 0, last.scatter_bytes))
}
