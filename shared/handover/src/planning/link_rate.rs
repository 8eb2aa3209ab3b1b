//! How fast the link between source and target is, over time.

use thiserror::Error;

use super::number::{InvalidNumber, not_negative, positive};

/// One rate and how long it holds.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RateStep {
    /// Bits per second; 0 where nothing passes.
    pub bits_per_s: f64,
    /// Seconds.
    pub lasts_s: f64,
}

/// Most steps of a trace: a day at ten a second.
pub const RATE_STEPS_MAX: usize = 1_000_000;

/// What is wrong with a link.
#[derive(Clone, Debug, PartialEq, Error)]
pub enum LinkError {
    /// A number.
    #[error(transparent)]
    Number(#[from] InvalidNumber),
    /// A trace without steps, or with too many.
    #[error("a trace has 1 to {RATE_STEPS_MAX} steps, and this one has {0}")]
    StepCount(usize),
}

/// The rate of a link and its one-way delay. Something always passes in the end.
#[derive(Clone, Debug, PartialEq)]
pub struct LinkRate {
    steps: Vec<Step>,
    period_s: f64,
    bits_per_period: f64,
    delay_s: f64,
}

#[derive(Clone, Copy, Debug, PartialEq)]
struct Step {
    starts_s: f64,
    bits_before: f64,
    bits_per_s: f64,
}

/// One stretch of time at one rate.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Stretch {
    pub(crate) starts_s: f64,
    pub(crate) ends_s: f64,
    pub(crate) bits_per_s: f64,
}

impl LinkRate {
    /// The same rate for ever.
    ///
    /// # Errors
    /// If the rate is not above 0.
    pub fn constant(bits_per_s: f64) -> Result<Self, LinkError> {
        positive("bits per second of a link", bits_per_s)?;
        Self::repeating(&[RateStep {
            bits_per_s,
            lasts_s: 1.0,
        }])
    }

    /// Rates that follow each other from time 0 and then repeat, as those of a trace.
    ///
    /// # Errors
    /// If there are no steps or too many, a step does not last, or nothing passes in any of them.
    pub fn repeating(steps: &[RateStep]) -> Result<Self, LinkError> {
        if steps.is_empty() || steps.len() > RATE_STEPS_MAX {
            return Err(LinkError::StepCount(steps.len()));
        }
        let (mut period_s, mut bits_per_period) = (0.0, 0.0);
        let mut known = Vec::with_capacity(steps.len());
        for step in steps {
            let bits_per_s = not_negative("bits per second of a link", step.bits_per_s)?;
            let lasts_s = positive("seconds that a rate lasts", step.lasts_s)?;
            known.push(Step {
                starts_s: period_s,
                bits_before: bits_per_period,
                bits_per_s,
            });
            period_s += lasts_s;
            bits_per_period += bits_per_s * lasts_s;
        }
        Ok(Self {
            steps: known,
            period_s: positive("seconds of a trace", period_s)?,
            bits_per_period: positive("bits that pass in a trace", bits_per_period)?,
            delay_s: 0.0,
        })
    }

    /// The same with a delay: what has left arrives so much later.
    ///
    /// # Errors
    /// If it is below 0 or no number.
    pub fn with_delay(self, delay_s: f64) -> Result<Self, LinkError> {
        let delay_s = not_negative("delay of a link in s", delay_s)?;
        Ok(Self { delay_s, ..self })
    }

    /// The one-way delay.
    pub const fn delay_s(&self) -> f64 {
        self.delay_s
    }

    /// Bits per second in the long run.
    pub fn mean_bits_per_s(&self) -> f64 {
        self.bits_per_period / self.period_s
    }

    /// Whether the rate never changes.
    const fn is_constant(&self) -> bool {
        self.steps.len() == 1
    }

