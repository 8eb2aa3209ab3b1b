//! What was measured, as a table and as JSON.

use std::fmt::Write;
use std::time::Instant;

use anyhow::{Context, Result};
use serde::Serialize;
use serde_json::Value;

use super::claims::{self, Claim};
use super::plan::{Asked, Plan, Point};
use super::plots;
use super::users::{Compared, Heard, gap_ms};
use crate::pipeline::plan::model_name;
use crate::provenance::Provenance;
use crate::result_dir::ResultDir;
use crate::statistics::Spread;

/// One session of a move.
#[derive(Serialize)]
struct Moved {
    strategy: String,
    handover_gap_ms: f64,
    predicted_ms: f64,
    switch_ms: f64,
    took_ms: f64,
    handover_bytes: u64,
    handover_tokens_prefilled: u64,
    handover_tokens_sent: u64,
}

/// One move.
#[derive(Serialize)]
pub(super) struct Sample {
    mode: Asked,
    context: usize,
    rate: u64,
    users: usize,
    sessions: Vec<Moved>,
}

impl Sample {
    /// Of what the source says and the users heard.
    pub(super) fn new(
        (point, mode): (&Point, Asked),
        reports: &[Value],
        heard: &[Heard],
        asked_at: Instant,
    ) -> Result<Self> {
        let sessions = reports.iter().zip(heard).map(|(report, heard)| {
            let number = |name: &str| report[name].as_f64().with_context(|| format!("no {name}"));
            let count = |name: &str| report[name].as_u64().with_context(|| format!("no {name}"));
            Ok(Moved {
                strategy: report["strategy"].as_str().unwrap_or_default().to_owned(),
                handover_gap_ms: gap_ms(heard, asked_at).context("a user heard nothing")?,
                predicted_ms: number("predicted_ms")?,
                switch_ms: number("switch_ms")?,
                took_ms: number("took_ms")?,
                handover_bytes: count("handover_bytes")?,
                handover_tokens_prefilled: count("handover_tokens_prefilled")?,
                handover_tokens_sent: count("handover_tokens_sent")?,
            })
        });
        Ok(Self {
            mode,
            context: point.context,
            rate: point.rate,
            users: point.users,
            sessions: sessions.collect::<Result<_>>()?,
        })
    }

    pub(super) fn in_words(&self) -> String {
        format!(
            "{}: {:.0} ms, predicted {:.0} ms",
            self.mode,
            self.worst(|it| it.handover_gap_ms),
            self.worst(|it| it.predicted_ms)
        )
    }

    fn worst(&self, of: impl Fn(&Moved) -> f64) -> f64 {
        self.sessions.iter().map(of).fold(0.0, f64::max)
    }

    #[expect(clippy::cast_precision_loss, reason = "counts for a table")]
    fn mean(&self, of: impl Fn(&Moved) -> u64) -> f64 {
        let sum: u64 = self.sessions.iter().map(of).sum();
        sum as f64 / self.sessions.len().max(1) as f64
    }
}

/// All moves of a point by one way.
#[derive(Serialize)]
pub(super) struct Row {
    pub(super) mode: Asked,
    /// What was used.
    pub(super) strategies: Vec<String>,
    pub(super) context: usize,
    pub(super) rate: u64,
    pub(super) users: usize,
    pub(super) link_profile: String,
    /// Of the worst user.
    #[serde(rename = "handover_gap_ms")]
    pub(super) gap: Spread,
    /// Of the worst user.
    #[serde(rename = "predicted_ms")]
    pub(super) predicted: Spread,
    /// Until the last one had moved.
    #[serde(rename = "took_ms")]
    pub(super) took: Spread,
    /// Of each session.
    #[serde(rename = "handover_bytes")]
    pub(super) bytes: Spread,
    #[serde(rename = "handover_tokens_prefilled")]
    pub(super) prefilled: Spread,
}

impl Row {
    pub(super) const fn point(&self) -> Point {
        Point {
            context: self.context,
            rate: self.rate,
            users: self.users,
        }
    }

    fn of(plan: &Plan, (point, mode): (Point, Asked), samples: &[Sample]) -> Option<Self> {
        let of_point = |it: &&Sample| {
            it.mode == mode
                && (it.context, it.rate, it.users) == (point.context, point.rate, point.users)
        };
        let samples: Vec<_> = samples.iter().filter(of_point).collect();
        let spread = |of: &dyn Fn(&Sample) -> f64| {
            Spread::of_some(samples.iter().map(|sample| Some(of(sample))))
        };
        let sessions = samples.iter().flat_map(|sample| &sample.sessions);
        let mut strategies: Vec<_> = sessions.map(|it| it.strategy.clone()).collect();
        strategies.sort();
        strategies.dedup();
        Some(Self {
            mode,
            strategies,
            context: point.context,
            rate: point.rate,
            users: point.users,
            link_profile: format!("{} Mbit/s, RTT {} ms", point.rate, plan.rtt.as_millis()),
            gap: spread(&|it| it.worst(|it| it.handover_gap_ms))?,
            predicted: spread(&|it| it.worst(|it| it.predicted_ms))?,
            took: spread(&|it| it.worst(|it| it.took_ms))?,
            bytes: spread(&|it| it.mean(|it| it.handover_bytes))?,
            prefilled: spread(&|it| it.mean(|it| it.handover_tokens_prefilled))?,
        })
    }
}

