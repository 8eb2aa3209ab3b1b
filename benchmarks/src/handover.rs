//! `benchmarks handover`: sessions that move from one edge node to the next.

mod campaign;
mod execution;
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
    /// Users whose sessions move while links lose packets and edges are killed: no text may be another
    Campaign(campaign::CampaignArgs),
    /// Two edge nodes over an emulated link: what users hear when their sessions move between them
    Execute(Box<execution::ExecutionArgs>),
    /// The scenario of ctHO (arXiv 2603.28018), computed: what each strategy plans, beside the optimum
    Simulate(simulation::SimulationArgs),
}

/// Does what is asked for.
pub(crate) fn run(args: &HandoverArgs) -> Result<()> {
    match &args.what {
        What::Campaign(args) => campaign::run(args),
        What::Execute(args) => execution::run(args),
        What::Simulate(args) => simulation::run(args),
    }
}
