//! A cloud prompt on its way to this edge: the manifest, then layers as they arrive.
//!
//! The network side runs on the async runtime and resumes a lost link with the missing layers; the
//! engine's thread reads a plain channel and is never kept waiting by a full one.

use std::collections::BTreeSet;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use edgeprompt_kv::{KvDtype, LayerIndex, LayerRange};
use edgeprompt_model::Model;
use edgeprompt_protocol::{Fetch, Manifest, PromptRef, PublicPrompt};
use edgeprompt_transport::{
    ConnectError, FetchError, LayerProblem, LayerStream, LayerStreamError, ReceivedLayer,
};

use crate::prefill_speed::PrefillSpeed;
use crate::uplink::Uplink;

/// How often missing layers of one prompt are asked for again.
const RESUMPTIONS_MAX: u32 = 3;
/// Pause before the second attempt to resume; each further one is twice as long.
const RESUME_PAUSE: Duration = Duration::from_millis(100);

/// Why layers do not come: the label of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossReason {
    /// No link to the cloud.
    Unreachable,
    /// The cloud does not serve the prompt, or answers for another model or version.
    Refused,
    /// The link went away and could not be resumed.
    LinkLost,
    /// What came is not what was promised.
    Corrupt,
    /// The cloud stopped sending.
    Stalled,
    /// Waiting takes longer than computing here.
    Slow,
}

impl LossReason {
    /// As a metric's label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::LinkLost => "link_lost",
            Self::Corrupt => "corrupt",
            Self::Stalled => "stalled",
            Self::Slow => "slow",
        }
    }
}

/// Layers that will not come, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Loss {
    /// In one word.
    pub reason: LossReason,
    /// In the words of whoever noticed.
    pub detail: String,
}

/// What comes after a manifest.
#[derive(Debug)]
pub enum Arrival {
    /// So many layers are computed and on their way or here.
    Begun(usize),
    /// A verified layer.
    Layer {
        /// The layer.
        received: ReceivedLayer,
        /// When the cloud received the request for it, on this node's clock: half a round trip
        /// after it was sent.
        received_by_cloud_at: Instant,
    },
    /// The layers that are missing will not come.
    Lost(Loss),
}

/// Why there is no cloud prompt.
#[derive(Debug, thiserror::Error)]
pub enum CloudPromptError {
    /// There is no link.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// The request brought nothing.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// What the cloud promises cannot be of this model.
    #[error("the cloud's manifest does not fit the model: {0}")]
    Manifest(&'static str),
}

impl CloudPromptError {
    /// The same as a loss of all layers.
    pub fn loss(&self) -> Loss {
        let reason = match self {
            Self::Fetch(FetchError::Refused(_) | FetchError::DigestMismatch { .. })
            | Self::Connect(ConnectError::Version) => LossReason::Refused,
            Self::Fetch(FetchError::Lost(_)) => LossReason::LinkLost,
            Self::Fetch(FetchError::TimedOut | FetchError::NoAnswer) => LossReason::Stalled,
            Self::Fetch(_) | Self::Manifest(_) => LossReason::Corrupt,
            Self::Connect(_) => LossReason::Unreachable,
        };
        Loss {
            reason,
            detail: self.to_string(),
        }
    }
}

/// A manifest and the channel its layers come through.
#[derive(Debug)]
pub struct CloudPrompt {
    /// What the cloud promised.
    pub manifest: Manifest,
    /// The layers, in the order in which they are complete.
    pub arrivals: Receiver<Arrival>,
}

impl CloudPrompt {
    /// Asks for all layers of a prompt; returns once the cloud has said what will come.
    ///
    /// # Errors
    /// [`CloudPromptError`].
    pub async fn fetch(
        uplink: &Uplink,
        model: &Model,
        prompt: PromptRef,
    ) -> Result<Self, CloudPromptError> {
        Self::fetch_from(uplink, model, prompt, LayerIndex(0)).await
    }

