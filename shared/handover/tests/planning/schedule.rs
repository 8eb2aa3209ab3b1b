//! What any schedule must be: possible, never idle without a reason, and in time.

use edgeprompt_handover::planning::link_rate::{LinkRate, RateStep};
use edgeprompt_handover::planning::plan::Plan;
use edgeprompt_handover::planning::prefill::Joining;
use edgeprompt_handover::planning::scenario::{Costs, Rhythm, Scenario};
use edgeprompt_handover::planning::strategy::Strategy;

use crate::draw::{Draw, Ranges};

/// Times add up from numbers of about 10.
const CLOSE_S: f64 = 1e-6;
/// Bits from numbers of about a million.
const CLOSE_BITS: f64 = 1e-2;

const RANGES: Ranges = Ranges {
    user_count_max: 8,
    context_len_max: 100,
    leaving_s: 2.0,
    known_before_s: 1.0,
};

/// Tokens of a user that may be sent at a moment: finished blocks, and all when it has left.
fn there(scenario: &Scenario, user: usize, at_s: f64) -> u32 {
    let (of, block_len) = (&scenario.users()[user], scenario.rhythm().block_len);
    if at_s >= of.leaves_at_s - CLOSE_S {
        return of.context_len;
    }
    if at_s < of.known_at_s - CLOSE_S {
        return 0;
    }
    // Counted one by one, as they are decoded.
    let tokens = |seconds: f64| {
        let decoded = (1..=of.context_len)
            .take_while(|count| f64::from(*count) <= seconds * of.decode_tokens_per_s);
        u32::try_from(decoded.count()).unwrap()
    };
    let decoded = tokens(of.leaves_at_s - of.known_at_s);
    if decoded == 0 {
        return of.context_len;
    }
    let so_far = tokens(at_s - of.known_at_s).min(decoded);
    (of.context_len - decoded + so_far) / block_len * block_len
}

fn is_possible(scenario: &Scenario, plan: &Plan, link: &dyn Fn(f64) -> f64) {
    let bits_of = scenario.costs().kv.bits();
    let mut sent = vec![0.0; scenario.users().len()];
    let mut before_s = 0.0_f64;
    for piece in &plan.schedule {
        assert!(
            piece.starts_s >= before_s - CLOSE_S,
            "one at a time: {piece:?}"
        );
        assert!(piece.ends_s > piece.starts_s);
        before_s = piece.ends_s;
        let middle_s = f64::midpoint(piece.starts_s, piece.ends_s);
        assert_eq!(
            piece.bits_per_s,
            link(middle_s),
            "the whole link: {piece:?}"
        );
        let user = piece.user;
        sent[user] += piece.bits();
        let first = plan.users[user].prefill_len;
        let end = there(scenario, user, piece.starts_s + CLOSE_S).saturating_sub(first);
        let may = f64::from(end) * bits_of;
        assert!(
            sent[user] <= may + CLOSE_BITS,
            "{piece:?} sends what is not there: {may}"
        );
        assert!(piece.ends_s <= plan.users[user].arrived_at_s + CLOSE_S);
    }
    for ((user, done), sent) in scenario.users().iter().zip(&plan.users).zip(sent) {
        let due = f64::from(user.context_len - done.prefill_len) * bits_of;
        assert!((sent - due).abs() < CLOSE_BITS, "{sent} of {due}");
        let delay = done.prefilled_at_s.max(done.arrived_at_s) - user.leaves_at_s;
        assert!((done.delay_s - delay).abs() < CLOSE_S, "{done:?}");
        assert!(done.delay_s <= plan.worst_delay_s);
    }
}

/// Whenever the link has a rate and does not send, nobody who has left has anything left.
fn is_work_conserving(scenario: &Scenario, plan: &Plan, link: &dyn Fn(f64) -> f64) {
    let end_s = plan.schedule.last().map_or(0.0, |piece| piece.ends_s);
    let mut idle = Vec::new();
    let mut from_s = 0.0;
    for piece in &plan.schedule {
        if piece.starts_s > from_s + CLOSE_S {
            idle.push((from_s, piece.starts_s));
        }
        from_s = piece.ends_s;
    }
    for (starts_s, ends_s) in idle {
        let steps = 50_u32;
        for step in 0..=steps {
            let share = f64::from(step) / f64::from(steps);
            let at_s = starts_s + CLOSE_S + (ends_s - starts_s - 2.0 * CLOSE_S) * share;
            if link(at_s) == 0.0 || at_s > end_s {
                continue;
            }
            for (user, done) in scenario.users().iter().zip(&plan.users) {
                let waits = user.leaves_at_s + CLOSE_S < at_s && done.arrived_at_s > at_s + CLOSE_S;
                let has_sent = done.prefill_len == user.context_len;
                assert!(
                    !waits || has_sent,
                    "idle at {at_s} while {user:?} waits: {done:?}"
                );
            }
        }
    }
}

/// A scenario whose link is known to the test, too.
fn drawn(draw: &mut Draw) -> (Scenario, Vec<RateStep>) {
    let drawn = draw.scenario(RANGES, Joining::Joins);
    let step_count = draw.count(1, 5);
    let mut steps: Vec<_> = (0..step_count)
        .map(|_| RateStep {
            bits_per_s: 50_000.0 * f64::from(draw.count(0, 4)),
            lasts_s: draw.between(0.1, 1.0),
        })
        .collect();
    steps[0].bits_per_s = 100_000.0;
    let costs = Costs {
        link: LinkRate::repeating(&steps).unwrap(),
        ..drawn.costs().clone()
    };
    let rhythm = Rhythm {
        cycle_s: 0.0,
        ..drawn.rhythm()
    };
    (
        Scenario::new(drawn.users().to_vec(), costs, rhythm).unwrap(),
        steps,
    )
}

fn rate_at(steps: &[RateStep], at_s: f64) -> f64 {
    let period_s: f64 = steps.iter().map(|step| step.lasts_s).sum();
    let mut within_s = at_s.rem_euclid(period_s);
    for step in steps {
        if within_s < step.lasts_s {
            return step.bits_per_s;
        }
        within_s -= step.lasts_s;
    }
    steps[steps.len() - 1].bits_per_s
}

#[test]
fn every_schedule_is_possible_conserves_work_and_keeps_its_deadlines() {
    let mut draw = Draw::seeded(21);
    let mut piece_count = 0;
    for instance in 0..1_000 {
        let (scenario, steps) = drawn(&mut draw);
        let link = |at_s| rate_at(&steps, at_s);
        for strategy in Strategy::ALL {
            println!("instance {instance}, {strategy}");
            let plan = strategy.plan(&scenario).unwrap();
            is_possible(&scenario, &plan, &link);
            is_work_conserving(&scenario, &plan, &link);
            piece_count += plan.schedule.len();
        }
    }
    assert!(piece_count > 10_000, "{piece_count}");
}

#[test]
fn who_leaves_first_is_served_first() {
    let mut draw = Draw::seeded(22);
    for _ in 0..300 {
        let (scenario, _) = drawn(&mut draw);
        let plan = Strategy::Cache.plan(&scenario).unwrap();
        let arrivals = scenario
            .by_leaving()
            .iter()
            .filter(|user| scenario.users()[**user].context_len > 0);
        let arrivals: Vec<f64> = arrivals
            .map(|user| plan.users[*user].arrived_at_s)
            .collect();
        assert!(arrivals.is_sorted(), "{arrivals:?}");
    }
}
