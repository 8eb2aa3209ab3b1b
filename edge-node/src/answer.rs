//! Answering one private prompt on the engine's thread: forward pass, waiting for layers,
//! generation, and the timeline of it all.
//!
//! Nothing here is async and nothing here sends anything anywhere.

use std::time::{Duration, Instant};

use edgeprompt_engine::{
    CloudSegment, Progress, Sequence, SequenceOptions, greedy, prefill_segment, view_from_layer,
};
use edgeprompt_kv::{LayerIndex, TokenId};
use edgeprompt_model::Model;
use edgeprompt_telemetry::names;
use edgeprompt_telemetry::timeline::{LayerTimeline, Span};
use edgeprompt_transport::ReceivedLayer;

use crate::cloud_prompt::{Arrival, CloudPrompt};

/// Where the public part of the prompt comes from.
#[derive(Debug)]
pub enum Cloud {
    /// There is none: the whole prompt is private, and the run monolithic.
    Absent,
    /// Its layers are here from an earlier prompt.
    Present(CloudSegment),
    /// Its layers are on their way.
    Arriving(CloudPrompt),
}

/// When to stop before `max_tokens`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Stop {
    /// At the model's end-of-sequence token.
    #[default]
    AtEndOfSequence,
    /// Never.
    AtLengthOnly,
}

/// One private prompt. Deliberately not `Debug`: it holds private tokens.
pub struct Question<'a> {
    /// The model.
    pub model: &'a Model,
    /// The private tokens.
    pub private: &'a [TokenId],
    /// How the sequence attends.
    pub options: SequenceOptions,
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// What ends it earlier.
    pub stop: Stop,
    /// When the user asked.
    pub asked_at: Instant,
}

/// Something that happened on the way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A layer of the cloud prompt arrived.
    LayerArrived(LayerIndex),
    /// A layer of the first pass is done.
    LayerUsed(LayerIndex),
    /// A token was chosen.
    Token(TokenId),
}

/// Why a generation ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Finish {
    /// The model ended it.
    EndOfSequence,
    /// It reached the number of tokens asked for.
    MaxTokens,
    /// It reached the end of the model's context.
    ContextFull,
}

/// The outcome. Deliberately not `Debug`: the tokens follow from the private prompt.
pub struct Answer {
    /// The tokens generated, an end-of-sequence token not among them unless it was ignored.
    pub tokens: Vec<TokenId>,
    /// Why it ended.
    pub finish: Finish,
    /// Where the time went until the first token.
    pub timeline: LayerTimeline,
    /// Bytes of keys and values received.
    pub received_bytes: u64,
    /// Layers that had to be computed here, and why.
    pub recomputed: Option<Recomputed>,
    /// The cloud prompt, complete now, for the next question.
    pub segment: Option<CloudSegment>,
}

/// Layers the cloud owed and this edge computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recomputed {
    /// How many.
    pub layer_count: usize,
    /// What the network side said.
    pub reason: String,
}

/// The layers of a cloud prompt as this edge sees them.
struct Layers<'a> {
    model: &'a Model,
    segment: CloudSegment,
    source: Option<CloudPrompt>,
    asked_at: Instant,
    timeline: LayerTimeline,
    received_bytes: u64,
    recomputed: Option<Recomputed>,
}

/// Answers a question and tells `on` what happens.
///
/// # Panics
/// If the question has no private token: the model needs one to continue from.
pub fn answer(question: &Question<'_>, cloud: Cloud, mut on: impl FnMut(Event)) -> Answer {
    let (model, asked_at) = (question.model, question.asked_at);
    let mut layers = Layers::new(model, cloud, asked_at);
    let segment = layers.has_cloud().then(|| layers.segment.clone());
    let mut sequence = Sequence::new(model, segment.clone(), question.options);
    sequence.begin(question.private);
    let last = LayerIndex(model.geometry.layer_count() - 1);
    let first = loop {
        layers.take_arrived(&mut on);
        let start = Instant::now();
        match sequence.advance() {
            Progress::NeedsLayer(layer) => {
                layers.computed(layer, start);
                layers.wait_for(layer, &mut on);
            }
            Progress::LayerDone(layer) => {
                layers.computed(layer, start);
                on(Event::LayerUsed(layer));
            }
            Progress::Complete => {
                // The head is the tail of the last layer's work.
                let first = greedy(&sequence.logits());
                layers.computed(last, start);
                on(Event::LayerUsed(last));
                break first;
            }
        }
    };
    layers.timeline.ttft = Some(asked_at.elapsed());
    metrics::histogram!(names::EDGE_TIME_TO_FIRST_TOKEN_SECONDS).record(asked_at.elapsed());
    let (tokens, finish) = generate(question, &mut sequence, first, &mut on);
    Answer {
        tokens,
        finish,
        timeline: layers.timeline,
        received_bytes: layers.received_bytes,
        recomputed: layers.recomputed,
        segment,
    }
}

