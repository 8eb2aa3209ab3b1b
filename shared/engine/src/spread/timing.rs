//! What was measured of jobs.

use std::time::Duration;

/// Which half of a layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Part {
    /// Heads.
    Heads,
    /// Slices of the feed-forward network.
    FeedForward,
}

/// Sums over layers and passes of one device.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Timing {
    /// Layers.
    pub count: u32,
    /// Jobs × tokens.
    pub job_tokens: u64,
    /// Jobs × tokens × tokens that each of these sees.
    pub job_seen: u64,
    /// How long it computed.
    pub busy: Duration,
    /// How long answers that were waited for took beyond that: both ways.
    pub away: Duration,
    /// How many these were.
    pub away_count: u32,
}

impl Timing {
    /// `tokens`, and what they see; `away`: what the answer took beyond `busy`, if that is known.
    pub(super) fn add(
        &mut self,
        (jobs, (tokens, seen)): (usize, (usize, usize)),
        busy: Duration,
        away: Option<Duration>,
    ) {
        self.count = self.count.saturating_add(1);
        let product = |jobs: usize, count: usize| jobs.saturating_mul(count) as u64;
        self.job_tokens = self.job_tokens.saturating_add(product(jobs, tokens));
        self.job_seen = self.job_seen.saturating_add(product(jobs, seen));
        self.busy = self.busy.saturating_add(busy);
        self.away = self.away.saturating_add(away.unwrap_or_default());
        self.away_count = self.away_count.saturating_add(u32::from(away.is_some()));
    }
}
