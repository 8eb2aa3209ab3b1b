//! The prefill model of a target, from how long its prefills took.
//!
//! Least squares of the *relative* error, with no coefficient below 0: a prefill of 2 s must not decide
//! how one of 20 ms is foreseen, and more work never takes less time.

use thiserror::Error;

use super::number::{InvalidNumber, positive};
use super::prefill::{PrefillCoefficients, PrefillModel, PrefillWork};

/// One prefill that was measured. Where a user's prefill met its transfer, what was prefilled until then
/// and the time until then are one, too.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrefillSample {
    /// What was prefilled.
    pub work: PrefillWork,
    /// How long it took in seconds.
    pub took_s: f64,
}

/// Which coefficients may differ from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PrefillForm {
    /// The paper's p(L) = aL + b, which does not grow with the number of users.
    Positions,
    /// A fixed part and one for each token of all users.
    Tokens,
    /// The same, and a part for attention.
    TokensAndPairs,
    /// All of them: where the samples do not tell positions from tokens, tokens.
    Full,
}

/// A model and how well it fits.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrefillFit {
    /// The model.
    pub model: PrefillModel,
    /// Root of the mean square of (foreseen − took)/took.
    pub relative_error_rms: f64,
    /// The largest of them.
    pub relative_error_max: f64,
}