fn generate(
    question: &Question<'_>,
    sequence: &mut Sequence<'_>,
    first: TokenId,
    on: &mut impl FnMut(Event),
) -> (Vec<TokenId>, Finish) {
    let mut tokens = Vec::new();
    let mut next = first;
    loop {
        let ended = question.model.config.eos.contains(&next);
        if ended && question.stop == Stop::AtEndOfSequence {
            return (tokens, Finish::EndOfSequence);
        }
        tokens.push(next);
        on(Event::Token(next));
        if tokens.len() >= question.max_tokens {
            return (tokens, Finish::MaxTokens);
        }
        if sequence.room() == 0 {
            return (tokens, Finish::ContextFull);
        }
        let start = Instant::now();
        next = sequence.next_greedy(&[next]);
        metrics::histogram!(names::EDGE_INTER_TOKEN_LATENCY_SECONDS).record(start.elapsed());
    }
}

impl<'a> Layers<'a> {
    fn new(model: &'a Model, cloud: Cloud, asked_at: Instant) -> Self {
        let (segment, source) = match cloud {
            Cloud::Absent => (CloudSegment::empty(&model.geometry, 0), None),
            Cloud::Present(segment) => (segment, None),
            Cloud::Arriving(prompt) => {
                let end = prompt.manifest.end().0;
                (CloudSegment::empty(&model.geometry, end), Some(prompt))
            }
        };
        Self {
            model,
            segment,
            source,
            asked_at,
            timeline: LayerTimeline::with_layers(model.decoder.layers().len()),
            received_bytes: 0,
            recomputed: None,
        }
    }

    fn has_cloud(&self) -> bool {
        !self.segment.range().is_empty()
    }

    fn since_asked(&self, instant: Instant) -> Duration {
        instant.saturating_duration_since(self.asked_at)
    }

    fn computed(&mut self, layer: LayerIndex, start: Instant) {
        let span = Span::new(self.since_asked(start), self.asked_at.elapsed());
        self.timeline.layers[layer.as_usize()]
            .edge_compute
            .push(span);
    }

    /// Takes what has arrived without waiting for more.
    fn take_arrived(&mut self, on: &mut impl FnMut(Event)) {
        while let Some(arrival) = self
            .source
            .as_ref()
            .and_then(|source| source.arrivals.try_recv().ok())
        {
            self.take(arrival, on);
        }
    }

    /// Waits until a layer is there, computing it here if it will not come.
    fn wait_for(&mut self, layer: LayerIndex, on: &mut impl FnMut(Event)) {
        let start = Instant::now();
        while self.segment.layers.get(layer).is_none() {
            let arrival = self.source.as_ref().map(|source| source.arrivals.recv());
            match arrival {
                Some(Ok(arrival)) => self.take(arrival, on),
                Some(Err(_)) | None => self.compute_missing("the cloud sent no more".to_owned()),
            }
        }
        metrics::histogram!(names::EDGE_KV_LAYER_WAIT_SECONDS).record(start.elapsed());
        let span = Span::new(self.since_asked(start), self.asked_at.elapsed());
        self.timeline.layers[layer.as_usize()].edge_wait = Some(span);
    }

    fn take(&mut self, arrival: Arrival, on: &mut impl FnMut(Event)) {
        match arrival {
            Arrival::Layer(received) => {
                let layer = received.layer;
                self.record(&received);
                let view = view_from_layer(
                    &received.kv,
                    &self.model.geometry,
                    &self.model.decoder.device(),
                );
                // A layer that was computed here in the meantime is as good.
                let _ = self.segment.layers.fill(layer, view);
                on(Event::LayerArrived(layer));
            }
            Arrival::Lost(reason) => self.compute_missing(reason),
        }
    }

    fn record(&mut self, received: &ReceivedLayer) {
        let wire = Span::new(
            self.since_asked(received.first_byte_at),
            self.since_asked(received.last_byte_at),
        );
        self.received_bytes += received.kv.payload().len() as u64;
        metrics::counter!(names::EDGE_KV_BYTES_RECEIVED_TOTAL)
            .increment(received.kv.payload().len() as u64);
        metrics::histogram!(names::EDGE_KV_XFER_TIME_SECONDS).record(wire.duration());
        let times = &mut self.timeline.layers[received.layer.as_usize()];
        times.wire = Some(wire);
        let timings = received.timings;
        // A stored layer was computed before anyone asked.
        if let Some(source) = self.source.as_ref().filter(|_| timings.compute_end_us > 0) {
            let cloud_clock = source
                .received_by_cloud_at
                .saturating_duration_since(self.asked_at);
            let start = Duration::from_micros(timings.compute_start_us);
            let length = timings
                .compute_end_us
                .saturating_sub(timings.compute_start_us);
            let span = Span::starting_at(start, Duration::from_micros(length));
            times.cloud_compute = Some(span.delayed_by(cloud_clock));
        }
    }

    /// Computes every missing layer from the public tokens: a cloud that fails costs time, never
    /// the answer.
    fn compute_missing(&mut self, reason: String) {
        let Some(source) = &self.source else { return };
        let missing = self.segment.layers.missing().count();
        if missing == 0 {
            return;
        }
        tracing::warn!(
            missing,
            reason,
            "cloud layers did not come and are computed here"
        );
        metrics::counter!(names::EDGE_KV_LAYERS_RECOMPUTED_TOTAL, names::REASON => "lost")
            .increment(missing as u64);
        prefill_segment(self.model, &source.manifest.tokens, |layer, view| {
            // A layer that did arrive is kept.
            let _ = self.segment.layers.fill(layer, view);
        });
        let before = self
            .recomputed
            .as_ref()
            .map_or(0, |before| before.layer_count);
        self.recomputed = Some(Recomputed {
            layer_count: before + missing,
            reason,
        });
    }
}
