//! Computing cloud prompts: one thread, one prompt at a time, every prompt once.
//!
//! Tensor work stays on that thread; everybody else watches layers become ready. Which prompt is
//! next, and how many may wait, is the job queue's to say.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;
use std::time::Instant;

use edgeprompt_engine::{SegmentPrefill, layer_from_view};
use edgeprompt_kv::{KvDtype, PromptId, PromptKv, PromptStore, SegmentSlots, TokenId};
use edgeprompt_model::Model;
use edgeprompt_telemetry::names;
use edgeprompt_transport::ComputeSpan;

use crate::job_queue::{Busy, EdgeName, JobQueue};
use crate::prompt_limit::PromptLimit;
use crate::served_prompt::{Job, ServedPrompt};

/// The prompts of a cloud: stored, being computed, or about to be.
///
/// What is kept and what is being computed take no more than the store may, except for prompts
/// that somebody still sends: those live until they are sent.
pub struct PromptComputer {
    model: Arc<Model>,
    limit: PromptLimit,
    shared: Arc<Shared>,
}

/// What the computing thread shares with whoever asks.
struct Shared {
    shelf: Mutex<Shelf>,
    /// Told when a job is queued or the computer is dropped.
    changed: Condvar,
    computed: AtomicU64,
}

struct Shelf {
    /// Complete prompts only.
    store: PromptStore,
    /// Prompts that are not complete.
    jobs: JobQueue,
    phase: Phase,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    Closed,
}

impl PromptComputer {
    /// Starts the computing thread; it ends when the computer is dropped.
    ///
    /// # Panics
    /// If the system cannot start a thread.
    pub fn start(model: Arc<Model>, store_bytes_max: usize) -> Arc<Self> {
        Self::start_with(model, store_bytes_max, compute)
    }

    /// As [`PromptComputer::start`], computing with `compute`: tests hold it up, or make it fail.
    pub(crate) fn start_with(
        model: Arc<Model>,
        store_bytes_max: usize,
        compute: impl FnMut(&Model, &Job) + Send + 'static,
    ) -> Arc<Self> {
        let shelf = Shelf {
            store: PromptStore::new(store_bytes_max),
            jobs: JobQueue::default(),
            phase: Phase::Open,
        };
        let shared = Arc::new(Shared {
            shelf: Mutex::new(shelf),
            changed: Condvar::new(),
            computed: AtomicU64::new(0),
        });
        let (for_thread, its_shared) = (Arc::clone(&model), Arc::clone(&shared));
        thread::Builder::new()
            .name("cloud-compute".to_owned())
            .spawn(move || compute_all(&for_thread, &its_shared, compute))
            .expect("the system starts a thread");
        let limit = PromptLimit::of_store(&model, store_bytes_max);
        Arc::new(Self {
            model,
            limit,
            shared,
        })
    }

    /// The model that computes.
    pub fn model(&self) -> &Arc<Model> {
        &self.model
    }

    /// The longest prompt to ask for.
    pub const fn limit(&self) -> PromptLimit {
        self.limit
    }

    /// Prompts computed since the start.
    pub fn computed_count(&self) -> u64 {
        self.shared.computed.load(Ordering::Relaxed)
    }

    /// Prompts that wait to be computed, or are being computed.
    pub fn computing_count(&self) -> usize {
        self.shared.shelf().jobs.len()
    }

    /// Bytes of keys and values kept for later.
    pub fn stored_bytes(&self) -> usize {
        self.shared.shelf().store.bytes()
    }

    /// A prompt if it is stored or being computed, to be sent in a number format.
    pub fn find(&self, id: &PromptId, dtype: KvDtype) -> Option<ServedPrompt> {
        self.shared.shelf().find(id, dtype)
    }

    /// A prompt, computed from now on if nobody asked for it before. All who ask while it is being
    /// computed share the one computation.
    ///
    /// # Errors
    /// [`Busy`].
    pub fn serve(
        &self,
        edge: &EdgeName,
        tokens: &Arc<[TokenId]>,
        dtype: KvDtype,
    ) -> Result<ServedPrompt, Busy> {
        let id = PromptId::of(&self.model.digest, tokens);
        let mut shelf = self.shared.shelf();
        if let Some(served) = shelf.find(&id, dtype) {
            return Ok(served);
        }
        let kv = PromptKv {
            id,
            tokens: Arc::clone(tokens),
            geometry: self.model.geometry,
            dtype: KvDtype::F32,
            layers: SegmentSlots::empty(self.model.decoder.layers().len()),
        };
        let served = shelf.jobs.push(Job::new(kv, edge.clone()))?;
        self.shared.changed.notify_one();
        Ok(shelf.sent_as(served, dtype))
    }
}

