//! A cloud prompt on its way to this edge: the manifest, then layers as they arrive.
//!
//! The engine's thread reads a plain channel; `Forwarding` fills it.

use std::fs::File;
use std::sync::Arc;
use std::sync::mpsc::{Receiver, sync_channel};
use std::time::{Duration, Instant};

use edgeprompt_kv::{LayerIndex, LayerRange};
use edgeprompt_model::Model;
use edgeprompt_protocol::{Fetch, FetchId, KvSource, Manifest, PromptRef, PublicPrompt, Refusal};
use edgeprompt_segment_store::SegmentReader;
use edgeprompt_transport::{ConnectError, FetchError, LayerStream, ReceivedLayer};

use crate::disk_cache::DiskCache;
use crate::forwarding::{Forwarding, arrivals_max};
use crate::kv_origin::KvOrigin;
use crate::uplink::Uplink;

/// Why layers do not come: the label of a metric.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LossReason {
    /// No link to the cloud.
    Unreachable,
    /// The cloud does not serve the prompt, or speaks another version.
    Refused,
    /// The cloud runs another model.
    OtherModel,
    /// The link went away and could not be resumed.
    LinkLost,
    /// What came is not what was promised.
    Corrupt,
    /// The cloud stopped sending.
    Stalled,
    /// Waiting takes longer than computing here.
    Slow,
    /// This edge's disk does not give what it keeps.
    Unreadable,
}

impl LossReason {
    /// Every reason there is.
    pub const ALL: [Self; 8] = [
        Self::Unreachable,
        Self::Refused,
        Self::OtherModel,
        Self::LinkLost,
        Self::Corrupt,
        Self::Stalled,
        Self::Slow,
        Self::Unreadable,
    ];

    /// As a metric's label.
    pub const fn label(self) -> &'static str {
        match self {
            Self::Unreachable => "unreachable",
            Self::Refused => "refused",
            Self::OtherModel => "other_model",
            Self::LinkLost => "link_lost",
            Self::Corrupt => "corrupt",
            Self::Stalled => "stalled",
            Self::Slow => "slow",
            Self::Unreadable => "unreadable",
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
        /// Where it came from.
        origin: KvOrigin,
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
            Self::Fetch(
                FetchError::Refused(Refusal::ModelMismatch { .. })
                | FetchError::DigestMismatch { .. },
            ) => LossReason::OtherModel,
            Self::Fetch(FetchError::Refused(_)) | Self::Connect(ConnectError::Version { .. }) => {
                LossReason::Refused
            }
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
    /// When this edge began to ask.
    pub asked_at: Instant,
    /// What the cloud promised.
    pub manifest: Manifest,
    /// The layers, in the order in which they are complete.
    pub arrivals: Receiver<Arrival>,
    /// Where they come from, unless that fails.
    pub origin: KvOrigin,
}

/// What a source would send, or this disk would give. Dropped, none of it is taken.
pub(crate) struct Offer {
    asked_at: Instant,
    pub(crate) manifest: Manifest,
    pub(crate) origin: KvOrigin,
    fetch: Fetch,
    beginning: Beginning,
    /// Who is asked for what does not come, in this order.
    others: Vec<Uplink>,
}

/// Why a segment on disk is not offered.
#[derive(Debug)]
pub(crate) enum DiskMiss {
    /// It is of another model: several edges may share a folder.
    OfOthers,
    /// It says that it is of this model and cannot be.
    Damaged(&'static str),
}

/// What gives the layers first.
enum Beginning {
    Link {
        uplink: Uplink,
        stream: LayerStream,
        received_by_cloud_at: Instant,
    },
    Disk {
        disk: Arc<DiskCache>,
        reader: SegmentReader<File>,
    },
}

impl CloudPrompt {
    /// Asks for all layers of a prompt; returns once the cloud has said what will come.
    ///
    /// # Errors
    /// [`CloudPromptError`].
    pub async fn fetch(
        uplink: &Uplink,
        model: &Arc<Model>,
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
        model: &Arc<Model>,
        prompt: PromptRef,
        first: LayerIndex,
    ) -> Result<Self, CloudPromptError> {
        let offer = Offer::of_cloud(uplink, model, prompt, first).await?;
        Ok(offer.take())
    }
}

impl Offer {
    /// Asks the cloud for the layers of a prompt from `first` on; returns once it has said what
    /// would come.
    ///
    /// # Errors
    /// [`CloudPromptError`].
    pub(crate) async fn of_cloud(
        uplink: &Uplink,
        model: &Arc<Model>,
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
        Self::of(request, &[]).await
    }

    /// Asks for all layers; those that do not come from `uplink` are asked of the `others` in turn,
    /// by the prompt's id.
    ///
    /// # Errors
    /// [`CloudPromptError`] if there is no answer to begin with; the others are not asked then.
    pub(crate) async fn of_neighbour(
        uplink: &Uplink,
        model: &Arc<Model>,
        prompt: PromptRef,
        others: &[Uplink],
    ) -> Result<Self, CloudPromptError> {
        let request = Request {
            uplink,
            model,
            prompt,
            layers: LayerRange::first(model.geometry.layer_count()),
        };
        Self::of(request, others).await
    }

