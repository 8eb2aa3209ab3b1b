//! How much a link carries by when: a repeating schedule of rates, integrated exactly in whole
//! numbers. Reads no files; see [`super::trace`] for those.

use std::sync::Arc;
use std::time::Duration;

/// Most steps of one schedule: a trace of twelve days, one step a second.
pub const RATE_STEPS_MAX: usize = 1 << 20;

/// Longest period of one schedule. With the steps' rates below 2⁶⁴ bit/s the work of a period stays
/// below 2¹¹⁵, and so that of any time a [`Duration`] of nanoseconds in 64 bits can name in 2¹²⁸.
const PERIOD_MAX: Duration = Duration::from_secs(1 << 20);

/// A rate of data, counted in bits of UDP payload: the 28 octets of IPv4 and UDP header that a
/// datagram also has are not charged.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BitRate(u64);

impl BitRate {
    /// Faster than anything that a computer sends: such a link only delays.
    pub const UNLIMITED: Self = Self(u64::MAX);

    /// So many bits each second.
    pub const fn bits_per_second(bits: u64) -> Self {
        Self(bits)
    }

    /// So many million bits each second.
    pub const fn megabits_per_second(megabits: u64) -> Self {
        Self(megabits.saturating_mul(1_000_000))
    }

    /// The rate in bits each second.
    pub const fn bits(self) -> u64 {
        self.0
    }

    /// The bytes that pass in `time`, rounded down.
    pub fn bytes_in(self, time: Duration) -> u64 {
        let bytes = u128::from(self.0) * time.as_nanos() / (8 * NANOS_PER_SECOND);
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }
}

const NANOS_PER_SECOND: u128 = 1_000_000_000;

/// An amount of transmission, in bits × 10⁻⁹: what a rate of 1 bit/s carries in one nanosecond.
/// In this unit rates and times multiply without rounding.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Work(u128);

impl Work {
    pub(super) const NONE: Self = Self(0);

    pub(super) fn of_bytes(bytes: usize) -> Self {
        Self(bytes as u128 * 8 * NANOS_PER_SECOND)
    }

    pub(super) const fn plus(self, more: Self) -> Self {
        Self(self.0.saturating_add(more.0))
    }
}

/// A rate and how long it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RateStep {
    /// The rate.
    pub rate: BitRate,
    /// For how long; not zero.
    pub lasts: Duration,
}

/// Why steps make no schedule.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ScheduleError {
    /// There are no steps, or too many.
    #[error("{count} steps of rate; a schedule has 1 to {RATE_STEPS_MAX}")]
    StepCount {
        /// How many there are.
        count: usize,
    },
    /// A step takes no time.
    #[error("step {index} lasts no time")]
    EmptyStep {
        /// Which, counted from 0.
        index: usize,
    },
    /// The steps together take too long.
    #[error("the steps last longer than {} s together", PERIOD_MAX.as_secs())]
    TooLong,
    /// Every rate is zero: nothing would ever arrive.
    #[error("the rate is zero throughout")]
    NoCapacity,
}

/// The rate of a link over time: steps that repeat for ever.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RateSchedule {
    /// Shared, for a trace is long and a profile is copied freely.
    steps: Arc<[PlacedStep]>,
    period_nanos: u128,
    period_work: u128,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct PlacedStep {
    rate: BitRate,
    start_nanos: u128,
    work_before: u128,
}

impl RateSchedule {
    /// Always the same rate.
    ///
    /// # Panics
    /// If the rate is zero; stall or cut the link instead.
    pub fn constant(rate: BitRate) -> Self {
        let lasts = Duration::from_secs(1);
        Self::repeating(&[RateStep { rate, lasts }]).expect("a link has a rate above zero")
    }

    /// The steps one after the other, again and again.
    ///
    /// # Errors
    /// [`ScheduleError`].
    pub fn repeating(steps: &[RateStep]) -> Result<Self, ScheduleError> {
        if steps.is_empty() || steps.len() > RATE_STEPS_MAX {
            return Err(ScheduleError::StepCount { count: steps.len() });
        }
        let mut placed = Vec::with_capacity(steps.len());
        let (mut start_nanos, mut work_before) = (0, 0);
        for (index, step) in steps.iter().enumerate() {
            if step.lasts.is_zero() {
                return Err(ScheduleError::EmptyStep { index });
            }
            placed.push(PlacedStep {
                rate: step.rate,
                start_nanos,
                work_before,
            });
            start_nanos += step.lasts.as_nanos();
            if start_nanos > PERIOD_MAX.as_nanos() {
                return Err(ScheduleError::TooLong);
            }
            work_before += u128::from(step.rate.0) * step.lasts.as_nanos();
        }
        if work_before == 0 {
            return Err(ScheduleError::NoCapacity);
        }
        Ok(Self {
            steps: placed.into(),
            period_nanos: start_nanos,
            period_work: work_before,
        })
    }

    /// The mean rate, rounded down.
    pub fn mean(&self) -> BitRate {
        let mean = self.period_work / self.period_nanos;
        BitRate(u64::try_from(mean).expect("a mean is at most the largest rate"))
    }

    /// How long the steps take until they repeat.
    pub fn period(&self) -> Duration {
        duration_of(self.period_nanos)
    }

    /// What the link can have carried `after` so long.
    pub(super) fn work_by(&self, after: Duration) -> Work {
        let periods = after.as_nanos() / self.period_nanos;
        let within = after.as_nanos() % self.period_nanos;
        let next = self
            .steps
            .partition_point(|step| step.start_nanos <= within);
        let step = self.steps[next - 1];
        let in_step = u128::from(step.rate.0) * (within - step.start_nanos);
        Work(periods * self.period_work + step.work_before + in_step)
    }

    /// When the link can first have carried `work`, rounded up to a whole nanosecond.
    pub(super) fn time_of(&self, work: Work) -> Duration {
        let Some(last) = work.0.checked_sub(1) else {
            return Duration::ZERO;
        };
        let periods = last / self.period_work;
        // From 1 to the work of a period, so that the step found below has a rate above zero.
        let within = last % self.period_work + 1;
        let next = self.steps.partition_point(|step| step.work_before < within);
        let step = self.steps[next - 1];
        let in_step = (within - step.work_before).div_ceil(u128::from(step.rate.0));
        let nanos = periods * self.period_nanos + step.start_nanos + in_step;
        duration_of(nanos)
    }
}

/// 584 years stand for anything longer.
fn duration_of(nanos: u128) -> Duration {
    Duration::from_nanos(u64::try_from(nanos).unwrap_or(u64::MAX))
}
