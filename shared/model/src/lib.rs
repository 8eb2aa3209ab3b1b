//! Llama-family models: configuration, weights, tokenizer, chat template, and the decoder with
//! attention left open.
//!
//! This crate computes no attention and keeps no KV cache; the engine does.

mod chat_template;
mod checkpoint;
mod config;
mod decoder;
mod device;
mod load;
mod model;
mod rope;
mod tokenizer;

pub use chat_template::{ChatMessage, ChatTemplate, ChatTemplateError, Turn};
pub use checkpoint::{Checkpoint, CheckpointError, StoredTensor};
pub use config::{ConfigError, ModelConfig, QkNorm, QkvBias};
pub use decoder::{Decoder, DecoderLayer, HeadNorms, Qkv};
pub use device::{ComputeDevice, DeviceError};
pub use load::LoadProgress;
pub use model::{Model, ModelError, ModelShape, UnknownShape};
pub use rope::{RopeConfig, RopeScaling, RopeTable, Rotary};
pub use tokenizer::{SplitError, TextStream, TextTokenizer, TokenizerError};
