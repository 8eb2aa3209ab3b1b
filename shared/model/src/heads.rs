//! The two halves of a layer, each of which can be cut into parts that several devices compute: heads,
//! and slices of the feed-forward network. What parts return is summed.

use std::ops::Range;

use burn::module::{Module, Param};
use burn::nn::RmsNorm;
use burn::tensor::{Device, Tensor, TensorData};

use crate::config::{ModelConfig, QkNorm, QkvBias};
use crate::decoder::{HeadNorms, Qkv};
use crate::linear::{Linear, gated};
use crate::rope::Rotary;

/// Some KV heads of a layer with the query heads that read them: their columns of the projections of
/// queries, keys and values, and their lines of the output projection.
#[derive(Module, Debug)]
pub struct Heads {
    /// Queries, keys and values in one product: `[hidden, (q_heads + 2·kv_heads)·head_dim]`.
    pub(crate) qkv: Linear,
    pub(crate) head_norms: Option<HeadNorms>,
    /// `[q_heads·head_dim, hidden]`
    pub(crate) output: Linear,
    pub(crate) q_head_count: usize,
    pub(crate) kv_head_count: usize,
    pub(crate) head_dim: usize,
}

/// What is the same for all heads of a model.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct HeadShape {
    /// Width of the hidden state.
    pub hidden_dim: usize,
    /// Width of a head.
    pub head_dim: usize,
    /// Query heads that read one KV head.
    pub group_len: usize,
    /// Whether queries, keys and values have biases.
    pub qkv_bias: QkvBias,
    /// Whether heads are normalised before RoPE.
    pub qk_norm: QkNorm,
    /// Of those normalisations.
    pub norm_epsilon: f64,
}

impl HeadShape {
    /// Those of a model.
    pub const fn of(config: &ModelConfig) -> Self {
        Self {
            hidden_dim: config.hidden_dim,
            head_dim: config.head_dim,
            group_len: config.q_head_count / config.kv_head_count,
            qkv_bias: config.qkv_bias,
            qk_norm: config.qk_norm,
            norm_epsilon: config.norm_epsilon,
        }
    }

    /// Columns of the first projection for so many KV heads.
    const fn qkv_dim(&self, kv_heads: usize) -> usize {
        (self.group_len + 2) * kv_heads * self.head_dim
    }

    /// Numbers of the weights of one KV head, as [`Heads::to_numbers`] gives them.
    pub const fn number_count(&self) -> usize {
        let qkv_dim = self.qkv_dim(1);
        let bias = match self.qkv_bias {
            QkvBias::Absent => 0,
            QkvBias::Present => qkv_dim,
        };
        let norms = match self.qk_norm {
            QkNorm::Absent => 0,
            QkNorm::PerHead => 2 * self.head_dim,
        };
        let output = self.group_len * self.head_dim * self.hidden_dim;
        self.hidden_dim * qkv_dim + bias + norms + output
    }
}

impl Heads {
    /// How many KV heads these are.
    pub const fn kv_head_count(&self) -> usize {
        self.kv_head_count
    }

    /// Projects and rotates.
    ///
    /// # Shapes
    /// `normed`: `[token, hidden]`, one token for each position of `rotary`.
    pub fn project(&self, normed: Tensor<2>, rotary: &Rotary) -> Qkv {
        let token_count = normed.dims()[0];
        let heads = self.q_head_count + 2 * self.kv_head_count;
        let all = self.qkv.forward(normed);
        let all = all.reshape([token_count, heads, self.head_dim]);
        let rotated = self.q_head_count + self.kv_head_count;
        let v = all.clone().narrow(1, rotated, self.kv_head_count);
        match &self.head_norms {
            None => {
                let qk = rotary.rotate(all.narrow(1, 0, rotated));
                let q = qk.clone().narrow(1, 0, self.q_head_count);
                Qkv {
                    q,
                    k: qk.narrow(1, self.q_head_count, self.kv_head_count),
                    v,
                }
            }
            Some(norms) => {
                let q = norms.q.forward(all.clone().narrow(1, 0, self.q_head_count));
                let k = norms
                    .k
                    .forward(all.narrow(1, self.q_head_count, self.kv_head_count));
                Qkv {
                    q: rotary.rotate(q),
                    k: rotary.rotate(k),
                    v,
                }
            }
        }
    }

