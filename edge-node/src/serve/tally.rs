//! What a serving edge node has done and is doing, counted once for its metrics and its status line.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use edgeprompt_engine::Engine;
use edgeprompt_telemetry::names;

use crate::serve::step_times::StepTimes;

/// Counts of one engine. Clones share them.
#[derive(Clone, Debug, Default)]
pub struct Tally(Arc<Counters>);

#[derive(Debug, Default)]
struct Counters {
    running: AtomicU64,
    waiting: AtomicU64,
    blocks_used: AtomicU64,
    blocks_all: AtomicU64,
    queried_tokens: AtomicU64,
    hit_tokens: AtomicU64,
    prompt_tokens: AtomicU64,
    generation_tokens: AtomicU64,
    step_times: StepTimes,
    is_spread: AtomicBool,
}

/// The engine at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    /// Requests that compute.
    pub running: usize,
    /// Requests that wait for their turn.
    pub waiting: usize,
    /// Private KV blocks in use.
    pub blocks_used: usize,
    /// Private KV blocks that there are.
    pub blocks_all: usize,
}

/// Tokens of a prompt that an engine takes in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptTokens {
    /// Those whose keys and values are in memory already.
    pub here: usize,
    /// Those of a cloud prompt whose keys and values are on their way.
    pub coming: usize,
    /// Those that are computed for this prompt alone.
    pub computed: usize,
}

/// All counts at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Counts {
    /// The engine.
    pub load: Load,
    /// Tokens of all prompts since the start.
    pub queried_tokens: u64,
    /// Those of them that were in memory.
    pub hit_tokens: u64,
    /// Those of them that were computed for one prompt alone.
    pub prompt_tokens: u64,
    /// Tokens of answers since the start.
    pub generation_tokens: u64,
}

impl PromptTokens {
    /// The same, if so many of those to be computed turn out to be there.
    pub(crate) fn sharing(self, shared: usize) -> Self {
        // Of one that was begun elsewhere, tokens of the answer may be there as well.
        let shared = shared.min(self.computed);
        Self {
            here: self.here + shared,
            computed: self.computed - shared,
            ..self
        }
    }
}

impl Tally {
    /// How long the engine's steps take.
    pub(crate) fn step_times(&self) -> &StepTimes {
        &self.0.step_times
    }

    /// Whether some keys and values are on other devices, from where they are not collected.
    pub(crate) fn is_spread(&self) -> bool {
        self.0.is_spread.load(Ordering::Relaxed)
    }

    /// As the engine says between two steps.
    pub(crate) fn note_where_kv_is(&self, engine: &Engine) {
        let is_spread = !engine.is_whole();
        self.0.is_spread.store(is_spread, Ordering::Relaxed);
    }

    /// The engine is so busy.
    #[expect(clippy::cast_precision_loss, reason = "counts for a gauge")]
    pub(crate) fn load(&self, load: Load) {
        let set = |counter: &AtomicU64, count| counter.store(count as u64, Ordering::Relaxed);
        set(&self.0.running, load.running);
        set(&self.0.waiting, load.waiting);
        set(&self.0.blocks_used, load.blocks_used);
        set(&self.0.blocks_all, load.blocks_all);
        metrics::gauge!(names::EDGE_NUM_REQUESTS_RUNNING).set(load.running as f64);
        metrics::gauge!(names::EDGE_NUM_REQUESTS_WAITING).set(load.waiting as f64);
        metrics::gauge!(names::EDGE_KV_CACHE_USAGE_PERC).set(load.kv_usage());
    }

    /// The engine has computed a prompt.
    pub(crate) fn prompt(&self, tokens: PromptTokens) {
        let queried = (tokens.here + tokens.coming + tokens.computed) as u64;
        let hit = tokens.here as u64;
        add(&self.0.queried_tokens, queried);
        add(&self.0.hit_tokens, hit);
        add(&self.0.prompt_tokens, tokens.computed as u64);
        metrics::counter!(names::EDGE_PREFIX_CACHE_QUERIES_TOTAL).increment(queried);
        metrics::counter!(names::EDGE_PREFIX_CACHE_HITS_TOTAL).increment(hit);
    }

    /// The engine has generated a token.
    pub(crate) fn token(&self) {
        add(&self.0.generation_tokens, 1);
    }

    /// All counts.
    pub fn counts(&self) -> Counts {
        let read = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        let size = |counter| usize::try_from(read(counter)).unwrap_or(usize::MAX);
        Counts {
            load: Load {
                running: size(&self.0.running),
                waiting: size(&self.0.waiting),
                blocks_used: size(&self.0.blocks_used),
                blocks_all: size(&self.0.blocks_all),
            },
            queried_tokens: read(&self.0.queried_tokens),
            hit_tokens: read(&self.0.hit_tokens),
            prompt_tokens: read(&self.0.prompt_tokens),
            generation_tokens: read(&self.0.generation_tokens),
        }
    }
}

impl Load {
    /// The share of the private KV blocks in use, from 0 to 1.
    #[expect(clippy::cast_precision_loss, reason = "counts for a share")]
    pub fn kv_usage(self) -> f64 {
        self.blocks_used as f64 / self.blocks_all.max(1) as f64
    }
}

fn add(counter: &AtomicU64, count: u64) {
    counter.fetch_add(count, Ordering::Relaxed);
}
