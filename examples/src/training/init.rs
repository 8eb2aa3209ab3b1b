//! Initial weights, drawn from the seed alone.
//!
//! A look-up by two keys is made of three things that random matrices do not do and that a small
//! model takes thousands of steps to discover: attending a fixed distance back, matching equal
//! tokens, and copying. Attention therefore starts out doing them, roughly; training does the rest.
//!
//! * Copying and matching: what a head reads it writes back as it was, and a query resembles the
//!   key of the same token (mimetic initialisation, arXiv 2305.09828).
//! * Distance: all embeddings share one direction. Some heads of the first layer answer to it
//!   alone, and RoPE turns it into a preference for one distance.

use std::f64::consts::TAU;

use burn::module::{Module, ModuleMapper, Param};
use burn::tensor::{Tensor, TensorData};
use edgeprompt_model::{Decoder, ModelConfig, RopeTable};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Standard deviation of the embedding (which is the head as well), and of what its rows share.
const EMBEDDING_DEVIATION: f64 = 0.1;
/// How far back the first heads of the first layer look, in tokens.
const DISTANCES: [u32; 4] = [1, 2, 2, 3];
/// RoPE frequencies through which they do: the fastest, which tell neighbours apart.
const DISTANCE_FREQUENCIES: usize = 3;
/// What each of these frequencies adds to the score at the preferred distance.
const DISTANCE_SCORE: f64 = 6.0;
/// Share of random content in the queries of these heads.
const DISTANCE_NOISE: f64 = 0.1;
/// A query is this much of the key projection plus this much of its own.
const MATCHING: [f64; 2] = [1.5, 0.7];
/// An output projection is this much of the transposed value projection plus this much of its own.
const COPYING: [f64; 2] = [0.6, 0.1];
/// What the MLPs add, compared with a random matrix of unit gain.
const MLP_GAIN: f64 = 0.3;

/// `decoder` with fresh matrices; the norms keep their ones.
pub(super) fn initialise(decoder: Decoder, config: &ModelConfig, seed: u64) -> Decoder {
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    decoder.map(&mut Initialiser {
        shared: (0..config.hidden_dim).map(|_| normal(&mut rng)).collect(),
        frequencies: RopeTable::new(&config.rope, config.head_dim)
            .inverse_frequencies()
            .to_vec(),
        rng,
        config,
        path: Vec::new(),
        values: Vec::new(),
    })
}

struct Initialiser<'a> {
    rng: ChaCha8Rng,
    config: &'a ModelConfig,
    frequencies: Vec<f64>,
    /// The direction that all embeddings share, each component of unit variance.
    shared: Vec<f64>,
    path: Vec<String>,
    /// The value projection of the layer at hand: `[hidden, kv_head * head_dim]`.
    values: Vec<f64>,
}

