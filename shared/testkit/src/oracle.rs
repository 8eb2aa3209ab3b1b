//! Whole-prompt attention in f64, written as the definition reads, to compare fast code with.

use std::f64::consts::E;
use std::ops::Range;

/// The shape of one attention problem.
#[derive(Clone, Copy, Debug)]
pub struct Shape {
    /// Query heads.
    pub q_heads: usize,
    /// KV heads; divides `q_heads`.
    pub kv_heads: usize,
    /// Numbers in a head; even.
    pub head_dim: usize,
    /// Tokens of the whole prompt.
    pub tokens: usize,
}

/// Queries, keys and values of a whole prompt, before RoPE, each `[token][head][dim]`.
#[derive(Clone, Debug)]
pub struct Problem {
    /// Its shape.
    pub shape: Shape,
    /// Rotated queries and keys are rounded to multiples of this power of two.
    step: f64,
    q: Vec<Vec<Vec<f64>>>,
    k: Vec<Vec<Vec<f64>>>,
    v: Vec<Vec<Vec<f64>>>,
}

/// What one query head of one token gets.
struct Attended {
    /// `[dim]`
    output: Vec<f64>,
    /// ln Σ e^s over its scores.
    lse: f64,
    /// The largest |s| among its scores.
    score_max: f64,
}

impl Problem {
    /// Queries and keys of standard deviation `magnitude`, values of standard deviation 1.
    ///
    /// Rotated queries and keys are rounded to a step of which `magnitude` is at least 32 and less
    /// than 64, so that fast code and oracle see the same numbers, and every partial sum of a score
    /// of up to 16 dimensions is a multiple of step² that f32 holds exactly.
    pub fn random(shape: Shape, magnitude: f64, seed: u64) -> Self {
        let mut noise = Noise(seed | 1);
        let mut heads = |count, size| -> Vec<Vec<Vec<f64>>> {
            let mut head = || (0..shape.head_dim).map(|_| size * noise.normal()).collect();
            (0..shape.tokens)
                .map(|_| (0..count).map(|_| head()).collect())
                .collect()
        };
        Self {
            shape,
            step: (magnitude.log2().floor() - 5.0).exp2(),
            q: heads(shape.q_heads, magnitude),
            k: heads(shape.kv_heads, magnitude),
            v: heads(shape.kv_heads, 1.0),
        }
    }

    /// Queries of some tokens, rotated by their position less `offset`, `[token, q_head, dim]`.
    pub fn queries(&self, tokens: Range<usize>, offset: usize) -> Vec<f32> {
        let heads = tokens.flat_map(|token| {
            let position = token - offset;
            self.q[token].iter().map(move |head| (head, position))
        });
        heads
            .flat_map(|(head, position)| self.rotated(head, position))
            .map(to_f32)
            .collect()
    }

    /// Keys of some tokens, rotated by their position less `offset`, `[kv_head, token, dim]`.
    pub fn keys(&self, tokens: Range<usize>, offset: usize) -> Vec<f32> {
        let by_head = (0..self.shape.kv_heads)
            .flat_map(|head| tokens.clone().map(move |token| (head, token)));
        by_head
            .flat_map(|(head, token)| self.rotated(&self.k[token][head], token - offset))
            .map(to_f32)
            .collect()
    }

    /// Values of some tokens, `[kv_head, token, dim]`.
    pub fn values(&self, tokens: Range<usize>) -> Vec<f32> {
        let by_head = (0..self.shape.kv_heads)
            .flat_map(|head| tokens.clone().map(move |token| (head, token)));
        by_head
            .flat_map(|(head, token)| self.v[token][head].iter().copied())
            .map(to_f32)
            .collect()
    }

    /// How far causal attention of the tokens from `first` on, merged from `part_count` parts, is
    /// from the definition: the largest difference, in units of what f32 allows there.
    ///
    /// `output`: `[token, q_head, dim]`; `lse`: `[token, q_head]`.
    ///
    /// # Panics
    /// If the lengths are wrong or a number is not finite.
    pub fn error_in_tolerances(
        &self,
        first: usize,
        part_count: u32,
        output: &[f32],
        lse: &[f32],
    ) -> f64 {
        let Shape {
            q_heads, head_dim, ..
        } = self.shape;
        let queries =
            (first..self.shape.tokens).flat_map(|t| (0..q_heads).map(move |head| (t, head)));
        assert_eq!(lse.len(), (self.shape.tokens - first) * q_heads);
        assert_eq!(output.len(), lse.len() * head_dim);
        let actual = output.chunks_exact(head_dim).zip(lse);
        let mut largest = 0.0f64;
        for ((token, head), (output, lse)) in queries.zip(actual) {
            let expected = self.attend(token, head);
            let (output_tolerance, lse_tolerance) = self.tolerances(&expected, part_count);
            largest = largest.max(difference(*lse, expected.lse) / lse_tolerance);
            for (actual, expected) in output.iter().zip(&expected.output) {
                largest = largest.max(difference(*actual, *expected) / output_tolerance);
            }
        }
        largest
    }

