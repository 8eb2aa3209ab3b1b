//! Attention over one segment of keys and values, and the merge of two such parts.

use std::fmt;

use burn::tensor::{Device, Tensor};

use crate::mask::TileMask;
use crate::{Mask, cpu};

/// Keys and values of one segment, post-RoPE.
///
/// They may be those of private tokens, so printing shows their shape and never the numbers.
#[derive(Clone)]
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

impl fmt::Debug for KvView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [kv_heads, tokens, head_dim] = self.keys.dims();
        write!(f, "KvView([{kv_heads}, {tokens}, {head_dim}])")
    }
}

/// ln Σ e^s over the scaled scores of one segment: natural log, f32, `[token, q_head]`.
///
/// −∞ for a query that sees no key of the segment. Not printable, as it comes of private queries.
#[derive(Clone)]
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
///
/// Not printable, as it comes of private queries.
#[derive(Clone)]
pub struct PartialAttention {
    /// `[token, q_head, head_dim]`; zero where the segment shows a query nothing.
    pub output: Tensor<3>,
    /// The weight of this part against others.
    pub lse: LogSumExp,
}

/// The least score that is still subtracted from: below it only −∞ remains, and −∞ − −∞ is NaN.
const SCORE_FLOOR: f32 = -1e38;

/// Scores of a tile that stays in a processor's cache: 4 MiB of f32. Measured on two cores with 12
/// heads, such tiles take half the time of one tile for all of 512 or 1024 queries.
const TILE_SCORES: usize = 1 << 20;

/// Queries that a tile has even if its scores leave the cache: a tile reads every key once, so that
/// tiles of few queries do little but read keys.
const TILE_QUERIES: usize = 32;

/// The most scores held at a time, except by a tile of one query: 64 MiB of f32. About two such
/// buffers are alive at the worst, whatever the length of the prompt.
const TILE_SCORES_MAX: usize = 1 << 24;

impl PartialAttention {
    /// The parts of different queries, one after another.
    ///
    /// # Panics
    /// If there are none.
    pub fn concat(mut parts: Vec<Self>) -> Self {
        if parts.len() == 1
            && let Some(only) = parts.pop()
        {
            return only;
        }
        let (outputs, lses) = parts
            .into_iter()
            .map(|part| (part.output, part.lse.0))
            .unzip();
        Self {
            output: Tensor::cat(outputs, 0),
            lse: LogSumExp(Tensor::cat(lses, 0)),
        }
    }

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
/// Memory grows with the tokens and not with their square. On the processor, in f32, what a query gets
/// does not depend, to the last bit, on the queries beside it.
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
    if keys == 0 || tokens == 0 {
        return PartialAttention::empty(q.dims(), &q.device());
    }
    if cpu::takes(q) {
        let seen = (0..tokens).map(|query| mask.seen_by(query, keys));
        return cpu::attend_segment(q.clone(), segment, seen.collect());
    }
    attention_in_tiles(q, segment, mask, tile_len(q_heads * keys))
}

/// Queries of a tile where each has `query_scores` scores, of all heads together.
fn tile_len(query_scores: usize) -> usize {
    let query_scores = query_scores.max(1);
    let most = TILE_SCORES_MAX / query_scores;
    (TILE_SCORES / query_scores)
        .max(TILE_QUERIES)
        .min(most)
        .max(1)
}

/// The same by tensor operations, in tiles of `tile_len` queries, of which there are some, as of keys.
fn attention_in_tiles(
    q: &Tensor<3>,
    segment: &KvView,
    mask: &Mask,
    tile_len: usize,
) -> PartialAttention {
    let (tokens, keys) = (q.dims()[0], segment.token_count());
    if tokens <= tile_len {
        return attend_tile(q.clone(), segment, mask.tile(0..tokens, keys));
    }
    let tile = |start: usize| {
        let queries = start..tokens.min(start + tile_len);
        let q = q.clone().narrow(0, start, queries.len());
        attend_tile(q, segment, mask.tile(queries, keys))
    };
    PartialAttention::concat((0..tokens).step_by(tile_len).map(tile).collect())
}

