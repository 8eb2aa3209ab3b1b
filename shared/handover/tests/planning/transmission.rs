//! D_tx* against a link that is simulated from event to event.

use edgeprompt_handover::planning::link_rate::{LinkRate, RateStep};
use edgeprompt_handover::planning::transmission::{Formula, Sending, worst_delay_s};

use crate::draw::Draw;

/// The worst delay on a link whose rates repeat, serving users in the order in which they leave. Time
/// goes on from one change to the next: a user leaves, one is done, the rate changes.
fn simulated_s(users: &[Sending], steps: &[RateStep]) -> f64 {
    let mut left: Vec<f64> = users.iter().map(|user| user.bits).collect();
    let (mut now_s, mut worst_s) = (0.0_f64, 0.0_f64);
    let (mut step, mut step_left_s) = (0, steps[0].lasts_s);
    while let Some(next) = left.iter().position(|bits| *bits > 0.0) {
        let rate = steps[step].bits_per_s;
        let until_there_s = users[next].leaves_at_s - now_s;
        // The first one that is not done is not there yet: the link stands still.
        let (serves, until_s) = match until_there_s > 0.0 {
            true => (false, until_there_s),
            false if rate > 0.0 => (true, left[next] / rate),
            false => (false, f64::INFINITY),
        };
        let passes_s = until_s.min(step_left_s);
        now_s += passes_s;
        step_left_s -= passes_s;
        if serves && passes_s >= until_s {
            left[next] = 0.0;
            worst_s = worst_s.max(now_s - users[next].leaves_at_s);
        } else if serves {
            left[next] -= passes_s * rate;
        }
        if step_left_s <= 0.0 {
            step = (step + 1) % steps.len();
            step_left_s = steps[step].lasts_s;
        }
    }
    worst_s
}

fn users(draw: &mut Draw) -> Vec<Sending> {
    let count = draw.count(1, 12);
    let span_s = draw.between(0.0, 4.0);
    let user = |_| Sending {
        leaves_at_s: draw.between(0.0, span_s),
        bits: f64::from(draw.count(0, 3)) * draw.between(0.0, 500.0),
    };
    let mut users: Vec<_> = (0..count).map(user).collect();
    users.sort_by(|a, b| a.leaves_at_s.total_cmp(&b.leaves_at_s));
    users
}

/// 20,000 times on links of one rate and on links of several, some of which are 0.
#[test]
fn the_corrected_formula_is_what_a_link_does_and_the_published_one_never_more() {
    let mut draw = Draw::seeded(4);
    let (mut less_count, mut idle_count) = (0, 0);
    for instance in 0..20_000 {
        let users = users(&mut draw);
        let step_count = if instance % 2 == 0 {
            1
        } else {
            draw.count(2, 5)
        };
        let mut steps: Vec<_> = (0..step_count)
            .map(|_| RateStep {
                bits_per_s: 500.0 * f64::from(draw.count(0, 4)),
                lasts_s: draw.between(0.05, 1.0),
            })
            .collect();
        steps[0].bits_per_s = draw.between(100.0, 2000.0);
        let link = LinkRate::repeating(&steps).unwrap();
        let of = |formula| worst_delay_s(users.iter().copied(), &link, formula);
        let (published, corrected) = (of(Formula::Published), of(Formula::Corrected));
        let simulated = simulated_s(&users, &steps);
        // Both add up a few hundred numbers of about 10: rounding is far below this.
        assert!(
            (corrected - simulated).abs() < 1e-9,
            "{instance}: {corrected} {simulated}"
        );
        assert!(
            published <= corrected + 1e-9,
            "{instance}: {published} {corrected}"
        );
        less_count += u32::from(published < corrected - 1e-6);
        idle_count += u32::from(corrected == 0.0);
    }
    println!("the published formula promised too much in {less_count} of 20000 instances");
    assert!(
        less_count > 2_000 && idle_count < 5_000,
        "{less_count} {idle_count}"
    );
}

#[test]
fn a_delay_of_the_link_is_felt_once_by_who_sends() {
    let link = LinkRate::constant(1000.0)
        .unwrap()
        .with_delay(0.25)
        .unwrap();
    let one = |bits| {
        [Sending {
            leaves_at_s: 3.0,
            bits,
        }]
    };
    assert_eq!(worst_delay_s(one(500.0), &link, Formula::Corrected), 0.75);
    assert_eq!(worst_delay_s(one(0.0), &link, Formula::Corrected), 0.0);
}
