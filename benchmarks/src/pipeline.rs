//! `benchmarks pipeline`: the product's cloud and edge as two processes over an emulated link, swept
//! over rate, round-trip time and length of the cloud prompt, against the flow-shop model of
//! [`edgeprompt_telemetry::flow_shop`] and against local prefill.

mod busy;
pub(crate) mod cloud;
pub(crate) mod edge;
pub(crate) mod messages;
pub(crate) mod plan;
mod plots;
mod point;
mod sweep;
mod table;

use std::io::IsTerminal;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use edgeprompt_launch::ModelArgs;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use tokio::runtime::Runtime;

pub(crate) use plan::PipelineArgs;
use plan::Plan;
use point::PointResult;
use sweep::Nodes;

use crate::provenance::Provenance;
use crate::result_dir::ResultDir;

/// What is written to `pipeline.json`.
#[derive(Serialize)]
struct Report<'a> {
    benchmark: &'static str,
    provenance: Provenance,
    model: String,
    model_digest: String,
    dtype: String,
    device: String,
    /// Threads busy in the cloud process while it computed a prompt.
    cloud_busy_threads: f64,
    settings: &'a Plan,
    /// The mean over the points at which the emulator kept up; 0.1 is a tenth more than the best.
    planner_regret_mean: Option<f64>,
    points: &'a [PointResult],
}

impl Report<'_> {
    /// Where the table comes from, in a paragraph.
    fn origin(&self) -> String {
        let (from, settings) = (&self.provenance, self.settings);
        let load = from.load_average.map_or_else(
            || "unknown".to_owned(),
            |[one, five, fifteen]| format!("{one} {five} {fifteen}"),
        );
        format!(
            "{date}, commit {commit}, {cpu} ({cpus} CPUs, load average {load}{stolen}), {rustc}, burn {burn}, \
             {device}, {model} ({dtype}), {rounds} rounds, threads: cloud {cloud_threads}, edge \
             {edge_threads}.\n",
            date = from.date,
            commit = from.short_commit(),
            cpu = from.cpu,
            cpus = from.logical_cpu_count,
            stolen = from.stolen_in_words(),
            rustc = from.rustc,
            burn = from.burn,
            device = self.device,
            model = self.model,
            dtype = self.dtype,
            rounds = settings.rounds,
            cloud_threads = settings.cloud_threads,
            edge_threads = settings.edge_threads,
        )
    }
}

/// Measures every point, prints the table and writes the files.
pub(crate) fn run(args: &PipelineArgs) -> Result<()> {
    let (plan, model) = (Plan::of(args), plan::model_or_default(&args.model));
    let provenance = Provenance::gather()?.computing_on(&[model.device]);
    let dir = args.result_dir.open()?;
    if let Some(scaled) = &plan.scaled {
        println!("{scaled}");
    }
    let mut nodes = Nodes::start(&plan, &model)?;
    println!("{}\n\n{}", table::LEGEND, table::head());
    let (results, failed_count) = sweep(&mut nodes, &plan);
    let report = report((&plan, &results), (&nodes, &model), provenance);
    write_files(&dir, &report)?;
    ensure!(failed_count == 0, "{failed_count} points failed");
    Ok(())
}

/// The runtime of a child's network side: one thread beside those that compute.
pub(crate) fn network_runtime() -> Result<Runtime> {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    let runtime = builder.worker_threads(1).enable_all().build();
    runtime.context("the async runtime does not start")
}

/// The points that could be measured, and how many could not: the others are worth having.
fn sweep(nodes: &mut Nodes, plan: &Plan) -> (Vec<PointResult>, usize) {
    let progress = Progress::new(plan.points.len());
    let (mut results, mut failed_count) = (Vec::new(), 0);
    for (index, point) in plan.points.iter().enumerate() {
        progress.begin(index, point);
        let measured = match nodes.measure(plan, *point) {
            Ok(measured) => measured,
            Err(error) => {
                failed_count += 1;
                progress.print(&format!("{} failed: {error:#}", describe(point)));
                continue;
            }
        };
        progress.print(&table::row(&measured));
        if measured.emulator_failure_count() > 0 {
            progress.print("  ^ the link emulator could not keep up: ignore this point");
        }
        results.push(measured);
    }
    progress.bar.finish_and_clear();
    (results, failed_count)
}

