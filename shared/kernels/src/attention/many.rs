//! Attention of many queries of one head: products of tiles whose sums stay in registers, with keys
//! and values read where they lie.
//!
//! Scores are kept key by key, those of all queries on one key side by side. So no key is turned, a
//! query is a lane from its first score to its sum, and the weights lie as the product with the
//! values reads them.

use pulp::Simd;

use super::{Chunk, HeadPart};
use crate::exp::exp_of_negative;
use crate::tile::{Factors, Interleaved, Lines, SideBySide, add, product};

/// Queries are filled up to a multiple of this: what the widest vectors hold.
const LANES_MAX: usize = 16;

/// Vectors whose sums stay in registers with those of a tile of keys or of rows: of rows for keys,
/// of an output's columns for rows.
const VECTORS: usize = 2;

/// Keys or rows of a tile where there are few registers, or few keys or rows.
const FEW: usize = 4;

/// The queries of one head, turned.
struct Rows {
    /// `[head_dim, row]`, filled up with zeros to `width` rows.
    numbers: Vec<f32>,
    count: usize,
    width: usize,
    head_dim: usize,
}

impl Rows {
    fn new(queries: &[f32], head_dim: usize) -> Self {
        let count = queries.len() / head_dim;
        let width = count.next_multiple_of(LANES_MAX);
        let mut numbers = vec![0.0; head_dim * width];
        for (row, query) in queries.chunks_exact(head_dim).enumerate() {
            let places = numbers[row..].iter_mut().step_by(width);
            for (place, number) in places.zip(query) {
                *place = *number;
            }
        }
        Self {
            numbers,
            count,
            width,
            head_dim,
        }
    }
}

