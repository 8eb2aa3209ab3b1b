//! L by bisection against every L.

use edgeprompt_handover::planning::common_len::{best, worst_at};
use edgeprompt_handover::planning::prefill::Joining;
use edgeprompt_handover::planning::strategy::Strategy;
use edgeprompt_handover::planning::transmission::Formula;

use crate::draw::{Draw, Ranges};

const RANGES: Ranges = Ranges {
    user_count_max: 8,
    context_len_max: 120,
    leaving_s: 1.0,
    known_before_s: 0.0,
};

#[test]
fn bisection_finds_what_brute_force_finds() {
    let mut draw = Draw::seeded(9);
    let (mut inside_count, mut differ_count) = (0, 0);
    for instance in 0..2_000 {
        let scenario = draw.scenario(RANGES, Joining::Joins);
        let longest = scenario.context_len_max();
        let mut lens = Vec::new();
        for formula in [Formula::Published, Formula::Corrected] {
            let found = best(&scenario, formula);
            let values = (0..=longest).map(|len| worst_at(&scenario, len, formula));
            let least = values.fold(f64::INFINITY, f64::min);
            assert_eq!(
                found.worst_delay_s, least,
                "{instance}, {formula:?}: {scenario:?}"
            );
            assert_eq!(worst_at(&scenario, found.len, formula), least);
            inside_count += u32::from(found.len > 0 && found.len < longest);
            lens.push(found.len);
        }
        differ_count += u32::from(lens[0] != lens[1]);
    }
    println!("{inside_count} of 4000 lengths lie inside, {differ_count} of 2000 differ");
    assert!(
        inside_count > 1_000 && differ_count > 100,
        "{inside_count} {differ_count}"
    );
}

#[test]
fn corrected_is_what_happens_and_never_worse_than_published() {
    let mut draw = Draw::seeded(10);
    let mut better_count = 0;
    for _ in 0..2_000 {
        let scenario = draw.scenario(RANGES, Joining::Joins);
        let plan = |strategy: Strategy| strategy.plan(&scenario).unwrap();
        let (published, corrected) = (plan(Strategy::JointPublished), plan(Strategy::Joint));
        let foreseen = best(&scenario, Formula::Corrected).worst_delay_s;
        assert!(
            (corrected.worst_delay_s - foreseen).abs() < 1e-9,
            "{scenario:?}"
        );
        let (worse, better) = (published.worst_delay_s, corrected.worst_delay_s);
        assert!(better <= worse + 1e-9, "{better} {worse}: {scenario:?}");
        better_count += u32::from(better < worse - 1e-6);
        for end in [Strategy::Token, Strategy::Cache] {
            assert!(
                better <= plan(end).worst_delay_s + 1e-9,
                "{end}: {scenario:?}"
            );
        }
    }
    assert!(better_count > 100, "{better_count}");
}

/// Nothing to prefill, so nobody waits for a batch: a link that is fast enough needs no more.
#[test]
fn without_a_prefix_there_is_no_batch_to_wait_for() {
    use edgeprompt_handover::planning::link_rate::LinkRate;
    use edgeprompt_handover::planning::scenario::{Rhythm, Scenario};
    let mut draw = Draw::seeded(11);
    let drawn = draw.scenario(RANGES, Joining::Joins);
    let mut costs = drawn.costs().clone();
    costs.link = LinkRate::constant(1e12).unwrap();
    let scenario = Scenario::new(drawn.users().to_vec(), costs, Rhythm::default()).unwrap();
    assert!(best(&scenario, Formula::Corrected).worst_delay_s < 1e-5);
    let waits_s = best(&scenario, Formula::Published).worst_delay_s;
    let leaves = |index: usize| scenario.users()[scenario.by_leaving()[index]].leaves_at_s;
    let spread_s = leaves(scenario.users().len() - 1) - leaves(0);
    assert!(
        waits_s >= spread_s && spread_s > 0.1,
        "{waits_s} {spread_s}"
    );
}
