//! The ways to bring sessions to a target, and the best of them.

use std::fmt;
use std::str::FromStr;

use thiserror::Error;

use super::common_len::{self, batch_done_at_s};
use super::meeting;
use super::plan::{Plan, PlanError, Prefilled, realise};
use super::scenario::Scenario;
use super::transmission::Formula;
use super::work::{Begin, Work};

/// A way to bring sessions to a target. Their tokens travel in any case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Strategy {
    /// tHO: everything is prefilled, in one batch.
    Token,
    /// cHO: everything is sent.
    Cache,
    /// ctHO as published: one L for all by the published formulas.
    JointPublished,
    /// ctHO with its formulas corrected.
    Joint,
    /// Each user's prefill begins when it leaves, and meets its transfer where both end in time.
    Stream,
    /// The same, from when it is known that it will leave: only what is decoded last is left for later.
    PreCopy,
}

impl Strategy {
    /// All of them.
    pub const ALL: [Self; 6] = [
        Self::Token,
        Self::Cache,
        Self::JointPublished,
        Self::Joint,
        Self::Stream,
        Self::PreCopy,
    ];

    /// The name, as flags and results have it.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Token => "token",
            Self::Cache => "cache",
            Self::JointPublished => "joint-published",
            Self::Joint => "joint",
            Self::Stream => "stream",
            Self::PreCopy => "precopy",
        }
    }

    /// The plan that it makes.
    ///
    /// # Errors
    /// If the link's rate changes too often until everything is sent.
    pub fn plan(self, scenario: &Scenario) -> Result<Plan, PlanError> {
        let common = |len: u32| {
            let lens = scenario
                .users()
                .iter()
                .map(|user| user.context_len.min(len));
            in_one_batch(scenario, self, &lens.collect::<Vec<_>>())
        };
        match self {
            Self::Token => common(u32::MAX),
            Self::Cache => common(0),
            Self::Joint => common(common_len::best(scenario, Formula::Corrected).len),
            Self::JointPublished => {
                let best = common_len::best(scenario, Formula::Published);
                Ok(Plan {
                    believed_worst_delay_s: best.worst_delay_s,
                    ..common(best.len)?
                })
            }
            Self::Stream => meeting::plan(scenario, self, Begin::AtLeaving),
            Self::PreCopy => meeting::plan(scenario, self, Begin::WhenKnown),
        }
    }

    /// What comes of a split that was planned for other costs: so many tokens of each user, in the
    /// scenario's order, are prefilled, and the others sent.
    ///
    /// # Errors
    /// If the link's rate changes too often until everything is sent.
    pub fn carry_out(self, scenario: &Scenario, lens: &[u32]) -> Result<Plan, PlanError> {
        let planned = lens.iter().copied().chain(std::iter::repeat(0));
        let lens = scenario.users().iter().zip(planned);
        let lens: Vec<u32> = lens.map(|(user, len)| user.context_len.min(len)).collect();
        match self {
            Self::Token | Self::Cache | Self::JointPublished | Self::Joint => {
                in_one_batch(scenario, self, &lens)
            }
            Self::Stream => meeting::carry_out(scenario, (self, Begin::AtLeaving), &lens),
            Self::PreCopy => meeting::carry_out(scenario, (self, Begin::WhenKnown), &lens),
        }
    }
}

impl fmt::Display for Strategy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

/// A name that no strategy has.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error("{0:?} is no strategy: token, cache, joint-published, joint, stream or precopy")]
pub struct UnknownStrategy(String);

impl FromStr for Strategy {
    type Err = UnknownStrategy;

    fn from_str(name: &str) -> Result<Self, UnknownStrategy> {
        let known = Self::ALL
            .into_iter()
            .find(|strategy| strategy.name() == name);
        known.ok_or_else(|| UnknownStrategy(name.to_owned()))
    }
}

/// The plan of each strategy that has one.
///
/// # Errors
/// If strategies are named and none of them has a plan.
pub fn plans(scenario: &Scenario, strategies: &[Strategy]) -> Result<Vec<Plan>, PlanError> {
    let mut plans = Vec::with_capacity(strategies.len());
    let mut failed = Ok(());
    for strategy in strategies {
        match strategy.plan(scenario) {
            Ok(plan) => plans.push(plan),
            Err(error) => failed = Err(error),
        }
    }
    if plans.is_empty() {
        failed?;
    }
    Ok(plans)
}

/// The plan with the least delay of the worst user; of equal ones the first.
pub fn best(plans: Vec<Plan>) -> Option<Plan> {
    let better = |a: Plan, b: Plan| {
        if b.worst_delay_s < a.worst_delay_s {
            b
        } else {
            a
        }
    };
    plans.into_iter().reduce(better)
}

/// The plan with one batch for so many tokens of each user.
fn in_one_batch(scenario: &Scenario, strategy: Strategy, lens: &[u32]) -> Result<Plan, PlanError> {
    let at_s = batch_done_at_s(scenario, lens);
    let works: Vec<_> = Work::of_all(scenario, Begin::AtLeaving);
    let order = scenario.by_leaving().iter();
    let prefilled = order.map(|user| Prefilled {
        len: lens[*user],
        at_s,
    });
    let prefilled: Vec<_> = prefilled.collect();
    realise(scenario, strategy, &works, &prefilled)
}
