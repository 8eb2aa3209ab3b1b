//! The cloud prompt's layers as the engine's thread sees them: taken as they arrive, waited for
//! while that pays, computed here when they do not come.

use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use edgeprompt_engine::{CloudSegment, SegmentPrefill, checked_view_from_layer};
use edgeprompt_kv::{KvDtype, LayerIndex, LayerKv, TokenId};
use edgeprompt_model::Model;
use edgeprompt_telemetry::names;
use edgeprompt_telemetry::timeline::{LayerTimeline, Span};
use edgeprompt_transport::ReceivedLayer;

use crate::answer::{Cloud, Event, Recomputed};
use crate::cloud_prompt::{Arrival, Loss, LossReason};
use crate::kv_origin::{KvOrigin, OriginBytes};
use crate::patience::{Measured, Patience};
use crate::prefill_speed::PrefillSpeed;

/// The label of layers that the edge computes because they would come later.
pub(crate) const FASTER_HERE: &str = "faster_here";

/// What is to be known of whoever waits for layers.
#[derive(Clone, Copy)]
pub(crate) struct Waiter<'a> {
    /// The model.
    pub(crate) model: &'a Model,
    /// The zero of the timeline.
    pub(crate) asked_at: Instant,
    /// Tokens of the pass that waits: how fast it is says how long waiting pays.
    pub(crate) private_len: usize,
    /// How long to wait.
    pub(crate) patience: Patience,
}

/// The public part of one request.
pub(crate) struct PublicLayers<'a> {
    model: &'a Model,
    pub(crate) segment: CloudSegment,
    /// Layers that came in a number format that loses something, as they came: what is kept must
    /// not lose more.
    pub(crate) encoded: Vec<Option<LayerKv>>,
    tokens: Vec<TokenId>,
    /// Layers that may still come; `None` if none will.
    arrivals: Option<Receiver<Arrival>>,
    /// Layers before this one are computed here by choice.
    first_expected: LayerIndex,
    /// Why the others are not waited for any more.
    loss: Option<Loss>,
    /// Computes layers here, from the first on.
    local: Option<SegmentPrefill<'a>>,
    /// How long it took for each of them.
    computing: Vec<Duration>,
    asked_at: Instant,
    private_len: usize,
    patience: Patience,
    /// The first work on a layer: the projection, if the pass had to wait then.
    first_work: Option<Duration>,
    waited: Duration,
    pub(crate) timeline: LayerTimeline,
    /// Bytes of the layers that are here, by where they came from.
    pub(crate) bytes: OriginBytes,
    /// Expected layers that were computed here.
    recomputed_count: usize,
    pub(crate) chosen_count: usize,
}

impl<'a> PublicLayers<'a> {
    /// The public part that `waiter` waits for.
    pub(crate) fn new(waiter: Waiter<'a>, cloud: Cloud) -> Self {
        let model = waiter.model;
        let end = LayerIndex(model.geometry.layer_count());
        let mut layers = Self {
            model,
            segment: CloudSegment::empty(&model.geometry, 0),
            encoded: vec![None; model.decoder.layers().len()],
            tokens: Vec::new(),
            arrivals: None,
            first_expected: end,
            loss: None,
            local: None,
            computing: Vec::new(),
            asked_at: waiter.asked_at,
            private_len: waiter.private_len,
            patience: waiter.patience,
            first_work: None,
            waited: Duration::ZERO,
            timeline: LayerTimeline::with_layers(model.decoder.layers().len()),
            bytes: OriginBytes::default(),
            recomputed_count: 0,
            chosen_count: 0,
        };
        match cloud {
            Cloud::Absent => {}
            Cloud::Present(segment) => layers.segment = segment,
            Cloud::Arriving(prompt) => {
                layers.first_expected = LayerIndex(prompt.manifest.layers.bounds().start);
                layers.arrivals = Some(prompt.arrivals);
                layers.begin(prompt.manifest.tokens);
            }
            Cloud::Here { tokens } => layers.begin(tokens),
            Cloud::Unavailable { tokens, loss } => {
                layers.first_expected = LayerIndex(0);
                layers.begin(tokens);
                layers.give_up(loss);
            }
        }
        layers
    }

