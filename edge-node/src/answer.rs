//! Answering one private prompt on the engine's thread: forward pass, waiting for layers,
//! generation, and the timeline of it all.
//!
//! Nothing here is async and nothing here sends anything anywhere.

use std::time::Instant;

use edgeprompt_engine::{CloudSegment, Progress, Sequence, SequenceOptions, greedy};
use edgeprompt_kv::{LayerIndex, TokenId};
use edgeprompt_model::Model;
use edgeprompt_telemetry::names;
use edgeprompt_telemetry::timeline::LayerTimeline;

use crate::cloud_prompt::{CloudPrompt, Loss};
use crate::patience::Patience;
use crate::prefill_speed::PrefillSpeed;
use crate::private::PrivateTokens;
use crate::public_layers::{PublicLayers, Waiter};

/// Where the public part of the prompt comes from.
#[derive(Debug)]
pub enum Cloud {
    /// There is none: the whole prompt is private, and the run monolithic.
    Absent,
    /// Its layers are here from an earlier prompt.
    Present(CloudSegment),
    /// Its layers are on their way.
    Arriving(CloudPrompt),
    /// Its layers are computed here, because that is faster.
    Here {
        /// The public tokens.
        tokens: Vec<TokenId>,
    },
    /// Its layers will not come; its tokens are known, so they are computed here.
    Unavailable {
        /// The public tokens.
        tokens: Vec<TokenId>,
        /// Why the cloud does not send the layers.
        loss: Loss,
    },
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
    /// The private tokens; at least one.
    pub private: &'a PrivateTokens,
    /// How the sequence attends.
    pub options: SequenceOptions,
    /// Most tokens to generate.
    pub max_tokens: usize,
    /// What ends it earlier.
    pub stop: Stop,
    /// How long to wait for the cloud.
    pub patience: Patience,
    /// When the user asked.
    pub asked_at: Instant,
}

/// Something that happened on the way. Deliberately not `Debug`: a token follows from the private
/// prompt.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// The cloud has computed so many layers and begun to send them.
    LayersComputed(usize),
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
    pub tokens: PrivateTokens,
    /// Why it ended.
    pub finish: Finish,
    /// Where the time went until the first token.
    pub timeline: LayerTimeline,
    /// Bytes of keys and values received.
    pub received_bytes: u64,
    /// Layers that had to be computed here, and why.
    pub recomputed: Option<Recomputed>,
    /// Layers that were computed here by choice, because the link would have brought them later.
    pub chosen_count: usize,
    /// How fast this edge computed layers of the cloud prompt, if it did.
    pub speed: Option<PrefillSpeed>,
    /// The cloud prompt, complete now, for the next question.
    pub segment: Option<CloudSegment>,
}

/// Layers the cloud owed and this edge computed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recomputed {
    /// How many.
    pub layer_count: usize,
    /// Why they did not come.
    pub loss: Loss,
}

/// Answers a question and tells `on` what happens.
///
/// # Panics
/// If the question has no private token: the model needs one to continue from.
pub fn answer(question: &Question<'_>, cloud: Cloud, mut on: impl FnMut(Event)) -> Answer {
    let (model, asked_at) = (question.model, question.asked_at);
    let waiter = Waiter {
        model,
        asked_at,
        private_len: question.private.len(),
        patience: question.patience,
    };
    let mut layers = PublicLayers::new(waiter, cloud);
    let segment = layers.segment();
    let mut sequence = Sequence::new(model, segment.clone(), question.options);
    sequence.begin(question.private.for_engine());
    let last = LayerIndex(model.geometry.layer_count() - 1);
    let first = loop {
        layers.take_arrived(&mut on);
        let start = Instant::now();
        match sequence.advance() {
            Progress::NeedsLayer(layer) => {
                layers.worked(layer, start);
                layers.wait_for(layer, &mut on);
            }
            Progress::LayerDone(layer) => {
                layers.worked(layer, start);
                on(Event::LayerUsed(layer));
            }
            Progress::Complete => {
                // The head is the tail of the last layer's work.
                let first = greedy(&sequence.logits());
                layers.worked(last, start);
                on(Event::LayerUsed(last));
                break first;
            }
        }
    };
    layers.timeline.ttft = Some(asked_at.elapsed());
    if layers.bytes.received() > 0 {
        metrics::histogram!(names::EDGE_KV_XFER_TIME_SECONDS)
            .record(layers.timeline.transfer_time());
    }
    metrics::histogram!(names::EDGE_TIME_TO_FIRST_TOKEN_SECONDS).record(asked_at.elapsed());
    let (recomputed, speed) = (layers.recomputed(), layers.speed());
    let (tokens, finish) = generate(question, &mut sequence, first, &mut on);
    Answer {
        tokens,
        finish,
        timeline: layers.timeline,
        received_bytes: layers.bytes.received(),
        recomputed,
        chosen_count: layers.chosen_count,
        speed,
        segment,
    }
}

fn generate(
    question: &Question<'_>,
    sequence: &mut Sequence<'_>,
    first: TokenId,
    on: &mut impl FnMut(Event),
) -> (PrivateTokens, Finish) {
    let mut tokens = PrivateTokens::default();
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
