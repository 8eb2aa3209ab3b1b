//! One way to read the cloud prompt, with its sequences in the middle of generating.

use std::fmt;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Instant;

use anyhow::{Result, ensure};
use clap::ValueEnum;
use edgeprompt_engine::{CloudSegment, Engine, EngineLimits, Generation, Sampler, SamplingParams};
use edgeprompt_kv::TokenId;
use edgeprompt_model::Model;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

/// Tokens of one block of KV, as vLLM's.
const BLOCK_LEN: NonZeroUsize = NonZeroUsize::new(16).expect("16 is not 0");

/// How a step reads the cloud prompt. Names as in the literature.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// Once for all sequences.
    Relay,
    /// Once for each sequence, which has blocks of its own for it.
    Paged,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Relay => "relay",
            Self::Paged => "paged",
        })
    }
}

/// What every contender generates from.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Workload {
    /// Tokens of the cloud prompt.
    pub(crate) cloud_len: usize,
    /// Tokens of each private prompt.
    pub(crate) edge_len: usize,
    /// Tokens of each answer.
    pub(crate) output_len: usize,
    /// Seed of the prompts.
    pub(crate) seed: u64,
}

impl Workload {
    /// Tokens of one sequence in all.
    pub(crate) const fn tokens_per_sequence(&self) -> usize {
        self.cloud_len + self.edge_len + self.output_len
    }

    fn tokens(&self, model: &Model, stream: u64, len: usize) -> Vec<TokenId> {
        let mut random = ChaCha8Rng::seed_from_u64(self.seed);
        random.set_stream(stream);
        let vocab_size = u32::try_from(model.config.vocab_size).unwrap_or(u32::MAX);
        (0..len)
            .map(|_| TokenId(random.random_range(0..vocab_size)))
            .collect()
    }
}

/// An engine whose sequences all generate.
pub(crate) struct Contender {
    /// How it reads the cloud prompt.
    pub(crate) kind: Kind,
    engine: Engine,
    batch: usize,
    /// Of each step since the prompts were computed, the tokens in the order of sequences.
    generated: Vec<Vec<TokenId>>,
}

impl Contender {
    /// Computes the prompts of `batch` sequences and one token of each.
    pub(crate) fn start(
        kind: Kind,
        model: Arc<Model>,
        batch: usize,
        workload: &Workload,
    ) -> Result<Self> {
        let cloud = workload.tokens(&model, 0, workload.cloud_len);
        let segment = match kind {
            Kind::Relay => Some(CloudSegment::computed(&model, &cloud)),
            Kind::Paged => None,
        };
        let blocks = workload.tokens_per_sequence().div_ceil(BLOCK_LEN.get());
        let seqs = NonZeroUsize::new(batch).expect("a batch has a sequence");
        let prompt_len = workload.cloud_len + workload.edge_len;
        let limits = EngineLimits {
            max_num_seqs: seqs,
            // All prompts in one step, so that nobody generates while others are not there yet.
            max_num_batched_tokens: seqs
                .saturating_mul(NonZeroUsize::new(prompt_len).unwrap_or(NonZeroUsize::MIN)),
            max_num_waiting: batch,
            block_len: BLOCK_LEN,
            block_count: blocks * batch,
        };
        let mut engine = Engine::new(Arc::clone(&model), limits);
        for sequence in 0..batch {
            let own = workload.tokens(&model, sequence as u64 + 1, workload.edge_len);
            let prompt = match kind {
                Kind::Relay => own,
                Kind::Paged => [cloud.clone(), own].concat(),
            };
            let sampler = Sampler::new(SamplingParams::greedy(), 0, &prompt);
            engine.submit(Generation {
                prompt,
                segment: segment.clone(),
                session: None,
                sampler,
                max_tokens: workload.output_len,
                end_tokens: Vec::new(),
            })?;
        }
        let mut contender = Self {
            kind,
            engine,
            batch,
            generated: Vec::new(),
        };
        contender.warm_up();
        ensure!(
            contender.all_generate(),
            "{kind} did not take every sequence in"
        );
        Ok(contender)
    }

    /// Steps until all of them generate, and once more.
    fn warm_up(&mut self) {
        while !self.all_generate() && self.step() {}
        self.generated.clear();
        self.step();
    }

    fn all_generate(&self) -> bool {
        self.generated
            .last()
            .is_some_and(|step| step.len() == self.batch)
    }

    fn step(&mut self) -> bool {
        let outputs = self.engine.step();
        let tokens = outputs.map(|outputs| outputs.iter().map(|it| it.chosen.token).collect());
        let stepped = tokens.is_some();
        self.generated.extend(tokens);
        stepped
    }

    /// Generates one token of each sequence in each of `steps` steps; tokens per second.
    pub(crate) fn generate(&mut self, steps: usize) -> f64 {
        let started = Instant::now();
        for _ in 0..steps {
            self.step();
        }
        (steps * self.batch) as f64 / started.elapsed().as_secs_f64()
    }

    /// Steps whose tokens are all the same as another contender's, before the first that differ.
    pub(crate) fn steps_as(&self, other: &Self) -> usize {
        let pairs = self.generated.iter().zip(&other.generated);
        pairs.take_while(|(a, b)| a == b).count()
    }

    /// Steps since the prompts were computed.
    pub(crate) fn step_count(&self) -> usize {
        self.generated.len()
    }
}
