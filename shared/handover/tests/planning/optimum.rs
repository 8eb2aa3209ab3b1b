//! The strategies against every split in every order.

use edgeprompt_handover::planning::optimum::{Foresight, OptimumError, optimum};
use edgeprompt_handover::planning::prefill::Joining;
use edgeprompt_handover::planning::scenario::{Scenario, User};
use edgeprompt_handover::planning::strategy::{Strategy, best, plans};

use crate::draw::{Draw, Ranges};

const RANGES: Ranges = Ranges {
    user_count_max: 3,
    context_len_max: 16,
    leaving_s: 0.3,
    known_before_s: 0.0,
};

/// Sums of the best strategy's delays and of the optima, and the worst ratio.
fn compare(ranges: Ranges, joining: Joining, foresight: Foresight) -> (f64, f64) {
    let mut draw = Draw::seeded(41);
    let (mut ratios, mut worst, mut count) = (0.0, 0.0_f64, 0.0);
    for instance in 0..600 {
        let scenario = draw.scenario(ranges, joining);
        let least = optimum(&scenario, foresight).unwrap().worst_delay_s;
        let strategies: &[Strategy] = match foresight {
            Foresight::None => &Strategy::ALL[..5],
            Foresight::FromWhenKnown => &Strategy::ALL,
        };
        let found = best(plans(&scenario, strategies).unwrap()).unwrap();
        let delay = found.worst_delay_s;
        assert!(
            delay >= least - 1e-9,
            "{instance}: {delay} beats {least}: {scenario:?}"
        );
        // Less than a tenth of a token's time: both are none.
        if least < 1e-3 {
            assert!(delay < 1e-2, "{instance}: {delay} instead of {least}");
            continue;
        }
        ratios += delay / least;
        count += 1.0;
        worst = worst.max(delay / least);
    }
    println!(
        "{joining:?}, {foresight:?}: mean ratio {}, worst {worst}, {count}",
        ratios / count
    );
    assert!(count > 250.0, "{count}");
    (ratios / count, worst)
}

#[test]
fn the_best_strategy_is_close_to_the_best_there_is() {
    let (mean, _) = compare(RANGES, Joining::Joins, Foresight::None);
    assert!(mean <= 1.05, "{mean}");
}

#[test]
fn and_also_where_work_begins_before_users_leave() {
    let ranges = Ranges {
        known_before_s: 0.2,
        ..RANGES
    };
    let (mean, _) = compare(ranges, Joining::Joins, Foresight::FromWhenKnown);
    assert!(mean <= 1.05, "{mean}");
}

#[test]
fn and_where_prefills_wait_for_each_other() {
    let (mean, _) = compare(RANGES, Joining::Waits, Foresight::None);
    assert!(mean <= 1.05, "{mean}");
}

#[test]
fn what_is_too_much_to_try_is_refused() {
    let of = |users: usize, context_len: u32| {
        let drawn = Draw::seeded(43).scenario(RANGES, Joining::Joins);
        let user = User::leaving(1.0, context_len);
        let scenario =
            Scenario::new(vec![user; users], drawn.costs().clone(), drawn.rhythm()).unwrap();
        optimum(&scenario, Foresight::None).err()
    };
    assert_eq!(of(5, 1), Some(OptimumError::TooManyUsers(5)));
    let splits = OptimumError::TooManySplits(100_000_000);
    assert_eq!(of(2, 9_999), Some(splits));
    assert_eq!(of(4, u32::MAX), Some(OptimumError::TooManySplits(u64::MAX)));
    assert_eq!(of(1, 1), None);
}
