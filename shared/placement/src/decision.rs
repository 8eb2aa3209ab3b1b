//! What a leader does every so many tokens: measure, plan, and stay or move.
//!
//! Speeds should be smoothed over some measurements, for a migration pays over all tokens to come and
//! load comes and goes; memory should be what there is now.
//!
//! ```
//! use edgeprompt_placement::{
//!     Decision, Device, DeviceId, Instance, Link, Load, ModelShape, Policy, WeightCopy, decide, exact, real,
//! };
//!
//! let device = |id, flops_per_second| Device {
//!     id: DeviceId(id),
//!     flops_per_second,
//!     memory_bytes: 4 << 30,
//!     link: Link { bits_per_second: 1e9, one_way_seconds: 1e-4 },
//!     weights: WeightCopy::Whole,
//! };
//! let model = ModelShape {
//!     layer_count: 22, hidden_dim: 2048, q_head_count: 32, kv_head_count: 4, head_dim: 64,
//!     mlp_dim: 5632, vocab_len: 32000, weight_bytes: 2, kv_bytes: 2, hidden_bytes: 4,
//! };
//! let load = Load { sequence_count: 1, context_len: 512, headroom_len: 32, ffn_slice_count: 16 };
//! let devices = vec![device(0, 1e10), device(1, 1e10)];
//! let instance = Instance::new(devices, real(&model, &load), None, 200)?;
//! let Decision::Move(change) = decide(&instance, exact::plan, &Policy::default())? else {
//!     panic!("nothing was placed before");
//! };
//! assert!(change.moves.iter().any(|step| step.to == DeviceId(1)));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

use crate::delay::step_seconds;
use crate::instance::Instance;
use crate::memory::is_feasible;
use crate::migration::{Move, moves};
use crate::placement::{Counts, Placement};
use crate::planner::{Plan, PlanError, Planner};

/// When a better placement is not worth the trouble.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Policy {
    /// Stay if all that moving saves, its own time subtracted, is less than this share of what the
    /// remaining tokens take without moving. Measurements scatter by as much.
    pub gain_share_min: f64,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            gain_share_min: 0.05,
        }
    }
}

/// Stay or move.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// The placement in use goes on.
    Stay {
        /// One step with it, with the devices as they are now.
        step_seconds: f64,
    },
    /// Another takes over when its moves are done.
    Move(Change),
}

/// From one placement to another.
#[derive(Clone, Debug, PartialEq)]
pub struct Change {
    /// Where every job will run.
    pub placement: Placement,
    /// What has to move, in the order in which it fits.
    pub moves: Vec<Move>,
    /// One step with it.
    pub step_seconds: f64,
    /// How long the links are busy with the moves.
    pub migration_seconds: f64,
}

/// Plans anew and compares with staying.
///
/// # Errors
/// Those of the planner, unless the placement in use still fits: then that stays.
pub fn decide(
    instance: &Instance,
    planner: Planner,
    policy: &Policy,
) -> Result<Decision, PlanError> {
    let staying = staying_seconds(instance);
    let plan = match (planner(instance), staying) {
        (Ok(plan), _) => plan,
        (Err(_), Some(step_seconds)) => return Ok(Decision::Stay { step_seconds }),
        (Err(error), None) => return Err(error),
    };
    if let Some(step_seconds) = staying {
        let gain = step_seconds - plan.objective_seconds(instance);
        if gain <= policy.gain_share_min * step_seconds {
            return Ok(Decision::Stay { step_seconds });
        }
    }
    Ok(Decision::Move(change(instance, plan)))
}

/// One step with the placement in use, if all its devices are there and have the memory.
fn staying_seconds(instance: &Instance) -> Option<f64> {
    let counts: &Counts = instance.previous_counts()?;
    let dataflow = instance.workload().dataflow;
    step_seconds(instance, counts, dataflow).filter(|_| is_feasible(instance, counts))
}

fn change(instance: &Instance, plan: Plan) -> Change {
    Change {
        moves: moves(instance, &plan.placement),
        placement: plan.placement,
        step_seconds: plan.step_seconds,
        migration_seconds: plan.migration_seconds,
    }
}
