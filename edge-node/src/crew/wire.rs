//! Between what the engine says to workers and what goes over the link. Whatever comes from a peer is
//! checked by the protocol and the engine; here it only changes its form.

use std::time::Duration;

use bytes::Bytes;
use edgeprompt_engine::{
    Answer, Job, LayerJobs, Order, PrefixKey, Reply, RowShape, ShardShape, SharedPrefix, Task,
};
use edgeprompt_kv::ModelDigest;
use edgeprompt_model::{FeedForward, HeadShape, QkNorm, QkvBias};
use edgeprompt_protocol::{
    WorkerAnswer, WorkerJob, WorkerJobs, WorkerOrder, WorkerPrefix, WorkerReply, WorkerRow,
    WorkerSetup, WorkerTask,
};

/// Why what came is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    /// Weights are not those that were sent.
    #[error("weights arrived damaged")]
    Digest,
    /// Numbers where there are none, or none where there must be.
    #[error("a message has more or fewer numbers than it must have")]
    Numbers,
    /// A sum that is none.
    #[error("a part of a sum is not finite")]
    NotFinite,
}

/// Sizes fit: they are those of lists in memory.
fn small(size: usize) -> u32 {
    u32::try_from(size).unwrap_or(u32::MAX)
}

fn all_small(sizes: &[usize]) -> Vec<u32> {
    sizes.iter().map(|size| small(*size)).collect()
}

fn all_large(sizes: Vec<u32>) -> Vec<usize> {
    sizes.into_iter().map(|size| size as usize).collect()
}

fn bytes_of(numbers: &[f32]) -> Bytes {
    let mut bytes = vec![0; size_of_val(numbers)];
    let (places, _) = bytes.as_chunks_mut::<4>();
    for (place, number) in places.iter_mut().zip(numbers) {
        *place = number.to_le_bytes();
    }
    bytes.into()
}

fn numbers_of(bytes: &[u8]) -> Vec<f32> {
    let (numbers, _) = bytes.as_chunks::<4>();
    numbers.iter().copied().map(f32::from_le_bytes).collect()
}

/// Bytes of so many numbers.
pub(crate) const fn byte_count(number_count: u32) -> usize {
    number_count as usize * size_of::<f32>()
}

/// What a worker is told of the model.
pub fn setup(shape: &ShardShape, model: ModelDigest) -> WorkerSetup {
    WorkerSetup {
        model,
        layer_count: small(shape.layer_count),
        kv_head_count: small(shape.kv_head_count),
        group_len: small(shape.head.group_len),
        hidden_dim: small(shape.head.hidden_dim),
        head_dim: small(shape.head.head_dim),
        mlp_dim: small(shape.mlp_dim),
        slice_count: small(shape.slice_count),
        has_qkv_bias: shape.head.qkv_bias == QkvBias::Present,
        has_qk_norm: shape.head.qk_norm == QkNorm::PerHead,
        norm_epsilon: shape.head.norm_epsilon,
        inverse_frequencies: shape.inverse_frequencies.clone(),
        attention_factor: shape.attention_factor,
        block_len: small(shape.block_len),
        block_count: small(shape.block_count),
        tokens_max: small(shape.tokens_max),
    }
}

/// What a worker makes of it.
pub fn shape(setup: WorkerSetup) -> ShardShape {
    ShardShape {
        layer_count: setup.layer_count as usize,
        kv_head_count: setup.kv_head_count as usize,
        head: HeadShape {
            hidden_dim: setup.hidden_dim as usize,
            head_dim: setup.head_dim as usize,
            group_len: setup.group_len as usize,
            qkv_bias: match setup.has_qkv_bias {
                true => QkvBias::Present,
                false => QkvBias::Absent,
            },
            qk_norm: match setup.has_qk_norm {
                true => QkNorm::PerHead,
                false => QkNorm::Absent,
            },
            norm_epsilon: setup.norm_epsilon,
        },
        mlp_dim: setup.mlp_dim as usize,
        slice_count: setup.slice_count as usize,
        inverse_frequencies: setup.inverse_frequencies,
        attention_factor: setup.attention_factor,
        block_len: setup.block_len as usize,
        block_count: setup.block_count as usize,
        tokens_max: setup.tokens_max as usize,
    }
}

/// An order as it is sent: a message, and the numbers that follow.
pub fn order(order: Order) -> (WorkerOrder, Bytes) {
    let (task, numbers) = task(order.task);
    let message = WorkerOrder {
        turn: order.turn,
        task,
        number_count: small(numbers.len() / size_of::<f32>()),
    };
    (message, numbers)
}

