//! The shape of what is spread over devices, the same for all of them.

use std::ops::Range;

use edgeprompt_model::{FeedForward, HeadShape, Model};

use super::Job;

/// The largest feed-forward slice count; more than that is of use to nobody.
pub const SLICES_MAX: usize = 64;

/// The shape of what is spread over devices.
#[derive(Clone, Debug, PartialEq)]
pub struct ShardShape {
    /// Layers of the model.
    pub layer_count: usize,
    /// KV heads of a layer, all devices together.
    pub kv_head_count: usize,
    /// Of each head.
    pub head: HeadShape,
    /// Width of the feed-forward network.
    pub mlp_dim: usize,
    /// Slices into which that is cut.
    pub slice_count: usize,
    /// Of RoPE, one for each pair of dimensions.
    pub inverse_frequencies: Vec<f64>,
    /// What RoPE's cosines and sines are multiplied with.
    pub attention_factor: f64,
    /// Tokens of a block of keys and values.
    pub block_len: usize,
    /// Blocks of keys and values.
    pub block_count: usize,
    /// Most tokens of a pass.
    pub tokens_max: usize,
}

impl ShardShape {
    /// Of a model whose sequences lie in such blocks.
    pub fn of(model: &Model, slice_count: usize, limits: &crate::EngineLimits) -> Self {
        let config = &model.config;
        let tokens = limits.max_num_batched_tokens.max(limits.max_num_seqs);
        Self {
            layer_count: config.layer_count,
            kv_head_count: config.kv_head_count,
            head: HeadShape::of(config),
            mlp_dim: config.mlp_dim,
            slice_count: slice_count.clamp(1, SLICES_MAX.min(config.mlp_dim)),
            inverse_frequencies: model.rope.inverse_frequencies().to_vec(),
            attention_factor: model.rope.attention_factor(),
            block_len: limits.block_len.get(),
            block_count: limits.block_count,
            tokens_max: tokens.get(),
        }
    }

    /// Which of the width a slice is.
    pub fn slice(&self, index: usize) -> Range<usize> {
        let bound = |index: usize| index * self.mlp_dim / self.slice_count;
        bound(index)..bound(index + 1)
    }

    /// Bytes of the weights of a job.
    pub fn weight_bytes(&self, job: Job) -> u64 {
        let numbers = match job {
            Job::Head(_) => self.head.number_count(),
            Job::Slice(index) => {
                FeedForward::number_count(self.head.hidden_dim, self.slice(index).len())
            }
        };
        (numbers * size_of::<f32>()) as u64
    }

    /// Bytes of the state of a job, all blocks of its keys and values: a device takes them at once, however
    /// few are in use.
    pub fn state_bytes(&self, job: Job) -> u64 {
        let numbers = match job {
            Job::Head(_) => self.kv_shape(1).iter().fold(2, |product: u64, it| {
                product.saturating_mul(u64::try_from(*it).unwrap_or(u64::MAX))
            }),
            Job::Slice(_) => 0,
        };
        numbers.saturating_mul(size_of::<f32>() as u64)
    }

    pub(super) fn kv_shape(&self, heads: usize) -> [usize; 4] {
        [self.block_count, heads, self.block_len, self.head.head_dim]
    }
}
