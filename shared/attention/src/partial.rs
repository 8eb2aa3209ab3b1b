//! Attention over one segment of keys and values, and the merge of two such parts.

use burn::tensor::{Device, Tensor};

use crate::Mask;

/// Keys and values of one segment, post-RoPE.
#[derive(Clone, Debug)]
pub struct KvView {
    /// `[kv_head, token, head_dim]`
    pub keys: Tensor<3>,
    /// `[kv_head, token, head_dim]`
    pub values: Tensor<3>,
}

impl KvView {
    /// Tokens in the segment.
    pub fn token_count(&self) -> usize {
        self.keys.dims()[1]
    }
}

/// ln Σ e^s over the scaled scores of one segment: natural log, f32, `[token, q_head]`.
///
/// −∞ for a query that sees no key of the segment.
#[derive(Clone, Debug)]
pub struct LogSumExp(Tensor<2>);

impl LogSumExp {
    /// Wraps a tensor of shape `[token, q_head]`.
    pub const fn new(tensor: Tensor<2>) -> Self {
        Self(tensor)
    }

    /// The tensor of shape `[token, q_head]`.
    pub fn into_tensor(self) -> Tensor<2> {
        self.0
    }
}

/// Attention over one segment, normalised there, with what it takes to merge it with another.
#[derive(Clone, Debug)]
pub struct PartialAttention {
    /// `[token, q_head, head_dim]`; zero where the segment shows a query nothing.
    pub output: Tensor<3>,
    /// The weight of this part against others.
    pub lse: LogSumExp,
}

/// The least score that is still subtracted from: below it only −∞ remains, and −∞ − −∞ is NaN.
const SCORE_FLOOR: f32 = -1e38;

impl PartialAttention {
    /// Attention over no keys: the identity of [`merge`].
    ///
    /// # Shapes
    /// `[token, q_head, head_dim]`
    pub fn empty(shape: [usize; 3], device: &Device) -> Self {
        let [tokens, heads, _] = shape;
        Self {
            output: Tensor::zeros(shape, device),
            lse: LogSumExp(Tensor::full([tokens, heads], f32::NEG_INFINITY, device)),
        }
    }
}

/// Attention of `q` over one segment: `ℓ = ln Σ e^{q·k/√d}`, `O = Σ e^{q·k/√d − ℓ} v` (MATH §1).
///
/// # Shapes
/// `q`: `[token, q_head, head_dim]`, post-RoPE. `q_head` is a multiple of the segment's `kv_head`;
/// query head `h` reads KV head `h / (q_head / kv_head)`.
///
/// # Panics
/// If the shapes do not fit each other.
pub fn partial_attention(q: &Tensor<3>, segment: &KvView, mask: &Mask) -> PartialAttention {
    let [tokens, q_heads, head_dim] = q.dims();
    let [kv_heads, keys, key_dim] = segment.keys.dims();
    assert_eq!(
        segment.values.dims(),
        [kv_heads, keys, key_dim],
        "keys and values differ in shape"
    );
    assert_eq!(
        head_dim, key_dim,
        "queries and keys differ in head dimension"
    );
    assert_eq!(
        q_heads % kv_heads,
        0,
        "query heads cannot be grouped over the KV heads"
    );
    if keys == 0 {
        return PartialAttention::empty(q.dims(), &q.device());
    }

    // One product per KV head serves its whole query group, so a key is read once for the group.
    let rows = q_heads / kv_heads * tokens;
    let grouped = q
        .clone()
        .swap_dims(0, 1)
        .reshape([kv_heads, rows, head_dim]);
    let scores = grouped
        .mul_scalar(score_scale(head_dim))
        .matmul(segment.keys.clone().transpose());
    let scores = mask.apply(scores);
    let peak = scores.clone().max_dim(2).clamp_min(SCORE_FLOOR);
    let weights = (scores - peak.clone()).exp();
    // The peak itself contributes e⁰, so the sum is at least 1 unless nothing is visible.
    let sum = weights.clone().sum_dim(2);
    let output = weights.matmul(segment.values.clone()) / sum.clone().clamp_min(1.0);
    let lse = peak + sum.log();

    let by_token = |t: Tensor<3>, dim| t.reshape([q_heads, tokens, dim]).swap_dims(0, 1);
    PartialAttention {
        output: by_token(output, head_dim),
        lse: LogSumExp(by_token(lse, 1).reshape([tokens, q_heads])),
    }
}

/// Combines attention over two disjoint segments into attention over both:
/// `α = 1/(1 + e^{ℓ_suffix − ℓ_prefix})`, `O = α O_prefix + (1 − α) O_suffix` (MATH §1).
///
/// Associative and commutative up to rounding; [`PartialAttention::empty`] is its identity.
pub fn merge(prefix: PartialAttention, suffix: PartialAttention) -> PartialAttention {
    let (prefix_lse, suffix_lse) = (prefix.lse.0, suffix.lse.0);
    let peak = prefix_lse
        .clone()
        .max_pair(suffix_lse.clone())
        .clamp_min(SCORE_FLOOR);
    let prefix_weight = (prefix_lse - peak.clone()).exp();
    let suffix_weight = (suffix_lse - peak.clone()).exp();
    let sum = prefix_weight.clone() + suffix_weight.clone();
    let norm = sum.clone().clamp_min(1.0);
    let alpha = |weight: Tensor<2>| (weight / norm.clone()).unsqueeze_dim::<3>(2);
    PartialAttention {
        output: prefix.output * alpha(prefix_weight) + suffix.output * alpha(suffix_weight),
        lse: LogSumExp(peak + sum.log()),
    }
}

/// 1/√d.
fn score_scale(head_dim: usize) -> f32 {
    let dim = u16::try_from(head_dim).expect("head dimensions are at most 4096");
    f32::from(dim).sqrt().recip()
}
