//! The metadata of a GGUF file as a model's configuration.

use serde_json::Value;

use super::tensors::ROPE_FACTORS;
use super::{Gguf, GgufError};
use crate::config::{ConfigError, ModelConfig, Published, RopeFields};
use crate::number_format::{DeclaredFormat, NumberFormat};
use crate::rope::{RopeConfig, RopeScaling, RopeTable};

/// Reads the keys that begin with the name of the architecture.
pub(super) fn config(gguf: &Gguf<'_>) -> Result<ModelConfig, GgufError> {
    let metadata = &gguf.metadata;
    let architecture = metadata.required_text("general.architecture")?;
    let served = ["llama", "mistral", "qwen2", "qwen3"];
    if !served.contains(&architecture) {
        return Err(ConfigError::Architecture(architecture.to_owned()).into());
    }
    let key = |name: &str| format!("{architecture}.{name}");
    let number = |name: &str| metadata.u64(&key(name));
    let float = |name: &str| metadata.f64(&key(name));
    refuse_unsupported(gguf, architecture)?;
    let vocabulary = &gguf.vocabulary;
    let id = |token: Option<usize>| token.map(|id| Value::from(id as u64));
    let turn_end = metadata
        .u64("tokenizer.ggml.eot_token_id")?
        .map(Value::from);
    let ends = id(vocabulary.eos).into_iter().chain(turn_end);
    let mut ends: Vec<Value> = ends.collect();
    ends.dedup();
    let window = number("attention.sliding_window")?.filter(|window| *window > 0);
    let published = Published {
        model_type: Some(architecture.to_owned()),
        hidden_size: number("embedding_length")?,
        intermediate_size: number("feed_forward_length")?,
        num_hidden_layers: number("block_count")?,
        num_attention_heads: number("attention.head_count")?,
        num_key_value_heads: number("attention.head_count_kv")?,
        head_dim: number("attention.key_length")?,
        vocab_size: number("vocab_size")?.or(Some(vocabulary.tokens.len() as u64)),
        max_position_embeddings: number("context_length")?,
        rms_norm_eps: float("attention.layer_norm_rms_epsilon")?,
        rope_theta: float("rope.freq_base")?,
        rope_scaling: rope_fields(gguf, architecture)?,
        tie_word_embeddings: gguf.tensor("output.weight").is_none(),
        sliding_window: window,
        use_sliding_window: Some(window.is_some()),
        bos_token_id: id(vocabulary.bos),
        eos_token_id: Some(Value::Array(ends)),
        ..Published::default()
    };
    let config = ModelConfig::from_published(published);
    let mut config = config.map_err(|error| error.renamed(gguf_name))?;
    refuse_partial_heads(gguf, architecture, &config)?;
    if let Some(factors) = rope_factors(gguf)? {
        config.rope.scaling = llama3_scaling(&factors, &config)?;
    }
    Ok(config)
}

fn refuse_unsupported(gguf: &Gguf<'_>, architecture: &str) -> Result<(), GgufError> {
    for (key, harmless) in [
        (format!("{architecture}.expert_count"), 0),
        ("split.count".to_owned(), 1),
    ] {
        match gguf.metadata.u64(&key)? {
            Some(value) if value > harmless => {
                let value = value.to_string();
                return Err(GgufError::Unsupported { key, value });
            }
            _ => {}
        }
    }
    Ok(())
}

/// Values as wide as keys, and RoPE over the whole head.
fn refuse_partial_heads(
    gguf: &Gguf<'_>,
    architecture: &str,
    config: &ModelConfig,
) -> Result<(), GgufError> {
    for name in ["attention.value_length", "rope.dimension_count"] {
        let key = format!("{architecture}.{name}");
        match gguf.metadata.u64(&key)? {
            Some(value) if value != config.head_dim as u64 => {
                let value = value.to_string();
                return Err(GgufError::Unsupported { key, value });
            }
            _ => {}
        }
    }
    Ok(())
}

