//! What a KV cache *is* between nodes: its geometry, the identities that name it, the bytes of
//! one layer in their number formats and the slots that wait for them.
//!
//! This crate knows no tensors, no sockets and no clock, so every node and every test can use it.

mod blocks;
mod codec;
mod digest;
mod geometry;
mod layer;
mod range;
mod segment;
mod store;

pub use blocks::{BlockId, BlockPool, BlockTable, OutOfBlocks};
pub use digest::{
    Digest, DigestKind, LayerDigest, LayerHasher, ModelDigest, ParseDigestError, PromptId,
};
pub use geometry::{GeometryError, KvDtype, KvGeometry, ParseDtypeError};
pub use layer::{LayerError, LayerKv};
pub use range::{LayerIndex, LayerRange, TokenId, TokenPosition, TokenRange};
pub use segment::{SegmentSlots, SlotError};
pub use store::{PromptKv, PromptStore};
