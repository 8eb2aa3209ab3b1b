//! How fast this edge computes public prompts: measured at the start, corrected by every public prompt
//! of which it computed layers since, for processors are shared and attention's share grows with the
//! prompt. It reads no clock.
//!
//! Only public tokens are timed. That a busy machine takes longer shows in it, as in everything that
//! such a machine sends.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::prefill_speed::PrefillSpeed;

/// How long what was seen decides. An edge that once found itself slow would else fetch for ever, and
/// never see that it is not.
const SEEN_LASTS: Duration = Duration::from_secs(600);

/// This edge's speed. Clones share it.
#[derive(Clone, Debug)]
pub struct OwnSpeed {
    measured: PrefillSpeed,
    seen: Arc<Mutex<Option<(PrefillSpeed, Instant)>>>,
}

impl OwnSpeed {
    /// As it was measured at the start.
    pub fn new(measured: PrefillSpeed) -> Self {
        let seen = Arc::default();
        Self { measured, seen }
    }

    /// The speed to count on.
    pub fn at(&self, now: Instant) -> PrefillSpeed {
        self.seen_at(now).unwrap_or(self.measured)
    }

    fn seen_at(&self, now: Instant) -> Option<PrefillSpeed> {
        let seen = *self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let lasting = seen.filter(|(_, at)| now.saturating_duration_since(*at) < SEEN_LASTS);
        lasting.map(|(speed, _)| speed)
    }

    /// Takes in how fast layers of a prompt were computed: that says more than a measurement, and half
    /// of what is counted on is always the last one's. One of fewer tokens than were measured says little, for reading the weights takes long
    /// then.
    pub fn note(&self, seen: PrefillSpeed, now: Instant) {
        if seen.token_count() < self.measured.token_count() {
            return;
        }
        let speed = self.seen_at(now).map_or(seen, |before| before.mean(seen));
        *self.seen.lock().unwrap_or_else(PoisonError::into_inner) = Some((speed, now));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn what_is_seen_corrects_what_was_measured_until_it_is_old() {
        let own = OwnSpeed::new(PrefillSpeed::new(20 * MS, 128));
        let (start, clone) = (Instant::now(), own.clone());
        let layer = |now| clone.at(now).layer(512);
        assert_eq!(layer(start), 80 * MS);
        own.note(PrefillSpeed::new(160 * MS, 512), start);
        assert_eq!(layer(start), 160 * MS);
        own.note(PrefillSpeed::new(240 * MS, 1024), start + MS);
        assert_eq!(layer(start + MS), 140 * MS, "nearer to what is so now");
        assert_eq!(layer(start + SEEN_LASTS), 140 * MS);
        assert_eq!(layer(start + MS + SEEN_LASTS), 80 * MS);
    }

    #[test]
    fn a_short_prompt_says_nothing_of_a_long_one() {
        let own = OwnSpeed::new(PrefillSpeed::new(20 * MS, 128));
        let now = Instant::now();
        own.note(PrefillSpeed::new(15 * MS, 8), now);
        assert_eq!(own.at(now), PrefillSpeed::new(20 * MS, 128));
        own.note(PrefillSpeed::new(40 * MS, 128), now);
        assert_eq!(own.at(now), PrefillSpeed::new(40 * MS, 128));
    }
}
