//! EdgeShard's planner for latency (arXiv 2405.14371): contiguous layers on devices, by dynamic
//! programming over (layers placed, device of the last one).
//!
//! A state keeps one way to reach it, the fastest, and a device serves one run of layers; with memory
//! that binds this is a heuristic, as published. Its first layer is not pinned to the leader, which can
//! only help it. It runs as it is meant to: the hidden state goes from device to device.

use crate::delay::path_seconds;
use crate::instance::Instance;
use crate::placement::Counts;
use crate::planner::{Plan, PlanError, Proof, shortage};
use crate::workload::{Dataflow, Stage};

/// The fastest way found so far to run the first layers, ending on one device.
#[derive(Clone)]
struct Way {
    seconds: f64,
    /// Devices and the layer after the last of their run.
    runs: Vec<(usize, usize)>,
}

/// Layers on devices.
///
/// # Errors
/// Where the layers do not fit in this way.
pub fn edgeshard(instance: &Instance) -> Result<Plan, PlanError> {
    let devices = instance.devices();
    let layers = layers(&instance.workload().stages);
    let mut ways: Vec<Vec<Option<Way>>> = vec![vec![None; devices.len()]; layers.len() + 1];
    for first in 0..layers.len() {
        for device in 0..devices.len() {
            let Some(start) = arrive(instance, &ways[first], first, device, &layers) else {
                continue;
            };
            let mut seconds = start.seconds;
            let mut memory = instance.memory_for_jobs(device);
            for end in first + 1..=layers.len() {
                let (flops, bytes) = cost(layers[end - 1]);
                let Some(left) = memory.checked_sub(bytes) else {
                    break;
                };
                memory = left;
                seconds += flops / devices[device].flops_per_second;
                let known = &mut ways[end][device];
                if known.as_ref().is_none_or(|known| seconds < known.seconds) {
                    let mut runs = start.runs.clone();
                    runs.push((device, end));
                    *known = Some(Way { seconds, runs });
                }
            }
        }
    }
    let message_bytes = instance.workload().stages[0].scatter_bytes;
    let ends = ways.pop().unwrap_or_default().into_iter().enumerate();
    let ends = ends.filter_map(|(device, way)| {
        let back = path_seconds(devices, device, 0, message_bytes);
        way.map(|way| (way.seconds + back, way))
    });
    let best = ends.min_by(|a, b| a.0.total_cmp(&b.0));
    let Some((_, way)) = best else {
        return Err(shortage(instance).unwrap_or(PlanError::NotFound));
    };
    let dataflow = match instance.workload().dataflow {
        Dataflow::Star | Dataflow::Chain => Dataflow::Chain,
        Dataflow::Gathered => Dataflow::Gathered,
    };
    Plan::with_dataflow(
        instance,
        counts(&way, &layers, devices.len()),
        dataflow,
        Proof::Heuristic,
    )
}

/// The best way to have the hidden state on a device before a layer.
fn arrive(
    instance: &Instance,
    ways: &[Option<Way>],
    layer: usize,
    device: usize,
    layers: &[&[Stage]],
) -> Option<Way> {
    let bytes = layers[layer][0].scatter_bytes;
    let travel = |from| path_seconds(instance.devices(), from, device, bytes);
    if layer == 0 {
        let seconds = travel(0);
        return Some(Way {
            seconds,
            runs: Vec::new(),
        });
    }
    let from = ways.iter().enumerate().filter_map(|(from, way)| {
        let way = way.as_ref()?;
        let is_new = way.runs.iter().all(|(used, _)| *used != device);
        is_new.then(|| (way.seconds + travel(from), way))
    });
    let (seconds, way) = from.min_by(|a, b| a.0.total_cmp(&b.0))?;
    let runs = way.runs.clone();
    Some(Way { seconds, runs })
}

/// The stages of each layer.
fn layers(stages: &[Stage]) -> Vec<&[Stage]> {
    stages.chunk_by(|a, b| a.layer == b.layer).collect()
}

fn cost(layer: &[Stage]) -> (f64, u64) {
    let flops = layer.iter().map(|it| it.job_count as f64 * it.job.flops);
    let bytes = layer
        .iter()
        .map(|it| it.job_count as u64 * it.job.memory_bytes());
    (flops.sum(), bytes.sum())
}

fn counts(way: &Way, layers: &[&[Stage]], device_count: usize) -> Counts {
    let mut rows = Vec::new();
    let mut first = 0;
    for (device, end) in &way.runs {
        for stage in layers[first..*end].iter().copied().flatten() {
            let mut row = vec![0; device_count];
            row[*device] = stage.job_count;
            rows.push(row);
        }
        first = *end;
    }
    Counts::new(rows)
}
