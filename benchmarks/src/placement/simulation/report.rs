//! Tables, claims, the JSON file and the plots of the simulation.

use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;

use super::contender::Contender;
use super::outcome::{Summary, Trial};
use super::{Cost, SimulationArgs, plots};
use crate::provenance::Provenance;
use crate::result_dir::ResultDir;
use crate::statistics::Spread;

/// Everything that came out.
#[derive(Serialize)]
pub(crate) struct Report {
    benchmark: &'static str,
    provenance: Provenance,
    settings: SimulationArgs,
    summaries: Vec<Summary>,
    claims: Vec<String>,
    trials: Vec<Trial>,
}

/// A column: its head, its width on a terminal, and what stands in it.
struct Column {
    head: &'static str,
    width: usize,
    cell: fn(&Summary) -> String,
}

const COLUMNS: [Column; 11] = [
    column("devices", 7, |it| it.device_count.to_string()),
    column("planner", 11, |it| it.contender.name().to_owned()),
    column("placed", 7, |it| {
        format!("{}/{}", it.draws_placed, it.draws)
    }),
    column("ms/token (min-max)", 24, |it| {
        spread(it.token_ms.as_ref(), 1)
    }),
    column("/ ours", 16, |it| spread(it.over_ours.as_ref(), 2)),
    column("/ optimum (max)", 15, optimum),
    column("in use", 6, |it| median(it.devices_in_use.as_ref(), 1)),
    column("GB, fullest", 16, |it| spread(it.memory_gb_max.as_ref(), 2)),
    column("too full", 8, |it| {
        format!("{}/{}", it.over_memory_count, it.interval_count)
    }),
    column("moved", 14, |it| spread(it.moved.as_ref(), 0)),
    column("plan ms (max)", 16, planner_ms),
];

const LEGEND: &str = "\
Medians over the draws, and from the smallest to the largest. ms/token: the mean over a run, the whole time
of migrations added. / ours: over ours, draw by draw. / optimum: what the planner minimises, over the best of
all placements from where it stood; mean and largest over intervals. in use: devices with a job. GB, fullest:
of the device with most, at its largest. too full: intervals in which a device lacked memory. moved: jobs in a
run. EdgeShard's layers go from device to device; everyone else's stages go out from the leader (real) or to
the projection (paper).";

const fn column(head: &'static str, width: usize, cell: fn(&Summary) -> String) -> Column {
    Column { head, width, cell }
}

impl Report {
    pub(crate) fn new(args: &SimulationArgs) -> Result<Self> {
        println!("{LEGEND}\n\n{}", line(|column| column.head.to_owned()));
        Ok(Self {
            benchmark: "placement-simulation",
            provenance: Provenance::gather()?,
            settings: args.clone(),
            summaries: Vec::new(),
            claims: Vec::new(),
            trials: Vec::new(),
        })
    }

    pub(crate) fn add(&mut self, trial: Trial) {
        self.trials.push(trial);
    }

    /// Sums up and prints one number of devices.
    pub(crate) fn print_count(&mut self, device_count: usize) {
        let of = |contender: Contender| -> Vec<&Trial> {
            let trials = self.trials.iter();
            let is_of = |it: &&Trial| it.contender == contender && it.device_count == device_count;
            trials.filter(is_of).collect()
        };
        let ours = of(Contender::Ours);
        let summaries = Contender::ALL.map(|contender| Summary::of(&of(contender), &ours));
        let summaries: Vec<_> = summaries.into_iter().flatten().collect();
        for summary in &summaries {
            println!("{}", line(|column| (column.cell)(summary)));
        }
        self.summaries.extend(summaries);
    }

    /// Works out and prints what was to be shown.
    pub(crate) fn print_claims(&mut self) {
        let mut claims = vec![self.against_optimum(Contender::Ours, "at most 1.02 is wanted")];
        let note = "the paper claims 1.15 to 1.20";
        claims.push(self.against_optimum(Contender::Paper, note));
        for contender in [
            Contender::Edgeshard,
            Contender::Galaxy,
            Contender::OneDevice,
        ] {
            claims.push(self.against_ours(contender));
        }
        let ours = || {
            self.summaries
                .iter()
                .filter(|it| it.contender == Contender::Ours)
        };
        let (over, intervals) = ours().fold((0, 0), |(over, all), it| {
            (over + it.over_memory_count, all + it.interval_count)
        });
        claims.push(Some(format!(
            "ours: memory of a device exceeded in {over} of {intervals} intervals"
        )));
        let largest = ours().max_by_key(|it| it.device_count);
        claims.push(largest.and_then(|it| {
            let (median, p95) = (it.planner_ms_median?, it.planner_ms_p95?);
            let (count, max) = (it.device_count, it.planner_ms_max?);
            Some(format!(
                "ours plans for {count} devices in {median:.2} ms (median), {p95:.2} ms (95 %), \
                 {max:.2} ms (largest)"
            ))
        }));
        self.claims = claims.into_iter().flatten().collect();
        for claim in &self.claims {
            println!("{claim}");
        }
    }

