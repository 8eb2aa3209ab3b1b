//! What came out of `benchmarks decode`: a table and a JSON file.

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;

use super::DecodeArgs;
use super::contender::{Contender, Kind};
use crate::provenance::Provenance;
use crate::result_dir::ResultDir;
use crate::statistics::Spread;

/// Everything measured.
#[derive(Serialize)]
pub(crate) struct Report {
    provenance: Provenance,
    model: String,
    device: String,
    threads: usize,
    cloud_len: usize,
    edge_len: usize,
    rows: Vec<Row>,
}

#[derive(Serialize)]
struct Row {
    batch: usize,
    mode: Kind,
    /// Output tokens per second, of each round.
    output_throughput: Vec<f64>,
    /// Against the last mode in the same round; nothing for that one itself.
    ratio: Option<Spread>,
    /// Steps with the same greedy tokens as the last mode, of how many.
    same_steps: usize,
    steps: usize,
}

impl Report {
    pub(crate) fn new(args: &DecodeArgs) -> Result<Self> {
        let shape = args.model.model_shape.map(|shape| shape.to_string());
        let path = args.model.model.as_ref();
        let model = path.map_or(shape, |path| Some(path.display().to_string()));
        Ok(Self {
            provenance: Provenance::gather()?.computing_on(&[args.model.device]),
            model: model.unwrap_or_default(),
            device: args.model.device.to_string(),
            threads: rayon::current_num_threads(),
            cloud_len: args.cloud_len,
            edge_len: args.edge_len.get(),
            rows: Vec::new(),
        })
    }

    /// Takes the rounds of everyone at one batch size.
    pub(crate) fn add(&mut self, batch: NonZeroUsize, contenders: Vec<(Contender, Vec<f64>)>) {
        let Some((baseline, baseline_rates)) = contenders.last() else {
            return;
        };
        for (contender, rates) in &contenders {
            let ratios = rates.iter().zip(baseline_rates).map(|(a, b)| a / b);
            self.rows.push(Row {
                batch: batch.get(),
                mode: contender.kind,
                ratio: (contender.kind != baseline.kind).then(|| Spread::of(ratios)),
                same_steps: contender.steps_as(baseline),
                steps: contender.step_count(),
                output_throughput: rates.clone(),
            });
        }
    }

    pub(crate) fn print(&self) {
        println!(
            "{}: {} threads, cloud prompt {}, private prompt {}",
            self.model, self.threads, self.cloud_len, self.edge_len
        );
        println!(
            "{:>5} {:<8} {:>22} {:>22} {:>12}",
            "batch", "mode", "tok/s (min-max)", "ratio (min-max)", "same steps"
        );
        for row in &self.rows {
            let rate = Spread::of(row.output_throughput.iter().copied());
            let ratio = row
                .ratio
                .as_ref()
                .map_or_else(String::new, |it| spread(it, 2));
            println!(
                "{:>5} {:<8} {:>22} {ratio:>22} {:>12}",
                row.batch,
                row.mode,
                spread(&rate, 1),
                format!("{}/{}", row.same_steps, row.steps),
            );
        }
    }

    pub(crate) fn write(&self, dir: &ResultDir) -> Result<PathBuf> {
        dir.write_json("decode.json", self)
    }
}

fn spread(it: &Spread, digits: usize) -> String {
    let Spread { median, min, max } = it;
    format!("{median:.digits$} ({min:.digits$}-{max:.digits$})")
}
