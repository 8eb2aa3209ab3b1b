//! A model on several devices of this machine: processes whose computing time is cut, on emulated links.
//! What a token takes is measured at the client, beside what the planner predicts for the same placement.

mod nodes;
mod report;

use std::num::NonZeroU32;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use edgeprompt_model::ModelShape;
use serde::Serialize;

use nodes::Nodes;
use report::{Moved, Report, Sample};

use crate::result_dir::ResultDirArgs;

/// How heads and slices are placed, as `edge-node serve --placement` names it.
pub(crate) const POLICIES: [&str; 3] = ["here", "even", "best"];

/// Arguments of the execution.
#[derive(Args, Clone, Debug, Serialize)]
pub(crate) struct ExecutionArgs {
    /// Shape of the random weights
    #[arg(long, default_value_t = ModelShape::M110)]
    #[serde(serialize_with = "super::simulation::by_name")]
    pub(crate) model_shape: ModelShape,
    /// A model instead: a Hugging Face folder or a GGUF file
    #[arg(long, value_name = "PATH")]
    pub(crate) model: Option<PathBuf>,
    /// Devices beside the leader
    #[arg(long, value_delimiter = ',', default_values_t = [1, 2, 3])]
    pub(crate) workers: Vec<usize>,
    /// How much of the time each device computes, the leader too, in percent: more devices than cores are
    /// fair only if they rest
    #[arg(long, default_value_t = 40, value_parser = clap::value_parser!(u8).range(1..=100))]
    pub(crate) share: u8,
    /// Threads of each device
    #[arg(long, default_value = "1")]
    pub(crate) threads: NonZeroU32,
    /// Rate of each worker's link, Mbit/s
    #[arg(long, value_name = "MBIT/S", default_value_t = 1000)]
    pub(crate) rate: u64,
    /// Round trip of each worker's link, milliseconds
    #[arg(long, value_name = "MS", default_value_t = 0.5)]
    pub(crate) rtt_ms: f64,
    /// Tokens of the prompt
    #[arg(long, default_value_t = 128)]
    pub(crate) prompt_len: usize,
    /// Tokens of each answer
    #[arg(long, default_value_t = 64)]
    pub(crate) tokens: usize,
    /// Answers that are measured with each placement, after those in which it comes about
    #[arg(long, default_value_t = 5)]
    pub(crate) rounds: usize,
    /// Answers before that
    #[arg(long, default_value_t = 3)]
    pub(crate) warm_ups: usize,
    /// Tokens between two plans
    #[arg(long, default_value_t = 32)]
    pub(crate) plan_every: usize,
    /// What all chance of the links follows from
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    #[command(flatten)]
    #[serde(skip)]
    pub(crate) results: ResultDirArgs,
}

impl ExecutionArgs {
    /// What the devices compute, for people.
    pub(crate) fn model_name(&self) -> String {
        let path = self.model.as_ref().and_then(|path| path.file_stem());
        path.map_or_else(
            || self.model_shape.to_string(),
            |name| name.to_string_lossy().into_owned(),
        )
    }

    pub(crate) fn rtt(&self) -> Result<Duration> {
        Ok(Duration::try_from_secs_f64(self.rtt_ms / 1e3)?)
    }
}

/// Every policy with every number of workers.
pub(crate) fn run(args: &ExecutionArgs) -> Result<()> {
    ensure!(
        args.rounds > 0 && args.tokens > 1,
        "there must be something to measure"
    );
    let dir = args.results.open()?;
    let mut report = Report::new(args)?;
    for workers in &args.workers {
        let mut expected = None;
        for policy in POLICIES {
            eprintln!("{workers} workers, placed {policy}");
            let nodes = Nodes::start(args, (*workers, policy))?;
            let forecast_ms = nodes.forecast()?;
            for _ in 0..args.warm_ups {
                nodes.answer(args)?;
            }
            let samples = (0..args.rounds).map(|_| {
                let before = nodes.predictions()?;
                let answer = nodes.answer(args)?;
                let after = nodes.predictions()?;
                ensure!(
                    after.1 > before.1,
                    "nothing was planned meanwhile: give more --tokens than --plan-every"
                );
                let expected = expected.get_or_insert_with(|| answer.tokens.clone());
                ensure!(
                    answer.tokens == *expected,
                    "placed {policy} on {workers} workers, the tokens are others than those of one device"
                );
                Ok(Sample {
                    token_ms: answer.token_ms,
                    predicted_ms: (after.0 - before.0) / (after.1 - before.1),
                })
            });
            let samples = samples.collect::<Result<Vec<_>>>()?;
            let moved = Moved {
                migrations: nodes.migrations()?,
                forecast_ms,
            };
            report.add((*workers, policy), samples, moved);
        }
    }
    report.print();
    for path in report.write(&dir)? {
        println!("written to {}", path.display());
    }
    report.check()
}
