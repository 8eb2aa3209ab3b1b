//! How long the engine's steps took of late, for whoever must foresee how long others will take.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use edgeprompt_engine::{PassEvent, ScheduledRow};
use edgeprompt_handover::planning::prefill::{PrefillCoefficients, PrefillModel, PrefillWork};
use edgeprompt_handover::planning::prefill_fit::{PrefillForm, PrefillSample, fit};

/// Most prefills that are remembered.
const PREFILLS_MAX: usize = 64;

/// Fewer tokens say nothing of a prefill: reading the weights takes longer than computing with them.
const PREFILL_LEN_MIN: usize = 32;

/// The times of one engine's steps. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct StepTimes(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    times: Mutex<Times>,
    /// Chunks of keys and values that come.
    chunks: AtomicUsize,
}

#[derive(Debug, Default)]
struct Times {
    /// Without anything that comes.
    prefills: VecDeque<PrefillSample>,
    /// While keys and values came: taking them in costs the processor something, too.
    receiving: VecDeque<PrefillSample>,
    /// A running mean.
    decode_s: Option<f64>,
}

/// For as long as keys and values come.
pub(crate) struct Receiving(Arc<Shared>);

impl Drop for Receiving {
    fn drop(&mut self) {
        self.0.chunks.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A step being timed.
pub(crate) struct StepWatch {
    began_at: Instant,
    rows: Vec<Row>,
    /// Whether it waited for something.
    waited: bool,
    beside: Beside,
}

/// Tokens of one sequence.
#[derive(Clone, Copy, Debug)]
struct Row {
    start: usize,
    len: usize,
}

impl StepWatch {
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
    /// A step begins.
    pub(crate) fn watch(&self) -> StepWatch {
        StepWatch {
            began_at: Instant::now(),
            rows: Vec::new(),
            waited: false,
            beside: self.beside(),
        }
    }

    /// A step has ended.
    pub(crate) fn note(&self, watch: &StepWatch) {
        if !watch.waited && !watch.rows.is_empty() {
            let took = watch.began_at.elapsed();
            let mut times = self.lock();
            // One that was beside something for a part of its time is of no use.
            if watch.beside == self.beside() {
                times.note((&watch.rows, watch.beside), took);
            }
        }
    }

    fn beside(&self) -> Beside {
        match self.0.chunks.load(Ordering::Relaxed) {
            0 => Beside::Nothing,
            _ => Beside::Receiving,
        }
    }

    /// Some keys and values begin to come.
    pub(crate) fn receive(&self) -> Receiving {
        self.0.chunks.fetch_add(1, Ordering::Relaxed);
        Receiving(Arc::clone(&self.0))
    }

    /// How long prefills take by themselves; `None` as long as there was none.
    pub(crate) fn prefill(&self) -> Option<PrefillCoefficients> {
        self.lock().prefill()
    }

    /// How many times as long as by themselves prefills take while keys and values come.
    pub(crate) fn receiving_factor(&self, alone: &PrefillModel) -> f64 {
        self.lock().receiving_factor(alone)
    }

    /// How long a step that only decodes takes; `None` as long as there was none.
    pub(crate) fn decode(&self) -> Option<Duration> {
        let decode_s = self.lock().decode_s?;
        Duration::try_from_secs_f64(decode_s).ok()
    }

    fn lock(&self) -> MutexGuard<'_, Times> {
        self.0.times.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What else the processor does during a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Beside {
    Nothing,
    Receiving,
}

impl Times {
    fn note(&mut self, (rows, beside): (&[Row], Beside), took: Duration) {
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
        let samples = match beside {
            Beside::Nothing => &mut self.prefills,
            Beside::Receiving => &mut self.receiving,
        };
        if samples.len() == PREFILLS_MAX {
            samples.pop_front();
        }
        samples.push_back(PrefillSample {
            work: PrefillWork::of_batch(works),
            took_s,
        });
    }

    /// Never less than 1: what comes makes nothing faster.
    fn receiving_factor(&self, alone: &PrefillModel) -> f64 {
        let (took_s, foreseen_s) = self.receiving.iter().fold((0.0, 0.0), |sums, sample| {
            let foreseen_s = alone.seconds(sample.work);
            (sums.0 + sample.took_s, sums.1 + foreseen_s)
        });
        match foreseen_s > 0.0 {
            true => f64::max(1.0, took_s / foreseen_s),
            false => 1.0,
        }
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
        times.note(
            (&[row(300, 1), row(20, 1)], Beside::Nothing),
            Duration::from_millis(30),
        );
        assert!(times.prefill().is_none());
        for start in [0, 100, 200] {
            times.note(
                (&[row(start, 100), row(5, 1)], Beside::Nothing),
                Duration::from_millis(202),
            );
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
            times.note(
                (&[row(start, 100)], Beside::Nothing),
                Duration::from_millis(took_ms),
            );
        }
        let found = times.prefill().unwrap();
        assert!(found.per_pair_s > 0.0, "{found:?}");
        let whole = found.per_token_s * 1000.0 + found.per_pair_s * 1000.0 * 500.0;
        assert!((whole - 1.45).abs() < 0.02, "{whole}");
    }

    #[test]
    fn what_comes_meanwhile_does_not_change_what_prefills_take_by_themselves() {
        let (mut times, ms) = (Times::default(), Duration::from_millis);
        let model = |times: &Times| PrefillModel::new(times.prefill().unwrap()).unwrap();
        for _ in 0..3 {
            times.note((&[row(0, 100)], Beside::Nothing), ms(200));
        }
        let alone = model(&times);
        assert_eq!(times.receiving_factor(&alone), 1.0);
        for _ in 0..3 {
            times.note((&[row(0, 100)], Beside::Receiving), ms(300));
        }
        assert_eq!(model(&times), alone);
        assert!((times.receiving_factor(&alone) - 1.5).abs() < 0.01);
        for _ in 0..PREFILLS_MAX {
            times.note((&[row(0, 100)], Beside::Receiving), ms(20));
        }
        assert_eq!(times.receiving_factor(&alone), 1.0);
    }

    #[test]
    fn a_step_counts_as_receiving_if_something_comes_from_its_beginning_to_its_end() {
        let times = StepTimes::default();
        let watch = || StepWatch {
            rows: vec![row(0, 100)],
            ..times.watch()
        };
        let counts = || {
            let times = times.lock();
            (times.prefills.len(), times.receiving.len())
        };
        let step = watch();
        let coming = [times.receive(), times.receive()];
        times.note(&step);
        assert_eq!(counts(), (0, 0));
        for (count, coming) in (1..).zip(coming) {
            times.note(&watch());
            assert_eq!(counts(), (0, count));
            drop(coming);
        }
        times.note(&watch());
        assert_eq!(counts(), (1, 2));
    }
}
