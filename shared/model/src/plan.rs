//! Which stored tensors make a decoder: their published names and shapes, for checking all of
//! them before anything is allocated and for loading them afterwards.

use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::config::{ModelConfig, QkNorm, QkvBias};

/// Stored `[out, in]` matrices that become one `[in, Σ out]`.
pub(crate) struct MatrixPlan {
    pub(crate) in_dim: usize,
    /// Name and rows of each.
    pub(crate) parts: Vec<(String, usize)>,
}

/// Stored vectors that become one.
pub(crate) struct VectorPlan {
    /// Name and length of each.
    pub(crate) parts: Vec<(String, usize)>,
}

/// The tensors of one layer.
pub(crate) struct LayerPlan {
    pub(crate) attention_norm: VectorPlan,
    pub(crate) qkv: MatrixPlan,
    pub(crate) qkv_bias: Option<VectorPlan>,
    /// Of the query heads, then of the key heads.
    pub(crate) head_norms: Option<[VectorPlan; 2]>,
    pub(crate) output: MatrixPlan,
    pub(crate) mlp_norm: VectorPlan,
    pub(crate) gate_up: MatrixPlan,
    pub(crate) down: MatrixPlan,
}

/// The tensors outside the layers.
pub(crate) struct OuterPlan {
    /// Nothing when the head serves as embedding too.
    pub(crate) embedding: Option<MatrixPlan>,
    pub(crate) norm: VectorPlan,
    pub(crate) head: MatrixPlan,
}

const EMBEDDING: &str = "model.embed_tokens.weight";
const HEAD: &str = "lm_head.weight";

impl OuterPlan {
    pub(crate) fn new(config: &ModelConfig, checkpoint: &Checkpoint) -> Self {
        let vocabulary = |name: &str| MatrixPlan {
            in_dim: config.hidden_dim,
            parts: vec![(name.to_owned(), config.vocab_size)],
        };
        let norm = vector("model.norm.weight".to_owned(), config.hidden_dim);
        if !config.tied_head {
            return Self {
                embedding: Some(vocabulary(EMBEDDING)),
                norm,
                head: vocabulary(HEAD),
            };
        }
        // A tied matrix is published once, under either name.
        let stored = checkpoint.contains(EMBEDDING) || !checkpoint.contains(HEAD);
        Self {
            embedding: None,
            norm,
            head: vocabulary(if stored { EMBEDDING } else { HEAD }),
        }
    }

    pub(crate) fn check(&self, checkpoint: &Checkpoint) -> Result<Vec<String>, CheckpointError> {
        let matrices = self.embedding.iter().chain([&self.head]);
        check(checkpoint, matrices, [&self.norm])
    }
}

impl LayerPlan {
    pub(crate) fn new(config: &ModelConfig, layer: usize) -> Self {
        let (hidden_dim, mlp_dim) = (config.hidden_dim, config.mlp_dim);
        let q_dim = config.q_head_count * config.head_dim;
        let kv_dim = config.kv_head_count * config.head_dim;
        let named = |part: &str| format!("model.layers.{layer}.{part}");
        let matrix = |in_dim, part: &str, out_dim| MatrixPlan {
            in_dim,
            parts: vec![(named(part), out_dim)],
        };
        let qkv = |kind: &str| {
            let parts = [("q", q_dim), ("k", kv_dim), ("v", kv_dim)];
            let parts = parts.map(|(part, dim)| (format!("self_attn.{part}_proj.{kind}"), dim));
            parts.map(|(part, dim)| (named(&part), dim)).to_vec()
        };
        let gate_up = ["mlp.gate_proj.weight", "mlp.up_proj.weight"];
        let norm = |part: &str, dim| vector(named(part), dim);
        Self {
            attention_norm: norm("input_layernorm.weight", hidden_dim),
            qkv: MatrixPlan {
                in_dim: hidden_dim,
                parts: qkv("weight"),
            },
            qkv_bias: match config.qkv_bias {
                QkvBias::Absent => None,
                QkvBias::Present => Some(VectorPlan { parts: qkv("bias") }),
            },
            head_norms: match config.qk_norm {
                QkNorm::Absent => None,
                QkNorm::PerHead => Some([
                    norm("self_attn.q_norm.weight", config.head_dim),
                    norm("self_attn.k_norm.weight", config.head_dim),
                ]),
            },
            output: matrix(q_dim, "self_attn.o_proj.weight", hidden_dim),
            mlp_norm: norm("post_attention_layernorm.weight", hidden_dim),
            gate_up: MatrixPlan {
                in_dim: hidden_dim,
                parts: gate_up.map(|part| (named(part), mlp_dim)).to_vec(),
            },
            down: matrix(mlp_dim, "mlp.down_proj.weight", hidden_dim),
        }
    }

    pub(crate) fn check(&self, checkpoint: &Checkpoint) -> Result<Vec<String>, CheckpointError> {
        let matrices = [&self.qkv, &self.output, &self.gate_up, &self.down];
        let vectors = [&self.attention_norm, &self.mlp_norm];
        let vectors = vectors.into_iter().chain(&self.qkv_bias);
        let vectors = vectors.chain(self.head_norms.iter().flatten());
        check(checkpoint, matrices, vectors)
    }
}

fn vector(name: String, dim: usize) -> VectorPlan {
    VectorPlan {
        parts: vec![(name, dim)],
    }
}

/// Checks that tensors are there, in their shapes and in a format that is read; gives back their
/// names.
fn check<'a>(
    checkpoint: &Checkpoint,
    matrices: impl IntoIterator<Item = &'a MatrixPlan>,
    vectors: impl IntoIterator<Item = &'a VectorPlan>,
) -> Result<Vec<String>, CheckpointError> {
    let mut names = Vec::new();
    for matrix in matrices {
        for (name, out_dim) in &matrix.parts {
            checkpoint.tensor(name, &[*out_dim, matrix.in_dim])?;
            names.push(name.clone());
        }
    }
    for (name, dim) in vectors.into_iter().flat_map(|vector| &vector.parts) {
        checkpoint.tensor(name, &[*dim])?;
        names.push(name.clone());
    }
    Ok(names)
}
