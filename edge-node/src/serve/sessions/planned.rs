//! How sessions that leave together are moved: what the planner says of what this node has measured.
//! Pure.

use std::time::Duration;

use edgeprompt_handover::planning::choose::{
    ChooseError, Decision, Handovers, LeavingSession, choose,
};
use edgeprompt_handover::planning::link_rate::LinkRate;
use edgeprompt_handover::planning::prefill::{PrefillModel, PrefillWork};
use edgeprompt_handover::planning::scenario::Costs;
use edgeprompt_handover::planning::strategy::Strategy;

use super::departure::{BLOCK_LEN, COPYING_MAX};

/// What is chosen of beside copying ahead and computing everything.
const SENDING: [Strategy; 3] = [Strategy::Cache, Strategy::Joint, Strategy::Stream];

/// Blocks that are missing, at most, when copying ahead ends.
pub(super) const BLOCKS_MISSING_MAX: usize = 2;

/// What is known of the way.
#[derive(Clone)]
pub(crate) struct Way {
    /// Of keys and values, of computing them while others come, and of the link.
    pub(crate) costs: Costs,
    /// Of computing them while none come.
    pub(crate) alone: PrefillModel,
    /// There and back, without anything to send.
    pub(crate) rtt: Duration,
    /// Of a token that is decoded.
    pub(crate) decode: Duration,
    /// Tokens that a step of the target computes, at most, of sessions that nobody waits for yet.
    pub(crate) behind_len: u32,
}

/// How one session is moved.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Plan {
    pub(crate) strategy: Strategy,
    /// Tokens that the target computes, from the first on.
    pub(crate) prefill_len: usize,
    /// From the source's last token to the target's first, as its reader sees it.
    pub(crate) predicted: Duration,
    /// What becomes of the last tokens of a session that was copied ahead.
    pub(crate) tail: Tail,
}

/// What becomes of tokens whose keys and values are not copied when their session stops.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Tail {
    /// The target computes them: that is quicker than sending.
    Computed,
    /// Those of whole blocks are sent.
    Sent,
}

impl Plan {
    /// That of which nothing has to be known.
    pub(crate) const UNPLANNED: Self = Self {
        strategy: Strategy::Token,
        prefill_len: usize::MAX,
        predicted: Duration::ZERO,
        tail: Tail::Computed,
    };
}

/// A plan for each session, in their order: the way with the least delay of the worst, or the one that
/// is asked for.
///
/// # Errors
/// [`ChooseError`].
pub(crate) fn plan(
    sessions: &[LeavingSession],
    way: &Way,
    only: Option<Strategy>,
) -> Result<Vec<Plan>, ChooseError> {
    let best_of = |strategies: &[Strategy]| {
        let prefill = match strategies {
            [Strategy::Token] => way.alone,
            _ => way.costs.prefill,
        };
        let costs = Costs {
            prefill,
            ..way.costs.clone()
        };
        choose(Handovers {
            sessions,
            costs: &costs,
            block_len: u32::try_from(BLOCK_LEN).unwrap_or(1),
            strategies,
            now: Duration::ZERO,
        })
    };
    match only {
        Some(Strategy::PreCopy) => Ok(copied_ahead(&best_of(&[Strategy::Stream])?, way)),
        Some(only) => Ok(stopped(&best_of(&[only])?, way)),
        None => {
            let computed = stopped(&best_of(&[Strategy::Token])?, way);
            let sent = stopped(&best_of(&SENDING)?, way);
            // The source goes on meanwhile, so the user waits for nothing but the end of it.
            let ahead = copied_ahead(&best_of(&[Strategy::Stream])?, way);
            let sooner = |best: Vec<Plan>, other: Vec<Plan>| match worst(&best) <= worst(&other) {
                true => best,
                false => other,
            };
            Ok(sooner(ahead, sooner(computed, sent)))
        }
    }
}

/// The same for sessions whose keys and values are not all here: the target computes everything, while
/// the source goes on or not.
pub(crate) fn plan_by_tokens(
    sessions: &[LeavingSession],
    way: &Way,
    only: Option<Strategy>,
) -> Result<Vec<Plan>, ChooseError> {
    let mut way = way.clone();
    if let Ok(link) = LinkRate::constant(1.0) {
        // Sending takes as good as for ever.
        way.costs.link = link;
    }
    let only = match only {
        Some(Strategy::PreCopy) | None => only,
        Some(_) => Some(Strategy::Token),
    };
    let mut plans = plan(sessions, &way, only)?;
    for plan in &mut plans {
        plan.prefill_len = usize::MAX;
        plan.tail = Tail::Computed;
    }
    Ok(plans)
}

fn worst(plans: &[Plan]) -> Duration {
    let predicted = plans.iter().map(|plan| plan.predicted);
    predicted.max().unwrap_or_default()
}

/// Sessions that stop first.
fn stopped(decision: &Decision, way: &Way) -> Vec<Plan> {
    let plan = decision.sessions.iter().map(|session| Plan {
        strategy: decision.strategy,
        prefill_len: match decision.strategy {
            Strategy::Token => usize::MAX,
            _ => session.prefill.end as usize,
        },
        predicted: session.delay.saturating_add(way.rtt + way.decode),
        tail: Tail::Sent,
    });
    plan.collect()
}

