//! Attention of a few rows: each by itself, as long as that is less work than to turn them.
//!
//! Every number is the result of the same additions in the same order as in `many`: the bits are the
//! same.

use pulp::Simd;

use super::softmax::{LANES, RowSoftmax, rescale, sum_of_lanes};
use super::stretch::{STRETCH_LEN, Stretches};
use super::{Chunk, HeadPart, Queries};

/// Vectors of columns whose sums stay in registers, where a row is alone and where there are two.
const COLUMN_VECTORS: usize = 8;
const COLUMN_VECTORS_FEW: usize = 4;

/// Attention of all rows over those keys of a span that each sees.
#[inline(always)]
pub(super) fn attend<S: Simd>(
    simd: S,
    queries: Queries<'_>,
    span: usize,
    chunks: &[Chunk<'_>],
) -> HeadPart {
    let dim = queries.head_dim;
    let row_count = queries.seen.len();
    let mut rows = Vec::with_capacity(row_count);
    for row in 0..row_count {
        rows.push(RowSoftmax::new(queries.seen_of_span(row, span)));
    }
    let seen_max = queries.seen_max_of_span(span);
    let mut stretches = Stretches::new(chunks, dim, seen_max);
    // `[row, key]` of one stretch.
    let mut weights = vec![0.0; row_count * STRETCH_LEN];
    let mut output = vec![0.0; row_count * dim];
    for first in (0..seen_max).step_by(STRETCH_LEN) {
        let pieces = stretches.next();
        score(simd, queries, pieces, &mut weights);
        let of_rows = weights.chunks_exact_mut(STRETCH_LEN);
        for ((row, weights), out) in rows
            .iter_mut()
            .zip(of_rows)
            .zip(output.chunks_exact_mut(dim))
        {
            let shrunk = row.add(simd, first, weights);
            rescale(out, shrunk);
        }
        let mut at = 0;
        for piece in pieces {
            add_weighted(simd, &mut output, &weights[at..], (piece.values, dim));
            at += piece.values.len() / dim;
        }
    }
    let mut lse = Vec::with_capacity(row_count);
    for (out, row) in output.chunks_exact_mut(dim).zip(&rows) {
        lse.push(row.finish(out));
    }
    HeadPart { output, lse }
}

/// Scores `[row, key]` of a stretch.
#[inline(always)]
fn score<S: Simd>(simd: S, queries: Queries<'_>, pieces: &[Chunk<'_>], scores: &mut [f32]) {
    let dim = queries.head_dim;
    let rows = queries.numbers.chunks_exact(dim);
    for (row, scores) in rows.zip(scores.chunks_exact_mut(STRETCH_LEN)) {
        let mut scores = scores.iter_mut();
        for piece in pieces {
            for (key, score) in piece.keys.chunks_exact(dim).zip(&mut scores) {
                *score = match LANES / S::F32_LANES {
                    1 => dot::<S, 1>(simd, row, key),
                    2 => dot::<S, 2>(simd, row, key),
                    4 => dot::<S, 4>(simd, row, key),
                    _ => dot::<S, LANES>(simd, row, key),
                };
            }
        }
    }
}

/// The product of a row with a key, summed lane by lane, and then those of the lanes, first to last.
/// `P` vectors have the lanes.
#[inline(always)]
fn dot<S: Simd, const P: usize>(simd: S, row: &[f32], key: &[f32]) -> f32 {
    let whole = key.len() / LANES * LANES;
    let (row, row_rest) = row.split_at(whole);
    let (key, key_rest) = key.split_at(whole);
    let mut sums = [simd.splat_f32s(0.0); P];
    let row = S::as_simd_f32s(row).0.as_chunks::<P>().0;
    let key = S::as_simd_f32s(key).0.as_chunks::<P>().0;
    for (row, key) in row.iter().zip(key) {
        for vector in 0..P {
            sums[vector] = simd.mul_add_e_f32s(row[vector], key[vector], sums[vector]);
        }
    }
    if !key_rest.is_empty() {
        let row = filled::<S, P>(simd, row_rest);
        let key = filled::<S, P>(simd, key_rest);
        for vector in 0..P {
            sums[vector] = simd.mul_add_e_f32s(row[vector], key[vector], sums[vector]);
        }
    }
    sum_of_lanes::<S, P>(&sums)
}

/// Numbers, filled up with zeros.
#[inline(always)]
fn filled<S: Simd, const P: usize>(simd: S, numbers: &[f32]) -> [S::f32s; P] {
    let mut held = [0.0; LANES];
    held[..numbers.len()].copy_from_slice(numbers);
    let mut vectors = [simd.splat_f32s(0.0); P];
    vectors.copy_from_slice(S::as_simd_f32s(&held).0);
    vectors
}

/// `outs[row][d] += Σ_key weights[row][key] values[key][d]`, added key by key.
#[inline(always)]
fn add_weighted<S: Simd>(
    simd: S,
    outs: &mut [f32],
    weights: &[f32],
    (values, dim): (&[f32], usize),
) {
    let mut pairs = outs.chunks_exact_mut(2 * dim);
    let mut weights = weights.chunks(STRETCH_LEN);
    for outs in &mut pairs {
        if let (Some(a), Some(b)) = (weights.next(), weights.next()) {
            add_to_rows::<S, 2, COLUMN_VECTORS_FEW>(simd, outs, [a, b], values);
        }
    }
    if let (out, Some(weights)) = (pairs.into_remainder(), weights.next())
        && !out.is_empty()
    {
        add_to_rows::<S, 1, COLUMN_VECTORS>(simd, out, [weights], values);
    }
}

/// The same for `R` rows, `N` vectors of columns at a time.
#[inline(always)]
fn add_to_rows<S: Simd, const R: usize, const N: usize>(
    simd: S,
    outs: &mut [f32],
    weights: [&[f32]; R],
    values: &[f32],
) {
    let dim = outs.len() / R;
    let mut at = 0;
    while at + N * S::F32_LANES <= dim {
        add_columns::<S, R, N>(simd, (outs, at), weights, values);
        at += N * S::F32_LANES;
    }
    while at + S::F32_LANES <= dim {
        add_columns::<S, R, 1>(simd, (outs, at), weights, values);
        at += S::F32_LANES;
    }
    if at < dim {
        add_last_columns(simd, (outs, at), weights, values);
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
    for (sums, out) in sums.iter_mut().zip(outs.chunks_exact(dim)) {
        sums.copy_from_slice(S::as_simd_f32s(&out[columns.clone()]).0);
    }
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
        out.copy_from_slice(sums);
    }
}

/// The same for the columns from `at` on, fewer than a vector has.
#[inline(always)]
fn add_last_columns<S: Simd, const R: usize>(
    simd: S,
    (outs, at): (&mut [f32], usize),
    weights: [&[f32]; R],
    values: &[f32],
) {
    let dim = outs.len() / R;
    for (out, weights) in outs.chunks_exact_mut(dim).zip(weights) {
        let mut sum = simd.partial_load_f32s(&out[at..]);
        for (weight, value) in weights.iter().zip(values.chunks_exact(dim)) {
            let value = simd.partial_load_f32s(&value[at..]);
            sum = simd.mul_add_e_f32s(simd.splat_f32s(*weight), value, sum);
        }
        simd.partial_store_f32s(&mut out[at..], sum);
    }
}