/// Attention of a tile of queries over the keys that any of them sees.
fn attend_tile(q: Tensor<3>, segment: &KvView, mask: TileMask) -> PartialAttention {
    let [tokens, q_heads, head_dim] = q.dims();
    let [kv_heads, keys, _] = segment.keys.dims();
    if mask.seen_count == 0 {
        return PartialAttention::empty(q.dims(), &q.device());
    }
    let seen_count = mask.seen_count;
    let seen = |t: &Tensor<3>| {
        if seen_count == keys {
            return t.clone();
        }
        t.clone().narrow(1, 0, seen_count)
    };

    // One product per KV head serves its whole query group, so a key is read once for the group.
    let rows = q_heads / kv_heads * tokens;
    let grouped = q.swap_dims(0, 1).reshape([kv_heads, rows, head_dim]);
    let scores = grouped
        .mul_scalar(score_scale(head_dim))
        .matmul(seen(&segment.keys).transpose());
    let (output, lse) = attend_scores(mask.apply(scores), seen(&segment.values));

    let by_token = |t: Tensor<3>, dim| t.reshape([q_heads, tokens, dim]).swap_dims(0, 1);
    PartialAttention {
        output: by_token(output, head_dim),
        lse: LogSumExp(by_token(lse, 1).reshape([tokens, q_heads])),
    }
}

/// From scores, −∞ where a key is hidden, to the output and its log-sum-exp.
///
/// # Shapes
/// The last two dimensions: `scores` `[query, key]`, `values` `[key, head_dim]`, the output
/// `[query, head_dim]`, the log-sum-exp `[query, 1]`.
pub(crate) fn attend_scores<const D: usize>(
    scores: Tensor<D>,
    values: Tensor<D>,
) -> (Tensor<D>, Tensor<D>) {
    let peak = scores.clone().max_dim(D - 1).clamp_min(SCORE_FLOOR);
    let weights = (scores - peak.clone()).exp();
    // The peak itself contributes e⁰, so the sum is at least 1 unless nothing is visible.
    let sum = weights.clone().sum_dim(D - 1);
    let output = weights.matmul(values) / sum.clone().clamp_min(1.0);
    (output, peak + sum.log())
}

/// Combines attention over two disjoint segments into attention over both:
/// `α = 1/(1 + e^{ℓ_suffix − ℓ_prefix})`, `O = α O_prefix + (1 − α) O_suffix` (MATH §1).
///
/// Associative and commutative up to rounding; [`PartialAttention::empty`] is its identity.
pub fn merge(prefix: PartialAttention, suffix: PartialAttention) -> PartialAttention {
    if cpu::takes(&prefix.output) && cpu::takes(&suffix.output) {
        return cpu::merge(prefix, suffix);
    }
    merge_tensors(prefix, suffix)
}

