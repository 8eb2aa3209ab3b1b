//! One line in the log every ten seconds while there is something to tell, as vLLM's. Says how much,
//! never what.

use std::time::{Duration, Instant};

use crate::serve::tally::{Counts, Tally};

/// Between two lines.
const PERIOD: Duration = Duration::from_secs(10);

/// What was said last.
#[derive(Clone, Copy, Debug)]
struct Status {
    counts: Counts,
    at: Instant,
}

/// What there is to say.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Line {
    prompt_tokens_per_s: f64,
    generation_tokens_per_s: f64,
    kv_cache_percent: f64,
    hit_rate_percent: f64,
}

impl Status {
    /// What to say of `counts` at `now`; nothing if nothing runs and nothing has run.
    fn turn(&mut self, now: Instant, counts: Counts) -> Option<Line> {
        let before = std::mem::replace(self, Self { counts, at: now });
        let load = counts.load;
        if load.running + load.waiting == 0 && counts == before.counts {
            return None;
        }
        let seconds = (now - before.at).as_secs_f64().max(f64::MIN_POSITIVE);
        let rate = |now: u64, before: u64| rounded(share(now - before, 1) / seconds);
        let old = before.counts;
        Some(Line {
            prompt_tokens_per_s: rate(counts.prompt_tokens, old.prompt_tokens),
            generation_tokens_per_s: rate(counts.generation_tokens, old.generation_tokens),
            kv_cache_percent: rounded(100.0 * load.kv_usage()),
            hit_rate_percent: rounded(100.0 * share(counts.hit_tokens, counts.queried_tokens)),
        })
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts for a person to read")]
fn share(part: u64, whole: u64) -> f64 {
    part as f64 / whole.max(1) as f64
}

/// To one place after the point: more is noise to a reader.
fn rounded(number: f64) -> f64 {
    (number * 10.0).round() / 10.0
}

/// Writes the lines, until it is dropped; `prompt_count` says how many cloud prompts are in memory.
pub(crate) async fn tell(tally: Tally, prompt_count: impl Fn() -> usize) {
    let mut status = Status {
        counts: tally.counts(),
        at: Instant::now(),
    };
    loop {
        tokio::time::sleep(PERIOD).await;
        let counts = tally.counts();
        let Some(line) = status.turn(Instant::now(), counts) else {
            continue;
        };
        tracing::info!(
            running = counts.load.running,
            waiting = counts.load.waiting,
            prompt_tokens_per_s = line.prompt_tokens_per_s,
            generation_tokens_per_s = line.generation_tokens_per_s,
            kv_cache_percent = line.kv_cache_percent,
            cloud_prompts = prompt_count(),
            hit_rate_percent = line.hit_rate_percent,
            "status"
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::tally::{Load, PromptTokens};

    #[test]
    fn a_busy_server_tells_its_rates_and_an_idle_one_nothing() {
        let tally = Tally::default();
        let began = Instant::now();
        let mut status = Status {
            counts: tally.counts(),
            at: began,
        };
        let mut turn = |second| {
            let now = began + Duration::from_secs(second);
            status.turn(now, tally.counts())
        };
        assert_eq!(turn(10), None);
        tally.load(Load {
            running: 2,
            waiting: 1,
            blocks_used: 1,
            blocks_all: 8,
        });
        tally.prompt(PromptTokens {
            here: 300,
            coming: 0,
            computed: 50,
        });
        tally.prompt(PromptTokens {
            here: 0,
            coming: 300,
            computed: 50,
        });
        (0..425).for_each(|_| tally.token());
        let busy = Line {
            prompt_tokens_per_s: 10.0,
            generation_tokens_per_s: 42.5,
            kv_cache_percent: 12.5,
            hit_rate_percent: 42.9,
        };
        assert_eq!(turn(20), Some(busy));
        // Still there, and nothing has come: that is worth knowing.
        let stuck = Line {
            prompt_tokens_per_s: 0.0,
            generation_tokens_per_s: 0.0,
            ..busy
        };
        assert_eq!(turn(30), Some(stuck));
        tally.load(Load {
            blocks_all: 8,
            ..Load::default()
        });
        let ended = Line {
            kv_cache_percent: 0.0,
            ..stuck
        };
        assert_eq!(turn(40), Some(ended));
        assert_eq!(turn(50), None);
    }
}
