//! Planners on devices that are drawn and change: the delay of every token follows from the same model
//! that the planners have, so what is compared is how well they plan, not how well the model predicts.

mod contender;
mod outcome;
mod plots;
mod report;
mod trial;
mod world;

use std::io::IsTerminal;
use std::num::NonZeroUsize;

use anyhow::{Result, ensure};
use clap::{Args, ValueEnum};
use edgeprompt_model::ModelShape;
use edgeprompt_placement::DEVICES_MAX;
use indicatif::ProgressBar;
use serde::Serialize;

use contender::Contender;
use report::Report;
use world::World;

use crate::result_dir::ResultDirArgs;

/// Device counts up to which every placement is enumerated.
const ENUMERATED_MAX: usize = 5;
/// Tokens that are simulated where every placement is enumerated.
const ENUMERATED_TOKENS_MAX: usize = 256;

/// What jobs cost.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Cost {
    /// A decode step with a KV cache, weights in memory; the leader scatters and sums
    Real,
    /// The paper's table and delay: every step computes the whole sequence anew, one layer
    Paper,
}

/// Arguments of the simulation.
#[derive(Args, Clone, Debug, Serialize)]
pub(crate) struct SimulationArgs {
    /// What jobs cost and how their results travel
    #[arg(long, value_enum, default_value_t = Cost::Real)]
    pub(crate) cost: Cost,
    /// Devices, the leader included; up to 5, planners are compared with every placement there is
    #[arg(long, value_delimiter = ',', default_values_t = [3, 4, 5, 25, 100])]
    pub(crate) devices: Vec<usize>,
    /// The model on more than 5 devices, in 16 bits (--cost real)
    #[arg(long, default_value_t = ModelShape::Llama2With7B)]
    #[serde(serialize_with = "by_name")]
    pub(crate) model_shape: ModelShape,
    /// Slices of each feed-forward network on more than 5 devices (--cost real)
    #[arg(long, default_value = "32")]
    pub(crate) ffn_slices: NonZeroUsize,
    /// Operations of the feed-forward network in L·D² (--cost paper): 8 for its two matrices, 0.8 in the
    /// authors' simulator
    #[arg(long, default_value_t = 8.0)]
    pub(crate) ffn_factor: f64,
    /// Tokens before generation starts
    #[arg(long, default_value_t = 64)]
    pub(crate) prompt_len: usize,
    /// Tokens to generate, at most 256 where every placement is enumerated
    #[arg(long, default_value = "1000")]
    pub(crate) tokens: NonZeroUsize,
    /// Tokens between two plans
    #[arg(long, default_value = "32")]
    pub(crate) interval_len: NonZeroUsize,
    /// Sets of devices that are drawn for each count
    #[arg(long, default_value = "10")]
    pub(crate) draws: NonZeroUsize,
    /// One-way delay of links, microseconds: drawn between these (--cost real)
    #[arg(long, value_delimiter = ',', num_args = 2, default_values_t = [50.0, 200.0])]
    pub(crate) delay_us: Vec<f64>,
    /// Seed of devices and their load
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    #[command(flatten)]
    #[serde(skip)]
    pub(crate) results: ResultDirArgs,
}

pub(super) fn by_name<S: serde::Serializer>(
    shape: &ModelShape,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_str(shape)
}

impl SimulationArgs {
    /// Whether every placement is enumerated with so many devices.
    pub(crate) const fn is_enumerated(device_count: usize) -> bool {
        device_count <= ENUMERATED_MAX
    }

    /// Tokens that are generated on so many devices.
    pub(crate) fn tokens_on(&self, device_count: usize) -> usize {
        match Self::is_enumerated(device_count) {
            true => self.tokens.get().min(ENUMERATED_TOKENS_MAX),
            false => self.tokens.get(),
        }
    }

    fn check(&self) -> Result<()> {
        for count in &self.devices {
            ensure!(
                (1..=DEVICES_MAX).contains(count),
                "{count} devices: a leader plans for 1 to {DEVICES_MAX}"
            );
        }
        let delays = self.delay_us.iter();
        ensure!(
            delays
                .clone()
                .all(|delay| delay.is_finite() && *delay >= 0.0)
                && self.delay_us[0] <= self.delay_us[1],
            "--delay-us is two numbers, the smaller first"
        );
        ensure!(
            self.ffn_factor.is_finite() && self.ffn_factor > 0.0,
            "--ffn-factor must be above 0"
        );
        Ok(())
    }
}

/// Every contender on every draw of every device count.
pub(crate) fn run(args: &SimulationArgs) -> Result<()> {
    args.check()?;
    let dir = args.results.open()?;
    let mut report = Report::new(args)?;
    let progress = match std::io::stderr().is_terminal() {
        true => ProgressBar::new((args.devices.len() * args.draws.get()) as u64),
        false => ProgressBar::hidden(),
    };
    for device_count in &args.devices {
        for draw in 0..args.draws.get() {
            let world = World::draw(args, *device_count, draw)?;
            for contender in Contender::ALL {
                report.add(trial::run(&world, contender)?);
            }
            progress.inc(1);
        }
        progress.suspend(|| report.print_count(*device_count));
    }
    progress.finish_and_clear();
    report.print_claims();
    for path in report.write(&dir)? {
        println!("written to {}", path.display());
    }
    Ok(())
}
