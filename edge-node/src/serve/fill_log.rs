//! When the layers of one cloud prompt came, while they come and afterwards, and when they were to
//! come. Public facts only.

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use edgeprompt_telemetry::timeline::LayerTimeline;

use crate::serve::plan_log::Planned;

/// The timeline of one fill, which others read while it is written.
#[derive(Debug)]
pub(crate) struct FillLog {
    began_at: Instant,
    planned: Option<Planned>,
    seen: Mutex<Seen>,
}

#[derive(Debug)]
struct Seen {
    timeline: LayerTimeline,
    ended_at: Option<Instant>,
}

/// When layers came that a request may have waited for, after it arrived.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct LayersCame {
    /// The one that came first.
    pub(crate) first: Duration,
    /// The one that came last.
    pub(crate) last: Duration,
}

impl FillLog {
    /// A fill of `layer_count` layers that begins now.
    pub(crate) fn begin(layer_count: usize, now: Instant) -> Self {
        Self {
            began_at: now,
            planned: None,
            seen: Mutex::new(Seen {
                timeline: LayerTimeline::with_layers(layer_count),
                ended_at: None,
            }),
        }
    }

    /// The same, of what was planned.
    pub(crate) fn following(self, planned: Option<Planned>) -> Self {
        Self { planned, ..self }
    }

    /// What it follows, if there was a choice or something to foretell.
    pub(crate) const fn planned(&self) -> Option<&Planned> {
        self.planned.as_ref()
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

    /// When the layers were here, after a request arrived; no time at all for what was here before.
    /// `None` if all were: when somebody else asked for a prompt is not told.
    pub(crate) fn layers_came(&self, asked_at: Instant) -> Option<LayersCame> {
        let seen = self.seen();
        if seen.ended_at.is_some_and(|ended| ended < asked_at) {
            return None;
        }
        // A layer is here once something was done with it: a tensor made of what came, or all of it.
        let layers = seen.timeline.layers.iter();
        let came = layers.filter_map(|layer| layer.edge_compute.last());
        let came = came.map(|span| {
            let at = self.began_at + span.end();
            at.saturating_duration_since(asked_at)
        });
        let (first, last) = (came.clone().min()?, came.max()?);
        Some(LayersCame { first, last })
    }

    fn seen(&self) -> MutexGuard<'_, Seen> {
        self.seen.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use edgeprompt_telemetry::timeline::Span;

    #[test]
    fn layers_came_after_the_request_or_were_there() {
        let (began, ms) = (Instant::now(), Duration::from_millis);
        let log = FillLog::begin(3, began);
        assert_eq!(log.layers_came(began), None, "none yet");
        let mut timeline = LayerTimeline::with_layers(3);
        for (layer, at) in timeline.layers.iter_mut().zip([10, 20, 40]) {
            layer.edge_compute.push(Span::new(ms(at - 1), ms(at)));
        }
        log.end(&timeline, began + ms(40));
        let came = |asked| {
            let came = log.layers_came(began + ms(asked))?;
            Some((came.first, came.last))
        };
        assert_eq!(came(0), Some((ms(10), ms(40))));
        assert_eq!(came(15), Some((ms(0), ms(25))));
        assert_eq!(came(41), None);
    }

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
