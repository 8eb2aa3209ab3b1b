//! What must hold of every link: in order, never faster than its rate, nothing unaccounted for,
//! and the same again from the same seed.

use std::time::Duration;

use proptest::prelude::*;

use super::schedule::{any_steps, nanobits_by, nanobits_of};
use crate::emulator::{
    BitRate, Direction, DirectionProfile, DropReason, EmulatedLink, LinkModel, NamedLink,
    Probability, QUEUE_BYTES_MAX, QUEUE_BYTES_MIN, RateSchedule, RateStep, Reordering, Verdict,
};

const MS: Duration = Duration::from_millis(1);

const QUEUE_FULL: Verdict = Verdict::Dropped {
    reason: DropReason::QueueFull,
};

/// A packet to offer, so long after the one before.
#[derive(Clone, Copy, Debug)]
struct Offer {
    gap: Duration,
    bytes: usize,
}

/// Above the smallest queue: an empty one takes any packet.
const OFFER_BYTES_MAX: usize = 2_000;

fn any_offers() -> impl Strategy<Value = Vec<Offer>> {
    let gap = prop_oneof![3 => Just(0), 3 => 0_u64..300, 1 => 0_u64..60_000];
    let offer = (gap, 0..OFFER_BYTES_MAX).prop_map(|(micros, bytes)| Offer {
        gap: Duration::from_micros(micros),
        bytes,
    });
    prop::collection::vec(offer, 1..120)
}

/// A packet offered, and what became of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Fate {
    offered_at: Duration,
    bytes: usize,
    verdict: Verdict,
}

impl Fate {
    fn arrived_at(&self) -> Option<Duration> {
        match self.verdict {
            Verdict::Deliver { at } => Some(at),
            Verdict::Dropped { .. } => None,
        }
    }
}

/// Offers everything to a fresh link.
fn fates(profile: &DirectionProfile, seed: u64, offers: &[Offer]) -> Vec<Fate> {
    let mut model = LinkModel::new(profile.clone(), seed);
    let mut now = Duration::ZERO;
    let fate = |offer: &Offer| {
        now += offer.gap;
        let verdict = model.offer(now, offer.bytes);
        assert!(model.queued_bytes(now) <= profile.queue_bytes_max.max(OFFER_BYTES_MAX as u64));
        Fate {
            offered_at: now,
            bytes: offer.bytes,
            verdict,
        }
    };
    offers.iter().map(fate).collect()
}

