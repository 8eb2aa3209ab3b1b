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

/// What is asked of a stage.
pub(super) struct Question<'a> {
    pub(super) bounds: &'a Bounds,
    /// What a job on each device pays, in seconds.
    pub(super) prices: &'a [f64],
    /// Only what is below is an answer.
    pub(super) cutoff: f64,
    /// Counts that are good already.
    pub(super) hint: Option<&'a [usize]>,
    pub(super) workers: Workers,
}

/// Which numbers of workers are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Workers {
    /// All: the answer is the best.
    Any,
    /// Those near the hint's, if there is a hint: the answer is good.
    NearHint,
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

    /// The best counts; nothing if there are none.
    pub(super) fn solve(&self, question: &Question, effort: &mut Effort) -> Option<Solution> {
        let jobs = self.job_count;
        let Bounds { least, most } = question.bounds;
        let is_open = least.iter().zip(most).all(|(least, most)| least <= most);
        let reach: usize = most.iter().sum();
        if !is_open || least.iter().sum::<usize>() > jobs || reach < jobs {
            return None;
        }
        let mut solver = Solver::new(self, question, effort);
        solver.run(question);
        solver.solution()
    }
}
