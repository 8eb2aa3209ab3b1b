//! Choosing the next token from its scores. Pure: scores and counts in, a token out; the same seed
//! gives the same tokens whatever else is computed at the time.

use std::collections::{HashMap, HashSet};

use edgeprompt_kv::TokenId;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use crate::greedy;

/// How tokens are chosen. The names and meanings are those of vLLM's sampling parameters.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct SamplingParams {
    /// Divides the scores; 0 always takes the highest.
    pub temperature: f32,
    /// Keeps the fewest tokens whose probabilities sum to this; 1 keeps all.
    pub top_p: f32,
    /// Keeps so many of the highest scores; 0 keeps all.
    pub top_k: usize,
    /// Drops tokens less probable than this share of the most probable one's.
    pub min_p: f32,
    /// Divides positive and multiplies negative scores of tokens seen in prompt or answer; 1 is off.
    pub repetition_penalty: f32,
    /// Taken from the score of each token of the answer.
    pub presence_penalty: f32,
    /// Taken from the score of a token as often as the answer has it.
    pub frequency_penalty: f32,
}

impl Default for SamplingParams {
    /// OpenAI's: plain sampling at temperature 1.
    fn default() -> Self {
        Self {
            temperature: 1.0,
            top_p: 1.0,
            top_k: 0,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
        }
    }
}

/// A parameter outside its range.
#[derive(Clone, Copy, Debug, PartialEq, thiserror::Error)]
#[error("{name} is {value}: it must be {range}")]
pub struct SamplingParamsError {
    /// The parameter.
    pub name: &'static str,
    /// Its value.
    pub value: f32,
    /// The values it may have.
    pub range: &'static str,
}

impl SamplingParams {
    /// Always the highest score.
    pub fn greedy() -> Self {
        Self {
            temperature: 0.0,
            ..Self::default()
        }
    }

    /// Whether every parameter is in its range.
    ///
    /// # Errors
    /// [`SamplingParamsError`] for the first that is not.
    pub fn check(&self) -> Result<(), SamplingParamsError> {
        let check = |name, value: f32, fits: bool, range| match fits {
            true => Ok(()),
            false => Err(SamplingParamsError { name, value, range }),
        };
        let unit = 0.0..=1.0;
        let penalty = -2.0..=2.0;
        let (temperature, top_p) = (self.temperature, self.top_p);
        check(
            "temperature",
            temperature,
            (0.0..=100.0).contains(&temperature),
            "from 0 to 100",
        )?;
        check(
            "top_p",
            top_p,
            top_p > 0.0 && unit.contains(&top_p),
            "above 0 and at most 1",
        )?;
        check(
            "min_p",
            self.min_p,
            unit.contains(&self.min_p),
            "from 0 to 1",
        )?;
        let repetition = self.repetition_penalty;
        check(
            "repetition_penalty",
            repetition,
            repetition > 0.0 && repetition <= 100.0,
            "above 0 and at most 100",
        )?;
        for (name, value) in [
            ("presence_penalty", self.presence_penalty),
            ("frequency_penalty", self.frequency_penalty),
        ] {
            check(name, value, penalty.contains(&value), "from -2 to 2")?;
        }
        Ok(())
    }

    fn changes_scores(&self) -> bool {
        self.repetition_penalty != 1.0
            || self.presence_penalty != 0.0
            || self.frequency_penalty != 0.0
    }
}

/// A token and how probable it was, before temperature and cuts.
#[derive(Clone, PartialEq)]
pub struct Chosen {
    /// The token.
    pub token: TokenId,
    /// ln of its probability under the model.
    pub logprob: f32,
    /// The most probable tokens, as many as were asked for, most probable first.
    pub top: Vec<(TokenId, f32)>,
}

/// Chooses the tokens of one sequence. Deliberately not `Debug`: what it has seen is private.
#[derive(Clone)]
pub struct Sampler {
    params: SamplingParams,
    random: ChaCha8Rng,
    in_prompt: HashSet<TokenId>,
    in_answer: HashMap<TokenId, u16>,
    top_logprobs: Option<usize>,
}

impl Sampler {
    /// A sampler for an answer to `prompt`, both parts of it.
    pub fn new(params: SamplingParams, seed: u64, prompt: &[TokenId]) -> Self {
        let needs_prompt = params.repetition_penalty != 1.0;
        let seen = prompt.iter().filter(|_| needs_prompt);
        Self {
            params,
            random: ChaCha8Rng::seed_from_u64(seed),
            in_prompt: seen.copied().collect(),
            in_answer: HashMap::new(),
            top_logprobs: None,
        }
    }

    /// Also tells the probability of each chosen token and the `count` most probable ones.
    #[must_use]
    pub fn with_logprobs(mut self, count: usize) -> Self {
        self.top_logprobs = Some(count);
        self
    }

    /// As if it had chosen these tokens: another one of the same parameters and seed has.
    pub fn replay(&mut self, chosen: &[TokenId]) {
        for token in chosen {
            // Each choice that is not the highest score takes one number.
            if self.params.temperature != 0.0 {
                let _: f32 = self.random.random();
            }
            self.count(*token);
        }
    }

