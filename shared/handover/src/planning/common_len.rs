//! One length L for all users: their first L tokens are prefilled in one batch, the others are sent.
//!
//! ```text
//! D_pf(L) = t_s + p(L) − τ_1,  D_pf(0) = 0        V(L) = max(D_pf(L), D_tx*(L))
//! ```
//!
//! D_pf rises with L and D_tx* falls, so the best L is where they cross (ctHO, Prop. 3), or at an end.
//! The published form differs: D_tx* as in [`transmission`](super::transmission), D_pf(0) is
//! t_s + b − τ_1 although nothing is prefilled, and τ_1 may be of a user without context.

use super::prefill::PrefillWork;
use super::scenario::Scenario;
use super::search::last_true;
use super::transmission::{Formula, Sending, worst_delay_s};

/// A common length and what it costs the worst user.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct CommonLen {
    /// L.
    pub len: u32,
    /// V(L).
    pub worst_delay_s: f64,
}

/// L and V(L) that are least by a formula, by bisection.
pub fn best(scenario: &Scenario, formula: Formula) -> CommonLen {
    let longest = scenario.context_len_max();
    let waits_for_link = |len| {
        prefill_delay_s(scenario, len, formula) <= transmission_delay_s(scenario, len, formula)
    };
    let crossing = last_true(0..=longest, longest / 2, waits_for_link);
    // The crossing lies between two whole numbers; and at 0 there is no batch to wait for.
    let candidates = [0, crossing, crossing.saturating_add(1).min(longest)];
    let valued = candidates.map(|len| CommonLen {
        len,
        worst_delay_s: worst_at(scenario, len, formula),
    });
    let better = |a: CommonLen, b: CommonLen| {
        if b.worst_delay_s < a.worst_delay_s {
            b
        } else {
            a
        }
    };
    valued.into_iter().reduce(better).unwrap_or(valued[0])
}

/// V(L) by a formula.
pub fn worst_at(scenario: &Scenario, len: u32, formula: Formula) -> f64 {
    prefill_delay_s(scenario, len, formula).max(transmission_delay_s(scenario, len, formula))
}

/// D_tx*(L).
pub fn transmission_delay_s(scenario: &Scenario, len: u32, formula: Formula) -> f64 {
    let costs = scenario.costs();
    let sendings = scenario.leaving().map(|user| Sending {
        leaves_at_s: user.leaves_at_s,
        bits: costs.kv.of_tokens(user.context_len.saturating_sub(len)),
    });
    worst_delay_s(sendings, &costs.link, formula)
}

/// D_pf(L).
pub fn prefill_delay_s(scenario: &Scenario, len: u32, formula: Formula) -> f64 {
    let work = batch(scenario, len);
    let prefill = &scenario.costs().prefill;
    let starts_s = scenario.batch_starts_at_s();
    match formula {
        Formula::Published => {
            let mut leaving = scenario.leaving().map(|user| user.leaves_at_s);
            let first_s = leaving.next().unwrap_or(starts_s);
            starts_s + prefill.published_seconds(work) - first_s
        }
        Formula::Corrected if work.token_count <= 0.0 => 0.0,
        Formula::Corrected => {
            // Who has no context does not wait.
            let mut waiting = scenario.leaving().filter(|user| user.context_len > 0);
            let first_s = waiting.next().map_or(starts_s, |user| user.leaves_at_s);
            starts_s + prefill.seconds(work) - first_s
        }
    }
}

/// When a batch of so many tokens of each user, in the scenario's order, is prefilled.
pub(crate) fn batch_done_at_s(scenario: &Scenario, lens: &[u32]) -> f64 {
    let members = scenario.users().iter().zip(lens);
    let members = members.map(|(user, len)| PrefillWork::of_one(*len, user.past_len));
    let takes_s = scenario
        .costs()
        .prefill
        .seconds(PrefillWork::of_batch(members));
    scenario.batch_starts_at_s() + takes_s
}

fn batch(scenario: &Scenario, len: u32) -> PrefillWork {
    let members = scenario.users().iter();
    let members = members.map(|user| PrefillWork::of_one(user.context_len.min(len), user.past_len));
    PrefillWork::of_batch(members)
}
