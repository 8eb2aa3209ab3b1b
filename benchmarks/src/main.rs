//! The benchmark harness: one program, a subcommand for each thing that is measured.

#![allow(clippy::print_stdout, reason = "a benchmark reports")]

use std::time::Duration;

use anyhow::Result;
use clap::{Parser, Subcommand};
use edgeprompt_testkit::emulator::saturation_rate;

/// Measures edgeprompt
#[derive(Parser)]
#[command(name = "benchmarks", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// The rate at which the link emulator itself saturates on this machine
    Link {
        /// Seconds of each round
        #[arg(long, default_value_t = 2)]
        seconds: u64,
        /// Rounds
        #[arg(long, default_value_t = 3)]
        rounds: u32,
    },
}

fn main() -> Result<()> {
    match Cli::parse().command {
        Command::Link { seconds, rounds } => link(Duration::from_secs(seconds), rounds),
    }
}

fn link(time: Duration, rounds: u32) -> Result<()> {
    println!(
        "{:>6} {:>24} {:>14} {:>8}",
        "round", "rate", "packets/s", "lost"
    );
    for round in 1..=rounds {
        let found = saturation_rate(time)?;
        let (rate, packets) = (found.rate, found.packets_per_second);
        println!(
            "{round:>6} {rate:>24?} {packets:>14} {:>8}",
            found.lost_packet_count
        );
    }
    Ok(())
}
