//! A decoder from a checkpoint: stored `[out, in]` matrices become the `[in, out]` ones that the
//! decode step multiplies fast, and matrices with the same input become one.

use burn::module::Param;
use burn::nn::{Linear, RmsNorm};
use burn::tensor::{Device, Tensor, TensorData};

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::config::{ModelConfig, QkNorm, QkvBias};
use crate::decoder::{Decoder, DecoderLayer, HeadNorms};

/// How far loading has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadProgress {
    /// Layers on the device.
    pub layers_done: usize,
    /// Layers of the model.
    pub layer_count: usize,
}

struct Loader<'a> {
    config: &'a ModelConfig,
    checkpoint: &'a Checkpoint,
    device: &'a Device,
}

impl Decoder {
    /// Reads the weights of `config` from `checkpoint` onto `device`, as f32.
    ///
    /// # Errors
    /// [`CheckpointError`] names the tensor that is missing, misshapen or of an unread format.
    pub fn load(
        config: &ModelConfig,
        checkpoint: &Checkpoint,
        device: &Device,
        mut progress: impl FnMut(LoadProgress),
    ) -> Result<Self, CheckpointError> {
        let loader = Loader {
            config,
            checkpoint,
            device,
        };
        let layer_count = config.layer_count;
        let mut layers = Vec::with_capacity(layer_count);
        for layer in 0..layer_count {
            layers.push(loader.layer(layer)?);
            progress(LoadProgress {
                layers_done: layer + 1,
                layer_count,
            });
        }
        let shape = [config.vocab_size, config.hidden_dim];
        let embedding_name = "model.embed_tokens.weight";
        let (embedding, head_name) = if config.tied_head {
            // A tied matrix is published once, under either name.
            let stored = checkpoint.contains(embedding_name);
            (
                None,
                if stored {
                    embedding_name
                } else {
                    "lm_head.weight"
                },
            )
        } else {
            let mut numbers = Vec::with_capacity(shape[0] * shape[1]);
            checkpoint
                .tensor(embedding_name, &shape)?
                .append_to(&mut numbers);
            let tensor = Tensor::from_data(TensorData::new(numbers, shape), device);
            (Some(Param::from_tensor(tensor)), "lm_head.weight")
        };
        let head = loader.matrix(
            config.hidden_dim,
            &[(head_name.to_owned(), config.vocab_size)],
        )?;
        Ok(Self {
            embedding,
            layers,
            norm: loader.norm("model.norm", config.hidden_dim)?,
            head,
        })
    }
}

impl Loader<'_> {
    fn layer(&self, layer: usize) -> Result<DecoderLayer, CheckpointError> {
        let ModelConfig {
            hidden_dim,
            mlp_dim,
            q_head_count,
            kv_head_count,
            head_dim,
            ..
        } = *self.config;
        let (q_dim, kv_dim) = (q_head_count * head_dim, kv_head_count * head_dim);
        let named = |part: &str| format!("model.layers.{layer}.{part}");
        let linear = |part: &str, from, to| -> Result<Linear, CheckpointError> {
            let weight = self.matrix(from, &[(named(part) + ".weight", to)])?;
            Ok(Linear { weight, bias: None })
        };
        let qkv = [
            (named("self_attn.q_proj"), q_dim),
            (named("self_attn.k_proj"), kv_dim),
            (named("self_attn.v_proj"), kv_dim),
        ];
        let gate_up = [
            (named("mlp.gate_proj.weight"), mlp_dim),
            (named("mlp.up_proj.weight"), mlp_dim),
        ];
        Ok(DecoderLayer {
            attention_norm: self.norm(&named("input_layernorm"), hidden_dim)?,
            qkv: Linear {
                weight: self.matrix(
                    hidden_dim,
                    &qkv.clone().map(|(name, dim)| (name + ".weight", dim)),
                )?,
                bias: match self.config.qkv_bias {
                    QkvBias::Absent => None,
                    QkvBias::Present => {
                        Some(self.vectors(&qkv.map(|(n, dim)| (n + ".bias", dim)))?)
                    }
                },
            },
            head_norms: match self.config.qk_norm {
                QkNorm::Absent => None,
                QkNorm::PerHead => Some(HeadNorms {
                    q: self.norm(&named("self_attn.q_norm"), head_dim)?,
                    k: self.norm(&named("self_attn.k_norm"), head_dim)?,
                }),
            },
            output: linear("self_attn.o_proj", q_dim, hidden_dim)?,
            mlp_norm: self.norm(&named("post_attention_layernorm"), hidden_dim)?,
            gate_up: Linear {
                weight: self.matrix(hidden_dim, &gate_up)?,
                bias: None,
            },
            down: linear("mlp.down_proj", mlp_dim, hidden_dim)?,
            q_head_count,
            kv_head_count,
            head_dim,
        })
    }

    /// Stored `[out, in]` matrices side by side as one `[in, Σ out]`.
    fn matrix(
        &self,
        in_dim: usize,
        parts: &[(String, usize)],
    ) -> Result<Param<Tensor<2>>, CheckpointError> {
        let width = parts.iter().map(|(_, out_dim)| out_dim).sum();
        let mut numbers = vec![0.0; in_dim * width];
        let mut column = 0;
        for (name, out_dim) in parts {
            let stored = self.checkpoint.tensor(name, &[*out_dim, in_dim])?;
            stored.transpose_into(&mut numbers, width, column);
            column += out_dim;
        }
        let data = TensorData::new(numbers, [in_dim, width]);
        Ok(Param::from_tensor(Tensor::from_data(data, self.device)))
    }

    fn vectors(&self, parts: &[(String, usize)]) -> Result<Param<Tensor<1>>, CheckpointError> {
        let mut numbers = Vec::new();
        for (name, dim) in parts {
            self.checkpoint
                .tensor(name, &[*dim])?
                .append_to(&mut numbers);
        }
        let shape = [numbers.len()];
        let data = TensorData::new(numbers, shape);
        Ok(Param::from_tensor(Tensor::from_data(data, self.device)))
    }

    fn norm(&self, name: &str, dim: usize) -> Result<RmsNorm, CheckpointError> {
        let gamma = self.vectors(&[(format!("{name}.weight"), dim)])?;
        Ok(RmsNorm {
            gamma,
            epsilon: self.config.norm_epsilon,
        })
    }
}
