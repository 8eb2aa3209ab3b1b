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
        match self {
            Self::Token => with_common_len(scenario, self, scenario.context_len_max()),
            Self::Cache => with_common_len(scenario, self, 0),
            Self::Joint => {
                let best = common_len::best(scenario, Formula::Corrected);
                with_common_len(scenario, self, best.len)
            }
            Self::JointPublished => {
                let best = common_len::best(scenario, Formula::Published);
                let plan = with_common_len(scenario, self, best.len)?;
                Ok(Plan {
                    believed_worst_delay_s: best.worst_delay_s,
                    ..plan
                })
            }
            Self::Stream => meeting::plan(scenario, self, Begin::AtLeaving),
            Self::PreCopy => meeting::plan(scenario, self, Begin::WhenKnown),
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

/// The plan with one L for all.
fn with_common_len(scenario: &Scenario, strategy: Strategy, len: u32) -> Result<Plan, PlanError> {
    let rhythm = scenario.rhythm();
    let works = scenario.leaving();
    let works: Vec<_> = works
        .map(|user| Work::of(user, rhythm, Begin::AtLeaving))
        .collect();
    let at_s = batch_done_at_s(scenario, len);
    let prefilled = works.iter().map(|work| Prefilled {
        len: work.context_len.min(len),
        at_s,
    });
    let prefilled: Vec<_> = prefilled.collect();
    realise(scenario, strategy, &works, &prefilled)
}