fn report<'a>(
    (settings, points): (&'a Plan, &'a [PointResult]),
    (nodes, model): (&Nodes, &ModelArgs),
    provenance: Provenance,
) -> Report<'a> {
    Report {
        benchmark: "pipeline",
        provenance,
        model: plan::model_name(model),
        model_digest: nodes.model_digest().to_owned(),
        dtype: codecs(points),
        device: model.device.to_string(),
        cloud_busy_threads: nodes.cloud_busy_threads,
        settings,
        planner_regret_mean: point::mean_regret(points).map(|(mean, _)| mean),
        points,
    }
}

/// The number formats of a sweep, in the order in which they were measured.
fn codecs(points: &[PointResult]) -> String {
    let mut names: Vec<_> = points.iter().map(|it| it.point.codec.name()).collect();
    names.dedup();
    names.join(",")
}

fn write_files(dir: &ResultDir, report: &Report<'_>) -> Result<()> {
    dir.write_json("pipeline.json", report)?;
    let table = table::markdown(report.points);
    let regret = regret_line(report.points);
    dir.write(
        "pipeline.md",
        &format!("{}\n{table}\n{regret}\n", report.origin()),
    )?;
    let plots = plots::draw(report.settings, report.points);
    for (name, file) in &plots {
        dir.write(name, file)?;
    }
    let agree: usize = report
        .points
        .iter()
        .map(|point| point.same_first_token_count)
        .sum();
    let rounds: usize = report.points.iter().map(|point| point.rounds.len()).sum();
    println!("\nstreaming and local prefill chose the same token in {agree} of {rounds} rounds");
    println!("{regret}");
    let (path, count) = (dir.path().display(), plots.len());
    println!("pipeline.json, pipeline.md and {count} plots are in {path}");
    Ok(())
}

/// What planning lost over the sweep, in a sentence.
fn regret_line(points: &[PointResult]) -> String {
    match point::mean_regret(points) {
        Some((mean, count)) => format!(
            "planner regret against the better of streaming and local prefill: {:.1} %, the mean of {count} points",
            mean * 100.0
        ),
        None => "planner regret: no point to tell it from".to_owned(),
    }
}

fn describe(point: &plan::Point) -> String {
    format!(
        "{} Mbit/s, RTT {} ms, cloud prompt {} in {}",
        point.rate_mbit_s, point.rtt_ms, point.cloud_len, point.codec
    )
}

/// Between two drawings of the bar: its clock shows seconds.
const TICK: Duration = Duration::from_millis(500);

/// A bar where a person watches, else a line for every point.
struct Progress {
    bar: ProgressBar,
    total: usize,
}

impl Progress {
    fn new(total: usize) -> Self {
        let bar = match std::io::stderr().is_terminal() {
            true => {
                let template = "[{bar:30}] {pos}/{len} points {elapsed} {msg}";
                let style = ProgressStyle::with_template(template);
                let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
                let bar = ProgressBar::new(total as u64).with_style(style);
                bar.enable_steady_tick(TICK);
                bar
            }
            false => ProgressBar::hidden(),
        };
        Self { bar, total }
    }

    fn begin(&self, index: usize, point: &plan::Point) {
        self.bar.set_position(index as u64);
        self.bar.set_message(describe(point));
        if self.bar.is_hidden() {
            eprintln!("point {} of {}: {}", index + 1, self.total, describe(point));
        }
    }

    fn print(&self, line: &str) {
        self.bar.suspend(|| println!("{line}"));
    }
}
