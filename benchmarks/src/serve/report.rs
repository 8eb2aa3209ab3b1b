//! What is reported of a run, and the JSON of it: vLLM's keys, and our own under names that it does
//! not have.

use std::fmt;
use std::str::FromStr;

use clap::{ArgGroup, Args};
use serde_json::{Map, Value, json};

use super::answer::Answer;
use super::goodput::Slo;
use super::measured::{Measured, Metric};
use super::own_fields;
use super::sending::{Ending, Outcome, Run};
use crate::arrivals::{Burstiness, RequestRate};
use crate::provenance::Provenance;
use crate::result_dir::ResultDirArgs;

/// What is reported, and where to.
#[derive(Args)]
#[command(group = ArgGroup::new("saving").args(["save_result", "append_result"]).multiple(true))]
pub(crate) struct ReportArgs {
    /// Times to report
    #[arg(
        long,
        value_name = "METRICS",
        value_delimiter = ',',
        default_value = "ttft,tpot,itl,e2el"
    )]
    pub(crate) percentile_metrics: Vec<Metric>,
    /// Percentiles of them
    #[arg(
        long,
        value_name = "PERCENTS",
        value_delimiter = ',',
        default_value = "99"
    )]
    pub(crate) metric_percentiles: Vec<Percentile>,
    /// Promises of a good request in milliseconds, as ttft:200 tpot:50
    #[arg(long, value_name = "METRIC:MS", num_args = 1..)]
    pub(crate) goodput: Vec<Slo>,
    /// Write the JSON file
    #[arg(long)]
    pub(crate) save_result: bool,
    /// Write it as one line behind what is in the file, instead of in its place
    #[arg(long)]
    pub(crate) append_result: bool,
    /// Write each request's lengths and times into it
    #[arg(long, requires = "saving")]
    pub(crate) save_detailed: bool,
    #[command(flatten)]
    pub(crate) results: ResultDirArgs,
    /// Name of the file; made of label, rate, model and date unless given
    #[arg(long, value_name = "NAME")]
    pub(crate) result_filename: Option<String>,
    /// Label of the run; the backend unless given
    #[arg(long, value_parser = file_name_part)]
    pub(crate) label: Option<String>,
    /// More keys of the JSON, as KEY=VALUE
    #[arg(long, value_name = "KEY=VALUE", num_args = 1.., value_parser = metadata)]
    pub(crate) metadata: Vec<(String, String)>,
}

/// A percentage.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Percentile(pub(crate) f64);

impl FromStr for Percentile {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let percent = text.trim().parse().ok();
        let percent = percent.filter(|percent| (0.0..=100.0).contains(percent));
        percent
            .map(Self)
            .ok_or_else(|| "a number from 0 to 100".to_owned())
    }
}

/// Without a fraction if it is whole.
impl fmt::Display for Percentile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn file_name_part(text: &str) -> Result<String, String> {
    match text.contains(['/', '\\']) {
        true => Err("it becomes part of a file's name, where a slash cannot be".to_owned()),
        false => Ok(text.to_owned()),
    }
}

/// The keys of a result beside those of metrics.
const KEYS: [&str; 35] = [
    "date",
    "endpoint_type",
    "backend",
    "label",
    "model_id",
    "tokenizer_id",
    "num_prompts",
    "request_rate",
    "burstiness",
    "max_concurrency",
    "duration",
    "completed",
    "failed",
    "total_input_tokens",
    "total_output_tokens",
    "request_throughput",
    "request_goodput",
    "output_throughput",
    "total_token_throughput",
    "max_output_tokens_per_s",
    "max_concurrent_requests",
    "input_lens",
    "output_lens",
    "start_times",
    "ttfts",
    "itls",
    "errors",
    "benchmark",
    "interrupted",
    "total_cached_tokens",
    "failures",
    "dataset",
    "seed",
    "provenance",
    "kv_per_request",
];

