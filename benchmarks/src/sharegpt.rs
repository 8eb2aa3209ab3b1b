//! `benchmarks sharegpt`: groups of requests that share a cloud prompt, answered by one engine in each
//! of several modes, which differ only in where the prompt's keys and values come from and how they
//! are read (EdgePrompt, arXiv 2504.11729, Figs. 3 to 5).
//!
//! Without `--request-rates` a group comes at once and the next when it is answered (Fig. 3); with
//! them, requests come as they please (Figs. 4 and 5).

mod claims;
mod contest;
pub(crate) mod edge;
mod lens;
pub(crate) mod messages;
mod nodes;
mod outcome;
mod plan;
mod plots;
mod report;

use anyhow::Result;

pub(crate) use plan::ShareGptArgs;

use lens::Lens;
use nodes::Nodes;
use outcome::{GroupOutcome, Series};
use plan::Plan;
use report::Report;

use crate::dataset::ShareGpt;
use crate::pipeline::plan::model_or_default;
use crate::provenance::Provenance;

/// Measures, prints tables and writes the files.
pub(crate) fn run(args: &ShareGptArgs) -> Result<()> {
    let mut plan = Plan::of(args)?;
    let devices = [args.edge_device, args.cloud_device];
    let devices = devices.map(|it| it.unwrap_or_else(|| model_or_default(&args.model).device));
    let provenance = Provenance::gather()?.computing_on(&devices);
    let dir = args.result_dir.open()?;
    let conversations = args.dataset_path.as_deref().map(ShareGpt::open);
    let conversations = conversations.transpose()?;
    let mut nodes = Nodes::start(args, &plan)?;
    let lens = Lens::of((args, conversations), &plan, &mut nodes)?;
    println!("{}", plan.in_words(&lens));
    let mut series = Vec::new();
    match plan.request_rates.is_empty() {
        true => {
            for cloud_len in &plan.cloud_lens {
                eprintln!("cloud prompt of {cloud_len} tokens");
                series.extend(groups(&mut nodes, &plan, &lens, *cloud_len)?);
            }
        }
        false => {
            let mut rates = plan.request_rates.clone().into_iter();
            let mut last = 0.0;
            while let Some(rate) = rates.next().or_else(|| plan.next_rate(last, &series)) {
                eprintln!("{rate} requests a second");
                series.extend(at_rate(&mut nodes, &plan, &lens, rate)?);
                plan.measured_at(rate);
                last = rate;
            }
        }
    }
    let report = Report::new(args, (&plan, &lens), provenance, &series);
    report.print();
    report.write(&dir)
}

/// Every group in every mode, the modes in turn, so that whatever else the machine does disturbs all of
/// them.
fn groups(nodes: &mut Nodes, plan: &Plan, lens: &Lens, cloud_len: usize) -> Result<Vec<Series>> {
    let mut series = nodes.open(plan, lens, cloud_len)?;
    for group in 0..plan.group_count() {
        for turn in 0..series.len() {
            let index = (turn + group) % series.len();
            let requests = plan.group(lens, group);
            let answered = nodes.answer(series[index].mode, requests)?;
            eprintln!(
                "  group {} of {}: {} in {:.1} s",
                group + 1,
                plan.group_count(),
                series[index].mode,
                answered.seconds
            );
            series[index].groups.push(GroupOutcome::of(answered));
        }
    }
    nodes.close()?;
    Ok(series)
}

/// All requests at one rate, in each mode and the modes in turn, from a cold start: each round is on a cloud
/// prompt of its own, which is computed when the first request is there, in whichever way.
fn at_rate(nodes: &mut Nodes, plan: &Plan, lens: &Lens, rate: f64) -> Result<Vec<Series>> {
    let mut all: Vec<Option<Series>> = vec![None; plan.modes.len()];
    for round in 0..plan.rounds {
        for turn in 0..plan.modes.len() {
            let index = (turn + round) % plan.modes.len();
            let mode = plan.modes[index];
            // One engine at a time: each holds the memory of all its sequences.
            let opened = nodes.open_mode(plan, lens, (mode, plan.cloud_lens[0]))?;
            let answered = nodes.answer(mode, plan.arriving(lens, rate))?;
            nodes.drop_engines()?;
            let (round, seconds) = (round + 1, answered.seconds);
            eprintln!(
                "  round {round} of {}: {mode} in {seconds:.1} s",
                plan.rounds
            );
            let series = all[index].get_or_insert(Series {
                request_rate: Some(rate),
                ..opened
            });
            series.groups.push(GroupOutcome::of(answered));
        }
        nodes.close()?;
    }
    Ok(all.into_iter().flatten().collect())
}