    fn count(&mut self, token: TokenId) {
        let count = self.in_answer.entry(token).or_default();
        *count = count.saturating_add(1);
    }

    /// Chooses the next token.
    ///
    /// # Shapes
    /// `logits`: `[vocab]`.
    ///
    /// # Panics
    /// If there are no scores.
    pub fn choose(&mut self, logits: &[f32]) -> Chosen {
        let penalised = self.params.changes_scores().then(|| self.penalised(logits));
        let scores = penalised.as_deref().unwrap_or(logits);
        let token = match self.params.temperature {
            0.0 => greedy(scores),
            temperature => self.sample(scores, temperature),
        };
        self.count(token);
        let Some(top_count) = self.top_logprobs else {
            return Chosen {
                token,
                logprob: 0.0,
                top: Vec::new(),
            };
        };
        let norm = log_sum_exp(logits);
        let logprob = |index: usize| logits[index] - norm;
        let mut order: Vec<usize> = (0..logits.len()).collect();
        let top_count = top_count.min(order.len());
        if top_count > 0 {
            order.select_nth_unstable_by(top_count - 1, |a, b| logits[*b].total_cmp(&logits[*a]));
        }
        order.truncate(top_count);
        order.sort_by(|a, b| logits[*b].total_cmp(&logits[*a]).then(a.cmp(b)));
        Chosen {
            token,
            logprob: logprob(token.0 as usize),
            top: order
                .into_iter()
                .map(|index| (token_of(index), logprob(index)))
                .collect(),
        }
    }

    fn penalised(&self, logits: &[f32]) -> Vec<f32> {
        let mut scores = logits.to_vec();
        let params = &self.params;
        let in_answer = self.in_answer.keys();
        let only_in_prompt = self.in_prompt.iter();
        let only_in_prompt = only_in_prompt.filter(|token| !self.in_answer.contains_key(token));
        for token in in_answer.chain(only_in_prompt) {
            if let Some(score) = scores.get_mut(token.0 as usize) {
                *score = match *score > 0.0 {
                    true => *score / params.repetition_penalty,
                    false => *score * params.repetition_penalty,
                };
            }
        }
        for (token, count) in &self.in_answer {
            if let Some(score) = scores.get_mut(token.0 as usize) {
                *score -= params.presence_penalty + params.frequency_penalty * f32::from(*count);
            }
        }
        scores
    }

    /// Draws from what temperature, top-k, top-p and min-p leave, in that order.
    fn sample(&mut self, scores: &[f32], temperature: f32) -> TokenId {
        let mut kept: Vec<(u32, f32)> = (0u32..).zip(scores.iter().copied()).collect();
        kept.retain(|(_, score)| !score.is_nan());
        // One number for each token, whatever the scores: so a position in the answer is one in the
        // numbers.
        let drawn = self.random.random::<f32>();
        if kept.is_empty() {
            return greedy(scores);
        }
        let descending = |a: &(u32, f32), b: &(u32, f32)| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0));
        let top_k = self.params.top_k;
        if top_k > 0 && top_k < kept.len() {
            kept.select_nth_unstable_by(top_k - 1, descending);
            kept.truncate(top_k);
        }
        // Sums over sorted weights do not depend on the order in which tokens are numbered.
        kept.sort_unstable_by(descending);
        let peak = kept[0].1;
        for (_, score) in &mut kept {
            *score = ((*score - peak) / temperature).exp();
        }
        let total: f32 = kept.iter().map(|(_, weight)| weight).sum();
        let mut before = 0.0;
        let (top_p, min_p) = (self.params.top_p, self.params.min_p);
        let cut = kept.iter().position(|(_, weight)| {
            // The first token always stays: nothing comes before it, and it is the most probable.
            let outside = before >= top_p * total || *weight < min_p;
            before += weight;
            outside
        });
        kept.truncate(cut.unwrap_or(kept.len()).max(1));
        let total: f32 = kept.iter().map(|(_, weight)| weight).sum();
        let mut left = drawn * total;
        for (token, weight) in &kept {
            left -= weight;
            if left < 0.0 {
                return TokenId(*token);
            }
        }
        // Rounding may leave a rest.
        TokenId(kept[kept.len() - 1].0)
    }
}

fn log_sum_exp(scores: &[f32]) -> f32 {
    let peak = scores.iter().copied().fold(f32::NEG_INFINITY, f32::max);
    let sum: f64 = scores
        .iter()
        .map(|score| f64::from(score - peak).exp())
        .sum();
    #[expect(clippy::cast_possible_truncation, reason = "a logarithm of a count")]
    let log = sum.ln() as f32;
    peak + log
}