fn rope_fields(gguf: &Gguf<'_>, architecture: &str) -> Result<Option<RopeFields>, GgufError> {
    let metadata = &gguf.metadata;
    let key = |name: &str| format!("{architecture}.rope.{name}");
    let float = |name: &str| metadata.f64(&key(name));
    let linear = float("scale_linear")?;
    let kind = match metadata.text(&key("scaling.type"))? {
        Some("none") => return Ok(None),
        Some(kind) => kind,
        None if linear.is_some() => "linear",
        None => return Ok(None),
    };
    let factor = float("scaling.factor")?.or(linear);
    let trained = metadata.u64(&key("scaling.original_context_length"))?;
    let trained = trained.and_then(|length| u32::try_from(length).ok());
    // llama.cpp multiplies the temperature that YaRN derives from the factor by this.
    let temperature = float("scaling.attn_factor")?.zip(factor);
    let temperature = temperature.map(|(extra, factor)| extra * (0.1 * factor.ln() + 1.0));
    Ok(Some(RopeFields {
        rope_type: Some(kind.to_owned()),
        factor,
        original_max_position_embeddings: trained.map(f64::from),
        beta_fast: float("scaling.yarn_beta_fast")?,
        beta_slow: float("scaling.yarn_beta_slow")?,
        attention_factor: temperature,
        ..RopeFields::default()
    }))
}

/// The divisors of RoPE's frequencies, where the file has them.
fn rope_factors(gguf: &Gguf<'_>) -> Result<Option<Vec<f32>>, GgufError> {
    let Some(tensor) = gguf.tensor(ROPE_FACTORS) else {
        return Ok(None);
    };
    if tensor.format != DeclaredFormat::Read(NumberFormat::F32) || tensor.shape.len() != 1 {
        return Err(GgufError::RopeFactors);
    }
    let numbers = gguf.file[tensor.bytes.clone()].as_chunks().0;
    Ok(Some(
        numbers.iter().map(|b| f32::from_le_bytes(*b)).collect(),
    ))
}

/// The parameters of Llama 3's scaling, recovered from the divisors it gives.
///
/// The files keep only the divisors. All published models share every parameter but the factor,
/// which is the divisor of the lowest frequency; that the others fit too is checked.
fn llama3_scaling(factors: &[f32], config: &ModelConfig) -> Result<RopeScaling, GgufError> {
    const ORIGINAL_CONTEXT_LEN: f64 = 8192.0;
    /// Divisors are kept in f32 and computed in it.
    const RELATIVE_ERROR_MAX: f64 = 1e-4;
    if config.rope.scaling != RopeScaling::None || factors.len() != config.head_dim / 2 {
        return Err(GgufError::RopeFactors);
    }
    let factor = factors.last().copied().map(f64::from);
    let factor = factor.filter(|factor| factor.is_finite() && *factor >= 1.0);
    let scaling = RopeScaling::Llama3 {
        factor: factor.ok_or(GgufError::RopeFactors)?,
        low_freq_factor: 1.0,
        high_freq_factor: 4.0,
        original_context_len: ORIGINAL_CONTEXT_LEN,
    };
    let table = |scaling| {
        let theta = config.rope.theta;
        RopeTable::new(&RopeConfig { theta, scaling }, config.head_dim)
    };
    let (plain, scaled) = (table(RopeScaling::None), table(scaling));
    let pairs = plain
        .inverse_frequencies()
        .iter()
        .zip(scaled.inverse_frequencies());
    let follows = pairs.zip(factors).all(|((plain, scaled), factor)| {
        let expected = plain / scaled;
        (f64::from(*factor) - expected).abs() <= RELATIVE_ERROR_MAX * expected
    });
    if follows {
        Ok(scaling)
    } else {
        Err(GgufError::RopeFactors)
    }
}

/// What GGUF calls a field of `config.json`, without the architecture.
fn gguf_name(field: &'static str) -> &'static str {
    match field {
        "hidden_size" => "embedding_length",
        "intermediate_size" => "feed_forward_length",
        "num_hidden_layers" => "block_count",
        "num_attention_heads" => "attention.head_count",
        "num_key_value_heads" => "attention.head_count_kv",
        "head_dim" => "attention.key_length",
        "max_position_embeddings" => "context_length",
        "rms_norm_eps" => "attention.layer_norm_rms_epsilon",
        "rope_theta" => "rope.freq_base",
        "sliding_window" => "attention.sliding_window",
        "rope_scaling.factor" => "rope.scaling.factor",
        "rope_scaling.rope_type" => "rope.scaling.type",
        "rope_scaling.original_max_position_embeddings" => "rope.scaling.original_context_length",
        "rope_scaling.attention_factor" => "rope.scaling.attn_factor",
        "rope_scaling.beta_fast" => "rope.scaling.yarn_beta_fast",
        "rope_scaling.beta_slow" => "rope.scaling.yarn_beta_slow",
        "bos_token_id" => "tokenizer.ggml.bos_token_id",
        "eos_token_id" => "tokenizer.ggml.eos_token_id",
        other => other,
    }
}
