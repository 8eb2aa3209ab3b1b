//! What this edge sends to its neighbours: the cloud prompts that it holds complete, in memory or on
//! disk. It fetches and computes nothing for them.
//!
//! Private keys and values cannot be reached from here: a prompt comes from [`CloudPrompts`] or the
//! disk cache, which hold none, and there is no way to the engine.

use std::fs::File;
use std::sync::Arc;

use edgeprompt_engine::{CloudSegment, layer_from_view};
use edgeprompt_kv::{KvDtype, KvGeometry, LayerIndex, LayerKv, LayerRange, PromptId, TokenId};
use edgeprompt_model::Model;
use edgeprompt_protocol::{
    CloudRequest, Fetch, KvSource, Manifest, PromptEntry, PromptRef, PublicPromptProblem, Refusal,
};
use edgeprompt_segment_store::SegmentReader;
use edgeprompt_telemetry::names;
use edgeprompt_transport::{
    CloudEndpoint, ComputeSpan, EdgeLink, IncomingRequest, LayerSender, RespondError,
    SendLayerError,
};
use tokio::sync::Semaphore;
use tokio::task::{JoinSet, spawn_blocking};

use crate::disk_cache::DiskCache;
use crate::serve::segments::CloudPrompts;

/// Fetches answered at a time, each with a layer in memory.
const FETCHES_MAX: u32 = 16;

/// The cloud prompts that neighbours may have.
#[derive(Debug)]
pub struct Neighbourly {
    model: Arc<Model>,
    prompts: CloudPrompts,
    disk: Option<Arc<DiskCache>>,
    fetches: Semaphore,
}

