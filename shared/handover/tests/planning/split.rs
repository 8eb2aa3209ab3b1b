//! A split for each user: against the formula for one, and never worse than one length for all.

use edgeprompt_handover::planning::kv_size::KvTokenBits;
use edgeprompt_handover::planning::link_rate::LinkRate;
use edgeprompt_handover::planning::meeting_point::{MeetingPoint, Speeds};
use edgeprompt_handover::planning::prefill::{Joining, PrefillCoefficients, PrefillModel};
use edgeprompt_handover::planning::scenario::{Costs, Rhythm, Scenario, User};
use edgeprompt_handover::planning::strategy::Strategy;

use crate::draw::{Draw, Ranges};

const RANGES: Ranges = Ranges {
    user_count_max: 10,
    context_len_max: 200,
    leaving_s: 2.0,
    known_before_s: 1.0,
};

#[test]
fn one_user_is_split_at_the_meeting_point() {
    let mut draw = Draw::seeded(31);
    for _ in 0..2_000 {
        let speeds = Speeds {
            fixed_s: draw.between(0.0, 0.2),
            prefill_tokens_per_s: draw.between(100.0, 20_000.0),
            link_tokens_per_s: draw.between(100.0, 20_000.0),
        };
        let context_len = draw.count(0, 5_000);
        let point = MeetingPoint::of(speeds).unwrap();
        let a = 1.0 / speeds.prefill_tokens_per_s;
        // With prefills by positions or by tokens: one user cannot tell.
        let side = draw.between(0.0, 1.0) * a;
        let costs = Costs {
            kv: KvTokenBits::of_measured_bytes(1000.0).unwrap(),
            prefill: PrefillModel::new(PrefillCoefficients {
                fixed_s: speeds.fixed_s,
                per_position_s: side,
                per_token_s: a - side,
                per_pair_s: 0.0,
            })
            .unwrap(),
            link: LinkRate::constant(8000.0 * speeds.link_tokens_per_s).unwrap(),
        };
        let user = User::leaving(1.0, context_len);
        let scenario = Scenario::new(vec![user], costs, Rhythm::default()).unwrap();
        let plan = Strategy::Stream.plan(&scenario).unwrap();
        let expected = point.delay_s(context_len);
        // Whole tokens, on either machine, and the bisection's precision.
        let close = a + 1.0 / speeds.link_tokens_per_s + 1e-5 * expected + 2e-6;
        let found = plan.worst_delay_s;
        assert!(
            (found - expected).abs() <= close,
            "{found} {expected}: {speeds:?} {context_len}"
        );
    }
}

#[test]
fn a_split_for_each_is_no_worse_than_one_for_all_and_copying_ahead_is_best() {
    let mut draw = Draw::seeded(32);
    let (mut sums, count) = ([0.0; 3], 1_000);
    for instance in 0..count {
        let scenario = draw.scenario(RANGES, Joining::Joins);
        let delay = |strategy: Strategy| strategy.plan(&scenario).unwrap().worst_delay_s;
        let (joint, stream, precopy) = (
            delay(Strategy::Joint),
            delay(Strategy::Stream),
            delay(Strategy::PreCopy),
        );
        // A token on either machine, for each user before this one. Where some users' tokens are much
        // dearer to prefill than others', it takes a little more.
        let close_s = 0.02 * 10.0;
        assert!(
            stream <= 1.001 * joint + close_s,
            "{instance}: {stream} {joint}"
        );
        assert!(
            precopy <= 1.15 * stream + close_s,
            "{instance}: {precopy} {stream}"
        );
        for (sum, value) in sums.iter_mut().zip([joint, stream, precopy]) {
            *sum += value;
        }
    }
    println!("sums of joint, stream and precopy: {sums:?}");
    assert!(
        sums[1] < 0.8 * sums[0] && sums[2] < 0.9 * sums[1],
        "{sums:?}"
    );
}

/// The more there is to do for everybody, the worse for the worst.
#[test]
fn a_faster_link_is_never_worse() {
    let mut draw = Draw::seeded(33);
    for _ in 0..300 {
        let drawn = draw.scenario(RANGES, Joining::Joins);
        let mut before = f64::INFINITY;
        for bits_per_s in [2e4, 5e4, 1e5, 2e5, 1e6] {
            let costs = Costs {
                link: LinkRate::constant(bits_per_s).unwrap(),
                ..drawn.costs().clone()
            };
            let scenario = Scenario::new(drawn.users().to_vec(), costs, drawn.rhythm()).unwrap();
            let delay = Strategy::Joint.plan(&scenario).unwrap().worst_delay_s;
            assert!(delay <= before + 1e-9, "{delay} {before} at {bits_per_s}");
            before = delay;
        }
    }
}

#[test]
fn a_plan_carried_out_as_planned_is_the_plan() {
    let mut draw = Draw::seeded(34);
    for _ in 0..300 {
        let scenario = draw.scenario(RANGES, Joining::Joins);
        for strategy in Strategy::ALL {
            let plan = strategy.plan(&scenario).unwrap();
            let lens: Vec<_> = plan.users.iter().map(|user| user.prefill_len).collect();
            let carried_out = strategy.carry_out(&scenario, &lens).unwrap();
            assert_eq!(carried_out.users, plan.users, "{strategy}");
            assert_eq!(carried_out.schedule, plan.schedule, "{strategy}");
        }
    }
}
