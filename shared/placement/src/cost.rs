//! What jobs cost: `real` for a decode step with a KV cache and weights, `paper` as arXiv 2505.02533
//! and its authors' simulator count. Sizes in, [`Workload`] out.

use crate::workload::{Dataflow, JobCost, Part, Stage, Workload};

/// A decoder as far as its costs go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ModelShape {
    /// Layers.
    pub layer_count: usize,
    /// Width of the residual stream.
    pub hidden_dim: usize,
    /// Query heads.
    pub q_head_count: usize,
    /// KV heads; a divisor of `q_head_count`.
    pub kv_head_count: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Width of the feed-forward network.
    pub mlp_dim: usize,
    /// Tokens in the vocabulary.
    pub vocab_len: usize,
    /// Bytes of a weight.
    pub weight_bytes: usize,
    /// Bytes of a number in keys and values.
    pub kv_bytes: usize,
    /// Bytes of a number in hidden states on the wire.
    pub hidden_bytes: usize,
}

/// What is being generated when a plan is made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Load {
    /// Sequences in a batch, each with one token a step.
    pub sequence_count: usize,
    /// Tokens whose keys and values each step reads, summed over sequences.
    pub context_len: usize,
    /// Tokens more, summed over sequences, for which there must be room until the next plan.
    pub headroom_len: usize,
    /// Jobs that each feed-forward network is cut into.
    pub ffn_slice_count: usize,
}

/// A decode step as it is computed: projections of one token, attention over the KV cache, weights in
/// memory. With g query heads for a KV head, d their width, D the hidden width, F the feed-forward
/// width in s slices, B sequences, n tokens of context:
///
/// ```text
/// head:  2·B·D·d·(g + 2) + 4·n·g·d + 2·B·g·d·D operations      D·d·(2g + 2) weights      2·n·d of KV
/// slice: 6·B·D·F/s                                              3·D·F/s
/// ```
pub fn real(model: &ModelShape, load: &Load) -> Workload {
    let group_len = model.q_head_count / model.kv_head_count.max(1);
    let (hidden, dim) = (model.hidden_dim, model.head_dim);
    let head_weights = product(&[hidden, dim, 2 * group_len + 2]);
    let attention = 4.0 * float(load.context_len) * float(product(&[group_len, dim]));
    let kv_len = load.context_len.saturating_add(load.headroom_len);
    let head = JobCost {
        flops: 2.0 * float(load.sequence_count) * float(head_weights) + attention,
        weight_bytes: bytes(&[head_weights, model.weight_bytes]),
        state_bytes: bytes(&[2, kv_len, dim, model.kv_bytes]),
        scratch_bytes: 0,
    };
    let slice_dim = model.mlp_dim.div_ceil(load.ffn_slice_count.max(1));
    let slice_weights = product(&[3, hidden, slice_dim]);
    let slice = JobCost {
        flops: 2.0 * float(load.sequence_count) * float(slice_weights),
        weight_bytes: bytes(&[slice_weights, model.weight_bytes]),
        state_bytes: 0,
        scratch_bytes: 0,
    };
    let message_bytes = bytes(&[load.sequence_count, hidden, model.hidden_bytes]);
    let stage = |layer, part, job_count, job| Stage {
        layer,
        part,
        job_count,
        job,
        scatter_bytes: message_bytes,
        gather_bytes: message_bytes,
    };
    let stages = (0..model.layer_count).flat_map(|layer| {
        [
            stage(layer, Part::Heads, model.kv_head_count, head),
            stage(layer, Part::FeedForward, load.ffn_slice_count, slice),
        ]
    });
    let vocabulary = product(&[model.vocab_len, hidden]);
    Workload {
        stages: stages.collect(),
        dataflow: Dataflow::Star,
        leader_flops: 2.0 * float(load.sequence_count) * float(vocabulary),
        leader_bytes: bytes(&[2, vocabulary, model.weight_bytes]),
    }
}

/// The one layer of the paper.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PaperShape {
    /// h.
    pub head_count: usize,
    /// D.
    pub hidden_dim: usize,
    /// Operations of the feed-forward network in units of L·D²: 8 for two matrices of four times the
    /// width (the value of [`PaperShape::FFN_FACTOR`]); the authors' simulator has 0.8.
    pub ffn_factor: f64,
}

impl PaperShape {
    /// Two matrices, D × 4D and 4D × D, in the paper's way of counting.
    pub const FFN_FACTOR: f64 = 8.0;
    /// As the authors' simulator has it.
    pub const FFN_FACTOR_OF_SIMULATOR: f64 = 0.8;
}

/// Bytes of a number in the paper.
const PAPER_ELEMENT_BYTES: usize = 4;

/// The paper's table, as its authors' simulator has it: every step computes the whole sequence of L
/// tokens anew, of which `generated_len` were generated; only heads have weights.
///
/// ```text
/// head        3·L·D·(D/h) + L²·(D/h)    4·(3·L·(D/h) + 3·D·(D/h)) bytes, and 4·n·D of cache
/// projection  L·D²                      4·L·D
/// FFN         8·L·D²                    4·4·L·D
/// ```
pub fn paper(shape: &PaperShape, prompt_len: usize, generated_len: usize) -> Workload {
    let (len, hidden) = (prompt_len.saturating_add(generated_len), shape.hidden_dim);
    let dim = hidden / shape.head_count.max(1);
    let (l, d) = (float(len), float(hidden));
    let element = PAPER_ELEMENT_BYTES;
    let head = JobCost {
        flops: 3.0 * l * d * float(dim) + l * l * float(dim),
        weight_bytes: bytes(&[3, hidden, dim, element]),
        state_bytes: bytes(&[generated_len, hidden, element]),
        scratch_bytes: bytes(&[3, len, dim, element]),
    };
    let whole = |flops, scratch_bytes| JobCost {
        flops,
        weight_bytes: 0,
        state_bytes: 0,
        scratch_bytes,
    };
    let stage = |part, job_count, job, gather_bytes| Stage {
        layer: 0,
        part,
        job_count,
        job,
        scatter_bytes: bytes(&[len, hidden, element]),
        gather_bytes,
    };
    let output = bytes(&[len, hidden, element]);
    let ffn = whole(shape.ffn_factor * l * d * d, output.saturating_mul(4));
    Workload {
        stages: vec![
            stage(
                Part::Heads,
                shape.head_count,
                head,
                bytes(&[len, dim, element]),
            ),
            stage(Part::Projection, 1, whole(l * d * d, output), output),
            stage(Part::FeedForward, 1, ffn, output),
        ],
        dataflow: Dataflow::Gathered,
        leader_flops: 0.0,
        leader_bytes: 0,
    }
}

const fn float(count: usize) -> f64 {
    count as f64
}

fn product(factors: &[usize]) -> usize {
    factors.iter().copied().fold(1, usize::saturating_mul)
}

/// A product that does not wrap: too large a size is refused as such when an instance is made.
fn bytes(factors: &[usize]) -> u64 {
    let factors = factors.iter().map(|factor| *factor as u64);
    factors.fold(1, u64::saturating_mul)
}
