//! The fields of a configuration as they are published, and the checks that turn them into a
//! [`ModelConfig`].
//!
//! `config.json` is read into [`Published`] directly; other formats fill it in by name.

use serde::Deserialize;
use serde_json::Value;

use edgeprompt_kv::{KvGeometry, TokenId};

use super::{ConfigError, ModelConfig, QkNorm, QkvBias};
use crate::rope::{RopeConfig, RopeScaling};

/// The fields of `config.json` that matter here, as published.
#[derive(Default, Deserialize)]
pub(crate) struct Published {
    pub(crate) architectures: Option<Vec<String>>,
    pub(crate) model_type: Option<String>,
    pub(crate) hidden_size: Option<u64>,
    pub(crate) intermediate_size: Option<u64>,
    pub(crate) num_hidden_layers: Option<u64>,
    pub(crate) num_attention_heads: Option<u64>,
    pub(crate) num_key_value_heads: Option<u64>,
    pub(crate) head_dim: Option<u64>,
    pub(crate) vocab_size: Option<u64>,
    pub(crate) max_position_embeddings: Option<u64>,
    pub(crate) rms_norm_eps: Option<f64>,
    pub(crate) rope_theta: Option<f64>,
    pub(crate) rope_scaling: Option<RopeFields>,
    pub(crate) rope_parameters: Option<RopeFields>,
    pub(crate) hidden_act: Option<String>,
    #[serde(default)]
    pub(crate) attention_bias: bool,
    #[serde(default)]
    pub(crate) mlp_bias: bool,
    #[serde(default)]
    pub(crate) tie_word_embeddings: bool,
    pub(crate) sliding_window: Option<u64>,
    pub(crate) use_sliding_window: Option<bool>,
    pub(crate) bos_token_id: Option<Value>,
    pub(crate) eos_token_id: Option<Value>,
}

/// `rope_scaling` of older files, `rope_parameters` of newer ones.
#[derive(Default, Deserialize)]
pub(crate) struct RopeFields {
    #[serde(alias = "type")]
    pub(crate) rope_type: Option<String>,
    pub(crate) rope_theta: Option<f64>,
    pub(crate) factor: Option<f64>,
    pub(crate) low_freq_factor: Option<f64>,
    pub(crate) high_freq_factor: Option<f64>,
    pub(crate) original_max_position_embeddings: Option<f64>,
    pub(crate) beta_fast: Option<f64>,
    pub(crate) beta_slow: Option<f64>,
    pub(crate) attention_factor: Option<f64>,
    pub(crate) mscale: Option<f64>,
    pub(crate) mscale_all_dim: Option<f64>,
}

/// Widest residual stream or MLP accepted.
const DIM_MAX: u64 = 1 << 20;
/// Largest vocabulary accepted.
const VOCAB_SIZE_MAX: u64 = 1 << 22;
/// Longest context accepted, in tokens.
const CONTEXT_LEN_MAX: u64 = 1 << 28;

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

    /// Refuses what would make the answer inexact.
    ///
    /// # Errors
    /// [`ConfigError::Architecture`] or [`ConfigError::Unsupported`].
    pub(super) fn refuse_unsupported(&self) -> Result<(), ConfigError> {
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

    /// The configuration, every number within its limits.
    ///
    /// # Errors
    /// [`ConfigError`] names the field.
    pub(super) fn resolve(self) -> Result<ModelConfig, ConfigError> {
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
        let vocab_size = within("vocab_size", self.vocab_size, VOCAB_SIZE_MAX)?;
        let special = |field, value: Option<&Value>| token_ids(field, value, vocab_size);
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
            vocab_size,
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
            bos: special("bos_token_id", self.bos_token_id.as_ref())?
                .first()
                .copied(),
            eos: special("eos_token_id", self.eos_token_id.as_ref())?,
        };
        config.geometry()?;
        Ok(config)
    }

    fn rope(&self, context_len: usize) -> Result<RopeConfig, ConfigError> {
        let fields = self.rope_scaling.as_ref().or(self.rope_parameters.as_ref());
        let theta = self
            .rope_theta
            .or_else(|| fields.and_then(|fields| fields.rope_theta));
        let theta = theta.unwrap_or(10_000.0);
        // A base of one or less gives no falling series of frequencies.
        let theta = positive("rope_theta", theta - 1.0).map(|_| theta)?;
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
            "llama3" => {
                let length = self.original_max_position_embeddings;
                let length = length.ok_or(ConfigError::Missing(original))?;
                let low = self.low_freq_factor.unwrap_or(1.0);
                let high = self.high_freq_factor.unwrap_or(4.0);
                Ok(RopeScaling::Llama3 {
                    factor,
                    low_freq_factor: positive("rope_scaling.low_freq_factor", low)?,
                    // The blend divides by the difference of the two.
                    high_freq_factor: positive("rope_scaling.high_freq_factor", high - low)
                        .map(|_| high)?,
                    original_context_len: positive(original, length)?,
                })
            }
            "yarn" => {
                let trained = u32::try_from(context_len).map_or(f64::INFINITY, f64::from);
                let length = self.original_max_position_embeddings.unwrap_or(trained);
                let attention_factor = self
                    .attention_factor
                    .unwrap_or_else(|| self.yarn_attention_factor(factor));
                let (fast, slow) = (
                    self.beta_fast.unwrap_or(32.0),
                    self.beta_slow.unwrap_or(1.0),
                );
                Ok(RopeScaling::Yarn {
                    factor,
                    beta_fast: positive("rope_scaling.beta_fast", fast)?,
                    beta_slow: positive("rope_scaling.beta_slow", slow)?,
                    original_context_len: positive(original, length)?,
                    attention_factor: positive("rope_scaling.attention_factor", attention_factor)?,
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
fn token_ids(
    field: &'static str,
    value: Option<&Value>,
    vocab_size: usize,
) -> Result<Vec<TokenId>, ConfigError> {
    let id = |value: &Value| {
        let known = value
            .as_u64()
            .filter(|id| usize::try_from(*id).is_ok_and(|id| id < vocab_size));
        let known = known.and_then(|id| u32::try_from(id).ok());
        known.map(TokenId).ok_or_else(|| ConfigError::TokenId {
            field,
            value: value.to_string(),
            vocab_size,
        })
    };
    match value {
        None | Some(Value::Null) => Ok(Vec::new()),
        Some(Value::Array(ids)) => ids.iter().map(id).collect(),
        Some(single) => Ok(vec![id(single)?]),
    }
}
