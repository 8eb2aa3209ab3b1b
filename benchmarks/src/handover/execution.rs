//! `benchmarks handover execute`: two edge nodes as processes, an emulated link between them, and users
//! with plain streaming clients whose sessions move from one to the other while they read.

mod claims;
mod nodes;
mod plan;
mod plots;
mod report;
mod users;

use std::num::{NonZeroU32, NonZeroUsize};
use std::time::Duration;

use anyhow::{Result, ensure};
use clap::Args;
use edgeprompt_handover::planning::strategy::Strategy;
use edgeprompt_launch::ModelArgs;

use crate::provenance::Provenance;
use crate::result_dir::ResultDirArgs;
use nodes::Nodes;
use plan::{Asked, Plan, Point};
use report::{Report, Sample};
use users::Answers;

/// Arguments of `benchmarks handover execute`.
#[derive(Args)]
pub(crate) struct ExecutionArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Tokens of the private prompt of one session that moves
    #[arg(long, value_name = "TOKENS", value_delimiter = ',',
        default_values_t = [256, 2048])]
    contexts: Vec<usize>,
    /// Rates of the link in Mbit/s
    #[arg(long, value_name = "MBITS", value_delimiter = ',', default_values_t = [50, 200, 1000])]
    rates: Vec<u64>,
    /// Round trip of the link in ms
    #[arg(long, value_name = "MS", default_value_t = 10)]
    rtt_ms: u64,
    /// How sessions are moved: token, cache, joint, stream, precopy, or auto for what the edge chooses
    #[arg(long, value_delimiter = ',', default_values_t = Asked::ALL)]
    strategies: Vec<Asked>,
    /// Numbers of sessions that move together
    #[arg(long, value_name = "N", value_delimiter = ',', default_value = "4")]
    users: Vec<NonZeroUsize>,
    /// Tokens of the private prompt of each of them
    #[arg(long, value_name = "TOKENS", default_value_t = 512)]
    users_context: usize,
    /// Rate of the link that they share, in Mbit/s
    #[arg(long, value_name = "MBITS", default_value_t = 200)]
    users_rate: u64,
    /// Times that everything is measured
    #[arg(long, value_name = "N", default_value = "2")]
    rounds: NonZeroU32,
    /// Threads that compute in each edge node
    #[arg(long, value_name = "N", default_value = "1")]
    threads: NonZeroU32,
    /// Tokens of one step of an edge node, which answers the other one between two steps
    #[arg(long, value_name = "N", default_value = "128")]
    max_num_batched_tokens: NonZeroU32,
    /// Seed of the prompts and of the link
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    results: ResultDirArgs,
}

/// Measures, prints and writes the files.
///
/// # Errors
/// If a node does not start, a session does not move, or a user hears other tokens than without a move.
pub(crate) fn run(args: &ExecutionArgs) -> Result<()> {
    let plan = Plan::of(args)?;
    let (dir, provenance) = (args.results.open()?, Provenance::gather()?);
    let provenance = provenance.computing_on(&[plan.model.device]);
    let nodes = Nodes::start(&plan)?;
    let mut answers = Answers::default();
    let (mut samples, mut failures) = (Vec::new(), Vec::new());
    if let Some(point) = plan.points.first() {
        // The target learns what computing takes while keys and values come, and tells the source.
        let asked = Asked::Only(Strategy::Joint);
        match measure(&nodes, &plan, (point, asked), &mut answers) {
            Ok(first) => eprintln!("not measured, to learn from: {}", first.in_words()),
            Err(error) => eprintln!("not measured, to learn from: {error:#}"),
        }
    }
    for point in &plan.points {
        eprintln!("{}", point.in_words());
        for round in 0..plan.round_count {
            for asked in plan.order(round) {
                match measure(&nodes, &plan, (point, asked), &mut answers) {
                    Ok(sample) => {
                        eprintln!("  {}", sample.in_words());
                        samples.push(sample);
                    }
                    Err(error) => {
                        eprintln!("  {asked}: {error:#}");
                        failures.push(format!("{}, {asked}: {error:#}", point.in_words()));
                    }
                }
            }
        }
    }
    eprintln!("the same without moves");
    let compared = answers.compare(&nodes, &plan)?;
    let report = Report::new(&plan, provenance, (samples, failures), compared);
    report.print();
    report.write(&dir)?;
    ensure!(
        report.is_sound(),
        "a session did not move, or went on with other tokens: see above"
    );
    Ok(())
}

/// One move of all sessions of a point.
fn measure(
    nodes: &Nodes,
    plan: &Plan,
    (point, asked): (&Point, Asked),
    answers: &mut Answers,
) -> Result<Sample> {
    nodes.wait_until_idle()?;
    let link = nodes.link(point.rate)?;
    let users = users::Users::begin(&nodes.source(), plan, point)?;
    users.wait_until_answered(plan::TOKENS_BEFORE)?;
    let asked_at = std::time::Instant::now();
    let reports = nodes.hand_over(users.sessions(), link, asked)?;
    let heard = users.finish(plan::TOKENS_AFTER, Duration::from_secs(60))?;
    let sample = Sample::new((point, asked), &reports, &heard, asked_at)?;
    answers.keep(point.context, heard);
    Ok(sample)
}
