//! The softmax of rows over keys that come stretch by stretch (the online softmax of FlashAttention).
//!
//! The weights of a stretch are summed as if keys were lanes: lane by lane, and then those of the lanes,
//! first to last. Where rows are lanes, it is done in the same order.

use pulp::Simd;

use super::stretch::STRETCH_LEN;
use crate::exp::exp_of_negative;

/// Lanes of the sums along a row or along keys, on every processor: a vector of AVX2, two of NEON.
pub(super) const LANES: usize = 8;

/// Maxima that are looked for side by side.
const MAXIMA: usize = 4;

/// The softmax of one row over the keys so far.
#[derive(Clone, Copy)]
pub(super) struct RowSoftmax {
    /// How many keys it sees.
    seen: usize,
    /// The highest score.
    peak: f32,
    /// `Σ e^(score − peak)`
    sum: f32,
}

impl RowSoftmax {
    /// Of a row that sees so many keys.
    pub(super) const fn new(seen: usize) -> Self {
        Self {
            seen,
            peak: f32::NEG_INFINITY,
            sum: 0.0,
        }
    }

    /// Replaces the scores of a stretch of keys from `first` on by `e^(score − peak)`, and by 0 where the
    /// row does not see a key; what that makes of earlier weights: `e^(old peak − peak)`.
    #[inline(always)]
    pub(super) fn add<S: Simd>(&mut self, simd: S, first: usize, scores: &mut [f32]) -> f32 {
        let seen = self.seen.saturating_sub(first).min(STRETCH_LEN);
        scores[seen..].fill(f32::NEG_INFINITY);
        let before = simd.splat_f32s(self.peak);
        let (scores, _) = S::as_mut_simd_f32s(scores);
        let mut peaks = before;
        for score in &*scores {
            peaks = simd.max_f32s(peaks, *score);
        }
        self.peak = simd.reduce_max_f32s(peaks);
        let peak = simd.splat_f32s(self.peak);
        let added = match LANES / S::F32_LANES {
            1 => weigh::<S, 1>(simd, scores, peak),
            2 => weigh::<S, 2>(simd, scores, peak),
            4 => weigh::<S, 4>(simd, scores, peak),
            _ => weigh::<S, LANES>(simd, scores, peak),
        };
        let shrunk = exp_of_negative(simd, simd.sub_f32s(before, peak));
        let shrunk = simd.reduce_max_f32s(shrunk);
        self.sum = self.sum * shrunk + added;
        shrunk
    }

    /// Makes weighted sums a weighted mean; the log-sum-exp of the row.
    pub(super) fn finish(&self, out: &mut [f32]) -> f32 {
        if self.seen == 0 {
            out.fill(0.0);
            return f32::NEG_INFINITY;
        }
        let scale = self.sum.recip();
        for it in out {
            *it *= scale;
        }
        self.peak + self.sum.ln()
    }
}

/// Replaces scores by `e^(score − peak)`; their sum. `P` vectors have the lanes.
#[inline(always)]
fn weigh<S: Simd, const P: usize>(simd: S, scores: &mut [S::f32s], peak: S::f32s) -> f32 {
    let mut sums = [simd.splat_f32s(0.0); P];
    for scores in scores.as_chunks_mut::<P>().0 {
        for vector in 0..P {
            scores[vector] = exp_of_negative(simd, simd.sub_f32s(scores[vector], peak));
            sums[vector] = simd.add_f32s(sums[vector], scores[vector]);
        }
    }
    sum_of_lanes::<S, P>(&sums)
}

/// Makes an output that of a new peak.
#[inline(always)]
pub(super) fn rescale(out: &mut [f32], shrunk: f32) {
    // 1 where the peak is the old one.
    if shrunk < 1.0 {
        for it in out {
            *it *= shrunk;
        }
    }
}

/// The sum of the lanes of vectors, first to last.
#[inline(always)]
pub(super) fn sum_of_lanes<S: Simd, const P: usize>(vectors: &[S::f32s; P]) -> f32 {
    let mut lanes = [0.0; LANES];
    S::as_mut_simd_f32s(&mut lanes).0.copy_from_slice(vectors);
    let [mut sum, rest @ ..] = lanes;
    for lane in rest {
        sum += lane;
    }
    sum
}

/// The softmax of many rows, each of which is a lane.
pub(super) struct LaneSoftmax {
    /// Of each row, how many keys it sees.
    seen: Vec<u32>,
    /// The fewest of these.
    seen_min: usize,
    /// The highest scores.
    peaks: Vec<f32>,
    /// `Σ e^(score − peak)`
    sums: Vec<f32>,
    /// What the last keys made of earlier weights: `e^(old peak − peak)`.
    pub(super) shrunk: Vec<f32>,
}

