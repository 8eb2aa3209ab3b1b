//! The token ids of one step, arranged as the product serves them: cloud prompts, and for each
//! several private suffixes that see the prompt and themselves but not each other.

use std::ops::Range;

/// What may follow a cloud prompt, and which of its tokens the model has to predict.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Suffix {
    /// Private prompt and answer.
    pub tokens: Vec<u32>,
    /// Indices into `tokens` that are predicted, each from the tokens before it.
    pub scored: Range<usize>,
}

/// A cloud prompt with all that may follow it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Prompt {
    /// The cloud prompt.
    pub prefix: Vec<u32>,
    /// The private continuations.
    pub suffixes: Vec<Suffix>,
}

/// One prediction to be made.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// Where in [`Batch::tokens`] the token before it is.
    pub row: usize,
    /// The right token.
    pub token: u32,
    /// Which suffix it belongs to, counted over the batch.
    pub answer: usize,
}

/// Prompts of equal shape, flat.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// Number of cloud prompts.
    pub prompt_count: usize,
    /// Length of every cloud prompt.
    pub prefix_len: usize,
    /// Suffixes of each cloud prompt.
    pub suffix_count: usize,
    /// Length of every suffix, padding included.
    pub suffix_len: usize,
    /// All prefixes, then all suffixes.
    pub tokens: Vec<u32>,
    /// What is scored.
    pub targets: Vec<Target>,
}

impl Batch {
    /// Arranges `prompts`, padding suffixes at the end where causal attention hides the padding.
    ///
    /// # Panics
    /// If there is no prompt, or the prompts differ in the length of the prefix or the number of
    /// suffixes.
    pub fn new(prompts: &[Prompt]) -> Self {
        let first = prompts.first().expect("a batch has prompts");
        let (prefix_len, suffix_count) = (first.prefix.len(), first.suffixes.len());
        let suffixes = || prompts.iter().flat_map(|prompt| &prompt.suffixes);
        let suffix_len = suffixes().map(|s| s.tokens.len()).max().unwrap_or(0);
        let mut tokens = Vec::new();
        for prompt in prompts {
            assert_eq!(prompt.prefix.len(), prefix_len, "prefixes of one length");
            assert_eq!(
                prompt.suffixes.len(),
                suffix_count,
                "suffixes of one number"
            );
            tokens.extend(&prompt.prefix);
        }
        let mut targets = Vec::new();
        for (answer, suffix) in suffixes().enumerate() {
            let start = tokens.len();
            assert!(suffix.scored.start > 0, "a target needs a token before it");
            targets.extend(suffix.scored.clone().map(|i| Target {
                row: start + i - 1,
                token: suffix.tokens[i],
                answer,
            }));
            tokens.extend(&suffix.tokens);
            tokens.resize(start + suffix_len, 0);
        }
        Self {
            prompt_count: prompts.len(),
            prefix_len,
            suffix_count,
            suffix_len,
            tokens,
            targets,
        }
    }

    /// Tokens of all prefixes.
    pub const fn prefix_tokens(&self) -> usize {
        self.prompt_count * self.prefix_len
    }

    /// Suffixes in the batch.
    pub const fn answer_count(&self) -> usize {
        self.prompt_count * self.suffix_count
    }

    /// The position of every token in its sequence: every suffix starts where its prefix ends.
    pub fn positions(&self) -> impl Iterator<Item = u32> {
        let to_position = |i| u32::try_from(i).expect("sequences are short");
        let prefixes = (0..self.prompt_count).flat_map(|_| 0..self.prefix_len);
        let end = self.prefix_len + self.suffix_len;
        let suffixes = (0..self.answer_count()).flat_map(move |_| self.prefix_len..end);
        prefixes.chain(suffixes).map(to_position)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suffixes_are_padded_and_continue_their_prefix() {
        let suffix = |tokens: &[u32], scored| Suffix {
            tokens: tokens.to_vec(),
            scored,
        };
        let batch = Batch::new(&[Prompt {
            prefix: vec![1, 7, 8],
            suffixes: vec![suffix(&[4, 5], 1..2), suffix(&[4, 5, 6], 1..3)],
        }]);
        assert_eq!(batch.tokens, [1, 7, 8, 4, 5, 0, 4, 5, 6]);
        let positions: Vec<_> = batch.positions().collect();
        assert_eq!(positions, [0, 1, 2, 3, 4, 5, 3, 4, 5]);
        let rows: Vec<_> = batch
            .targets
            .iter()
            .map(|t| (t.row, t.token, t.answer))
            .collect();
        assert_eq!(rows, [(3, 5, 0), (6, 5, 1), (7, 6, 1)]);
    }
}
