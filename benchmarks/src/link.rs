//! `benchmarks link`: the rate at which the link emulator itself saturates, so that no result is
//! trusted whose rate comes near it.

use std::time::Duration;

use anyhow::Result;
use clap::Args;
use edgeprompt_testkit::emulator::saturation_rate;

/// Arguments of `benchmarks link`.
#[derive(Args)]
pub(crate) struct LinkArgs {
    /// Seconds of each round
    #[arg(long, default_value_t = 2)]
    seconds: u64,
    /// Rounds
    #[arg(long, default_value_t = 3)]
    rounds: u32,
}

/// Prints one line a round.
pub(crate) fn run(args: &LinkArgs) -> Result<()> {
    println!(
        "{:>6} {:>24} {:>14} {:>8}",
        "round", "rate", "packets/s", "lost"
    );
    for round in 1..=args.rounds {
        let found = saturation_rate(Duration::from_secs(args.seconds))?;
        let (rate, packets) = (found.rate, found.packets_per_second);
        println!(
            "{round:>6} {rate:>24?} {packets:>14} {:>8}",
            found.lost_packet_count
        );
    }
    Ok(())
}
