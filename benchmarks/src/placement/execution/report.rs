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

/// How a placement came about.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct Moved {
    pub(super) migrations: f64,
    /// What the planner said of it before anything moved.
    pub(super) forecast_ms: Option<f64>,
}

/// What the planner may be wrong by.
const TOLERANCE: f64 = 0.15;

/// All answers with one placement.
#[derive(Serialize)]
struct Row {
    workers: usize,
    policy: &'static str,
    token_ms: Spread,
    predicted_ms: Spread,
    /// Measured over predicted, answer by answer.
    ratio: Spread,
    moved: Moved,
    samples: Vec<Sample>,
}

impl Row {
    /// Whether what was predicted with the placement in force is near to what was measured.
    fn is_predicted(&self) -> bool {
        (self.ratio.median - 1.0).abs() <= TOLERANCE
    }

    /// Measured over predicted before anything moved.
    fn forecast_ratio(&self) -> Option<f64> {
        let forecast = self.moved.forecast_ms?;
        Some(self.token_ms.median / forecast)
    }
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
        moved: Moved,
    ) {
        let row = Row {
            workers,
            policy,
            token_ms: Spread::of(samples.iter().map(|it| it.token_ms)),
            predicted_ms: Spread::of(samples.iter().map(|it| it.predicted_ms)),
            ratio: Spread::of(samples.iter().map(|it| it.token_ms / it.predicted_ms)),
            moved,
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
            "{:>7}  {:6}  {:>22}  {:>14}  {:>20}  {:>8}  {:>16}  {:>10}",
            "workers",
            "placed",
            "ms/token (min-max)",
            "predicted",
            "measured/predicted",
            "forecast",
            "measured/forecast",
            "migrations"
        );
        for row in &self.rows {
            let spread = |it: &Spread| format!("{:.1} ({:.1}-{:.1})", it.median, it.min, it.max);
            let ratio = &row.ratio;
            let some = |it: Option<f64>, digits| {
                it.map_or_else(|| "-".to_owned(), |it| format!("{it:.digits$}"))
            };
            println!(
                "{:>7}  {:6}  {:>22}  {:>14.1}  {:>20}  {:>8}  {:>16}  {:>10}",
                row.workers,
                row.policy,
                spread(&row.token_ms),
                row.predicted_ms.median,
                format!("{:.2} ({:.2}-{:.2})", ratio.median, ratio.min, ratio.max),
                some(row.moved.forecast_ms, 1),
                some(row.forecast_ratio(), 2),
                row.moved.migrations
            );
        }
        println!(
            "here: the leader alone; even: as many heads and slices on each device; best: as the planner has it.\n\
             predicted: at plans, with what was measured of the placement in force; forecast: before anything moved.\n\
             Medians over answers; the tokens were the same in all of them."
        );
        for verdict in self.verdicts() {
            println!("{verdict}");
        }
    }

    /// Whether what is wanted of the planner holds, in words.
    fn verdicts(&self) -> Vec<String> {
        let mut words = Vec::new();
        for row in &self.rows {
            let is = match row.is_predicted() {
                true => "within",
                false => "NOT within",
            };
            words.push(format!(
                "{} workers, {}: measured is {is} {:.0} % of predicted ({:+.0} %)",
                row.workers,
                row.policy,
                TOLERANCE * 100.0,
                (row.ratio.median - 1.0) * 100.0
            ));
        }
        for workers in &self.settings.workers {
            if let (Some(here), Some(even)) =
                (self.row(*workers, "here"), self.row(*workers, "even"))
            {
                let should = even.predicted_ms.median < here.predicted_ms.median;
                let does = even.token_ms.median < here.token_ms.median;
                words.push(format!(
                    "{workers} workers and the leader {} the leader alone, and {}",
                    match should {
                        true => "should beat",
                        false => "should not beat",
                    },
                    match does {
                        true => "do",
                        false => "do not",
                    }
                ));
            }
        }
        words
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
                args.model_name(),
                args.share,
                args.rate,
                args.rtt_ms
            ),
            x: (
                "workers beside the leader",
                args.workers.iter().map(ToString::to_string).collect(),
            ),
            y: "time of a token (ms)",
            lines: lines.collect(),
        }
    }

    /// That several devices were used where they should be, and beat one where they should by more than
    /// the planner may be wrong by; and that the best placement is not worse than the leader alone by
    /// more than measurements scatter.
    pub(super) fn check(&self) -> Result<()> {
        for workers in &self.settings.workers {
            let rows = ["here", "even", "best"].map(|policy| self.row(*workers, policy));
            let [Some(here), Some(even), Some(best)] = rows else {
                continue;
            };
            if *workers > 0 && even.moved.migrations == 0.0 {
                bail!("with {workers} workers nothing was placed on them");
            }
            let should_beat =
                even.predicted_ms.median < here.predicted_ms.median * (1.0 - TOLERANCE);
            if should_beat && even.token_ms.median >= here.token_ms.median {
                bail!("{workers} workers and the leader should beat the leader alone, and do not");
            }
            if best.token_ms.min > here.token_ms.max * (1.0 + TOLERANCE) {
                bail!(
                    "with {workers} workers the planner's placement is slower than the leader alone"
                );
            }
        }
        Ok(())
    }
}
