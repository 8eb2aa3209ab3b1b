//! What a leader tells its workers, and what they answer. How that travels is for others to say.

use std::sync::Arc;
use std::time::Duration;

use crate::pass_plan::Prefix;

/// A part of a layer that is on one device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Job {
    /// A KV head with the query heads that read it.
    Head(usize),
    /// A slice of the feed-forward network.
    Slice(usize),
}

/// What a leader and its workers call a cloud prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PrefixKey(pub u64);

/// A cloud prompt as a worker knows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SharedPrefix {
    /// What it is called.
    pub key: PrefixKey,
    /// Its tokens.
    pub token_count: u32,
}

impl Prefix for SharedPrefix {
    fn is_same(&self, other: &Self) -> bool {
        self.key == other.key
    }

    fn token_count(&self) -> u32 {
        self.token_count
    }
}

/// Tokens of one sequence in a pass: how many and where, not which.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RowShape {
    /// How many, at least one.
    pub len: usize,
    /// Private tokens before them.
    pub start: usize,
    /// The cloud prompt before all of them.
    pub prefix: Option<SharedPrefix>,
    /// Blocks with room for all of them.
    pub blocks: Vec<usize>,
}

/// The jobs of one layer on one device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LayerJobs {
    /// 0-based.
    pub layer: usize,
    /// KV heads.
    pub heads: Vec<usize>,
    /// Slices of the feed-forward network.
    pub slices: Vec<usize>,
}

/// Something for a worker to do. Numbers are f32; those of hidden states, keys and values count as
/// private text, which is why this is not `Debug`.
#[derive(Clone)]
pub enum Task {
    /// Layers of a pass over these rows follow. No answer.
    Begin {
        /// The rows.
        rows: Vec<RowShape>,
    },
    /// Compute the heads of a layer: [`Answer::Part`].
    Heads {
        /// 0-based.
        layer: usize,
        /// `[token, hidden]`
        input: Arc<Vec<f32>>,
    },
    /// Compute the slices of a layer: [`Answer::Part`].
    FeedForward {
        /// 0-based.
        layer: usize,
        /// `[token, hidden]`
        input: Arc<Vec<f32>>,
    },
    /// Keys and values of a cloud prompt for some heads that are there or will come; they take the place of
    /// those that were sent before: [`Answer::Done`].
    Prefix {
        /// Which prompt.
        prefix: SharedPrefix,
        /// 0-based.
        layer: usize,
        /// For which KV heads.
        heads: Vec<usize>,
        /// Keys, then values: `[head, token, head_dim]` each.
        numbers: Vec<f32>,
    },
    /// A cloud prompt is of no use any more. No answer.
    Forget {
        /// Which.
        key: PrefixKey,
    },
    /// A job will come: [`Answer::Done`].
    Weights {
        /// 0-based.
        layer: usize,
        /// Which.
        job: Job,
        /// Its weights, unless the worker has the model.
        numbers: Option<Vec<f32>>,
    },
    /// Show keys and values of blocks of a head that is there: [`Answer::Kv`].
    Take {
        /// 0-based.
        layer: usize,
        /// Which KV head.
        head: usize,
        /// Which blocks.
        blocks: Vec<usize>,
    },
    /// Keys and values for blocks of a head that will come: [`Answer::Done`].
    Put {
        /// 0-based.
        layer: usize,
        /// Which KV head.
        head: usize,
        /// Which blocks.
        blocks: Vec<usize>,
        /// Keys, then values: `[block, slot, head_dim]` each.
        numbers: Vec<f32>,
    },
    /// From now on these are the jobs of these layers: [`Answer::Done`].
    Switch {
        /// Each layer once.
        layers: Vec<LayerJobs>,
    },
    /// Nothing that was to come will come. No answer.
    Unstage,
    /// Overwrite blocks of all heads that are there or on their way: [`Answer::Done`].
    Wipe {
        /// Which blocks.
        blocks: Vec<usize>,
    },
}

/// A task with its number.
#[derive(Clone)]
pub struct Order {
    /// Grows from order to order; an answer has that of its order.
    pub turn: u64,
    /// What to do.
    pub task: Task,
}

/// What a worker says. Not `Debug`, as [`Task`].
#[derive(Clone)]
pub enum Answer {
    /// A part of a sum.
    Part {
        /// `[token, hidden]`
        numbers: Vec<f32>,
        /// How long it was computed.
        busy: Duration,
    },
    /// Keys, then values: `[block, slot, head_dim]` each.
    Kv(Vec<f32>),
    /// It is done.
    Done,
}

/// An answer with its order's number.
#[derive(Clone)]
pub struct Reply {
    /// Of the order.
    pub turn: u64,
    /// What is answered.
    pub answer: Answer,
}

/// Why an order cannot be obeyed. It is the leader's mistake, and no order after it can be trusted.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum OrderError {
    /// A layer, head, slice or block that there is not.
    #[error("the leader names a layer, head, slice or block that there is not")]
    OutOfRange,
    /// Numbers are more or fewer than they must be.
    #[error("the leader sends more or fewer numbers than there must be")]
    Length,
    /// A layer of no pass.
    #[error("the leader sends a layer of a pass that it has not begun")]
    NoPass,
    /// A cloud prompt that is not here.
    #[error("the leader names a cloud prompt that it has not sent")]
    NoPrefix,
    /// A job that is not here.
    #[error("the leader names a job that is not here")]
    NotHere,
    /// It would take more than is lent.
    #[error(
        "the leader asks for {} MiB and {} are lent: give more with --memory-mib",
        .asked_bytes >> 20,
        .lent_bytes >> 20
    )]
    Memory {
        /// What it would take, with what is here.
        asked_bytes: u64,
        /// What is lent.
        lent_bytes: u64,
    },
    /// Weights that neither came nor are here.
    #[error("the leader takes this worker to have a copy of the model")]
    NoWeights,
}
