//! `benchmarks decode`: tokens per second of many sequences on one cloud prompt, by the way the
//! steps read it: once for all of them (RelayAttention) or once for each (PagedAttention).

mod contender;
mod report;

use std::num::NonZeroUsize;
use std::sync::Arc;

use anyhow::{Result, ensure};
use clap::Args;
use edgeprompt_launch::ModelArgs;

use contender::{Contender, Kind, Workload};
use report::Report;

use crate::result_dir::ResultDirArgs;

/// Arguments of `benchmarks decode`.
#[derive(Args)]
pub(crate) struct DecodeArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Who takes part
    #[arg(long, value_delimiter = ',', default_values_t = [Kind::Relay, Kind::Paged])]
    modes: Vec<Kind>,
    /// Sequences that generate at a time
    #[arg(long, value_delimiter = ',', default_values_t = [nonzero(1), nonzero(32)])]
    batch: Vec<NonZeroUsize>,
    /// Tokens of the cloud prompt
    #[arg(long, default_value_t = 1024)]
    cloud_len: usize,
    /// Tokens of each private prompt
    #[arg(long, default_value = "64")]
    edge_len: NonZeroUsize,
    /// Steps of a round, each of one token for every sequence
    #[arg(long, default_value = "16")]
    steps: NonZeroUsize,
    /// Rounds; in each, everyone generates in turn
    #[arg(long, default_value = "9")]
    rounds: NonZeroUsize,
    /// Seed of prompts
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    results: ResultDirArgs,
}

const fn nonzero(count: usize) -> NonZeroUsize {
    NonZeroUsize::new(count).expect("a default is not 0")
}

/// Runs every batch size, prints what came out and writes it down.
pub(crate) fn run(args: &DecodeArgs) -> Result<()> {
    let result_dir = args.results.open()?;
    let model = Arc::new(args.model.open()?);
    let workload = args.workload();
    let len = workload.tokens_per_sequence();
    ensure!(
        len <= model.config.context_len_max,
        "{len} tokens do not fit the model's context of {}: give fewer steps or rounds",
        model.config.context_len_max
    );
    let mut report = Report::new(args)?;
    for batch in &args.batch {
        let mut contenders = Vec::new();
        for kind in &args.modes {
            eprintln!("{kind}, {batch} sequences: computing the prompts");
            let contender = Contender::start(*kind, Arc::clone(&model), batch.get(), &workload)?;
            contenders.push((contender, Vec::new()));
        }
        // In turn, so that whatever else the machine does disturbs everyone.
        for _ in 0..args.rounds.get() {
            for (contender, rates) in &mut contenders {
                rates.push(contender.generate(args.steps.get()));
            }
        }
        report.add(*batch, contenders);
    }
    report.print();
    println!("written to {}", report.write(&result_dir)?.display());
    Ok(())
}

impl DecodeArgs {
    fn workload(&self) -> Workload {
        Workload {
            cloud_len: self.cloud_len,
            edge_len: self.edge_len.get(),
            output_len: self.rounds.get() * self.steps.get() + 2,
            seed: self.seed,
        }
    }
}
