//! The best counts of one stage.
//!
//! For k workers and a limit T on the time, device j takes at most cap_j(T, k) jobs. Without the rule
//! that at most k workers may be used, the cheapest counts below the caps come from filling in the
//! order of marginal charges, which is exact because charges are convex; that is a lower bound g(T, k).
//! T + g(T, k) is what has to be minimised, g falls with T, and T only needs the values at which a cap
//! changes. So ranges of T are halved and dropped when their least T plus their least g is no better
//! than what is known. Where the bound uses more than k workers and is still better, a dynamic
//! programme over devices, jobs and workers decides.

use super::effort::Effort;
use super::programme::cheapest;
use super::stage::{Bounds, Messages, Question, Solution, StageModel, TOLERANCE, Workers};
use crate::delay::overhead_seconds;

/// What a call costs however few devices there are.
const CALL: usize = 16;
/// Times that are tried where a good answer is enough.
const SAMPLES: usize = 24;
/// What sorting costs for each time.
const SORTING: usize = 8;
/// A dynamic programme is for where this many are affordable.
const PROGRAMMES: usize = 50;
/// Workers more or fewer than a hint's that are near it.
const NEAR: usize = 2;
/// Halvings of an interval of times; more than a double has bits.
const HALVINGS_MAX: usize = 60;

/// Jobs of one device with the same marginal charge.
struct Segment {
    device: usize,
    end: usize,
    job_charge: f64,
}

pub(super) struct Solver<'a> {
    model: &'a StageModel,
    bounds: &'a Bounds,
    prices: &'a [f64],
    /// By marginal charge.
    segments: Vec<Segment>,
    /// Charges of the least counts.
    base: f64,
    /// Charges when time does not matter.
    free: f64,
    cutoff: f64,
    best: Option<(f64, Vec<usize>)>,
    /// The least bound of what was left out for lack of effort.
    skipped: f64,
    /// Whether a good answer is enough.
    is_quick: bool,
    /// o_j(k) for the k at hand.
    overheads: Vec<f64>,
    /// Devices that end a job before the limit for the k at hand, and those that must.
    active: Vec<usize>,
    /// The caps that were last taken, and how many workers have each cap.
    caps: Vec<usize>,
    by_cap: Vec<usize>,
    /// Jobs above the least counts.
    open_jobs: usize,
    /// Counts at hand, kept for their place in memory.
    row: Vec<usize>,
    effort: &'a mut Effort,
}

impl<'a> Solver<'a> {
    pub(super) fn new(
        model: &'a StageModel,
        question: &Question<'a>,
        effort: &'a mut Effort,
    ) -> Self {
        let Question {
            bounds,
            prices,
            cutoff,
            ..
        } = *question;
        effort.spend(CALL + 8 * prices.len());
        let mut solver = Self {
            model,
            bounds,
            prices,
            segments: Vec::with_capacity(2 * prices.len()),
            base: 0.0,
            free: 0.0,
            cutoff,
            best: None,
            skipped: f64::INFINITY,
            is_quick: question.workers == Workers::NearHint,
            overheads: Vec::new(),
            active: Vec::new(),
            caps: vec![0; prices.len()],
            by_cap: vec![0; model.job_count + 1],
            open_jobs: model.job_count - bounds.least.iter().sum::<usize>(),
            row: Vec::new(),
            effort,
        };
        for device in 0..prices.len() {
            solver.add_segments(device);
        }
        let lanes = &model.lanes;
        solver.segments.sort_by(|a, b| {
            let by_charge = a.job_charge.total_cmp(&b.job_charge);
            let by_speed = lanes[a.device].job_seconds;
            let by_speed = by_speed.total_cmp(&lanes[b.device].job_seconds);
            by_charge.then(by_speed)
        });
        let mut row = Vec::with_capacity(prices.len());
        solver.free = solver.fill(&bounds.most, &mut row);
        solver.row = row;
        solver
    }

    fn charge(&self, device: usize, count: usize) -> f64 {
        self.model.moving_seconds(device, count) + self.prices[device] * count as f64
    }

