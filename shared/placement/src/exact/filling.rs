//! Placements that fit, made stage by stage, each stage solved exactly with the memory that is left to
//! it. They need not be the best; they are what the bound is compared with.

use std::rc::Rc;

use super::search::{Search, jobs_in};
use super::stage::{Bounds, Question, StageModel, Workers};
use crate::memory::memory_bytes;
use crate::placement::Counts;

/// Passes over all stages that improve a placement.
const PASSES_MAX: usize = 3;

/// What memory a stage may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Room {
    /// All that is left: early stages take the best devices, late ones others. Good where few workers
    /// a stage are best and many are needed for memory.
    Left,
    /// A share of what is left, by the stage's part of what is to come. Good where every stage should
    /// use the same devices.
    Share,
}

/// The answer for a stage, to be used again for its twins.
struct Known {
    model: Rc<StageModel>,
    most: Vec<usize>,
    row: Vec<usize>,
}

/// The answers so far, and what to start from.
#[derive(Default)]
struct Answers {
    rows: Vec<Known>,
    hint: Option<Vec<usize>>,
}

impl Known {
    /// Whether the same counts are the answer with other bounds: they are within them, and no bound
    /// that held them back has moved.
    fn answers(&self, model: &Rc<StageModel>, most: &[usize]) -> bool {
        let bounds = self.most.iter().zip(most).zip(&self.row);
        Rc::ptr_eq(&self.model, model)
            && bounds
                .into_iter()
                .all(|((old, new), row)| new >= row && (old > row || new == old))
    }
}

impl Search<'_> {
    /// Fills in both ways at these prices and improves what came out.
    pub(super) fn fill_all(&mut self, bounds: &[Rc<Bounds>], prices: &[f64]) {
        let before = self.best.as_ref().map(|best| best.0);
        for room in [Room::Share, Room::Left] {
            if let Some(counts) = self.fill(bounds, prices, room) {
                self.offer(&counts);
            }
        }
        if self.best.is_none() {
            self.pack();
        }
        let best = self.best.as_ref();
        let new = best.filter(|best| before != Some(best.0));
        if let Some(counts) = new.map(|best| best.1.clone()) {
            self.improve(bounds, counts);
        }
    }

    fn fill(&mut self, bounds: &[Rc<Bounds>], prices: &[f64], room: Room) -> Option<Counts> {
        let mut counts = Counts::none(bounds.len(), self.memory.len());
        let mut left = self.memory.clone();
        let stages = self.stages();
        let stage_bytes = |index: usize| {
            let stage = &stages[index];
            stage.job_count as u64 * stage.job.memory_bytes()
        };
        let mut to_come: u64 = (0..bounds.len()).map(stage_bytes).sum();
        let mut known = Answers::default();
        for index in self.largest_first() {
            let part = stage_bytes(index) as f64 / to_come.max(1) as f64;
            let rooms: Vec<_> = left.iter().map(|left| share(*left, part)).collect();
            let row = match room {
                Room::Left => self.solve_into(index, &bounds[index], (prices, &left), &mut known),
                Room::Share => self
                    .solve_into(index, &bounds[index], (prices, &rooms), &mut known)
                    .or_else(|| {
                        self.solve_into(index, &bounds[index], (prices, &left), &mut known)
                    }),
            }?;
            self.take(index, &row, &mut left);
            to_come -= stage_bytes(index);
            counts.rows_mut()[index] = row;
        }
        Some(counts)
    }

    fn largest_first(&self) -> Vec<usize> {
        let mut order: Vec<_> = (0..self.models.len()).collect();
        order.sort_by_key(|index| std::cmp::Reverse(self.stages()[*index].job.memory_bytes()));
        order
    }

    /// One stage, with the memory that it may use.
    fn solve_into(
        &mut self,
        index: usize,
        bounds: &Bounds,
        (prices, memory): (&[f64], &[u64]),
        known: &mut Answers,
    ) -> Option<Vec<usize>> {
        let stage = &self.stages()[index];
        let model = Rc::clone(&self.models[index]);
        let most = bounds.most.iter().zip(memory);
        let most = most.map(|(most, memory)| (*most).min(jobs_in(*memory, stage)));
        let most: Vec<_> = most.collect();
        let answer = known.rows.iter().find(|known| known.answers(&model, &most));
        if let Some(known) = answer {
            return Some(known.row.clone());
        }
        let narrowed = Bounds {
            least: bounds.least.clone(),
            most,
        };
        let job_bytes = stage.job.memory_bytes() as f64;
        let prices: Vec<_> = prices.iter().map(|price| price * job_bytes).collect();
        let last = known.rows.iter().rev();
        let mut last = last.filter(|known| Rc::ptr_eq(&known.model, &model));
        let last = last.next().map(|known| known.row.as_slice());
        let question = Question {
            bounds: &narrowed,
            prices: &prices,
            cutoff: f64::INFINITY,
            hint: known.hint.as_deref().or(last),
            workers: Workers::NearHint,
        };
        let row = model.solve(&question, &mut self.effort)?.row;
        known.rows.push(Known {
            model,
            most: narrowed.most,
            row: row.clone(),
        });
        Some(row)
    }

    fn take(&self, index: usize, row: &[usize], left: &mut [u64]) {
        let job_bytes = self.stages()[index].job.memory_bytes();
        for (left, count) in left.iter_mut().zip(row) {
            *left = left.saturating_sub(*count as u64 * job_bytes);
        }
    }

    /// Solves each stage again with the memory that the others leave, as long as that helps.
    fn improve(&mut self, bounds: &[Rc<Bounds>], mut counts: Counts) {
        let free = vec![0.0; self.memory.len()];
        let used = memory_bytes(self.instance, &counts);
        let left = self.memory.iter().zip(used);
        let mut left: Vec<_> = left
            .map(|(memory, used)| memory.saturating_sub(used))
            .collect();
        for _ in 0..PASSES_MAX {
            let mut is_better = false;
            for (index, bounds) in bounds.iter().enumerate() {
                if self.effort.is_spent() {
                    break;
                }
                let before = counts.rows()[index].clone();
                let job_bytes = self.stages()[index].job.memory_bytes();
                for (left, count) in left.iter_mut().zip(&before) {
                    *left += *count as u64 * job_bytes;
                }
                let mut known = Answers {
                    rows: Vec::new(),
                    hint: Some(before.clone()),
                };
                let found = self.solve_into(index, bounds, (&free, &left), &mut known);
                let model = &self.models[index];
                let better = |row: &Vec<usize>| model.seconds(row) < model.seconds(&before);
                let row = found.filter(better);
                is_better |= row.is_some();
                let row = row.unwrap_or(before);
                self.take(index, &row, &mut left);
                counts.rows_mut()[index] = row;
            }
            if !is_better {
                break;
            }
        }
        self.offer(&counts);
    }

    /// Some placement that fits, if filling the largest jobs first finds one.
    fn pack(&mut self) {
        let mut counts = Counts::none(self.models.len(), self.memory.len());
        let mut left = self.memory.clone();
        for index in self.largest_first() {
            let stage = &self.stages()[index];
            let mut open = stage.job_count;
            let row = left.iter().map(|left| {
                let count = jobs_in(*left, stage).min(open);
                open -= count;
                count
            });
            let row: Vec<_> = row.collect();
            if open > 0 {
                return;
            }
            self.take(index, &row, &mut left);
            counts.rows_mut()[index] = row;
        }
        self.offer(&counts);
    }
}

#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "a share of a number of bytes"
)]
fn share(bytes: u64, part: f64) -> u64 {
    (bytes as f64 * part) as u64
}
