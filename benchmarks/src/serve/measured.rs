//! What a run comes to: vLLM's numbers, from when requests were sent and their chunks came.

use std::collections::BTreeMap;
use std::time::Duration;

use super::goodput::Slos;
use super::sending::Outcome;
use crate::distribution::Distribution;

/// Times of a run that are reported with mean, median, deviation and percentiles.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Metric {
    /// Time to the first token.
    Ttft,
    /// Time per output token after the first.
    Tpot,
    /// Time between chunks.
    Itl,
    /// Time to the end.
    E2el,
}

impl Metric {
    /// All, in vLLM's order.
    pub(crate) const ALL: [Self; 4] = [Self::Ttft, Self::Tpot, Self::Itl, Self::E2el];

    /// As flags and results say it.
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Ttft => "ttft",
            Self::Tpot => "tpot",
            Self::Itl => "itl",
            Self::E2el => "e2el",
        }
    }

    /// As the table's header says it.
    pub(crate) const fn header(self) -> &'static str {
        match self {
            Self::Ttft => "Time to First Token",
            Self::Tpot => "Time per Output Token (excl. 1st token)",
            Self::Itl => "Inter-token Latency",
            Self::E2el => "End-to-end Latency",
        }
    }
}

impl std::str::FromStr for Metric {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let found = Self::ALL.into_iter().find(|metric| metric.name() == text);
        found.ok_or_else(|| "ttft, tpot, itl and e2el are known".to_owned())
    }
}

/// The numbers of a run.
pub(crate) struct Measured {
    /// Seconds.
    pub(crate) duration: f64,
    pub(crate) completed: usize,
    pub(crate) failed: usize,
    pub(crate) input_tokens: usize,
    pub(crate) output_tokens: usize,
    /// Of the input, those whose keys and values were there; absent if no answer told.
    pub(crate) cached_tokens: Option<usize>,
    /// Chunks of the busiest second.
    pub(crate) output_tokens_per_s_max: usize,
    pub(crate) concurrent_max: usize,
    /// Requests that kept all promises; absent without promises.
    pub(crate) good: Option<usize>,
    /// Milliseconds of each metric.
    times: [Distribution; 4],
    /// How often requests failed for what reason.
    pub(crate) failures: BTreeMap<String, usize>,
}

/// Seconds per token after the first; of an answer of one token nothing.
pub(crate) fn tpot(ttft: Duration, latency: Duration, output_len: usize) -> Option<Duration> {
    let gaps = u32::try_from(output_len.checked_sub(1)?).ok()?;
    latency.saturating_sub(ttft).checked_div(gaps)
}

fn ms(time: Duration) -> f64 {
    time.as_secs_f64() * 1e3
}

impl Measured {
    /// Of the outcomes of a run of `duration`. The prompt's length is the server's word, else the
    /// one counted before, `prompt_lens`.
    pub(crate) fn of(
        outcomes: &[Outcome],
        duration: Duration,
        prompt_lens: &[usize],
        slos: Option<&Slos>,
    ) -> Self {
        let (mut failures, mut good) = (BTreeMap::new(), 0);
        let (mut input_tokens, mut output_tokens, mut cached_tokens) = (0, 0, None);
        let mut times: [Vec<f64>; 4] = Default::default();
        let mut answered = Vec::new();
        for outcome in outcomes {
            let answer = match &outcome.answer {
                Ok(answer) => answer,
                Err(reason) => {
                    *failures.entry(reason.clone()).or_default() += 1;
                    continue;
                }
            };
            input_tokens += answer.prompt_len.unwrap_or(prompt_lens[outcome.index]);
            output_tokens += answer.output_len;
            if let Some(len) = answer.cached_len {
                *cached_tokens.get_or_insert(0) += len;
            }
            let tpot = tpot(answer.ttft, answer.latency, answer.output_len);
            let [ttfts, tpots, itls, e2els] = &mut times;
            ttfts.push(ms(answer.ttft));
            tpots.extend(tpot.map(ms));
            itls.extend(answer.itls.iter().copied().map(ms));
            e2els.push(ms(answer.latency));
            // An answer of one token keeps any promise about the others.
            let tpot = tpot.map_or(0.0, ms);
            let is_good = |slos: &&Slos| slos.met(ms(answer.ttft), tpot, ms(answer.latency));
            good += usize::from(slos.as_ref().is_some_and(is_good));
            answered.push((outcome.start, answer));
        }
        Self {
            duration: duration.as_secs_f64(),
            completed: answered.len(),
            failed: outcomes.len() - answered.len(),
            input_tokens,
            output_tokens,
            cached_tokens,
            output_tokens_per_s_max: busiest_second(answered.iter().map(|(start, answer)| {
                let first = *start + answer.ttft;
                (*start, first, answer.itls.as_slice())
            })),
            concurrent_max: most_at_once(
                answered
                    .iter()
                    .map(|(start, answer)| (*start, *start + answer.latency)),
            ),
            good: slos.map(|_| good),
            times: times.map(Distribution::of),
            failures,
        }
    }

    /// Milliseconds of a metric.
    pub(crate) fn times(&self, metric: Metric) -> &Distribution {
        let [ttft, tpot, itl, e2el] = &self.times;
        match metric {
            Metric::Ttft => ttft,
            Metric::Tpot => tpot,
            Metric::Itl => itl,
            Metric::E2el => e2el,
        }
    }

    /// So many in each second of the run.
    #[expect(clippy::cast_precision_loss, reason = "a rate")]
    pub(crate) fn per_second(&self, count: usize) -> f64 {
        match self.duration > 0.0 {
            true => count as f64 / self.duration,
            false => 0.0,
        }
    }
}

/// The chunks of the busiest second, counted from the first request on: of each request its start,
/// its first chunk and the gaps to the others.
fn busiest_second<'a>(
    answers: impl Iterator<Item = (Duration, Duration, &'a [Duration])> + Clone,
) -> usize {
    let first_start = answers.clone().map(|(start, ..)| start).min();
    let mut seconds = BTreeMap::<u64, usize>::new();
    for (_, first, gaps) in answers {
        let mut at = first.saturating_sub(first_start.unwrap_or_default());
        *seconds.entry(at.as_secs()).or_default() += 1;
        for gap in gaps {
            at += *gap;
            *seconds.entry(at.as_secs()).or_default() += 1;
        }
    }
    seconds.into_values().max().unwrap_or(0)
}

/// The most intervals, their ends left out, that have a moment in common.
fn most_at_once(intervals: impl Iterator<Item = (Duration, Duration)>) -> usize {
    let ends = |(start, end)| [(start, 1isize), (end, -1)];
    let mut changes: Vec<_> = intervals.flat_map(ends).collect();
    // At the same moment ends come before beginnings.
    changes.sort_unstable();
    let counts = changes.into_iter().scan(0isize, |count, (_, change)| {
        *count += change;
        Some(*count)
    });
    counts
        .max()
        .and_then(|most| usize::try_from(most).ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests;