    /// What f32 arithmetic may differ by, for the output and for the log-sum-exp.
    fn tolerances(&self, expected: &Attended, part_count: u32) -> (f64, f64) {
        let epsilon = f64::from(f32::EPSILON);
        // Exponentials and their sums, of order 1.
        let base = 4e-6;
        // 1/√d is a power of two when d is one of four: then a score is exact. Otherwise it is off
        // by a few of its ulp, and e^s turns that into a relative error.
        let dim_log2 = self.shape.head_dim.ilog2();
        let exact = self.shape.head_dim.is_power_of_two() && dim_log2.is_multiple_of(2);
        let score_error = if exact {
            0.0
        } else {
            16.0 * expected.score_max * epsilon
        };
        // Each part's ℓ is rounded to f32 once when it is made and once when it is merged. An error
        // δ of ℓ shifts the weights α by α(1−α)δ ≤ δ/4, and parts differ by at most 2·|v|.
        let lse_rounding = f64::from(part_count) * epsilon * expected.lse.abs();
        let merged = if part_count > 1 { lse_rounding } else { 0.0 };
        let value_max = self.v.iter().flatten().flatten().map(|v| v.abs());
        let value_max = value_max.fold(0.0, f64::max);
        (
            base + score_error + merged * value_max / 2.0,
            base + score_error + lse_rounding,
        )
    }

    fn attend(&self, token: usize, q_head: usize) -> Attended {
        let kv_head = q_head / (self.shape.q_heads / self.shape.kv_heads);
        let q = self.rotated(&self.q[token][q_head], token);
        let score = |key: usize| {
            let k = self.rotated(&self.k[key][kv_head], key);
            let product: f64 = q.iter().zip(&k).map(|(a, b)| a * b).sum();
            product / (self.shape.head_dim as f64).sqrt()
        };
        let scores: Vec<f64> = (0..=token).map(score).collect();
        let peak = scores.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let weights: Vec<f64> = scores.iter().map(|s| E.powf(s - peak)).collect();
        let sum: f64 = weights.iter().sum();
        let value = |d: usize| -> f64 {
            weights
                .iter()
                .enumerate()
                .map(|(i, w)| w * self.v[i][kv_head][d])
                .sum::<f64>()
                / sum
        };
        Attended {
            output: (0..self.shape.head_dim).map(value).collect(),
            lse: peak + sum.ln(),
            score_max: scores.iter().fold(0.0, |max, s| s.abs().max(max)),
        }
    }

    /// A head as attention reads it, in numbers that f32 holds exactly.
    fn rotated(&self, head: &[f64], position: usize) -> Vec<f64> {
        let rotated = rotate(head, position).into_iter();
        rotated
            .map(|x| (x / self.step).round() * self.step)
            .collect()
    }
}

fn difference(actual: f32, expected: f64) -> f64 {
    assert!(actual.is_finite(), "attention gave {actual}");
    (f64::from(actual) - expected).abs()
}

#[expect(
    clippy::cast_possible_truncation,
    reason = "rounding to f32 is the intent"
)]
fn to_f32(x: f64) -> f32 {
    x as f32
}

/// Rotates a head by a position in the rotate-half layout, base 10,000.
fn rotate(head: &[f64], position: usize) -> Vec<f64> {
    let half = head.len() / 2;
    let angle = |i: usize| position as f64 * 10_000f64.powf(-2.0 * i as f64 / head.len() as f64);
    let first = (0..half).map(|i| head[i] * angle(i).cos() - head[i + half] * angle(i).sin());
    let second = (0..half).map(|i| head[i + half] * angle(i).cos() + head[i] * angle(i).sin());
    first.chain(second).collect()
}

/// xorshift64: enough for test data, reproducible from the printed case.
struct Noise(u64);

impl Noise {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    /// The sum of twelve uniform numbers: mean 0, standard deviation 1, never beyond ±6.
    fn normal(&mut self) -> f64 {
        (0..12)
            .map(|_| (self.next() >> 11) as f64 / (1u64 << 53) as f64)
            .sum::<f64>()
            - 6.0
    }
}