/// The same by tensor operations.
fn merge_tensors(prefix: PartialAttention, suffix: PartialAttention) -> PartialAttention {
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
pub(crate) fn score_scale(head_dim: usize) -> f32 {
    let dim = u16::try_from(head_dim).expect("head dimensions are at most 4096");
    f32::from(dim).sqrt().recip()
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::TensorData;
    use edgeprompt_kv::TokenRange;
    use edgeprompt_testkit::oracle::{Problem, Shape};
    use proptest::prelude::*;

    #[derive(Clone, Debug)]
    struct Case {
        problem: Problem,
        /// Where the queries begin.
        private_start: usize,
        tile_len: usize,
    }

    fn cases() -> impl Strategy<Value = Case> {
        let shape = (1..=3usize, 1..=3usize, 1..=8usize, 1..=40usize);
        let cut = any::<prop::sample::Index>();
        // From one query at a time to all at once.
        (shape, cut, 1..=40usize, any::<u64>()).prop_map(|(shape, cut, tile_len, seed)| {
            let (kv_heads, group, half_dim, tokens) = shape;
            let shape = Shape {
                q_heads: kv_heads * group,
                kv_heads,
                head_dim: 2 * half_dim,
                tokens,
            };
            Case {
                problem: Problem::random(shape, 1.0, seed),
                private_start: cut.index(tokens),
                tile_len,
            }
        })
    }

    fn tensor(numbers: Vec<f32>, shape: [usize; 3]) -> Tensor<3> {
        Tensor::from_data(TensorData::new(numbers, shape), &Device::flex())
    }

    fn queries(case: &Case) -> Tensor<3> {
        let Shape {
            q_heads,
            head_dim,
            tokens,
            ..
        } = case.problem.shape;
        let numbers = case.problem.queries(case.private_start..tokens, 0);
        tensor(numbers, [tokens - case.private_start, q_heads, head_dim])
    }

    fn view(case: &Case, range: std::ops::Range<usize>) -> KvView {
        let Shape {
            kv_heads, head_dim, ..
        } = case.problem.shape;
        let shape = [kv_heads, range.len(), head_dim];
        KvView {
            keys: tensor(case.problem.keys(range.clone(), 0), shape),
            values: tensor(case.problem.values(range), shape),
        }
    }

    fn token_range(range: std::ops::Range<usize>) -> TokenRange {
        TokenRange::new(
            u32::try_from(range.start).unwrap(),
            u32::try_from(range.end).unwrap(),
        )
    }

    fn numbers(part: PartialAttention) -> (Vec<f32>, Vec<f32>) {
        let output = part.output.into_data().try_to_vec().unwrap();
        let lse = part.lse.into_tensor().into_data().try_to_vec().unwrap();
        (output, lse)
    }

    proptest! {
        #![proptest_config(ProptestConfig {
            cases: 256,
            failure_persistence: None,
            ..ProptestConfig::default()
        })]

        #[test]
        fn tiled_over_all_keys_equals_untiled_and_the_oracle(case in cases()) {
            let tokens = case.problem.shape.tokens;
            let (q, whole) = (queries(&case), view(&case, 0..tokens));
            let mask = Mask::causal(
                token_range(case.private_start..tokens),
                token_range(0..tokens),
                &Device::flex(),
            );
            let tiled = numbers(attention_in_tiles(&q, &whole, &mask, case.tile_len));
            let untiled = numbers(attention_in_tiles(&q, &whole, &mask, tokens));
            for (tiled, untiled) in tiled.0.iter().zip(&untiled.0).chain(tiled.1.iter().zip(&untiled.1)) {
                // The same products, summed in another order at most.
                prop_assert!((tiled - untiled).abs() <= 1e-5, "{tiled} is not {untiled}");
            }
            let error = case.problem.error_in_tolerances(case.private_start, 1, &tiled.0, &tiled.1);
            prop_assert!(error <= 1.0, "{error} tolerances off");
        }

        #[test]
        fn tiled_parts_merge_into_the_whole(case in cases()) {
            let tokens = case.problem.shape.tokens;
            let q = queries(&case);
            let private = token_range(case.private_start..tokens);
            let causal = Mask::causal(private, private, &Device::flex());
            let all_visible = Mask::all_visible();
            let part = |range, mask| {
                attention_in_tiles(&q, &view(&case, range), mask, case.tile_len)
            };
            let prefix = part(0..case.private_start, &all_visible);
            let suffix = part(case.private_start..tokens, &causal);
            let merge: [fn(PartialAttention, PartialAttention) -> PartialAttention; 2] =
                [super::merge, merge_tensors];
            for merge in merge {
                let (output, lse) = numbers(merge(prefix.clone(), suffix.clone()));
                let error = case.problem.error_in_tolerances(case.private_start, 2, &output, &lse);
                prop_assert!(error <= 1.0, "{error} tolerances off");
            }
        }
    }

    #[test]
    fn a_tile_is_bounded_whatever_the_prompt() {
        for (q_heads, keys) in [(1, 1), (12, 512), (32, 32_768), (64, 1 << 20)] {
            let len = tile_len(q_heads * keys);
            assert!(len == 1 || len * q_heads * keys <= TILE_SCORES_MAX, "{len}");
        }
        assert_eq!(tile_len(12 * 512), 170);
        assert_eq!(tile_len(32 * 4096), 32);
        assert_eq!(tile_len(32 * 32_768), 16);
        assert_eq!(tile_len(usize::MAX), 1);
    }

    #[test]
    fn keys_and_values_are_not_printed() {
        let case = Case {
            problem: Problem::random(
                Shape {
                    q_heads: 1,
                    kv_heads: 1,
                    head_dim: 4,
                    tokens: 3,
                },
                1.0,
                1,
            ),
            private_start: 0,
            tile_len: 1,
        };
        assert_eq!(format!("{:?}", view(&case, 0..3)), "KvView([1, 3, 4])");
    }
}
