//! The cloud prompt's layers as the engine's thread sees them: taken as they arrive, waited for
//! while that pays, computed here when they do not come.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use edgeprompt_engine::{CloudSegment, checked_view_from_layer, prefill_segment};
use edgeprompt_kv::{LayerIndex, TokenId};
use edgeprompt_model::Model;
use edgeprompt_telemetry::names;
use edgeprompt_telemetry::timeline::{LayerTimeline, Span};
use edgeprompt_transport::ReceivedLayer;

use crate::answer::{Cloud, Event, Question, Recomputed};
use crate::cloud_prompt::{Arrival, Loss, LossReason};
use crate::patience::{Measured, Patience};

/// The public part of one request.
pub(crate) struct PublicLayers<'a> {
    model: &'a Model,
    pub(crate) segment: CloudSegment,
    source: Source,
    asked_at: Instant,
    private_len: usize,
    patience: Patience,
    waited: Duration,
    pub(crate) timeline: LayerTimeline,
    pub(crate) received_bytes: u64,
    pub(crate) recomputed: Option<Recomputed>,
}

/// Where layers that are not here yet come from.
enum Source {
    /// All are here, or there are none.
    Nowhere,
    /// The cloud sends them.
    Cloud {
        arrivals: Receiver<Arrival>,
        tokens: Vec<TokenId>,
    },
    /// This edge must compute them.
    Here { tokens: Vec<TokenId>, loss: Loss },
}

impl<'a> PublicLayers<'a> {
    /// The public part of `question`.
    pub(crate) fn new(question: &Question<'a>, cloud: Cloud) -> Self {
        let (model, asked_at) = (question.model, question.asked_at);
        let empty = |tokens: &[TokenId]| {
            let count = u32::try_from(tokens.len()).expect("a prompt fits in u32 positions");
            CloudSegment::empty(&model.geometry, count)
        };
        let (segment, source) = match cloud {
            Cloud::Absent => (empty(&[]), Source::Nowhere),
            Cloud::Present(segment) => (segment, Source::Nowhere),
            Cloud::Arriving(prompt) => {
                let (tokens, arrivals) = (prompt.manifest.tokens, prompt.arrivals);
                (empty(&tokens), Source::Cloud { arrivals, tokens })
            }
            Cloud::Unavailable { tokens, loss } => (empty(&tokens), Source::Here { tokens, loss }),
        };
        Self {
            model,
            segment,
            source,
            asked_at,
            private_len: question.private.len(),
            patience: question.patience,
            waited: Duration::ZERO,
            timeline: LayerTimeline::with_layers(model.decoder.layers().len()),
            received_bytes: 0,
            recomputed: None,
        }
    }

    /// The segment to attend over, if there is a public part at all.
    pub(crate) fn segment(&self) -> Option<CloudSegment> {
        (!self.segment.range().is_empty()).then(|| self.segment.clone())
    }

    /// Records that the edge worked on a layer from `start` until now.
    pub(crate) fn worked(&mut self, layer: LayerIndex, start: Instant) {
        let span = Span::new(self.since_asked(start), self.asked_at.elapsed());
        self.timeline.layers[layer.as_usize()]
            .edge_compute
            .push(span);
    }

    /// Takes what has arrived without waiting for more.
    pub(crate) fn take_arrived(&mut self, on: &mut impl FnMut(Event)) {
        while let Source::Cloud { arrivals, .. } = &self.source {
            let Ok(arrival) = arrivals.try_recv() else {
                return;
            };
            self.take(arrival, on);
        }
    }

    /// Waits until a layer is there; computes it here if it does not come, or not soon enough.
    pub(crate) fn wait_for(&mut self, layer: LayerIndex, on: &mut impl FnMut(Event)) {
        let (start, limit) = (Instant::now(), self.limit());
        while self.segment.layers.get(layer).is_none() {
            let Source::Cloud { arrivals, .. } = &self.source else {
                break;
            };
            let arrival = match limit {
                None => arrivals.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(limit) => {
                    let left = limit.saturating_sub(self.waited + start.elapsed());
                    arrivals.recv_timeout(left)
                }
            };
            match arrival {
                Ok(arrival) => self.take(arrival, on),
                Err(RecvTimeoutError::Timeout) => {
                    let detail = format!("they took longer than {:.0?}", limit.unwrap_or_default());
                    self.give_up(Loss {
                        reason: LossReason::Slow,
                        detail,
                    });
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let detail = "the cloud sent no more".to_owned();
                    self.give_up(Loss {
                        reason: LossReason::LinkLost,
                        detail,
                    });
                }
            }
        }
        self.waited += start.elapsed();
        metrics::histogram!(names::EDGE_KV_LAYER_WAIT_SECONDS).record(start.elapsed());
        let span = Span::new(self.since_asked(start), self.asked_at.elapsed());
        self.timeline.layers[layer.as_usize()].edge_wait = Some(span);
        if self.segment.layers.get(layer).is_none() {
            let start = Instant::now();
            self.compute_missing();
            self.worked(layer, start);
        }
    }

