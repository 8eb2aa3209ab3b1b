//! Computing cloud prompts: one thread, one prompt at a time, every prompt once.
//!
//! Tensor work stays on that thread; everybody else watches layers become ready.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;
use std::time::Instant;

use edgeprompt_engine::{layer_from_view, prefill_segment};
use edgeprompt_kv::{
    KvDtype, LayerIndex, LayerKv, PromptId, PromptKv, PromptStore, SegmentSlots, TokenId,
};
use edgeprompt_model::Model;
use edgeprompt_protocol::KvSource;
use edgeprompt_telemetry::names;
use edgeprompt_transport::ComputeSpan;
use tokio::sync::watch;

/// Prompts that may wait for the computing thread; more are refused as busy.
pub const JOBS_WAITING_MAX: u32 = 64;

/// No more prompts are taken in: too many wait already, or the computing thread is gone.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{JOBS_WAITING_MAX} prompts wait to be computed already")]
pub struct Busy;

/// A prompt whose layers are there or on their way.
#[derive(Clone, Debug)]
pub struct ServedPrompt {
    kv: Arc<PromptKv>,
    /// When each layer was computed.
    spans: SegmentSlots<ComputeSpan>,
    /// How many layers exist; nothing when all did before.
    ready: Option<watch::Receiver<u32>>,
}

/// Computation of this prompt ended before this layer existed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the computation ended before layer {0}")]
pub struct ComputationLost(pub u32);

impl ServedPrompt {
    /// Its identity.
    pub fn id(&self) -> PromptId {
        self.kv.id
    }

    /// Whether the layers existed before they were asked for.
    pub const fn source(&self) -> KvSource {
        match self.ready {
            None => KvSource::Stored,
            Some(_) => KvSource::Computing,
        }
    }

    /// A layer, as soon as it exists, and when it was computed.
    ///
    /// # Errors
    /// [`ComputationLost`] if the computing thread died.
    pub async fn layer(
        &mut self,
        layer: LayerIndex,
    ) -> Result<(LayerKv, ComputeSpan), ComputationLost> {
        if let Some(ready) = &mut self.ready {
            let there = ready.wait_for(|count| *count > layer.0).await;
            there.map_err(|_| ComputationLost(layer.0))?;
        }
        let kv = self.kv.layers.get(layer).ok_or(ComputationLost(layer.0))?;
        Ok((
            kv.clone(),
            self.spans
                .get(layer)
                .copied()
                .unwrap_or(ComputeSpan::Stored),
        ))
    }
}

struct Job {
    kv: Arc<PromptKv>,
    spans: SegmentSlots<ComputeSpan>,
    ready: watch::Sender<u32>,
}

struct Shelf {
    store: PromptStore,
    computing: HashMap<PromptId, ServedPrompt>,
}

/// The prompts of a cloud: stored, being computed, or about to be.
pub struct PromptComputer {
    model: Arc<Model>,
    shelf: Mutex<Shelf>,
    jobs: SyncSender<Job>,
    computed: Arc<AtomicU64>,
}

impl PromptComputer {
    /// Starts the computing thread; it ends when the computer is dropped.
    ///
    /// # Panics
    /// If the system cannot start a thread.
    pub fn start(model: Arc<Model>, store_bytes_max: usize) -> Arc<Self> {
        let (jobs, waiting) = sync_channel(usize::try_from(JOBS_WAITING_MAX).unwrap_or(usize::MAX));
        let computed = Arc::new(AtomicU64::new(0));
        let (for_thread, counter) = (Arc::clone(&model), Arc::clone(&computed));
        thread::Builder::new()
            .name("cloud-compute".to_owned())
            .spawn(move || compute_all(&for_thread, &waiting, &counter))
            .expect("the system starts a thread");
        let store = PromptStore::new(store_bytes_max);
        let shelf = Mutex::new(Shelf {
            store,
            computing: HashMap::new(),
        });
        Arc::new(Self {
            model,
            shelf,
            jobs,
            computed,
        })
    }

    /// The model that computes.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// Prompts computed since the start.
    pub fn computed_count(&self) -> u64 {
        self.computed.load(Ordering::Relaxed)
    }

    /// A prompt if it is stored or being computed.
    pub fn find(&self, id: &PromptId) -> Option<ServedPrompt> {
        self.shelf
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .find(id)
    }

    /// A prompt, computed from now on if nobody asked for it before. All who ask while it is being
    /// computed share the one computation.
    ///
    /// # Errors
    /// [`Busy`].
    pub fn serve(&self, tokens: &[TokenId]) -> Result<ServedPrompt, Busy> {
        let id = PromptId::of(&self.model.digest, tokens);
        let mut shelf = self.shelf.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(served) = shelf.find(&id) {
            return Ok(served);
        }
        let layer_count = self.model.decoder.layers().len();
        let kv = shelf.store.insert(PromptKv {
            id,
            tokens: tokens.into(),
            geometry: self.model.geometry,
            dtype: KvDtype::F32,
            layers: SegmentSlots::empty(layer_count),
        });
        let (ready, watching) = watch::channel(0);
        let spans = SegmentSlots::empty(layer_count);
        let served = ServedPrompt {
            kv: Arc::clone(&kv),
            spans: spans.clone(),
            ready: Some(watching),
        };
        match self.jobs.try_send(Job { kv, spans, ready }) {
            Ok(()) => {
                shelf.computing.insert(id, served.clone());
                Ok(served)
            }
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                shelf.store.remove(&id);
                Err(Busy)
            }
        }
    }
}

impl Shelf {
    fn find(&mut self, id: &PromptId) -> Option<ServedPrompt> {
        if let Some(served) = self.computing.get(id) {
            let under_way = served
                .ready
                .as_ref()
                .is_some_and(|ready| ready.has_changed().is_ok());
            if under_way {
                return Some(served.clone());
            }
            // The computing thread let go of it: it is complete, or was lost half-way.
            self.computing.remove(id);
        }
        let kv = self.store.get(id)?;
        if !kv.layers.is_complete() {
            self.store.remove(id);
            return None;
        }
        let spans = SegmentSlots::empty(kv.layers.layer_count());
        Some(ServedPrompt {
            kv,
            spans,
            ready: None,
        })
    }
}

fn compute_all(model: &Model, jobs: &Receiver<Job>, computed: &AtomicU64) {
    for job in jobs {
        // Counted before the last layer is out, so that whoever has all layers sees the count.
        computed.fetch_add(1, Ordering::Relaxed);
        compute(model, &job);
    }
}

fn compute(model: &Model, job: &Job) {
    let mut start = Instant::now();
    prefill_segment(model, &job.kv.tokens, |layer, view| {
        let encoded = layer_from_view(&view, &model.geometry, job.kv.dtype)
            .expect("the engine computes layers of the model's geometry");
        let end = Instant::now();
        metrics::histogram!(names::CLOUD_LAYER_COMPUTE_SECONDS).record(end - start);
        let span = ComputeSpan::Computed { start, end };
        job.spans
            .fill(layer, span)
            .expect("every layer is computed once");
        job.kv
            .layers
            .fill(layer, encoded)
            .expect("every layer is computed once");
        job.ready.send_replace(layer.0 + 1);
        start = Instant::now();
    });
    metrics::counter!(names::CLOUD_PROMPTS_COMPUTED_TOTAL).increment(1);
    let (id, tokens) = (job.kv.id.short(), job.kv.tokens.len());
    tracing::info!(prompt = id, tokens, "cloud prompt computed");
}
