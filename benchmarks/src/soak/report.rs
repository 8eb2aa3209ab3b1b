//! What a soak prints and writes: a table for people, JSON for programs, a plot over time.

use serde::Serialize;

use super::users::{AnswerTime, Mishap, Totals};
use super::verdict::{AtRest, Disturbed, MemoryTrend};
use super::watch::{Counters, Sample};
use crate::plot::time_plot::{Panel, TimePlot};
use crate::provenance::Provenance;
use crate::statistics::Spread;

/// Everything that came of a soak.
#[derive(Serialize)]
pub(super) struct Report {
    pub(super) benchmark: &'static str,
    pub(super) provenance: Provenance,
    pub(super) model: String,
    pub(super) users: usize,
    pub(super) seconds: u64,
    pub(super) seed: u64,
    pub(super) link: String,
    pub(super) distinct_requests: usize,
    pub(super) cloud_prompts: usize,
    /// How the disk was filled.
    pub(super) disk: String,
    pub(super) answers: Answers,
    pub(super) memory: Option<MemoryTrend>,
    pub(super) at_rest: AtRest,
    pub(super) disturbances: Vec<Disturbed>,
    /// What the edge counted while users asked.
    pub(super) counted: Counters,
    /// What was not as it must be.
    pub(super) complaints: Vec<String>,
    pub(super) samples: Vec<Sample>,
}

/// The requests in numbers.
#[derive(Serialize)]
pub(super) struct Answers {
    greedy: u64,
    seeded: u64,
    left: u64,
    failed: u64,
    different: u64,
    tokens: u64,
    /// Time to first token.
    ttft: Option<Ttft>,
    mishaps: Vec<Mishap>,
}

#[derive(Serialize)]
struct Ttft {
    ms: Spread,
    p99_ms: f64,
    /// When the slowest one asked.
    slowest_at_s: f64,
}

impl Answers {
    /// Of all requests.
    pub(super) fn of(totals: &Totals) -> Self {
        Self {
            greedy: totals.greedy_count,
            seeded: totals.seeded_count,
            left: totals.left_count,
            failed: totals.failed_count,
            different: totals.different_count,
            tokens: totals.token_count,
            ttft: Ttft::of(&totals.times),
            mishaps: totals.mishaps.clone(),
        }
    }
}

impl Ttft {
    fn of(times: &[AnswerTime]) -> Option<Self> {
        let mut times = times.to_vec();
        times.sort_unstable_by(|a, b| a.ttft_s.total_cmp(&b.ttft_s));
        let slowest = times.last()?;
        // Of few answers, the slowest.
        let p99 = times.get(times.len() * 99 / 100).unwrap_or(slowest);
        Some(Self {
            ms: Spread::of(times.iter().map(|time| time.ttft_s * 1e3)),
            p99_ms: p99.ttft_s * 1e3,
            slowest_at_s: slowest.asked_s,
        })
    }
}

impl Report {
    /// Prints the table.
    pub(super) fn print(&self) {
        let Answers {
            greedy,
            seeded,
            left,
            failed,
            different,
            tokens,
            ref ttft,
            ref mishaps,
        } = self.answers;
        let (users, seconds) = (self.users, self.seconds);
        println!(
            "\n{users} users for {seconds} s, {} distinct requests on {} cloud prompts, link {}",
            self.distinct_requests, self.cloud_prompts, self.link
        );
        let row = |name: &str, text: String| println!("{name:<22} {text}");
        row("whole answers", format!("{greedy} greedy, {seeded} seeded"));
        row("left by their users", left.to_string());
        row("failed", failed.to_string());
        row("other tokens", different.to_string());
        let rate = tokens / seconds.max(1);
        row("tokens", format!("{tokens}, {rate} a second"));
        if let Some(ttft) = ttft {
            let (median, p99, max) = (ttft.ms.median, ttft.p99_ms, ttft.ms.max);
            let at = ttft.slowest_at_s;
            let text =
                format!("median {median:.0}, 99 % {p99:.0}, slowest {max:.0} (at {at:.0} s)");
            row("TTFT in ms", text);
        }
        row("prompts came from", self.counted.sources());
        let most = self.samples.iter().map(|sample| sample.used_blocks).max();
        let (most, all) = (most.unwrap_or(0), self.at_rest.sample.block_count);
        let used = self.at_rest.sample.used_blocks;
        row(
            "private blocks",
            format!("{most} of {all} at most, {used} at the end"),
        );
        if let Some(memory) = self.memory {
            row("memory of the edge", memory.words());
        }
        row("the disk", self.disk.clone());
        self.print_disturbances();
        for Mishap { at_s, what } in mishaps {
            println!("at {at_s:.1} s: {what}");
        }
    }