/// Parses `KEY=VALUE` whose key means nothing else.
fn metadata(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("KEY=VALUE is expected")?;
    let is_metrics = key.ends_with("_ms") && Metric::ALL.iter().any(|it| key.contains(it.name()));
    let is_ours = own_fields::WORDS.contains(&key) || own_fields::NUMBERS.contains(&key);
    if key.is_empty() || KEYS.contains(&key) || is_metrics || is_ours {
        return Err(format!(
            "the key {key:?} has a meaning of its own in results"
        ));
    }
    Ok((key.to_owned(), value.to_owned()))
}

/// What a result says beside the numbers.
pub(crate) struct Setup {
    /// `%Y%m%d-%H%M%S`, local to nobody: UTC.
    pub(crate) date: String,
    pub(crate) backend: &'static str,
    pub(crate) model: String,
    /// How tokens were counted.
    pub(crate) tokenizer: &'static str,
    /// Requests that were to be sent.
    pub(crate) num_prompts: usize,
    pub(crate) request_rate: RequestRate,
    pub(crate) burstiness: Burstiness,
    pub(crate) max_concurrency: Option<usize>,
    pub(crate) seed: u64,
    pub(crate) dataset: Value,
    pub(crate) provenance: Provenance,
}

/// The whole result.
pub(crate) fn result(
    measured: &Measured,
    run: &Run,
    prompt_lens: &[usize],
    setup: &Setup,
    args: &ReportArgs,
) -> Map<String, Value> {
    let mut result = settings(setup, args);
    result.extend(numbers(measured));
    result.extend(times(measured, args));
    let answers = run.outcomes.iter().filter_map(|it| it.answer.as_ref().ok());
    result.extend(own_fields::summary(answers.map(|answer| &answer.own)));
    result.insert(
        "interrupted".to_owned(),
        (run.ending == Ending::Interrupted).into(),
    );
    if args.save_detailed {
        result.extend(detailed(&run.outcomes, prompt_lens));
    }
    result
}

fn settings(setup: &Setup, args: &ReportArgs) -> Map<String, Value> {
    let label = args.label.as_deref().unwrap_or(setup.backend);
    // JSON has no infinity.
    let number = |number: f64| match number.is_finite() {
        true => json!(number),
        false => json!("inf"),
    };
    let mut settings = object([
        ("benchmark", json!("serve")),
        ("date", json!(setup.date)),
        ("endpoint_type", json!(setup.backend)),
        ("backend", json!(setup.backend)),
        ("label", json!(label)),
        ("model_id", json!(setup.model)),
        ("tokenizer_id", json!(setup.tokenizer)),
        ("num_prompts", json!(setup.num_prompts)),
        ("request_rate", number(setup.request_rate.value())),
        ("burstiness", number(setup.burstiness.value())),
        ("max_concurrency", json!(setup.max_concurrency)),
        ("seed", json!(setup.seed)),
        ("dataset", json!(setup.dataset)),
        ("provenance", json!(setup.provenance)),
    ]);
    let metadata = args.metadata.iter();
    settings.extend(metadata.map(|(key, value)| (key.clone(), value.as_str().into())));
    settings
}

fn numbers(measured: &Measured) -> Map<String, Value> {
    let rate = |count| measured.per_second(count);
    let (input, output) = (measured.input_tokens, measured.output_tokens);
    object([
        ("duration", json!(measured.duration)),
        ("completed", json!(measured.completed)),
        ("failed", json!(measured.failed)),
        ("failures", json!(measured.failures)),
        ("total_input_tokens", json!(input)),
        ("total_output_tokens", json!(output)),
        ("total_cached_tokens", json!(measured.cached_tokens)),
        ("request_throughput", json!(rate(measured.completed))),
        ("request_goodput", json!(measured.good.map(rate))),
        ("output_throughput", json!(rate(output))),
        ("total_token_throughput", json!(rate(input + output))),
        (
            "max_output_tokens_per_s",
            json!(measured.output_tokens_per_s_max),
        ),
        ("max_concurrent_requests", json!(measured.concurrent_max)),
    ])
}