/// Why layers were not all sent.
#[derive(Debug, thiserror::Error)]
enum SendError {
    #[error(transparent)]
    Respond(#[from] RespondError),
    #[error(transparent)]
    Send(#[from] SendLayerError),
    /// It is logged where it happened.
    #[error("layer {0} cannot be read")]
    Unreadable(u32),
}

/// A complete cloud prompt.
struct Held {
    id: PromptId,
    tokens: Vec<TokenId>,
    text: Option<String>,
    layers: Layers,
}

enum Layers {
    /// Exact, and the number format to send it in.
    Memory(CloudSegment, KvDtype),
    Disk {
        disk: Arc<DiskCache>,
        reader: SegmentReader<File>,
        dtype: KvDtype,
    },
}

impl Neighbourly {
    /// What is in memory and on disk.
    pub fn new(model: Arc<Model>, prompts: CloudPrompts, disk: Option<Arc<DiskCache>>) -> Self {
        Self {
            model,
            prompts,
            disk,
            fetches: Semaphore::new(FETCHES_MAX as usize),
        }
    }

    /// Answers neighbours for as long as it is polled.
    pub async fn run(self, mut endpoint: CloudEndpoint) {
        let (neighbourly, mut links) = (Arc::new(self), JoinSet::new());
        loop {
            tokio::select! {
                link = endpoint.accept() => match link {
                    Some(link) => {
                        links.spawn(Arc::clone(&neighbourly).answer_link(link));
                    }
                    None => return,
                },
                Some(_) = links.join_next() => {}
            }
        }
    }

    async fn answer_link(self: Arc<Self>, mut link: EdgeLink) {
        let mut requests = JoinSet::new();
        loop {
            tokio::select! {
                request = link.next_request() => match request {
                    Some(request) => {
                        requests.spawn(Arc::clone(&self).answer(request));
                    }
                    // What is under way has nobody to be sent to any more.
                    None => return,
                },
                Some(_) = requests.join_next() => {}
            }
        }
    }

    async fn answer(self: Arc<Self>, incoming: IncomingRequest) {
        let responder = incoming.responder;
        let fetch = match incoming.request {
            CloudRequest::ListPrompts => {
                // Whoever asks is told, or is gone.
                let _ = responder.prompts(self.entries()).await;
                return;
            }
            CloudRequest::Fetch(fetch) => fetch,
        };
        let Ok(_turn) = self.fetches.try_acquire() else {
            let waiting_count_max = FETCHES_MAX;
            let _ = responder.refuse(Refusal::Busy { waiting_count_max }).await;
            return;
        };
        let sent: Result<(), SendError> = match self.find(&fetch).await {
            Err(refusal) => responder.refuse(refusal).await.map_err(Into::into),
            Ok((manifest, held)) => match responder.manifest(&manifest).await {
                Ok(sender) => send(sender, held.layers, manifest.geometry).await,
                Err(error) => Err(error.into()),
            },
        };
        if let Err(error) = sent {
            tracing::info!(%error, "a neighbour did not get a cloud prompt");
        }
    }

    fn entries(&self) -> Vec<PromptEntry> {
        let here = self.prompts.list();
        let complete = here
            .iter()
            .filter(|(_, prompt)| prompt.segment.is_complete());
        let entries = complete.map(|(name, prompt)| PromptEntry {
            name: name.clone(),
            prompt: prompt.id,
            token_count: u32::try_from(prompt.tokens.len()).unwrap_or(u32::MAX),
        });
        entries.collect()
    }

    async fn find(&self, fetch: &Fetch) -> Result<(Manifest, Held), Refusal> {
        let model = &self.model;
        if fetch.model != model.digest {
            let cloud = model.digest;
            return Err(Refusal::ModelMismatch { cloud });
        }
        let layer_count = model.geometry.layer_count();
        let layers = fetch
            .layers
            .unwrap_or_else(|| LayerRange::first(layer_count));
        if layers.bounds().end > layer_count {
            return Err(Refusal::LayersOutOfRange { layer_count });
        }
        let held = self.held(&fetch.prompt, fetch.dtype).await?;
        let manifest = Manifest {
            fetch: fetch.fetch,
            prompt: held.id,
            model: model.digest,
            geometry: model.geometry,
            dtype: fetch.dtype,
            layers,
            tokens: held.tokens.clone(),
            text: held.text.clone(),
            source: KvSource::Stored,
        };
        Ok((manifest, held))
    }

    /// A prompt in a number format: as it came, or encoded from what lost nothing.
    async fn held(&self, prompt: &PromptRef, dtype: KvDtype) -> Result<Held, Refusal> {
        let here = self.prompts.list().into_iter();
        let mut complete = here.filter(|(_, prompt)| prompt.segment.is_complete());
        let (found, missing) = match prompt {
            PromptRef::Named(asked) => (
                complete.find(|(name, _)| name == asked),
                Refusal::UnknownPrompt {
                    name: asked.clone(),
                },
            ),
            PromptRef::Id(id) => (
                complete.find(|(_, prompt)| prompt.id == *id),
                Refusal::UnknownPromptId,
            ),
            PromptRef::Public(_) => {
                let problem = PublicPromptProblem::NotOffered;
                return Err(Refusal::PublicPromptRefused(problem));
            }
        };
        if let Some((_, prompt)) = found {
            if !prompt.dtype.is_exact() {
                // Tensors that lost something are nobody's but ours; the disk has what came.
                let unsupported = Refusal::UnsupportedDtype { dtype };
                return self.on_disk(prompt.id, dtype).await.ok_or(unsupported);
            }
            return Ok(Held {
                id: prompt.id,
                tokens: prompt.tokens.to_vec(),
                text: prompt.text.as_deref().map(str::to_owned),
                layers: Layers::Memory(prompt.segment, dtype),
            });
        }
        match prompt {
            PromptRef::Id(id) => self.on_disk(*id, dtype).await.ok_or(missing),
            PromptRef::Named(_) | PromptRef::Public(_) => Err(missing),
        }
    }

    async fn on_disk(&self, id: PromptId, dtype: KvDtype) -> Option<Held> {
        let disk = Arc::clone(self.disk.as_ref()?);
        let opening = spawn_blocking(move || {
            let reader = disk.open(&id)?;
            Some((disk, reader))
        });
        // A thread that panicked has said so.
        let (disk, reader) = opening.await.ok().flatten()?;
        let info = reader.info().clone();
        let can_be_had = info.dtype == dtype || info.dtype.is_exact();
        let is_ours = info.geometry == self.model.geometry && can_be_had;
        is_ours.then(|| Held {
            id,
            tokens: info.tokens.to_vec(),
            text: info.text.as_deref().map(str::to_owned),
            layers: Layers::Disk {
                disk,
                reader,
                dtype,
            },
        })
    }
}

async fn send(
    sender: LayerSender,
    mut layers: Layers,
    geometry: KvGeometry,
) -> Result<(), SendError> {
    for layer in sender.manifest().layers.iter() {
        // Tensors and files are not the async threads' business.
        let taking = spawn_blocking(move || {
            let kv = layers.take(layer, &geometry);
            (layers, kv)
        });
        let unreadable = SendError::Unreadable(layer.0);
        let Ok((rest, Some(kv))) = taking.await else {
            return Err(unreadable);
        };
        layers = rest;
        sender.send(layer, &kv, ComputeSpan::Stored).await?;
        metrics::counter!(names::EDGE_KV_BYTES_SENT_TOTAL).increment(kv.payload().len() as u64);
    }
    Ok(sender.finish().await?)
}

impl Layers {
    fn take(&mut self, layer: LayerIndex, geometry: &KvGeometry) -> Option<LayerKv> {
        match self {
            Self::Memory(segment, dtype) => {
                let view = segment.layers.get(layer)?;
                layer_from_view(view, geometry, *dtype).ok()
            }
            Self::Disk {
                disk,
                reader,
                dtype,
            } => {
                let read = reader.layer(layer);
                let id = reader.info().id();
                let read = read.inspect_err(|error| disk.not_read(&id, error));
                Some(read.ok()?.recoded(*dtype))
            }
        }
    }
}
