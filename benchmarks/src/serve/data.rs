//! Which requests are sent: the arguments that choose the data set, and the data set they choose.

use std::fs::File;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use clap::{Args, ValueEnum};
use serde_json::{Value, json};

use crate::arrivals::{Burstiness, RequestRate, arrivals};
use crate::dataset::{
    self, CountTokens, Lens, Order, Oversampling, RandomLens, Rules, Sample, ShareGpt,
    ShareGptLens, TextGenerator, TraceRow,
};

/// Most requests of a run.
const PROMPTS_MAX: u64 = 1_000_000;

/// Longest made-up prompt or answer: the longest contexts of models.
const LEN_MAX: u64 = 1 << 20;

/// Where requests come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
enum DatasetName {
    /// ShareGPT's conversations; without a file, texts made up in lengths like theirs.
    Sharegpt,
    /// Texts made up in lengths given.
    Random,
}

/// Which requests are sent, and when.
#[derive(Args)]
pub(crate) struct DataArgs {
    /// Where requests come from
    #[arg(long, value_enum, default_value = "sharegpt")]
    dataset_name: DatasetName,
    /// ShareGPT_V3_unfiltered_cleaned_split.json; without it, texts are made up in lengths like its
    #[arg(long, value_name = "FILE")]
    dataset_path: Option<PathBuf>,
    /// Requests to send
    #[arg(long, value_name = "N", default_value_t = 1000,
        value_parser = clap::value_parser!(u64).range(1..=PROMPTS_MAX))]
    num_prompts: u64,
    /// Seed of the choice, the texts and the arrivals
    #[arg(long, default_value_t = 0)]
    pub(crate) seed: u64,
    /// Tokens of every answer, in place of those of the conversations
    #[arg(long, value_name = "TOKENS", value_parser = clap::value_parser!(u64).range(1..=LEN_MAX))]
    sharegpt_output_len: Option<u64>,
    /// Send fewer requests where there are fewer conversations, and none twice
    #[arg(long)]
    no_oversample: bool,
    /// Take conversations in the order of the file
    #[arg(long)]
    disable_shuffle: bool,
    /// The same as --random-input-len, over which it wins
    #[arg(long, value_name = "TOKENS", conflicts_with = "trace",
        value_parser = clap::value_parser!(u64).range(1..=LEN_MAX))]
    input_len: Option<u64>,
    /// The same as --random-output-len and --sharegpt-output-len, over which it wins
    #[arg(long, value_name = "TOKENS", conflicts_with = "trace",
        value_parser = clap::value_parser!(u64).range(1..=LEN_MAX))]
    output_len: Option<u64>,
    /// Tokens of a prompt of --dataset-name random
    #[arg(long, value_name = "TOKENS", default_value_t = 1024,
        value_parser = clap::value_parser!(u64).range(1..=LEN_MAX))]
    random_input_len: u64,
    /// Tokens of its answer
    #[arg(long, value_name = "TOKENS", default_value_t = 128,
        value_parser = clap::value_parser!(u64).range(1..=LEN_MAX))]
    random_output_len: u64,
    /// Share of these lengths, from 0 and below 1, by which each may be less or more
    #[arg(long, value_name = "SHARE", default_value_t = 0.0, value_parser = range_ratio)]
    random_range_ratio: f64,
    /// CSV of arrivals: time, prompt tokens, answer tokens (Azure's LLM inference traces); requests
    /// come when it says and are as long as it says
    #[arg(
        long,
        value_name = "FILE",
        conflicts_with_all = ["request_rate", "burstiness", "dataset_path", "dataset_name"]
    )]
    trace: Option<PathBuf>,
    /// Let a trace's time pass so many times as fast
    #[arg(long, value_name = "FACTOR", default_value_t = 1.0, requires = "trace",
        value_parser = speed)]
    trace_speed: f64,
    /// Requests per second, or inf to send all at once
    #[arg(long, value_name = "RATE", default_value = "inf")]
    pub(crate) request_rate: RequestRate,
    /// How evenly they come: 1 is a Poisson process, less is in bursts, more is more even
    #[arg(long, value_name = "SHAPE", default_value = "1.0")]
    pub(crate) burstiness: Burstiness,
}

fn range_ratio(text: &str) -> Result<f64, String> {
    let ratio = text.parse().ok().filter(|ratio| (0.0..1.0).contains(ratio));
    ratio.ok_or_else(|| "a number from 0 and below 1".to_owned())
}

fn speed(text: &str) -> Result<f64, String> {
    let speed = text.parse().ok().filter(|it| (1e-3..=1e6).contains(it));
    speed.ok_or_else(|| "a number from 0.001 to 1000000".to_owned())
}

/// The requests of a run.
pub(crate) struct Workload {
    /// What is asked, in order.
    pub(crate) samples: Vec<Sample>,
    /// When each comes, after the beginning.
    pub(crate) arrivals: Vec<Duration>,
    /// Where they come from, for the result.
    pub(crate) origin: Value,
    /// The same for a person, on lines.
    pub(crate) notes: Vec<String>,
}

