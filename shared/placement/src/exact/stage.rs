//! One stage by itself: what its counts cost, and which are best.
//!
//! A stage's seconds are the slowest device's time plus a charge that is separable by device and convex
//! in its count (moving and the price of memory). Memory shared between stages is not seen here but as
//! bounds and prices.

use super::effort::Effort;
use super::stage_solver::Solver;
use crate::delay::{Lane, star_seconds};
use crate::migration::MoveSeconds;

/// Differences below this share are rounding.
pub(super) const TOLERANCE: f64 = 1e-11;
/// A stage without its bounds.
pub(super) struct StageModel {
    pub(super) lanes: Vec<Lane>,
    pub(super) job_count: usize,
    /// What moving costs, if there was a placement: seconds for each remaining token, and counts
    /// before.
    pub(super) moving: Option<(MoveSeconds, Vec<usize>)>,
    pub(super) messages: Messages,
}

/// Whether workers cost time by being workers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Messages {
    /// As in a star.
    ByWorker,
    /// Only by what is charged for each job.
    None,
}

/// Least and greatest counts by device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Bounds {
    pub(super) least: Vec<usize>,
    pub(super) most: Vec<usize>,
}

/// The best counts of a stage.
#[derive(Clone, Debug)]
pub(super) struct Solution {
    pub(super) row: Vec<usize>,
    /// Time and charges.
    pub(super) seconds: f64,
    /// No counts have less. Smaller than `seconds` only where the effort was spent before the end.
    pub(super) at_least: f64,
}

impl StageModel {
    /// Time and moving, without prices.
    pub(super) fn seconds(&self, row: &[usize]) -> f64 {
        let charges = (0..row.len()).map(|index| self.moving_seconds(index, row[index]));
        self.time(row) + charges.sum::<f64>()
    }

    pub(super) fn time(&self, row: &[usize]) -> f64 {
        match self.messages {
            Messages::ByWorker => star_seconds(&self.lanes, row),
            Messages::None => {
                let ends = row.iter().zip(&self.lanes);
                let ends = ends.map(|(count, lane)| *count as f64 * lane.job_seconds);
                ends.fold(0.0, f64::max)
            }
        }
    }

    pub(super) fn moving_seconds(&self, index: usize, count: usize) -> f64 {
        let moving = self.moving.as_ref();
        moving.map_or(0.0, |(seconds, before)| {
            seconds.of(index, before[index], count)
        })
    }

    /// The best counts below `cutoff`, where each job on a device has a price in seconds. Nothing if
    /// there are none.
    pub(super) fn solve(
        &self,
        bounds: &Bounds,
        prices: &[f64],
        cutoff: f64,
        effort: &mut Effort,
    ) -> Option<Solution> {
        let jobs = self.job_count;
        let most: usize = bounds.most.iter().sum();
        let is_open = bounds.least.iter().zip(&bounds.most).all(|(a, b)| a <= b);
        if !is_open || bounds.least.iter().sum::<usize>() > jobs || most < jobs {
            return None;
        }
        let mut solver = Solver::new(self, bounds, prices, cutoff, effort);
        solver.run();
        solver.solution()
    }
}