impl Initialiser<'_> {
    fn matrix(&mut self, [rows, columns]: [usize; 2]) -> Vec<f64> {
        let unit = as_f64(rows).sqrt().recip();
        match self.path.iter().rev().nth(1).map_or("", String::as_str) {
            "qkv" => self.attention_input(rows, columns, unit),
            "output" => self.attention_output(rows, columns, unit),
            "down" => self.normals(rows * columns, unit * MLP_GAIN),
            "gate_up" => self.normals(rows * columns, unit),
            _ => self.embedding(rows, columns),
        }
    }

    fn normals(&mut self, count: usize, deviation: f64) -> Vec<f64> {
        (0..count)
            .map(|_| deviation * normal(&mut self.rng))
            .collect()
    }

    fn embedding(&mut self, rows: usize, columns: usize) -> Vec<f64> {
        let mut values = self.normals(rows * columns, EMBEDDING_DEVIATION);
        for (row, shared) in values.chunks_mut(columns).zip(&self.shared) {
            row.iter_mut()
                .for_each(|value| *value += EMBEDDING_DEVIATION * shared);
        }
        values
    }

    fn attention_input(&mut self, rows: usize, columns: usize, unit: f64) -> Vec<f64> {
        let (q, kv) = (self.config.q_head_count, self.config.kv_head_count);
        let (dim, group_len) = (self.config.head_dim, self.config.gqa_group_len());
        let mut matrix = self.normals(rows * columns, unit);
        let first_layer = self.path.iter().any(|part| part == "0");
        let looking_back = if first_layer { DISTANCES.len() } else { 0 };
        for row in matrix.chunks_mut(columns) {
            for head in looking_back..q {
                let key = (q + head / group_len) * dim;
                for i in 0..dim {
                    let own = &row[head * dim + i];
                    row[head * dim + i] = MATCHING[1] * own + MATCHING[0] * row[key + i];
                }
            }
        }
        if first_layer {
            self.look_back(&mut matrix, columns);
        }
        let values = (q + kv) * dim;
        self.values = matrix
            .chunks(columns)
            .flat_map(|row| row[values..].to_vec())
            .collect();
        matrix
    }

    /// Makes the first heads of `matrix` answer to the shared direction: the key always alike, the
    /// query turned back by the distance, so that RoPE turns them together at that distance.
    fn look_back(&self, matrix: &mut [f64], columns: usize) {
        let (dim, group_len) = (self.config.head_dim, self.config.gqa_group_len());
        // A normalised hidden state has unit variance, half of it shared: it holds shared/√2. A
        // column gain·shared answers gain·hidden/√2, so that query·key/√dim, at the preferred
        // distance, gets gain²·hidden²/(2·√dim) from each frequency. Solved for the gain:
        let hidden = as_f64(self.config.hidden_dim);
        let gain = (DISTANCE_SCORE * as_f64(dim).sqrt() * 2.0).sqrt() / hidden;
        for (row, shared) in matrix.chunks_mut(columns).zip(&self.shared) {
            let aligned = gain * shared;
            for (head, distance) in DISTANCES.into_iter().enumerate() {
                let query = head * dim;
                row[query..query + dim]
                    .iter_mut()
                    .for_each(|own| *own *= DISTANCE_NOISE);
                for (i, frequency) in self.frequencies[..DISTANCE_FREQUENCIES].iter().enumerate() {
                    let angle = frequency * f64::from(distance);
                    row[query + i] += aligned * angle.cos();
                    row[query + i + dim / 2] -= aligned * angle.sin();
                }
            }
            for kv_head in 0..DISTANCES.len() / group_len {
                let key = (self.config.q_head_count + kv_head) * dim;
                row[key..key + DISTANCE_FREQUENCIES]
                    .iter_mut()
                    .for_each(|own| *own += aligned);
            }
        }
    }

    fn attention_output(&mut self, rows: usize, columns: usize, unit: f64) -> Vec<f64> {
        let (dim, group_len) = (self.config.head_dim, self.config.gqa_group_len());
        let kv_dim = self.config.kv_head_count * dim;
        let mut matrix = self.normals(rows * columns, unit * COPYING[1]);
        for (r, row) in matrix.chunks_mut(columns).enumerate() {
            let value = (r / dim / group_len) * dim + r % dim;
            for (c, weight) in row.iter_mut().enumerate() {
                *weight += COPYING[0] * self.values[c * kv_dim + value];
            }
        }
        matrix
    }
}

impl ModuleMapper for Initialiser<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        if D != 2 {
            return param;
        }
        param.map(|tensor| {
            let (shape, device) = (tensor.dims(), tensor.device());
            let values = self.matrix([shape[0], shape[1]]);
            let values: Vec<f32> = values.into_iter().map(to_f32).collect();
            Tensor::from_data(TensorData::new(values, shape), &device).require_grad()
        })
    }
}

/// Box–Muller: two uniform numbers make a normal one.
fn normal(rng: &mut ChaCha8Rng) -> f64 {
    let radius = (-2.0 * (1.0 - rng.random::<f64>()).ln()).sqrt();
    radius * (TAU * rng.random::<f64>()).cos()
}

fn as_f64(dim: usize) -> f64 {
    f64::from(u32::try_from(dim).expect("matrices are small"))
}

#[expect(clippy::cast_possible_truncation, reason = "weights are f32")]
fn to_f32(value: f64) -> f32 {
    value as f32
}
