//! `benchmarks placement`: where attention heads run, by our planner and by others.

mod execution;
mod simulation;

use anyhow::Result;
use clap::{Args, Subcommand};

use execution::ExecutionArgs;
use simulation::SimulationArgs;

/// Arguments of `benchmarks placement`.
#[derive(Args)]
#[command(args_conflicts_with_subcommands = true)]
pub(crate) struct PlacementArgs {
    #[command(subcommand)]
    command: Option<PlacementCommand>,
    #[command(flatten)]
    simulation: SimulationArgs,
}

#[derive(Subcommand)]
enum PlacementCommand {
    /// On processes of this machine instead: what a token takes, beside what the planner predicts
    Execute(Box<ExecutionArgs>),
}

/// Simulates or executes, prints tables and writes the files.
pub(crate) fn run(args: &PlacementArgs) -> Result<()> {
    match &args.command {
        Some(PlacementCommand::Execute(args)) => execution::run(args),
        None => simulation::run(&args.simulation),
    }
}