    fn since_asked(&self, instant: Instant) -> Duration {
        instant.saturating_duration_since(self.asked_at)
    }

    fn limit(&self) -> Option<Duration> {
        let first = self
            .timeline
            .layers
            .first()
            .and_then(|layer| layer.edge_compute.first());
        let projection = first.map_or(Duration::ZERO, |span| span.duration());
        let measured = Measured {
            projection,
            tokens: self.private_len,
        };
        self.patience
            .limit(measured, self.segment.range().len(), &self.model.config)
    }

    fn take(&mut self, arrival: Arrival, on: &mut impl FnMut(Event)) {
        match arrival {
            Arrival::Begun(count) => on(Event::LayersComputed(count)),
            Arrival::Layer {
                received,
                received_by_cloud_at,
            } => {
                self.record(&received, received_by_cloud_at);
                let device = self.model.decoder.device();
                match checked_view_from_layer(&received.kv, &self.model.geometry, &device) {
                    Ok(view) => {
                        // A layer that was computed here in the meantime is as good.
                        let _ = self.segment.layers.fill(received.layer, view);
                        on(Event::LayerArrived(received.layer));
                    }
                    Err(error) => {
                        let detail = format!("layer {}: {error}", received.layer.0);
                        self.give_up(Loss {
                            reason: LossReason::Corrupt,
                            detail,
                        });
                    }
                }
            }
            Arrival::Lost(loss) => self.give_up(loss),
        }
    }

    fn record(&mut self, received: &ReceivedLayer, received_by_cloud_at: Instant) {
        let cloud_clock = received_by_cloud_at.saturating_duration_since(self.asked_at);
        let (first, last) = (received.first_byte_at, received.last_byte_at);
        let wire = Span::new(self.since_asked(first), self.since_asked(last));
        let bytes = received.kv.payload().len() as u64;
        self.received_bytes += bytes;
        metrics::counter!(names::EDGE_KV_BYTES_RECEIVED_TOTAL).increment(bytes);
        let times = &mut self.timeline.layers[received.layer.as_usize()];
        times.wire = Some(wire);
        let timings = received.timings;
        // A stored layer was computed before anyone asked.
        if timings.compute_end_us > 0 {
            let start = Duration::from_micros(timings.compute_start_us);
            let length = timings
                .compute_end_us
                .saturating_sub(timings.compute_start_us);
            let span = Span::starting_at(start, Duration::from_micros(length));
            times.cloud_compute = Some(span.delayed_by(cloud_clock));
        }
    }

    /// Expects nothing more from the cloud: what is missing will be computed here, once it is
    /// needed.
    fn give_up(&mut self, loss: Loss) {
        if let Source::Cloud { tokens, .. } = &mut self.source {
            let tokens = std::mem::take(tokens);
            self.source = Source::Here { tokens, loss };
        }
    }

    /// Computes every missing layer from the public tokens: a cloud that fails costs time, never
    /// the answer.
    fn compute_missing(&mut self) {
        let Source::Here { tokens, loss } = std::mem::replace(&mut self.source, Source::Nowhere)
        else {
            return;
        };
        let layer_count = self.segment.layers.missing().count();
        let label = loss.reason.label();
        metrics::counter!(names::EDGE_KV_XFER_FAILED_TOTAL, names::REASON => label).increment(1);
        metrics::counter!(names::EDGE_KV_LAYERS_RECOMPUTED_TOTAL, names::REASON => label)
            .increment(layer_count as u64);
        prefill_segment(self.model, &tokens, |layer, view| {
            // A layer that did arrive is kept.
            let _ = self.segment.layers.fill(layer, view);
        });
        self.recomputed = Some(Recomputed { layer_count, loss });
    }
}