    fn begin(&mut self, tokens: Vec<TokenId>) {
        let count = u32::try_from(tokens.len()).expect("a prompt fits in u32 positions");
        self.segment = CloudSegment::empty(&self.model.geometry, count);
        self.tokens = tokens;
    }

    /// The segment to attend over, if there is a public part at all.
    pub(crate) fn segment(&self) -> Option<CloudSegment> {
        (!self.segment.range().is_empty()).then(|| self.segment.clone())
    }

    /// Records that the edge worked on a layer from `start` until now.
    pub(crate) fn worked(&mut self, layer: LayerIndex, start: Instant) {
        self.first_work.get_or_insert_with(|| start.elapsed());
        self.record_work(layer, start);
    }

    fn record_work(&mut self, layer: LayerIndex, start: Instant) {
        let span = Span::new(self.since_asked(start), self.asked_at.elapsed());
        self.timeline.layers[layer.as_usize()]
            .edge_compute
            .push(span);
    }

    /// Takes what has arrived without waiting for more.
    pub(crate) fn take_arrived(&mut self, on: &mut impl FnMut(Event)) {
        while let Some(arrivals) = &self.arrivals {
            let Ok(arrival) = arrivals.try_recv() else {
                return;
            };
            self.take(arrival, on);
        }
    }

    /// Waits until a layer is there; computes it here if that was the choice, if it does not come,
    /// or not soon enough.
    pub(crate) fn wait_for(&mut self, layer: LayerIndex, on: &mut impl FnMut(Event)) {
        self.take_arrived(on);
        let start = Instant::now();
        let waited_until = match layer >= self.first_expected {
            true => self.wait_while_it_pays(layer, on),
            false => start,
        };
        let waited = waited_until.saturating_duration_since(start);
        self.waited += waited;
        metrics::histogram!(names::EDGE_KV_LAYER_WAIT_SECONDS).record(waited);
        let until = self.since_asked(waited_until.max(start));
        let span = Span::new(self.since_asked(start), until);
        self.timeline.layers[layer.as_usize()].edge_wait = Some(span);
        if self.segment.layers.get(layer).is_none() {
            let start = Instant::now();
            self.compute_up_to(layer, on);
            self.worked(layer, start);
        }
    }

    /// Returns when the wait was over; what is done with the layer then is work.
    fn wait_while_it_pays(&mut self, layer: LayerIndex, on: &mut impl FnMut(Event)) -> Instant {
        let (start, limit) = (Instant::now(), self.limit());
        let mut waited_until = start;
        while self.segment.layers.get(layer).is_none() && self.loss.is_none() {
            let Some(arrivals) = &self.arrivals else {
                return waited_until;
            };
            let arrival = match limit {
                None => arrivals.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(limit) => {
                    let left = limit.saturating_sub(self.waited + start.elapsed());
                    arrivals.recv_timeout(left)
                }
            };
            waited_until = Instant::now();
            match arrival {
                Ok(arrival) => self.take(arrival, on),
                Err(RecvTimeoutError::Timeout) => self.give_up(Loss {
                    reason: LossReason::Slow,
                    detail: format!("they took longer than {:.0?}", limit.unwrap_or_default()),
                }),
                Err(RecvTimeoutError::Disconnected) => self.give_up(Loss {
                    reason: LossReason::LinkLost,
                    detail: "the cloud sent no more".to_owned(),
                }),
            }
        }
        waited_until
    }

    /// Computes layers from the public tokens until `layer` is there: a cloud that fails costs
    /// time, never the answer. Layers that come late still spare this edge the rest.
    fn compute_up_to(&mut self, layer: LayerIndex, on: &mut impl FnMut(Event)) {
        while self.segment.layers.get(layer).is_none() {
            let local = self
                .local
                .get_or_insert_with(|| SegmentPrefill::start(self.model, &self.tokens));
            let start = Instant::now();
            let (computed, view) = local.next().expect("a prefill brings every layer");
            self.computing.push(start.elapsed());
            // A layer that did arrive is kept.
            if self.segment.layers.fill(computed, view).is_ok() {
                self.count_computed(computed);
            }
            self.take_arrived(on);
        }
    }

