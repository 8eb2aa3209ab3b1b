//! Exact attention over parts: partial attention over one KV segment, and the log-sum-exp merge
//! that makes any number of parts equal the whole (MATH §1; EdgePrompt, arXiv 2504.11729, eq. 3–5
//! with its fixed weights replaced by exact ones).
//!
//! This crate knows nothing of models, nodes or where a segment came from.

mod blocks;
mod cpu;
mod fusion;
mod head_blocks;
mod mask;
mod partial;

pub use blocks::{BlockPlace, BlockRow, KvBlocks};
pub use fusion::{Fusion, ParseFusionError, attend};
pub use mask::Mask;
pub use partial::{KvView, LogSumExp, PartialAttention, merge, partial_attention};
