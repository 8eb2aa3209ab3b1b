//! Stages that share memory: prices for memory, then every combination that the prices leave open.
//!
//! With a price λ_j ≥ 0 for a byte of device j, the sum of the stages' own optima minus Σ λ_j·M_j is
//! below every placement that fits (Lagrange). Prices are raised where too much is used and lowered
//! where less is, as long as the bound grows; on the way placements that fit are made ([`super::filling`]). What
//! the best of them is above the bound is the gap that `enumeration` has to close.

use std::rc::Rc;

use super::effort::Effort;
use super::enumeration::{Class, Enumeration};
use super::stage::{Bounds, Messages, Question, StageModel, TOLERANCE, Workers};
use crate::delay::lanes;
use crate::instance::Instance;
use crate::memory::memory_bytes;
use crate::migration::MoveSeconds;
use crate::placement::Counts;
use crate::planner::{Plan, PlanError, Proof};
use crate::workload::{Dataflow, Stage};

/// Changes of prices.
const ROUNDS_MAX: usize = 60;

/// Best placement, in our dataflow.
pub(super) fn plan(instance: &Instance, effort: Effort) -> Result<Plan, PlanError> {
    let mut search = Search::new(instance, effort);
    search.run();
    let proof = search.proof();
    match search.best {
        Some((_, counts)) => Plan::with_dataflow(instance, counts, Dataflow::Star, proof),
        None if search.skipped.is_finite() => Err(PlanError::NotFound),
        None => Err(PlanError::Fragmented),
    }
}

/// What moving costs each remaining token, and the counts before.
pub(super) fn moving(instance: &Instance, stage: usize) -> Option<(MoveSeconds, Vec<usize>)> {
    let before = instance.previous_counts()?.rows()[stage].clone();
    let mut seconds = MoveSeconds::new(instance, &instance.workload().stages[stage].job);
    let remaining = instance.remaining_len() as f64;
    for cost in seconds.leave.iter_mut().chain(&mut seconds.arrive) {
        *cost /= remaining;
    }
    Some((seconds, before))
}

/// How many jobs of a stage fit into so much memory.
pub(super) fn jobs_in(memory_bytes: u64, stage: &Stage) -> usize {
    match memory_bytes.checked_div(stage.job.memory_bytes()) {
        Some(count) => usize::try_from(count).map_or(stage.job_count, |it| it.min(stage.job_count)),
        None => stage.job_count,
    }
}

pub(super) struct Search<'a> {
    pub(super) instance: &'a Instance,
    /// One for each stage; equal stages share one.
    pub(super) models: Vec<Rc<StageModel>>,
    /// Bytes for jobs, by device.
    pub(super) memory: Vec<u64>,
    leader_seconds: f64,
    pub(super) effort: Effort,
    pub(super) best: Option<(f64, Counts)>,
    /// The least bound of what was left out for lack of effort.
    skipped: f64,
}

/// The best prices so far and the bound that they gave.
struct Priced {
    prices: Vec<f64>,
    at_least: f64,
}

/// All stages solved at some prices.
struct Solved {
    at_least: f64,
    counts: Counts,
}

impl<'a> Search<'a> {
    fn new(instance: &'a Instance, effort: Effort) -> Self {
        let devices = instance.devices();
        let workload = instance.workload();
        let mut models: Vec<Rc<StageModel>> = Vec::with_capacity(workload.stages.len());
        for (index, stage) in workload.stages.iter().enumerate() {
            let twin = (0..index).rev().take(TWINS_MAX).find(|other| {
                let same = Stage {
                    layer: stage.layer,
                    ..workload.stages[*other]
                } == *stage;
                let rows = instance.previous_counts().map(Counts::rows);
                same && rows.is_none_or(|rows| rows[*other] == rows[index])
            });
            models.push(match twin {
                Some(twin) => Rc::clone(&models[twin]),
                None => Rc::new(StageModel {
                    lanes: lanes(devices, stage),
                    job_count: stage.job_count,
                    moving: moving(instance, index),
                    messages: Messages::ByWorker,
                }),
            });
        }
        Self {
            instance,
            models,
            memory: (0..devices.len())
                .map(|it| instance.memory_for_jobs(it))
                .collect(),
            leader_seconds: workload.leader_flops / devices[0].flops_per_second,
            effort,
            best: None,
            skipped: f64::INFINITY,
        }
    }