    fn against_optimum(&self, contender: Contender, note: &str) -> Option<String> {
        let summaries = self.summaries.iter().filter(|it| it.contender == contender);
        let (mut sum, mut count, mut max) = (0.0, 0, 0.0_f64);
        for summary in summaries {
            let instances = summary.optimum_count;
            sum += summary.over_optimum_mean.unwrap_or(0.0) * instances as f64;
            count += instances;
            max = max.max(summary.over_optimum_max.unwrap_or(0.0));
        }
        let (name, mean) = (
            contender.name(),
            sum / f64::from(u32::try_from(count).ok()?),
        );
        (count > 0).then(|| {
            format!(
                "{name} / optimum: mean {mean:.4}, largest {max:.4} of {count} instances ({note})"
            )
        })
    }

    fn against_ours(&self, contender: Contender) -> Option<String> {
        let is_it = |it: &&Summary| it.contender == contender && it.device_count == 25;
        let summary = self.summaries.iter().find(is_it)?;
        let name = contender.name();
        Some(match &summary.over_ours {
            Some(Spread { median, min, max }) => format!(
                "{name} / ours at 25 devices: median {median:.2}, {min:.2} to {max:.2} (placed in {} of {} draws)",
                summary.draws_placed, summary.draws
            ),
            None => format!(
                "{name} has no placement at 25 devices in {} draws",
                summary.draws
            ),
        })
    }

    /// Writes JSON, table and plots.
    pub(crate) fn write(&self, dir: &ResultDir) -> Result<Vec<PathBuf>> {
        let name = match self.settings.cost {
            Cost::Real => "placement-simulation-real",
            Cost::Paper => "placement-simulation-paper",
        };
        let mut paths = vec![
            dir.write_json(&format!("{name}.json"), self)?,
            dir.write(&format!("{name}.md"), &self.markdown())?,
        ];
        for (plot, svg) in plots::draw(&self.subtitle(), &self.trials) {
            paths.push(dir.write(&format!("{name}-{plot}.svg"), &svg)?);
        }
        Ok(paths)
    }

    fn subtitle(&self) -> String {
        let settings = &self.settings;
        let work = match settings.cost {
            Cost::Real => format!("{}, decode with a KV cache", settings.model_shape),
            Cost::Paper => format!(
                "one layer, the paper's costs, FFN {}·L·D²",
                settings.ffn_factor
            ),
        };
        let (draws, commit) = (settings.draws, self.provenance.short_commit());
        format!("simulation: {work}; medians of {draws} draws; {commit}")
    }

    fn markdown(&self) -> String {
        let cells = |of: &dyn Fn(&Column) -> String| {
            let cells: Vec<_> = COLUMNS.iter().map(of).collect();
            format!("| {} |\n", cells.join(" | "))
        };
        let mut text = format!("{}, {}.\n\n", self.subtitle(), self.provenance.date);
        text.push_str(&cells(&|column| column.head.to_owned()));
        text.push_str(&cells(&|_| "--:".to_owned()));
        for summary in &self.summaries {
            text.push_str(&cells(&|column| (column.cell)(summary)));
        }
        text.push('\n');
        for claim in &self.claims {
            text.push_str(&format!("* {claim}\n"));
        }
        text.push_str(&format!("\n{LEGEND}\n"));
        text
    }
}

fn line(cell: impl Fn(&Column) -> String) -> String {
    let cells = COLUMNS.iter();
    let cells = cells.map(|column| format!("{:>width$}", cell(column), width = column.width));
    cells.collect::<Vec<_>>().join("  ")
}

fn spread(spread: Option<&Spread>, digits: usize) -> String {
    spread.map_or_else(
        || "-".to_owned(),
        |Spread { median, min, max }| format!("{median:.digits$} ({min:.digits$}-{max:.digits$})"),
    )
}

fn median(spread: Option<&Spread>, digits: usize) -> String {
    spread.map_or_else(|| "-".to_owned(), |it| format!("{:.digits$}", it.median))
}

fn optimum(summary: &Summary) -> String {
    match (summary.over_optimum_mean, summary.over_optimum_max) {
        (Some(mean), Some(max)) => format!("{mean:.3} ({max:.3})"),
        _ => "-".to_owned(),
    }
}

fn planner_ms(summary: &Summary) -> String {
    match (summary.planner_ms_median, summary.planner_ms_max) {
        (Some(median), Some(max)) => format!("{median:.3} ({max:.2})"),
        _ => "-".to_owned(),
    }
}
