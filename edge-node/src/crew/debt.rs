//! A device that computes only some of the time: after each part it rests as long as makes it so much of
//! the time, so that a part takes as long as on a device that is so much slower.

use std::thread;
use std::time::{Duration, Instant};

/// Less than this is not slept: it is added to the next rest. About what a system wakes too late.
const REST_MIN: Duration = Duration::from_micros(50);

/// How long a device owes rest. A thread sleeps longer than it is told to: what is too much in one rest is
/// taken off the next, so that over some parts the share is what it should be.
#[derive(Debug)]
pub struct Debt {
    /// Rest for each second of work.
    per_second: f64,
    /// In seconds; below zero after a rest that was too long.
    owed: f64,
}

impl Debt {
    /// Of a device that computes so many of a hundred.
    pub fn of(percent: u8) -> Self {
        let percent = f64::from(percent.clamp(1, 100));
        Self {
            per_second: (100.0 - percent) / percent,
            owed: 0.0,
        }
    }

    /// After so long at work, rests for what is owed.
    pub fn pay(&mut self, worked: Duration) {
        let Some(rest) = self.work(worked) else {
            return;
        };
        let began = Instant::now();
        thread::sleep(rest);
        self.rested(began.elapsed());
    }

    /// So long was worked; how long to rest now, if it is worth it.
    fn work(&mut self, worked: Duration) -> Option<Duration> {
        self.owed += worked.as_secs_f64() * self.per_second;
        let rest = Duration::try_from_secs_f64(self.owed).ok()?;
        (rest >= REST_MIN).then_some(rest)
    }

    /// So long it was.
    fn rested(&mut self, rested: Duration) {
        self.owed -= rested.as_secs_f64();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rests_that_are_too_long_are_made_up_for() {
        let part = Duration::from_micros(300);
        let late = Duration::from_micros(60);
        let mut debt = Debt::of(40);
        let (mut worked, mut rested) = (Duration::ZERO, Duration::ZERO);
        for _ in 0..1000 {
            worked += part;
            if let Some(rest) = debt.work(part) {
                debt.rested(rest + late);
                rested += rest + late;
            }
        }
        let share = worked.as_secs_f64() / (worked + rested).as_secs_f64();
        assert!((share - 0.4).abs() < 0.001, "{share}");
    }

    #[test]
    fn who_computes_all_the_time_never_rests() {
        let mut debt = Debt::of(100);
        assert_eq!(debt.work(Duration::from_secs(100)), None);
    }

    #[test]
    fn small_parts_rest_together() {
        let mut debt = Debt::of(50);
        assert_eq!(debt.work(Duration::from_micros(30)), None);
        let rest = debt.work(Duration::from_micros(30)).unwrap();
        assert!(rest > Duration::from_micros(55) && rest < Duration::from_micros(65));
    }
}
