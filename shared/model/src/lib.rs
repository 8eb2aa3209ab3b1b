//! Llama-family models: configuration, weights, tokenizer, chat template, and the decoder with
//! attention left open.
//!
//! This crate computes no attention and keeps no KV cache; the engine does.

mod chat_template;
mod checkpoint;
mod config;
mod decoder;
mod demo;
mod device;
mod file_bytes;
mod gguf;
mod heads;
mod layout;
mod linear;
mod load;
mod model;
mod number_format;
mod plan;
mod published_tokenizer;
mod rope;
mod safetensors;
mod stored_tensor;
mod tokenizer;

pub use chat_template::{ChatMessage, ChatTemplate, ChatTemplateError, Turn};
pub use checkpoint::{Checkpoint, CheckpointError};
pub use config::{ConfigError, ModelConfig, QkNorm, QkvBias};
pub use decoder::{Decoder, DecoderLayer, HeadNorms, Qkv};
pub use device::{ComputeDevice, DeviceError};
pub use gguf::GgufError;
pub use heads::{FeedForward, HeadShape, Heads};
pub use load::LoadProgress;
pub use model::{Model, ModelError, ModelShape, UnknownShape};
pub use rope::{RopeConfig, RopeScaling, RopeTable, Rotary};
pub use safetensors::HeaderError;
pub use stored_tensor::{FaultyTensor, TensorFault};
pub use tokenizer::{SplitError, TextStream, TextTokenizer, TokenizerError};
