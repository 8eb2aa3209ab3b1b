//! The shop desk's tokenizer: whole words, numbers as single tokens, bytes for everything else.
//!
//! A word's token carries the space before it (`" jade"`), so decoding is plain concatenation and
//! needs no rule for the first token. A line break is always a token of its own, so a prompt cut
//! after one has the tokens of its halves.
//!
//! As a file it is byte-pair encoding without merges: what the splitting pattern finds is either a
//! token as it is or falls apart into characters, and a character that is no token into bytes.

use std::collections::BTreeSet;

use thiserror::Error;
use tokenizers::decoders::DecoderWrapper;
use tokenizers::decoders::byte_fallback::ByteFallback;
use tokenizers::decoders::fuse::Fuse;
use tokenizers::decoders::sequence::Sequence;
use tokenizers::models::bpe::{BPE, Vocab};
use tokenizers::pre_tokenizers::split::{Split, SplitPattern};
use tokenizers::processors::template::{TemplateProcessing, TemplateProcessingBuilderError};
use tokenizers::{AddedToken, SplitDelimiterBehavior, Tokenizer};

use super::prompt::{Aspect, CloudPrompt, Fact, Opening, PlanClause, PrivatePrompt};
use super::vocabulary::{GREETINGS, NAMES, NUMBERS, PLANS};

/// Begins every sequence.
pub const BOS: &str = "<s>";
/// Ends every answer.
pub const EOS: &str = "</s>";
const UNKNOWN: &str = "<unk>";

/// A word or a number with the space before it, or a single character of any other kind.
const PATTERN: &str = " ?[A-Za-z]+| ?[0-9]+|[^A-Za-z0-9]";

