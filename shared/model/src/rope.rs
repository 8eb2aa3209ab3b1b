//! Rotary position embedding in the rotate-half layout, with the scalings that Llama models use.

use std::f64::consts::PI;

use burn::tensor::{Device, Tensor, TensorData};

/// How the inverse frequencies are stretched for contexts beyond the trained one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum RopeScaling {
    /// As trained.
    None,
    /// Every frequency divided by `factor` (position interpolation).
    Linear {
        /// How many times longer the context becomes.
        factor: f64,
    },
    /// Llama 3: long wavelengths are divided by `factor`, short ones kept, blended in between.
    Llama3 {
        /// Divisor of the lowest frequencies.
        factor: f64,
        /// Wavelengths above `original_context_len / low_freq_factor` are fully scaled.
        low_freq_factor: f64,
        /// Wavelengths below `original_context_len / high_freq_factor` are kept.
        high_freq_factor: f64,
        /// Context length of pre-training, in tokens.
        original_context_len: f64,
    },
    /// `YaRN` (arXiv 2309.00071): blend by rotations over the original context, plus a temperature.
    Yarn {
        /// How many times longer the context becomes.
        factor: f64,
        /// Dimensions that rotate more often than this are kept.
        beta_fast: f64,
        /// Dimensions that rotate less often than this are interpolated.
        beta_slow: f64,
        /// Context length of pre-training, in tokens.
        original_context_len: f64,
        /// Multiplies cosine and sine; `0.1·ln(factor) + 1` unless the model says otherwise.
        attention_factor: f64,
    },
}

/// RoPE's base and scaling.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct RopeConfig {
    /// The base of the geometric series of frequencies.
    pub theta: f64,
    /// How the series is stretched.
    pub scaling: RopeScaling,
}

/// Cosines and sines of a run of positions, shared by every layer of one forward pass.
#[derive(Clone, Debug)]
pub struct Rotary {
    cos: Tensor<3>,
    sin: Tensor<3>,
}

/// Inverse frequencies of one model.
#[derive(Clone, Debug)]
pub struct RopeTable {
    inverse_frequencies: Vec<f64>,
    attention_factor: f64,
}

impl RopeTable {
    /// The frequencies of heads of `head_dim` numbers.
    pub fn new(config: &RopeConfig, head_dim: usize) -> Self {
        let base = |i: usize| config.theta.powf(-2.0 * as_f64(i) / as_f64(head_dim));
        let plain = (0..head_dim / 2).map(base);
        let (inverse_frequencies, attention_factor) = match config.scaling {
            RopeScaling::None => (plain.collect(), 1.0),
            RopeScaling::Linear { factor } => (plain.map(|f| f / factor).collect(), 1.0),
            RopeScaling::Llama3 {
                factor,
                low_freq_factor,
                high_freq_factor,
                original_context_len,
            } => {
                let blend = |frequency: f64| {
                    let rotations = original_context_len * frequency / (2.0 * PI);
                    let kept = (rotations - low_freq_factor) / (high_freq_factor - low_freq_factor);
                    let kept = kept.clamp(0.0, 1.0);
                    (1.0 - kept) * frequency / factor + kept * frequency
                };
                (plain.map(blend).collect(), 1.0)
            }
            RopeScaling::Yarn {
                factor,
                beta_fast,
                beta_slow,
                original_context_len,
                attention_factor,
            } => {
                let dim = as_f64(head_dim);
                let correction = |rotations: f64| {
                    dim * (original_context_len / (rotations * 2.0 * PI)).ln()
                        / (2.0 * config.theta.ln())
                };
                let low = correction(beta_fast).floor().max(0.0);
                let high = correction(beta_slow).ceil().min(dim - 1.0);
                let width = if high > low { high - low } else { 0.001 };
                let blend = |(i, frequency): (usize, f64)| {
                    let interpolated = ((as_f64(i) - low) / width).clamp(0.0, 1.0);
                    interpolated * frequency / factor + (1.0 - interpolated) * frequency
                };
                (plain.enumerate().map(blend).collect(), attention_factor)
            }
        };
        Self {
            inverse_frequencies,
            attention_factor,
        }
    }

    /// The table of a model whose frequencies are known.
    pub const fn of_frequencies(inverse_frequencies: Vec<f64>, attention_factor: f64) -> Self {
        Self {
            inverse_frequencies,
            attention_factor,
        }
    }

    /// What cosines and sines are multiplied with.
    pub const fn attention_factor(&self) -> f64 {
        self.attention_factor
    }