    fn add_segments(&mut self, device: usize) {
        let (least, most) = (self.bounds.least[device], self.bounds.most[device]);
        self.base += self.charge(device, least);
        let price = self.prices[device];
        let (staying, arriving) = match &self.model.moving {
            Some((seconds, before)) => {
                let end = before[device].min(most);
                let staying = (end > least).then_some((end, price - seconds.leave[device]));
                (staying, price + seconds.arrive[device])
            }
            None => (None, price),
        };
        let arriving = (most > staying.map_or(least, |it| it.0)).then_some((most, arriving));
        for (end, job_charge) in [staying, arriving].into_iter().flatten() {
            self.segments.push(Segment {
                device,
                end,
                job_charge,
            });
        }
    }

    /// Makes `row` the cheapest counts below caps, however many workers they use; their charges,
    /// infinite if the caps leave jobs over.
    fn fill(&self, caps: &[usize], row: &mut Vec<usize>) -> f64 {
        row.clone_from(&self.bounds.least);
        let mut open = self.open_jobs;
        let mut charge = self.base;
        for segment in &self.segments {
            if open == 0 {
                break;
            }
            let count = &mut row[segment.device];
            let end = segment.end.min(caps[segment.device]);
            let taken = open.min(end.saturating_sub(*count));
            *count += taken;
            open -= taken;
            charge += taken as f64 * segment.job_charge;
        }
        match open {
            0 => charge,
            _ => f64::INFINITY,
        }
    }

    /// What has to be beaten.
    fn bar(&self) -> f64 {
        let best = self.best.as_ref().map_or(self.cutoff, |best| best.0);
        match best.is_finite() {
            true => best - TOLERANCE * best.abs(),
            // Infinity less a share of it is no number.
            false => best,
        }
    }

    fn offer(&mut self, row: &[usize]) {
        let charges = (0..row.len()).map(|device| self.charge(device, row[device]));
        let seconds = self.model.time(row) + charges.sum::<f64>();
        if seconds < self.best.as_ref().map_or(self.cutoff, |best| best.0) {
            self.best = Some((seconds, row.to_vec()));
        }
    }

    /// The best that was found.
    pub(super) fn solution(self) -> Option<Solution> {
        let (seconds, row) = self.best?;
        Some(Solution {
            row,
            seconds,
            at_least: seconds.min(self.skipped),
        })
    }

    /// Looks for the best.
    pub(super) fn run(&mut self, question: &Question) {
        if let Some(hint) = question.hint {
            self.offer_hint(hint);
        }
        if let Some((_, before)) = &self.model.moving {
            self.offer_hint(before);
        }
        let workers_max = self.model.lanes.len() - 1;
        let most = workers_max.min(self.model.job_count);
        let forced = self.bounds.least.iter().skip(1);
        let forced = forced.filter(|least| **least > 0).count();
        let (least, most) = match (self.model.messages, question.workers, question.hint) {
            (Messages::None, ..) => (most, most),
            (Messages::ByWorker, Workers::NearHint, Some(hint)) => {
                let near = workers(hint);
                let least = near.saturating_sub(NEAR).max(forced);
                (least, (near + NEAR).min(most).max(least))
            }
            (Messages::ByWorker, ..) => (forced, most),
        };
        for worker_count in least..=most {
            self.explore(worker_count);
        }
    }

    /// Starts from counts that are good already, if they are within bounds.
    fn offer_hint(&mut self, before: &[usize]) {
        let within = |(index, count): (usize, &usize)| {
            (self.bounds.least[index]..=self.bounds.most[index]).contains(count)
        };
        let is_whole = before.iter().sum::<usize>() == self.model.job_count;
        if is_whole && before.iter().enumerate().all(within) {
            self.offer(before);
        }
    }

    fn finish(&self, device: usize, count: usize) -> f64 {
        self.overheads[device] + count as f64 * self.model.lanes[device].job_seconds
    }

