//! The decoder, with attention left open: a caller projects, attends as it likes, and finishes.
//!
//! It keeps no KV cache and knows no positions beyond the [`Rotary`] it is handed, so the same
//! code runs split, monolithic, batched and in training.

use std::fmt;

use burn::module::{Module, Param};
use burn::nn::RmsNorm;
use burn::tensor::{Device, Distribution, Int, Tensor};

use crate::config::{ModelConfig, QkNorm, QkvBias};
use crate::heads::{FeedForward, Heads};
use crate::layout::Layout;
use crate::linear::{Linear, is_cpu};
use crate::rope::Rotary;

/// Queries, keys and values of one layer, post-RoPE.
#[derive(Clone)]
pub struct Qkv {
    /// `[token, q_head, head_dim]`
    pub q: Tensor<3>,
    /// `[token, kv_head, head_dim]`
    pub k: Tensor<3>,
    /// `[token, kv_head, head_dim]`
    pub v: Tensor<3>,
}

/// Shows shapes only: the numbers may be those of a private prompt.
impl fmt::Debug for Qkv {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Qkv")
            .field("q", &self.q.dims())
            .field("k", &self.k.dims())
            .field("v", &self.v.dims())
            .finish()
    }
}

/// Normalisation of each query and key head before RoPE (Qwen 3).
#[derive(Module, Debug)]
pub struct HeadNorms {
    pub(crate) q: RmsNorm,
    pub(crate) k: RmsNorm,
}

/// One transformer layer.
#[derive(Module, Debug)]
pub struct DecoderLayer {
    pub(crate) attention_norm: RmsNorm,
    pub(crate) heads: Heads,
    pub(crate) mlp_norm: RmsNorm,
    pub(crate) feed_forward: FeedForward,
}

/// A Llama-family decoder.
#[derive(Module, Debug)]
pub struct Decoder {
    /// `[vocab, hidden]`, or nothing when the head is tied: then the head serves both ways.
    pub(crate) embedding: Option<Param<Tensor<2>>>,
    pub(crate) layers: Vec<DecoderLayer>,
    pub(crate) norm: RmsNorm,
    /// `[hidden, vocab]`
    pub(crate) head: Linear,
}

impl Decoder {
    /// A decoder of random weights, for training and for benchmarks of a named shape.
    pub fn init(config: &ModelConfig, device: &Device) -> Self {
        let (hidden, vocab) = (config.hidden_dim, config.vocab_size);
        let embedding = if config.tied_head {
            None
        } else {
            Some(random([vocab, hidden], device))
        };
        Self {
            embedding,
            layers: (0..config.layer_count)
                .map(|_| DecoderLayer::init(config, device))
                .collect(),
            norm: ones(hidden, config.norm_epsilon, device),
            head: random_linear([hidden, vocab], device),
        }
    }

    /// The same, every matrix laid out as its device multiplies fastest: for generating, not for
    /// training.
    #[must_use]
    pub fn laid_out(self) -> Self {
        let layers = self.layers.into_iter().map(DecoderLayer::laid_out);
        Self {
            layers: layers.collect(),
            head: self.head.laid_out(),
            ..self
        }
    }

    /// Looks tokens up.
    ///
    /// # Shapes
    /// `tokens`: `[token]`; the result: `[token, hidden]`.
    pub fn embed(&self, tokens: Tensor<1, Int>) -> Tensor<2> {
        match &self.embedding {
            Some(embedding) => embedding.val().select(0, tokens),
            None => self.head.columns(tokens),
        }
    }

    /// The layers, first to last.
    pub fn layers(&self) -> &[DecoderLayer] {
        &self.layers
    }

    /// Scores every token of the vocabulary.
    ///
    /// # Shapes
    /// `hidden`: `[token, hidden]` after the last layer; the result: `[token, vocab]`.
    pub fn logits(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.head.forward(self.norm.forward(hidden))
    }

    /// Where the weights live.
    pub fn device(&self) -> Device {
        self.head.weight.val().device()
    }

