//! Everything that came out, as JSON and in words.

use std::fmt::Write;

use serde::Serialize;

use super::beside_radio::BesideRadio;
use super::claims::{Claim, Verdict};
use super::optima::Foreseen;
use super::planner_cost::PlannerCost;
use super::radio::Streaming;
use super::setting::Draws;
use super::sweep::Swept;
use super::table;
use super::traces::OnTrace;
use crate::provenance::Provenance;

/// What is written to `handover-simulation.json`.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) benchmark: &'static str,
    pub(super) provenance: Provenance,
    pub(super) draws: Draws,
    pub(super) claims: Vec<Claim>,
    pub(super) sweeps: Vec<Swept>,
    pub(super) optimum_where_known: Vec<Foreseen>,
    pub(super) streaming: Vec<Streaming>,
    pub(super) traces: Vec<OnTrace>,
    /// Empty without measured handovers of the radio.
    pub(super) beside_radio: Vec<BesideRadio>,
    pub(super) planner: Vec<PlannerCost>,
}

impl Report {
    /// For a terminal: every table, and the claims at the end.
    pub(super) fn text(&self) -> String {
        let mut text = self.tables(table::Style::Terminal);
        text.push('\n');
        for claim in &self.claims {
            let verdict = words(claim.verdict);
            let _ = writeln!(text, "{verdict} {}: {}", claim.claim, claim.found);
        }
        let _ = writeln!(text, "seed {}", self.draws.seed);
        text
    }

    /// For a document: where it comes from, the claims, and every table.
    pub(super) fn markdown(&self) -> String {
        let from = &self.provenance;
        let mut text = format!(
            "{}, commit {}, {} ({} CPUs), {}, {} draws a point, the optimum of {}, seed {}.\n\n",
            from.date,
            from.short_commit(),
            from.cpu,
            from.logical_cpu_count,
            from.rustc,
            self.draws.count,
            self.draws.optimum_count,
            self.draws.seed,
        );
        text.push_str("| claim | found | |\n| --- | --- | --- |\n");
        for claim in &self.claims {
            let verdict = words(claim.verdict);
            let _ = writeln!(text, "| {} | {} | {verdict} |", claim.claim, claim.found);
        }
        text.push_str(&self.tables(table::Style::Markdown));
        text
    }

    fn tables(&self, style: table::Style) -> String {
        let mut text = String::new();
        for swept in &self.sweeps {
            text.push_str(&table::of_sweep(swept, style));
        }
        text.push_str(&table::of_foreseen(&self.optimum_where_known, style));
        text.push_str(&table::of_streaming(&self.streaming, style));
        if !self.traces.is_empty() {
            text.push_str(&table::of_traces(&self.traces, style));
        }
        if !self.beside_radio.is_empty() {
            text.push_str(&table::of_beside_radio(&self.beside_radio, style));
        }
        text.push_str(&table::of_planner(&self.planner, style));
        text
    }
}

const fn words(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Holds => "holds",
        Verdict::Fails => "FAILS",
        Verdict::NotOnThisMachine => "not on this machine",
    }
}
