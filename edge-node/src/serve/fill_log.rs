//! When the layers of one cloud prompt came, while they come and afterwards. Public facts only.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use edgeprompt_telemetry::timeline::LayerTimeline;

/// The timeline of one fill, which others read while it is written.
#[derive(Debug)]
pub(crate) struct FillLog {
    began_at: Instant,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    timeline: LayerTimeline,
    ended_at: Option<Instant>,
}

impl FillLog {
    /// A fill of `layer_count` layers that begins now.
    pub(crate) fn begin(layer_count: usize, now: Instant) -> Self {
        Self {
            began_at: now,
            seen: Mutex::new(Seen {
                timeline: LayerTimeline::with_layers(layer_count),
                ended_at: None,
            }),
        }
    }

    /// The zero of its timeline.
    pub(crate) const fn began_at(&self) -> Instant {
        self.began_at
    }

    /// So far it is now.
    pub(crate) fn note(&self, timeline: &LayerTimeline) {
        self.seen().timeline = timeline.clone();
    }

    /// It has ended.
    pub(crate) fn end(&self, timeline: &LayerTimeline, now: Instant) {
        let timeline = timeline.clone();
        let ended_at = Some(now);
        *self.seen() = Seen { timeline, ended_at };
    }

    /// What happened so far.
    pub(crate) fn timeline(&self) -> LayerTimeline {
        self.seen().timeline.clone()
    }

    /// When it began, in milliseconds after a request arrived, which is less than 0 if it was under
    /// way by then. `None` if it had ended: when somebody else asked for a prompt is not told.
    pub(crate) fn began_ms(&self, asked_at: Instant) -> Option<f64> {
        if self.seen().ended_at.is_some_and(|ended| ended < asked_at) {
            return None;
        }
        let after = self.began_at.saturating_duration_since(asked_at);
        let before = asked_at.saturating_duration_since(self.began_at);
        Some((after.as_secs_f64() - before.as_secs_f64()) * 1e3)
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_fill_is_placed_beside_the_requests_that_it_kept_waiting() {
        let began = Instant::now();
        let at = |ms| began + Duration::from_millis(ms);
        let log = FillLog::begin(1, at(100));
        assert_eq!(log.began_ms(at(90)), Some(10.0));
        assert_eq!(log.began_ms(at(130)), Some(-30.0));
        log.end(&LayerTimeline::with_layers(1), at(120));
        assert_eq!(log.began_ms(at(110)), Some(-10.0));
        assert_eq!(log.began_ms(at(130)), None, "it had ended");
    }
}
