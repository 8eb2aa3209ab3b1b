//! An edge that is slower than its cloud, on a machine where both have processors alike.

use std::time::{Duration, Instant};

use edge_node::crew::debt::Debt;
use edgeprompt_engine::PassEvent;

/// After each piece of work, the edge rests as long as makes it its share of the time: a layer then takes
/// as long as on a processor that is so much slower. What it waits for takes no share.
pub(super) struct Brake<P = Pace> {
    pace: P,
    since: Instant,
}

/// Tells the time, and rests.
pub(super) trait Paced {
    fn now(&self) -> Instant;
    /// Rests for what so much work owes.
    fn rest(&mut self, worked: Duration);
}

/// By the machine's clock.
pub(super) struct Pace(Debt);

impl Paced for Pace {
    fn now(&self) -> Instant {
        Instant::now()
    }

    fn rest(&mut self, worked: Duration) {
        self.0.pay(worked);
    }
}

impl Brake {
    /// For an edge that computes so many of a hundred.
    pub(super) fn of(percent: u8) -> Self {
        Self::with(Pace(Debt::of(percent)))
    }
}

impl<P: Paced> Brake<P> {
    fn with(pace: P) -> Self {
        let since = pace.now();
        Self { pace, since }
    }

    /// Work begins.
    pub(super) fn begin(&mut self) {
        self.since = self.pace.now();
    }

    /// A piece of it is done.
    pub(super) fn worked(&mut self) {
        let worked = self.pace.now().saturating_duration_since(self.since);
        self.pace.rest(worked);
        self.begin();
    }

    /// Something happens in a step.
    pub(super) fn heard(&mut self, event: PassEvent) {
        match event {
            // Nothing is waited for within a step.
            PassEvent::Resumed | PassEvent::Computed(_) | PassEvent::Missing(_) => self.worked(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeprompt_kv::LayerIndex;

    const MS: Duration = Duration::from_millis(1);

    /// Rests for three times as long as was worked, by a clock that only this moves.
    struct Told {
        now: Instant,
        rested_for: Vec<Duration>,
    }

    impl Paced for Told {
        fn now(&self) -> Instant {
            self.now
        }

        fn rest(&mut self, worked: Duration) {
            self.rested_for.push(worked);
            self.now += 3 * worked;
        }
    }

    #[test]
    fn every_piece_of_work_is_rested_for_and_neither_rests_nor_waits_are() {
        let began = Instant::now();
        let mut brake = Brake::with(Told {
            now: began,
            rested_for: Vec::new(),
        });
        // Waiting for somebody else.
        brake.pace.now += 100 * MS;
        brake.begin();
        brake.pace.now += 2 * MS;
        brake.heard(PassEvent::Computed(LayerIndex(0)));
        brake.pace.now += 5 * MS;
        brake.heard(PassEvent::Missing(LayerIndex(1)));
        brake.pace.now += MS;
        brake.worked();
        brake.pace.now += 50 * MS;
        brake.begin();
        brake.pace.now += 4 * MS;
        brake.heard(PassEvent::Resumed);
        let worked = [2, 5, 1, 4].map(|ms| ms * MS);
        assert_eq!(brake.pace.rested_for, worked);
        let work: Duration = worked.iter().sum();
        assert_eq!(brake.pace.now - began, 150 * MS + 4 * work);
    }
}
