//! What came out of a trial, and of all trials of a contender.

use serde::Serialize;

use super::contender::Contender;
use crate::distribution::Distribution;
use crate::statistics::Spread;

/// One interval between two plans.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct Interval {
    /// Tokens generated before it.
    pub(crate) done: usize,
    /// Tokens in it.
    pub(crate) len: usize,
    /// D.
    pub(crate) step_seconds: f64,
    /// D_mig at its start.
    pub(crate) migration_seconds: f64,
    /// Jobs that changed their device.
    pub(crate) moved_count: usize,
    /// Of the device with most.
    pub(crate) memory_bytes_max: u64,
    /// Devices with a job.
    pub(crate) device_count_in_use: usize,
    /// Whether every device had the memory.
    pub(crate) is_within_memory: bool,
    /// The plan's objective over that of the best placement there is.
    pub(crate) over_optimum: Option<f64>,
}

/// A contender on one set of devices.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Trial {
    pub(crate) contender: Contender,
    pub(crate) device_count: usize,
    pub(crate) draw: usize,
    /// Tokens to generate.
    pub(crate) tokens: usize,
    /// Those in which it had a placement.
    pub(crate) intervals: Vec<Interval>,
    /// Of each plan.
    pub(crate) planner_seconds: Vec<f64>,
    /// Intervals in which no placement exists; they are left out.
    pub(crate) impossible_count: usize,
}

impl Trial {
    /// Mean time of a token, the whole time of migrations added; nothing if it ever had no placement.
    pub(crate) fn token_seconds(&self) -> Option<f64> {
        let done: usize = self.intervals.iter().map(|it| it.len).sum();
        let is_whole = done == self.tokens || (self.impossible_count > 0 && done > 0);
        let seconds = self.intervals.iter();
        let seconds = seconds.map(|it| it.step_seconds * it.len as f64 + it.migration_seconds);
        is_whole.then(|| seconds.sum::<f64>() / done as f64)
    }

    fn over_memory_count(&self) -> usize {
        self.intervals
            .iter()
            .filter(|it| !it.is_within_memory)
            .count()
    }
}

/// All trials of one contender with one number of devices.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Summary {
    pub(crate) contender: Contender,
    pub(crate) device_count: usize,
    /// Draws, and those in which it always had a placement.
    pub(crate) draws: usize,
    pub(crate) draws_placed: usize,
    /// Mean time of a token, migrations added.
    pub(crate) token_ms: Option<Spread>,
    /// Its time over ours, draw by draw.
    pub(crate) over_ours: Option<Spread>,
    /// The plan's objective over the optimum's, interval by interval: mean and largest.
    pub(crate) over_optimum_mean: Option<f64>,
    pub(crate) over_optimum_max: Option<f64>,
    pub(crate) optimum_count: usize,
    /// Of the device with most, over all intervals.
    pub(crate) memory_gb_max: Option<Spread>,
    /// Devices in use, mean over intervals.
    pub(crate) devices_in_use: Option<Spread>,
    /// Intervals in which a device lacked memory, of how many.
    pub(crate) over_memory_count: usize,
    pub(crate) interval_count: usize,
    /// Jobs moved in a run.
    pub(crate) moved: Option<Spread>,
    pub(crate) planner_ms_median: Option<f64>,
    pub(crate) planner_ms_p95: Option<f64>,
    pub(crate) planner_ms_max: Option<f64>,
}

impl Summary {
    /// Of one contender's trials; `ours` are those that it is compared with.
    pub(crate) fn of(trials: &[&Trial], ours: &[&Trial]) -> Option<Self> {
        let first = trials.first()?;
        let placed = trials.iter().filter(|it| it.token_seconds().is_some());
        let optima = trials.iter().flat_map(|it| &it.intervals);
        let optima: Vec<_> = optima.filter_map(|it| it.over_optimum).collect();
        let planner = trials.iter().flat_map(|it| &it.planner_seconds);
        let planner: Vec<_> = planner.map(|seconds| seconds * 1e3).collect();
        let over_ours = trials.iter().map(|trial| {
            let ours = ours.iter().find(|it| it.draw == trial.draw)?;
            Some(trial.token_seconds()? / ours.token_seconds()?)
        });
        let of_placed = |value: &dyn Fn(&Trial) -> f64| {
            let value = |trial: &&Trial| (!trial.intervals.is_empty()).then(|| value(trial));
            Spread::of_some(trials.iter().map(value))
        };
        Some(Self {
            contender: first.contender,
            device_count: first.device_count,
            draws: trials.len(),
            draws_placed: placed.count(),
            token_ms: Spread::of_some(trials.iter().map(|it| Some(it.token_seconds()? * 1e3))),
            over_ours: Spread::of_some(over_ours),
            over_optimum_mean: mean(&optima),
            over_optimum_max: optima.iter().copied().max_by(f64::total_cmp),
            optimum_count: optima.len(),
            memory_gb_max: of_placed(&|trial| {
                let bytes = trial.intervals.iter().map(|it| it.memory_bytes_max);
                bytes.max().unwrap_or(0) as f64 / 1e9
            }),
            devices_in_use: of_placed(&|trial| {
                let counts = trial
                    .intervals
                    .iter()
                    .map(|it| it.device_count_in_use as f64);
                counts.sum::<f64>() / trial.intervals.len() as f64
            }),
            over_memory_count: trials.iter().map(|it| it.over_memory_count()).sum(),
            interval_count: trials.iter().map(|it| it.intervals.len()).sum(),
            moved: of_placed(&|trial| trial.intervals.iter().map(|it| it.moved_count as f64).sum()),
            planner_ms_median: (!planner.is_empty())
                .then(|| Spread::of(planner.iter().copied()).median),
            planner_ms_p95: (!planner.is_empty())
                .then(|| Distribution::of(planner.iter().copied()).percentile(95.0)),
            planner_ms_max: planner.iter().copied().max_by(f64::total_cmp),
        })
    }
}

fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}
