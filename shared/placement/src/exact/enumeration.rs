//! Every combination of counts that prices leave open.
//!
//! With prices λ, a placement costs the bound plus the reduced cost of each stage's counts (what they
//! are above the stage's own optimum, priced) plus λ times the memory left over. So in a placement that
//! is better than the best known one, reduced costs add up to less than the gap, and only counts whose
//! reduced cost is below the gap need be tried. Stages of one class are equal: they take counts in the
//! order of a list, so that no combination is tried twice.

use std::rc::Rc;

use super::effort::Effort;
use super::stage::{Bounds, Question, StageModel, Workers};
use crate::delay::overhead_seconds;
use crate::placement::Counts;

/// Stages that are equal in everything, the counts before included.
pub(super) struct Class {
    pub(super) model: Rc<StageModel>,
    pub(super) bounds: Rc<Bounds>,
    pub(super) job_bytes: u64,
    pub(super) stages: Vec<usize>,
}

/// Counts of one stage and their reduced cost.
struct Row {
    counts: Vec<usize>,
    reduced: f64,
    seconds: f64,
}

/// A class with its counts, the cheapest first.
struct Listed {
    class: Class,
    rows: Vec<Row>,
}

pub(super) struct Enumeration<'a> {
    listed: Vec<Listed>,
    prices: Vec<f64>,
    /// What reduced costs may add up to.
    gap: f64,
    effort: &'a mut Effort,
    /// The class and the row of each stage that is decided, in the order of classes.
    chosen: Vec<(usize, usize)>,
    best: Option<Vec<(usize, usize)>>,
}

impl<'a> Enumeration<'a> {
    pub(super) fn new(
        mut classes: Vec<Class>,
        prices: &[f64],
        gap: f64,
        effort: &'a mut Effort,
    ) -> Self {
        classes.sort_by_key(|class| std::cmp::Reverse(class.job_bytes));
        let listed = classes.into_iter().map(|class| {
            let job_bytes = class.job_bytes as f64;
            let prices: Vec<_> = prices.iter().map(|price| price * job_bytes).collect();
            let rows = Rows::list(&class, &prices, gap, effort);
            Listed { class, rows }
        });
        Self {
            listed: listed.collect(),
            prices: prices.to_vec(),
            gap,
            effort,
            chosen: Vec::new(),
            best: None,
        }
    }

    /// The best combination that fits into memory, if one is better than what was known. If the effort
    /// is spent, others may be better still.
    pub(super) fn run(mut self, memory: &[u64]) -> Option<Counts> {
        let mut left = memory.to_vec();
        self.descend(0, 0.0, &mut left);
        let best = self.best?;
        let stages: usize = self.listed.iter().map(|it| it.class.stages.len()).sum();
        let mut counts = Counts::none(stages, memory.len());
        let mut taken = vec![0; self.listed.len()];
        for (class, row) in best {
            let listed = &self.listed[class];
            let stage = listed.class.stages[taken[class]];
            taken[class] += 1;
            counts.rows_mut()[stage].clone_from(&listed.rows[row].counts);
        }
        Some(counts)
    }

    /// Decides the stages of a class and those after it.
    fn descend(&mut self, class: usize, reduced: f64, left: &mut [u64]) {
        let Some(listed) = self.listed.get(class) else {
            self.arrive(reduced, left);
            return;
        };
        let decided = self
            .chosen
            .iter()
            .filter(|chosen| chosen.0 == class)
            .count();
        if decided == listed.class.stages.len() {
            self.descend(class + 1, reduced, left);
            return;
        }
        let first = match self.chosen.last() {
            Some((last, row)) if *last == class => *row,
            _ => 0,
        };
        for row in first..self.listed[class].rows.len() {
            // Stages of the class that follow take rows that are no cheaper.
            let open = (self.listed[class].class.stages.len() - decided) as f64;
            let row_reduced = self.listed[class].rows[row].reduced;
            if reduced + open * row_reduced >= self.gap || self.effort.is_spent() {
                break;
            }
            self.effort.spend(4 + left.len());
            if self.take(class, row, left) {
                self.chosen.push((class, row));
                self.descend(class, reduced + row_reduced, left);
                self.chosen.pop();
                self.put_back(class, row, left);
            }
        }
    }

    /// Takes the memory of a row, if it is there.
    fn take(&self, class: usize, row: usize, left: &mut [u64]) -> bool {
        let listed = &self.listed[class];
        let counts = &listed.rows[row].counts;
        let bytes = |count: &usize| *count as u64 * listed.class.job_bytes;
        if counts
            .iter()
            .zip(left.iter())
            .any(|(count, left)| bytes(count) > *left)
        {
            return false;
        }
        for (count, left) in counts.iter().zip(left) {
            *left -= bytes(count);
        }
        true
    }

