//! Numbers that nobody means: an error, never a panic and never an end that does not come.

use std::time::Duration;

use edgeprompt_handover::planning::choose::{Handovers, LeavingSession, choose};
use edgeprompt_handover::planning::kv_size::KvTokenBits;
use edgeprompt_handover::planning::link_rate::{LinkError, LinkRate, RateStep};
use edgeprompt_handover::planning::plan::PlanError;
use edgeprompt_handover::planning::prefill::{PrefillCoefficients, PrefillModel};
use edgeprompt_handover::planning::scenario::{
    Costs, Rhythm, Scenario, ScenarioError, USERS_MAX, User,
};
use edgeprompt_handover::planning::strategy::Strategy;
use proptest::prelude::*;

fn costs(bits_per_s: f64) -> Costs {
    Costs {
        kv: KvTokenBits::of_measured_bytes(1000.0).unwrap(),
        prefill: PrefillModel::new(PrefillCoefficients {
            per_token_s: 1e-3,
            ..PrefillCoefficients::default()
        })
        .unwrap(),
        link: LinkRate::constant(bits_per_s).unwrap(),
    }
}

fn refused(user: User) -> ScenarioError {
    Scenario::new(vec![user], costs(1e6), Rhythm::default()).unwrap_err()
}

#[test]
fn users_that_cannot_be_are_refused() {
    let user = User::leaving(1.0, 10);
    for leaves_at_s in [f64::NAN, f64::INFINITY, -1.0] {
        let user = User {
            leaves_at_s,
            ..user
        };
        assert!(
            matches!(refused(user), ScenarioError::Number(_)),
            "{leaves_at_s}"
        );
    }
    let late = User {
        known_at_s: 1.5,
        ..user
    };
    assert_eq!(refused(late), ScenarioError::KnownTooLate(0));
    let of = |users| Scenario::new(users, costs(1e6), Rhythm::default()).unwrap_err();
    assert_eq!(of(vec![]), ScenarioError::UserCount(0));
    let crowd = vec![user; USERS_MAX + 1];
    assert_eq!(of(crowd), ScenarioError::UserCount(USERS_MAX + 1));
    let rhythm = Rhythm {
        block_len: 0,
        cycle_s: 0.0,
    };
    let refused = Scenario::new(vec![user], costs(1e6), rhythm).unwrap_err();
    assert_eq!(refused, ScenarioError::EmptyBlock);
}

#[test]
fn links_that_carry_nothing_are_refused() {
    for bits_per_s in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        assert!(LinkRate::constant(bits_per_s).is_err(), "{bits_per_s}");
    }
    let step = |bits_per_s, lasts_s| RateStep {
        bits_per_s,
        lasts_s,
    };
    let refused = |steps: &[RateStep]| LinkRate::repeating(steps).unwrap_err();
    assert_eq!(refused(&[]), LinkError::StepCount(0));
    assert!(matches!(refused(&[step(0.0, 1.0)]), LinkError::Number(_)));
    assert!(matches!(refused(&[step(1.0, 0.0)]), LinkError::Number(_)));
    assert!(
        LinkRate::constant(1.0)
            .unwrap()
            .with_delay(f64::NAN)
            .is_err()
    );
    assert!(
        PrefillModel::new(PrefillCoefficients {
            fixed_s: f64::NAN,
            ..PrefillCoefficients::default()
        })
        .is_err()
    );
}

#[test]
fn a_link_too_slow_for_what_is_sent_ends_the_plan() {
    let step = |bits_per_s| RateStep {
        bits_per_s,
        lasts_s: 1e-3,
    };
    let costs = Costs {
        link: LinkRate::repeating(&[step(1.0), step(2.0)]).unwrap(),
        ..costs(1.0)
    };
    let user = User::leaving(1.0, 1_000_000);
    let scenario = Scenario::new(vec![user], costs, Rhythm::default()).unwrap();
    assert_eq!(
        Strategy::Cache.plan(&scenario),
        Err(PlanError::TooManyPieces)
    );
    assert!(Strategy::Token.plan(&scenario).is_ok());
}

/// Any number at all, the odd ones often.
fn number() -> impl proptest::strategy::Strategy<Value = f64> {
    prop_oneof![
        proptest::num::f64::ANY,
        Just(0.0),
        Just(1e-300),
        Just(1e18),
        0.0..1e6_f64,
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn whatever_is_asked_is_answered_or_refused(
        context_lens in proptest::collection::vec(any::<u32>(), 0..6),
        past_len in any::<u32>(),
        leaves_in_s in 0_u64..u64::MAX,
        block_len in any::<u32>(),
        decode_tokens_per_s in number(),
        numbers in proptest::collection::vec(number(), 8),
        now_s in prop_oneof![Just(0_u64), Just(u64::MAX), 0_u64..10_000_000],
    ) {
        let steps = [
            RateStep { bits_per_s: numbers[0], lasts_s: numbers[1] },
            RateStep { bits_per_s: numbers[2], lasts_s: 1.0 },
        ];
        let prefill = PrefillModel::new(PrefillCoefficients {
            fixed_s: numbers[3],
            per_position_s: numbers[4],
            per_token_s: numbers[5],
            per_pair_s: numbers[6],
        });
        let (Ok(link), Ok(prefill), Ok(kv)) = (
            LinkRate::repeating(&steps),
            prefill,
            KvTokenBits::of_measured_bytes(numbers[7]),
        ) else {
            return Ok(());
        };
        let sessions: Vec<_> = context_lens.iter().map(|context_len| LeavingSession {
            context_len: *context_len,
            past_len,
            leaves_in: Duration::from_secs(leaves_in_s % 100),
            decode_tokens_per_s,
        }).collect();
        let costs = Costs { kv, prefill, link };
        let answer = choose(Handovers {
            sessions: &sessions,
            costs: &costs,
            block_len,
            strategies: &Strategy::ALL,
            now: Duration::from_secs(now_s),
        });
        if let Ok(answer) = answer {
            prop_assert_eq!(answer.sessions.len(), sessions.len());
            for session in &answer.sessions {
                prop_assert_eq!(session.prefill.end, session.send.start);
                prop_assert!(session.send.start <= session.send.end);
                prop_assert!(session.delay <= answer.worst_delay);
            }
        }
    }
}
