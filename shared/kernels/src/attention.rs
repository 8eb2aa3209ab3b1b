//! Attention of a few queries over the keys and values of one head, where they lie: in one stretch
//! or in blocks.

use pulp::{Arch, Simd, WithSimd};

use crate::exp::exponentiate;

mod many;

/// Queries from which on each is a lane of vectors, though not all lanes are used.
const MANY_MIN: usize = 4;

/// Keys and values of consecutive tokens of one head: `[token, head_dim]` each. Deliberately not `Debug`:
/// they may be private.
#[derive(Clone, Copy)]
pub struct Chunk<'a> {
    /// Post-RoPE.
    pub keys: &'a [f32],
    /// As many as keys.
    pub values: &'a [f32],
}

/// Attention of rows of queries over some keys of one head. Deliberately not `Debug`, as it comes of
/// private queries.
pub struct HeadPart {
    /// `[row, head_dim]`
    pub output: Vec<f32>,
    /// The log-sum-exp of each row.
    pub lse: Vec<f32>,
}

/// Attention of all rows over all keys of the chunks: no key is hidden, and there is at least one.
///
/// `queries`: `[row, head_dim]`, scaled by 1/√head_dim.
pub fn attend_chunks(queries: &[f32], head_dim: usize, chunks: &[Chunk<'_>]) -> HeadPart {
    Arch::new().dispatch(AttendChunks {
        queries,
        head_dim,
        chunks,
    })
}

/// Combines attention of the same rows over disjoint keys: `O = Σ e^{ℓ_i − ℓ} O_i` with
/// `ℓ = ln Σ e^{ℓ_i}`.
///
/// # Panics
/// If there are no parts.
pub fn merge_parts(parts: &[HeadPart], head_dim: usize) -> HeadPart {
    let row_count = parts[0].lse.len();
    let mut output = vec![0.0; row_count * head_dim];
    let mut lse = Vec::with_capacity(row_count);
    for (row, out) in output.chunks_exact_mut(head_dim).enumerate() {
        let of_row = parts.iter().map(|part| part.lse[row]);
        let peak = of_row.clone().fold(f32::NEG_INFINITY, f32::max);
        let whole = peak + of_row.map(|it| (it - peak).exp()).sum::<f32>().ln();
        for part in parts {
            let weight = (part.lse[row] - whole).exp();
            let from = &part.output[row * head_dim..][..head_dim];
            for (out, from) in out.iter_mut().zip(from) {
                *out += weight * from;
            }
        }
        lse.push(whole);
    }
    HeadPart { output, lse }
}

struct AttendChunks<'a> {
    queries: &'a [f32],
    head_dim: usize,
    chunks: &'a [Chunk<'a>],
}

impl WithSimd for AttendChunks<'_> {
    type Output = HeadPart;

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) -> HeadPart {
        let Self {
            queries,
            head_dim,
            chunks,
        } = self;
        if queries.len() / head_dim >= MANY_MIN {
            return many::attend(simd, queries, head_dim, chunks);
        }
        // A row of scores for each query.
        let key_count: usize = chunks.iter().map(|it| it.keys.len() / head_dim).sum();
        // Rows a power of two apart would compete for the same lines of the cache.
        let stride = key_count.next_multiple_of(16) + 16;
        let row_count = queries.len() / head_dim;
        let mut scores = vec![0.0; row_count * stride];
        let mut output = vec![0.0; row_count * head_dim];

        self.score(simd, &mut scores, stride);

        // Loops and not closures: what is called from here must be compiled into this function to
        // be vector code.
        let mut sums = Vec::with_capacity(row_count);
        for row in scores.chunks_exact_mut(stride) {
            sums.push(softmax(simd, &mut row[..key_count]));
        }

        let mut first = 0;
        for chunk in chunks {
            let len = chunk.values.len() / head_dim;
            let mut pairs = output.chunks_exact_mut(2 * head_dim);
            let mut row = 0;
            for outs in &mut pairs {
                let weights = |row: usize| &scores[row * stride + first..][..len];
                add_weighted(simd, outs, [weights(row), weights(row + 1)], chunk.values);
                row += 2;
            }
            let rest = pairs.into_remainder();
            if !rest.is_empty() {
                let weights = &scores[row * stride + first..][..len];
                add_weighted(simd, rest, [weights], chunk.values);
            }
            first += len;
        }
        let mut lse = Vec::with_capacity(row_count);
        for (out, (peak, sum)) in output.chunks_exact_mut(head_dim).zip(sums) {
            let scale = sum.recip();
            for it in out {
                *it *= scale;
            }
            lse.push(peak + sum.ln());
        }
        HeadPart { output, lse }
    }
}

