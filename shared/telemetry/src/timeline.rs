//! What happened to each layer during one request: recorded times, and what follows from them.
//!
//! Pure data: whoever runs the request writes the times down; nothing here reads a clock. Every
//! time counts from the moment the request started at the edge. The cloud has a clock of its own,
//! so its spans arrive relative to something the cloud saw and must be moved by the recorder
//! ([`Span::delayed_by`]), at best to within the link's delay.

use std::time::Duration;

use serde::{Serialize, Serializer};

use crate::flow_shop::{Pipeline, StageTimes};

/// From one moment of a request to a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Span {
    #[serde(rename = "start_ms", serialize_with = "as_ms")]
    start: Duration,
    #[serde(rename = "end_ms", serialize_with = "as_ms")]
    end: Duration,
}

impl Span {
    /// The span `start..end`.
    ///
    /// # Panics
    /// If `start > end`. For times that came over the network use [`Self::starting_at`].
    pub const fn new(start: Duration, end: Duration) -> Self {
        assert!(
            start.as_nanos() <= end.as_nanos(),
            "a span starts before it ends"
        );
        Self { start, end }
    }

    /// The span that starts at `start` and takes `duration`.
    pub const fn starting_at(start: Duration, duration: Duration) -> Self {
        Self {
            start,
            end: start.saturating_add(duration),
        }
    }

    /// The same span, `delay` later: from another clock's zero to ours.
    #[must_use]
    pub const fn delayed_by(self, delay: Duration) -> Self {
        Self {
            start: self.start.saturating_add(delay),
            end: self.end.saturating_add(delay),
        }
    }

    /// When it starts.
    pub const fn start(self) -> Duration {
        self.start
    }

    /// When it ends.
    pub const fn end(self) -> Duration {
        self.end
    }

    /// How long it takes.
    pub const fn duration(self) -> Duration {
        self.end.saturating_sub(self.start)
    }
}

/// What happened to one layer. What did not happen, or was not seen, is absent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LayerTimes {
    /// The cloud computed the layer's keys and values. Absent when its store had them.
    pub cloud_compute: Option<Span>,
    /// From the layer's first byte at the edge to its last. Absent when nothing was transferred.
    pub wire: Option<Span>,
    /// The forward pass stood still for this layer. Absent when the layer was there in time.
    pub edge_wait: Option<Span>,
    /// The edge computed: before the layer's attention and after, in order.
    pub edge_compute: Vec<Span>,
}

impl LayerTimes {
    fn spans(&self) -> impl Iterator<Item = Span> {
        [self.cloud_compute, self.wire, self.edge_wait]
            .into_iter()
            .flatten()
            .chain(self.edge_compute.iter().copied())
    }
}

/// The layers of one request, from its start to its first token.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub struct LayerTimeline {
    /// When the first token was there.
    #[serde(rename = "ttft_ms", serialize_with = "optional_as_ms")]
    pub ttft: Option<Duration>,
    /// One entry per layer, in layer order.
    pub layers: Vec<LayerTimes>,
}

impl LayerTimeline {
    /// A timeline of `layer_count` layers to which nothing has happened yet.
    pub fn with_layers(layer_count: usize) -> Self {
        Self {
            ttft: None,
            layers: vec![LayerTimes::default(); layer_count],
        }
    }

    /// The last moment that was recorded.
    pub fn end(&self) -> Duration {
        let ends = self
            .layers
            .iter()
            .flat_map(LayerTimes::spans)
            .map(Span::end);
        ends.chain(self.ttft).max().unwrap_or_default()
    }

    /// How long the forward pass stood still for layers, all together.
    pub fn exposed_wait(&self) -> Duration {
        total(self.layers.iter().filter_map(|layer| layer.edge_wait))
    }

