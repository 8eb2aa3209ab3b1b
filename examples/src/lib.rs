//! What the runnable examples share: the shop desk (a small language task that needs both halves
//! of a split prompt) and, with the feature `train`, the program that trains its model.

pub mod fusion_ablation;
pub mod shop_desk;
#[cfg(feature = "train")]
pub mod training;
