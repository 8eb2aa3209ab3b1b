//! `config.json` of a Hugging Face model, parsed once into what the decoder needs.
//!
//! What this project cannot compute exactly is refused by name rather than approximated.

use serde::Deserialize;
use serde_json::Value;

use edgeprompt_kv::{GeometryError, KvGeometry, TokenId};

use crate::rope::{RopeConfig, RopeScaling};

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
    #[error("config.json cannot be read: {0}")]
    Json(#[from] serde_json::Error),
    /// An architecture that is not a full-attention Llama.
    #[error(
        "architecture {0} is not supported: only full-attention Llama, Mistral, Qwen 2 and Qwen 3 models are"
    )]
    Architecture(String),
    /// A feature that would make the answer inexact.
    #[error("{field} = {value} is not supported")]
    Unsupported {
        /// The field of `config.json`.
        field: &'static str,
        /// What it says.
        value: String,
    },
    /// A number that no model has.
    #[error("{field} = {value} is outside 1..={max}")]
    OutOfRange {
        /// The field of `config.json`.
        field: &'static str,
        /// What it says.
        value: u64,
        /// The most that is accepted.
        max: u64,
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

/// The fields of `config.json` that matter here, as published.
#[derive(Deserialize)]
struct Published {
    architectures: Option<Vec<String>>,
    model_type: Option<String>,
    hidden_size: Option<u64>,
    intermediate_size: Option<u64>,
    num_hidden_layers: Option<u64>,
    num_attention_heads: Option<u64>,
    num_key_value_heads: Option<u64>,
    head_dim: Option<u64>,
    vocab_size: Option<u64>,
    max_position_embeddings: Option<u64>,
    rms_norm_eps: Option<f64>,
    rope_theta: Option<f64>,
    rope_scaling: Option<RopeFields>,
    rope_parameters: Option<RopeFields>,
    hidden_act: Option<String>,
    #[serde(default)]
    attention_bias: bool,
    #[serde(default)]
    mlp_bias: bool,
    #[serde(default)]
    tie_word_embeddings: bool,
    sliding_window: Option<u64>,
    use_sliding_window: Option<bool>,
    bos_token_id: Option<Value>,
    eos_token_id: Option<Value>,
}

/// `rope_scaling` of older files, `rope_parameters` of newer ones.
#[derive(Deserialize)]
struct RopeFields {
    #[serde(alias = "type")]
    rope_type: Option<String>,
    rope_theta: Option<f64>,
    factor: Option<f64>,
    low_freq_factor: Option<f64>,
    high_freq_factor: Option<f64>,
    original_max_position_embeddings: Option<f64>,
    beta_fast: Option<f64>,
    beta_slow: Option<f64>,
    attention_factor: Option<f64>,
    mscale: Option<f64>,
    mscale_all_dim: Option<f64>,
}

/// Widest residual stream or MLP accepted.
const DIM_MAX: u64 = 1 << 20;
/// Largest vocabulary accepted.
const VOCAB_SIZE_MAX: u64 = 1 << 22;
/// Longest context accepted, in tokens.
const CONTEXT_LEN_MAX: u64 = 1 << 28;

impl ModelConfig {
    /// Parses the text of a `config.json`.
    ///
    /// # Errors
    /// [`ConfigError`] names the field that is missing, out of range or unsupported.
    pub fn from_json(text: &str) -> Result<Self, ConfigError> {
        let published: Published = serde_json::from_str(text)?;
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

impl Published {
    fn architecture(&self) -> String {
        let listed = self
            .architectures
            .as_ref()
            .and_then(|names| names.first().cloned());
        listed
            .or_else(|| self.model_type.clone())
            .unwrap_or_else(|| "(none named)".to_owned())
    }

    fn refuse_unsupported(&self) -> Result<(), ConfigError> {
        let architecture = self.architecture();
        let served = [
            "LlamaForCausalLM",
            "MistralForCausalLM",
            "Qwen2ForCausalLM",
            "Qwen3ForCausalLM",
        ];
        let typed = ["llama", "mistral", "qwen2", "qwen3"];
        if !served.contains(&architecture.as_str()) && !typed.contains(&architecture.as_str()) {
            return Err(ConfigError::Architecture(architecture));
        }
        let unsupported = |field, value: String| Err(ConfigError::Unsupported { field, value });
        // Qwen 2 publishes a window beside `use_sliding_window: false`: it is not in force there.
        let windowed = self
            .use_sliding_window
            .unwrap_or_else(|| !architecture.to_lowercase().contains("qwen"));
        if let (Some(window), true) = (self.sliding_window, windowed) {
            return unsupported("sliding_window", window.to_string());
        }
        match self.hidden_act.as_deref() {
            None | Some("silu") => {}
            Some(other) => return unsupported("hidden_act", other.to_owned()),
        }
        if self.mlp_bias {
            return unsupported("mlp_bias", "true".to_owned());
        }
        if self.attention_bias {
            return unsupported("attention_bias", "true".to_owned());
        }
        Ok(())
    }

    fn resolve(self) -> Result<ModelConfig, ConfigError> {
        let architecture = self.architecture().to_lowercase();
        let hidden_dim = within("hidden_size", self.hidden_size, DIM_MAX)?;
        let heads_max = u64::from(KvGeometry::KV_HEAD_COUNT_MAX);
        let q_head_count = within("num_attention_heads", self.num_attention_heads, heads_max)?;
        let kv_heads = self.num_key_value_heads.or(self.num_attention_heads);
        let kv_head_count = within("num_key_value_heads", kv_heads, heads_max)?;
        if !q_head_count.is_multiple_of(kv_head_count) {
            return Err(ConfigError::Grouping {
                q_head_count,
                kv_head_count,
            });
        }
        let head_dim = match self.head_dim {
            Some(given) => within("head_dim", Some(given), u64::from(KvGeometry::HEAD_DIM_MAX))?,
            None => hidden_dim / q_head_count,
        };
        if head_dim == 0 || head_dim % 2 == 1 {
            let value = head_dim.to_string();
            return Err(ConfigError::Unsupported {
                field: "head_dim",
                value,
            });
        }
        let context = within(
            "max_position_embeddings",
            self.max_position_embeddings,
            CONTEXT_LEN_MAX,
        )?;
        let present = |yes, a, b| if yes { a } else { b };
        let config = ModelConfig {
            hidden_dim,
            mlp_dim: within("intermediate_size", self.intermediate_size, DIM_MAX)?,
            layer_count: within(
                "num_hidden_layers",
                self.num_hidden_layers,
                u64::from(KvGeometry::LAYER_COUNT_MAX),
            )?,
            q_head_count,
            kv_head_count,
            head_dim,
            vocab_size: within("vocab_size", self.vocab_size, VOCAB_SIZE_MAX)?,
            context_len_max: context,
            norm_epsilon: positive("rms_norm_eps", self.rms_norm_eps.unwrap_or(1e-6))?,
            rope: self.rope(context)?,
            qkv_bias: match architecture.contains("qwen2") {
                true => QkvBias::Present,
                false => QkvBias::Absent,
            },
            qk_norm: present(
                architecture.contains("qwen3"),
                QkNorm::PerHead,
                QkNorm::Absent,
            ),
            tied_head: self.tie_word_embeddings,
            bos: token_ids(self.bos_token_id.as_ref()).first().copied(),
            eos: token_ids(self.eos_token_id.as_ref()),
        };
        config.geometry()?;
        Ok(config)
    }

    fn rope(&self, context_len: usize) -> Result<RopeConfig, ConfigError> {
        let fields = self.rope_scaling.as_ref().or(self.rope_parameters.as_ref());
        let theta = self
            .rope_theta
            .or_else(|| fields.and_then(|fields| fields.rope_theta));
        let theta = positive("rope_theta", theta.unwrap_or(10_000.0))?;
        let scaling = match fields {
            Some(fields) => fields.scaling(context_len)?,
            None => RopeScaling::None,
        };
        Ok(RopeConfig { theta, scaling })
    }
}

impl RopeFields {
    fn scaling(&self, context_len: usize) -> Result<RopeScaling, ConfigError> {
        let kind = self.rope_type.as_deref().unwrap_or("default");
        if kind == "default" {
            return Ok(RopeScaling::None);
        }
        let factor = positive(
            "rope_scaling.factor",
            self.factor
                .ok_or(ConfigError::Missing("rope_scaling.factor"))?,
        )?;
        let original = "rope_scaling.original_max_position_embeddings";
        match kind {
            "linear" => Ok(RopeScaling::Linear { factor }),
            "llama3" => Ok(RopeScaling::Llama3 {
                factor,
                low_freq_factor: self.low_freq_factor.unwrap_or(1.0),
                high_freq_factor: self.high_freq_factor.unwrap_or(4.0),
                original_context_len: positive(
                    original,
                    self.original_max_position_embeddings
                        .ok_or(ConfigError::Missing(original))?,
                )?,
            }),
            "yarn" => {
                let trained = u32::try_from(context_len).map_or(f64::INFINITY, f64::from);
                let original_context_len = positive(
                    original,
                    self.original_max_position_embeddings.unwrap_or(trained),
                )?;
                let attention_factor = self
                    .attention_factor
                    .unwrap_or_else(|| self.yarn_attention_factor(factor));
                let (beta_fast, beta_slow) = (
                    self.beta_fast.unwrap_or(32.0),
                    self.beta_slow.unwrap_or(1.0),
                );
                Ok(RopeScaling::Yarn {
                    factor,
                    beta_fast,
                    beta_slow,
                    original_context_len,
                    attention_factor,
                })
            }
            other => Err(ConfigError::Unsupported {
                field: "rope_scaling.rope_type",
                value: other.to_owned(),
            }),
        }
    }

    fn yarn_attention_factor(&self, factor: f64) -> f64 {
        let scale = |mscale: f64| {
            if factor <= 1.0 {
                1.0
            } else {
                0.1 * mscale * factor.ln() + 1.0
            }
        };
        match (self.mscale, self.mscale_all_dim) {
            (Some(mscale), Some(all)) if mscale != 0.0 && all != 0.0 => scale(mscale) / scale(all),
            _ => scale(1.0),
        }
    }
}

fn within(field: &'static str, value: Option<u64>, max: u64) -> Result<usize, ConfigError> {
    let value = value.ok_or(ConfigError::Missing(field))?;
    if value == 0 || value > max {
        return Err(ConfigError::OutOfRange { field, value, max });
    }
    usize::try_from(value).map_err(|_| ConfigError::OutOfRange { field, value, max })
}

fn positive(field: &'static str, value: f64) -> Result<f64, ConfigError> {
    if value.is_finite() && value > 0.0 {
        return Ok(value);
    }
    Err(ConfigError::Unsupported {
        field,
        value: value.to_string(),
    })
}

/// One id, several, or none: all three are published.
fn token_ids(value: Option<&Value>) -> Vec<TokenId> {
    let id = |value: &Value| {
        value
            .as_u64()
            .and_then(|id| u32::try_from(id).ok())
            .map(TokenId)
    };
    match value {
        Some(Value::Array(ids)) => ids.iter().filter_map(id).collect(),
        Some(single) => id(single).into_iter().collect(),
        None => Vec::new(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

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
