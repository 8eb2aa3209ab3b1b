//! What a running node asks: how to hand these sessions over, now.

use std::ops::Range;
use std::time::Duration;

use thiserror::Error;

use super::plan::{Plan, PlanError};
use super::scenario::{Costs, Rhythm, Scenario, ScenarioError, User};
use super::strategy::{Strategy, best, plans};

/// A session that leaves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LeavingSession {
    /// Private tokens that it has now.
    pub context_len: u32,
    /// Tokens before them that the target has: the cloud prompt.
    pub past_len: u32,
    /// How long the source goes on decoding; zero if it has stopped.
    pub leaves_in: Duration,
    /// How fast it decodes meanwhile.
    pub decode_tokens_per_s: f64,
}

/// What is asked.
#[derive(Clone, Copy, Debug)]
pub struct Handovers<'a> {
    /// The sessions, which share the link and the target.
    pub sessions: &'a [LeavingSession],
    /// What things cost, as measured.
    pub costs: &'a Costs,
    /// Tokens of a block: what is sent together while the source still decodes.
    pub block_len: u32,
    /// What may be chosen.
    pub strategies: &'a [Strategy],
    /// The caller's clock. Times in the answer are of the same.
    pub now: Duration,
}

/// A stretch of time in which the link is one session's.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SendPiece {
    /// From then.
    pub starts_at: Duration,
    /// Until then.
    pub ends_at: Duration,
    /// At this rate.
    pub bits_per_s: f64,
}

/// What is done for one session.
#[derive(Clone, Debug, PartialEq)]
pub struct SessionDecision {
    /// Tokens that the target prefills: `0..L`.
    pub prefill: Range<u32>,
    /// Tokens whose keys and values the source sends: from L to the context's length when it leaves.
    pub send: Range<u32>,
    /// r_i(t): when they are sent, in the order of time.
    pub pieces: Vec<SendPiece>,
    /// When the prefill should be done, not before the session leaves.
    pub prefilled_at: Duration,
    /// When the last bit should have arrived, not before the session leaves.
    pub arrived_at: Duration,
    /// From leaving until the target should be able to go on.
    pub delay: Duration,
}

/// How to hand the sessions over.
#[derive(Clone, Debug, PartialEq)]
pub struct Decision {
    /// The best way.
    pub strategy: Strategy,
    /// Of each session, in the order given.
    pub sessions: Vec<SessionDecision>,
    /// The largest predicted delay.
    pub worst_delay: Duration,
    /// The same of every way that was considered, in the order given.
    pub considered: Vec<(Strategy, Duration)>,
}

/// Why there is no decision.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum ChooseError {
    /// The sessions.
    #[error(transparent)]
    Scenario(#[from] ScenarioError),
    /// The link.
    #[error(transparent)]
    Plan(#[from] PlanError),
    /// Nothing may be chosen.
    #[error("no strategy is allowed: name at least one")]
    NoStrategy,
}

/// The way with the least predicted delay of the worst session; of equal ones the first named.
///
/// # Errors
/// If there are no sessions, a number is none that can be meant, or no way leads to an end.
pub fn choose(asked: Handovers<'_>) -> Result<Decision, ChooseError> {
    let now_s = asked.now.as_secs_f64();
    let users = asked.sessions.iter().map(|it| user(it, now_s)).collect();
    let rhythm = Rhythm {
        cycle_s: 0.0,
        block_len: asked.block_len,
    };
    let scenario = Scenario::new(users, asked.costs.clone(), rhythm)?;
    let plans = plans(&scenario, asked.strategies)?;
    let considered = plans.iter();
    let considered = considered.map(|plan| (plan.strategy, duration(plan.worst_delay_s)));
    let considered = considered.collect();
    let plan = best(plans).ok_or(ChooseError::NoStrategy)?;
    Ok(decision(&scenario, &plan, considered))
}

fn user(session: &LeavingSession, now_s: f64) -> User {
    let leaves_in_s = session.leaves_in.as_secs_f64();
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "a float that is too large becomes the largest number, no number 0"
    )]
    let decoded = (leaves_in_s * session.decode_tokens_per_s) as u32;
    User {
        leaves_at_s: now_s + leaves_in_s,
        known_at_s: now_s,
        context_len: session.context_len.saturating_add(decoded),
        past_len: session.past_len,
        decode_tokens_per_s: session.decode_tokens_per_s,
    }
}