impl AttendChunks<'_> {
    /// Scores one query and one key at a time.
    #[inline(always)]
    fn score<S: Simd>(&self, simd: S, scores: &mut [f32], stride: usize) {
        let mut first = 0;
        for chunk in self.chunks {
            let len = chunk.keys.len() / self.head_dim;
            for (row, query) in self.queries.chunks_exact(self.head_dim).enumerate() {
                let scores = &mut scores[row * stride + first..][..len];
                for (score, key) in scores
                    .iter_mut()
                    .zip(chunk.keys.chunks_exact(self.head_dim))
                {
                    *score = dot(simd, query, key);
                }
            }
            first += len;
        }
    }
}

#[inline(always)]
fn dot<S: Simd>(simd: S, a: &[f32], b: &[f32]) -> f32 {
    let (a_vectors, a_rest) = S::as_simd_f32s(a);
    let (b_vectors, b_rest) = S::as_simd_f32s(b);
    let mut sum = simd.splat_f32s(0.0);
    for (a, b) in a_vectors.iter().zip(b_vectors) {
        sum = simd.mul_add_e_f32s(*a, *b, sum);
    }
    let mut sum = simd.reduce_sum_f32s(sum);
    for (a, b) in a_rest.iter().zip(b_rest) {
        sum += a * b;
    }
    sum
}

/// Vectors of one row's output that stay in registers.
const COLUMN_VECTORS: usize = 4;

/// `outs[r][d] += Σ_j weights[r][j] values[j][d]` for `R` rows.
#[inline(always)]
fn add_weighted<S: Simd, const R: usize>(
    simd: S,
    outs: &mut [f32],
    weights: [&[f32]; R],
    values: &[f32],
) {
    let dim = outs.len() / R;
    let mut at = 0;
    while at + COLUMN_VECTORS * S::F32_LANES <= dim {
        add_columns::<S, R, COLUMN_VECTORS>(simd, (outs, at), weights, values);
        at += COLUMN_VECTORS * S::F32_LANES;
    }
    while at + S::F32_LANES <= dim {
        add_columns::<S, R, 1>(simd, (outs, at), weights, values);
        at += S::F32_LANES;
    }
    if at < dim {
        for (out, weights) in outs.chunks_exact_mut(dim).zip(weights) {
            for (weight, value) in weights.iter().zip(values.chunks_exact(dim)) {
                for (out, value) in out[at..].iter_mut().zip(&value[at..]) {
                    *out += weight * value;
                }
            }
        }
    }
}

/// The same for `N` vectors of columns from `at` on.
#[inline(always)]
fn add_columns<S: Simd, const R: usize, const N: usize>(
    simd: S,
    (outs, at): (&mut [f32], usize),
    weights: [&[f32]; R],
    values: &[f32],
) {
    let dim = outs.len() / R;
    let columns = at..at + N * S::F32_LANES;
    let mut sums = [[simd.splat_f32s(0.0); N]; R];
    for (key, value) in values.chunks_exact(dim).enumerate() {
        let (value, _) = S::as_simd_f32s(&value[columns.clone()]);
        for row in 0..R {
            let weight = simd.splat_f32s(weights[row][key]);
            for vector in 0..N {
                sums[row][vector] = simd.mul_add_e_f32s(weight, value[vector], sums[row][vector]);
            }
        }
    }
    for (out, sums) in outs.chunks_exact_mut(dim).zip(&sums) {
        let (out, _) = S::as_mut_simd_f32s(&mut out[columns.clone()]);
        for (out, sum) in out.iter_mut().zip(sums) {
            *out = simd.add_f32s(*out, *sum);
        }
    }
}