    /// As [`CloudPrompt::fetch`], for the layers from `first` on.
    ///
    /// # Errors
    /// [`CloudPromptError`].
    pub async fn fetch_from(
        uplink: &Uplink,
        model: &Model,
        prompt: PromptRef,
        first: LayerIndex,
    ) -> Result<Self, CloudPromptError> {
        let layers = LayerRange::new(first.0, model.geometry.layer_count());
        let request = Request {
            uplink,
            model,
            prompt,
            layers: layers.unwrap_or(LayerRange::first(0)),
        };
        let (fetch, stream, received_by_cloud_at) = match request.send().await {
            // A link that was lost while idle shows only now, and a cloud that stops mid-answer may
            // be about to come back: worth one more try.
            Err(CloudPromptError::Fetch(FetchError::Lost(_) | FetchError::NoAnswer)) => {
                uplink.forget();
                request.send().await?
            }
            sent => sent?,
        };
        let manifest = stream.manifest().clone();
        check(&manifest, &request).map_err(CloudPromptError::Manifest)?;
        // Room for a beginning and an end of every layer on each attempt, and one last word.
        let attempts = 1 + RESUMPTIONS_MAX as usize;
        let (sender, arrivals) = sync_channel(2 * manifest.layers.len() * attempts + 1);
        let forwarding = Forwarding {
            uplink: uplink.clone(),
            fetch,
            missing: manifest.layers.iter().collect(),
            manifest: manifest.clone(),
            sender,
        };
        uplink.track(tokio::spawn(forwarding.run(stream, received_by_cloud_at)));
        Ok(Self { manifest, arrivals })
    }
}

/// What a fetch asks for.
struct Request<'a> {
    uplink: &'a Uplink,
    model: &'a Model,
    prompt: PromptRef,
    layers: LayerRange,
}

impl Request<'_> {
    /// Asks once; also says when the cloud received it, on this node's clock.
    async fn send(&self) -> Result<(Fetch, LayerStream, Instant), CloudPromptError> {
        let link = self.uplink.link().await?;
        let asked_at = Instant::now();
        let fetch = Fetch {
            fetch: link.next_fetch_id(),
            model: self.model.digest,
            prompt: self.prompt.clone(),
            layers: self.asked_layers(),
            dtype: KvDtype::F32,
        };
        let stream = link.fetch(fetch.clone()).await?;
        let one_way: Duration = link.stats().rtt / 2;
        Ok((fetch, stream, asked_at + one_way))
    }

    /// `None` asks for all.
    fn asked_layers(&self) -> Option<LayerRange> {
        let all = LayerRange::first(self.model.geometry.layer_count());
        Some(self.layers).filter(|layers| *layers != all)
    }
}

