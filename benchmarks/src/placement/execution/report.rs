//! What was measured: a table, JSON and a plot.

use std::path::PathBuf;

use anyhow::{Result, bail};
use serde::Serialize;

use super::{ExecutionArgs, POLICIES};
use crate::plot::colour::{BLUE, GREEN, ORANGE};
use crate::plot::line_plot::{Line, LinePlot, Point};
use crate::plot::svg::Marker;
use crate::provenance::Provenance;
use crate::result_dir::ResultDir;
use crate::statistics::Spread;

/// One answer.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Sample {
    pub(super) token_ms: f64,
    pub(super) predicted_ms: f64,
}

/// All answers with one placement.
#[derive(Serialize)]
struct Row {
    workers: usize,
    policy: &'static str,
    token_ms: Spread,
    predicted_ms: Spread,
    /// Measured over predicted, answer by answer.
    ratio: Spread,
    migrations: f64,
    samples: Vec<Sample>,
}

/// Everything that came out.
#[derive(Serialize)]
pub(super) struct Report {
    benchmark: &'static str,
    provenance: Provenance,
    settings: ExecutionArgs,
    rows: Vec<Row>,
}

impl Report {
    pub(super) fn new(args: &ExecutionArgs) -> Result<Self> {
        Ok(Self {
            benchmark: "placement-execution",
            provenance: Provenance::gather()?,
            settings: args.clone(),
            rows: Vec::new(),
        })
    }

    pub(super) fn add(
        &mut self,
        (workers, policy): (usize, &'static str),
        samples: Vec<Sample>,
        migrations: f64,
    ) {
        let row = Row {
            workers,
            policy,
            token_ms: Spread::of(samples.iter().map(|it| it.token_ms)),
            predicted_ms: Spread::of(samples.iter().map(|it| it.predicted_ms)),
            ratio: Spread::of(samples.iter().map(|it| it.token_ms / it.predicted_ms)),
            migrations,
            samples,
        };
        eprintln!(
            "  {:.1} ms a token, predicted {:.1} ms",
            row.token_ms.median, row.predicted_ms.median
        );
        self.rows.push(row);
    }

    pub(super) fn print(&self) {
        println!(
            "{:>7}  {:6}  {:>22}  {:>14}  {:>20}  {:>10}",
            "workers",
            "placed",
            "ms/token (min-max)",
            "predicted",
            "measured/predicted",
            "migrations"
        );
        for row in &self.rows {
            let spread = |it: &Spread| format!("{:.1} ({:.1}-{:.1})", it.median, it.min, it.max);
            let ratio = &row.ratio;
            println!(
                "{:>7}  {:6}  {:>22}  {:>14.1}  {:>20}  {:>10}",
                row.workers,
                row.policy,
                spread(&row.token_ms),
                row.predicted_ms.median,
                format!("{:.2} ({:.2}-{:.2})", ratio.median, ratio.min, ratio.max),
                row.migrations
            );
        }
        println!(
            "here: the leader alone; even: as many heads and slices on each device; best: as the planner has it.\n\
             Medians over answers; the tokens were the same in all of them."
        );
    }

    fn row(&self, workers: usize, policy: &str) -> Option<&Row> {
        let mut rows = self.rows.iter();
        rows.find(|row| row.workers == workers && row.policy == policy)
    }

    pub(super) fn write(&self, dir: &ResultDir) -> Result<Vec<PathBuf>> {
        Ok(vec![
            dir.write_json("placement-execution.json", self)?,
            dir.write("placement-execution.svg", &self.plot().draw())?,
        ])
    }

    fn plot(&self) -> LinePlot {
        let args = &self.settings;
        let styles = [
            (BLUE, Marker::Disc),
            (ORANGE, Marker::Square),
            (GREEN, Marker::Triangle),
        ];
        let lines = POLICIES
            .iter()
            .zip(styles)
            .map(|(policy, (colour, marker))| {
                let points = args.workers.iter().map(|workers| {
                    let it = self.row(*workers, policy)?.token_ms;
                    Some(Point {
                        value: it.median,
                        min: it.min,
                        max: it.max,
                    })
                });
                Line {
                    name: (*policy).to_owned(),
                    colour,
                    marker,
                    points: points.collect(),
                }
            });
        LinePlot {
            title: "A model on several devices".to_owned(),
            subtitle: format!(
                "{} on processes that compute {} % of the time, links of {} Mbit/s and {} ms",
                args.model_shape, args.share, args.rate, args.rtt_ms
            ),
            x: (
                "workers beside the leader",
                args.workers.iter().map(ToString::to_string).collect(),
            ),
            y: "time of a token (ms)",
            lines: lines.collect(),
        }
    }

    /// That the best placement is not worse than the leader alone by more than measurements scatter.
    pub(super) fn check(&self) -> Result<()> {
        for workers in &self.settings.workers {
            let [here, best] = ["here", "best"].map(|policy| self.row(*workers, policy));
            if let (Some(here), Some(best)) = (here, best)
                && best.token_ms.min > here.token_ms.max
            {
                bail!(
                    "with {workers} workers the planner's placement is slower than the leader alone"
                );
            }
        }
        Ok(())
    }
}