/// Attention of all rows over all keys of the chunks.
#[inline(always)]
pub(super) fn attend<S: Simd>(
    simd: S,
    queries: &[f32],
    head_dim: usize,
    chunks: &[Chunk<'_>],
) -> HeadPart {
    if S::REGISTER_COUNT >= 32 {
        attend_in_tiles::<S, 8>(simd, queries, head_dim, chunks)
    } else {
        attend_in_tiles::<S, FEW>(simd, queries, head_dim, chunks)
    }
}

/// With sums of `T` keys, or of `T` rows, in registers.
#[inline(always)]
fn attend_in_tiles<S: Simd, const T: usize>(
    simd: S,
    queries: &[f32],
    head_dim: usize,
    chunks: &[Chunk<'_>],
) -> HeadPart {
    let rows = Rows::new(queries, head_dim);
    let chunk_len = chunks.iter().map(|it| it.keys.len() / head_dim).max();
    // `[key, row]` of one chunk: they stay in the nearest cache.
    let mut weights = vec![0.0; chunk_len.unwrap_or(0) * rows.width];
    let mut softmax = Softmax::new(rows.width);
    let mut output = vec![0.0; rows.count * head_dim];
    for chunk in chunks {
        let weights = &mut weights[..chunk.keys.len() / head_dim * rows.width];
        score::<S, T>(simd, &rows, chunk.keys, weights);
        softmax.add(simd, weights);
        softmax.rescale(&mut output, head_dim);
        add_weighted::<S, T>(simd, &rows, (weights, chunk.values), &mut output);
    }
    let mut lse = Vec::with_capacity(rows.count);
    let of_rows = softmax.peaks.iter().zip(&softmax.sums);
    for (out, (peak, sum)) in output.chunks_exact_mut(head_dim).zip(of_rows) {
        let scale = sum.recip();
        for it in out {
            *it *= scale;
        }
        lse.push(peak + sum.ln());
    }
    HeadPart { output, lse }
}

/// `scores[key][row] = Σ_d keys[key][d] rows[d][row]`.
#[inline(always)]
fn score<S: Simd, const T: usize>(simd: S, rows: &Rows, keys: &[f32], scores: &mut [f32]) {
    let (dim, width) = (rows.head_dim, rows.width);
    let mut rest = (keys, scores);
    loop {
        let len = match rest.0.len() / dim {
            0 => return,
            len if len >= T => T,
            len if len >= FEW => FEW,
            _ => 1,
        };
        let (keys, later_keys) = rest.0.split_at(len * dim);
        let (scores, later_scores) = rest.1.split_at_mut(len * width);
        if len == T {
            score_tile::<S, T>(simd, rows, keys, scores);
        } else if len == FEW {
            score_tile::<S, FEW>(simd, rows, keys, scores);
        } else {
            score_tile::<S, 1>(simd, rows, keys, scores);
        }
        rest = (later_keys, later_scores);
    }
}

/// The same for `K` keys.
#[inline(always)]
fn score_tile<S: Simd, const K: usize>(simd: S, rows: &Rows, keys: &[f32], scores: &mut [f32]) {
    let lines = |at| Lines {
        numbers: &rows.numbers[at..],
        width: rows.width,
    };
    let keys = SideBySide::<K>::new(keys, rows.head_dim);
    let mut at = 0;
    while at + VECTORS * S::F32_LANES <= rows.width {
        let sums = product::<S, _, K, VECTORS>(simd, &keys, lines(at), &[]);
        put::<S, K, VECTORS>(scores, (rows.width, at), &sums);
        at += VECTORS * S::F32_LANES;
    }
    while at < rows.width {
        let sums = product::<S, _, K, 1>(simd, &keys, lines(at), &[]);
        put::<S, K, 1>(scores, (rows.width, at), &sums);
        at += S::F32_LANES;
    }
}

/// Writes sums to the columns from `at` on of lines of `width`.
#[inline(always)]
fn put<S: Simd, const R: usize, const N: usize>(
    lines: &mut [f32],
    (width, at): (usize, usize),
    sums: &[[S::f32s; N]; R],
) {
    for (line, sums) in lines.chunks_exact_mut(width).zip(sums) {
        let (line, _) = S::as_mut_simd_f32s(&mut line[at..]);
        line[..N].copy_from_slice(sums);
    }
}

/// `outs[row][d] += Σ_key weights[key][row] values[key][d]`.
#[inline(always)]
fn add_weighted<S: Simd, const T: usize>(
    simd: S,
    rows: &Rows,
    (weights, values): (&[f32], &[f32]),
    outs: &mut [f32],
) {
    let mut first = 0;
    while first < rows.count {
        let outs = &mut outs[first * rows.head_dim..];
        let left = rows.count - first;
        if left >= T {
            add_weighted_tile::<S, T>(simd, rows, (weights, first, values), outs);
            first += T;
        } else if left >= FEW {
            add_weighted_tile::<S, FEW>(simd, rows, (weights, first, values), outs);
            first += FEW;
        } else {
            add_weighted_tile::<S, 1>(simd, rows, (weights, first, values), outs);
            first += 1;
        }
    }
}

/// The same for `R` rows from `first` on.
#[inline(always)]
fn add_weighted_tile<S: Simd, const R: usize>(
    simd: S,
    rows: &Rows,
    (weights, first, values): (&[f32], usize, &[f32]),
    outs: &mut [f32],
) {
    let dim = rows.head_dim;
    let weights = Interleaved::<R> {
        numbers: &weights[first..],
        width: rows.width,
    };
    let lines = |at| Lines {
        numbers: &values[at..],
        width: dim,
    };
    let mut at = 0;
    while at + VECTORS * S::F32_LANES <= dim {
        let sums = product::<S, _, R, VECTORS>(simd, &weights, lines(at), &[]);
        add_to_lines(simd, outs, (dim, at), &sums);
        at += VECTORS * S::F32_LANES;
    }
    while at + S::F32_LANES <= dim {
        let sums = product::<S, _, R, 1>(simd, &weights, lines(at), &[]);
        add_to_lines(simd, outs, (dim, at), &sums);
        at += S::F32_LANES;
    }
    if at < dim {
        for (value, weights) in values.chunks_exact(dim).zip(weights.lines()) {
            for (out, weight) in outs.chunks_exact_mut(dim).zip(weights) {
                for (out, value) in out[at..].iter_mut().zip(&value[at..]) {
                    *out += weight * value;
                }
            }
        }
    }
}

/// Adds sums to the columns from `at` on of lines of `dim`.
#[inline(always)]
fn add_to_lines<S: Simd, const R: usize, const N: usize>(
    simd: S,
    outs: &mut [f32],
    (dim, at): (usize, usize),
    sums: &[[S::f32s; N]; R],
) {
    for (out, sums) in outs.chunks_exact_mut(dim).zip(sums) {
        let (out, _) = S::as_mut_simd_f32s(&mut out[at..]);
        add(simd, out, sums);
    }
}

/// The softmax of each row over the keys so far (the online softmax of FlashAttention).
struct Softmax {
    /// The highest scores.
    peaks: Vec<f32>,
    /// `Σ e^(score − peak)`
    sums: Vec<f32>,
    /// What the last keys made of earlier weights: `e^(old peak − peak)`.
    shrunk: Vec<f32>,
}

impl Softmax {
    fn new(width: usize) -> Self {
        Self {
            peaks: vec![f32::NEG_INFINITY; width],
            sums: vec![0.0; width],
            shrunk: vec![1.0; width],
        }
    }

    /// Replaces scores `[key, row]` by `e^(score − peak)`.
    #[inline(always)]
    fn add<S: Simd>(&mut self, simd: S, scores: &mut [f32]) {
        let width = self.peaks.len();
        self.shrunk.copy_from_slice(&self.peaks);
        let (peaks, _) = S::as_mut_simd_f32s(&mut self.peaks);
        for scores in scores.chunks_exact(width) {
            let (scores, _) = S::as_simd_f32s(scores);
            for (peak, score) in peaks.iter_mut().zip(scores) {
                *peak = simd.max_f32s(*peak, *score);
            }
        }
        let (sums, _) = S::as_mut_simd_f32s(&mut self.sums);
        let (shrunk, _) = S::as_mut_simd_f32s(&mut self.shrunk);
        for ((shrunk, peak), sum) in shrunk.iter_mut().zip(&*peaks).zip(&mut *sums) {
            *shrunk = exp_of_negative(simd, simd.sub_f32s(*shrunk, *peak));
            *sum = simd.mul_f32s(*sum, *shrunk);
        }
        for scores in scores.chunks_exact_mut(width) {
            let (scores, _) = S::as_mut_simd_f32s(scores);
            for ((score, peak), sum) in scores.iter_mut().zip(&*peaks).zip(&mut *sums) {
                *score = exp_of_negative(simd, simd.sub_f32s(*score, *peak));
                *sum = simd.add_f32s(*sum, *score);
            }
        }
    }

    /// Makes outputs `[row, head_dim]` those of the new peaks.
    #[inline(always)]
    fn rescale(&self, outputs: &mut [f32], head_dim: usize) {
        for (out, shrunk) in outputs.chunks_exact_mut(head_dim).zip(&self.shrunk) {
            // 1 to within the exponential's error: the peak is the old one.
            if *shrunk < 1.0 {
                for it in out {
                    *it *= shrunk;
                }
            }
        }
    }
}
