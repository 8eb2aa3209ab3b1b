//! Attention of many rows of one head over one span of keys: products of tiles whose sums stay in
//! registers, with keys and values read where they lie.
//!
//! Scores are kept key by key, those of all rows on one key side by side. So no key is turned, a row
//! is a lane from its first score to its sum, and the weights lie as the product with the values
//! reads them. A lane sees nothing of its neighbours: what a row gets does not depend on them.

use pulp::Simd;

use super::softmax::{LANES, LaneSoftmax, rescale};
use super::stretch::{STRETCH_LEN, Stretches};
use super::{Chunk, HeadPart, Queries};
use crate::tile::{Interleaved, Lines, add, product_onto};

/// Vectors whose sums stay in registers with those of a tile of keys or of rows: of rows for keys, of an
/// output's columns for rows.
const VECTORS: usize = 2;

/// Rows of a tile where there are few registers, or few rows.
const FEW: usize = 4;

/// The rows of one head, turned.
struct Rows {
    /// `[head_dim, row]`, filled up with zeros to `width` rows.
    numbers: Vec<f32>,
    count: usize,
    /// Whole vectors.
    width: usize,
    head_dim: usize,
}

impl Rows {
    #[inline(always)]
    fn new<S: Simd>(queries: Queries<'_>) -> Self {
        let (count, head_dim) = (queries.seen.len(), queries.head_dim);
        let width = count.next_multiple_of(S::F32_LANES);
        let mut numbers = vec![0.0; head_dim * width];
        for (row, query) in queries.numbers.chunks_exact(head_dim).enumerate() {
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

/// Attention of all rows over those keys of a span that each sees.
#[inline(always)]
pub(super) fn attend<S: Simd>(
    simd: S,
    queries: Queries<'_>,
    span: usize,
    chunks: &[Chunk<'_>],
) -> HeadPart {
    if S::REGISTER_COUNT >= 32 {
        attend_in_tiles::<S, 4, 8>(simd, queries, span, chunks)
    } else {
        attend_in_tiles::<S, 2, FEW>(simd, queries, span, chunks)
    }
}

/// With sums of `K` keys, or of `T` rows, in registers.
#[inline(always)]
fn attend_in_tiles<S: Simd, const K: usize, const T: usize>(
    simd: S,
    queries: Queries<'_>,
    span: usize,
    chunks: &[Chunk<'_>],
) -> HeadPart {
    let dim = queries.head_dim;
    let rows = Rows::new::<S>(queries);
    let seen_max = queries.seen_max_of_span(span);
    let mut softmax = LaneSoftmax::new(seen_of_rows(queries, span), rows.width);
    let mut stretches = Stretches::new(chunks, dim, seen_max);
    // `[key, row]` of one stretch.
    let mut weights = vec![0.0; STRETCH_LEN * rows.width];
    let mut output = vec![0.0; rows.count * dim];
    for first in (0..seen_max).step_by(STRETCH_LEN) {
        let pieces = stretches.next();
        let mut end = 0;
        for piece in pieces {
            let len = piece.keys.len() / dim * rows.width;
            score::<S, K>(simd, &rows, piece.keys, &mut weights[end..end + len]);
            end += len;
        }
        softmax.add(simd, first, &mut weights[..end]);
        for (out, shrunk) in output.chunks_exact_mut(dim).zip(&softmax.shrunk) {
            rescale(out, *shrunk);
        }
        let mut start = 0;
        for piece in pieces {
            let len = piece.values.len() / dim * rows.width;
            let weights = &weights[start..start + len];
            add_weighted::<S, T>(simd, &rows, (weights, piece.values), &mut output);
            start += len;
        }
    }
    let mut lse = Vec::with_capacity(rows.count);
    for (row, out) in output.chunks_exact_mut(dim).enumerate() {
        lse.push(softmax.row(row).finish(out));
    }
    HeadPart { output, lse }
}

fn seen_of_rows(queries: Queries<'_>, span: usize) -> Vec<u32> {
    let rows = 0..queries.seen.len();
    let seen = rows.map(|row| queries.seen_of_span(row, span));
    // A span is far shorter.
    seen.map(|seen| u32::try_from(seen).unwrap_or(u32::MAX))
        .collect()
}

/// `scores[key][row] = Σ_d keys[key][d] rows[d][row]`, summed as a vector along `d` would be: lane by
/// lane, and then those of the lanes, first to last.
#[inline(always)]
fn score<S: Simd, const K: usize>(simd: S, rows: &Rows, keys: &[f32], scores: &mut [f32]) {
    let mut tiles = keys.chunks_exact(K * rows.head_dim);
    let mut outs = scores.chunks_exact_mut(K * rows.width);
    for (keys, scores) in (&mut tiles).zip(&mut outs) {
        score_tile::<S, K>(simd, rows, keys, scores);
    }
    let keys = tiles.remainder().chunks_exact(rows.head_dim);
    for (key, scores) in keys.zip(outs.into_remainder().chunks_exact_mut(rows.width)) {
        score_tile::<S, 1>(simd, rows, key, scores);
    }
}

/// The same for `K` keys.
#[inline(always)]
fn score_tile<S: Simd, const K: usize>(simd: S, rows: &Rows, keys: &[f32], scores: &mut [f32]) {
    let mut at = 0;
    while at + VECTORS * S::F32_LANES <= rows.width {
        score_vectors::<S, K, VECTORS>(simd, rows, at, (keys, scores));
        at += VECTORS * S::F32_LANES;
    }
    if at < rows.width {
        score_vectors::<S, K, 1>(simd, rows, at, (keys, scores));
    }
}

/// The same for `N` vectors of rows from `at` on.
#[inline(always)]
fn score_vectors<S: Simd, const K: usize, const N: usize>(
    simd: S,
    rows: &Rows,
    at: usize,
    (keys, scores): (&[f32], &mut [f32]),
) {
    let mut sums = of_lane::<S, K, N>(simd, rows, (0, at), keys);
    for lane in 1..LANES {
        let added = of_lane::<S, K, N>(simd, rows, (lane, at), keys);
        for (sums, added) in sums.iter_mut().zip(&added) {
            add(simd, sums, added);
        }
    }
    put::<S, K, N>(scores, (rows.width, at), &sums);
}

/// The sums of one lane: along every [`LANES`]th number, from `lane` on.
#[inline(always)]
fn of_lane<S: Simd, const K: usize, const N: usize>(
    simd: S,
    rows: &Rows,
    (lane, at): (usize, usize),
    keys: &[f32],
) -> [[S::f32s; N]; K] {
    let dim = rows.head_dim;
    let mut sums = [[simd.splat_f32s(0.0); N]; K];
    let mut starts = [keys; K];
    for (key, start) in starts.iter_mut().enumerate() {
        *start = &keys[key * dim..][..dim];
    }
    let mut lines = rows
        .numbers
        .get(lane * rows.width + at..)
        .unwrap_or_default();
    for depth in (lane..dim).step_by(LANES) {
        let Some(line) = S::as_simd_f32s(lines).0.first_chunk::<N>() else {
            break;
        };
        for key in 0..K {
            let number = simd.splat_f32s(starts[key][depth]);
            for vector in 0..N {
                sums[key][vector] = simd.mul_add_e_f32s(number, line[vector], sums[key][vector]);
            }
        }
        lines = lines.get(LANES * rows.width..).unwrap_or_default();
    }
    sums
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

/// `outs[row][d] += Σ_key weights[key][row] values[key][d]`, added key by key: where keys are cut makes
/// no difference.
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
            add_weighted_tile::<S, T, VECTORS>(simd, rows, (weights, first, values), outs);
            first += T;
        } else if left >= FEW {
            add_weighted_tile::<S, FEW, VECTORS>(simd, rows, (weights, first, values), outs);
            first += FEW;
        } else {
            add_weighted_tile::<S, 1, FEW>(simd, rows, (weights, first, values), outs);
            first += 1;
        }
    }
}

/// The same for `R` rows from `first` on, `N` vectors of columns at a time.
#[inline(always)]
fn add_weighted_tile<S: Simd, const R: usize, const N: usize>(
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
    let mut at = 0;
    while at + N * S::F32_LANES <= dim {
        add_columns::<S, R, N>(simd, weights, (values, at, dim), outs);
        at += N * S::F32_LANES;
    }
    while at + VECTORS * S::F32_LANES <= dim {
        add_columns::<S, R, VECTORS>(simd, weights, (values, at, dim), outs);
        at += VECTORS * S::F32_LANES;
    }
    while at + S::F32_LANES <= dim {
        add_columns::<S, R, 1>(simd, weights, (values, at, dim), outs);
        at += S::F32_LANES;
    }
    if at < dim {
        add_last_columns::<S, R>(simd, weights, (values, at, dim), outs);
    }
}

/// The same for `N` vectors of columns from `at` on.
#[inline(always)]
fn add_columns<S: Simd, const R: usize, const N: usize>(
    simd: S,
    weights: Interleaved<'_, R>,
    (values, at, dim): (&[f32], usize, usize),
    outs: &mut [f32],
) {
    let lines = Lines {
        numbers: &values[at..],
        width: dim,
    };
    let mut sums = [[simd.splat_f32s(0.0); N]; R];
    for (sums, out) in sums.iter_mut().zip(outs.chunks_exact(dim)) {
        let (out, _) = S::as_simd_f32s(&out[at..]);
        sums.copy_from_slice(&out[..N]);
    }
    let sums = product_onto::<S, R, N>(simd, sums, weights, (lines, &[]));
    put::<S, R, N>(outs, (dim, at), &sums);
}

/// The same for the columns from `at` on, fewer than a vector has.
#[inline(always)]
fn add_last_columns<S: Simd, const R: usize>(
    simd: S,
    mut weights: Interleaved<'_, R>,
    (values, at, dim): (&[f32], usize, usize),
    outs: &mut [f32],
) {
    let mut sums = [simd.splat_f32s(0.0); R];
    for (sum, out) in sums.iter_mut().zip(outs.chunks_exact(dim)) {
        *sum = simd.partial_load_f32s(&out[at..]);
    }
    for value in values.chunks_exact(dim) {
        let Some(weights) = weights.next() else {
            break;
        };
        let value = simd.partial_load_f32s(&value[at..]);
        for (sum, weight) in sums.iter_mut().zip(weights) {
            *sum = simd.mul_add_e_f32s(simd.splat_f32s(weight), value, *sum);
        }
    }
    for (sum, out) in sums.iter().zip(outs.chunks_exact_mut(dim)) {
        simd.partial_store_f32s(&mut out[at..], *sum);
    }
}