#[cfg(test)]
impl Default for Row {
    fn default() -> Self {
        let nothing = Spread::of([0.0]);
        Self {
            mode: Asked::Auto,
            strategies: Vec::new(),
            context: 0,
            rate: 0,
            users: 0,
            link_profile: String::new(),
            gap: nothing,
            predicted: nothing,
            took: nothing,
            bytes: nothing,
            prefilled: nothing,
        }
    }
}

/// A whole run.
#[derive(Serialize)]
pub(super) struct Report {
    benchmark: &'static str,
    provenance: Provenance,
    model: String,
    threads: u32,
    max_num_batched_tokens: u32,
    seed: u64,
    pub(super) rounds: u32,
    claims: Vec<Claim>,
    compared: Compared,
    failures: Vec<String>,
    pub(super) rows: Vec<Row>,
    samples: Vec<Sample>,
}

impl Report {
    pub(super) fn new(
        plan: &Plan,
        provenance: Provenance,
        (samples, failures): (Vec<Sample>, Vec<String>),
        compared: Compared,
    ) -> Self {
        let points = plan.points.iter();
        let rows = points.flat_map(|point| {
            let of = |mode: &Asked| Row::of(plan, (*point, *mode), &samples);
            plan.asked.iter().filter_map(of).collect::<Vec<_>>()
        });
        let rows: Vec<_> = rows.collect();
        Self {
            benchmark: "handover-execution",
            provenance,
            model: model_name(&plan.model),
            threads: plan.threads.get(),
            max_num_batched_tokens: plan.step_len,
            seed: plan.seed,
            rounds: plan.round_count,
            claims: claims::of(&rows),
            compared,
            failures,
            rows,
            samples,
        }
    }

    /// Whether every session moved, and went on with its tokens.
    pub(super) fn is_sound(&self) -> bool {
        self.failures.is_empty() && self.compared.different_count == 0
    }

    pub(super) fn print(&self) {
        print!("{}", self.markdown());
    }

    fn markdown(&self) -> String {
        let mut text = String::new();
        let mut line = |words: &str| {
            text.push_str(words);
            text.push('\n');
        };
        line(
            "| sessions | context | Mbit/s | strategy | gap (ms) | predicted (ms) | gap / predicted | until moved (ms) | MB each | prefilled each |",
        );
        line("|---|---|---|---|---|---|---|---|---|---|");
        for row in &self.rows {
            line(&row_words(row));
        }
        line("");
        let Compared {
            moved_count,
            different_count,
            token_count,
        } = self.compared;
        line(&format!(
            "{moved_count} answers that moved, {token_count} tokens: {different_count} differ from the answer without a move."
        ));
        line("");
        line("| must be | found | |");
        line("|---|---|---|");
        for Claim {
            claim,
            found,
            holds,
        } in &self.claims
        {
            let verdict = if *holds { "holds" } else { "not met here" };
            line(&format!("| {claim} | {found} | {verdict} |"));
        }
        for failure in &self.failures {
            line(&format!("\nfailed: {failure}"));
        }
        text
    }

    pub(super) fn write(&self, dir: &ResultDir) -> Result<()> {
        dir.write_json("handover-execution.json", self)?;
        dir.write("handover-execution.md", &self.markdown())?;
        let plots = plots::draw(self);
        for (name, file) in &plots {
            dir.write(name, file)?;
        }
        println!(
            "handover-execution.json, .md and {} plots are in {}",
            plots.len(),
            dir.path().display()
        );
        Ok(())
    }

    pub(super) fn origin(&self) -> String {
        let provenance = &self.provenance;
        format!(
            "{}, {} threads each; {}, {}",
            self.model,
            self.threads,
            provenance.cpu,
            provenance.short_commit()
        )
    }
}

fn row_words(row: &Row) -> String {
    let mut mode = row.mode.to_string();
    if row.mode == Asked::Auto {
        // Writing to a string does not fail.
        let _ = write!(mode, " ({})", row.strategies.join(", "));
    }
    format!(
        "| {} | {} | {} | {mode} | {:.0} ({:.0} to {:.0}) | {:.0} | {:.2} | {:.0} | {:.1} | {:.0} |",
        row.users,
        row.context,
        row.rate,
        row.gap.median,
        row.gap.min,
        row.gap.max,
        row.predicted.median,
        row.gap.median / row.predicted.median,
        row.took.median,
        row.bytes.median / 1e6,
        row.prefilled.median,
    )
}
