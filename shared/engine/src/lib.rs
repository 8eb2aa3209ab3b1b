//! The one forward pass: split, monolithic, cloud-side and ablated runs all go through it.
//!
//! The engine computes and suspends; it never waits, opens no socket and reads no clock. What holds
//! private tokens or what is computed of them cannot be printed: no such type is `Debug`.

mod convert;
mod forward;
mod generate;
mod private_kv;
mod segment;

pub use convert::{ViewError, checked_view_from_layer, layer_from_view, view_from_layer};
pub use forward::{ForwardPass, Progress};
pub use generate::{Sequence, SequenceOptions, greedy};
pub use private_kv::PrivateKv;
pub use segment::{CloudSegment, SegmentPrefill};
