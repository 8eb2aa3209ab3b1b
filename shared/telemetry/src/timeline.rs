//! What happened to each layer during one request: recorded times, and what follows from them.
//!
//! Pure data: whoever runs the request writes the times down; nothing here reads a clock. Every
//! time counts from the moment the request started at the edge. The cloud has a clock of its own,
//! so its spans arrive relative to something the cloud saw and must be moved by the recorder
//! ([`Span::delayed_by`]), at best to within the link's delay.

use std::time::Duration;

use serde::{Deserialize, Serialize};

use crate::flow_shop::{Pipeline, StageTimes};
use crate::milliseconds;

/// From one moment of a request to a later one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "Ends", into = "Ends")]
pub struct Span {
    start: Duration,
    end: Duration,
}

/// A span as it is written down, which may end before it starts.
#[derive(Serialize, Deserialize)]
struct Ends {
    #[serde(with = "milliseconds")]
    start_ms: Duration,
    #[serde(with = "milliseconds")]
    end_ms: Duration,
}

impl From<Span> for Ends {
    fn from(Span { start, end }: Span) -> Self {
        let (start_ms, end_ms) = (start, end);
        Self { start_ms, end_ms }
    }
}

impl TryFrom<Ends> for Span {
    type Error = &'static str;

    fn try_from(Ends { start_ms, end_ms }: Ends) -> Result<Self, Self::Error> {
        if start_ms > end_ms {
            return Err("a span ends before it starts");
        }
        Ok(Self::new(start_ms, end_ms))
    }
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerTimes {
    /// The cloud computed the layer's keys and values. Absent when its store had them.
    pub cloud_compute: Option<Span>,
    /// From the layer's first byte at the edge to its last. Absent when nothing was transferred.
    pub wire: Option<Span>,
    /// The forward pass stood still for this layer. Absent when the layer was there in time.
    pub edge_wait: Option<Span>,
    /// The edge computed: it made tensors of what came, projected and attended, in order.
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
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct LayerTimeline {
    /// When the first token was there.
    #[serde(rename = "ttft_ms", default, with = "milliseconds::optional")]
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
    /// A layer's t_ct is the time that it needs on the link by itself. It starts when its first
    /// byte is there, so that waiting for the cloud and the link's delay are not in it, and not
    /// before the layers ahead of it are complete: otherwise layers that share the link would each
    /// be charged for all of it. While the link carries a layer, nothing else may hold the layer up
    /// but the link and its transport: a cloud sends only what it has computed whole.
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
    /// T_prefix is what passes before the first layer that was transferred begins its first stage:
    /// its first byte at the edge, less what the cloud computed until then. So the way of the
    /// request and the link's delay are in it, once each, and no clock but the edge's is asked:
    /// the cloud's spans are placed on it by an estimate of the delay, but their lengths need none.
    /// Without a transfer it ends with the edge's first compute.
    pub fn pipeline(&self) -> Pipeline {
        let transferred = self
            .layers
            .iter()
            .enumerate()
            .find_map(|(index, layer)| layer.wire.map(|wire| (index, wire.start)));
        let t_prefix = match transferred {
            Some((index, first_byte)) => {
                let before = &self.layers[..=index];
                let computed = before.iter().filter_map(|layer| layer.cloud_compute);
                first_byte.saturating_sub(total(computed))
            }
            None => {
                let computed = self.layers.iter().flat_map(|layer| &layer.edge_compute);
                computed.map(|span| span.start).min().unwrap_or_default()
            }
        };
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
        // The first byte, at 6, less the 3 that the cloud computed: the delay of 1 is in it.
        assert_eq!(timeline.pipeline().t_prefix, ms(3));
        for layer in &mut timeline.layers {
            layer.cloud_compute = None;
        }
        assert_eq!(timeline.pipeline().t_prefix, ms(6));
        assert_eq!(LayerTimeline::default().pipeline(), Pipeline::default());
    }

    #[test]
    fn a_longer_way_lengthens_the_prefix_and_nothing_else() {
        let (near, mut far) = (cold(), cold());
        for layer in &mut far.layers {
            layer.wire = layer.wire.map(|wire| wire.delayed_by(ms(50)));
        }
        let (near, far) = (near.pipeline(), far.pipeline());
        assert_eq!(far.t_prefix, near.t_prefix + ms(50));
        assert_eq!(far.layers, near.layers);
    }

    #[test]
    fn a_clock_estimated_wrongly_changes_no_formula() {
        let mut misplaced = cold();
        for layer in &mut misplaced.layers {
            let compute = layer.cloud_compute;
            layer.cloud_compute = compute.map(|span| span.delayed_by(ms(7)));
        }
        assert_eq!(misplaced.pipeline(), cold().pipeline());
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
    #[test]
    fn a_timeline_reads_what_it_wrote() {
        let text = serde_json::to_string(&cold()).expect("plain data");
        let read: LayerTimeline = serde_json::from_str(&text).expect("it was just written");
        assert_eq!(read, cold());
    }

    #[test]
    fn times_that_cannot_be_are_refused() {
        let refused = |text: &str| serde_json::from_str::<Span>(text).is_err();
        assert!(refused(r#"{"start_ms":2.0,"end_ms":1.0}"#));
        assert!(refused(r#"{"start_ms":-1.0,"end_ms":1.0}"#));
        assert!(refused(r#"{"start_ms":0.0,"end_ms":1e300}"#));
    }
}
