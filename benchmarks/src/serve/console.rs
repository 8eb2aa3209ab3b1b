//! The table of a run, in `vllm bench serve`'s very layout, so that what reads that reads this.

use std::fmt::Write;

use super::measured::{Measured, Metric};
use super::report::{Percentile, ordered_failures};
use crate::arrivals::RequestRate;

/// Most reasons of failures that are printed.
const REASONS_MAX: usize = 10;

/// What the run's arguments make of the table.
pub(crate) struct Layout<'a> {
    /// Said if there is one.
    pub(crate) max_concurrency: Option<usize>,
    /// Said if there is one.
    pub(crate) request_rate: RequestRate,
    /// Blocks of times.
    pub(crate) metrics: &'a [Metric],
    /// Rows of each block, beside mean and median.
    pub(crate) percentiles: &'a [Percentile],
}

/// The table.
pub(crate) fn table(measured: &Measured, layout: &Layout<'_>) -> String {
    let mut table = Table::default();
    table.line(&format!("{:=^50}", " Serving Benchmark Result "));
    totals(&mut table, measured, layout);
    for metric in layout.metrics {
        times(&mut table, measured, (*metric, layout.percentiles));
    }
    table.line(&"=".repeat(50));
    table.0
}

fn totals(table: &mut Table, measured: &Measured, layout: &Layout<'_>) {
    let rate = |count| measured.per_second(count);
    table.count("Successful requests:", measured.completed);
    table.count("Failed requests:", measured.failed);
    if let Some(most) = layout.max_concurrency {
        table.count("Maximum request concurrency:", most);
    }
    if let RequestRate::PerSecond(rate) = layout.request_rate {
        table.number("Request rate configured (RPS):", rate);
    }
    table.number("Benchmark duration (s):", measured.duration);
    table.count("Total input tokens:", measured.input_tokens);
    table.count("Total generated tokens:", measured.output_tokens);
    table.number("Request throughput (req/s):", rate(measured.completed));
    if let Some(good) = measured.good {
        table.number("Request goodput (req/s):", rate(good));
    }
    let (input, output) = (measured.input_tokens, measured.output_tokens);
    table.number("Output token throughput (tok/s):", rate(output));
    let peak = measured.output_tokens_per_s_max;
    table.whole("Peak output token throughput (tok/s):", peak);
    table.whole("Peak concurrent requests:", measured.concurrent_max);
    table.number("Total token throughput (tok/s):", rate(input + output));
}

fn times(table: &mut Table, measured: &Measured, (metric, percents): (Metric, &[Percentile])) {
    let name = metric.name().to_uppercase();
    let times = measured.times(metric);
    table.line(&format!("{:-^50}", metric.header()));
    table.number(&format!("Mean {name} (ms):"), times.mean());
    table.number(&format!("Median {name} (ms):"), times.median());
    for percent in percents {
        let value = times.percentile(percent.0);
        table.number(&format!("P{percent} {name} (ms):"), value);
    }
}

/// Why requests failed, most frequent first; nothing if none did.
pub(crate) fn failures(measured: &Measured) -> String {
    let mut text = String::new();
    let ordered = ordered_failures(measured);
    for (reason, count) in ordered.iter().take(REASONS_MAX) {
        text += &format!("failed {count} times: {reason}\n");
    }
    match ordered.len().saturating_sub(REASONS_MAX) {
        0 => text,
        more => text + &format!("and for {more} other reasons\n"),
    }
}

#[derive(Default)]
struct Table(String);

impl Table {
    fn line(&mut self, line: &str) {
        self.0 += line;
        self.0.push('\n');
    }

    fn row(&mut self, name: &str, value: &str) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "{name:<40} {value:<10}");
    }

    fn count(&mut self, name: &str, value: usize) {
        self.row(name, &value.to_string());
    }

    fn number(&mut self, name: &str, value: f64) {
        self.row(name, &format!("{value:.2}"));
    }

    /// A count that vLLM prints as a number with decimals.
    fn whole(&mut self, name: &str, value: usize) {
        self.row(name, &format!("{value}.00"));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::serve::answer::Answer;
    use crate::serve::own_fields::OwnFields;
    use crate::serve::sending::Outcome;

    fn measured() -> Measured {
        let answer = Answer {
            ttft: Duration::from_micros(123_456),
            itls: vec![Duration::from_millis(10); 4],
            latency: Duration::from_micros(163_456),
            prompt_len: Some(2_326),
            output_len: 5,
            cached_len: None,
            own: OwnFields::default(),
        };
        let outcome = |index, answer| Outcome {
            start: Duration::ZERO,
            index,
            answer,
        };
        let outcomes = [
            outcome(0, Ok(answer)),
            outcome(1, Err("HTTP 500".to_owned())),
            outcome(2, Err("refused".to_owned())),
            outcome(3, Err("refused".to_owned())),
        ];
        Measured::of(&outcomes, Duration::from_secs(2), &[1; 4], None)
    }

    // The rows, names and widths are those of vLLM's `vllm/benchmarks/serve.py`.
    #[test]
    fn the_table_is_vllms() {
        let layout = Layout {
            max_concurrency: Some(8),
            request_rate: RequestRate::PerSecond(2.0),
            metrics: &[Metric::Ttft, Metric::Tpot],
            percentiles: &[Percentile(99.0), Percentile(99.9)],
        };
        let table = table(&measured(), &layout);
        let expected = "\
============ Serving Benchmark Result ============
Successful requests:                     1         |
Failed requests:                         3         |
Maximum request concurrency:             8         |
Request rate configured (RPS):           2.00      |
Benchmark duration (s):                  2.00      |
Total input tokens:                      2326      |
Total generated tokens:                  5         |
Request throughput (req/s):              0.50      |
Output token throughput (tok/s):         2.50      |
Peak output token throughput (tok/s):    5.00      |
Peak concurrent requests:                1.00      |
Total token throughput (tok/s):          1165.50   |
---------------Time to First Token----------------
Mean TTFT (ms):                          123.46    |
Median TTFT (ms):                        123.46    |
P99 TTFT (ms):                           123.46    |
P99.9 TTFT (ms):                         123.46    |
-----Time per Output Token (excl. 1st token)------
Mean TPOT (ms):                          10.00     |
Median TPOT (ms):                        10.00     |
P99 TPOT (ms):                           10.00     |
P99.9 TPOT (ms):                         10.00     |
==================================================
";
        assert_eq!(table, expected.replace('|', ""));
    }

    #[test]
    fn the_most_frequent_failure_comes_first() {
        assert_eq!(
            failures(&measured()),
            "failed 2 times: refused\nfailed 1 times: HTTP 500\n"
        );
    }
}
