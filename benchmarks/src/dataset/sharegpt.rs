//! ShareGPT's conversations by vLLM's rules: those with two turns or more, shuffled; the first turn
//! is the prompt, the second says how long the answer is.
//!
//! The file has some 600 MB. It is read once, of which only the places of usable conversations are
//! kept; the conversations that are drawn are then read from their places.

mod index;

use std::io::{BufReader, Read, Seek};
use std::path::Path;

use anyhow::{Context, Result, bail};
use serde::Serialize;

use super::python_random::PythonRandom;
use super::{CountTokens, Malformed, Sample};
use index::Index;

/// Shortest prompt and shortest answer, longest prompt, and longest of both together, in tokens:
/// vLLM's.
const LEN_MIN: usize = 4;
const PROMPT_LEN_MAX: usize = 1024;
const TOTAL_LEN_MAX: usize = 2048;

/// In which order conversations are looked at.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Order {
    /// As Python shuffles them.
    Shuffled,
    /// As they are stored.
    AsStored,
}

/// What happens where there are fewer conversations than requests.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Oversampling {
    /// Some are asked again, drawn with replacement.
    WithReplacement,
    /// There are fewer requests.
    Never,
}

/// Which conversations become requests.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Rules {
    /// How many requests.
    pub(crate) sample_count: usize,
    /// Of the shuffle and of drawing again.
    pub(crate) seed: u64,
    /// In which order.
    pub(crate) order: Order,
    /// Tokens of every answer, in place of the conversation's own.
    pub(crate) output_len: Option<usize>,
    /// What to do if there are too few.
    pub(crate) oversampling: Oversampling,
}

/// What became of the records of a file.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Tally {
    /// Records of the file.
    pub(crate) record_count: usize,
    /// Those with fewer than two turns.
    pub(crate) short_count: usize,
    /// Those that are no conversations.
    pub(crate) malformed: Malformed,
    /// Those looked at whose prompt or answer is too short or too long.
    pub(crate) rejected_count: usize,
    /// Those that became requests.
    pub(crate) kept_count: usize,
    /// Requests that are asked again because there were too few.
    pub(crate) repeated_count: usize,
}

impl std::fmt::Display for Tally {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "{} records, {} with fewer than two turns, {} too short or too long among those looked at, {} used, {} of them again, {}",
            self.record_count,
            self.short_count,
            self.rejected_count,
            self.kept_count,
            self.repeated_count,
            self.malformed
        )
    }
}

/// The first two turns of a conversation. Deliberately not `Debug`.
struct Turns {
    prompt: String,
    answer: String,
}

/// A file of conversations.
pub(crate) struct ShareGpt<R> {
    reader: R,
    index: Index,
}

impl ShareGpt<BufReader<std::fs::File>> {
    /// Opens `ShareGPT_V3_unfiltered_cleaned_split.json` or a file like it.
    ///
    /// # Errors
    /// If the file cannot be read; what is wrong *in* it is counted.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = std::fs::File::open(path)
            .with_context(|| format!("the conversations in {} are not read", path.display()))?;
        Self::new(BufReader::new(file))
            .with_context(|| format!("the conversations in {} are not read", path.display()))
    }
}

impl<R: Read + Seek> ShareGpt<R> {
    /// Finds the conversations.
    ///
    /// # Errors
    /// Those of reading.
    pub(crate) fn new(mut reader: R) -> Result<Self> {
        let index = Index::of(&mut reader)?;
        Ok(Self { reader, index })
    }

    /// Picks requests.
    ///
    /// # Errors
    /// If there is none at all; those of reading and counting.
    pub(crate) fn samples(
        &mut self,
        rules: &Rules,
        count: CountTokens<'_>,
    ) -> Result<(Vec<Sample>, Tally)> {
        let mut tally = self.index.tally.clone();
        let mut samples = Vec::new();
        for index in self.order(rules) {
            if samples.len() == rules.sample_count {
                break;
            }
            let place = self.index.places[index as usize];
            let turns = index::read_turns(&mut self.reader, place)?;
            match sample(&turns, rules.output_len, count)? {
                Some(sample) => samples.push(sample),
                None => tally.rejected_count += 1,
            }
        }
        tally.kept_count = samples.len();
        if samples.is_empty() {
            bail!(
                "no conversation can be used ({tally}): a list of {{\"conversations\": [{{\"value\": TEXT}}, ...]}} is expected, as in ShareGPT_V3_unfiltered_cleaned_split.json, with a first turn of {LEN_MIN} to {PROMPT_LEN_MAX} tokens and at most {TOTAL_LEN_MAX} in both; without a file, lengths like ShareGPT's are made up"
            );
        }
        if rules.oversampling == Oversampling::WithReplacement {
            oversample(&mut samples, rules);
            tally.repeated_count = samples.len() - tally.kept_count;
        }
        Ok((samples, tally))
    }

    fn order(&self, rules: &Rules) -> Vec<u32> {
        let count = u32::try_from(self.index.places.len()).unwrap_or(u32::MAX);
        let mut order: Vec<u32> = (0..count).collect();
        if rules.order == Order::Shuffled {
            PythonRandom::new(rules.seed).shuffle(&mut order);
        }
        order
    }
}

/// The request that a conversation makes, if its lengths pass.
fn sample(
    turns: &Turns,
    output_len: Option<usize>,
    count: CountTokens<'_>,
) -> Result<Option<Sample>> {
    let prompt_len = count(&turns.prompt)?;
    if !(LEN_MIN..=PROMPT_LEN_MAX).contains(&prompt_len) {
        return Ok(None);
    }
    let output_len = match output_len {
        Some(forced) => forced,
        None => {
            let len = count(&turns.answer)?;
            if len < LEN_MIN {
                return Ok(None);
            }
            len
        }
    };
    let fits = prompt_len.saturating_add(output_len) <= TOTAL_LEN_MAX;
    Ok(fits.then(|| Sample {
        prompt: turns.prompt.as_str().into(),
        prompt_len,
        output_len,
    }))
}

/// Draws from those that there are until there are enough, from the seed anew, as vLLM does.
fn oversample(samples: &mut Vec<Sample>, rules: &Rules) {
    let mut random = PythonRandom::new(rules.seed);
    let kept_count = samples.len();
    while samples.len() < rules.sample_count {
        let drawn = random.below(u32::try_from(kept_count).unwrap_or(u32::MAX));
        samples.push(samples[drawn as usize].clone());
    }
}

#[cfg(test)]
mod tests;