    /// How long layers were on the wire, moments with several layers counted once.
    pub fn transfer_time(&self) -> Duration {
        let mut spans: Vec<_> = self.layers.iter().filter_map(|layer| layer.wire).collect();
        spans.sort_unstable_by_key(|span| span.start);
        let (mut busy, mut busy_until) = (Duration::ZERO, Duration::ZERO);
        for span in spans {
            let alone = span.end.saturating_sub(span.start.max(busy_until));
            busy = busy.saturating_add(alone);
            busy_until = busy_until.max(span.end);
        }
        busy
    }

    /// Which share of the transfer was hidden behind the edge's work:
    /// 1 − [`exposed wait`](Self::exposed_wait) / [`transfer time`](Self::transfer_time).
    ///
    /// * Absent when nothing was transferred: there was nothing to hide.
    /// * 0, not less, when the edge stood still for longer than the transfer took: then it also
    ///   waited for the cloud to compute, or for the first byte to travel.
    /// * A transfer too short for the clock counts as hidden if the edge did not wait, else not.
    pub fn overlap_ratio(&self) -> Option<f64> {
        self.layers.iter().find_map(|layer| layer.wire)?;
        let (wait, transfer) = (self.exposed_wait(), self.transfer_time());
        if wait >= transfer {
            return Some(if wait.is_zero() { 1.0 } else { 0.0 });
        }
        Some(1.0 - wait.div_duration_f64(transfer))
    }

    /// t_cc, t_ct and t_ec of each layer; what is absent took no time.
    ///
    /// A layer's t_ct starts when its first byte is there and the layers before it are complete:
    /// otherwise layers that share the link would each be charged for all of it.
    pub fn stage_times(&self) -> Vec<StageTimes> {
        let mut link_free_at = Duration::ZERO;
        let mut stages_of = |layer: &LayerTimes| {
            let transfer = layer.wire.map_or(Duration::ZERO, |wire| {
                let from = wire.start.max(link_free_at);
                link_free_at = link_free_at.max(wire.end);
                wire.end.saturating_sub(from)
            });
            StageTimes {
                cloud_compute: total(layer.cloud_compute),
                transfer,
                edge_compute: total(layer.edge_compute.iter().copied()),
            }
        };
        self.layers.iter().map(&mut stages_of).collect()
    }

    /// The flow shop that this request was, to compare its time with the formulas.
    ///
    /// T_prefix is what passed before the first stage began: the cloud's first compute, without
    /// one the first byte, without one the edge's first compute. The link's one-way delay is no
    /// stage: where a cloud computed, the formulas leave it out.
    pub fn pipeline(&self) -> Pipeline {
        let earliest = |of: fn(&LayerTimes) -> Option<Span>| {
            self.layers.iter().filter_map(of).map(Span::start).min()
        };
        let t_prefix = earliest(|layer| layer.cloud_compute)
            .or_else(|| earliest(|layer| layer.wire))
            .or_else(|| earliest(|layer| layer.edge_compute.first().copied()))
            .unwrap_or_default();
        Pipeline {
            t_prefix,
            layers: self.stage_times(),
        }
    }
}

fn total(spans: impl IntoIterator<Item = Span>) -> Duration {
    spans
        .into_iter()
        .map(Span::duration)
        .fold(Duration::ZERO, Duration::saturating_add)
}

fn as_ms<S: Serializer>(duration: &Duration, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_f64(duration.as_secs_f64() * 1e3)
}