fn task(task: Task) -> (WorkerTask, Bytes) {
    let none = Bytes::new();
    match task {
        Task::Begin { rows } => {
            let rows = rows.iter().map(row).collect();
            (WorkerTask::Begin { rows }, none)
        }
        Task::Heads { layer, input } => {
            let layer = small(layer);
            (WorkerTask::Heads { layer }, bytes_of(&input))
        }
        Task::FeedForward { layer, input } => {
            let layer = small(layer);
            (WorkerTask::FeedForward { layer }, bytes_of(&input))
        }
        Task::Prefix {
            prefix: shared,
            layer,
            heads,
            numbers,
        } => {
            let task = WorkerTask::Prefix {
                prefix: prefix(shared),
                layer: small(layer),
                heads: all_small(&heads),
            };
            (task, bytes_of(&numbers))
        }
        Task::Forget { key } => (WorkerTask::Forget { key: key.0 }, none),
        Task::Weights {
            layer,
            job,
            numbers,
        } => weights((layer, job), numbers),
        Task::Take {
            layer,
            head,
            blocks,
        } => {
            let task = WorkerTask::Take {
                layer: small(layer),
                head: small(head),
                blocks: all_small(&blocks),
            };
            (task, none)
        }
        Task::Put {
            layer,
            head,
            blocks,
            numbers,
        } => {
            let task = WorkerTask::Put {
                layer: small(layer),
                head: small(head),
                blocks: all_small(&blocks),
            };
            (task, bytes_of(&numbers))
        }
        Task::Switch { layers } => {
            let layers = layers.iter().map(jobs).collect();
            (WorkerTask::Switch { layers }, none)
        }
        Task::Unstage => (WorkerTask::Unstage, none),
        Task::Wipe { blocks } => {
            let blocks = all_small(&blocks);
            (WorkerTask::Wipe { blocks }, none)
        }
    }
}

fn weights((layer, which): (usize, Job), numbers: Option<Vec<f32>>) -> (WorkerTask, Bytes) {
    let numbers = numbers.map(|numbers| bytes_of(&numbers));
    let task = WorkerTask::Weights {
        layer: small(layer),
        job: job(which),
        digest: numbers.as_ref().map(|it| *blake3::hash(it).as_bytes()),
    };
    (task, numbers.unwrap_or_default())
}

fn row(row: &RowShape) -> WorkerRow {
    WorkerRow {
        len: small(row.len),
        start: small(row.start),
        prefix: row.prefix.map(prefix),
        blocks: all_small(&row.blocks),
    }
}

const fn prefix(prefix: SharedPrefix) -> WorkerPrefix {
    WorkerPrefix {
        key: prefix.key.0,
        token_count: prefix.token_count,
    }
}

fn job(job: Job) -> WorkerJob {
    match job {
        Job::Head(head) => WorkerJob::Head(small(head)),
        Job::Slice(slice) => WorkerJob::Slice(small(slice)),
    }
}

fn jobs(jobs: &LayerJobs) -> WorkerJobs {
    WorkerJobs {
        layer: small(jobs.layer),
        heads: all_small(&jobs.heads),
        slices: all_small(&jobs.slices),
    }
}

/// Most numbers that may follow an order: nothing is read of one that claims more.
pub fn numbers_max(task: &WorkerTask, shape: &ShardShape) -> usize {
    let product = |sizes: &[usize]| {
        let mut sizes = sizes.iter();
        sizes.try_fold(1usize, |product, size| product.checked_mul(*size))
    };
    let HeadShape {
        hidden_dim,
        head_dim,
        ..
    } = shape.head;
    let most = match task {
        WorkerTask::Heads { .. } | WorkerTask::FeedForward { .. } => {
            product(&[shape.tokens_max, hidden_dim])
        }
        WorkerTask::Prefix { prefix, heads, .. } => {
            product(&[2, heads.len(), prefix.token_count as usize, head_dim])
        }
        WorkerTask::Weights {
            digest: Some(_),
            job,
            ..
        } => match job {
            WorkerJob::Head(_) => Some(shape.head.number_count()),
            WorkerJob::Slice(slice) if (*slice as usize) < shape.slice_count => {
                let width = shape.slice(*slice as usize).len();
                Some(FeedForward::number_count(hidden_dim, width))
            }
            WorkerJob::Slice(_) => None,
        },
        WorkerTask::Put { blocks, .. } => product(&[2, blocks.len(), shape.block_len, head_dim]),
        _ => None,
    };
    most.unwrap_or(0)
}

/// An order as it was received.
///
/// # Errors
/// [`WireError`].
pub fn received_order(message: WorkerOrder, numbers: &[u8]) -> Result<Order, WireError> {
    let turn = message.turn;
    let task = received_task(message.task, numbers)?;
    Ok(Order { turn, task })
}

