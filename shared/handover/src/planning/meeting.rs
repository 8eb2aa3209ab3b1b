//! A split of its own for each user: prefill goes up from the first token, the transfer holds the
//! rest, and both are done by the same delay D after τ. The least D is found by bisection.
//!
//! For a given D users are taken in the order of leaving, as their deadlines τ + D are. Each prefills
//! as much as it can by its deadline, so that it asks the less of the link that all share; but where
//! prefills keep each other from running, not so much that the target were busy with it longer than
//! the link.

use super::plan::{Plan, PlanError, Prefilled, arrival_s, realise, reserve};
use super::prefill::{PrefillModel, PrefillWork};
use super::scenario::Scenario;
use super::search::last_true;
use super::strategy::Strategy;
use super::timeline::{Job, Timeline};
use super::work::{Begin, Work};

/// D is known to this share of itself.
const PRECISION: f64 = 2e-4;
/// Or to this: less is not felt.
const PRECISION_S: f64 = 1e-6;
/// Bisections: a range of 2^40 precisions is the largest.
const STEPS_MAX: usize = 40;

/// The plan.
pub(crate) fn plan(
    scenario: &Scenario,
    strategy: Strategy,
    begin: Begin,
) -> Result<Plan, PlanError> {
    let planner = Planner::new(scenario, begin);
    let prefilled = planner.best();
    realise(scenario, strategy, &planner.works, &prefilled)
}

/// What comes of a split that somebody else has made, in the scenario's order.
pub(crate) fn carry_out(
    scenario: &Scenario,
    (strategy, begin): (Strategy, Begin),
    lens: &[u32],
) -> Result<Plan, PlanError> {
    let planner = Planner::new(scenario, begin);
    let mut order = scenario.by_leaving().iter();
    let split = planner.with(|_| order.next().map_or(0, |user| lens[*user]));
    realise(scenario, strategy, &planner.works, &split.prefilled)
}

struct Planner<'a> {
    scenario: &'a Scenario,
    works: Vec<Work>,
}

/// A split for everybody and what it costs the worst.
struct Split {
    prefilled: Vec<Prefilled>,
    worst_delay_s: f64,
}

/// What is left of both machines: the target's time in seconds, the link's in bits since time 0.
struct Machines {
    target: Timeline,
    link: Timeline,
}

impl<'a> Planner<'a> {
    fn new(scenario: &'a Scenario, begin: Begin) -> Self {
        let works = Work::of_all(scenario, begin);
        Self { scenario, works }
    }

    fn best(&self) -> Vec<Prefilled> {
        let mut best = self.with(|work| work.context_len);
        let nothing = self.with(|_| 0);
        if nothing.worst_delay_s < best.worst_delay_s {
            best = nothing;
        }
        // Without a deadline both machines are just kept as busy as each other.
        if let Some(split) = self.within(f64::INFINITY, &best)
            && split.worst_delay_s < best.worst_delay_s
        {
            best = split;
        }
        let mut too_short_s = 0.0;
        // Where prefills share one machine that is often the best already.
        let probe_s = (1.0 - PRECISION) * best.worst_delay_s;
        match self.within(probe_s, &best) {
            Some(split) => best = split,
            None => too_short_s = probe_s,
        }
        for _ in 0..STEPS_MAX {
            let span_s = best.worst_delay_s - too_short_s;
            if span_s <= PRECISION_S.max(PRECISION * best.worst_delay_s) {
                break;
            }
            let middle_s = too_short_s + span_s / 2.0;
            match self.within(middle_s, &best) {
                Some(split) => best = split,
                None => too_short_s = middle_s,
            }
        }
        best.prefilled
    }

    /// Of a length for each user.
    fn with(&self, mut len: impl FnMut(&Work) -> u32) -> Split {
        let mut machines = Machines::free();
        let mut prefilled = Vec::with_capacity(self.works.len());
        let mut worst_delay_s = 0.0_f64;
        for work in &self.works {
            let (done, delay_s) = self.take(&mut machines, work, len(work));
            prefilled.push(done);
            worst_delay_s = worst_delay_s.max(delay_s);
        }
        Split {
            prefilled,
            worst_delay_s,
        }
    }

