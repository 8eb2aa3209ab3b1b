//! How fast layers arrive while any is on its way: what a link can bring, as its receiver sees it.
//! It has no clock; pauses between layers do not count.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use crate::config::BitRate;

/// Bytes of one sample: enough that a burst within it does not matter.
const SAMPLE_BYTES: u64 = 128 << 10;

/// Samples that count: the last 4 MiB, so that a link that changes is followed within a layer or
/// two.
const SAMPLES_MAX: usize = 32;

/// Counts arriving bytes and the time in which they could arrive.
#[derive(Clone, Debug, Default)]
pub(crate) struct ArrivalMeter {
    /// Layers on their way, and until when their time is counted.
    open_count: usize,
    counted_until: Option<Instant>,
    sample: Sample,
    samples: VecDeque<Sample>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Sample {
    bytes: u64,
    time: Duration,
}

impl ArrivalMeter {
    /// A layer begins to arrive.
    pub(crate) fn begin(&mut self, now: Instant) {
        self.count(now, 0);
        self.open_count += 1;
    }

    /// So many bytes of some layer arrived.
    pub(crate) fn count(&mut self, now: Instant, bytes: usize) {
        if let (Some(until), true) = (self.counted_until, self.open_count > 0) {
            self.sample.time += now.saturating_duration_since(until);
        }
        self.counted_until = self.counted_until.max(Some(now));
        self.sample.bytes += u64::try_from(bytes).unwrap_or(u64::MAX);
        if self.sample.bytes >= SAMPLE_BYTES && !self.sample.time.is_zero() {
            self.samples.push_back(std::mem::take(&mut self.sample));
            if self.samples.len() > SAMPLES_MAX {
                self.samples.pop_front();
            }
        }
    }

    /// A layer arrived or will not.
    pub(crate) fn end(&mut self, now: Instant) {
        self.count(now, 0);
        self.open_count = self.open_count.saturating_sub(1);
    }

    /// The mean rate over the last samples, once there is one.
    pub(crate) fn rate(&self) -> Option<BitRate> {
        self.samples.front()?;
        let bytes = self.samples.iter().map(|sample| sample.bytes).sum();
        let time = self.samples.iter().map(|sample| sample.time).sum();
        Some(BitRate::of(bytes, time))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LAYER_BYTES: usize = 1 << 20;

    /// A layer in sixteen pieces within `time`; returns when it ended.
    fn layer(meter: &mut ArrivalMeter, begin: Instant, time: Duration) -> Instant {
        meter.begin(begin);
        for piece in 1..=16 {
            meter.count(begin + time * piece / 16, LAYER_BYTES / 16);
        }
        meter.end(begin + time);
        begin + time
    }

    #[test]
    fn pauses_between_layers_do_not_count() {
        let mut meter = ArrivalMeter::default();
        assert_eq!(meter.rate(), None);
        let mut now = Instant::now();
        for _ in 0..3 {
            now = layer(&mut meter, now, Duration::from_millis(100)) + Duration::from_secs(5);
        }
        let megabits = meter.rate().unwrap().as_bits_per_second() / 1_000_000;
        assert_eq!(megabits, 83, "a mebibyte in 100 ms");
    }

    #[test]
    fn layers_side_by_side_count_once_and_old_ones_are_forgotten() {
        let mut meter = ArrivalMeter::default();
        let mut now = Instant::now();
        now = layer(&mut meter, now, Duration::from_secs(10));
        for _ in 0..4 {
            let begin = now;
            meter.begin(begin);
            now = layer(&mut meter, begin, Duration::from_millis(100));
            meter.end(now);
        }
        let megabits = meter.rate().unwrap().as_bits_per_second() / 1_000_000;
        assert_eq!(megabits, 83);
    }
}
