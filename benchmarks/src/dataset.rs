//! What a benchmark asks: prompts with their lengths and the lengths of their answers, from
//! ShareGPT's file, from lengths like ShareGPT's, or from a trace. No network and no clock: how
//! tokens are counted is the caller's to say.

mod csv_trace;
mod lengths;
mod malformed;
mod python_random;
mod sharegpt;
mod text;

use std::sync::Arc;

use anyhow::Result;

pub(crate) use csv_trace::{TraceRow, read as read_trace};
pub(crate) use lengths::{Lens, RandomLens, ShareGptLens, drawn};
pub(crate) use malformed::Malformed;
pub(crate) use sharegpt::{Order, Oversampling, Rules, ShareGpt, Tally};
pub(crate) use text::TextGenerator;

/// Counts the tokens of a text as the measured model does, with the special tokens it begins with.
pub(crate) type CountTokens<'a> = &'a mut dyn FnMut(&str) -> Result<usize>;

/// One request. Deliberately not `Debug`: prompts are not for logs.
#[derive(Clone)]
pub(crate) struct Sample {
    /// What is asked; shared, for a sample may be drawn many times.
    pub(crate) prompt: Arc<str>,
    /// Tokens of the prompt.
    pub(crate) prompt_len: usize,
    /// Tokens of the answer.
    pub(crate) output_len: usize,
}

/// Texts of the given lengths.
///
/// # Errors
/// Those of counting.
pub(crate) fn generate(
    lens: impl IntoIterator<Item = Lens>,
    text: &mut TextGenerator,
    count: CountTokens<'_>,
) -> Result<Vec<Sample>> {
    let sample = |lens: Lens| {
        let made = text.of_len(lens.prompt, count)?;
        Ok(Sample {
            prompt: made.text.into(),
            prompt_len: made.token_len,
            output_len: lens.output,
        })
    };
    lens.into_iter().map(sample).collect()
}