    /// Everybody can go on by τ + `delay_s`, if that is found possible; from a split that is near.
    fn within(&self, delay_s: f64, near: &Split) -> Option<Split> {
        let mut machines = Machines::free();
        let mut prefilled = Vec::with_capacity(self.works.len());
        let mut worst_delay_s = 0.0_f64;
        for (work, near) in self.works.iter().zip(&near.prefilled) {
            let deadline_s = work.leaves_at_s + delay_s;
            let len = self.choose((&machines, near.len), work, deadline_s);
            let (done, takes_s) = self.take(&mut machines, work, len);
            if takes_s > delay_s {
                return None;
            }
            prefilled.push(done);
            worst_delay_s = worst_delay_s.max(takes_s);
        }
        Some(Split {
            prefilled,
            worst_delay_s,
        })
    }

    /// How many tokens of a user to prefill.
    fn choose(&self, (machines, hint): (&Machines, u32), work: &Work, deadline_s: f64) -> u32 {
        let costs = self.scenario.costs();
        let in_time = |len| machines.prefill(&costs.prefill, work, len).done_s <= deadline_s;
        let most = last_true(0..=work.context_len, hint, in_time);
        if costs.prefill.runs_side_by_side() || most == 0 {
            return most;
        }
        // Of what could be sent at once; what is decoded later keeps neither machine busy.
        let link_is_longer = |len| {
            let at_once = work.parts().take(1);
            let link_s = arrival_s(costs, &machines.link, at_once, len);
            let link_s = link_s.unwrap_or(work.begins_at_s);
            machines.prefill(&costs.prefill, work, len).busy_until_s <= link_s
        };
        let balanced = last_true(0..=most, hint, link_is_longer);
        let is_late = |len| {
            let arrives_s = arrival_s(costs, &machines.link, work.parts(), len);
            arrives_s.is_some_and(|arrives_s| arrives_s > deadline_s)
        };
        if !is_late(balanced) {
            return balanced;
        }
        // The least that lets the rest arrive in time.
        let too_little = last_true(balanced..=most, hint, is_late);
        too_little.saturating_add(1).min(most)
    }

    /// Takes what a user needs; its delay.
    fn take(&self, machines: &mut Machines, work: &Work, len: u32) -> (Prefilled, f64) {
        let costs = self.scenario.costs();
        let arrives_s = arrival_s(costs, &machines.link, work.parts(), len);
        reserve(costs, &mut machines.link, work, len);
        let at_s = machines.prefill(&costs.prefill, work, len).done_s;
        for job in jobs(&costs.prefill, work, len) {
            machines.target.reserve(job, |_, _| ());
        }
        let ready_s = arrives_s.map_or(at_s, |arrives_s| arrives_s.max(at_s));
        let delay_s = (ready_s - work.leaves_at_s).max(0.0);
        (Prefilled { len, at_s }, delay_s)
    }
}

/// How one user's prefill would go.
struct Prefill {
    /// Until when it keeps the others from running.
    busy_until_s: f64,
    /// When it is done.
    done_s: f64,
}

impl Machines {
    fn free() -> Self {
        Self {
            target: Timeline::free(),
            link: Timeline::free(),
        }
    }

    /// A user's first tokens: those known when work begins, and after it has left the others.
    fn prefill(&self, model: &PrefillModel, work: &Work, len: u32) -> Prefill {
        let [known, later] = jobs(model, work, len);
        let side_s = |len| model.side_seconds(PrefillWork::of_one(len, work.past_len));
        let known_side_s = side_s(len.min(work.known_len));
        let busy_until_s = self.target.finish(known);
        let done_s = busy_until_s + known_side_s;
        if len <= work.known_len {
            return Prefill {
                busy_until_s,
                done_s,
            };
        }
        let release = later.release.max(busy_until_s);
        let busy_until_s = self.target.finish(Job { release, ..later });
        Prefill {
            busy_until_s,
            done_s: busy_until_s.max(done_s) + (side_s(len) - known_side_s),
        }
    }
}

/// What a user's first tokens ask of the target: those known when work begins, and later the others.
fn jobs(model: &PrefillModel, work: &Work, len: u32) -> [Job; 2] {
    let seconds = |len| model.exclusive_seconds(PrefillWork::of_one(len, work.past_len));
    let (known_s, all_s) = (seconds(len.min(work.known_len)), seconds(len));
    let known = Job {
        release: work.begins_at_s,
        amount: known_s,
    };
    let later = Job {
        release: work.leaves_at_s,
        amount: all_s - known_s,
    };
    [known, later]
}