    /// These heads' part of the output projection.
    ///
    /// # Shapes
    /// `attended`: `[token, q_head, head_dim]`; the result: `[token, hidden]`.
    pub fn output(&self, attended: Tensor<3>) -> Tensor<2> {
        let [token_count, q_heads, head_dim] = attended.dims();
        self.output
            .forward(attended.reshape([token_count, q_heads * head_dim]))
    }

    /// Some of these KV heads, in any order.
    ///
    /// # Panics
    /// If there are none, or there is no such head.
    #[must_use]
    pub fn select(&self, kv_heads: &[usize]) -> Self {
        let picked: Vec<_> = kv_heads.iter().map(|head| (self, *head)).collect();
        Self::of(&picked)
    }

    /// KV heads of one layer that were apart, in this order.
    ///
    /// # Panics
    /// If there are none, or they are of different models.
    #[must_use]
    pub fn concat(parts: &[Self]) -> Self {
        let heads = parts
            .iter()
            .flat_map(|part| (0..part.kv_head_count).map(move |head| (part, head)));
        Self::of(&heads.collect::<Vec<_>>())
    }

    /// One KV head of each pair's first.
    ///
    /// # Panics
    /// If there are none, they are of different models, or there is no such head.
    #[must_use]
    pub fn of(picked: &[(&Self, usize)]) -> Self {
        let (first, _) = picked.first().expect("there are heads to take");
        let (dim, group) = (first.head_dim, first.q_head_count / first.kv_head_count);
        let q = picked.iter().map(|(from, head)| {
            let start = head * group * dim;
            (&from.qkv, start..start + group * dim)
        });
        let one_of = |first_head: fn(&Self) -> usize| {
            picked.iter().map(move |(from, head)| {
                assert!(*head < from.kv_head_count, "there is such a head");
                let start = (first_head(from) + head) * dim;
                (&from.qkv, start..start + dim)
            })
        };
        let keys = one_of(|from| from.q_head_count);
        let values = one_of(|from| from.q_head_count + from.kv_head_count);
        let columns: Vec<_> = q.chain(keys).chain(values).collect();
        let lines: Vec<_> = picked
            .iter()
            .map(|(from, head)| {
                let start = head * group * dim;
                (&from.output, start..start + group * dim)
            })
            .collect();
        Self {
            qkv: Linear::of_columns(&columns),
            head_norms: first.head_norms.clone(),
            output: Linear::of_lines(&lines),
            q_head_count: picked.len() * group,
            kv_head_count: picked.len(),
            head_dim: dim,
        }
    }

    /// All weights: projections, biases, normalisations of queries and of keys, output projection;
    /// matrices line by line.
    pub fn to_numbers(&self) -> Vec<f32> {
        let mut numbers = self.qkv.to_lines();
        let vectors = self.qkv.bias.iter().chain(
            self.head_norms
                .iter()
                .flat_map(|norms| [&norms.q.gamma, &norms.k.gamma]),
        );
        for vector in vectors {
            numbers.extend(vector.val().into_data().iter::<f32>());
        }
        numbers.extend(self.output.to_lines());
        numbers
    }

    /// One KV head from what [`Heads::to_numbers`] gave.
    ///
    /// # Panics
    /// If the numbers are not [`HeadShape::number_count`].
    pub fn from_numbers(shape: &HeadShape, mut numbers: Vec<f32>, device: &Device) -> Self {
        assert_eq!(numbers.len(), shape.number_count(), "weights of one head");
        let (hidden, dim) = (shape.hidden_dim, shape.head_dim);
        let qkv_dim = shape.qkv_dim(1);
        let mut take = |count: usize| numbers.drain(..count).collect::<Vec<f32>>();
        let vector = |numbers: Vec<f32>| {
            let len = numbers.len();
            Param::from_tensor(Tensor::from_data(TensorData::new(numbers, [len]), device))
        };
        let qkv = Linear::from_lines(take(hidden * qkv_dim), [hidden, qkv_dim], device);
        let bias = match shape.qkv_bias {
            QkvBias::Absent => None,
            QkvBias::Present => Some(vector(take(qkv_dim))),
        };
        let mut norm = || RmsNorm {
            gamma: vector(take(dim)),
            epsilon: shape.norm_epsilon,
        };
        let head_norms = match shape.qk_norm {
            QkNorm::Absent => None,
            QkNorm::PerHead => Some(HeadNorms {
                q: norm(),
                k: norm(),
            }),
        };
        let depth = shape.group_len * dim;
        Self {
            qkv: Linear { bias, ..qkv },
            head_norms,
            output: Linear::from_lines(numbers, [depth, hidden], device),
            q_head_count: shape.group_len,
            kv_head_count: 1,
            head_dim: dim,
        }
    }

