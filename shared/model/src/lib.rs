//! Llama-family models: configuration, weights, tokenizer, chat template, and the decoder with
//! attention left open.

mod config;
mod decoder;
mod rope;

pub use config::{ConfigError, ModelConfig, QkNorm, QkvBias};
pub use decoder::{Decoder, DecoderLayer, HeadNorms, Qkv};
pub use rope::{RopeConfig, RopeScaling, RopeTable, Rotary};