fn token_of(index: usize) -> TokenId {
    TokenId(u32::try_from(index).expect("a vocabulary has fewer than 2^32 tokens"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const LOGITS: [f32; 5] = [1.0, 3.0, 2.0, -1.0, 0.5];

    fn counts(params: SamplingParams, draws: usize) -> [usize; 5] {
        let mut counts = [0; 5];
        let mut sampler = Sampler::new(params, 7, &[]);
        for _ in 0..draws {
            // Penalties look at the answer so far; here every draw is a first one.
            sampler.in_answer.clear();
            counts[sampler.choose(&LOGITS).token.0 as usize] += 1;
        }
        counts
    }

    #[test]
    fn frequencies_are_those_of_the_softmax() {
        let draws = 40_000;
        let norm = log_sum_exp(&LOGITS);
        let found = counts(SamplingParams::default(), draws);
        for (logit, found) in LOGITS.iter().zip(found) {
            let (expected, found) = ((logit - norm).exp(), found as f32 / draws as f32);
            // Five standard deviations of a frequency at this many draws.
            assert!((expected - found).abs() < 0.0125, "{expected} and {found}");
        }
    }

    #[test]
    fn cuts_leave_only_the_tokens_they_should() {
        let only = |params: SamplingParams| counts(params, 500).map(|count| count > 0);
        let params = SamplingParams::default();
        let expected = [false, true, true, false, false];
        assert_eq!(only(SamplingParams { top_k: 2, ..params }), expected);
        // The two most probable have 0.61 and 0.23 of the probability.
        assert_eq!(
            only(SamplingParams {
                top_p: 0.7,
                ..params
            }),
            expected
        );
        assert_eq!(
            only(SamplingParams {
                min_p: 0.3,
                ..params
            }),
            expected
        );
        let one = [false, true, false, false, false];
        assert_eq!(
            only(SamplingParams {
                top_p: 0.01,
                ..params
            }),
            one
        );
        assert_eq!(only(SamplingParams::greedy()), one);
    }

    #[test]
    fn the_seed_decides() {
        let draw = |seed| {
            let mut sampler = Sampler::new(SamplingParams::default(), seed, &[]);
            (0..20)
                .map(|_| sampler.choose(&LOGITS).token)
                .collect::<Vec<_>>()
        };
        assert_eq!(draw(1), draw(1));
        assert_ne!(draw(1), draw(2));
    }

    #[test]
    fn a_sampler_that_replays_goes_on_as_the_other_does() {
        let params = SamplingParams {
            frequency_penalty: 0.5,
            ..SamplingParams::default()
        };
        for temperature in [0.0, 1.0] {
            let params = SamplingParams {
                temperature,
                ..params
            };
            let mut first = Sampler::new(params, 9, &[]);
            let begun: Vec<TokenId> = (0..20).map(|_| first.choose(&LOGITS).token).collect();
            let mut second = Sampler::new(params, 9, &[]);
            second.replay(&begun[..12]);
            second.replay(&begun[12..]);
            for _ in 0..20 {
                assert_eq!(first.choose(&LOGITS).token, second.choose(&LOGITS).token);
            }
        }
    }

    #[test]
    fn penalties_count_prompt_and_answer_as_their_names_say() {
        let params = SamplingParams {
            repetition_penalty: 2.0,
            presence_penalty: 0.5,
            frequency_penalty: 0.25,
            ..SamplingParams::greedy()
        };
        let mut sampler = Sampler::new(params, 0, &[TokenId(0), TokenId(3)]);
        sampler.in_answer.insert(TokenId(1), 2);
        let penalised = sampler.penalised(&LOGITS);
        assert_eq!(penalised, [0.5, 3.0 / 2.0 - 1.0, 2.0, -2.0, 0.5]);
    }

    #[test]
    fn logprobs_are_those_of_the_model() {
        let mut sampler = Sampler::new(SamplingParams::greedy(), 0, &[]).with_logprobs(2);
        let chosen = sampler.choose(&LOGITS);
        let norm = log_sum_exp(&LOGITS);
        assert_eq!(chosen.token, TokenId(1));
        assert_eq!(chosen.logprob, 3.0 - norm);
        assert!(chosen.top == [(TokenId(1), 3.0 - norm), (TokenId(2), 2.0 - norm)]);
        let total: f64 = LOGITS
            .iter()
            .map(|logit| f64::from(logit - norm).exp())
            .sum();
        assert!((total - 1.0).abs() < 1e-6);
    }

    #[test]
    fn scores_that_are_no_numbers_are_not_drawn() {
        let logits = [f32::NAN, 1.0, f32::NEG_INFINITY];
        let mut sampler = Sampler::new(SamplingParams::default(), 1, &[]);
        for _ in 0..50 {
            assert_eq!(sampler.choose(&logits).token, TokenId(1));
        }
        assert_eq!(sampler.choose(&[f32::NAN; 3]).token, TokenId(0));
    }

    #[test]
    fn parameters_outside_their_range_are_named() {
        let params = SamplingParams {
            top_p: 0.0,
            ..SamplingParams::default()
        };
        let error = params.check().unwrap_err().to_string();
        assert_eq!(error, "top_p is 0: it must be above 0 and at most 1");
        let nan = SamplingParams {
            temperature: f32::NAN,
            ..SamplingParams::default()
        };
        assert!(nan.check().is_err());
        assert_eq!(SamplingParams::default().check(), Ok(()));
    }
}