fn decision(scenario: &Scenario, plan: &Plan, considered: Vec<(Strategy, Duration)>) -> Decision {
    let users = scenario.users().iter().zip(&plan.users);
    let sessions = users.map(|(user, done)| SessionDecision {
        prefill: 0..done.prefill_len,
        send: done.prefill_len..user.context_len,
        pieces: Vec::new(),
        prefilled_at: duration(done.prefilled_at_s),
        arrived_at: duration(done.arrived_at_s),
        delay: duration(done.delay_s),
    });
    let mut sessions: Vec<_> = sessions.collect();
    for piece in &plan.schedule {
        sessions[piece.user].pieces.push(SendPiece {
            starts_at: duration(piece.starts_s),
            ends_at: duration(piece.ends_s),
            bits_per_s: piece.bits_per_s,
        });
    }
    Decision {
        strategy: plan.strategy,
        sessions,
        worst_delay: duration(plan.worst_delay_s),
        considered,
    }
}

/// What is longer than a duration can be is the longest.
fn duration(seconds: f64) -> Duration {
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::planning::kv_size::KvTokenBits;
    use crate::planning::link_rate::LinkRate;
    use crate::planning::prefill::{PrefillCoefficients, PrefillModel};

    fn costs() -> Costs {
        let prefill = PrefillCoefficients {
            per_token_s: 1e-3,
            ..PrefillCoefficients::default()
        };
        Costs {
            kv: KvTokenBits::of_measured_bytes(12_500.0).unwrap(),
            prefill: PrefillModel::new(prefill).unwrap(),
            link: LinkRate::constant(100e6).unwrap(),
        }
    }

    fn choice(
        sessions: &[LeavingSession],
        strategies: &[Strategy],
    ) -> Result<Decision, ChooseError> {
        choose(Handovers {
            sessions,
            costs: &costs(),
            block_len: 16,
            strategies,
            now: Duration::from_secs(1000),
        })
    }

    const SESSION: LeavingSession = LeavingSession {
        context_len: 1000,
        past_len: 0,
        leaves_in: Duration::ZERO,
        decode_tokens_per_s: 0.0,
    };

    #[test]
    fn a_session_that_has_stopped_is_split_where_both_ways_meet() {
        // A millisecond a token on either way: half and half.
        let found = choice(&[SESSION], &Strategy::ALL).unwrap();
        let session = &found.sessions[0];
        assert!(session.prefill.end.abs_diff(500) <= 1, "{session:?}");
        assert_eq!(session.send, session.prefill.end..1000);
        assert!(found.worst_delay.abs_diff(Duration::from_millis(500)) < Duration::from_millis(2));
        let (first, last) = (session.pieces[0], session.pieces[session.pieces.len() - 1]);
        assert_eq!(first.starts_at, Duration::from_secs(1000));
        assert_eq!(last.ends_at, session.arrived_at);
        assert_eq!(found.considered.len(), Strategy::ALL.len());
    }

    #[test]
    fn a_session_that_still_decodes_is_copied_ahead() {
        let session = LeavingSession {
            leaves_in: Duration::from_secs(2),
            decode_tokens_per_s: 50.0,
            ..SESSION
        };
        let found = choice(&[session], &Strategy::ALL).unwrap();
        assert_eq!(found.strategy, Strategy::PreCopy);
        assert_eq!(found.sessions[0].send.end, 1100);
        // The tokens of the last, unfinished block.
        assert!(found.worst_delay < Duration::from_millis(20), "{found:?}");
    }

    #[test]
    fn what_cannot_be_decided_is_refused() {
        let none: &[LeavingSession] = &[];
        let refused = choice(none, &Strategy::ALL);
        assert_eq!(refused, Err(ScenarioError::UserCount(0).into()));
        assert_eq!(choice(&[SESSION], &[]), Err(ChooseError::NoStrategy));
        let hostile = LeavingSession {
            decode_tokens_per_s: f64::NAN,
            ..SESSION
        };
        assert!(choice(&[hostile], &Strategy::ALL).is_err());
    }
}