    /// Whether that is the processor.
    pub fn is_on_cpu(&self) -> bool {
        is_cpu(&self.device())
    }

    /// Columns of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.head.layout.width
    }
}

impl DecoderLayer {
    fn init(config: &ModelConfig, device: &Device) -> Self {
        let ModelConfig {
            hidden_dim,
            mlp_dim,
            q_head_count,
            kv_head_count,
            head_dim,
            ..
        } = *config;
        let norm = |dim| ones(dim, config.norm_epsilon, device);
        let linear = |from, to| random_linear([from, to], device);
        let qkv_dim = (q_head_count + 2 * kv_head_count) * head_dim;
        Self {
            attention_norm: norm(hidden_dim),
            heads: Heads {
                qkv: Linear {
                    bias: match config.qkv_bias {
                        QkvBias::Absent => None,
                        QkvBias::Present => {
                            Some(Param::from_tensor(Tensor::zeros([qkv_dim], device)))
                        }
                    },
                    ..linear(hidden_dim, qkv_dim)
                },
                head_norms: match config.qk_norm {
                    QkNorm::Absent => None,
                    QkNorm::PerHead => Some(HeadNorms {
                        q: norm(head_dim),
                        k: norm(head_dim),
                    }),
                },
                output: linear(q_head_count * head_dim, hidden_dim),
                q_head_count,
                kv_head_count,
                head_dim,
            },
            mlp_norm: norm(hidden_dim),
            feed_forward: FeedForward {
                gate_up: linear(hidden_dim, 2 * mlp_dim),
                down: linear(mlp_dim, hidden_dim),
            },
        }
    }

    fn laid_out(self) -> Self {
        Self {
            heads: self.heads.laid_out(),
            feed_forward: self.feed_forward.laid_out(),
            ..self
        }
    }

    /// What heads project.
    ///
    /// # Shapes
    /// `hidden` and the result: `[token, hidden]`.
    pub fn attention_input(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.attention_norm.forward(hidden)
    }

    /// What the feed-forward network is given.
    ///
    /// # Shapes
    /// `hidden` and the result: `[token, hidden]`.
    pub fn feed_forward_input(&self, hidden: Tensor<2>) -> Tensor<2> {
        self.mlp_norm.forward(hidden)
    }

    /// All heads.
    pub const fn heads(&self) -> &Heads {
        &self.heads
    }

    /// The whole feed-forward network.
    pub const fn feed_forward(&self) -> &FeedForward {
        &self.feed_forward
    }

    /// Everything before attention: normalise, project, rotate.
    ///
    /// # Shapes
    /// `hidden`: `[token, hidden]`, one token for each position of `rotary`.
    pub fn project(&self, hidden: Tensor<2>, rotary: &Rotary) -> Qkv {
        self.heads.project(self.attention_input(hidden), rotary)
    }

    /// Everything after attention: output projection, residual, MLP.
    ///
    /// # Shapes
    /// `hidden`: `[token, hidden]` as given to [`DecoderLayer::project`]; `attended`:
    /// `[token, q_head, head_dim]`; the result: `[token, hidden]`.
    pub fn finish(&self, hidden: Tensor<2>, attended: Tensor<3>) -> Tensor<2> {
        let hidden = hidden + self.heads.output(attended);
        let normed = self.feed_forward_input(hidden.clone());
        hidden + self.feed_forward.forward(normed)
    }
}

fn random_linear(shape: [usize; 2], device: &Device) -> Linear {
    Linear {
        weight: random(shape, device),
        bias: None,
        layout: Layout::lines(shape),
    }
}

/// Weights drawn as GPT-2 and Llama draw them: normal, standard deviation 0.02.
fn random(shape: [usize; 2], device: &Device) -> Param<Tensor<2>> {
    Param::from_tensor(Tensor::random(
        shape,
        Distribution::Normal(0.0, 0.02),
        device,
    ))
}

fn ones(dim: usize, epsilon: f64, device: &Device) -> RmsNorm {
    RmsNorm {
        gamma: Param::from_tensor(Tensor::ones([dim], device)),
        epsilon,
    }
}
