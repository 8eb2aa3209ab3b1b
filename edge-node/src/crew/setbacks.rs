//! Workers that were lost, by name: whoever comes back is given nothing to do for a while, and for longer
//! each time, for with each loss everything is computed again.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

const PAUSE: Duration = Duration::from_secs(1);
const PAUSE_MAX: Duration = Duration::from_secs(300);

/// After so long without another one, losses are forgotten.
const FORGOTTEN_AFTER: Duration = Duration::from_secs(1800);

/// Most names.
const NAMES_MAX: usize = 1024;

struct Setback {
    count: u32,
    last: Instant,
}

impl Setback {
    fn pause(&self) -> Duration {
        let doubled = 1u32.checked_shl(self.count.saturating_sub(1));
        PAUSE
            .saturating_mul(doubled.unwrap_or(u32::MAX))
            .min(PAUSE_MAX)
    }
}

/// Who was lost, how often and when.
#[derive(Default)]
pub(crate) struct Setbacks(BTreeMap<String, Setback>);

impl Setbacks {
    /// A worker is lost; how long it is given nothing.
    pub(crate) fn note(&mut self, name: &str, now: Instant) -> Duration {
        self.0
            .retain(|_, it| now.saturating_duration_since(it.last) < FORGOTTEN_AFTER);
        while self.0.len() >= NAMES_MAX {
            self.0.pop_first();
        }
        let setback = self.0.entry(name.to_owned()).or_insert(Setback {
            count: 0,
            last: now,
        });
        setback.count = setback.count.saturating_add(1);
        setback.last = now;
        setback.pause()
    }

    /// Whether a worker is still to wait.
    pub(crate) fn is_waiting(&self, name: &str, now: Instant) -> bool {
        self.0
            .get(name)
            .is_some_and(|it| now.saturating_duration_since(it.last) < it.pause())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_waits_longer_after_each_loss_until_they_are_long_ago() {
        let mut now = Instant::now();
        let mut setbacks = Setbacks::default();
        assert!(!setbacks.is_waiting("a", now));
        for seconds in [1, 2, 4, 8, 16, 32, 64, 128, 256, 300, 300] {
            let pause = Duration::from_secs(seconds);
            assert_eq!(setbacks.note("a", now), pause);
            let almost = now + pause - Duration::from_millis(1);
            assert!(setbacks.is_waiting("a", almost));
            assert!(!setbacks.is_waiting("b", almost), "another one");
            now += pause;
            assert!(!setbacks.is_waiting("a", now));
        }
        now += FORGOTTEN_AFTER;
        assert_eq!(setbacks.note("a", now), PAUSE);
    }

    #[test]
    fn names_take_no_more_than_so_much() {
        let now = Instant::now();
        let mut setbacks = Setbacks::default();
        (0..3 * NAMES_MAX).for_each(|index| {
            setbacks.note(&index.to_string(), now);
        });
        assert!(setbacks.0.len() <= NAMES_MAX);
    }
}