    pub(crate) fn laid_out(self) -> Self {
        Self {
            qkv: self.qkv.laid_out(),
            output: self.output.laid_out(),
            ..self
        }
    }
}

/// Some of the width of a layer's feed-forward network.
#[derive(Module, Debug)]
pub struct FeedForward {
    /// Gate and up projections in one product: `[hidden, 2·width]`.
    pub(crate) gate_up: Linear,
    /// `[width, hidden]`
    pub(crate) down: Linear,
}

impl FeedForward {
    /// How wide it is.
    pub fn slice_width(&self) -> usize {
        self.down.layout.depth
    }

    /// This part of the network's output.
    ///
    /// # Shapes
    /// `normed` and the result: `[token, hidden]`.
    pub fn forward(&self, normed: Tensor<2>) -> Tensor<2> {
        self.down.forward(gated(self.gate_up.forward(normed)))
    }

    /// Ranges of this width, in any order.
    ///
    /// # Panics
    /// If there are none, or they are beyond the width.
    #[must_use]
    pub fn select(&self, ranges: &[Range<usize>]) -> Self {
        let picked: Vec<_> = ranges.iter().map(|range| (self, range.clone())).collect();
        Self::of(&picked)
    }

    /// Parts of one layer's network, in this order.
    ///
    /// # Panics
    /// If there are none, or they are of different models.
    #[must_use]
    pub fn concat(parts: &[Self]) -> Self {
        let picked: Vec<_> = parts
            .iter()
            .map(|part| (part, 0..part.slice_width()))
            .collect();
        Self::of(&picked)
    }

    /// A range of the width of each pair's first.
    ///
    /// # Panics
    /// If there are none, they are of different models, or a range is beyond the width.
    #[must_use]
    pub fn of(picked: &[(&Self, Range<usize>)]) -> Self {
        let gates = picked
            .iter()
            .map(|(from, range)| (&from.gate_up, range.clone()));
        let ups = picked.iter().map(|(from, range)| {
            let width = from.slice_width();
            (&from.gate_up, range.start + width..range.end + width)
        });
        let columns: Vec<_> = gates.chain(ups).collect();
        let lines: Vec<_> = picked
            .iter()
            .map(|(from, range)| (&from.down, range.clone()))
            .collect();
        Self {
            gate_up: Linear::of_columns(&columns),
            down: Linear::of_lines(&lines),
        }
    }

    /// All weights, matrices line by line.
    pub fn to_numbers(&self) -> Vec<f32> {
        let mut numbers = self.gate_up.to_lines();
        numbers.extend(self.down.to_lines());
        numbers
    }

    /// Numbers of the weights of a width.
    pub const fn number_count(hidden_dim: usize, width: usize) -> usize {
        3 * hidden_dim * width
    }

    /// A width from what [`FeedForward::to_numbers`] gave.
    ///
    /// # Panics
    /// If the numbers are not [`FeedForward::number_count`].
    pub fn from_numbers(
        [hidden_dim, width]: [usize; 2],
        mut numbers: Vec<f32>,
        device: &Device,
    ) -> Self {
        let count = Self::number_count(hidden_dim, width);
        assert_eq!(numbers.len(), count, "weights of one width");
        let down = numbers.split_off(2 * hidden_dim * width);
        Self {
            gate_up: Linear::from_lines(numbers, [hidden_dim, 2 * width], device),
            down: Linear::from_lines(down, [width, hidden_dim], device),
        }
    }

