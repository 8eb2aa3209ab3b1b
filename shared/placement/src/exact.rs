//! Our planner: the placement with the least D + D_mig / remaining tokens, by counts.
//!
//! Jobs of a stage are equal, so counts are all that matters. Stages are coupled by memory alone:
//! each is solved by itself (`stage`); if the answers fit into memory together they are the best.
//! If not, memory gets prices, which give a bound (`search`), and every combination of counts that the
//! bound leaves open is tried (`enumeration`), until the best is proved or the effort is spent; then
//! the plan says below what nothing can be.

mod effort;
mod enumeration;
mod filling;
mod gathered;
mod programme;
mod search;
mod stage;
mod stage_solver;

pub use effort::Effort;

use crate::baseline::PLACEMENTS_MAX;
use crate::instance::Instance;
use crate::planner::{Plan, PlanError, shortage};
use crate::workload::Dataflow;

/// The best placement, within [`Effort::BETWEEN_TOKENS`]; to the end where there are no more placements
/// than [`PLACEMENTS_MAX`].
///
/// # Errors
/// Where there is no placement, or where none was found with this effort.
pub fn plan(instance: &Instance) -> Result<Plan, PlanError> {
    let is_small = instance.placement_count() <= PLACEMENTS_MAX;
    let effort = match is_small || instance.workload().dataflow == Dataflow::Gathered {
        true => Effort::THOROUGH,
        false => Effort::BETWEEN_TOKENS,
    };
    plan_within(instance, effort)
}

/// The best placement, within an effort.
///
/// # Errors
/// Where there is no placement, or where none was found with this effort.
pub fn plan_within(instance: &Instance, effort: Effort) -> Result<Plan, PlanError> {
    if let Some(error) = shortage(instance) {
        return Err(error);
    }
    match instance.workload().dataflow {
        Dataflow::Gathered => gathered::plan(instance, effort),
        Dataflow::Star | Dataflow::Chain => search::plan(instance, effort),
    }
}