/// A direction of any rate, delay, jitter, loss and queue, without reordering.
fn any_profile() -> impl Strategy<Value = (DirectionProfile, Vec<RateStep>)> {
    let jitter = prop_oneof![Just(0_u64), 0_u64..30_000];
    let values = (
        any_steps(),
        0_u64..30_000,
        jitter,
        0_u32..300_000,
        1_500_u64..100_000,
    );
    values.prop_map(|(steps, delay, jitter, loss, queue_bytes_max)| {
        let rate = RateSchedule::repeating(&steps).unwrap();
        let profile = DirectionProfile {
            queue_bytes_max,
            ..DirectionProfile::new(rate, Duration::from_micros(delay))
                .with_jitter(Duration::from_micros(jitter))
                .with_loss(Probability::per_million(loss))
        };
        (profile, steps)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn no_window_carries_more_than_the_rate(
        (profile, steps) in any_profile(), offers in any_offers(), seed: u64,
    ) {
        let peak = steps.iter().map(|step| step.rate.bits()).max().unwrap();
        let (mut carried, mut arrivals) = (0, vec![(0, 0)]);
        for fate in fates(&profile, seed, &offers) {
            let Some(at) = fate.arrived_at() else { continue };
            carried += nanobits_of(fate.bytes);
            arrivals.push((nanobits_by(&steps, at - profile.delay), carried));
        }
        // Times are rounded up to a nanosecond: a window may begin one late.
        let slack = u128::from(peak);
        for (index, (possible, carried)) in arrivals.iter().enumerate() {
            for (possible_before, carried_before) in &arrivals[..index] {
                let allowed = possible - possible_before + slack;
                prop_assert!(carried - carried_before <= allowed, "allowed {allowed} nanobits");
            }
        }
    }

    #[test]
    fn packets_stay_in_order_and_are_never_early(
        (profile, steps) in any_profile(), offers in any_offers(), seed: u64,
    ) {
        let peak = steps.iter().map(|step| step.rate.bits()).max().unwrap() as f64;
        let mut last = Duration::ZERO;
        for fate in fates(&profile, seed, &offers) {
            let Some(at) = fate.arrived_at() else { continue };
            prop_assert!(at >= last, "{at:?} after {last:?}");
            let sending = Duration::from_secs_f64(8.0 * fate.bytes as f64 / peak);
            let least = fate.offered_at + profile.delay + sending;
            prop_assert!(at + Duration::from_nanos(1) >= least, "{at:?} before {least:?}");
            last = at;
        }
    }

    #[test]
    fn a_packet_is_dropped_for_want_of_room_only_when_there_is_none(
        steps in any_steps(), offers in any_offers(), queue in 1_500_u64..20_000,
    ) {
        // Without delay, what has not arrived is in the queue.
        let rate = RateSchedule::repeating(&steps).unwrap();
        let profile = DirectionProfile {
            queue_bytes_max: queue,
            ..DirectionProfile::new(rate, Duration::ZERO)
        };
        let mut waiting: Vec<(Duration, u64)> = Vec::new();
        for fate in fates(&profile, 0, &offers) {
            waiting.retain(|(at, _)| *at > fate.offered_at);
            let bytes = fate.bytes.max(1) as u64;
            let wanted = bytes + waiting.iter().map(|(_, bytes)| bytes).sum::<u64>();
            let fits = waiting.is_empty() || wanted <= queue;
            prop_assert_eq!(fate.arrived_at().is_some(), fits, "{} of {}", wanted, queue);
            waiting.extend(fate.arrived_at().map(|at| (at, bytes)));
        }
    }

    #[test]
    fn the_same_seed_gives_the_same_fates(
        (profile, _) in any_profile(), offers in any_offers(), seed: u64,
    ) {
        prop_assert_eq!(fates(&profile, seed, &offers), fates(&profile, seed, &offers));
    }

    #[test]
    fn luck_does_not_depend_on_timing(offers in any_offers(), seed: u64) {
        // The same packets over two links that differ in all but loss, one with a short queue.
        let loss = Probability::per_million(300_000);
        let fates_at = |megabits, delay, queue_bytes_max| {
            let rate = BitRate::megabits_per_second(megabits);
            let profile = DirectionProfile {
                queue_bytes_max,
                ..DirectionProfile::constant(rate, delay).with_loss(loss)
            };
            fates(&profile, seed, &offers)
        };
        let roomy = fates_at(1_000, MS, QUEUE_BYTES_MAX);
        for (fate, other) in fates_at(20, 30 * MS, 4_000).iter().zip(roomy) {
            if fate.verdict != QUEUE_FULL {
                prop_assert_eq!(fate.arrived_at().is_some(), other.arrived_at().is_some());
            }
        }
    }

    #[test]
    fn late_packets_are_late_by_just_that(offers in any_offers(), seed: u64) {
        let rate = BitRate::megabits_per_second(100);
        let in_order = DirectionProfile::constant(rate, MS);
        let probability = Probability::per_million(200_000);
        let reordering = Reordering { probability, late_by: 7 * MS };
        let reordered = DirectionProfile { reordering, ..in_order.clone() };
        let pairs = fates(&in_order, seed, &offers).into_iter().zip(fates(&reordered, seed, &offers));
        for (expected, fate) in pairs {
            let late = fate.arrived_at().unwrap() - expected.arrived_at().unwrap();
            prop_assert!(late == Duration::ZERO || late == 7 * MS, "{late:?}");
        }
    }
}

/// So many packets at once.
fn burst(count: usize, bytes: usize) -> Vec<Offer> {
    let gap = Duration::ZERO;
    vec![Offer { gap, bytes }; count]
}

#[test]
fn a_busy_link_sends_at_exactly_its_rate() {
    // 1,250 bytes at 10 Mbit/s: a packet each millisecond.
    let rate = BitRate::megabits_per_second(10);
    let profile = DirectionProfile::constant(rate, 30 * MS);
    let fates = fates(&profile, 0, &burst(200, 1_250));
    for (fate, number) in fates.iter().zip(1..) {
        assert_eq!(fate.arrived_at(), Some(30 * MS + number * MS));
    }
}

#[test]
fn a_trace_is_followed_through_its_still_seconds() {
    // 10 packets' worth, nothing, 20 packets' worth, again and again.
    let step = |megabits| RateStep {
        rate: BitRate::megabits_per_second(megabits),
        lasts: 10 * MS,
    };
    let rate = RateSchedule::repeating(&[step(10), step(0), step(20)]).unwrap();
    let fates = fates(&DirectionProfile::new(rate, MS), 0, &burst(65, 1_250));
    let arrived_at = |number: usize| fates[number - 1].arrived_at().unwrap() - MS;
    assert_eq!(arrived_at(10), 10 * MS);
    assert_eq!(arrived_at(11), 20 * MS + MS / 2);
    assert_eq!(arrived_at(30), 30 * MS);
    assert_eq!(arrived_at(41), 50 * MS + MS / 2);
    assert_eq!(arrived_at(65), 65 * MS);
}

#[test]
fn loss_and_reordering_happen_as_often_as_asked() {
    let seed = 20_260;
    println!("seed {seed}");
    let profile = DirectionProfile {
        loss: Probability::per_million(10_000),
        reordering: Reordering {
            probability: Probability::per_million(50_000),
            late_by: MS,
        },
        ..DirectionProfile::constant(BitRate::UNLIMITED, Duration::ZERO)
    };
    let gap = 10 * MS;
    let fates = fates(&profile, seed, &vec![Offer { gap, bytes: 100 }; 100_000]);
    let lost = fates
        .iter()
        .filter(|fate| fate.arrived_at().is_none())
        .count();
    let is_late = |fate: &&Fate| {
        fate.arrived_at()
            .is_some_and(|at| at - fate.offered_at >= MS)
    };
    let late = fates.iter().filter(is_late).count();
    // Five standard deviations of the binomial: 157 of 1,000 and 345 of 4,950.
    assert!((843..=1_157).contains(&lost), "{lost} lost");
    assert!((4_605..=5_295).contains(&late), "{late} late");
}

#[test]
fn jitter_wanders_through_its_range() {
    let seed = 7;
    println!("seed {seed}");
    let rate = BitRate::UNLIMITED;
    let profile = DirectionProfile::constant(rate, 5 * MS).with_jitter(10 * MS);
    let fates = fates(
        &profile,
        seed,
        &vec![
            Offer {
                gap: MS,
                bytes: 100
            };
            20_000
        ],
    );
    let extra = |fate: &Fate| fate.arrived_at().unwrap() - fate.offered_at - 5 * MS;
    let extras: Vec<f64> = fates
        .iter()
        .map(|fate| extra(fate).as_secs_f64() * 1e3)
        .collect();
    let mean = extras.iter().sum::<f64>() / extras.len() as f64;
    assert!(extras.iter().all(|extra| (0.0..=10.001).contains(extra)));
    // 1,000 independent values, uniform over 10 ms: the mean is within 0.4 ms in all but one of
    // ten thousand seeds.
    assert!((mean - 5.0).abs() < 0.4, "{mean} ms");
    let steepest = extras
        .windows(2)
        .map(|pair| (pair[1] - pair[0]).abs())
        .fold(0.0, f64::max);
    assert!(steepest <= 0.51, "{steepest} ms within a millisecond");
}

#[test]
fn an_empty_packet_in_a_still_second_is_not_sent_before_it_came() {
    let step = |megabits| RateStep {
        rate: BitRate::megabits_per_second(megabits),
        lasts: 10 * MS,
    };
    let rate = RateSchedule::repeating(&[step(0), step(10)]).unwrap();
    let mut model = LinkModel::new(DirectionProfile::new(rate, MS), 0);
    assert_eq!(model.offer(3 * MS, 0), Verdict::Deliver { at: 4 * MS });
}

#[test]
fn a_new_rate_holds_after_what_was_accepted() {
    let slow = BitRate::megabits_per_second(10);
    let mut model = LinkModel::new(DirectionProfile::constant(slow, MS), 0);
    let at = |millis| Verdict::Deliver {
        at: millis * MS + MS,
    };
    assert_eq!(model.offer(Duration::ZERO, 1_250), at(1));
    assert_eq!(model.offer(Duration::ZERO, 1_250), at(2));
    let fast = RateSchedule::constant(BitRate::megabits_per_second(100));
    model.set_rate(MS, &fast);
    assert_eq!(model.offer(MS, 12_500), at(3));
    model.set_rate(9 * MS, &RateSchedule::constant(slow));
    assert_eq!(model.offer(9 * MS, 1_250), at(10));
}

#[test]
fn a_full_queue_says_so() {
    let rate = BitRate::megabits_per_second(10);
    let queue_bytes_max = 3_000;
    let profile = DirectionProfile {
        queue_bytes_max,
        ..DirectionProfile::constant(rate, MS)
    };
    let verdicts: Vec<_> = fates(&profile, 0, &burst(3, 1_250))
        .iter()
        .map(|f| f.verdict)
        .collect();
    assert_eq!(verdicts[2], QUEUE_FULL);
    assert_eq!(verdicts[1], Verdict::Deliver { at: 3 * MS });
}

#[test]
fn queues_follow_the_bandwidth_delay_product() {
    let queue = |megabits, millis| {
        let rate = BitRate::megabits_per_second(megabits);
        DirectionProfile::constant(rate, millis * MS).queue_bytes_max
    };
    assert_eq!(queue(1_000, 10), 2_500_000);
    assert_eq!(queue(10, 10), QUEUE_BYTES_MIN);
    assert_eq!(queue(1_000_000, 100), QUEUE_BYTES_MAX);
    let link = NamedLink::FiveG.link(0);
    let slower = RateSchedule::constant(BitRate::megabits_per_second(200));
    assert_eq!(link.down.clone().with_rate(slower).queue_bytes_max, 400_000);
    assert_eq!(link.down.queue_bytes_max, 800_000);
}

#[test]
fn named_links_are_found_by_name_and_directions_differ_in_luck() {
    for link in NamedLink::ALL {
        assert_eq!(link.to_string().parse(), Ok(link));
    }
    let error = "7g".parse::<NamedLink>().unwrap_err();
    assert_eq!(
        error.to_string(),
        "no link is called \"7g\"; there are lan, wifi, 5g, lte and 6g"
    );
    let half = Probability::per_million(500_000);
    let direction = DirectionProfile::constant(BitRate::UNLIMITED, MS).with_loss(half);
    let link = EmulatedLink::symmetric(direction, 3);
    let luck = |direction| {
        let mut model = LinkModel::with_seed(link.down.clone(), link.seed_of(direction));
        (0..64).map(|_| model.offer(MS, 1)).collect::<Vec<_>>()
    };
    assert_eq!(luck(Direction::Down), luck(Direction::Down));
    assert_ne!(luck(Direction::Down), luck(Direction::Up));
}