fn optional_as_ms<S: Serializer>(
    duration: &Option<Duration>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    duration
        .map(|duration| duration.as_secs_f64() * 1e3)
        .serialize(serializer)
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

    /// A cold run of two layers: the edge waits for both, and layer 1 shares the link with layer 0.
    fn cold() -> LayerTimeline {
        LayerTimeline {
            ttft: Some(ms(32)),
            layers: vec![
                LayerTimes {
                    cloud_compute: Some(span(2, 5)),
                    wire: Some(span(6, 16)),
                    edge_wait: Some(span(12, 16)),
                    edge_compute: vec![span(0, 12), span(16, 20)],
                },
                LayerTimes {
                    cloud_compute: Some(span(5, 8)),
                    wire: Some(span(10, 26)),
                    edge_wait: Some(span(21, 26)),
                    edge_compute: vec![span(20, 21), span(26, 30)],
                },
            ],
        }
    }

    #[test]
    fn a_shared_link_is_counted_once() {
        assert_eq!(cold().transfer_time(), ms(20));
        let transfers: Vec<_> = cold()
            .stage_times()
            .iter()
            .map(|stage| stage.transfer)
            .collect();
        assert_eq!(transfers, [ms(10), ms(10)]);
    }

    #[test]
    fn the_overlap_is_the_share_of_the_transfer_without_a_wait() {
        assert_eq!(cold().exposed_wait(), ms(9));
        assert_eq!(cold().overlap_ratio(), Some(1.0 - 9.0 / 20.0));
    }

    #[test]
    fn a_wait_longer_than_the_transfer_hides_nothing() {
        let mut timeline = cold();
        timeline.layers[0].edge_wait = Some(span(0, 200));
        assert_eq!(timeline.overlap_ratio(), Some(0.0));
    }

    #[test]
    fn a_local_run_has_no_overlap() {
        let mut timeline = LayerTimeline::with_layers(2);
        timeline.layers[0].edge_compute.push(span(1, 4));
        assert_eq!(timeline.overlap_ratio(), None);
        assert_eq!(timeline.transfer_time(), Duration::ZERO);
        assert_eq!(timeline.pipeline().t_prefix, ms(1));
        assert_eq!(timeline.end(), ms(4));
    }

    #[test]
    fn a_transfer_below_the_clocks_resolution_is_hidden_unless_waited_for() {
        let mut timeline = LayerTimeline::with_layers(1);
        timeline.layers[0].wire = Some(span(3, 3));
        assert_eq!(timeline.overlap_ratio(), Some(1.0));
        timeline.layers[0].edge_wait = Some(span(2, 3));
        assert_eq!(timeline.overlap_ratio(), Some(0.0));
    }

    #[test]
    fn the_prefix_ends_where_the_first_stage_begins() {
        let mut timeline = cold();
        assert_eq!(timeline.pipeline().t_prefix, ms(2));
        for layer in &mut timeline.layers {
            layer.cloud_compute = None;
        }
        assert_eq!(timeline.pipeline().t_prefix, ms(6));
        assert_eq!(LayerTimeline::default().pipeline(), Pipeline::default());
    }

    #[test]
    fn stages_add_up_what_was_recorded() {
        let first = cold().stage_times()[0];
        assert_eq!(first.cloud_compute, ms(3));
        assert_eq!(first.edge_compute, ms(16));
    }

    #[test]
    fn the_end_is_the_last_thing_recorded() {
        assert_eq!(cold().end(), ms(32));
        assert_eq!(
            LayerTimeline {
                ttft: None,
                ..cold()
            }
            .end(),
            ms(30)
        );
        assert_eq!(LayerTimeline::default().end(), Duration::ZERO);
    }

    #[test]
    fn a_span_from_another_clock_moves_and_never_overflows() {
        assert_eq!(
            Span::starting_at(ms(1), ms(2)).delayed_by(ms(10)),
            span(11, 13)
        );
        let absurd = Span::starting_at(Duration::MAX, Duration::MAX).delayed_by(Duration::MAX);
        assert_eq!(absurd.duration(), Duration::ZERO);
    }

    #[test]
    fn json_is_in_milliseconds() {
        let mut timeline = LayerTimeline::with_layers(1);
        timeline.layers[0].wire = Some(span(1, 3));
        assert_eq!(
            serde_json::to_string(&timeline).expect("plain data"),
            r#"{"ttft_ms":null,"layers":[{"cloud_compute":null,"wire":{"start_ms":1.0,"end_ms":3.0},"edge_wait":null,"edge_compute":[]}]}"#
        );
    }
}