fn received_task(task: WorkerTask, numbers: &[u8]) -> Result<Task, WireError> {
    let has_numbers = matches!(
        task,
        WorkerTask::Heads { .. }
            | WorkerTask::FeedForward { .. }
            | WorkerTask::Prefix { .. }
            | WorkerTask::Put { .. }
            | WorkerTask::Weights {
                digest: Some(_),
                ..
            }
    );
    if has_numbers == numbers.is_empty() {
        return Err(WireError::Numbers);
    }
    Ok(match task {
        WorkerTask::Begin { rows } => Task::Begin {
            rows: rows.into_iter().map(received_row).collect(),
        },
        WorkerTask::Heads { layer } => Task::Heads {
            layer: layer as usize,
            input: numbers_of(numbers).into(),
        },
        WorkerTask::FeedForward { layer } => Task::FeedForward {
            layer: layer as usize,
            input: numbers_of(numbers).into(),
        },
        WorkerTask::Prefix {
            prefix,
            layer,
            heads,
        } => Task::Prefix {
            prefix: received_prefix(prefix),
            layer: layer as usize,
            heads: all_large(heads),
            numbers: numbers_of(numbers),
        },
        WorkerTask::Forget { key } => Task::Forget {
            key: PrefixKey(key),
        },
        WorkerTask::Weights { layer, job, digest } => {
            received_weights((layer, job), digest, numbers)?
        }
        WorkerTask::Take {
            layer,
            head,
            blocks,
        } => Task::Take {
            layer: layer as usize,
            head: head as usize,
            blocks: all_large(blocks),
        },
        WorkerTask::Put {
            layer,
            head,
            blocks,
        } => Task::Put {
            layer: layer as usize,
            head: head as usize,
            blocks: all_large(blocks),
            numbers: numbers_of(numbers),
        },
        WorkerTask::Switch { layers } => Task::Switch {
            layers: layers.into_iter().map(received_jobs).collect(),
        },
        WorkerTask::Unstage => Task::Unstage,
        WorkerTask::Wipe { blocks } => Task::Wipe {
            blocks: all_large(blocks),
        },
    })
}

fn received_weights(
    (layer, job): (u32, WorkerJob),
    digest: Option<[u8; 32]>,
    numbers: &[u8],
) -> Result<Task, WireError> {
    if digest.is_some_and(|digest| digest != *blake3::hash(numbers).as_bytes()) {
        return Err(WireError::Digest);
    }
    Ok(Task::Weights {
        layer: layer as usize,
        job: match job {
            WorkerJob::Head(head) => Job::Head(head as usize),
            WorkerJob::Slice(slice) => Job::Slice(slice as usize),
        },
        numbers: digest.map(|_| numbers_of(numbers)),
    })
}

fn received_row(row: WorkerRow) -> RowShape {
    RowShape {
        len: row.len as usize,
        start: row.start as usize,
        prefix: row.prefix.map(received_prefix),
        blocks: all_large(row.blocks),
    }
}

const fn received_prefix(prefix: WorkerPrefix) -> SharedPrefix {
    SharedPrefix {
        key: PrefixKey(prefix.key),
        token_count: prefix.token_count,
    }
}

fn received_jobs(jobs: WorkerJobs) -> LayerJobs {
    LayerJobs {
        layer: jobs.layer as usize,
        heads: all_large(jobs.heads),
        slices: all_large(jobs.slices),
    }
}

/// An answer as it is sent.
pub fn reply(reply: Reply) -> (WorkerReply, Bytes) {
    let (answer, numbers) = match reply.answer {
        Answer::Part { numbers, busy } => {
            let busy_us = u64::try_from(busy.as_micros()).unwrap_or(u64::MAX);
            (WorkerAnswer::Part { busy_us }, bytes_of(&numbers))
        }
        Answer::Kv(numbers) => (WorkerAnswer::Kv, bytes_of(&numbers)),
        Answer::Done => (WorkerAnswer::Done, Bytes::new()),
    };
    let message = WorkerReply {
        turn: reply.turn,
        answer,
        number_count: small(numbers.len() / size_of::<f32>()),
    };
    (message, numbers)
}

/// An answer as it was received.
///
/// # Errors
/// [`WireError`].
pub fn received_reply(message: WorkerReply, numbers: &[u8]) -> Result<Reply, WireError> {
    let answer = match message.answer {
        WorkerAnswer::Part { busy_us } => {
            let numbers = numbers_of(numbers);
            if !numbers.iter().all(|number| number.is_finite()) {
                return Err(WireError::NotFinite);
            }
            Answer::Part {
                numbers,
                busy: Duration::from_micros(busy_us),
            }
        }
        WorkerAnswer::Kv => Answer::Kv(numbers_of(numbers)),
        // What answers no order is heard before.
        WorkerAnswer::Done | WorkerAnswer::Leaving | WorkerAnswer::Memory { .. } => Answer::Done,
    };
    let turn = message.turn;
    Ok(Reply { turn, answer })
}