    fn count_bytes(&mut self, origin: KvOrigin, bytes: usize) {
        let bytes = bytes as u64;
        self.bytes.add(origin, bytes);
        metrics::counter!(names::EDGE_KV_SOURCE_BYTES_TOTAL, names::SOURCE => origin.label())
            .increment(bytes);
        if origin.is_remote() {
            metrics::counter!(names::EDGE_KV_BYTES_TRANSFERRED_TOTAL).increment(bytes);
        }
    }

    fn count_computed(&mut self, layer: LayerIndex) {
        let token_count = self.segment.range().len();
        let bytes = self.model.geometry.layer_bytes(token_count, KvDtype::F32);
        self.count_bytes(KvOrigin::Local, bytes);
        let label = match &self.loss {
            Some(loss) if layer >= self.first_expected => {
                self.recomputed_count += 1;
                loss.reason.label()
            }
            Some(_) | None => {
                self.chosen_count += 1;
                FASTER_HERE
            }
        };
        metrics::counter!(names::EDGE_KV_LAYERS_RECOMPUTED_TOTAL, names::REASON => label)
            .increment(1);
    }

    /// The layers the cloud owed and this edge computed.
    pub(crate) fn recomputed(&self) -> Option<Recomputed> {
        let loss = self.loss.clone().filter(|_| self.recomputed_count > 0)?;
        Some(Recomputed {
            layer_count: self.recomputed_count,
            loss,
        })
    }

    /// How fast layers were computed here, if any were. From one projection to the next is exactly one
    /// layer; the first layer is a projection alone.
    pub(crate) fn speed(&self) -> Option<PrefillSpeed> {
        let whole = self.computing.get(1..)?;
        let count = u32::try_from(whole.len()).ok().filter(|count| *count > 0)?;
        let layer = whole.iter().sum::<Duration>() / count;
        Some(PrefillSpeed::new(layer, self.segment.range().len()))
    }

    fn since_asked(&self, instant: Instant) -> Duration {
        instant.saturating_duration_since(self.asked_at)
    }

    fn limit(&self) -> Option<Duration> {
        let measured = Measured {
            projection: self.first_work.unwrap_or_default(),
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
                origin,
            } => {
                self.record(&received, received_by_cloud_at, origin);
                let (device, start) = (self.model.decoder.device(), Instant::now());
                match checked_view_from_layer(&received.kv, &self.model.geometry, &device) {
                    Ok(view) => {
                        // A layer that was computed here in the meantime is as good.
                        let filled = self.segment.layers.fill(received.layer, view);
                        if filled.is_ok() && !received.kv.dtype().is_exact() {
                            self.encoded[received.layer.as_usize()] = Some(received.kv);
                        }
                        // The bytes became a tensor, on the engine's thread.
                        self.record_work(received.layer, start);
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

    fn record(
        &mut self,
        received: &ReceivedLayer,
        received_by_cloud_at: Instant,
        origin: KvOrigin,
    ) {
        let cloud_clock = received_by_cloud_at.saturating_duration_since(self.asked_at);
        let (first, last) = (received.first_byte_at, received.last_byte_at);
        let wire = Span::new(self.since_asked(first), self.since_asked(last));
        self.count_bytes(origin, received.kv.payload().len());
        if received.rebuilt_bytes > 0 {
            metrics::counter!(names::EDGE_KV_LAYERS_REBUILT_TOTAL).increment(1);
        }
        let times = &mut self.timeline.layers[received.layer.as_usize()];
        if origin.is_remote() {
            times.wire = Some(wire);
        }
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

    /// Waits for the cloud no more: what is missing will be computed here, once it is needed. The
    /// first reason stays.
    fn give_up(&mut self, loss: Loss) {
        if self.loss.is_some() {
            return;
        }
        let label = loss.reason.label();
        metrics::counter!(names::EDGE_KV_XFER_FAILED_TOTAL, names::REASON => label).increment(1);
        self.loss = Some(loss);
    }
}