    fn print_disturbances(&self) {
        println!("\n{:<16} {:>16}  WHAT CAME OF IT", "DISTURBANCE", "SECONDS");
        for disturbed in &self.disturbances {
            let Disturbed { begin_s, end_s, .. } = disturbed;
            let effect = disturbed.effect();
            let note = disturbed.note.iter().map(|note| format!(" ({note})"));
            println!(
                "{:<16} {:>16}  {effect}{}; prompts came from {}",
                disturbed.what.words(),
                format!("{begin_s:.0} to {end_s:.0}"),
                note.collect::<String>(),
                disturbed.counted.sources(),
            );
        }
        println!();
    }

    /// The plot over time.
    pub(super) fn plot(&self) -> String {
        let series = |name, of: fn(&Sample) -> f64| Panel {
            name,
            points: self.samples.iter().map(|it| (it.at_s, of(it))).collect(),
        };
        let tokens = self.samples.windows(2).map(|two| {
            let tokens = two[1]
                .generated_tokens
                .saturating_sub(two[0].generated_tokens);
            (two[1].at_s, as_f64(tokens) / (two[1].at_s - two[0].at_s))
        });
        let bands = self.disturbances.iter();
        let (users, seconds) = (self.users, self.seconds);
        TimePlot {
            title: format!("{users} streaming users for {seconds} s"),
            subtitle: format!(
                "{}, commit {}, {}",
                self.provenance.date,
                self.provenance.short_commit(),
                self.provenance.cpu
            ),
            end_s: self.samples.last().map_or(1.0, |sample| sample.at_s),
            panels: vec![
                series("resident (MiB)", |it| it.resident_mib),
                Panel {
                    name: "tokens/s",
                    points: tokens.collect(),
                },
                series("blocks in use", |it| as_f64(it.used_blocks)),
                series("failed", |it| as_f64(it.failed)),
            ],
            bands: bands
                .map(|it| (it.what.words().to_owned(), it.begin_s, it.end_s))
                .collect(),
        }
        .draw()
    }
}

impl Counters {
    /// Where cloud prompts came from, in percent.
    fn sources(&self) -> String {
        let all: u64 = self.answers_from.values().sum();
        let share = |(source, count): (&String, &u64)| {
            let percent = 100.0 * as_f64(*count) / as_f64(all.max(1));
            format!("{source} {percent:.0} %")
        };
        let shares: Vec<_> = self.answers_from.iter().map(share).collect();
        let mib = as_f64(self.cloud_bytes) / f64::from(1 << 20);
        format!("{}; {mib:.1} MiB from the cloud", shares.join(", "))
    }
}

impl MemoryTrend {
    fn words(self) -> String {
        format!(
            "median {:.1} MiB in the second fifth, {:.1} in the last ({:+.1} %), {:+.2} MiB a minute",
            self.early_mib,
            self.late_mib,
            self.growth_percent(),
            self.slope_mib_per_minute
        )
    }
}

#[expect(clippy::cast_precision_loss, reason = "a count for people")]
fn as_f64(count: u64) -> f64 {
    count as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_slowest_answer_is_told_with_its_moment() {
        let times = [(1.0, 0.5), (2.0, 3.0), (3.0, 0.25)];
        let times = times.map(|(asked_s, ttft_s)| AnswerTime { asked_s, ttft_s });
        let ttft = Ttft::of(&times).unwrap();
        assert_eq!((ttft.ms.median, ttft.ms.max), (500.0, 3000.0));
        assert_eq!((ttft.p99_ms, ttft.slowest_at_s), (3000.0, 2.0));
        assert!(Ttft::of(&[]).is_none());
    }
}
