//! Lengths of prompts and answers: as in ShareGPT, or between two bounds.

use std::ops::RangeInclusive;

use rand::RngExt;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

/// Tokens of a prompt and of its answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Lens {
    /// Tokens of the prompt.
    pub(crate) prompt: usize,
    /// Tokens of the answer.
    pub(crate) output: usize,
}

/// One length of several, by a seed.
pub(crate) fn drawn(lens: RangeInclusive<usize>, seed: u64) -> usize {
    ChaCha8Rng::seed_from_u64(seed).random_range(lens)
}

/// Longest prompt and answer together, as in vLLM's rules for ShareGPT.
const TOTAL_LEN_MAX: usize = 2048;

/// Quantiles: the share of the lengths that are not longer, and the length.
type Quantiles = [(f64, f64); 23];

/// Quantiles of the prompts of the 82,780 ShareGPT conversations that pass vLLM's rules. They are
/// two populations, short questions and pasted texts, which no distribution of few parameters
/// fits: a log-normal one of the same mean and median has hardly any prompt below 10 tokens, where
/// a tenth of them is.
const PROMPT: Quantiles = [
    (0.0, 4.0),
    (0.05, 9.0),
    (0.1, 12.0),
    (0.15, 15.0),
    (0.2, 18.0),
    (0.25, 23.0),
    (0.3, 28.0),
    (0.35, 38.0),
    (0.4, 52.0),
    (0.45, 76.0),
    (0.5, 112.0),
    (0.55, 170.0),
    (0.6, 239.0),
    (0.65, 305.0),
    (0.7, 364.0),
    (0.75, 423.0),
    (0.8, 492.0),
    (0.85, 586.0),
    (0.9, 705.0),
    (0.95, 856.0),
    (0.99, 983.0),
    (0.999, 1019.0),
    (1.0, 1024.0),
];

/// The same of the answers.
const OUTPUT: Quantiles = [
    (0.0, 4.0),
    (0.05, 8.0),
    (0.1, 12.0),
    (0.15, 16.0),
    (0.2, 21.0),
    (0.25, 27.0),
    (0.3, 37.0),
    (0.35, 52.0),
    (0.4, 77.0),
    (0.45, 109.0),
    (0.5, 146.0),
    (0.55, 190.0),
    (0.6, 235.0),
    (0.65, 275.0),
    (0.7, 315.0),
    (0.75, 359.0),
    (0.8, 409.0),
    (0.85, 475.0),
    (0.9, 578.0),
    (0.95, 763.0),
    (0.99, 986.0),
    (0.999, 1506.0),
    (1.0, 2013.0),
];

/// Lengths distributed as ShareGPT's: prompt and answer independent of each other, each with a
/// linear distribution between its quantiles.
pub(crate) struct ShareGptLens(ChaCha8Rng);

impl ShareGptLens {
    /// The same seed gives the same lengths.
    pub(crate) fn new(seed: u64) -> Self {
        Self(ChaCha8Rng::seed_from_u64(seed))
    }
}

impl Iterator for ShareGptLens {
    type Item = Lens;

    fn next(&mut self) -> Option<Lens> {
        let prompt = length_at(&PROMPT, self.0.random());
        let output = length_at(&OUTPUT, self.0.random());
        Some(Lens {
            prompt,
            output: output.min(TOTAL_LEN_MAX - prompt),
        })
    }
}

/// The length that a share of all lengths does not exceed.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    reason = "between the smallest and the largest quantile"
)]
fn length_at(quantiles: &Quantiles, share: f64) -> usize {
    let mut pairs = quantiles.iter().zip(&quantiles[1..]);
    let found = pairs.find(|(_, (above, _))| share < *above);
    let length = found.map_or(quantiles[quantiles.len() - 1].1, |((p0, l0), (p1, l1))| {
        l0 + (l1 - l0) * (share - p0) / (p1 - p0)
    });
    length.round() as usize
}

/// Lengths evenly between bounds, as vLLM's `random` dataset has them.
pub(crate) struct RandomLens {
    rng: ChaCha8Rng,
    centre: Lens,
    range_ratio: f64,
}

impl RandomLens {
    /// Lengths of `centre`, less or more by up to the share `range_ratio` of it, which is at least
    /// 0 and below 1.
    pub(crate) fn new(centre: Lens, range_ratio: f64, seed: u64) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            centre,
            range_ratio,
        }
    }

    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "lengths of texts, and the ratio is below 1"
    )]
    fn around(&mut self, centre: usize) -> usize {
        let deviation = (centre as f64 * self.range_ratio).floor() as usize;
        let bounds = (centre - deviation).max(1)..=(centre + deviation).max(1);
        self.rng.random_range(bounds)
    }
}

impl Iterator for RandomLens {
    type Item = Lens;

    fn next(&mut self) -> Option<Lens> {
        let Lens { prompt, output } = self.centre;
        Some(Lens {
            prompt: self.around(prompt),
            output: self.around(output),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Mean and median.
    #[expect(clippy::cast_precision_loss, reason = "a mean of lengths")]
    fn centre(mut lengths: Vec<usize>) -> (f64, usize) {
        lengths.sort_unstable();
        let sum: usize = lengths.iter().sum();
        (
            sum as f64 / lengths.len() as f64,
            lengths[lengths.len() / 2],
        )
    }

    #[test]
    fn mean_and_median_are_share_gpts() {
        let seed = 3;
        println!("seed {seed}");
        let lens: Vec<_> = ShareGptLens::new(seed).take(82_780).collect();
        // A standard error of the means is below 1 token; the line between two quantiles lies
        // above the true curve in the long tail of the answers, which makes them 3 tokens longer.
        let (mean, median) = centre(lens.iter().map(|lens| lens.prompt).collect());
        assert!((mean - 251.0).abs() < 4.0, "{mean}");
        assert!(median.abs_diff(112) < 6, "{median}");
        let (mean, median) = centre(lens.iter().map(|lens| lens.output).collect());
        assert!((mean - 231.0).abs() < 6.0, "{mean}");
        assert!(median.abs_diff(146) < 6, "{median}");
    }

    #[test]
    fn lengths_pass_the_rules_that_share_gpt_passed() {
        let seed = 4;
        println!("seed {seed}");
        for lens in ShareGptLens::new(seed).take(50_000) {
            assert!((4..=1024).contains(&lens.prompt), "{lens:?}");
            assert!(lens.output >= 4, "{lens:?}");
            assert!(lens.prompt + lens.output <= 2048, "{lens:?}");
        }
        assert_eq!(length_at(&PROMPT, 0.0), 4);
        assert_eq!(length_at(&PROMPT, 0.5), 112);
        assert_eq!(length_at(&OUTPUT, 1.0), 2013);
    }

    #[test]
    fn random_lengths_stay_within_their_bounds_and_reach_them() {
        let seed = 5;
        println!("seed {seed}");
        let centre = Lens {
            prompt: 100,
            output: 10,
        };
        let lens: Vec<_> = RandomLens::new(centre, 0.2, seed).take(2_000).collect();
        let prompts = lens.iter().map(|lens| lens.prompt);
        assert_eq!(
            (prompts.clone().min(), prompts.max()),
            (Some(80), Some(120))
        );
        let outputs = lens.iter().map(|lens| lens.output);
        assert_eq!((outputs.clone().min(), outputs.max()), (Some(8), Some(12)));
        let mut fixed = RandomLens::new(centre, 0.0, seed);
        assert_eq!(fixed.next(), Some(centre));
    }
}
