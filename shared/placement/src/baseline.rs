//! What others do: the paper's algorithm, what it is compared with, and every placement there is.
//!
//! None of them is given what ours has not: all see the same instance, and all of them respect memory.

mod edgeshard;
mod exhaustive;
mod papers;
mod simple;
mod tensor_split;

pub use edgeshard::edgeshard;
pub use exhaustive::{PLACEMENTS_MAX, exhaustive};
pub use papers::papers;
pub use simple::{first_fit, leader_only, round_robin, unchanged};
pub use tensor_split::tensor_split;