    pub(crate) fn laid_out(self) -> Self {
        Self {
            gate_up: self.gate_up.laid_out(),
            down: self.down.laid_out(),
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::{Distribution, Tolerance};
    use proptest::prelude::*;

    use super::*;
    use crate::{DecoderLayer, Model, ModelShape};

    fn layer(qkv_bias: QkvBias, qk_norm: QkNorm) -> (DecoderLayer, Model, Device) {
        let device = Device::flex();
        let config = ModelConfig {
            q_head_count: 8,
            kv_head_count: 4,
            head_dim: 8,
            hidden_dim: 48,
            mlp_dim: 200,
            qkv_bias,
            qk_norm,
            ..ModelShape::Tiny.config()
        };
        let model = Model::random(config, &device, 7);
        let mut layer = model.decoder.layers()[0].clone();
        if let Some(bias) = &mut layer.heads.qkv.bias {
            let random = Tensor::random([bias.dims()[0]], Distribution::Default, &device);
            *bias = Param::from_tensor(random);
        }
        (layer, model, device)
    }

    fn random(shape: [usize; 2], device: &Device) -> Tensor<2> {
        Tensor::random(shape, Distribution::Normal(0.0, 1.0), device)
    }

    fn close(found: Tensor<2>, expected: Tensor<2>) {
        let tolerance = Tolerance::<f32>::absolute(1e-4);
        found
            .into_data()
            .assert_approx_eq(&expected.into_data(), tolerance);
    }

    #[test]
    fn heads_that_are_apart_project_and_add_up_as_together() {
        for (bias, norm) in [
            (QkvBias::Absent, QkNorm::Absent),
            (QkvBias::Present, QkNorm::Absent),
            (QkvBias::Absent, QkNorm::PerHead),
        ] {
            let (layer, model, device) = layer(bias, norm);
            let whole = &layer.heads;
            let rotary = model.rope.rotary(3..8, &device);
            let hidden = random([5, 48], &device);
            let expected = whole.project(hidden.clone(), &rotary);
            let mut sum = Tensor::zeros([5, 48], &device);
            for picked in [&[2, 0][..], &[3], &[1]] {
                let part = whole.select(picked);
                let found = part.project(hidden.clone(), &rotary);
                for (place, head) in picked.iter().enumerate() {
                    for (found, expected, group) in [
                        (&found.q, &expected.q, 2),
                        (&found.k, &expected.k, 1),
                        (&found.v, &expected.v, 1),
                    ] {
                        let found = found.clone().narrow(1, place * group, group);
                        let expected = expected.clone().narrow(1, head * group, group);
                        close(found.flatten(1, 2), expected.flatten(1, 2));
                    }
                }
                sum = sum + part.output(found.q);
            }
            close(sum, whole.output(expected.q));
        }
    }

    #[test]
    fn weights_of_a_head_are_numbers_and_back() {
        for (bias, norm) in [
            (QkvBias::Present, QkNorm::Absent),
            (QkvBias::Absent, QkNorm::PerHead),
        ] {
            let (layer, model, device) = layer(bias, norm);
            let shape = HeadShape::of(&model.config);
            let parts: Vec<_> = (0..4)
                .map(|head| {
                    let numbers = layer.heads.select(&[head]).to_numbers();
                    assert_eq!(numbers.len(), shape.number_count());
                    Heads::from_numbers(&shape, numbers, &device)
                })
                .collect();
            let again = Heads::concat(&parts);
            assert_eq!(again.to_numbers(), layer.heads.to_numbers());
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]
        #[test]
        fn slices_of_the_feed_forward_network_add_up(cut in 1..200usize, other in 1..200usize) {
            let (layer, _, device) = layer(QkvBias::Absent, QkNorm::Absent);
            let whole = &layer.feed_forward;
            let (from, to) = (cut.min(other), cut.max(other));
            let inside = from..to + 1;
            let outside = [to + 1..200, 0..from];
            let outside: Vec<_> = outside.into_iter().filter(|it| !it.is_empty()).collect();
            let hidden = random([3, 48], &device);
            let inner = whole.select(&[inside]);
            let numbers = inner.to_numbers();
            let inner = FeedForward::from_numbers([48, to + 1 - from], numbers, &device);
            let mut sum = inner.forward(hidden.clone());
            if !outside.is_empty() {
                let halves: Vec<_> = outside.iter().map(|it| whole.select(std::slice::from_ref(it))).collect();
                sum = sum + FeedForward::concat(&halves).forward(hidden.clone());
            }
            close(sum, whole.forward(hidden));
        }
    }
}
