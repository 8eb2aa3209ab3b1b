//! What came out of `benchmarks codecs`: tables and a JSON file.

use std::collections::BTreeMap;
use std::path::PathBuf;

use anyhow::Result;
use serde::Serialize;

use super::harm::Harm;
use super::speed::Speed;
use super::text::TextSource;
use super::{CodecsArgs, DEVICE};
use crate::provenance::Provenance;
use crate::result_dir::ResultDir;

/// Everything measured.
#[derive(Serialize)]
pub(crate) struct Report {
    provenance: Provenance,
    device: String,
    /// Of everything but the speeds, which are one thread's.
    threads: usize,
    seed: u64,
    cloud_len: usize,
    edge_len: usize,
    text_count: usize,
    rows: Vec<Row>,
    /// Of each format, in how many of 100 places another token is the most likely one, at the worst.
    harm_per_cent: BTreeMap<&'static str, f64>,
    pub(crate) speeds: Vec<Speed>,
}

/// One format on one model and one kind of text.
#[derive(Serialize)]
pub(crate) struct Row {
    model: String,
    text: TextSource,
    #[serde(flatten)]
    harm: Harm,
    /// Questions to the shop desk that were answered right, and how many there were.
    right_answers: Option<(usize, usize)>,
}

impl Row {
    pub(crate) fn new(model: &str, text: TextSource, harm: Harm) -> Self {
        Self {
            model: model.to_owned(),
            text,
            harm,
            right_answers: None,
        }
    }

    pub(crate) fn with_right_answers(self, counts: (usize, usize)) -> Self {
        Self {
            right_answers: Some(counts),
            ..self
        }
    }
}

impl Report {
    pub(crate) fn new(args: &CodecsArgs) -> Result<Self> {
        Ok(Self {
            provenance: Provenance::gather()?.computing_on(&[DEVICE]),
            device: DEVICE.to_string(),
            threads: rayon::current_num_threads(),
            seed: args.seed,
            cloud_len: args.cloud_len.get(),
            edge_len: args.edge_len.get(),
            text_count: args.texts.get(),
            rows: Vec::new(),
            harm_per_cent: BTreeMap::new(),
            speeds: Vec::new(),
        })
    }

    pub(crate) fn add(&mut self, row: Row) {
        let harm = 100.0 * (1.0 - row.harm.top1_agreement);
        let worst = self.harm_per_cent.entry(row.harm.codec).or_default();
        *worst = worst.max(harm);
        self.rows.push(row);
    }

    pub(crate) fn print(&self) {
        println!(
            "| model | text | codec | bytes/token | ratio | top-1 % | mean KL | max Δlogit | perplexity % | positions | entropy % | right answers |"
        );
        println!("|---|---|---|---|---|---|---|---|---|---|---|---|");
        for Row {
            model,
            text,
            harm,
            right_answers,
        } in &self.rows
        {
            let right = right_answers
                .map_or_else(String::new, |(right, count)| format!("{right} of {count}"));
            println!(
                "| {model} | {text} | {} | {:.1} | {:.2} | {:.2} | {:.6} | {:.3} | {:+.3} | {} | {:.1} | {right} |",
                harm.codec,
                harm.bytes_per_token,
                harm.ratio,
                100.0 * harm.top1_agreement,
                harm.kl_mean,
                harm.logit_change_max,
                100.0 * harm.perplexity_change,
                harm.position_count,
                100.0 * harm.entropy,
            );
        }
        println!("\nplaces where another token is the most likely one, at the worst, in per cent:");
        for (codec, harm) in &self.harm_per_cent {
            println!("{codec} {harm:.2}");
        }
        println!(
            "\n| codec | encoded GB/s of f32 | decoded GB/s of f32 | decoded Gbit/s of wire |"
        );
        println!("|---|---|---|---|");
        for speed in &self.speeds {
            println!(
                "| {} | {:.2} | {:.2} | {:.1} |",
                speed.codec, speed.encoded_gb_per_s, speed.decoded_gb_per_s, speed.wire_gbit_per_s
            );
        }
    }

    pub(crate) fn write(&self, dir: &ResultDir) -> Result<PathBuf> {
        dir.write_json("codecs.json", self)
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        args: CodecsArgs,
    }

    #[test]
    fn a_result_says_what_it_was_computed_with() {
        let line = Line::try_parse_from(["x", "--texts", "3"]).unwrap();
        let report = serde_json::to_value(Report::new(&line.args).unwrap()).unwrap();
        assert_eq!(report["device"], "flex");
        assert_eq!(report["threads"], rayon::current_num_threads());
        assert_eq!(report["provenance"]["gpu"], serde_json::Value::Null);
        assert_eq!(report["text_count"], 3);
    }
}