fn times(measured: &Measured, args: &ReportArgs) -> Map<String, Value> {
    let mut values = Map::new();
    for metric in &args.percentile_metrics {
        let (times, name) = (measured.times(*metric), metric.name());
        let mut set = |key: String, value: f64| values.insert(key, value.into());
        set(format!("mean_{name}_ms"), times.mean());
        set(format!("median_{name}_ms"), times.median());
        set(format!("std_{name}_ms"), times.population_std());
        for percent in &args.metric_percentiles {
            set(format!("p{percent}_{name}_ms"), times.percentile(percent.0));
        }
    }
    values
}

/// Arrays with an entry for each request that has ended, in seconds as vLLM's; 0 where it failed.
/// What was answered is not among them.
fn detailed(outcomes: &[Outcome], prompt_lens: &[usize]) -> Map<String, Value> {
    let answers = || {
        outcomes
            .iter()
            .map(|it| (it.index, it.answer.as_ref().ok()))
    };
    let input_len = |(index, answer): (usize, Option<&Answer>)| {
        answer
            .and_then(|it| it.prompt_len)
            .unwrap_or(prompt_lens[index])
    };
    let input_lens: Vec<_> = answers().map(input_len).collect();
    let output_lens: Vec<_> = answers()
        .map(|(_, it)| it.map_or(0, |it| it.output_len))
        .collect();
    let ttfts: Vec<_> = answers()
        .map(|(_, it)| it.map_or(0.0, |it| it.ttft.as_secs_f64()))
        .collect();
    let itls: Vec<Vec<f64>> = answers()
        .map(|(_, it)| {
            let gaps = it.map_or(&[][..], |it| &it.itls).iter();
            gaps.map(std::time::Duration::as_secs_f64).collect()
        })
        .collect();
    let errors: Vec<_> = outcomes
        .iter()
        .map(|it| it.answer.as_ref().err().map_or("", String::as_str))
        .collect();
    let starts: Vec<_> = outcomes.iter().map(|it| it.start.as_secs_f64()).collect();
    let own: Vec<_> = answers().map(|(_, it)| it.map(|it| &it.own)).collect();
    object([
        ("input_lens", json!(input_lens)),
        ("output_lens", json!(output_lens)),
        ("start_times", json!(starts)),
        ("ttfts", json!(ttfts)),
        ("itls", json!(itls)),
        ("errors", json!(errors)),
        ("kv_per_request", json!(own)),
    ])
}

fn object<const N: usize>(pairs: [(&str, Value); N]) -> Map<String, Value> {
    let pairs = pairs.into_iter();
    pairs.map(|(key, value)| (key.to_owned(), value)).collect()
}

/// The reasons of failures, most frequent first.
pub(crate) fn ordered_failures(measured: &Measured) -> Vec<(&str, usize)> {
    let failures = measured.failures.iter();
    let mut failures: Vec<_> = failures
        .map(|(reason, count)| (reason.as_str(), *count))
        .collect();
    failures.sort_by_key(|(_, count)| std::cmp::Reverse(*count));
    failures
}

/// The name of the file: as vLLM's.
pub(crate) fn file_name(setup: &Setup, args: &ReportArgs) -> String {
    if let Some(name) = &args.result_filename {
        return name.clone();
    }
    let concurrency = setup
        .max_concurrency
        .map(|most| format!("-concurrency{most}"));
    format!(
        "{}-{}qps{}-{}-{}.json",
        args.label.as_deref().unwrap_or(setup.backend),
        setup.request_rate,
        concurrency.unwrap_or_default(),
        super::server::base_model_id(&setup.model),
        setup.date
    )
}

#[cfg(test)]
mod tests;