impl Drop for PromptComputer {
    fn drop(&mut self) {
        let mut shelf = self.shared.shelf();
        shelf.phase = Phase::Closed;
        shelf.jobs.clear();
        self.shared.changed.notify_one();
    }
}

impl Shelf {
    fn find(&mut self, id: &PromptId, dtype: KvDtype) -> Option<ServedPrompt> {
        // Encoded before, it needs nothing that is exact, which may have gone.
        let encoded = self.store.get(id, dtype);
        if let Some(kv) = encoded.filter(|kv| kv.layers.is_complete()) {
            return Some(ServedPrompt::stored(kv));
        }
        let exact = self.jobs.find(id);
        let exact = exact.or_else(|| self.store.get(id, KvDtype::F32).map(ServedPrompt::stored));
        exact.map(|served| self.sent_as(served, dtype))
    }

    /// What is computed exactly, in another number format: each layer is encoded once for everybody.
    fn sent_as(&mut self, served: ServedPrompt, dtype: KvDtype) -> ServedPrompt {
        if dtype == served.dtype() {
            return served;
        }
        let encoded = self.store.get(&served.id(), dtype).unwrap_or_else(|| {
            let new = Arc::new(served.empty_as(dtype));
            self.store.insert(Arc::clone(&new));
            new
        });
        served.sent_as(encoded)
    }
}

impl Shared {
    fn shelf(&self) -> MutexGuard<'_, Shelf> {
        self.shelf.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next job once there is one, or `None` once the computer is dropped.
    fn next_job(&self) -> Option<Job> {
        let mut shelf = self.shelf();
        while shelf.phase == Phase::Open {
            if let Some(job) = shelf.jobs.start_next() {
                shelf.store.make_room(job.kv.bytes());
                return Some(job);
            }
            let waiting = self.changed.wait(shelf);
            shelf = waiting.unwrap_or_else(PoisonError::into_inner);
        }
        None
    }

    /// Counts and stores a complete prompt before its last layer is out: whoever has all layers
    /// finds it stored.
    fn finish(&self, job: &Job) {
        self.computed.fetch_add(1, Ordering::Relaxed);
        metrics::counter!(names::CLOUD_PROMPTS_COMPUTED_TOTAL).increment(1);
        let mut shelf = self.shelf();
        shelf.store.insert(Arc::clone(&job.kv));
        shelf.jobs.end();
        drop(shelf);
        job.complete();
    }
}

fn compute_all(model: &Model, shared: &Shared, mut compute: impl FnMut(&Model, &Job)) {
    while let Some(job) = shared.next_job() {
        let (prompt, tokens) = (job.kv.id.short(), job.kv.tokens.len());
        // Safe to go on after a panic: what it leaves behind is a job with some layers filled,
        // and that job goes here. Its watchers learn that it is lost; the next job is unharmed.
        let ended = catch_unwind(AssertUnwindSafe(|| compute(model, &job)));
        if ended.is_ok() && job.kv.layers.is_complete() {
            shared.finish(&job);
            tracing::info!(prompt, tokens, "cloud prompt computed");
        } else {
            shared.shelf().jobs.end();
            tracing::error!(prompt, tokens, "the computation of a cloud prompt failed");
        }
    }
}

/// Fills every layer of a job.
pub(crate) fn compute(model: &Model, job: &Job) {
    let mut start = Instant::now();
    for (layer, view) in SegmentPrefill::start(model, &job.kv.tokens) {
        let encoded = layer_from_view(&view, &model.geometry, job.kv.dtype)
            .expect("the engine computes layers of the model's geometry");
        let end = Instant::now();
        metrics::histogram!(names::CLOUD_LAYER_COMPUTE_SECONDS).record(end - start);
        job.put(layer, encoded, ComputeSpan::Computed { start, end });
        start = Instant::now();
    }
}
