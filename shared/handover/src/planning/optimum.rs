//! The best that anything could do: every split of every user and every order, for few users. Strategies
//! are measured against it; nothing that runs uses it.

use thiserror::Error;

use super::plan::{arrival_s, reserve};
use super::prefill::{Joining, PrefillWork};
use super::scenario::Scenario;
use super::timeline::{Job, Timeline};
use super::work::{Begin, Work};

/// Most users: their orders are tried, and there are 24 of four.
pub const OPTIMUM_USERS_MAX: usize = 4;
/// Most splits that are tried.
pub const SPLITS_MAX: u64 = 1 << 20;

/// When anything could begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foresight {
    /// When a user leaves.
    None,
    /// When it is known that it will.
    FromWhenKnown,
}

/// The best.
#[derive(Clone, Debug, PartialEq)]
pub struct Optimum {
    /// Prefilled tokens of each user, in the scenario's order.
    pub prefill_lens: Vec<u32>,
    /// The worst user's delay.
    pub worst_delay_s: f64,
}

/// Why it is not known.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
pub enum OptimumError {
    /// Too many users.
    #[error("the optimum is found for at most {OPTIMUM_USERS_MAX} users, and these are {0}")]
    TooManyUsers(usize),
    /// Too many splits.
    #[error(
        "{0} splits are too many to try, at most {SPLITS_MAX}: count in larger units than tokens"
    )]
    TooManySplits(u64),
}

/// The least delay of the worst user.
///
/// # Errors
/// If there are too many users or splits.
pub fn optimum(scenario: &Scenario, foresight: Foresight) -> Result<Optimum, OptimumError> {
    let user_count = scenario.users().len();
    if user_count > OPTIMUM_USERS_MAX {
        return Err(OptimumError::TooManyUsers(user_count));
    }
    let begin = match foresight {
        Foresight::None => Begin::AtLeaving,
        Foresight::FromWhenKnown => Begin::WhenKnown,
    };
    let split_count = scenario.users().iter().fold(1_u64, |product, user| {
        product.saturating_mul(u64::from(user.context_len) + 1)
    });
    if split_count > SPLITS_MAX {
        return Err(OptimumError::TooManySplits(split_count));
    }
    let works = scenario.users().iter();
    let works = works.map(|user| Work::of(user, scenario.rhythm(), begin));
    let oracle = Oracle {
        scenario,
        works: works.collect(),
        orders: orders(user_count),
    };
    Ok(oracle.best())
}

/// All orders of so many users.
fn orders(user_count: usize) -> Vec<Vec<usize>> {
    let mut orders = vec![Vec::new()];
    for user in 0..user_count {
        let with_user = |order: &Vec<usize>| {
            let places = 0..=order.len();
            let placed = places.map(|place| {
                let mut order = order.clone();
                order.insert(place, user);
                order
            });
            placed.collect::<Vec<_>>()
        };
        orders = orders.iter().flat_map(with_user).collect();
    }
    orders
}

struct Oracle<'a> {
    scenario: &'a Scenario,
    works: Vec<Work>,
    orders: Vec<Vec<usize>>,
}

