//! What each layer of one request's prefill took on this edge, from the engine's events and the
//! times at which they were heard. Pure; times count from the request's arrival.

use std::time::Duration;

use edgeprompt_engine::PassEvent;
use edgeprompt_kv::LayerIndex;
use edgeprompt_telemetry::timeline::{LayerTimeline, Span};

/// Most spans of computing that are kept of one layer: a prompt is computed in pieces, and there are
/// as many pieces as it is long.
const SPANS_MAX: usize = 16;

/// From a request's arrival to its first token.
#[derive(Clone, Debug)]
pub(crate) struct PassTimes {
    timeline: LayerTimeline,
    /// When the work began that the next event ends.
    since: Duration,
    /// The layer that the pass stands still for, and since when.
    waiting: Option<(LayerIndex, Duration)>,
    omitted_count: usize,
}

/// What was seen until some moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SeenTimes {
    pub(crate) timeline: LayerTimeline,
    /// Spans of computing for which there was no room.
    pub(crate) omitted_count: usize,
}

impl PassTimes {
    /// Nothing has happened to any of `layer_count` layers.
    pub(crate) fn new(layer_count: usize) -> Self {
        Self {
            timeline: LayerTimeline::with_layers(layer_count),
            since: Duration::ZERO,
            waiting: None,
            omitted_count: 0,
        }
    }

    /// Something happened to a pass of the request.
    pub(crate) fn heard(&mut self, event: PassEvent, now: Duration) {
        match event {
            PassEvent::Resumed => self.since = now,
            PassEvent::Computed(layer) => {
                if let Some((layer, since)) = self.waiting.take() {
                    self.waited(layer, since, self.since);
                }
                self.computed(layer, now);
            }
            // Looked for again in vain.
            PassEvent::Missing(layer) if self.waiting.is_some_and(|(other, _)| other == layer) => {}
            PassEvent::Missing(layer) => {
                if let Some((layer, since)) = self.waiting.take() {
                    self.waited(layer, since, self.since);
                }
                self.computed(layer, now);
                self.waiting = Some((layer, now));
            }
        }
    }

    /// The first token is there.
    pub(crate) fn first_token(&mut self, now: Duration) {
        self.timeline.ttft.get_or_insert(now);
    }

    /// What is known now; a wait that goes on is as long as it is until now.
    pub(crate) fn seen_at(&self, now: Duration) -> SeenTimes {
        let mut seen = self.clone();
        if let Some((layer, since)) = self.waiting {
            seen.waited(layer, since, now);
        }
        SeenTimes {
            timeline: seen.timeline,
            omitted_count: seen.omitted_count,
        }
    }

    fn waited(&mut self, layer: LayerIndex, since: Duration, until: Duration) {
        if let Some(times) = self.timeline.layers.get_mut(layer.as_usize()) {
            times.edge_wait = Some(Span::new(since, until.max(since)));
        }
    }

    fn computed(&mut self, layer: LayerIndex, now: Duration) {
        let span = Span::new(self.since, now.max(self.since));
        self.since = now;
        match self.timeline.layers.get_mut(layer.as_usize()) {
            Some(times) if times.edge_compute.len() < SPANS_MAX => times.edge_compute.push(span),
            Some(_) | None => self.omitted_count += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    fn span(start: u64, end: u64) -> Span {
        Span::new(ms(start), ms(end))
    }

    fn heard(events: &[(PassEvent, u64)]) -> PassTimes {
        let mut times = PassTimes::new(2);
        for (event, at) in events {
            times.heard(*event, ms(*at));
        }
        times
    }

    const FIRST: LayerIndex = LayerIndex(0);
    const SECOND: LayerIndex = LayerIndex(1);

    #[test]
    fn a_layer_is_projected_waited_for_and_attended() {
        use PassEvent::{Computed, Missing, Resumed};
        let mut times = heard(&[
            (Resumed, 10),
            (Computed(FIRST), 12),
            (Missing(SECOND), 13),
            // Tried again in vain.
            (Resumed, 15),
            (Missing(SECOND), 15),
        ]);
        let second = &times.seen_at(ms(18)).timeline.layers[1];
        assert_eq!(second.edge_wait, Some(span(13, 18)), "it still waits");
        times.heard(Resumed, ms(20));
        times.heard(Computed(SECOND), ms(24));
        times.first_token(ms(25));
        times.first_token(ms(30));
        let seen = times.seen_at(ms(99)).timeline;
        assert_eq!(seen.ttft, Some(ms(25)));
        assert_eq!(seen.layers[0].edge_compute, [span(10, 12)]);
        assert_eq!(seen.layers[1].edge_wait, Some(span(13, 20)));
        assert_eq!(seen.layers[1].edge_compute, [span(12, 13), span(20, 24)]);
    }

    #[test]
    fn waits_for_layer_after_layer_are_each_their_own() {
        use PassEvent::{Computed, Missing, Resumed};
        let times = heard(&[
            (Resumed, 0),
            (Missing(FIRST), 1),
            (Resumed, 4),
            (Computed(FIRST), 6),
            (Missing(SECOND), 7),
        ]);
        let seen = times.seen_at(ms(9)).timeline;
        assert_eq!(seen.layers[0].edge_wait, Some(span(1, 4)));
        assert_eq!(seen.layers[1].edge_wait, Some(span(7, 9)));
    }

    #[test]
    fn memory_is_bounded_and_what_is_left_out_is_counted() {
        let mut times = PassTimes::new(1);
        for piece in 0..1000 {
            times.heard(PassEvent::Resumed, ms(2 * piece));
            times.heard(PassEvent::Computed(FIRST), ms(2 * piece + 1));
            times.heard(PassEvent::Computed(SECOND), ms(2 * piece + 1));
        }
        let seen = times.seen_at(ms(0));
        assert_eq!(seen.timeline.layers[0].edge_compute.len(), SPANS_MAX);
        assert_eq!(seen.omitted_count, 2000 - SPANS_MAX);
    }

    #[test]
    fn a_clock_that_jumps_back_makes_no_span_end_before_it_starts() {
        let times = heard(&[
            (PassEvent::Resumed, 9),
            (PassEvent::Missing(FIRST), 5),
            (PassEvent::Resumed, 3),
            (PassEvent::Computed(FIRST), 1),
        ]);
        assert_eq!(times.seen_at(ms(0)).timeline.end(), ms(9));
    }
}
