//! What a leader and the workers that lend it their devices say to each other. Hidden states, keys and
//! values follow messages as raw numbers; they are as private as the text, and so is what is said of
//! rows and blocks.

use edgeprompt_kv::ModelDigest;
use serde::{Deserialize, Serialize};

use crate::InvalidMessage;

/// Most numbers that follow a message: 256 MiB of f32.
pub const NUMBERS_MAX: u32 = 1 << 26;

/// Most layers, and most heads or slices of one.
const LAYERS_MAX: u32 = 256;
const JOBS_MAX: u32 = 256;
/// Most blocks of a pool, and of a list.
const BLOCKS_MAX: usize = 1 << 18;
/// Most rows of a pass.
const ROWS_MAX: usize = 4096;
/// Widest hidden state, head and feed-forward network, most blocks and tokens of a pass.
const WIDTH_MAX: u32 = 1 << 18;
/// Most numbers of all blocks of one head: 64 GiB of f32.
const POOL_MAX: u64 = 1 << 34;
/// Most query heads that read one KV head.
const GROUP_MAX: u32 = 256;

/// The first message of a stream to a worker.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub enum WorkerStream {
    /// [`WorkerOrder`]s that are waited for follow, and [`WorkerReply`]s come back, a
    /// [`WorkerHello`] before them.
    Steps(Box<WorkerSetup>),
    /// [`WorkerOrder`]s follow that are obeyed whenever there is nothing else to do.
    Aside,
}

/// The shape of what is spread over devices.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerSetup {
    /// The leader's model.
    pub model: ModelDigest,
    /// Layers.
    pub layer_count: u32,
    /// KV heads of a layer.
    pub kv_head_count: u32,
    /// Query heads that read one of them.
    pub group_len: u32,
    /// Width of the hidden state.
    pub hidden_dim: u32,
    /// Width of a head.
    pub head_dim: u32,
    /// Width of the feed-forward network.
    pub mlp_dim: u32,
    /// Slices into which that is cut.
    pub slice_count: u32,
    /// Whether queries, keys and values have biases.
    pub has_qkv_bias: bool,
    /// Whether heads are normalised before RoPE.
    pub has_qk_norm: bool,
    /// Of those normalisations.
    pub norm_epsilon: f64,
    /// Of RoPE, one for each pair of dimensions.
    pub inverse_frequencies: Vec<f64>,
    /// What RoPE's cosines and sines are multiplied with.
    pub attention_factor: f64,
    /// Tokens of a block.
    pub block_len: u32,
    /// Blocks of keys and values.
    pub block_count: u32,
    /// Most tokens of a pass.
    pub tokens_max: u32,
}

/// What a worker says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct WorkerHello {
    /// What it computes, as it measured itself, in floating-point operations a second.
    pub flops_per_second: f64,
    /// What it gives to weights, keys and values.
    pub memory_bytes: u64,
    /// Whether it has a copy of the leader's model.
    pub has_model: bool,
}

/// A part of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkerJob {
    /// A KV head.
    Head(u32),
    /// A slice of the feed-forward network.
    Slice(u32),
}

/// A cloud prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerPrefix {
    /// What it is called on this link.
    pub key: u64,
    /// Its tokens.
    pub token_count: u32,
}

/// Tokens of one sequence in a pass.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerRow {
    /// How many.
    pub len: u32,
    /// Private tokens before them.
    pub start: u32,
    /// The cloud prompt before all of them.
    pub prefix: Option<WorkerPrefix>,
    /// Where they are.
    pub blocks: Vec<u32>,
}

/// The jobs of one layer on a worker.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerJobs {
    /// 0-based.
    pub layer: u32,
    /// KV heads.
    pub heads: Vec<u32>,
    /// Slices.
    pub slices: Vec<u32>,
}

/// What a worker is to do. What the numbers are, says the engine's task of the same name.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub enum WorkerTask {
    /// Layers of a pass follow.
    Begin {
        /// Its rows.
        rows: Vec<WorkerRow>,
    },
    /// The heads of a layer; numbers follow.
    Heads {
        /// 0-based.
        layer: u32,
    },
    /// The slices of a layer; numbers follow.
    FeedForward {
        /// 0-based.
        layer: u32,
    },
    /// A cloud prompt; numbers follow.
    Prefix {
        /// Which.
        prefix: WorkerPrefix,
        /// 0-based.
        layer: u32,
        /// For which heads.
        heads: Vec<u32>,
    },
    /// A cloud prompt is of no use any more.
    Forget {
        /// Which.
        key: u64,
    },
    /// A job will come; its weights follow unless the worker has the model.
    Weights {
        /// 0-based.
        layer: u32,
        /// Which.
        job: WorkerJob,
        /// BLAKE3 of the numbers' bytes that follow.
        digest: Option<[u8; 32]>,
    },
    /// Show keys and values.
    Take {
        /// 0-based.
        layer: u32,
        /// Of which head.
        head: u32,
        /// Of which blocks.
        blocks: Vec<u32>,
    },
    /// Keys and values; numbers follow.
    Put {
        /// 0-based.
        layer: u32,
        /// Of which head.
        head: u32,
        /// Of which blocks.
        blocks: Vec<u32>,
    },
    /// These are the jobs from now on.
    Switch {
        /// Each layer once.
        layers: Vec<WorkerJobs>,
    },
    /// Nothing that was to come will come.
    Unstage,
    /// Overwrite keys and values.
    Wipe {
        /// Of which blocks.
        blocks: Vec<u32>,
    },
}