/// The split is that of sessions which stop at once; they do not, and what is left is a few blocks, or
/// what cannot be copied for as long as that may take.
fn copied_ahead(decision: &Decision, way: &Way) -> Vec<Plan> {
    let len = u32::try_from(BLOCKS_MISSING_MAX * BLOCK_LEN).unwrap_or(u32::MAX);
    let computing_s = way.alone.seconds(PrefillWork::of_one(len, 0));
    let bits = way.costs.kv.bits() * f64::from(len);
    let sending_s = bits / way.costs.link.mean_bits_per_s();
    let (tail, tail_s) = match computing_s <= sending_s {
        true => (Tail::Computed, computing_s),
        false => (Tail::Sent, sending_s),
    };
    // Whoever goes first comes into a step of the target with the others, half over on average, and its own
    // has some of theirs.
    let others_s = match decision.sessions.len() {
        0 | 1 => 0.0,
        _ => {
            1.5 * way
                .costs
                .prefill
                .seconds(PrefillWork::of_one(way.behind_len, 0))
        }
    };
    let tail_takes = Duration::try_from_secs_f64(tail_s + others_s).unwrap_or(Duration::MAX);
    let plan = decision.sessions.iter().map(|session| Plan {
        strategy: Strategy::PreCopy,
        prefill_len: session.prefill.end as usize,
        predicted: session
            .delay
            .saturating_sub(COPYING_MAX)
            .saturating_add(tail_takes)
            .saturating_add(way.rtt + way.decode),
        tail,
    });
    plan.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeprompt_handover::planning::kv_size::KvTokenBits;
    use edgeprompt_handover::planning::prefill::PrefillCoefficients;

    const MS: Duration = Duration::from_millis(1);

    /// A millisecond to compute a token, one to send it at 100 Mbit/s.
    fn way(bits_per_s: f64) -> Way {
        let prefill = PrefillCoefficients {
            per_token_s: 1e-3,
            ..PrefillCoefficients::default()
        };
        let alone = PrefillModel::new(prefill).unwrap();
        Way {
            costs: Costs {
                kv: KvTokenBits::of_measured_bytes(12_500.0).unwrap(),
                prefill: alone,
                link: LinkRate::constant(bits_per_s).unwrap(),
            },
            alone,
            rtt: 10 * MS,
            decode: 20 * MS,
            behind_len: 40,
        }
    }

    const fn session(context_len: u32) -> LeavingSession {
        LeavingSession {
            context_len,
            past_len: 0,
            leaves_in: Duration::ZERO,
            decode_tokens_per_s: 0.0,
        }
    }

    #[test]
    fn a_batch_shares_the_link_and_the_target() {
        let only = Some(Strategy::Joint);
        let one = plan(&[session(1000)], &way(100e6), only).unwrap();
        let two = plan(&[session(1000); 2], &way(100e6), only).unwrap();
        assert!(worst(&one).abs_diff(530 * MS) <= 3 * MS, "{one:?}");
        assert!(worst(&two).abs_diff(1030 * MS) <= 3 * MS, "{two:?}");
        assert!(one[0].prefill_len.abs_diff(500) <= 1);
    }

    #[test]
    fn what_is_copied_ahead_waits_for_its_last_blocks_alone() {
        let found = plan(&[session(1000)], &way(50e6), None).unwrap()[0];
        assert_eq!(
            (found.strategy, found.tail),
            (Strategy::PreCopy, Tail::Computed)
        );
        assert_eq!(found.predicted, 62 * MS);
        assert!(found.prefill_len.abs_diff(667) <= 1, "{found:?}");
        let quick = plan(&[session(1000)], &way(1e9), None).unwrap()[0];
        assert_eq!(quick.tail, Tail::Sent);
    }

    #[test]
    fn the_first_of_several_waits_for_steps_with_the_others() {
        let only = Some(Strategy::PreCopy);
        let one = plan(&[session(1000)], &way(50e6), only).unwrap();
        let two = plan(&[session(1000); 2], &way(50e6), only).unwrap();
        assert_eq!(worst(&two), worst(&one) + 60 * MS);
    }

    #[test]
    fn what_comes_slows_a_target_that_computes_beside_it() {
        let mut way = way(100e6);
        let split = |way: &Way, only| plan(&[session(1000)], way, Some(only)).unwrap()[0];
        let (joint, token) = (split(&way, Strategy::Joint), split(&way, Strategy::Token));
        way.costs.prefill = way.alone.slowed(2.0).unwrap();
        let slowed = split(&way, Strategy::Joint);
        // Two milliseconds to compute, one to send: a third is computed.
        assert!(slowed.prefill_len.abs_diff(333) <= 1, "{slowed:?}");
        assert!(slowed.predicted > joint.predicted);
        assert_eq!(split(&way, Strategy::Token), token);
    }

    #[test]
    fn what_cannot_be_collected_is_computed_by_the_target() {
        for only in [None, Some(Strategy::PreCopy), Some(Strategy::Cache)] {
            let found = plan_by_tokens(&[session(1000); 2], &way(1e9), only).unwrap();
            let strategy = match only {
                Some(Strategy::Cache) => Strategy::Token,
                _ => Strategy::PreCopy,
            };
            for plan in found {
                assert_eq!((plan.strategy, plan.prefill_len), (strategy, usize::MAX));
                assert_eq!(plan.tail, Tail::Computed);
            }
        }
    }

    #[test]
    fn a_short_session_is_not_copied_ahead() {
        let found = plan(&[session(10)], &way(50e6), None).unwrap()[0];
        assert_ne!(found.strategy, Strategy::PreCopy);
        let token = plan(&[session(10)], &way(50e6), Some(Strategy::Token)).unwrap()[0];
        assert_eq!((token.prefill_len, token.predicted), (usize::MAX, 40 * MS));
        let asked = plan(&[session(10)], &way(50e6), Some(Strategy::Cache)).unwrap()[0];
        assert_eq!((asked.strategy, asked.prefill_len), (Strategy::Cache, 0));
    }
}