    /// Cosines and sines of `positions`.
    ///
    /// # Shapes
    /// `[position, 1, head_dim / 2]` each, ready to broadcast over heads.
    pub fn rotary(&self, positions: impl IntoIterator<Item = u32>, device: &Device) -> Rotary {
        let (mut cos, mut sin) = (Vec::new(), Vec::new());
        for position in positions {
            for frequency in &self.inverse_frequencies {
                // The angle is taken in f64: f32 loses a digit of it beyond position 10⁴.
                let (s, c) = (f64::from(position) * frequency).sin_cos();
                cos.push(to_f32(c * self.attention_factor));
                sin.push(to_f32(s * self.attention_factor));
            }
        }
        let half = self.inverse_frequencies.len();
        let shape = [cos.len() / half.max(1), 1, half];
        Rotary {
            cos: Tensor::from_data(TensorData::new(cos, shape), device),
            sin: Tensor::from_data(TensorData::new(sin, shape), device),
        }
    }

    /// The inverse frequencies, one for each pair of dimensions.
    pub fn inverse_frequencies(&self) -> &[f64] {
        &self.inverse_frequencies
    }
}

impl Rotary {
    /// Rotates every head of `x` by its token's position.
    ///
    /// # Shapes
    /// `x` and the result: `[token, head, head_dim]`, one token for each position of the rotary.
    pub fn rotate(&self, x: Tensor<3>) -> Tensor<3> {
        let half = x.dims()[2] / 2;
        let first = x.clone().narrow(2, 0, half);
        let second = x.narrow(2, half, half);
        let rotated_first = first.clone() * self.cos.clone() - second.clone() * self.sin.clone();
        let rotated_second = second * self.cos.clone() + first * self.sin.clone();
        Tensor::cat(vec![rotated_first, rotated_second], 2)
    }
}

/// Exact for every dimension and index of a model.
#[expect(clippy::cast_precision_loss, reason = "dimensions are far below 2^52")]
fn as_f64(value: usize) -> f64 {
    value as f64
}

/// Rounds to the precision the tensors have.
#[expect(
    clippy::cast_possible_truncation,
    reason = "rounding is what is asked for"
)]
fn to_f32(value: f64) -> f32 {
    value as f32
}

#[cfg(test)]
mod tests {
    use super::*;

    fn table(scaling: RopeScaling) -> RopeTable {
        RopeTable::new(
            &RopeConfig {
                theta: 10_000.0,
                scaling,
            },
            64,
        )
    }

    #[test]
    fn rotation_keeps_lengths_and_depends_on_distance_only() {
        let device = Device::flex();
        let rope = table(RopeScaling::None);
        let q = Tensor::<3>::random(
            [1, 1, 64],
            burn::tensor::Distribution::Normal(0.0, 1.0),
            &device,
        );
        let k = Tensor::<3>::random(
            [1, 1, 64],
            burn::tensor::Distribution::Normal(0.0, 1.0),
            &device,
        );
        let product = |q_position: u32, k_position: u32| -> f32 {
            let q = rope.rotary([q_position], &device).rotate(q.clone());
            let k = rope.rotary([k_position], &device).rotate(k.clone());
            (q * k).sum().into_scalar()
        };
        assert!((product(7, 3) - product(1007, 1003)).abs() < 1e-3);
        assert!((product(7, 3) - product(7, 4)).abs() > 1e-3);
    }

    #[test]
    fn llama3_keeps_short_wavelengths_and_divides_long_ones() {
        let plain = table(RopeScaling::None);
        let scaled = table(RopeScaling::Llama3 {
            factor: 8.0,
            low_freq_factor: 1.0,
            high_freq_factor: 4.0,
            original_context_len: 8192.0,
        });
        let (plain, scaled) = (plain.inverse_frequencies(), scaled.inverse_frequencies());
        assert_eq!(plain[0], scaled[0]);
        let last = plain.len() - 1;
        assert!((plain[last] / scaled[last] - 8.0).abs() < 1e-9);
        assert!(
            plain
                .iter()
                .zip(scaled)
                .all(|(p, s)| s <= p && *s >= p / 8.0 - 1e-12)
        );
    }

    #[test]
    fn yarn_keeps_fast_dimensions_and_interpolates_slow_ones() {
        let plain = table(RopeScaling::None);
        let scaled = table(RopeScaling::Yarn {
            factor: 4.0,
            beta_fast: 32.0,
            beta_slow: 1.0,
            original_context_len: 4096.0,
            attention_factor: 0.1 * 4f64.ln() + 1.0,
        });
        let last = plain.inverse_frequencies().len() - 1;
        assert_eq!(
            plain.inverse_frequencies()[0],
            scaled.inverse_frequencies()[0]
        );
        let ratio = plain.inverse_frequencies()[last] / scaled.inverse_frequencies()[last];
        assert!((ratio - 4.0).abs() < 1e-9);
    }

    #[test]
    fn linear_divides_every_frequency() {
        let (plain, scaled) = (
            table(RopeScaling::None),
            table(RopeScaling::Linear { factor: 2.0 }),
        );
        let pairs = plain
            .inverse_frequencies()
            .iter()
            .zip(scaled.inverse_frequencies());
        assert!(pairs.into_iter().all(|(p, s)| (p / s - 2.0).abs() < 1e-12));
    }
}