/// A task with its number; as many f32 as it says follow, little-endian.
#[derive(Clone, PartialEq, Serialize, Deserialize)]
pub struct WorkerOrder {
    /// Grows from order to order.
    pub turn: u64,
    /// What to do.
    pub task: WorkerTask,
    /// How many numbers follow.
    pub number_count: u32,
}

/// What a worker answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum WorkerAnswer {
    /// A part of a sum follows.
    Part {
        /// How long it was computed, in microseconds.
        busy_us: u64,
    },
    /// Keys and values follow.
    Kv,
    /// It is done.
    Done,
    /// To no order: the worker wants to go, and waits until it has nothing to do any more.
    Leaving,
    /// To no order: what it gives to weights, keys and values from now on.
    Memory {
        /// How much.
        bytes: u64,
    },
}

/// An answer; as many f32 as it says follow, little-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkerReply {
    /// Of the order.
    pub turn: u64,
    /// What is answered.
    pub answer: WorkerAnswer,
    /// How many numbers follow.
    pub number_count: u32,
}

impl WorkerStream {
    pub(crate) fn check(&self) -> Result<(), InvalidMessage> {
        match self {
            Self::Steps(setup) => setup.check(),
            Self::Aside => Ok(()),
        }
    }
}

impl WorkerHello {
    pub(crate) fn check(&self) -> Result<(), InvalidMessage> {
        let is_speed = self.flops_per_second.is_finite() && self.flops_per_second > 0.0;
        is_speed.then_some(()).ok_or(InvalidMessage::WorkerShape)
    }
}

impl WorkerSetup {
    fn check(&self) -> Result<(), InvalidMessage> {
        let within = |number: u32, max: u32| (1..=max).contains(&number);
        let counts = within(self.layer_count, LAYERS_MAX)
            && within(self.kv_head_count, JOBS_MAX)
            && within(self.group_len, GROUP_MAX)
            && within(self.slice_count, JOBS_MAX)
            && within(self.hidden_dim, WIDTH_MAX)
            && within(self.head_dim, WIDTH_MAX)
            && within(self.mlp_dim, WIDTH_MAX)
            && within(self.block_len, WIDTH_MAX)
            && within(self.block_count, WIDTH_MAX)
            && within(self.tokens_max, WIDTH_MAX)
            && self.slice_count <= self.mlp_dim;
        let numbers = self.norm_epsilon.is_finite()
            && self.attention_factor.is_finite()
            && self.inverse_frequencies.len() * 2 == self.head_dim as usize
            && self.inverse_frequencies.iter().all(|it| it.is_finite());
        // A job's weights and a pass's hidden states are sent whole.
        let head = u64::from(self.hidden_dim)
            * u64::from(self.head_dim)
            * (2 * u64::from(self.group_len) + 3);
        let slice = 3 * u64::from(self.hidden_dim) * u64::from(self.mlp_dim / self.slice_count + 1);
        let hidden = u64::from(self.hidden_dim) * u64::from(self.tokens_max);
        let fits = head.max(slice).max(hidden) <= u64::from(NUMBERS_MAX);
        // Each factor is bounded, so the product is.
        let pool =
            2 * u64::from(self.block_count) * u64::from(self.block_len) * u64::from(self.head_dim);
        (counts && numbers && fits && pool <= POOL_MAX)
            .then_some(())
            .ok_or(InvalidMessage::WorkerShape)
    }
}

impl WorkerOrder {
    pub(crate) fn check(&self) -> Result<(), InvalidMessage> {
        let blocks = match &self.task {
            WorkerTask::Begin { rows } if rows.len() > ROWS_MAX => return Err(too_long()),
            WorkerTask::Begin { rows } => rows.iter().map(|row| row.blocks.len()).sum(),
            WorkerTask::Take { blocks, .. }
            | WorkerTask::Put { blocks, .. }
            | WorkerTask::Wipe { blocks } => blocks.len(),
            WorkerTask::Prefix { heads, .. } if heads.len() > JOBS_MAX as usize => {
                return Err(too_long());
            }
            WorkerTask::Switch { layers } => {
                let jobs = layers.iter().map(|it| it.heads.len().max(it.slices.len()));
                if layers.len() > LAYERS_MAX as usize || jobs.max() > Some(JOBS_MAX as usize) {
                    return Err(too_long());
                }
                0
            }
            _ => 0,
        };
        check_numbers(self.number_count)?;
        (blocks <= BLOCKS_MAX).then_some(()).ok_or_else(too_long)
    }
}

impl WorkerReply {
    pub(crate) const fn check(&self) -> Result<(), InvalidMessage> {
        check_numbers(self.number_count)
    }
}

const fn check_numbers(count: u32) -> Result<(), InvalidMessage> {
    match count <= NUMBERS_MAX {
        true => Ok(()),
        false => Err(InvalidMessage::WorkerNumbers { count }),
    }
}

const fn too_long() -> InvalidMessage {
    InvalidMessage::WorkerList
}
