//! Whole-prompt attention in f64, written as the definition reads, to compare fast code with.

use std::f64::consts::E;

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
    /// Queries.
    pub q: Vec<Vec<Vec<f64>>>,
    /// Keys.
    pub k: Vec<Vec<Vec<f64>>>,
    /// Values.
    pub v: Vec<Vec<Vec<f64>>>,
}

/// Rotates a head by a position in the rotate-half layout, base 10,000.
pub fn rotate(head: &[f64], position: usize) -> Vec<f64> {
    let half = head.len() / 2;
    let angle = |i: usize| position as f64 * 10_000f64.powf(-2.0 * i as f64 / head.len() as f64);
    let first = (0..half).map(|i| head[i] * angle(i).cos() - head[i + half] * angle(i).sin());
    let second = (0..half).map(|i| head[i + half] * angle(i).cos() + head[i] * angle(i).sin());
    first.chain(second).collect()
}

impl Problem {
    /// Causal attention over the whole prompt with RoPE, `[token][q_head][dim]`.
    pub fn attention(&self) -> Vec<Vec<Vec<f64>>> {
        (0..self.shape.tokens)
            .map(|t| (0..self.shape.q_heads).map(|h| self.attend(t, h)).collect())
            .collect()
    }

    fn attend(&self, token: usize, q_head: usize) -> Vec<f64> {
        let kv_head = q_head / (self.shape.q_heads / self.shape.kv_heads);
        let q = rotate(&self.q[token][q_head], token);
        let score = |key: usize| {
            let k = rotate(&self.k[key][kv_head], key);
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
        (0..self.shape.head_dim).map(value).collect()
    }
}
