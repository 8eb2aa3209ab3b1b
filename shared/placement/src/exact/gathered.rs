//! The best placement in the paper's dataflow: for each device of the projection and each of the
//! feed-forward network, the heads are one stage whose jobs each pay for their way to the projection.

use super::effort::Effort;
use super::stage::{Bounds, Messages, Question, StageModel, Workers};
use crate::delay::{lanes, path_seconds};
use crate::instance::Instance;
use crate::migration::MoveSeconds;
use crate::placement::Counts;
use crate::planner::{Plan, PlanError, Proof};

/// A pair of devices for the two blocks that are not heads, and what the step takes but for heads.
struct Pair {
    projection: usize,
    ffn: usize,
    seconds: f64,
}

pub(super) fn plan(instance: &Instance, mut effort: Effort) -> Result<Plan, PlanError> {
    let model = heads(instance);
    let mut best: Option<(f64, Counts)> = None;
    let mut at_least = f64::INFINITY;
    let mut pairs = pairs(instance);
    pairs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
    // What heads take at least with a projection, the blocks beside them not counted as memory.
    let mut alone = vec![None; instance.devices().len()];
    for pair in pairs {
        let cutoff = best.as_ref().map_or(f64::INFINITY, |best| best.0) - pair.seconds;
        if cutoff <= 0.0 {
            break;
        }
        let prices = prices(instance, pair.projection);
        let bound = *alone[pair.projection].get_or_insert_with(|| {
            let bounds = bounds(instance, None);
            let question = Question {
                bounds: &bounds,
                prices: &prices,
                cutoff: f64::INFINITY,
                hint: None,
                workers: Workers::Any,
            };
            let solved = model.solve(&question, &mut effort);
            solved.map_or(f64::INFINITY, |it| it.at_least)
        });
        if bound >= cutoff {
            continue;
        }
        let Some(bounds) = fits(instance, &pair).then(|| bounds(instance, Some(&pair))) else {
            continue;
        };
        let question = Question {
            bounds: &bounds,
            prices: &prices,
            cutoff,
            hint: None,
            workers: Workers::Any,
        };
        let Some(solved) = model.solve(&question, &mut effort) else {
            continue;
        };
        at_least = at_least.min(solved.at_least + pair.seconds);
        best = Some((
            solved.seconds + pair.seconds,
            counts(instance, &pair, solved.row),
        ));
    }
    let Some((seconds, counts)) = best else {
        return Err(PlanError::Fragmented);
    };
    let proof = match at_least < seconds * (1.0 - super::stage::TOLERANCE) {
        true => Proof::AtLeast(at_least),
        false => Proof::Optimal,
    };
    Plan::from_counts(instance, counts, proof)
}

fn heads(instance: &Instance) -> StageModel {
    let stage = &instance.workload().stages[0];
    StageModel {
        lanes: lanes(instance.devices(), stage),
        job_count: stage.job_count,
        moving: super::search::moving(instance, 0),
        messages: Messages::None,
    }
}

/// What a head on each device pays for its output's way.
fn prices(instance: &Instance, projection: usize) -> Vec<f64> {
    let devices = instance.devices();
    let bytes = instance.workload().stages[0].gather_bytes;
    let way = |index| path_seconds(devices, index, projection, bytes);
    (0..devices.len()).map(way).collect()
}

fn pairs(instance: &Instance) -> Vec<Pair> {
    let devices = instance.devices();
    let [_, projection, ffn] = instance.workload().stages.as_slice() else {
        return Vec::new();
    };
    let indexes = 0..devices.len();
    let seconds = |stage: usize, index: usize| {
        let job = &instance.workload().stages[stage].job;
        job.flops / devices[index].flops_per_second + moving_seconds(instance, stage, index)
    };
    let projections: Vec<_> = indexes.clone().map(|p| seconds(1, p)).collect();
    let ffns: Vec<_> = indexes.clone().map(|f| seconds(2, f)).collect();
    debug_assert!(projection.job_count == 1 && ffn.job_count == 1);
    let pair = |p: usize, f: usize| Pair {
        projection: p,
        ffn: f,
        seconds: projections[p] + ffns[f] + path_seconds(devices, p, f, projection.gather_bytes),
    };
    indexes
        .flat_map(|p| (0..devices.len()).map(move |f| (p, f)))
        .map(|(p, f)| pair(p, f))
        .collect()
}

/// What moving a stage's only job to a device costs each remaining token.
fn moving_seconds(instance: &Instance, stage: usize, to: usize) -> f64 {
    let Some(previous) = instance.previous_counts() else {
        return 0.0;
    };
    let moves = MoveSeconds::new(instance, &instance.workload().stages[stage].job);
    let before = &previous.rows()[stage];
    let of = |index| moves.of(index, before[index], usize::from(index == to));
    (0..before.len()).map(of).sum::<f64>() / instance.remaining_len() as f64
}

/// What the two blocks leave of a device's memory; nothing if they do not fit.
fn left(instance: &Instance, pair: &Pair, index: usize) -> Option<u64> {
    let stages = &instance.workload().stages;
    let mut left = instance.memory_for_jobs(index);
    for (stage, owner) in [(1, pair.projection), (2, pair.ffn)] {
        if owner == index {
            left = left.checked_sub(stages[stage].job.memory_bytes())?;
        }
    }
    Some(left)
}

fn fits(instance: &Instance, pair: &Pair) -> bool {
    let pair_owners = [pair.projection, pair.ffn];
    pair_owners
        .iter()
        .all(|index| left(instance, pair, *index).is_some())
}

fn bounds(instance: &Instance, pair: Option<&Pair>) -> Bounds {
    let stage = &instance.workload().stages[0];
    let most = |index| {
        let all = instance.memory_for_jobs(index);
        let memory = pair.map_or(all, |pair| left(instance, pair, index).unwrap_or(0));
        super::search::jobs_in(memory, stage)
    };
    let devices = instance.devices().len();
    Bounds {
        least: vec![0; devices],
        most: (0..devices).map(most).collect(),
    }
}

fn counts(instance: &Instance, pair: &Pair, heads: Vec<usize>) -> Counts {
    let one = |owner| {
        let mut row = vec![0; instance.devices().len()];
        row[owner] = 1;
        row
    };
    Counts::new(vec![heads, one(pair.projection), one(pair.ffn)])
}
