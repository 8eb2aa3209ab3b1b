//! `benchmarks handover simulate`: the scenario of ctHO (arXiv 2603.28018), its figures, and what goes
//! beyond them, by the planner that nodes use. Nothing is sent; only the planner's own cost is measured.

mod base_stations;
mod beside_radio;
mod claims;
mod optima;
mod planner_cost;
mod plots;
mod radio;
mod report;
mod setting;
mod sweep;
mod table;
mod traces;

use std::num::NonZeroU32;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;

use crate::provenance::Provenance;
use crate::result_dir::ResultDirArgs;
use report::Report;
use setting::Draws;
use sweep::Sweep;

/// Arguments of `benchmarks handover simulate`.
#[derive(Args)]
pub(crate) struct SimulationArgs {
    /// Scenarios drawn at each point
    #[arg(long, value_name = "N", default_value = "400")]
    draws: NonZeroU32,
    /// How many of them the optimum is searched for
    #[arg(long, value_name = "N", default_value = "10")]
    optimum_draws: NonZeroU32,
    /// Runs of the planner at each number of users
    #[arg(long, value_name = "N", default_value = "21")]
    planner_runs: NonZeroU32,
    /// Most users that the planner's cost is measured for
    #[arg(long, value_name = "N", default_value = "10000")]
    planner_users_max: NonZeroU32,
    /// File of lines of seconds and Mbit/s, to use as the link as well; may be given several times
    #[arg(long = "link-trace", value_name = "FILE")]
    link_traces: Vec<PathBuf>,
    /// Measured handovers of the radio, to move sessions beside: HO-Duration_Combined.csv of the artefact
    /// of SIGCOMM 2022's "Vivisecting Mobility Management in 5G Cellular Networks"
    #[arg(long, value_name = "FILE")]
    radio_handovers: Option<PathBuf>,
    /// Seed of the scenarios
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    results: ResultDirArgs,
}

/// Computes everything, prints it and writes it down.
///
/// # Errors
/// If a file cannot be read or written, or one of the claims does not hold.
pub(crate) fn run(args: &SimulationArgs) -> Result<()> {
    let (dir, provenance) = (args.results.open()?, Provenance::gather()?);
    let traces = traces::read(&args.link_traces)?;
    let stations = args.radio_handovers.as_deref().map(base_stations::read);
    let stations = stations.transpose()?;
    let draws = Draws {
        seed: args.seed,
        count: args.draws.get(),
        optimum_count: args.optimum_draws.get().min(args.draws.get()),
    };
    let mut sweeps = Vec::new();
    for sweep in Sweep::all() {
        eprintln!("{}", sweep.title());
        sweeps.push(sweep.run(&draws)?);
    }
    eprintln!("the optimum where users are known to leave before they do");
    let foreseen = optima::foreseen(&draws)?;
    eprintln!("streaming after a handover and without one");
    let streaming = radio::run(&draws)?;
    let beside_radio = match &stations {
        Some(stations) => {
            let (usable, not) = (stations.changes.iter(), stations.unusable_count);
            let usable: usize = usable.map(base_stations::Changes::count).sum();
            eprintln!("{usable} procedures of the radio; {not} rows lack a time");
            beside_radio::run(stations, &traces, &draws)?
        }
        None => Vec::new(),
    };
    let traces = traces.iter().map(|trace| {
        eprintln!("the link of {}", trace.name());
        trace.run(&draws)
    });
    let traces = traces.collect::<Result<Vec<_>>>()?;
    eprintln!("the planner's own cost");
    let planner = planner_cost::measure(args)?;
    let claims = claims::of(&sweeps, &foreseen, (&streaming, &planner))?;
    let report = Report {
        benchmark: "handover-simulation",
        provenance,
        draws,
        claims,
        sweeps,
        optimum_where_known: foreseen,
        streaming,
        traces,
        beside_radio,
        planner,
    };
    print!("{}", report.text());
    dir.write_json("handover-simulation.json", &report)?;
    dir.write("handover-simulation.md", &report.markdown())?;
    let plots = plots::draw(&report);
    for (name, file) in &plots {
        dir.write(name, file)?;
    }
    let path = dir.path().display();
    println!(
        "handover-simulation.json, .md and {} plots are in {path}",
        plots.len()
    );
    let failed = report.claims.iter().filter(|claim| claim.fails());
    ensure!(failed.count() == 0, "a claim does not hold: see above");
    Ok(())
}