/// Why nothing could be fitted.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
pub enum FitError {
    /// A sample that is none.
    #[error(transparent)]
    Number(#[from] InvalidNumber),
    /// No samples.
    #[error("a prefill model needs samples, and there are none: measure a prefill")]
    NoSamples,
    /// No coefficients explain anything.
    #[error("no prefill model of this form fits the {0} samples")]
    NoFit(usize),
}

/// Coefficients, in the order in which one is preferred where samples do not tell them apart.
const TERM_COUNT: usize = 4;
const TOKENS: usize = 0;
const FIXED: usize = 1;
const PAIRS: usize = 2;
const POSITIONS: usize = 3;

/// A pivot below this share of its column says nothing but rounding.
const PIVOT_MIN: f64 = 1e-9;
/// A sum of squares must be less by this much that more coefficients are worth it.
const GAIN_MIN: f64 = 1e-12;

type Terms = [f64; TERM_COUNT];

/// The best model of a form.
///
/// # Errors
/// If there are no samples, one is none, or they have nothing to do with what a form is made of.
pub fn fit(samples: &[PrefillSample], form: PrefillForm) -> Result<PrefillFit, FitError> {
    if samples.is_empty() {
        return Err(FitError::NoSamples);
    }
    // Divided by what was measured, so that 1 is to be foreseen of each.
    let rows = samples.iter().map(|sample| {
        let took_s = positive("measured prefill in s", sample.took_s)?;
        positive("tokens of a measured prefill", sample.work.token_count)?;
        positive("positions of a measured prefill", sample.work.longest_len)?;
        positive("pairs of a measured prefill", sample.work.pair_count)?;
        Ok(terms(sample.work).map(|term| term / took_s))
    });
    let rows: Vec<Terms> = rows.collect::<Result<_, InvalidNumber>>()?;
    let mut best: Option<(f64, Terms)> = None;
    for allowed in subsets(form) {
        let Some(found) = solve(&rows, &allowed) else {
            continue;
        };
        let squares = squares(&rows, &found);
        if best.is_none_or(|(least, _)| squares < least - GAIN_MIN) {
            best = Some((squares, found));
        }
    }
    let (_, found) = best.ok_or(FitError::NoFit(samples.len()))?;
    let model = PrefillModel::new(PrefillCoefficients {
        fixed_s: found[FIXED],
        per_position_s: found[POSITIONS],
        per_token_s: found[TOKENS],
        per_pair_s: found[PAIRS],
    })?;
    Ok(judged(model, samples))
}

fn judged(model: PrefillModel, samples: &[PrefillSample]) -> PrefillFit {
    let errors = samples
        .iter()
        .map(|sample| (model.seconds(sample.work) - sample.took_s).abs() / sample.took_s);
    let (mut count, mut squares, mut largest) = (0.0, 0.0, 0.0_f64);
    for error in errors {
        count += 1.0;
        squares += error * error;
        largest = largest.max(error);
    }
    PrefillFit {
        model,
        relative_error_rms: f64::sqrt(squares / count),
        relative_error_max: largest,
    }
}

fn terms(work: PrefillWork) -> Terms {
    let mut terms = [0.0; TERM_COUNT];
    terms[TOKENS] = work.token_count;
    terms[FIXED] = 1.0;
    terms[PAIRS] = work.pair_count;
    terms[POSITIONS] = work.longest_len;
    terms
}

/// The sets of coefficients that a form allows, small ones first. The best of their solutions without a
/// negative coefficient is the best of all without one.
fn subsets(form: PrefillForm) -> Vec<Vec<usize>> {
    let allowed: &[usize] = match form {
        PrefillForm::Positions => &[FIXED, POSITIONS],
        PrefillForm::Tokens => &[TOKENS, FIXED],
        PrefillForm::TokensAndPairs => &[TOKENS, FIXED, PAIRS],
        PrefillForm::Full => &[TOKENS, FIXED, PAIRS, POSITIONS],
    };
    let chosen = |mask: u32| {
        let of_mask = allowed.iter().enumerate();
        let of_mask = of_mask.filter(|(bit, _)| mask >> bit & 1 == 1);
        of_mask.map(|(_, term)| *term).collect::<Vec<_>>()
    };
    let mut subsets: Vec<_> = (1..1_u32 << allowed.len()).map(chosen).collect();
    subsets.sort_by_key(Vec::len);
    subsets
}

/// Least squares of some terms, the others 0; nothing if the samples do not tell them apart or one
/// would be below 0.
fn solve(rows: &[Terms], chosen: &[usize]) -> Option<Terms> {
    let scales: Vec<f64> = chosen
        .iter()
        .map(|term| rows.iter().map(|row| row[*term]).fold(0.0, f64::max))
        .collect();
    let count = chosen.len();
    // The normal equations, one line for each term, its right side last.
    let mut lines = vec![vec![0.0; count + 1]; count];
    for row in rows {
        for (line, (term, scale)) in lines.iter_mut().zip(chosen.iter().zip(&scales)) {
            let mine = row[*term] / scale;
            for (cell, (other, scale)) in line.iter_mut().zip(chosen.iter().zip(&scales)) {
                *cell += mine * row[*other] / scale;
            }
            line[count] += mine;
        }
    }
    let scaled = eliminate(lines)?;
    let mut found = [0.0; TERM_COUNT];
    for ((term, scale), value) in chosen.iter().zip(scales).zip(scaled) {
        if value < 0.0 {
            return None;
        }
        found[*term] = value / scale;
    }
    Some(found)
}

/// The solution of linear equations, by Gauss and Jordan with the largest pivot.
fn eliminate(mut lines: Vec<Vec<f64>>) -> Option<Vec<f64>> {
    let count = lines.len();
    let largest = lines.iter().flatten().copied().fold(0.0, f64::max);
    for column in 0..count {
        let below = (column..count).max_by(|a, b| {
            let [a, b] = [a, b].map(|line| lines[*line][column].abs());
            a.total_cmp(&b)
        })?;
        lines.swap(column, below);
        let pivot = lines[column].clone();
        if pivot[column].abs() <= PIVOT_MIN * largest {
            return None;
        }
        for (index, line) in lines.iter_mut().enumerate() {
            if index == column {
                continue;
            }
            let share = line[column] / pivot[column];
            for (cell, above) in line.iter_mut().zip(&pivot) {
                *cell -= share * above;
            }
        }
    }
    let solved = lines.iter().enumerate();
    Some(
        solved
            .map(|(index, line)| line[count] / line[index])
            .collect(),
    )
}

fn squares(rows: &[Terms], found: &Terms) -> f64 {
    let error = |row: &Terms| {
        let foreseen: f64 = row.iter().zip(found).map(|(term, by)| term * by).sum();
        (foreseen - 1.0).powi(2)
    };
    rows.iter().map(error).sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Prefills of 1 to 8 users with 64 to 4,096 tokens each, as a machine would take them.
    fn samples(machine: PrefillCoefficients, user_counts: &[u32]) -> Vec<PrefillSample> {
        let machine = PrefillModel::new(machine).unwrap();
        let mut samples = Vec::new();
        for users in user_counts {
            for len in [64, 256, 1024, 4096] {
                for past_len in [0, 512] {
                    let one = PrefillWork::of_one(len, past_len);
                    let work = PrefillWork::of_batch((0..*users).map(|_| one));
                    let took_s = machine.seconds(work);
                    samples.push(PrefillSample { work, took_s });
                }
            }
        }
        samples
    }

    fn near(found: PrefillCoefficients, expected: PrefillCoefficients) {
        let list = |it: PrefillCoefficients| {
            [it.fixed_s, it.per_position_s, it.per_token_s, it.per_pair_s]
        };
        for (found, expected) in list(found).into_iter().zip(list(expected)) {
            // Relative: normal equations square the condition, about 1e4 here.
            assert!(
                (found - expected).abs() <= 1e-6 * expected + 1e-15,
                "{found} {expected}"
            );
        }
    }

    #[test]
    fn a_machine_of_each_form_is_recognised() {
        let paper = PrefillCoefficients {
            fixed_s: 2.4e-3,
            per_position_s: 9.4267e-5,
            ..PrefillCoefficients::default()
        };
        let busy = PrefillCoefficients {
            fixed_s: 5e-3,
            per_token_s: 7e-4,
            per_pair_s: 3e-8,
            ..PrefillCoefficients::default()
        };
        let both = PrefillCoefficients {
            per_position_s: 4e-5,
            ..busy
        };
        for machine in [paper, busy, both] {
            let found = fit(&samples(machine, &[1, 2, 8]), PrefillForm::Full).unwrap();
            near(found.model.coefficients(), machine);
            assert!(found.relative_error_max < 1e-6, "{found:?}");
        }
        let found = fit(&samples(paper, &[1, 4]), PrefillForm::Positions).unwrap();
        near(found.model.coefficients(), paper);
    }

    #[test]
    fn a_form_that_lacks_the_cause_fits_badly_and_says_so() {
        let busy = PrefillCoefficients {
            per_token_s: 1e-3,
            ..PrefillCoefficients::default()
        };
        let found = fit(&samples(busy, &[1, 8]), PrefillForm::Positions).unwrap();
        assert!(found.relative_error_max > 0.5, "{found:?}");
    }

    #[test]
    fn one_user_alone_does_not_promise_that_a_second_one_is_free() {
        let paper = PrefillCoefficients {
            fixed_s: 2.4e-3,
            per_position_s: 9e-5,
            ..PrefillCoefficients::default()
        };
        let found = fit(&samples(paper, &[1]), PrefillForm::Full).unwrap();
        let coefficients = found.model.coefficients();
        assert_eq!(coefficients.per_position_s, 0.0);
        assert!(
            (coefficients.per_token_s - 9e-5).abs() < 1e-10,
            "{coefficients:?}"
        );
    }

    #[test]
    fn noise_never_makes_work_take_less_than_nothing() {
        // Falling with the length: only a constant is left.
        let samples = [(100, 2.0), (200, 1.0), (400, 0.5)].map(|(len, took_s)| PrefillSample {
            work: PrefillWork::of_one(len, 0),
            took_s,
        });
        let found = fit(&samples, PrefillForm::Full)
            .unwrap()
            .model
            .coefficients();
        assert!(found.fixed_s > 0.0 && found.per_token_s == 0.0, "{found:?}");
    }

    #[test]
    fn what_is_no_measurement_is_refused() {
        assert_eq!(fit(&[], PrefillForm::Full), Err(FitError::NoSamples));
        for (len, took_s) in [(0, 1.0), (10, 0.0), (10, f64::NAN), (10, f64::INFINITY)] {
            let work = PrefillWork::of_one(len, 0);
            let sample = PrefillSample { work, took_s };
            assert!(
                fit(&[sample], PrefillForm::Tokens).is_err(),
                "{len} {took_s}"
            );
        }
    }
}
