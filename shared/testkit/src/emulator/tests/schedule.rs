//! The integral of a schedule and its inverse, against walking through it step by step.

use std::time::Duration;

use proptest::prelude::*;

use crate::emulator::rate::Work;
use crate::emulator::{BitRate, RateSchedule, RateStep, ScheduleError};

/// Bits × 10⁻⁹ that a link of repeated steps carries until `until`: whole periods, then step by step.
pub(super) fn nanobits_by(steps: &[RateStep], until: Duration) -> u128 {
    let period: Duration = steps.iter().map(|step| step.lasts).sum();
    let periods = until.as_nanos() / period.as_nanos();
    let mut left = Duration::from_nanos_u128(until.as_nanos() % period.as_nanos());
    let (mut in_period, mut in_rest) = (0, 0);
    for step in steps {
        let rate = u128::from(step.rate.bits());
        in_period += rate * step.lasts.as_nanos();
        in_rest += rate * step.lasts.min(left).as_nanos();
        left = left.saturating_sub(step.lasts);
    }
    periods * in_period + in_rest
}

/// As [`nanobits_by`], of so many bytes.
pub(super) fn nanobits_of(bytes: usize) -> u128 {
    8_000_000_000 * bytes as u128
}

/// A few steps of up to 1 Gbit/s, some of them still, at least one not.
pub(super) fn any_steps() -> impl Strategy<Value = Vec<RateStep>> {
    let rate = prop_oneof![1 => Just(0), 4 => 100_000_u64..1_000_000_000];
    let step = (rate, 1_u64..40_000).prop_map(|(bits, micros)| RateStep {
        rate: BitRate::bits_per_second(bits),
        lasts: Duration::from_micros(micros),
    });
    prop::collection::vec(step, 1..6).prop_filter("carries something", |steps| {
        steps.iter().any(|step| step.rate.bits() > 0)
    })
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_integral_is_that_of_its_steps(steps in any_steps(), micros in 0_u64..500_000) {
        let schedule = RateSchedule::repeating(&steps).unwrap();
        let until = Duration::from_micros(micros);
        // The bytes that fit are done by then, and one more is not.
        let fits = usize::try_from(nanobits_by(&steps, until) / nanobits_of(1)).unwrap();
        let (fits, exceeds) = (Work::of_bytes(fits), Work::of_bytes(fits + 1));
        prop_assert!(fits <= schedule.work_by(until) && schedule.work_by(until) < exceeds);
        prop_assert!(schedule.time_of(fits) <= until && until < schedule.time_of(exceeds));
    }

    #[test]
    fn the_inverse_is_the_first_moment(steps in any_steps(), bytes in 1_usize..100_000) {
        let schedule = RateSchedule::repeating(&steps).unwrap();
        let work = Work::of_bytes(bytes);
        let done = schedule.time_of(work);
        prop_assert!(schedule.work_by(done) >= work);
        prop_assert!(schedule.work_by(done - Duration::from_nanos(1)) < work);
    }

    #[test]
    fn the_mean_is_the_work_of_a_period(steps in any_steps()) {
        let schedule = RateSchedule::repeating(&steps).unwrap();
        let period: Duration = steps.iter().map(|step| step.lasts).sum();
        prop_assert_eq!(schedule.period(), period);
        let mean = nanobits_by(&steps, period) / period.as_nanos();
        prop_assert_eq!(u128::from(schedule.mean().bits()), mean);
    }
}

#[test]
fn extreme_rates_neither_overflow_nor_panic() {
    let year = Duration::from_secs(365 * 24 * 3_600);
    let unlimited = RateSchedule::constant(BitRate::UNLIMITED);
    assert_eq!(
        unlimited.time_of(Work::of_bytes(1_500)),
        Duration::from_nanos(1)
    );
    assert!(unlimited.time_of(unlimited.work_by(year)) == year);
    let slowest = RateSchedule::constant(BitRate::bits_per_second(1));
    assert_eq!(slowest.time_of(Work::of_bytes(10)), Duration::from_secs(80));
    assert_eq!(unlimited.mean().bytes_in(year), u64::MAX);
}

#[test]
fn steps_that_make_no_schedule_are_refused() {
    let step = |bits, millis| RateStep {
        rate: BitRate::bits_per_second(bits),
        lasts: Duration::from_millis(millis),
    };
    let refused = |steps: &[RateStep]| RateSchedule::repeating(steps).unwrap_err();
    assert_eq!(refused(&[]), ScheduleError::StepCount { count: 0 });
    assert_eq!(
        refused(&[step(0, 1), step(0, 5)]),
        ScheduleError::NoCapacity
    );
    assert_eq!(
        refused(&[step(1, 1), step(1, 0)]),
        ScheduleError::EmptyStep { index: 1 }
    );
    assert_eq!(
        refused(&[step(1, 1), step(1, 1 << 40)]),
        ScheduleError::TooLong
    );
}
