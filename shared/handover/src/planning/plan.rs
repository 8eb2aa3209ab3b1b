//! A plan: what is prefilled and what is sent for each user, when, and when each can go on.

use thiserror::Error;

use super::link_rate::LinkRate;
use super::scenario::{Costs, Scenario};
use super::strategy::Strategy;
use super::timeline::{Job, Timeline};
use super::work::{Late, Work};

/// Most pieces of a schedule: a plan that sends for longer than that many changes of a link's rate says
/// nothing any more.
pub const PIECES_MAX: usize = 1 << 20;

/// Why there is no plan.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum PlanError {
    /// It takes too long for the link's changes of rate.
    #[error(
        "sending takes more than {PIECES_MAX} pieces: the link is too slow for what is to be sent"
    )]
    TooManyPieces,
}

/// r_i(t) over a stretch of time: the link is one user's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RatePiece {
    /// Index of the user in the scenario.
    pub user: usize,
    /// From then.
    pub starts_s: f64,
    /// Until then.
    pub ends_s: f64,
    /// At this rate.
    pub bits_per_s: f64,
}

impl RatePiece {
    /// What passes.
    pub fn bits(&self) -> f64 {
        (self.ends_s - self.starts_s) * self.bits_per_s
    }
}

/// What happens for one user.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct UserPlan {
    /// The target prefills tokens `[0, prefill_len)`; the source sends `[prefill_len, C)`.
    pub prefill_len: u32,
    /// When they are prefilled; τ if there are none, or they are before.
    pub prefilled_at_s: f64,
    /// When the last bit has arrived; τ if nothing is sent, or it has before.
    pub arrived_at_s: f64,
    /// D: from τ until the target can go on.
    pub delay_s: f64,
}

/// What is done for everybody.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    /// Who made it.
    pub strategy: Strategy,
    /// Of each user, in the scenario's order.
    pub users: Vec<UserPlan>,
    /// What the link does, in the order of time, one piece at a time.
    pub schedule: Vec<RatePiece>,
    /// The largest delay.
    pub worst_delay_s: f64,
    /// What the strategy's own formulas say of the largest delay. Of all but the published ones it is
    /// the same.
    pub believed_worst_delay_s: f64,
}

/// How many tokens are prefilled for each user in the order of leaving, and when they are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Prefilled {
    pub(crate) len: u32,
    pub(crate) at_s: f64,
}

/// A plan of what is prefilled when; what is not is sent, earliest deadline first. All deadlines are as
/// long after τ, so they have the order of leaving.
pub(crate) fn realise(
    scenario: &Scenario,
    strategy: Strategy,
    works: &[Work],
    prefilled: &[Prefilled],
) -> Result<Plan, PlanError> {
    let mut sender = Sender::new(scenario);
    let mut users = vec![UserPlan::default(); works.len()];
    for ((work, done), index) in works.iter().zip(prefilled).zip(scenario.by_leaving()) {
        let arrived_at_s = sender.send(*index, work, done.len)?;
        let tau = work.leaves_at_s;
        let done_at_s = if done.len > 0 { done.at_s } else { tau };
        users[*index] = UserPlan {
            prefill_len: done.len,
            prefilled_at_s: done_at_s.max(tau),
            arrived_at_s: arrived_at_s.max(tau),
            delay_s: (done_at_s.max(arrived_at_s) - tau).max(0.0),
        };
    }
    let worst_delay_s = users.iter().map(|user| user.delay_s).fold(0.0, f64::max);
    Ok(Plan {
        strategy,
        users,
        schedule: sender.finish(),
        worst_delay_s,
        believed_worst_delay_s: worst_delay_s,
    })
}

/// When the last bit arrives if the tokens of some parts from `from` on are sent in what is free of the
/// link, which counts in bits since time 0; nothing if there are none.
pub(crate) fn arrival_s(
    costs: &Costs,
    free: &Timeline,
    parts: impl Iterator<Item = Late>,
    from: u32,
) -> Option<f64> {
    let (mut from, mut sent_until) = (from, None);
    for part in parts {
        if part.end <= from {
            continue;
        }
        let there = costs.link.bits_until(part.there_at_s);
        let job = Job {
            release: sent_until.map_or(there, |until: f64| until.max(there)),
            amount: costs.kv.of_tokens(part.end - from),
        };
        sent_until = Some(free.finish(job));
        from = part.end;
    }
    sent_until.map(|bits| arrives_s(&costs.link, bits))
}

/// Takes what a user's tokens from `from` on need of what is free.
pub(crate) fn reserve(costs: &Costs, free: &mut Timeline, work: &Work, from: u32) {
    let mut from = from;
    for part in work.parts() {
        if part.end <= from {
            continue;
        }
        let job = Job {
            release: costs.link.bits_until(part.there_at_s),
            amount: costs.kv.of_tokens(part.end - from),
        };
        free.reserve(job, |_, _| ());
        from = part.end;
    }
}

fn arrives_s(link: &LinkRate, bits: f64) -> f64 {
    link.time_of(bits) + link.delay_s()
}

/// Lays down the schedule of a link.
struct Sender<'a> {
    scenario: &'a Scenario,
    free: Timeline,
    schedule: Vec<RatePiece>,
}

impl<'a> Sender<'a> {
    fn new(scenario: &'a Scenario) -> Self {
        Self {
            scenario,
            free: Timeline::free(),
            schedule: Vec::new(),
        }
    }

    /// Sends a user's tokens from a position on; when the last bit has arrived.
    fn send(&mut self, user: usize, work: &Work, from: u32) -> Result<f64, PlanError> {
        let costs = self.scenario.costs();
        let (mut from, mut arrived_at_s) = (from, work.leaves_at_s);
        let mut taken = Vec::new();
        for part in work.parts() {
            if part.end <= from {
                continue;
            }
            let job = Job {
                release: costs.link.bits_until(part.there_at_s),
                amount: costs.kv.of_tokens(part.end - from),
            };
            let ends = self.free.reserve(job, |start, end| taken.push(start..end));
            arrived_at_s = arrives_s(&costs.link, ends);
            from = part.end;
        }
        for stretch in taken
            .into_iter()
            .flat_map(|bits| costs.link.stretches(bits))
        {
            if self.schedule.len() >= PIECES_MAX {
                return Err(PlanError::TooManyPieces);
            }
            self.schedule.push(RatePiece {
                user,
                starts_s: stretch.starts_s,
                ends_s: stretch.ends_s,
                bits_per_s: stretch.bits_per_s,
            });
        }
        Ok(arrived_at_s)
    }

    fn finish(mut self) -> Vec<RatePiece> {
        self.schedule
            .sort_by(|a, b| a.starts_s.total_cmp(&b.starts_s));
        self.schedule
    }
}