    /// The most jobs that a device ends by a time, at least none.
    fn cap(&self, device: usize, seconds: f64) -> usize {
        let most = self.bounds.most[device];
        if most == 0 || self.finish(device, 1) > seconds {
            return 0;
        }
        if self.finish(device, most) <= seconds {
            return most;
        }
        let job_seconds = self.model.lanes[device].job_seconds;
        let quotient = (seconds - self.overheads[device]) / job_seconds;
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            reason = "clamped to 1..=most"
        )]
        let mut count = (quotient as usize).clamp(1, most);
        while count > 1 && self.finish(device, count) > seconds {
            count -= 1;
        }
        while count < most && self.finish(device, count + 1) <= seconds {
            count += 1;
        }
        count
    }

    /// Takes the caps at a time; says whether the best `worker_count` workers and the leader reach all
    /// jobs by then.
    fn reaches(&mut self, worker_count: usize, seconds: f64) -> bool {
        self.effort.spend(CALL + self.active.len());
        self.by_cap.fill(0);
        let (mut reach, mut open) = (0, worker_count);
        let mut is_enough = true;
        for at in 0..self.active.len() {
            let index = self.active[at];
            let cap = self.cap(index, seconds);
            self.caps[index] = cap;
            let least = self.bounds.least[index];
            is_enough &= cap >= least;
            match (index, least) {
                (1.., 0) => self.by_cap[cap] += 1,
                (0, _) => reach += cap,
                (1.., 1..) => {
                    reach += cap;
                    open = open.saturating_sub(1);
                }
            }
        }
        if !is_enough {
            return false;
        }
        let jobs = self.model.job_count;
        for cap in (1..=jobs).rev() {
            let taken = open.min(self.by_cap[cap]);
            reach += taken * cap;
            open -= taken;
            if reach >= jobs || open == 0 {
                break;
            }
        }
        reach >= jobs
    }

    fn explore(&mut self, worker_count: usize) {
        if self.effort.is_spent() && self.best.is_some() {
            self.skipped = self.skipped.min(self.free);
            return;
        }
        let devices = self.prices.len();
        self.overheads.clear();
        let overhead = |index| match self.model.messages {
            Messages::ByWorker => overhead_seconds(&self.model.lanes, index, worker_count),
            Messages::None => 0.0,
        };
        self.overheads.extend((0..devices).map(overhead));
        let longest = (0..devices).map(|index| self.finish(index, self.bounds.most[index]));
        let limit = longest.fold(0.0, f64::max).min(self.bar() - self.free);
        if limit < 0.0 {
            return;
        }
        let mut active = std::mem::take(&mut self.active);
        active.clear();
        active.extend((0..devices).filter(|index| {
            let least = self.bounds.least[*index];
            *index == 0 || least > 0 || self.finish(*index, 1) <= limit
        }));
        self.active = active;
        self.caps.fill(0);
        if !self.reaches(worker_count, limit) {
            return;
        }
        let shortest = self.shortest(worker_count, limit);
        let times = self.times(shortest, limit);
        self.explore_times(worker_count, &times);
    }

    /// The least time by which all jobs are done by at most so many workers. Caps change at ends of jobs
    /// only, so both sides of the search go from end to end.
    fn shortest(&mut self, worker_count: usize, limit: f64) -> f64 {
        if self.reaches(worker_count, 0.0) {
            return 0.0;
        }
        let mut below = self.next_end();
        self.reaches(worker_count, limit);
        let mut above = self.last_end().min(limit);
        for _ in 0..HALVINGS_MAX {
            if below >= above {
                break;
            }
            let middle = f64::midpoint(below, above);
            if self.reaches(worker_count, middle) {
                above = self.last_end().min(middle);
            } else {
                below = self.next_end();
            }
        }
        above
    }

    /// The last end of what the caps allow.
    fn last_end(&self) -> f64 {
        let active = self.active.iter().map(|index| (*index, self.caps[*index]));
        let busy = active.filter(|(_, cap)| *cap > 0);
        let ends = busy.map(|(index, cap)| self.finish(index, cap));
        ends.fold(0.0, f64::max)
    }

    /// The first end of what the caps do not allow.
    fn next_end(&self) -> f64 {
        let active = self.active.iter().map(|index| (*index, self.caps[*index]));
        let more = active.filter(|(index, cap)| *cap < self.bounds.most[*index]);
        let ends = more.map(|(index, cap)| self.finish(index, cap + 1));
        ends.fold(f64::INFINITY, f64::min)
    }

    /// The times from `shortest` to `limit` at which a cap changes, in order. If charges cannot fall
    /// with time, only the first.
    fn times(&mut self, shortest: f64, limit: f64) -> Vec<f64> {
        let mut times = vec![shortest];
        let caps: Vec<_> = (0..self.prices.len())
            .map(|index| self.cap(index, shortest))
            .collect();
        let mut row = std::mem::take(&mut self.row);
        let charge = self.fill(&caps, &mut row);
        self.row = row;
        if charge <= self.free {
            return times;
        }
        for (index, cap) in caps.iter().enumerate() {
            for count in cap + 1..=self.bounds.most[index] {
                let time = self.finish(index, count);
                if time > limit {
                    break;
                }
                times.push(time);
            }
        }
        if self.is_quick || self.effort.is_spent() {
            self.skipped = self.skipped.min(shortest + self.free);
            let every = times.len().div_ceil(SAMPLES);
            times = times.into_iter().step_by(every).collect();
        }
        self.effort.spend(SORTING * times.len());
        times.sort_by(f64::total_cmp);
        times.dedup();
        times
    }

    fn explore_times(&mut self, worker_count: usize, times: &[f64]) {
        let (Some(first), Some(last)) = (times.first(), times.last()) else {
            return;
        };
        if first + self.free >= self.bar() {
            return;
        }
        if self.effort.is_spent() {
            self.skipped = self.skipped.min(first + self.free);
            // A whole answer is better than none.
            if self.best.is_some() {
                return;
            }
        }
        if !self.reaches(worker_count, *last) {
            return;
        }
        let mut row = std::mem::take(&mut self.row);
        let charge = self.fill(&self.caps, &mut row);
        self.effort.spend(self.segments.len());
        let is_open = first + charge < self.bar();
        let is_allowed = workers(&row) <= worker_count || self.model.messages == Messages::None;
        if is_open && is_allowed {
            self.offer(&row);
        }
        self.row = row;
        if !is_open {
            return;
        }
        match times {
            [_] if is_allowed => {}
            [time] => {
                let caps = self.caps.clone();
                self.decide(worker_count, *time, &caps);
            }
            _ => {
                let (lower, upper) = times.split_at(times.len() / 2);
                self.explore_times(worker_count, lower);
                self.explore_times(worker_count, upper);
            }
        }
    }

    /// One time, with the rule on workers.
    fn decide(&mut self, worker_count: usize, time: f64, caps: &[usize]) {
        let mut row = std::mem::take(&mut self.row);
        let bound = time + self.fill(caps, &mut row);
        let widest = self.widest(worker_count, caps);
        if self.fill(&widest, &mut row).is_finite() {
            self.offer(&row);
        }
        self.row = row;
        if bound >= self.bar() {
            return;
        }
        let states = caps.len() * (worker_count + 1) * (self.model.job_count + 1);
        if !self.effort.affords(states * PROGRAMMES) {
            self.skipped = self.skipped.min(bound);
            return;
        }
        self.effort.spend(states);
        let charge = |device, count| self.charge(device, count);
        let jobs = (&self.bounds.least[..], caps, self.model.job_count);
        if let Some(row) = cheapest(jobs, worker_count, charge) {
            self.offer(&row);
        }
    }

    /// The caps of the leader, of workers with least counts and of the others that take most.
    fn widest(&self, worker_count: usize, caps: &[usize]) -> Vec<usize> {
        let least = &self.bounds.least;
        let mut kept = vec![0; caps.len()];
        kept[0] = caps[0];
        let mut others: Vec<_> = (1..caps.len()).collect();
        others.sort_by_key(|index| std::cmp::Reverse((least[*index] > 0, caps[*index])));
        for index in others.into_iter().take(worker_count) {
            kept[index] = caps[index];
        }
        kept
    }
}

fn workers(row: &[usize]) -> usize {
    row.iter().skip(1).filter(|count| **count > 0).count()
}