impl LaneSoftmax {
    /// Of rows that see so many keys each, filled up to `width` rows.
    pub(super) fn new(mut seen: Vec<u32>, width: usize) -> Self {
        let seen_min = seen.iter().copied().min().unwrap_or(0);
        // What the idle rows are given is never read.
        seen.resize(width, u32::MAX);
        Self {
            seen,
            seen_min: seen_min as usize,
            peaks: vec![f32::NEG_INFINITY; width],
            sums: vec![0.0; width],
            shrunk: vec![1.0; width],
        }
    }

    /// Replaces scores `[key, row]` of the keys from `first` on by `e^(score − peak)`, and by 0 where a
    /// row does not see a key.
    #[inline(always)]
    pub(super) fn add<S: Simd>(&mut self, simd: S, first: usize, scores: &mut [f32]) {
        let width = self.peaks.len();
        if first + scores.len() / width > self.seen_min {
            self.hide(simd, first, scores);
        }
        let (peaks, _) = S::as_mut_simd_f32s(&mut self.peaks);
        let (sums, _) = S::as_mut_simd_f32s(&mut self.sums);
        let (shrunk, _) = S::as_mut_simd_f32s(&mut self.shrunk);
        for (lane, ((peak, sum), shrunk)) in peaks.iter_mut().zip(sums).zip(shrunk).enumerate() {
            let before = *peak;
            *peak = highest(simd, before, (&*scores, width, lane));
            *shrunk = exp_of_negative(simd, simd.sub_f32s(before, *peak));
            let mut of_lanes = [simd.splat_f32s(0.0); LANES];
            for scores in scores.chunks_mut(LANES * width) {
                for (sum, scores) in of_lanes.iter_mut().zip(scores.chunks_exact_mut(width)) {
                    let score = &mut S::as_mut_simd_f32s(scores).0[lane];
                    *score = exp_of_negative(simd, simd.sub_f32s(*score, *peak));
                    *sum = simd.add_f32s(*sum, *score);
                }
            }
            let [mut added, rest @ ..] = of_lanes;
            for of_lane in rest {
                added = simd.add_f32s(added, of_lane);
            }
            *sum = simd.add_f32s(simd.mul_f32s(*sum, *shrunk), added);
        }
    }

    /// Makes −∞ of the scores of keys that rows do not see: their weights are 0 then, and to add them
    /// changes nothing.
    #[inline(always)]
    fn hide<S: Simd>(&self, simd: S, first: usize, scores: &mut [f32]) {
        let (seen, _) = S::as_simd_u32s(&self.seen);
        let hidden = simd.splat_f32s(f32::NEG_INFINITY);
        for (key, scores) in (0u32..)
            .skip(first)
            .zip(scores.chunks_exact_mut(self.peaks.len()))
        {
            let key = simd.splat_u32s(key);
            let (scores, _) = S::as_mut_simd_f32s(scores);
            for (score, seen) in scores.iter_mut().zip(seen) {
                *score = simd.select_f32s(simd.greater_than_u32s(*seen, key), *score, hidden);
            }
        }
    }

    /// That of one row.
    pub(super) fn row(&self, row: usize) -> RowSoftmax {
        RowSoftmax {
            seen: self.seen[row] as usize,
            peak: self.peaks[row],
            sum: self.sums[row],
        }
    }
}

/// The highest of one vector of scores `[key, row]` and of those before.
#[inline(always)]
fn highest<S: Simd>(
    simd: S,
    before: S::f32s,
    (scores, width, lane): (&[f32], usize, usize),
) -> S::f32s {
    let mut peaks = [before; MAXIMA];
    let mut groups = scores.chunks_exact(MAXIMA * width);
    for scores in &mut groups {
        for (key, peak) in peaks.iter_mut().enumerate() {
            let (scores, _) = S::as_simd_f32s(&scores[key * width..]);
            *peak = simd.max_f32s(*peak, scores[lane]);
        }
    }
    let [a, b, c, d] = peaks;
    let mut peak = simd.max_f32s(simd.max_f32s(a, b), simd.max_f32s(c, d));
    for scores in groups.remainder().chunks_exact(width) {
        let (scores, _) = S::as_simd_f32s(scores);
        peak = simd.max_f32s(peak, scores[lane]);
    }
    peak
}