/// Why the tokenizer could not be put together.
#[derive(Debug, Error)]
pub enum TokenizerBuildError {
    /// The library refused the vocabulary or the file.
    #[error("the tokenizer library refused: {0}")]
    Library(#[from] tokenizers::Error),
    /// The library refused the template that adds [`BOS`].
    #[error("the template that adds {BOS} was refused: {0}")]
    Template(#[from] TemplateProcessingBuilderError),
}

/// The tokenizer, built from the word lists and the sentences of the shop desk.
///
/// # Errors
/// [`TokenizerBuildError`] if the library refuses it, which a test rules out for this vocabulary.
pub fn build_tokenizer() -> Result<Tokenizer, TokenizerBuildError> {
    let specials = [UNKNOWN, BOS, EOS];
    let bytes = (0..=u8::MAX).map(|byte| format!("<0x{byte:02X}>"));
    let printable = (' '..='~').chain(['\n']).map(String::from);
    let tokens = specials.into_iter().map(str::to_owned);
    let tokens = tokens.chain(bytes).chain(printable).chain(words());
    let vocab: Vocab = tokens.zip(0..).collect();
    let model = BPE::builder()
        .vocab_and_merges(vocab, Vec::new())
        .unk_token(UNKNOWN.to_owned())
        .byte_fallback(true)
        .ignore_merges(true)
        .build()?;

    let mut tokenizer = Tokenizer::new(model);
    let pattern = SplitPattern::Regex(PATTERN.to_owned());
    let split = Split::new(pattern, SplitDelimiterBehavior::Isolated, false)?;
    tokenizer.with_pre_tokenizer(Some(split));
    let decoders = vec![
        DecoderWrapper::ByteFallback(ByteFallback::new()),
        DecoderWrapper::Fuse(Fuse::new()),
    ];
    tokenizer.with_decoder(Some(Sequence::new(decoders)));
    tokenizer.add_special_tokens(&specials.map(|s| AddedToken::from(s, true)));
    let template = TemplateProcessing::builder()
        .try_single(format!("{BOS} $A"))
        .map_err(TemplateProcessingBuilderError::from)?
        .try_pair(format!("{BOS} $A $B:1"))
        .map_err(TemplateProcessingBuilderError::from)?
        .special_tokens(vec![(BOS, 1)])
        .build()?;
    tokenizer.with_post_processor(Some(template));
    Ok(tokenizer)
}

/// The text of `tokenizer.json`.
///
/// # Errors
/// As [`build_tokenizer`].
pub fn tokenizer_json() -> Result<String, TokenizerBuildError> {
    Ok(build_tokenizer()?.to_string(true)?)
}

/// The text of `tokenizer_config.json`.
pub fn tokenizer_config_json() -> String {
    let config = serde_json::json!({
        "add_bos_token": true,
        "add_eos_token": false,
        "bos_token": BOS,
        "clean_up_tokenization_spaces": false,
        "eos_token": EOS,
        "model_max_length": 512,
        "tokenizer_class": "PreTrainedTokenizerFast",
        "unk_token": UNKNOWN,
    });
    format!("{config:#}\n")
}

/// Every token of more than one character, sorted: the word lists, the numbers, and the words of
/// one sentence of each kind.
fn words() -> BTreeSet<String> {
    let mut words: BTreeSet<String> = NAMES.iter().map(|name| format!(" {name}")).collect();
    words.extend(PLANS.iter().map(|plan| format!(" {plan}")));
    words.extend(NUMBERS.map(|number| format!(" {number}")));
    // In quotation marks and at the start of an answer there is no space before it.
    words.extend(GREETINGS.map(str::to_owned));
    for sentence in sentences() {
        let plain = sentence.replace(['\n', '.', ',', '?', '"'], " \n");
        words.extend(spaced_words(&plain));
    }
    words.retain(|word| word.chars().count() > 1);
    words
}

/// One text of every kind and wording.
fn sentences() -> Vec<String> {
    let fact = |aspect| Fact {
        plan: PLANS[0],
        aspect,
        number: *NUMBERS.start(),
    };
    let cloud = CloudPrompt {
        greeting: GREETINGS[0],
        facts: Aspect::ALL.map(fact).to_vec(),
    };
    let mut sentences = vec![cloud.to_string()];
    for aspect in Aspect::ALL {
        sentences.push(cloud.answer(NAMES[0], &fact(aspect)));
        for question in aspect.questions() {
            let guest = PrivatePrompt::plain(NAMES[0], PLANS[0], aspect);
            sentences.push(PrivatePrompt { question, ..guest }.to_string());
        }
    }
    let guest = PrivatePrompt::plain(NAMES[0], PLANS[0], Aspect::Cost);
    let (opening, plan_clause) = (Opening::IAm, PlanClause::AmOn);
    sentences.push(
        PrivatePrompt {
            opening,
            plan_clause,
            ..guest
        }
        .to_string(),
    );
    sentences
}

/// The words of `text`, each with the space before it if there is one.
fn spaced_words(text: &str) -> Vec<String> {
    let mut words = Vec::new();
    for line in text.lines() {
        let starts = line
            .char_indices()
            .filter(|(_, c)| *c == ' ')
            .map(|(i, _)| i);
        let mut bounds: Vec<usize> = std::iter::once(0).chain(starts).collect();
        bounds.push(line.len());
        words.extend(bounds.windows(2).map(|w| line[w[0]..w[1]].to_owned()));
    }
    words.retain(|word| !word.trim().is_empty());
    words
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::shop_desk::{CaseSampler, FactRange, NameStyle, Split, held_out_cases};
    use rand::RngExt;

    fn encode(tokenizer: &Tokenizer, text: &str) -> Vec<u32> {
        let encoding = tokenizer.encode(text, false).unwrap();
        encoding.get_ids().to_vec()
    }

    fn check_round_trip(tokenizer: &Tokenizer, text: &str) {
        let ids = encode(tokenizer, text);
        assert_eq!(tokenizer.decode(&ids, false).unwrap(), text);
    }

    #[test]
    fn any_text_comes_back() {
        let tokenizer = build_tokenizer().unwrap();
        for text in [
            "",
            " ",
            "\n",
            "  two  spaces ",
            " a leading space",
            "▁ is no space here",
            "naïve Zoë Ωμέγα 東京 🦀\u{0}\t\r\n",
            "the text <0x41> is not a byte",
            "The jade plan costs 420 coins, not 4 or 042.",
        ] {
            check_round_trip(&tokenizer, text);
        }
        let mut sampler = CaseSampler::new(Split::Training, 5, 0);
        let rng = sampler.rng();
        for _ in 0..300 {
            let len = rng.random_range(0..40);
            let text: String = (0..len).map(|_| rng.random::<char>()).collect();
            check_round_trip(&tokenizer, &text);
        }
    }

    #[test]
    fn a_prompt_has_the_tokens_of_its_halves() {
        let tokenizer = build_tokenizer().unwrap();
        let mut sampler = CaseSampler::new(Split::Training, 11, 0);
        for (i, case) in held_out_cases(2, 300).iter().enumerate() {
            let spelled = sampler
                .case(&FactRange::full(), NameStyle::Spelled)
                .edge_text;
            let odd = ["", " ", "\n", "\n\n x", "é", "plan", ". "][i % 7].to_owned();
            for private in [case.edge_text.clone(), spelled, odd] {
                let whole = encode(&tokenizer, &format!("{}{private}", case.cloud_text));
                let mut halves = encode(&tokenizer, &case.cloud_text);
                halves.extend(encode(&tokenizer, &private));
                assert_eq!(whole, halves, "{private:?}");
            }
        }
    }

    #[test]
    fn desk_words_are_single_tokens() {
        let tokenizer = build_tokenizer().unwrap();
        assert!(tokenizer.get_vocab_size(true) <= 1024);
        for case in held_out_cases(9, 100) {
            let answer = tokenizer.encode(case.answer.as_str(), false).unwrap();
            assert_eq!(answer.get_ids().len(), 10, "{:?}", answer.get_tokens());
            let fact_count = case.cloud_text.lines().count() - 1;
            let cloud = tokenizer.encode(case.cloud_text.as_str(), true).unwrap();
            assert_eq!(cloud.get_ids()[0], 1, "the sequence begins with {BOS}");
            assert_eq!(
                cloud.get_ids().len(),
                18 + 8 * fact_count,
                "{:?}",
                cloud.get_tokens()
            );
        }
    }

    #[test]
    fn the_file_is_read_back_by_the_library() {
        let tokenizer = build_tokenizer().unwrap();
        let read: Tokenizer = tokenizer_json().unwrap().parse().unwrap();
        for case in held_out_cases(1, 20) {
            assert_eq!(
                encode(&read, &case.edge_text),
                encode(&tokenizer, &case.edge_text)
            );
        }
    }
}
