//! `benchmarks handover`: sessions that move from one edge node to the next.

mod simulation;

use anyhow::Result;
use clap::{Args, Subcommand};

/// Arguments of `benchmarks handover`.
#[derive(Args)]
pub(crate) struct HandoverArgs {
    #[command(subcommand)]
    what: What,
}

#[derive(Subcommand)]
enum What {
    /// The scenario of ctHO (arXiv 2603.28018), computed: what each strategy plans, beside the optimum
    Simulate(simulation::SimulationArgs),
}

/// Does what is asked for.
pub(crate) fn run(args: &HandoverArgs) -> Result<()> {
    match &args.what {
        What::Simulate(args) => simulation::run(args),
    }
}
