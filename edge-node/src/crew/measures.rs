//! What devices compute and links carry, from what was measured.

use std::time::{Duration, Instant};

use edgeprompt_engine::SpeedProbe;

/// Runs of the probe: the first warm up, and of the others the middle counts.
const WARM_UP_RUNS: usize = 3;
const RUNS: usize = 9;

/// What this device computes when a sequence generates, in floating-point operations a second. Takes
/// some milliseconds.
pub fn own_speed(probe: &SpeedProbe) -> f64 {
    let mut times: Vec<Duration> = (0..WARM_UP_RUNS + RUNS)
        .map(|_| {
            let began = Instant::now();
            probe.run();
            began.elapsed()
        })
        .skip(WARM_UP_RUNS)
        .collect();
    times.sort_unstable();
    let middle = times[RUNS / 2].max(Duration::from_nanos(1));
    SpeedProbe::flops() as f64 / middle.as_secs_f64()
}

/// A number that follows measurements at leisure: load comes and goes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Smoothed(f64);

impl Smoothed {
    /// How much a new measurement counts.
    const SHARE: f64 = 0.3;

    pub(crate) const fn new(first: f64) -> Self {
        Self(first)
    }

    pub(crate) fn note(&mut self, measured: f64) {
        if measured.is_finite() && measured > 0.0 {
            self.0 += Self::SHARE * (measured - self.0);
        }
    }

    pub(crate) const fn get(self) -> f64 {
        self.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_smoothed_number_follows_and_takes_no_nonsense() {
        let mut speed = Smoothed::new(10.0);
        for nonsense in [f64::NAN, f64::INFINITY, 0.0, -1.0] {
            speed.note(nonsense);
        }
        assert_eq!(speed.get(), 10.0);
        speed.note(20.0);
        assert!((speed.get() - 13.0).abs() < 1e-9);
        (0..50).for_each(|_| speed.note(20.0));
        assert!((speed.get() - 20.0).abs() < 1e-3);
    }
}
