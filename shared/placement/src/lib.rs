//! Placement of attention heads, output projections and feed-forward slices on edge devices.
//!
//! Everything here is pure: devices, links and a previous placement go in, a placement comes out.
//! No clock, no socket, no tensors.
//!
//! A leader calls [`decide`] every so many tokens with an [`Instance`] of what it measured.
//! `docs/PLACEMENT.md` has the model, the planners and where they differ from the paper's.
//!
//! Source: head-level partitioning (arXiv 2505.02533), with its costs corrected.

pub mod baseline;
mod cost;
mod decision;
mod delay;
mod device;
pub mod exact;
mod instance;
mod memory;
mod migration;
mod placement;
mod planner;
mod workload;

pub use cost::{Load, ModelShape, PaperShape, paper, real};
pub use decision::{Change, Decision, Policy, decide};
pub use delay::step_seconds;
pub use device::{Device, DeviceId, Link, WeightCopy};
pub use instance::{DEVICES_MAX, Instance, InstanceError, JOBS_MAX, STAGES_MAX};
pub use memory::{is_feasible, memory_bytes};
pub use migration::{Move, migration_seconds, moves};
pub use placement::{Counts, Placement};
pub use planner::{Plan, PlanError, Planner, Proof};
pub use workload::{Dataflow, JobCost, Part, Stage, Workload};