impl Oracle<'_> {
    fn best(&self) -> Optimum {
        let mut lens = vec![0_u32; self.works.len()];
        let mut best = Optimum {
            prefill_lens: lens.clone(),
            worst_delay_s: f64::INFINITY,
        };
        loop {
            self.keep_better(&mut best, &lens);
            // The next one, as a counter with a digit for each user.
            let has_more = |user: &usize| lens[*user] < self.works[*user].context_len;
            let Some(digit) = (0..lens.len()).find(has_more) else {
                return best;
            };
            lens[digit] += 1;
            lens[..digit].fill(0);
        }
    }

    fn keep_better(&self, best: &mut Optimum, lens: &[u32]) {
        // Neither machine waits for the other, so each may have an order of its own.
        let link_s = self.least(|order| self.link_delay_s(lens, order));
        if link_s >= best.worst_delay_s {
            return;
        }
        let target_s = self.target_delay_s(lens);
        let worst_delay_s = link_s.max(target_s);
        if worst_delay_s < best.worst_delay_s {
            *best = Optimum {
                prefill_lens: lens.to_vec(),
                worst_delay_s,
            };
        }
    }

    /// The least over all orders.
    fn least(&self, delay_s: impl Fn(&[usize]) -> f64) -> f64 {
        let delays = self.orders.iter().map(|order| delay_s(order));
        delays.fold(f64::INFINITY, f64::min)
    }

    fn link_delay_s(&self, lens: &[u32], order: &[usize]) -> f64 {
        let costs = self.scenario.costs();
        let mut free = Timeline::free();
        let mut worst_s = 0.0_f64;
        for user in order {
            let (work, len) = (&self.works[*user], lens[*user]);
            if let Some(arrives_s) = arrival_s(costs, &free, work.parts(), len) {
                worst_s = worst_s.max(arrives_s - work.leaves_at_s);
            }
            reserve(costs, &mut free, work, len);
        }
        worst_s
    }

    fn target_delay_s(&self, lens: &[u32]) -> f64 {
        match self.scenario.costs().prefill.joining() {
            Joining::Joins => self.least(|order| self.joined_delay_s(lens, order)),
            Joining::Waits => self.least(|order| {
                // Batches of users that follow each other in the order, cut in every way.
                let cuts = 0..1_u32 << (order.len() - 1);
                let delays = cuts.map(|cuts| self.batched_delay_s(lens, order, cuts));
                delays.fold(f64::INFINITY, f64::min)
            }),
        }
    }

    /// Each by itself, the earlier in the order before the later.
    fn joined_delay_s(&self, lens: &[u32], order: &[usize]) -> f64 {
        let model = &self.scenario.costs().prefill;
        let mut free = Timeline::free();
        let mut worst_s = 0.0_f64;
        for user in order {
            let (work, len) = (&self.works[*user], lens[*user]);
            let of = |len| PrefillWork::of_one(len, work.past_len);
            let known_len = len.min(work.known_len);
            let known = Job {
                release: work.begins_at_s,
                amount: model.exclusive_seconds(of(known_len)),
            };
            let mut done_s = free.reserve(known, |_, _| ()) + model.side_seconds(of(known_len));
            if len > known_len {
                let amount = model.exclusive_seconds(of(len)) - known.amount;
                let release = work.leaves_at_s;
                let later_s = free.reserve(Job { release, amount }, |_, _| ()).max(done_s);
                let side_s = model.side_seconds(of(len)) - model.side_seconds(of(known_len));
                done_s = later_s + side_s;
            }
            if len > 0 {
                worst_s = worst_s.max(done_s - work.leaves_at_s);
            }
        }
        worst_s
    }

    /// In batches, one after the other; a cut after the n-th of the order if bit n is set.
    fn batched_delay_s(&self, lens: &[u32], order: &[usize], cuts: u32) -> f64 {
        let model = &self.scenario.costs().prefill;
        let (mut free_at_s, mut worst_s) = (0.0_f64, 0.0_f64);
        let mut batch: Vec<usize> = Vec::new();
        for (place, user) in order.iter().enumerate() {
            if lens[*user] > 0 {
                batch.push(*user);
            }
            let is_last = place + 1 == order.len();
            if !is_last && cuts >> place & 1 == 0 {
                continue;
            }
            let there_at_s = batch.iter().map(|user| {
                let work = &self.works[*user];
                if lens[*user] > work.known_len {
                    work.leaves_at_s
                } else {
                    work.begins_at_s
                }
            });
            let begins_s = there_at_s.fold(free_at_s, f64::max);
            let members = batch.iter();
            let members =
                members.map(|user| PrefillWork::of_one(lens[*user], self.works[*user].past_len));
            free_at_s = begins_s + model.seconds(PrefillWork::of_batch(members));
            for user in batch.drain(..) {
                worst_s = worst_s.max(free_at_s - self.works[user].leaves_at_s);
            }
        }
        worst_s
    }
}