/// Replaces scores by `e^(score − peak)`; the peak and the sum.
#[inline(always)]
fn softmax<S: Simd>(simd: S, scores: &mut [f32]) -> (f32, f32) {
    let (vectors, rest) = S::as_mut_simd_f32s(scores);
    let mut peak = simd.splat_f32s(f32::NEG_INFINITY);
    for vector in &*vectors {
        peak = simd.max_f32s(peak, *vector);
    }
    let mut peak = simd.reduce_max_f32s(peak);
    for score in rest {
        peak = peak.max(*score);
    }
    exponentiate(simd, scores, peak);
    let (vectors, rest) = S::as_simd_f32s(scores);
    let mut sum = simd.splat_f32s(0.0);
    for vector in vectors {
        sum = simd.add_f32s(sum, *vector);
    }
    let mut sum = simd.reduce_sum_f32s(sum);
    for weight in rest {
        sum += weight;
    }
    (peak, sum)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// By the definition, in f64.
    fn by_definition(
        queries: &[f32],
        dim: usize,
        keys: &[f32],
        values: &[f32],
    ) -> (Vec<f64>, Vec<f64>) {
        let (mut output, mut lse) = (Vec::new(), Vec::new());
        for query in queries.chunks_exact(dim) {
            let score = |key: &[f32]| -> f64 {
                query
                    .iter()
                    .zip(key)
                    .map(|(a, b)| f64::from(*a) * f64::from(*b))
                    .sum()
            };
            let scores: Vec<_> = keys.chunks_exact(dim).map(score).collect();
            let sum: f64 = scores.iter().map(|it| it.exp()).sum();
            lse.push(sum.ln());
            output.extend((0..dim).map(|column| -> f64 {
                let weighted = scores.iter().zip(values.chunks_exact(dim));
                weighted
                    .map(|(score, value)| score.exp() / sum * f64::from(value[column]))
                    .sum()
            }));
        }
        (output, lse)
    }

    /// Numbers between -2 and 2 that no two indices share.
    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count)
            .map(|index| (((index + seed) as f32 * 0.618_034).fract() - 0.5) * 4.0)
            .collect()
    }

    fn close(found: &[f32], expected: &[f64]) -> bool {
        found.len() == expected.len()
            && found
                .iter()
                .zip(expected)
                .all(|(a, b)| (f64::from(*a) - b).abs() <= 1e-4)
    }

    proptest! {
        #[test]
        fn chunks_are_attended_to_as_one_segment_however_they_are_cut(
            row_count in 1..20usize,
            dim in 1..80usize,
            key_count in 1..200usize,
            chunk_len in 1..100usize,
            split in any::<prop::sample::Index>(),
            seed in 0..1000usize,
        ) {
            // Longer heads have smaller queries, as 1/√d makes them.
            let scale = (dim as f32).sqrt().recip();
            let queries: Vec<_> = numbers(row_count * dim, seed).iter().map(|it| it * scale).collect();
            let (keys, values) = (numbers(key_count * dim, seed + 1), numbers(key_count * dim, seed + 2));
            let expected = by_definition(&queries, dim, &keys, &values);
            let chunks: Vec<_> = keys
                .chunks(chunk_len * dim)
                .zip(values.chunks(chunk_len * dim))
                .map(|(keys, values)| Chunk { keys, values })
                .collect();
            let whole = attend_chunks(&queries, dim, &chunks);
            prop_assert!(close(&whole.output, &expected.0) && close(&whole.lse, &expected.1));

            let (left, right) = chunks.split_at(split.index(chunks.len()));
            let parts: Vec<_> = [left, right]
                .into_iter()
                .filter(|chunks| !chunks.is_empty())
                .map(|chunks| attend_chunks(&queries, dim, chunks))
                .collect();
            let merged = merge_parts(&parts, dim);
            prop_assert!(close(&merged.output, &expected.0) && close(&merged.lse, &expected.1));
        }
    }
}
