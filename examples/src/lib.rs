//! What the runnable examples share: the shop desk (a small language task that needs both halves
//! of a split prompt), edges to move between, and, with the feature `train`, the program that trains
//! the model.

pub mod edges;
pub mod fusion_ablation;
pub mod shop_desk;
#[cfg(feature = "train")]
pub mod training;
