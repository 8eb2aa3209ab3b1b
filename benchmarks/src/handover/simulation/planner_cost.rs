//! How long the planner takes for so many users, on the machine at hand.

use std::time::{Duration, Instant};

use anyhow::Result;
use edgeprompt_handover::planning::choose::{Handovers, LeavingSession, choose};
use edgeprompt_handover::planning::strategy::Strategy;
use serde::Serialize;

use super::SimulationArgs;
use super::setting::{Draws, Prefills, Setting};
use crate::statistics::Spread;

const USER_COUNTS: [u32; 7] = [1, 4, 16, 100, 1_000, 3_000, 10_000];

/// At one number of users.
#[derive(Serialize)]
pub(super) struct PlannerCost {
    pub(super) user_count: u32,
    pub(super) prefills: Prefills,
    /// Of all strategies, the choice among them and the answer.
    pub(super) took_ms: Spread,
    /// Which one was chosen.
    pub(super) chosen: &'static str,
}

/// At every number of users up to the one asked for, with either kind of prefill.
pub(super) fn measure(args: &SimulationArgs) -> Result<Vec<PlannerCost>> {
    let mut costs = Vec::new();
    for prefills in [Prefills::LongestContext, Prefills::AllTokens] {
        let most = args.planner_users_max.get();
        for user_count in USER_COUNTS.into_iter().filter(|count| *count <= most) {
            costs.push(of(user_count, prefills, args)?);
        }
    }
    Ok(costs)
}

fn of(user_count: u32, prefills: Prefills, args: &SimulationArgs) -> Result<PlannerCost> {
    let setting = Setting {
        user_count,
        prefills,
        ..Setting::default()
    };
    let draws = Draws {
        seed: args.seed,
        count: 1,
        optimum_count: 0,
    };
    let users = setting.users(&draws, 0);
    let session = |user: &edgeprompt_handover::planning::scenario::User| LeavingSession {
        context_len: user.context_len,
        past_len: 0,
        leaves_in: Duration::from_secs_f64(user.leaves_at_s),
        decode_tokens_per_s: user.decode_tokens_per_s,
    };
    let sessions: Vec<_> = users.iter().map(session).collect();
    let costs = setting.costs(None)?;
    let (mut took_ms, mut chosen) = (Vec::new(), "");
    for _ in 0..args.planner_runs.get() {
        let begun = Instant::now();
        let decision = choose(Handovers {
            sessions: &sessions,
            costs: &costs,
            block_len: 16,
            strategies: &Strategy::ALL,
            now: Duration::ZERO,
        })?;
        took_ms.push(begun.elapsed().as_secs_f64() * 1e3);
        chosen = decision.strategy.name();
    }
    Ok(PlannerCost {
        user_count,
        prefills,
        took_ms: Spread::of(took_ms),
        chosen,
    })
}
