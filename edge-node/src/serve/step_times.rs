//! How long the engine's steps took of late, for whoever must foresee how long others will take.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use edgeprompt_engine::{PassEvent, ScheduledRow};
use edgeprompt_handover::planning::prefill::{PrefillCoefficients, PrefillWork};
use edgeprompt_handover::planning::prefill_fit::{PrefillForm, PrefillSample, fit};

/// Most prefills that are remembered.
const PREFILLS_MAX: usize = 64;

/// Fewer tokens say nothing of a prefill: reading the weights takes longer than computing with them.
const PREFILL_LEN_MIN: usize = 32;

/// The times of one engine's steps. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct StepTimes(Arc<Mutex<Times>>);

#[derive(Debug, Default)]
struct Times {
    prefills: VecDeque<PrefillSample>,
    /// A running mean.
    decode_s: Option<f64>,
}

/// A step being timed.
pub(crate) struct StepWatch {
    began_at: Instant,
    rows: Vec<Row>,
    /// Whether it waited for something.
    waited: bool,
}

/// Tokens of one sequence.
#[derive(Clone, Copy, Debug)]
struct Row {
    start: usize,
    len: usize,
}

impl StepWatch {
    /// A step begins.
    pub(crate) fn begin() -> Self {
        Self {
            began_at: Instant::now(),
            rows: Vec::new(),
            waited: false,
        }
    }

    /// Something happens to some rows.
    pub(crate) fn heard(&mut self, event: PassEvent, rows: &[ScheduledRow]) {
        match event {
            PassEvent::Resumed => self.rows.extend(rows.iter().map(|row| Row {
                start: row.start,
                len: row.len,
            })),
            PassEvent::Missing(_) => self.waited = true,
            PassEvent::Computed(_) => {}
        }
    }
}

impl StepTimes {
    /// A step has ended.
    pub(crate) fn note(&self, watch: &StepWatch) {
        if !watch.waited && !watch.rows.is_empty() {
            self.lock().note(&watch.rows, watch.began_at.elapsed());
        }
    }

    /// How long prefills take; `None` as long as there was none.
    pub(crate) fn prefill(&self) -> Option<PrefillCoefficients> {
        self.lock().prefill()
    }

    /// How long a step that only decodes takes; `None` as long as there was none.
    pub(crate) fn decode(&self) -> Option<Duration> {
        let decode_s = self.lock().decode_s?;
        Duration::try_from_secs_f64(decode_s).ok()
    }

    fn lock(&self) -> MutexGuard<'_, Times> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Times {
    fn note(&mut self, rows: &[Row], took: Duration) {
        let took_s = took.as_secs_f64();
        let longest = rows.iter().map(|row| row.len).max().unwrap_or_default();
        if longest == 1 {
            let before = self.decode_s.unwrap_or(took_s);
            self.decode_s = Some(f64::midpoint(before, took_s));
        }
        if longest < PREFILL_LEN_MIN || took.is_zero() {
            return;
        }
        let small = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
        let works = rows
            .iter()
            .map(|row| PrefillWork::of_one(small(row.len), small(row.start)));
        if self.prefills.len() == PREFILLS_MAX {
            self.prefills.pop_front();
        }
        self.prefills.push_back(PrefillSample {
            work: PrefillWork::of_batch(works),
            took_s,
        });
    }

    /// What is fixed of a step is spread over its tokens: a long prefill takes many steps.
    fn prefill(&self) -> Option<PrefillCoefficients> {
        let samples: Vec<_> = self.prefills.iter().copied().collect();
        let found = fit(&samples, PrefillForm::TokensAndPairs).ok()?;
        let (mut steps, mut tokens) = (0.0, 0.0);
        for sample in &samples {
            steps += 1.0;
            tokens += sample.work.token_count;
        }
        let found = found.model.coefficients();
        Some(PrefillCoefficients {
            fixed_s: 0.0,
            per_token_s: found.per_token_s + found.fixed_s * steps / tokens,
            ..found
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn row(start: usize, len: usize) -> Row {
        Row { start, len }
    }

    #[test]
    fn prefills_and_decoding_are_told_apart() {
        let mut times = Times::default();
        times.note(&[row(300, 1), row(20, 1)], Duration::from_millis(30));
        assert!(times.prefill().is_none());
        for start in [0, 100, 200] {
            times.note(&[row(start, 100), row(5, 1)], Duration::from_millis(202));
        }
        assert_eq!(times.decode_s, Some(0.03));
        let found = times.prefill().unwrap();
        let of = |len| found.per_token_s * len + found.per_pair_s * len * len / 2.0;
        assert!((of(1000.0) - 2.0).abs() < 0.1, "{found:?}");
    }

    #[test]
    fn attention_is_seen_in_prefills_that_begin_later() {
        let mut times = Times::default();
        for start in (0..1000).step_by(100) {
            let took_ms = 100 + start as u64 / 10;
            times.note(&[row(start, 100)], Duration::from_millis(took_ms));
        }
        let found = times.prefill().unwrap();
        assert!(found.per_pair_s > 0.0, "{found:?}");
        let whole = found.per_token_s * 1000.0 + found.per_pair_s * 1000.0 * 500.0;
        assert!((whole - 1.45).abs() < 0.02, "{whole}");
    }
}