    /// Bits that pass from time 0 until then.
    pub(crate) fn bits_until(&self, time_s: f64) -> f64 {
        if self.is_constant() {
            return time_s * self.steps[0].bits_per_s;
        }
        let periods = (time_s / self.period_s).floor();
        let within = (time_s - periods * self.period_s).clamp(0.0, self.period_s);
        let step = &self.steps[self.step_at(within)];
        let bits = step.bits_before + (within - step.starts_s) * step.bits_per_s;
        periods * self.bits_per_period + bits
    }

    /// The first moment by which so many bits have passed since time 0.
    pub(crate) fn time_of(&self, bits: f64) -> f64 {
        if self.is_constant() {
            return bits / self.steps[0].bits_per_s;
        }
        let mut periods = (bits / self.bits_per_period).floor();
        let mut within = bits - periods * self.bits_per_period;
        // At the border of two periods the first moment is in the earlier one.
        if within <= 0.0 && periods >= 1.0 {
            periods -= 1.0;
            within = self.bits_per_period;
        }
        if within <= 0.0 {
            return 0.0;
        }
        let index = self.steps.partition_point(|step| step.bits_before < within);
        let step = &self.steps[index.saturating_sub(1)];
        let into = (within - step.bits_before) / step.bits_per_s;
        periods * self.period_s + step.starts_s + into
    }

    /// The stretches at a constant, positive rate in which the bits from `bits.start` to `bits.end`
    /// pass, counted from time 0.
    pub(crate) fn stretches(&self, bits: std::ops::Range<f64>) -> Stretches<'_> {
        Stretches {
            link: self,
            next_bits: bits.start,
            end_bits: bits.end,
        }
    }

    /// The stretch in which the next bit passes when so many have, and how many have at its end.
    fn stretch(&self, from: f64) -> (Stretch, f64) {
        let stretch = |starts_s, bits_per_s| Stretch {
            starts_s,
            ends_s: f64::INFINITY,
            bits_per_s,
        };
        if self.is_constant() {
            let rate = self.steps[0].bits_per_s;
            return (stretch(from / rate, rate), f64::INFINITY);
        }
        let mut periods = (from / self.bits_per_period).floor();
        // Rounding may find the end of a period where the next one begins.
        if from - periods * self.bits_per_period >= self.bits_per_period {
            periods += 1.0;
        }
        let base = periods * self.bits_per_period;
        let within = (from - base).max(0.0);
        // The last step that begins with no more: steps at which nothing passes are skipped.
        let after = self
            .steps
            .partition_point(|step| step.bits_before <= within);
        let step = &self.steps[after.saturating_sub(1)];
        let next = self.steps.get(after);
        let ends = next.map_or(self.bits_per_period, |next| next.bits_before);
        let into_s = (within - step.bits_before) / step.bits_per_s;
        let starts_s = periods * self.period_s + step.starts_s + into_s;
        (stretch(starts_s, step.bits_per_s), base + ends)
    }

    fn step_at(&self, within_s: f64) -> usize {
        let after = self.steps.partition_point(|step| step.starts_s <= within_s);
        after.saturating_sub(1)
    }
}

/// See [`LinkRate::stretches`].
pub(crate) struct Stretches<'a> {
    link: &'a LinkRate,
    next_bits: f64,
    end_bits: f64,
}

/// A stretch of no more than this share of all bits until then is nothing but rounding.
const ROUNDING: f64 = 1e-14;

impl Iterator for Stretches<'_> {
    type Item = Stretch;

    fn next(&mut self) -> Option<Stretch> {
        while self.next_bits < self.end_bits {
            let from = self.next_bits;
            let (stretch, until) = self.link.stretch(from);
            // Rounding must not keep a stretch from ending.
            let to = until.max(from.next_up()).min(self.end_bits);
            self.next_bits = to;
            if to - from > ROUNDING * from {
                let ends_s = stretch.starts_s + (to - from) / stretch.bits_per_s;
                return Some(Stretch { ends_s, ..stretch });
            }
        }
        None
    }
}
