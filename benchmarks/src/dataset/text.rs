//! Made-up text of a given number of tokens.

use anyhow::Result;
use rand::RngExt;
use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::CountTokens;

/// What texts are made of: common words, which tokenizers have as one token or few.
const WORDS: [&str; 96] = [
    "about",
    "after",
    "again",
    "air",
    "all",
    "answer",
    "because",
    "before",
    "begin",
    "better",
    "between",
    "book",
    "both",
    "call",
    "change",
    "city",
    "close",
    "code",
    "come",
    "could",
    "country",
    "day",
    "different",
    "does",
    "each",
    "earth",
    "end",
    "even",
    "every",
    "example",
    "eye",
    "far",
    "father",
    "few",
    "find",
    "first",
    "follow",
    "form",
    "friend",
    "give",
    "good",
    "great",
    "group",
    "hand",
    "have",
    "help",
    "here",
    "high",
    "home",
    "house",
    "idea",
    "important",
    "keep",
    "kind",
    "know",
    "large",
    "last",
    "learn",
    "leave",
    "letter",
    "life",
    "light",
    "line",
    "list",
    "little",
    "live",
    "long",
    "made",
    "make",
    "many",
    "mean",
    "most",
    "mother",
    "mountain",
    "move",
    "much",
    "name",
    "near",
    "need",
    "never",
    "next",
    "night",
    "number",
    "often",
    "open",
    "order",
    "other",
    "page",
    "paper",
    "part",
    "people",
    "place",
    "plant",
    "point",
    "question",
    "river",
];

/// How often a text's length is put right before the nearest one is taken.
const ATTEMPTS_MAX: usize = 12;

/// A text and its length.
pub(crate) struct MadeText {
    /// Words and full stops.
    pub(crate) text: String,
    /// Its tokens, counted.
    pub(crate) token_len: usize,
}

/// Makes texts; the same seed gives the same ones.
pub(crate) struct TextGenerator {
    rng: ChaCha8Rng,
    /// As the last text had it: the next one begins with a better guess.
    tokens_per_word: f64,
}

impl TextGenerator {
    /// The first guess is one token for each word.
    pub(crate) fn new(seed: u64) -> Self {
        Self {
            rng: ChaCha8Rng::seed_from_u64(seed),
            tokens_per_word: 1.0,
        }
    }

    /// A text of `len` tokens, or as near as whole words come; at least one word.
    ///
    /// # Errors
    /// Those of counting.
    #[expect(
        clippy::cast_precision_loss,
        reason = "a ratio of lengths that are exact in f64"
    )]
    pub(crate) fn of_len(&mut self, len: usize, count: CountTokens<'_>) -> Result<MadeText> {
        let mut words = Vec::new();
        let mut best: Option<MadeText> = None;
        let mut wanted = self.words_for(len);
        for _ in 0..ATTEMPTS_MAX {
            while words.len() < wanted {
                words.push(self.word());
            }
            words.truncate(wanted);
            let text = sentences(&words);
            let token_len = count(&text)?;
            let distance = token_len.abs_diff(len);
            if token_len > 0 {
                self.tokens_per_word = token_len as f64 / words.len() as f64;
            }
            let is_nearer = best
                .as_ref()
                .is_none_or(|best| distance < best.token_len.abs_diff(len));
            if is_nearer {
                best = Some(MadeText { text, token_len });
            }
            let step = self.words_for(distance);
            wanted = match token_len < len {
                true => words.len() + step,
                false => words.len().saturating_sub(step).max(1),
            };
            if distance == 0 || wanted == words.len() {
                break;
            }
        }
        Ok(best.unwrap_or(MadeText {
            text: String::new(),
            token_len: 0,
        }))
    }

    /// Words of so many tokens, as far as is known; at least one.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a guess"
    )]
    fn words_for(&self, len: usize) -> usize {
        ((len as f64 / self.tokens_per_word).floor() as usize).clamp(1, len.max(1))
    }

    fn word(&mut self) -> &'static str {
        WORDS[self.rng.random_range(0..WORDS.len())]
    }
}

/// Words of a sentence.
const SENTENCE_LEN: usize = 12;

fn sentences(words: &[&str]) -> String {
    let sentences: Vec<_> = words
        .chunks(SENTENCE_LEN)
        .map(|words| words.join(" "))
        .collect();
    sentences.join(". ")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A token for every three characters begun, and one at the beginning.
    fn by_threes(text: &str) -> Result<usize> {
        Ok(1 + text.len().div_ceil(3))
    }

    #[test]
    fn a_text_has_the_length_that_was_asked_for_or_nearly() {
        let seed = 1;
        println!("seed {seed}");
        let mut generator = TextGenerator::new(seed);
        for len in [4, 10, 112, 1_000, 2_000] {
            let made = generator.of_len(len, &mut by_threes).unwrap();
            assert_eq!(made.token_len, by_threes(&made.text).unwrap());
            // The longest word has 9 letters.
            assert!(
                made.token_len.abs_diff(len) <= 4,
                "{len} {}",
                made.token_len
            );
        }
    }

    #[test]
    fn a_seed_gives_its_text_and_no_two_texts_begin_alike() {
        let text = |seed: u64| {
            let mut generator = TextGenerator::new(seed);
            let one = generator.of_len(50, &mut by_threes).unwrap().text;
            (one, generator.of_len(50, &mut by_threes).unwrap().text)
        };
        assert_eq!(text(2), text(2));
        assert_ne!(text(2), text(3));
        let (one, two) = text(2);
        assert_ne!(one[..12], two[..12]);
    }

    #[test]
    fn a_counter_that_always_says_nothing_ends() {
        let mut generator = TextGenerator::new(0);
        let made = generator.of_len(5, &mut |_| Ok(0)).unwrap();
        assert_eq!(made.token_len, 0);
        assert!(made.text.len() < 1_000);
    }
}
