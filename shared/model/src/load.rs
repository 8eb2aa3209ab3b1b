//! A decoder from a checkpoint: stored `[out, in]` matrices become `[in, out]` ones in the layout
//! that their device multiplies fast, and matrices with the same input become one.
//!
//! Every tensor is checked before the first is allocated. Each buffer is filled once and handed
//! to its tensor, so the peak is the tensors themselves and a few rows.

use std::cell::Cell;
use std::collections::HashSet;

use burn::module::Param;
use burn::nn::RmsNorm;
use burn::tensor::{Device, Tensor, TensorData};

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::config::ModelConfig;
use crate::decoder::{Decoder, DecoderLayer, HeadNorms};
use crate::heads::{FeedForward, Heads};
use crate::layout::Layout;
use crate::linear::Linear;
use crate::plan::{LayerPlan, MatrixPlan, OuterPlan, VectorPlan};

/// How far loading has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LoadProgress {
    /// Layers on the device.
    pub layers_done: usize,
    /// Layers of the model.
    pub layer_count: usize,
    /// Bytes of the tensors on the device, in the number format they are computed in; those of
    /// the whole model once every layer is done.
    pub tensor_bytes: u64,
}

struct Loader<'a> {
    config: &'a ModelConfig,
    checkpoint: &'a Checkpoint,
    device: &'a Device,
    tensor_bytes: Cell<u64>,
}

impl Decoder {
    /// Reads the weights of `config` from `checkpoint` onto `device`, as f32.
    ///
    /// # Errors
    /// [`CheckpointError`] names the tensor that is missing, misshapen, of an unread format or of
    /// no use to this configuration.
    pub fn load(
        config: &ModelConfig,
        checkpoint: &Checkpoint,
        device: &Device,
        mut progress: impl FnMut(LoadProgress),
    ) -> Result<Self, CheckpointError> {
        let outer = OuterPlan::new(config, checkpoint);
        let mut used = HashSet::from_iter(outer.check(checkpoint)?);
        for layer in 0..config.layer_count {
            used.extend(LayerPlan::new(config, layer).check(checkpoint)?);
        }
        checkpoint.check_all_used(&used)?;
        let loader = Loader {
            config,
            checkpoint,
            device,
            tensor_bytes: Cell::new(0),
        };
        let embedding = outer.embedding.map(|plan| loader.rows(&plan)).transpose()?;
        let head = loader.matrix(&outer.head)?;
        let norm = loader.norm(&outer.norm)?;
        let layer_count = config.layer_count;
        let mut layers = Vec::new();
        for layer in 0..layer_count {
            layers.push(loader.layer(&LayerPlan::new(config, layer))?);
            progress(LoadProgress {
                layers_done: layer + 1,
                layer_count,
                tensor_bytes: loader.tensor_bytes.get(),
            });
        }
        Ok(Self {
            embedding,
            layers,
            norm,
            head,
        })
    }
}

impl Loader<'_> {
    fn layer(&self, plan: &LayerPlan) -> Result<DecoderLayer, CheckpointError> {
        let bias = plan.qkv_bias.as_ref().map(|bias| self.vector(bias));
        Ok(DecoderLayer {
            attention_norm: self.norm(&plan.attention_norm)?,
            heads: Heads {
                qkv: Linear {
                    bias: bias.transpose()?,
                    ..self.matrix(&plan.qkv)?
                },
                head_norms: match &plan.head_norms {
                    None => None,
                    Some([q, k]) => Some(HeadNorms {
                        q: self.norm(q)?,
                        k: self.norm(k)?,
                    }),
                },
                output: self.matrix(&plan.output)?,
                q_head_count: self.config.q_head_count,
                kv_head_count: self.config.kv_head_count,
                head_dim: self.config.head_dim,
            },
            mlp_norm: self.norm(&plan.mlp_norm)?,
            feed_forward: FeedForward {
                gate_up: self.matrix(&plan.gate_up)?,
                down: self.matrix(&plan.down)?,
            },
        })
    }

    /// Stored `[out, in]` matrices side by side as one `[in, Σ out]`.
    fn matrix(&self, plan: &MatrixPlan) -> Result<Linear, CheckpointError> {
        let width = plan.parts.iter().map(|(_, out_dim)| out_dim).sum();
        let layout = Layout::fastest(self.device, [plan.in_dim, width]);
        let [lines, columns] = layout.tensor_shape();
        let mut numbers = vec![0.0; lines * columns];
        let mut column = 0;
        for (name, out_dim) in &plan.parts {
            let stored = self.checkpoint.tensor(name, &[*out_dim, plan.in_dim])?;
            stored.transpose_into(&mut numbers, &layout, column);
            column += out_dim;
        }
        Ok(Linear {
            weight: self.tensor(numbers, layout.tensor_shape()),
            bias: None,
            layout,
        })
    }

    /// Stored `[out, in]` matrices one below the other, as they are stored.
    fn rows(&self, plan: &MatrixPlan) -> Result<Param<Tensor<2>>, CheckpointError> {
        let height = plan.parts.iter().map(|(_, out_dim)| out_dim).sum();
        let mut numbers = Vec::with_capacity(height * plan.in_dim);
        for (name, out_dim) in &plan.parts {
            let stored = self.checkpoint.tensor(name, &[*out_dim, plan.in_dim])?;
            stored.append_to(&mut numbers);
        }
        Ok(self.tensor(numbers, [height, plan.in_dim]))
    }

    fn vector(&self, plan: &VectorPlan) -> Result<Param<Tensor<1>>, CheckpointError> {
        let length = plan.parts.iter().map(|(_, dim)| dim).sum();
        let mut numbers = Vec::with_capacity(length);
        for (name, dim) in &plan.parts {
            let stored = self.checkpoint.tensor(name, &[*dim])?;
            stored.append_to(&mut numbers);
        }
        Ok(self.tensor(numbers, [length]))
    }

    fn norm(&self, plan: &VectorPlan) -> Result<RmsNorm, CheckpointError> {
        Ok(RmsNorm {
            gamma: self.vector(plan)?,
            epsilon: self.config.norm_epsilon,
        })
    }

    /// Hands the buffer itself to a tensor.
    fn tensor<const D: usize>(&self, numbers: Vec<f32>, shape: [usize; D]) -> Param<Tensor<D>> {
        let bytes = size_of_val(numbers.as_slice()) as u64;
        self.tensor_bytes.set(self.tensor_bytes.get() + bytes);
        let data = TensorData::new(numbers, shape);
        Param::from_tensor(Tensor::from_data(data, self.device))
    }
}