    fn put_back(&self, class: usize, row: usize, left: &mut [u64]) {
        let listed = &self.listed[class];
        for (count, left) in listed.rows[row].counts.iter().zip(left) {
            *left += *count as u64 * listed.class.job_bytes;
        }
    }

    /// A combination that fits; what memory is left over costs its price.
    fn arrive(&mut self, reduced: f64, left: &[u64]) {
        let unused = self.prices.iter().zip(left);
        let unused: f64 = unused.map(|(price, left)| price * *left as f64).sum();
        if reduced + unused < self.gap {
            self.gap = reduced + unused;
            self.best = Some(self.chosen.clone());
        }
    }
}

/// Lists the counts of a class.
struct Rows<'a> {
    class: &'a Class,
    prices: &'a [f64],
    /// The least charges of the devices from one on, by jobs: `[device][jobs]`.
    rest: Vec<Vec<f64>>,
    limit: f64,
    counts: Vec<usize>,
    rows: Vec<Row>,
    effort: &'a mut Effort,
}

impl<'a> Rows<'a> {
    /// All counts with a reduced cost below the gap, the cheapest first.
    fn list(class: &'a Class, prices: &'a [f64], gap: f64, effort: &'a mut Effort) -> Vec<Row> {
        let model = &class.model;
        let question = Question {
            bounds: &class.bounds,
            prices,
            cutoff: f64::INFINITY,
            hint: None,
            workers: Workers::Any,
        };
        let Some(best) = model.solve(&question, effort) else {
            return Vec::new();
        };
        let devices = prices.len();
        let mut listing = Self {
            class,
            prices,
            rest: vec![vec![f64::INFINITY; model.job_count + 1]; devices + 1],
            limit: best.at_least + gap,
            counts: vec![0; devices],
            rows: Vec::new(),
            effort,
        };
        listing.fill_rest();
        listing.descend(0, model.job_count, 0.0);
        let mut rows = listing.rows;
        for row in &mut rows {
            row.reduced = (row.seconds - best.at_least).max(0.0);
        }
        rows.sort_by(|a, b| a.reduced.total_cmp(&b.reduced));
        rows
    }

    fn charge(&self, device: usize, count: usize) -> f64 {
        self.class.model.moving_seconds(device, count) + self.prices[device] * count as f64
    }

    fn fill_rest(&mut self) {
        let devices = self.prices.len();
        self.rest[devices][0] = 0.0;
        for device in (0..devices).rev() {
            let (least, most) = (
                self.class.bounds.least[device],
                self.class.bounds.most[device],
            );
            for count in least..=most {
                let charge = self.charge(device, count);
                for jobs in count..=self.class.model.job_count {
                    let sum = charge + self.rest[device + 1][jobs - count];
                    if sum < self.rest[device][jobs] {
                        self.rest[device][jobs] = sum;
                    }
                }
            }
            let cells = (most + 1 - least.min(most)) * (self.class.model.job_count + 1);
            self.effort.spend(cells);
        }
    }

    /// Counts of the devices from one on. The time of those before is what it is with the workers so
    /// far, and more workers only add to it.
    fn descend(&mut self, device: usize, open: usize, charge: f64) {
        self.effort.spend(4 + device);
        if self.effort.is_spent() {
            return;
        }
        let time = self.time_so_far(device);
        if time + charge + self.rest[device][open] >= self.limit {
            return;
        }
        if device == self.prices.len() {
            self.rows.push(Row {
                counts: self.counts.clone(),
                reduced: 0.0,
                seconds: time + charge,
            });
            return;
        }
        let (least, most) = (
            self.class.bounds.least[device],
            self.class.bounds.most[device],
        );
        for count in least..=most.min(open) {
            self.counts[device] = count;
            let more = self.charge(device, count);
            self.descend(device + 1, open - count, charge + more);
        }
        self.counts[device] = 0;
    }

    fn time_so_far(&self, devices: usize) -> f64 {
        let lanes = &self.class.model.lanes;
        let busy = || (0..devices).filter(|index| self.counts[*index] > 0);
        let workers = busy().filter(|index| *index > 0).count();
        let end = |index| {
            let overhead = overhead_seconds(lanes, index, workers);
            overhead + self.counts[index] as f64 * lanes[index].job_seconds
        };
        busy().map(end).fold(0.0, f64::max)
    }
}
