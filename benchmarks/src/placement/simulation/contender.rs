//! Who plans, and how often.

use edgeprompt_placement::{Planner, baseline, exact};
use serde::Serialize;

/// One who plans.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Contender {
    /// Exact, with the default policy on when to stay.
    Ours,
    /// The paper's algorithm.
    Paper,
    /// First fit, anew each time.
    Greedy,
    /// In turn, anew each time.
    RoundRobin,
    /// First fit, once.
    Static,
    /// Layers on devices by dynamic programming, once.
    Edgeshard,
    /// In proportion to speed, once.
    Galaxy,
    /// All on the leader.
    OneDevice,
}

/// When a contender plans.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Habit {
    /// Every interval, and decides whether moving pays.
    Decides,
    /// Every interval, and does what comes out.
    PlansAnew,
    /// Before the first token, for the longest context and the least memory to come.
    PlansOnce,
}

impl Contender {
    /// In the order of tables.
    pub(crate) const ALL: [Self; 8] = [
        Self::Ours,
        Self::Paper,
        Self::Greedy,
        Self::RoundRobin,
        Self::Static,
        Self::Edgeshard,
        Self::Galaxy,
        Self::OneDevice,
    ];

    /// As tables and plots say it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ours => "ours",
            Self::Paper => "paper",
            Self::Greedy => "greedy",
            Self::RoundRobin => "round-robin",
            Self::Static => "static",
            Self::Edgeshard => "EdgeShard",
            Self::Galaxy => "Galaxy-like",
            Self::OneDevice => "one device",
        }
    }

    /// How it plans.
    pub(crate) const fn planner(self) -> Planner {
        match self {
            Self::Ours => exact::plan,
            Self::Paper => baseline::papers,
            Self::Greedy | Self::Static => baseline::first_fit,
            Self::RoundRobin => baseline::round_robin,
            Self::Edgeshard => baseline::edgeshard,
            Self::Galaxy => baseline::tensor_split,
            Self::OneDevice => baseline::leader_only,
        }
    }

    /// When it plans.
    pub(crate) const fn habit(self) -> Habit {
        match self {
            Self::Ours => Habit::Decides,
            Self::Paper | Self::Greedy | Self::RoundRobin => Habit::PlansAnew,
            Self::Static | Self::Edgeshard | Self::Galaxy | Self::OneDevice => Habit::PlansOnce,
        }
    }
}