    fn proof(&self) -> Proof {
        let best = self.best.as_ref().map_or(f64::INFINITY, |best| best.0);
        match self.skipped < best * (1.0 - TOLERANCE) {
            true => Proof::AtLeast(self.skipped),
            false => Proof::Optimal,
        }
    }

    pub(super) fn stages(&self) -> &'a [Stage] {
        &self.instance.workload().stages
    }

    fn run(&mut self) {
        let bounds = self.root_bounds();
        let free = vec![0.0; self.memory.len()];
        let Some(solved) = self.solve(&bounds, &free, None) else {
            return;
        };
        if self.offer(&solved.counts) {
            self.skipped = solved.at_least;
            return;
        }
        let mut priced = Priced {
            prices: free,
            at_least: solved.at_least,
        };
        if self.instance.placement_count() > ENUMERATED_MAX {
            self.fill_all(&bounds, &priced.prices);
            priced = self.raise(&bounds, solved);
        }
        if !self.is_open(priced.at_least) {
            return;
        }
        // To list what is left to try is effort too.
        match self.effort.is_spent() {
            true => self.skipped = priced.at_least,
            false => self.enumerate(&bounds, &priced),
        }
    }

    /// Whether something this good would be new.
    fn is_open(&self, at_least: f64) -> bool {
        let best = self.best.as_ref().map_or(f64::INFINITY, |best| best.0);
        at_least < best * (1.0 - TOLERANCE)
    }

    fn root_bounds(&self) -> Vec<Rc<Bounds>> {
        let mut all: Vec<Rc<Bounds>> = Vec::with_capacity(self.models.len());
        for (index, stage) in self.stages().iter().enumerate() {
            let twin = (0..index).rev().take(TWINS_MAX);
            let mut twin =
                twin.filter(|other| Rc::ptr_eq(&self.models[*other], &self.models[index]));
            let bounds = twin.next().map_or_else(
                || {
                    let most = self.memory.iter().map(|memory| jobs_in(*memory, stage));
                    Rc::new(Bounds {
                        least: vec![0; self.memory.len()],
                        most: most.collect(),
                    })
                },
                |twin| Rc::clone(&all[twin]),
            );
            all.push(bounds);
        }
        all
    }

    /// Every stage by itself at these prices; nothing if a stage has no counts within its bounds.
    fn solve(
        &mut self,
        bounds: &[Rc<Bounds>],
        prices: &[f64],
        hint: Option<&Counts>,
    ) -> Option<Solved> {
        let paid = prices.iter().zip(&self.memory);
        let paid: f64 = paid.map(|(price, memory)| price * *memory as f64).sum();
        let mut at_least = self.leader_seconds - paid;
        let mut solved: Vec<(usize, Vec<usize>, f64)> = Vec::with_capacity(bounds.len());
        for index in 0..bounds.len() {
            let twin = solved.iter().rev().take(TWINS_MAX).find(|(other, ..)| {
                Rc::ptr_eq(&self.models[*other], &self.models[index])
                    && Rc::ptr_eq(&bounds[*other], &bounds[index])
            });
            let (row, bound) = match twin {
                Some((_, row, bound)) => (row.clone(), *bound),
                None => {
                    let job_bytes = self.stages()[index].job.memory_bytes() as f64;
                    let prices: Vec<_> = prices.iter().map(|price| price * job_bytes).collect();
                    let question = Question {
                        bounds: &bounds[index],
                        prices: &prices,
                        cutoff: f64::INFINITY,
                        hint: hint.map(|counts| counts.rows()[index].as_slice()),
                        workers: Workers::Any,
                    };
                    let found = self.models[index].solve(&question, &mut self.effort)?;
                    (found.row, found.at_least)
                }
            };
            at_least += bound;
            solved.push((index, row, bound));
        }
        let counts = Counts::new(solved.into_iter().map(|(_, row, _)| row).collect());
        Some(Solved { at_least, counts })
    }

    fn objective(&self, counts: &Counts) -> f64 {
        let rows = self.models.iter().zip(counts.rows());
        self.leader_seconds + rows.map(|(model, row)| model.seconds(row)).sum::<f64>()
    }

    /// Keeps the counts if they fit and are better; says whether they fit.
    pub(super) fn offer(&mut self, counts: &Counts) -> bool {
        let used = memory_bytes(self.instance, counts);
        let fits = used
            .iter()
            .zip(&self.memory)
            .all(|(used, memory)| used <= memory);
        if fits {
            let seconds = self.objective(counts);
            if self.best.as_ref().is_none_or(|best| seconds < best.0) {
                self.best = Some((seconds, counts.clone()));
            }
        }
        fits
    }

    /// Raises the bound by better prices, offering what fits on the way.
    fn raise(&mut self, bounds: &[Rc<Bounds>], solved: Solved) -> Priced {
        let mut prices = vec![0.0; self.memory.len()];
        let mut best = Priced {
            prices: prices.clone(),
            at_least: solved.at_least,
        };
        let Solved {
            mut at_least,
            mut counts,
        } = solved;
        let mut share = 1.0;
        for round in 0..ROUNDS_MAX {
            let is_over = self.effort.is_spent() || !self.is_open(best.at_least);
            if is_over || !self.step(&mut prices, &counts, at_least, share) {
                break;
            }
            let Some(solved) = self.solve(bounds, &prices, Some(&counts)) else {
                break;
            };
            self.offer(&solved.counts);
            if round % FILL_EVERY == FILL_EVERY - 1 {
                self.fill_all(bounds, &prices);
            }
            (counts, at_least) = (solved.counts, solved.at_least);
            if at_least > best.at_least {
                best.at_least = at_least;
                best.prices.clone_from(&prices);
            } else {
                share *= 0.8;
            }
        }
        best
    }

    /// Closes the gap between the best placement and the bound, or notes the bound.
    fn enumerate(&mut self, bounds: &[Rc<Bounds>], priced: &Priced) {
        let mut classes: Vec<Class> = Vec::new();
        for (index, stage) in self.stages().iter().enumerate() {
            let model = &self.models[index];
            match classes
                .iter_mut()
                .find(|class| Rc::ptr_eq(&class.model, model))
            {
                Some(class) => class.stages.push(index),
                None => classes.push(Class {
                    model: Rc::clone(model),
                    bounds: Rc::clone(&bounds[index]),
                    job_bytes: stage.job.memory_bytes(),
                    stages: vec![index],
                }),
            }
        }
        let best = self.best.as_ref().map_or(f64::INFINITY, |best| best.0);
        let gap = (best - priced.at_least) - TOLERANCE * priced.at_least.abs();
        let enumeration = Enumeration::new(classes, &priced.prices, gap, &mut self.effort);
        let found = enumeration.run(&self.memory);
        if let Some(counts) = found {
            self.offer(&counts);
        }
        if self.effort.is_spent() {
            self.skipped = priced.at_least;
        }
    }

    /// A step along the excess of memory (Polyak's length); says whether prices changed.
    fn step(&self, prices: &mut [f64], counts: &Counts, at_least: f64, share: f64) -> bool {
        let used = memory_bytes(self.instance, counts);
        let excess = |index: usize| {
            let excess = used[index] as f64 - self.memory[index] as f64;
            if prices[index] <= 0.0 && excess < 0.0 {
                0.0
            } else {
                excess
            }
        };
        let excesses: Vec<_> = (0..used.len()).map(excess).collect();
        let square: f64 = excesses.iter().map(|excess| excess * excess).sum();
        if square <= 0.0 {
            return false;
        }
        let target = self.best.as_ref().map_or(at_least * 1.1, |best| best.0);
        let length = share * (target - at_least).max(0.0) / square;
        for (price, excess) in prices.iter_mut().zip(excesses) {
            *price = (*price + length * excess).max(0.0);
        }
        length > 0.0
    }
}

/// How far back a twin of a stage is looked for.
const TWINS_MAX: usize = 8;
/// Rounds between fillings.
const FILL_EVERY: usize = 8;
/// So few placements are enumerated without looking for prices.
const ENUMERATED_MAX: u64 = 20_000;
