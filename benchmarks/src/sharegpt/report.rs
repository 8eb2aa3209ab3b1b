//! What a run of `benchmarks sharegpt` says: a table, a JSON file, plots.

use anyhow::Result;
use serde_json::{Value, json};

use super::claims::{self, Claim};
use super::lens::Lens;
use super::messages::Mode;
use super::outcome::{Fill, GroupOutcome, Series};
use super::plan::{Plan, ShareGptArgs};
use super::plots;
use crate::pipeline::plan::{model_name, model_or_default};
use crate::provenance::Provenance;
use crate::result_dir::ResultDir;
use crate::statistics::Spread;

/// Everything that was measured, and where it comes from.
pub(super) struct Report<'a> {
    model: String,
    devices: [String; 2],
    plan: &'a Plan,
    lens: &'a Lens,
    provenance: Provenance,
    series: &'a [Series],
}

impl<'a> Report<'a> {
    pub(super) fn new(
        args: &ShareGptArgs,
        (plan, lens): (&'a Plan, &'a Lens),
        provenance: Provenance,
        series: &'a [Series],
    ) -> Self {
        let model = model_or_default(&args.model);
        Self {
            model: model_name(&model),
            devices: [args.edge_device, args.cloud_device]
                .map(|device| device.unwrap_or(model.device).to_string()),
            plan,
            lens,
            provenance,
            series,
        }
    }

    /// The table, for people.
    pub(super) fn print(&self) {
        println!("\n{}", self.table());
    }

    fn claims(&self) -> Vec<Claim> {
        match self.plan.request_rates.is_empty() {
            true => claims::of_groups(self.series),
            false => claims::of_rates(self.series),
        }
    }

    /// The table, the JSON file and the plots, into a folder.
    pub(super) fn write(&self, dir: &ResultDir) -> Result<()> {
        let name = match self.plan.request_rates.is_empty() {
            true => "sharegpt",
            false => "sharegpt-interactive",
        };
        dir.write_json(&format!("{name}.json"), &self.json())?;
        let table = self.table();
        dir.write(&format!("{name}.md"), &format!("```text\n{table}```\n"))?;
        let subtitle = format!(
            "{}, {}, link {}, {} requests",
            self.model, self.provenance.cpu, self.plan.link_profile, self.plan.num_prompts
        );
        let drawn = plots::draw(self.plan, &subtitle, self.series);
        for (file, plot) in &drawn {
            dir.write(file, plot)?;
        }
        let names: Vec<_> = drawn.iter().map(|(file, _)| *file).collect();
        let (path, plots) = (dir.path().display(), names.join(", "));
        println!("{name}.json, {name}.md, {plots} are in {path}");
        Ok(())
    }

    /// Rows, and what they say.
    fn table(&self) -> String {
        let rows = match self.plan.request_rates.is_empty() {
            true => self.groups_table(),
            false => self.rates_table(),
        };
        let claims = self.claims().into_iter();
        let claims: String = claims.map(|claim| claim.in_words()).collect();
        match claims.is_empty() {
            true => rows,
            false => format!("{rows}\n{claims}"),
        }
    }

    fn groups_table(&self) -> String {
        let mut table = format!(
            "{:>6} {:<11} {:>10} {:>18} {:>10} {:>10} {:>8} {:>10}\n",
            "CLOUD", "MODE", "TOK/S", "(MIN TO MAX)", "WITH FILL", "FILL s", "vs PAGED", "SAME AS"
        );
        for series in self.series {
            let groups = series.groups.iter().map(GroupOutcome::output_throughput);
            let Spread { min, max, .. } = Spread::of(groups);
            let rate = series.output_throughput(Fill::LeftOut);
            let paged = self.beside(series, Mode::Paged);
            let ratio = paged.map_or_else(String::new, |paged| {
                format!("{:.2}", rate / paged.output_throughput(Fill::LeftOut))
            });
            let (spread, filled) = (
                format!("({min:.1} to {max:.1})"),
                series.output_throughput(Fill::Counted),
            );
            table += &format!(
                "{:>6} {:<11} {rate:>10.1} {spread:>18} {filled:>10.1} {:>10.2} {ratio:>8} {:>10}\n",
                series.cloud_len,
                series.mode,
                series.fill_s,
                self.same(series),
            );
        }
        table
    }

    fn rates_table(&self) -> String {
        let mut table = format!(
            "{:>7} {:<11} {:>10} {:>10} {:>12} {:>12} {:>12}\n",
            "REQ/S", "MODE", "ANSWERED/S", "TOK/S", "TTFT ms", "P99 TTFT ms", "MEAN s/TOK"
        );
        for series in self.series {
            let ttft = series.ttft_ms();
            table += &format!(
                "{:>7} {:<11} {:>10.2} {:>10.1} {:>12.1} {:>12.1} {:>12.4}\n",
                series.request_rate.unwrap_or_default(),
                series.mode,
                series.request_throughput(),
                series.output_throughput(Fill::LeftOut),
                ttft.median(),
                ttft.percentile(99.0),
                series.seconds_per_token().mean(),
            );
        }
        table
    }

    /// The same point in another mode.
    fn beside(&self, series: &Series, mode: Mode) -> Option<&Series> {
        let mut others = self.series.iter();
        others.find(|it| {
            it.mode == mode
                && it.cloud_len == series.cloud_len
                && it.request_rate == series.request_rate
        })
    }

    /// How many answers are the same as with everything computed for each request.
    fn same(&self, series: &Series) -> String {
        let reference = self.beside(series, Mode::Paged);
        match reference.filter(|it| it.cloud_ordinal == series.cloud_ordinal) {
            Some(paged) => {
                format!("{}/{}", series.same_answers(paged), series.request_count())
            }
            None => "-".to_owned(),
        }
    }

    fn json(&self) -> Value {
        let rows = self.series.iter().map(|series| {
            let (ttft, per_token) = (series.ttft_ms(), series.seconds_per_token());
            json!({
                "mode": series.mode,
                "cloud_len": series.cloud_len,
                "request_rate": series.request_rate,
                "output_throughput": series.output_throughput(Fill::LeftOut),
                "output_throughput_with_fill": series.output_throughput(Fill::Counted),
                "fill_s": series.fill_s,
                "request_throughput": series.request_throughput(),
                "mean_ttft_ms": ttft.mean(),
                "median_ttft_ms": ttft.median(),
                "std_ttft_ms": ttft.population_std(),
                "p99_ttft_ms": ttft.percentile(99.0),
                "mean_s_per_token": per_token.mean(),
                "median_s_per_token": per_token.median(),
                "p99_s_per_token": per_token.percentile(99.0),
                "same_answers_as_paged": self.same(series),
                "groups": series.groups,
            })
        });
        json!({
            "benchmark": "sharegpt",
            "provenance": self.provenance,
            "model": self.model,
            "dtype": "f32",
            "edge_device": self.devices[0],
            "cloud_device": self.devices[1],
            "link_profile": self.plan.link_profile,
            "settings": self.plan,
            "output_lens": self.lens,
            "claims": self.claims(),
            "rows": rows.collect::<Vec<_>>(),
        })
    }
}

#[cfg(test)]
mod tests;
