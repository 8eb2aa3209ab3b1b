//! What each stage of the curriculum practises, as token ids.

use std::collections::HashMap;

use rand::seq::{IndexedRandom, SliceRandom};
use rand::{Rng, RngExt};
use tokenizers::Tokenizer;

use super::batch::{Batch, Prompt, Suffix};
use super::curriculum::{Stage, StageKind};
use super::trainer::SHARD_COUNT;
use crate::shop_desk::{
    BOS, Case, CaseSampler, EOS, FactRange, NAMES, NUMBERS, NameStyle, PLANS, Split,
    TokenizerBuildError, build_tokenizer,
};

/// One guest in this many has a name that must be spelled.
const SPELLED_EVERY: u32 = 8;

/// Makes batches from the shop desk's sentences.
#[derive(Debug)]
pub struct Tasks {
    tokenizer: Tokenizer,
    /// Tokens that may stand for a plan: names, plans, numbers and letters.
    content: Vec<u32>,
    /// The token of each plan.
    plans: Vec<u32>,
    bos: u32,
    eos: u32,
}

impl Tasks {
    /// With the shop desk's tokenizer.
    ///
    /// # Errors
    /// As [`build_tokenizer`].
    ///
    /// # Panics
    /// If a word of the shop desk is no token, which a test of the tokenizer rules out.
    pub fn new() -> Result<Self, TokenizerBuildError> {
        let tokenizer = build_tokenizer()?;
        let id = |token: &str| tokenizer.token_to_id(token).expect("the word is a token");
        let word = |word: &&str| id(&format!(" {word}"));
        let plans: Vec<u32> = PLANS.iter().map(word).collect();
        let letters = ('A'..='Z').chain('a'..='z').map(|c| id(&c.to_string()));
        let content = NAMES
            .iter()
            .map(word)
            .chain(plans.iter().copied())
            .chain(NUMBERS.map(|n| id(&format!(" {n}"))))
            .chain(letters)
            .collect();
        Ok(Self {
            content,
            plans,
            bos: id(BOS),
            eos: id(EOS),
            tokenizer,
        })
    }

    /// Size of the vocabulary.
    pub fn vocab_size(&self) -> usize {
        self.tokenizer.get_vocab_size(true)
    }

    /// The batches of one step of `stage`, one for each shard. Seed and step determine them.
    ///
    /// # Panics
    /// If the stage has fewer prompts than there are shards.
    pub fn batches(&self, stage: &Stage, seed: u64, step: u64) -> Vec<Batch> {
        let mut sampler = CaseSampler::new(Split::Training, seed, step);
        let prompts: Vec<Prompt> = match &stage.kind {
            StageKind::LookUp(facts) => {
                let fact_count = sampler.fact_count(facts);
                let prompt = |_| self.look_up(fact_count, &mut sampler);
                (0..stage.prompt_count).map(prompt).collect()
            }
            StageKind::Desk(facts) => {
                let fact_count = sampler.fact_count(facts);
                let prompt = |_| self.desk(fact_count, stage.suffix_count, &mut sampler);
                (0..stage.prompt_count).map(prompt).collect()
            }
        };
        let per_shard = prompts.len() / SHARD_COUNT;
        prompts.chunks_exact(per_shard).map(Batch::new).collect()
    }

    /// The shop's list with random words for plans, then every line up to its number: the number
    /// is to be found by plan and verb together.
    fn look_up(&self, fact_count: usize, sampler: &mut CaseSampler) -> Prompt {
        let cloud = sampler.cloud(fact_count);
        let mut words = self.content.clone();
        words.shuffle(sampler.rng());
        let substitutes: HashMap<u32, u32> = self.plans.iter().copied().zip(words).collect();
        let disguise = |tokens: Vec<u32>| -> Vec<u32> {
            let substitute = |token| *substitutes.get(&token).unwrap_or(&token);
            tokens.into_iter().map(substitute).collect()
        };
        let suffixes = cloud.facts.iter().map(|fact| {
            let tokens = disguise(self.encode(&format!(" {fact}")));
            // " the jade plan costs 42 coins.": the number is the third token from the end.
            let number = tokens.len() - 3;
            Suffix {
                tokens: tokens[..=number].to_vec(),
                scored: number..number + 1,
            }
        });
        let suffixes = suffixes.collect();
        let mut prefix = vec![self.bos];
        prefix.extend(disguise(self.encode(&cloud.to_string())));
        Prompt { prefix, suffixes }
    }

    /// The task itself: a cloud prompt and several guests.
    fn desk(&self, fact_count: usize, guest_count: usize, sampler: &mut CaseSampler) -> Prompt {
        let cloud = sampler.cloud(fact_count);
        let mut suffixes = Vec::with_capacity(guest_count);
        while suffixes.len() < guest_count {
            let fact = *choose(&cloud.facts, sampler.rng());
            let style = match sampler.rng().random_ratio(1, SPELLED_EVERY) {
                true => NameStyle::Spelled,
                false => NameStyle::Listed,
            };
            if let Some(guest) = sampler.guest(&fact, style) {
                let answer = cloud.answer(&guest.name, &fact);
                suffixes.push(self.answered(&guest.to_string(), &answer));
            }
        }
        let prefix = self.begin(&cloud.to_string());
        Prompt { prefix, suffixes }
    }

    /// `case` as a batch row, for evaluation.
    pub fn prompt(&self, case: &Case) -> Prompt {
        Prompt {
            prefix: self.begin(&case.cloud_text),
            suffixes: vec![self.answered(&case.edge_text, &case.answer)],
        }
    }

    /// `count` held-out guests with spelled names.
    pub fn spelled_cases(seed: u64, count: usize) -> Vec<Case> {
        let mut sampler = CaseSampler::new(Split::HeldOut, seed, 1);
        let case = |_| sampler.case(&FactRange::full(), NameStyle::Spelled);
        (0..count).map(case).collect()
    }

    fn begin(&self, cloud_text: &str) -> Vec<u32> {
        let mut prefix = vec![self.bos];
        prefix.extend(self.encode(cloud_text));
        prefix
    }

    fn answered(&self, edge_text: &str, answer: &str) -> Suffix {
        let mut tokens = self.encode(edge_text);
        let start = tokens.len();
        tokens.extend(self.encode(answer));
        tokens.push(self.eos);
        let scored = start..tokens.len();
        Suffix { tokens, scored }
    }

    fn encode(&self, text: &str) -> Vec<u32> {
        let encoding = self.tokenizer.encode_fast(text, false);
        let encoding = encoding.expect("any text can be encoded");
        encoding.get_ids().to_vec()
    }
}

fn choose<'a, T>(list: &'a [T], rng: &mut impl Rng) -> &'a T {
    list.choose(rng).expect("the lists are not empty")
}