    async fn of(request: Request<'_>, others: &[Uplink]) -> Result<Self, CloudPromptError> {
        let uplink = request.uplink;
        let asked_at = Instant::now();
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
        let expected = Expected {
            model: Arc::clone(request.model),
            prompt: request.prompt,
            layers: request.layers,
        };
        let manifest = expected.checked(manifest).await;
        Ok(Self {
            asked_at,
            manifest: manifest.map_err(CloudPromptError::Manifest)?,
            origin: uplink.origin(),
            fetch,
            beginning: Beginning::Link {
                uplink: uplink.clone(),
                stream,
                received_by_cloud_at,
            },
            others: others.to_vec(),
        })
    }

    /// All layers in the disk cache; those that are damaged there are asked of the `others` in turn,
    /// by the prompt's id.
    ///
    /// # Errors
    /// [`DiskMiss`].
    pub(crate) async fn of_disk(
        (disk, reader): (Arc<DiskCache>, SegmentReader<File>),
        model: &Arc<Model>,
        others: Vec<Uplink>,
    ) -> Result<Self, DiskMiss> {
        let asked_at = Instant::now();
        let info = reader.info();
        if info.model != model.digest {
            return Err(DiskMiss::OfOthers);
        }
        let manifest = Manifest {
            fetch: FetchId(0),
            prompt: info.id(),
            model: info.model,
            geometry: info.geometry,
            dtype: info.dtype,
            layers: LayerRange::first(info.geometry.layer_count()),
            tokens: info.tokens.to_vec(),
            text: info.text.as_deref().map(str::to_owned),
            source: KvSource::Stored,
        };
        let prompt = PromptRef::Id(manifest.prompt);
        let fetch = Fetch {
            fetch: manifest.fetch,
            model: model.digest,
            prompt: prompt.clone(),
            layers: None,
            // Whoever sends the rest sends it in the same number format.
            dtype: manifest.dtype,
        };
        let expected = Expected {
            model: Arc::clone(model),
            prompt,
            layers: LayerRange::first(model.geometry.layer_count()),
        };
        Ok(Self {
            asked_at,
            manifest: expected
                .checked(manifest)
                .await
                .map_err(DiskMiss::Damaged)?,
            origin: KvOrigin::Disk,
            fetch,
            beginning: Beginning::Disk { disk, reader },
            others,
        })
    }

    /// Begins to take the layers.
    pub(crate) fn take(self) -> CloudPrompt {
        let others = self.others;
        let (sender, arrivals) = sync_channel(arrivals_max(&self.manifest, others.len()));
        let asked = (self.fetch, &self.manifest);
        match self.beginning {
            Beginning::Link {
                uplink,
                stream,
                received_by_cloud_at,
            } => {
                let sources = std::iter::once(uplink.clone()).chain(others).collect();
                let forwarding = Forwarding::new(sources, asked, sender);
                uplink.track(tokio::spawn(forwarding.run(stream, received_by_cloud_at)));
            }
            Beginning::Disk { disk, reader } => {
                let next = others.first().cloned();
                let forwarding = Forwarding::new(others.into(), asked, sender);
                let reading = tokio::spawn(forwarding.run_from_disk(disk, reader));
                // Nothing is under way on a link unless the disk fails.
                if let Some(next) = next {
                    next.track(reading);
                }
            }
        }
        CloudPrompt {
            asked_at: self.asked_at,
            manifest: self.manifest,
            arrivals,
            origin: self.origin,
        }
    }
}

/// What a fetch asks for.
struct Request<'a> {
    uplink: &'a Uplink,
    model: &'a Arc<Model>,
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
            dtype: self.uplink.dtype(),
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

/// What a manifest must be of.
struct Expected {
    model: Arc<Model>,
    prompt: PromptRef,
    layers: LayerRange,
}

impl Expected {
    /// The manifest if it can be what is expected. Off the async threads: a long text takes long to
    /// tokenise.
    async fn checked(self, manifest: Manifest) -> Result<Manifest, &'static str> {
        let checking = tokio::task::spawn_blocking(move || {
            self.check(&manifest)?;
            Ok(manifest)
        });
        // A thread that panicked has said so.
        let checked = checking.await;
        checked.unwrap_or(Err("this edge failed to compare it with the model"))
    }

    /// The transport has compared digests and ids; those are only claims, and shapes that differ
    /// would break the pass half-way.
    fn check(&self, manifest: &Manifest) -> Result<(), &'static str> {
        let model = &self.model;
        if manifest.geometry != model.geometry {
            return Err("its keys and values have another shape");
        }
        if manifest.layers != self.layers {
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
        let sent = match &self.prompt {
            PromptRef::Public(PublicPrompt::Text(text)) => Some(text),
            PromptRef::Public(PublicPrompt::Tokens(_)) | PromptRef::Named(_) | PromptRef::Id(_) => {
                None
            }
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
}

#[cfg(test)]
mod tests;