/// Whether a manifest can be of this model and this request. The transport has compared digests and
/// ids; those are only claims, and shapes that differ would break the pass half-way.
fn check(manifest: &Manifest, request: &Request<'_>) -> Result<(), &'static str> {
    let model = request.model;
    if manifest.geometry != model.geometry {
        return Err("its keys and values have another shape");
    }
    if manifest.layers != request.layers {
        return Err("it does not announce the layers asked for");
    }
    if manifest.tokens.len() >= model.config.context_len_max {
        return Err("the prompt fills the model's context");
    }
    if manifest
        .tokens
        .iter()
        .any(|token| token.0 as usize >= model.config.vocab_size)
    {
        return Err("a token is outside the vocabulary");
    }
    let sent = match &request.prompt {
        PromptRef::Public(PublicPrompt::Text(text)) => Some(text),
        PromptRef::Public(PublicPrompt::Tokens(_)) | PromptRef::Named(_) | PromptRef::Id(_) => None,
    };
    if sent.is_some() && manifest.text.as_ref() != sent {
        return Err("its text is not the one that was sent");
    }
    match (&manifest.text, model.tokenizer()) {
        (Some(text), Ok(tokenizer)) => match tokenizer.encode(text) {
            Ok(tokens) if tokens == manifest.tokens => Ok(()),
            _ => Err("its text does not tokenise to its tokens"),
        },
        _ => Ok(()),
    }
}

/// Hands layers on and asks again for those that did not come.
///
/// It runs to its end even if nobody wants the layers any more: when the engine lost patience
/// depends on the private prompt, and the cloud must not learn of it.
struct Forwarding {
    uplink: Uplink,
    fetch: Fetch,
    manifest: Manifest,
    missing: BTreeSet<LayerIndex>,
    sender: SyncSender<Arrival>,
}

impl Forwarding {
    async fn run(mut self, stream: LayerStream, received_by_cloud_at: Instant) {
        let Some(mut loss) = self.drain(stream, received_by_cloud_at).await else {
            return;
        };
        let mut pause = RESUME_PAUSE;
        for attempt in 0..RESUMPTIONS_MAX {
            if attempt > 0 {
                tokio::time::sleep(pause).await;
                pause *= 2;
            }
            tracing::info!(
                detail = loss.detail,
                missing = self.missing.len(),
                "resuming"
            );
            let drained = match self.resume().await {
                Err(loss) => Some(loss),
                Ok((stream, received_by_cloud_at)) => {
                    self.drain(stream, received_by_cloud_at).await
                }
            };
            match drained {
                None => return,
                Some(again) => loss = again,
            }
        }
        self.tell(Arrival::Lost(loss));
    }

    /// Asks for the missing layers only, on a new link if the old one is gone.
    async fn resume(&self) -> Result<(LayerStream, Instant), Loss> {
        let lost = |error: CloudPromptError| error.loss();
        let link = self
            .uplink
            .link()
            .await
            .map_err(|error| lost(error.into()))?;
        let (first, last) = (self.missing.first(), self.missing.last());
        let layers = first
            .zip(last)
            .and_then(|(first, last)| LayerRange::new(first.0, last.0 + 1));
        let fetch = Fetch {
            fetch: link.next_fetch_id(),
            layers,
            ..self.fetch.clone()
        };
        let asked_at = Instant::now();
        let stream = link
            .fetch(fetch)
            .await
            .map_err(|error| lost(error.into()))?;
        let (first, resumed) = (&self.manifest, stream.manifest());
        if (resumed.prompt, resumed.geometry) != (first.prompt, first.geometry) {
            let detail = "the cloud's prompt has changed meanwhile".to_owned();
            return Err(Loss {
                reason: LossReason::Refused,
                detail,
            });
        }
        Ok((stream, asked_at + link.stats().rtt / 2))
    }

    /// Takes one stream to its end; nothing is left to say if every layer is here then.
    async fn drain(
        &mut self,
        mut stream: LayerStream,
        received_by_cloud_at: Instant,
    ) -> Option<Loss> {
        let mut begun = stream.begun();
        let mut failed = None;
        while !self.missing.is_empty() {
            let next = tokio::select! {
                Ok(()) = begun.changed() => {
                    let count = *begun.borrow_and_update();
                    self.tell(Arrival::Begun(count));
                    continue;
                }
                next = stream.next_layer() => next,
            };
            match next {
                Ok(Some(received)) => {
                    self.note_speed(&received);
                    if self.missing.remove(&received.layer) {
                        self.tell(Arrival::Layer {
                            received,
                            received_by_cloud_at,
                        });
                    }
                }
                Ok(None) => return Some(failed.unwrap_or_else(short_stream)),
                Err(error) => {
                    let loss = loss_of(&error);
                    if error.is_final() || matches!(error, LayerStreamError::TimedOut { .. }) {
                        return Some(loss);
                    }
                    failed = Some(loss);
                }
            }
        }
        None
    }

    fn note_speed(&self, received: &ReceivedLayer) {
        let timings = received.timings;
        // Zero both for a layer that was stored.
        let computed = timings
            .compute_end_us
            .saturating_sub(timings.compute_start_us);
        let token_count = self.manifest.tokens.len();
        let speed = PrefillSpeed::new(Duration::from_micros(computed), token_count);
        self.uplink.note_speed(speed);
    }

    fn tell(&self, arrival: Arrival) {
        // The channel has room for all there is to say; nobody listens once the engine has
        // computed the layers itself.
        let _ = self.sender.try_send(arrival);
    }
}

fn short_stream() -> Loss {
    let detail = "the cloud sent fewer layers than it promised".to_owned();
    Loss {
        reason: LossReason::Corrupt,
        detail,
    }
}

fn loss_of(error: &LayerStreamError) -> Loss {
    let reason = match error {
        LayerStreamError::Layer(failure) => match failure.problem {
            LayerProblem::Stalled => LossReason::Stalled,
            LayerProblem::Lost(_) => LossReason::LinkLost,
            LayerProblem::Corrupt
            | LayerProblem::Truncated
            | LayerProblem::Overlong
            | LayerProblem::Header(_)
            | LayerProblem::Trailer(_) => LossReason::Corrupt,
        },
        LayerStreamError::Abandoned { .. } | LayerStreamError::TimedOut { .. } => {
            LossReason::Stalled
        }
        LayerStreamError::Lost(_) => LossReason::LinkLost,
    };
    Loss {
        reason,
        detail: error.to_string(),
    }
}
