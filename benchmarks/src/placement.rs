//! `benchmarks placement`: where attention heads run, by our planner and by others.

mod simulation;

use anyhow::Result;
use clap::Args;

use simulation::SimulationArgs;

/// Arguments of `benchmarks placement`.
#[derive(Args)]
pub(crate) struct PlacementArgs {
    #[command(flatten)]
    simulation: SimulationArgs,
}

/// Simulates, prints tables and writes the files.
pub(crate) fn run(args: &PlacementArgs) -> Result<()> {
    simulation::run(&args.simulation)
}