impl DataArgs {
    /// The workload.
    ///
    /// # Errors
    /// If a file cannot be read or there is nothing in it, and those of counting.
    pub(crate) fn load(&self, count: CountTokens<'_>) -> Result<Workload> {
        if let Some(trace) = &self.trace {
            return self.replay(trace, count);
        }
        let lens: Box<dyn Iterator<Item = Lens>> = match (self.dataset_name, &self.dataset_path) {
            (DatasetName::Sharegpt, Some(path)) => return self.conversations(path, count),
            (DatasetName::Sharegpt, None) => Box::new(ShareGptLens::new(self.seed)),
            (DatasetName::Random, _) => Box::new(RandomLens::new(
                Lens {
                    prompt: usize_of(self.input_len.unwrap_or(self.random_input_len)),
                    output: usize_of(self.output_len.unwrap_or(self.random_output_len)),
                },
                self.random_range_ratio,
                self.seed,
            )),
        };
        let forced = self.sharegpt_output_len();
        let lens = lens.take(usize_of(self.num_prompts)).map(|lens| Lens {
            output: forced
                .filter(|_| self.dataset_name == DatasetName::Sharegpt)
                .unwrap_or(lens.output),
            ..lens
        });
        let samples = dataset::generate(lens, &mut TextGenerator::new(self.seed), count)?;
        let (name, note) = match self.dataset_name {
            DatasetName::Sharegpt => (
                "generated",
                "no --dataset-path: texts are made up, in lengths distributed as ShareGPT's",
            ),
            DatasetName::Random => ("random", "texts are made up"),
        };
        Ok(self.at_rate(samples, json!({ "name": name }), vec![note.to_owned()]))
    }

    fn sharegpt_output_len(&self) -> Option<usize> {
        self.output_len.or(self.sharegpt_output_len).map(usize_of)
    }

    fn conversations(&self, path: &Path, count: CountTokens<'_>) -> Result<Workload> {
        let rules = Rules {
            sample_count: usize_of(self.num_prompts),
            seed: self.seed,
            order: match self.disable_shuffle {
                true => Order::AsStored,
                false => Order::Shuffled,
            },
            output_len: self.sharegpt_output_len(),
            oversampling: match self.no_oversample {
                true => Oversampling::Never,
                false => Oversampling::WithReplacement,
            },
        };
        let (samples, tally) = ShareGpt::open(path)?.samples(&rules, count)?;
        let note = format!("{}: {tally}", path.display());
        let origin = json!({
            "name": "sharegpt", "file": file_name(path), "blake3": digest(path)?, "tally": tally,
        });
        Ok(self.at_rate(samples, origin, vec![note]))
    }

    fn at_rate(&self, samples: Vec<Sample>, origin: Value, notes: Vec<String>) -> Workload {
        let (rate, burstiness) = (self.request_rate, self.burstiness);
        Workload {
            arrivals: arrivals(samples.len(), rate, burstiness, self.seed),
            samples,
            origin,
            notes,
        }
    }

    fn replay(&self, path: &Path, count: CountTokens<'_>) -> Result<Workload> {
        let unread = || format!("the trace {} is not read", path.display());
        let file = File::open(path).with_context(unread)?;
        let read = dataset::read_trace(BufReader::new(file), usize_of(self.num_prompts));
        let (rows, malformed) = read.with_context(unread)?;
        ensure!(
            !rows.is_empty(),
            "{} has no requests ({malformed}): lines of time, prompt tokens and answer tokens are expected, with commas",
            path.display()
        );
        let lens = rows.iter().map(|row| row.lens);
        let samples = dataset::generate(lens, &mut TextGenerator::new(self.seed), count)?;
        let at = |row: &TraceRow| row.arrival.div_f64(self.trace_speed);
        Ok(Workload {
            arrivals: rows.iter().map(at).collect(),
            samples,
            notes: vec![format!(
                "{}: {} requests, {malformed}; texts are made up",
                path.display(),
                rows.len()
            )],
            origin: json!({
                "name": "trace", "file": file_name(path), "blake3": digest(path)?,
                "speed": self.trace_speed, "malformed": malformed,
            }),
        })
    }
}

/// What public text stands before each prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum CloudText {
    /// That of a file.
    File(PathBuf),
    /// A made-up one of so many tokens.
    Generated(usize),
}

impl CloudText {
    /// Reads or makes the text.
    ///
    /// # Errors
    /// If the file cannot be read, and those of counting.
    pub(crate) fn text(&self, seed: u64, count: CountTokens<'_>) -> Result<String> {
        match self {
            Self::File(path) => std::fs::read_to_string(path)
                .with_context(|| format!("the cloud prompt {} is not read", path.display())),
            // Ends with a line break, where tokenizers end a token.
            Self::Generated(len) => Ok(TextGenerator::new(!seed).of_len(*len, count)?.text + ".\n"),
        }
    }
}

impl std::str::FromStr for CloudText {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<u64>() {
            Ok(len) if (1..=LEN_MAX).contains(&len) => Ok(Self::Generated(usize_of(len))),
            Ok(_) => Err(format!("a length from 1 to {LEN_MAX}, or a file")),
            Err(_) => Ok(Self::File(text.into())),
        }
    }
}

/// The name without the folders, which say nothing to others.
fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

pub(crate) fn digest(path: &Path) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let file = File::open(path)?;
    hasher.update_reader(file)?;
    Ok(hasher.finalize().to_hex().to_string())
}

/// Of a number that was parsed to be below a million or so.
fn usize_of(number: u64) -> usize {
    usize::try_from(number).unwrap_or(usize::MAX)
}
