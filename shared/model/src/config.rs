//! The configuration of a model, parsed once into what the decoder needs.
//!
//! What this project cannot compute exactly is refused by name rather than approximated.

mod published;

use edgeprompt_kv::{GeometryError, KvGeometry, TokenId};

pub(crate) use self::published::{Published, RopeFields};
use crate::rope::RopeConfig;

/// Whether the query, key and value projections add a bias (Qwen 2).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkvBias {
    /// Products only.
    Absent,
    /// Products plus a bias.
    Present,
}

/// Whether query and key heads are normalised before RoPE (Qwen 3).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum QkNorm {
    /// Used as projected.
    Absent,
    /// RMS-normalised head by head.
    PerHead,
}

/// The shape and constants of a Llama-family model.
#[derive(Clone, Debug, PartialEq)]
pub struct ModelConfig {
    /// Width of the residual stream.
    pub hidden_dim: usize,
    /// Width inside the MLP.
    pub mlp_dim: usize,
    /// Transformer layers.
    pub layer_count: usize,
    /// Query heads.
    pub q_head_count: usize,
    /// Key and value heads; divides `q_head_count`.
    pub kv_head_count: usize,
    /// Numbers in one head.
    pub head_dim: usize,
    /// Tokens of the vocabulary.
    pub vocab_size: usize,
    /// Longest sequence the model was made for, in tokens.
    pub context_len_max: usize,
    /// Added to the mean square before the root.
    pub norm_epsilon: f64,
    /// Position embedding.
    pub rope: RopeConfig,
    /// Bias of the QKV projections.
    pub qkv_bias: QkvBias,
    /// Normalisation of query and key heads.
    pub qk_norm: QkNorm,
    /// Whether the embedding and the head are one matrix.
    pub tied_head: bool,
    /// Begins every sequence, if the model has one.
    pub bos: Option<TokenId>,
    /// Any of these ends a sequence.
    pub eos: Vec<TokenId>,
}

/// Why a `config.json` is refused.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// Not JSON, or not the JSON of a model.
    #[error("this is not the JSON of a model: {0}")]
    Json(#[from] serde_json::Error),
    /// An architecture that is not a full-attention Llama.
    #[error(
        "architecture {0} is not supported: only full-attention Llama, Mistral, Qwen 2 and Qwen 3 models are"
    )]
    Architecture(String),
    /// A feature that would make the answer inexact.
    #[error("{field} = {value} is not supported")]
    Unsupported {
        /// The field, by its name in `config.json`.
        field: &'static str,
        /// What it says.
        value: String,
    },
    /// A number that no model has.
    #[error("{field} = {value} is outside 1..={max}")]
    OutOfRange {
        /// The field, by its name in `config.json`.
        field: &'static str,
        /// What it says.
        value: u64,
        /// The most that is accepted.
        max: u64,
    },
    /// A special token that is no number below the size of the vocabulary.
    #[error("{field} = {value} is not a token of a vocabulary of {vocab_size}")]
    TokenId {
        /// The field.
        field: &'static str,
        /// What it says.
        value: String,
        /// Tokens of the vocabulary.
        vocab_size: usize,
    },
    /// A field that must be there is not.
    #[error("{0} is missing")]
    Missing(&'static str),
    /// The number of query heads is not a multiple of the number of KV heads.
    #[error("{q_head_count} query heads cannot be grouped over {kv_head_count} KV heads")]
    Grouping {
        /// Query heads.
        q_head_count: usize,
        /// KV heads.
        kv_head_count: usize,
    },
    /// The KV cache would have an impossible shape.
    #[error(transparent)]
    Geometry(#[from] GeometryError),
}

impl ConfigError {
    /// The same, in the words of another format.
    pub(crate) fn renamed(mut self, rename: fn(&'static str) -> &'static str) -> Self {
        match &mut self {
            Self::Unsupported { field, .. }
            | Self::OutOfRange { field, .. }
            | Self::TokenId { field, .. }
            | Self::Missing(field) => *field = rename(field),
            Self::Json(_) | Self::Architecture(_) | Self::Grouping { .. } | Self::Geometry(_) => {}
        }
        self
    }
}

impl ModelConfig {
    /// Parses the text of a `config.json`.
    ///
    /// # Errors
    /// [`ConfigError`] names the field that is missing, out of range or unsupported.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        Self::from_slice(text.as_bytes())
    }

    /// Parses the bytes of a `config.json`.
    ///
    /// # Errors
    /// As [`ModelConfig::from_json`].
    pub(crate) fn from_slice(bytes: &[u8]) -> Result<Self, ConfigError> {
        Self::from_published(serde_json::from_slice(bytes)?)
    }

    /// Checks fields as published.
    ///
    /// # Errors
    /// [`ConfigError`] names the field that is missing, out of range or unsupported.
    pub(crate) fn from_published(published: Published) -> Result<Self, ConfigError> {
        published.refuse_unsupported()?;
        published.resolve()
    }

    /// The shape of the model's KV cache.
    ///
    /// # Errors
    /// [`GeometryError`] if a dimension is beyond what is served.
    pub fn geometry(&self) -> Result<KvGeometry, GeometryError> {
        let narrow = |value: usize| u32::try_from(value).unwrap_or(u32::MAX);
        KvGeometry::new(
            narrow(self.layer_count),
            narrow(self.kv_head_count),
            narrow(self.head_dim),
        )
    }

    /// Query heads that share one KV head.
    pub const fn gqa_group_len(&self) -> usize {
        self.q_head_count / self.kv_head_count
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::rope::RopeScaling;

    fn config(change: &str) -> Result<ModelConfig, ConfigError> {
        let text = r#"{"architectures":["LlamaForCausalLM"],"hidden_size":64,"intermediate_size":172,
            "num_hidden_layers":5,"num_attention_heads":8,"num_key_value_heads":4,"vocab_size":512,
            "max_position_embeddings":512,"rms_norm_eps":1e-5,"tie_word_embeddings":true,
            "bos_token_id":1,"eos_token_id":[2,3]}"#;
        let mut value: Value = serde_json::from_str(text).unwrap();
        let change: Value = serde_json::from_str(change).unwrap();
        for (key, new) in change.as_object().unwrap() {
            value[key] = new.clone();
        }
        ModelConfig::from_json(&value.to_string())
    }

    #[test]
    fn a_llama_is_read() {
        let config = config("{}").unwrap();
        assert_eq!((config.head_dim, config.gqa_group_len()), (8, 2));
        assert_eq!(config.eos, [TokenId(2), TokenId(3)]);
        assert_eq!(
            config.rope,
            RopeConfig {
                theta: 10_000.0,
                scaling: RopeScaling::None
            }
        );
    }

    #[test]
    fn qwen_variants_are_told_apart() {
        let two = config(
            r#"{"architectures":["Qwen2ForCausalLM"],"sliding_window":4096,"use_sliding_window":false}"#,
        );
        assert_eq!(two.unwrap().qkv_bias, QkvBias::Present);
        let three = config(r#"{"architectures":["Qwen3ForCausalLM"],"head_dim":128}"#).unwrap();
        assert_eq!((three.qk_norm, three.head_dim), (QkNorm::PerHead, 128));
    }

    #[test]
    fn what_cannot_be_exact_is_refused_by_name() {
        let refused = |change: &str| config(change).unwrap_err().to_string();
        assert!(refused(r#"{"architectures":["GPT2LMHeadModel"]}"#).contains("GPT2LMHeadModel"));
        assert!(
            refused(r#"{"architectures":["MistralForCausalLM"],"sliding_window":4096}"#)
                .contains("sliding_window = 4096")
        );
        assert!(refused(r#"{"num_hidden_layers":99999999}"#).contains("num_hidden_layers"));
        assert!(refused(r#"{"num_key_value_heads":3}"#).contains("3 KV heads"));
        assert!(refused(r#"{"rope_scaling":{"type":"dynamic","factor":2.0}}"#).contains("dynamic"));
        assert!(refused(r#"{"hidden_size":null}"#).contains("hidden_size is missing"));
    }

    #[test]
    fn every_rope_scaling_is_read() {
        let llama3 = config(
            r#"{"rope_theta":500000.0,"rope_scaling":{"rope_type":"llama3","factor":32.0,
            "low_freq_factor":1.0,"high_freq_factor":4.0,"original_max_position_embeddings":8192}}"#,
        );
        assert!(matches!(
            llama3.unwrap().rope.scaling,
            RopeScaling::Llama3 { factor: 32.0, .. }
        ));
        let yarn =
            config(r#"{"rope_parameters":{"rope_type":"yarn","factor":4.0,"rope_theta":1e6}}"#)
                .unwrap();
        assert_eq!(yarn.rope.theta, 1e6);
        assert!(matches!(
            yarn.rope.scaling,
            RopeScaling::Yarn {
                original_context_len: 512.0,
                ..
            }
        ));
        let linear = config(r#"{"rope_scaling":{"type":"linear","factor":2.0}}"#).unwrap();
        assert_eq!(linear.rope.scaling, RopeScaling::Linear { factor: 2.0 });
    }
}
