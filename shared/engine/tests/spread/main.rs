//! Heads and feed-forward slices on several devices, on their way between them and lost with them: the
//! tokens are those of one device.

// All of it is test code, so a panic is a failed test.
#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod worker;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use burn::tensor::Device;
use edgeprompt_engine::{
    CloudSegment, Engine, EngineLimits, Generation, LayerOwners, Owner, Owners, Sampler,
    SamplingParams, SequenceId, ShardShape, SpreadEvent, WorkerId,
};
use edgeprompt_kv::TokenId;
use edgeprompt_model::{Model, ModelShape};
use edgeprompt_testkit::fixtures::trained_model;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use worker::InProcess;

/// Tokens between two placements.
const MOVE_EVERY: usize = 8;

const SLICES: usize = 4;

fn limits() -> EngineLimits {
    let positive = |count| NonZeroUsize::new(count).unwrap();
    EngineLimits {
        max_num_seqs: positive(4),
        max_num_batched_tokens: positive(24),
        max_num_waiting: 100,
        block_len: positive(8),
        block_count: 48,
    }
}

/// What a user asks: a cloud prompt, perhaps, and a private one.
struct Question {
    cloud: Option<CloudSegment>,
    prompt: Vec<TokenId>,
    len: usize,
}

impl Question {
    fn random(model: &Model, rng: &mut StdRng) -> Self {
        let vocabulary = u32::try_from(model.config.vocab_size).unwrap();
        let mut tokens = |count: usize| -> Vec<TokenId> {
            (0..count)
                .map(|_| TokenId(rng.random_range(3..vocabulary)))
                .collect()
        };
        let (cloud, prompt) = (tokens(20), tokens(30));
        let prompt_len = rng.random_range(1..30);
        let cloud = (rng.random_bool(0.5)).then(|| CloudSegment::computed(model, &cloud));
        Self {
            cloud,
            prompt: prompt[..prompt_len].to_vec(),
            len: 40,
        }
    }

    fn generation(&self) -> Generation {
        Generation {
            prompt: self.prompt.clone(),
            segment: self.cloud.clone(),
            session: None,
            sampler: Sampler::new(SamplingParams::greedy(), 0, &[]),
            max_tokens: self.len,
            end_tokens: Vec::new(),
        }
    }
}

fn answers(
    engine: &mut Engine,
    questions: &[Question],
    mut between: impl FnMut(&mut Engine, usize),
) -> Vec<Vec<TokenId>> {
    let ids: Vec<SequenceId> = questions
        .iter()
        .map(|it| engine.submit(it.generation()).unwrap())
        .collect();
    let mut answers: BTreeMap<_, Vec<_>> = BTreeMap::new();
    while !engine.is_idle() {
        for output in engine
            .step()
            .expect("there is work, and nothing to wait for")
        {
            answers
                .entry(output.id)
                .or_default()
                .push(output.chosen.token);
        }
        between(engine, answers.values().map(Vec::len).max().unwrap_or(0));
    }
    ids.iter().map(|id| answers.remove(id).unwrap()).collect()
}

/// Every job anywhere.
fn anywhere(shape: &ShardShape, owners: &[Owner], rng: &mut StdRng) -> Owners {
    let mut some = |count: usize| (0..count).map(|_| *owners.choose(rng).unwrap()).collect();
    let layer = |_| LayerOwners {
        heads: some(shape.kv_head_count),
        slices: some(shape.slice_count),
    };
    Owners::new((0..shape.layer_count).map(layer).collect())
}

/// Those that compute with an engine, and what happens to them.
struct Workers {
    model: Arc<Model>,
    /// Whether each lives.
    living: BTreeMap<WorkerId, Arc<AtomicBool>>,
    rng: StdRng,
    next: u32,
    /// Tokens at the last placement, in units of [`MOVE_EVERY`].
    moved_at: usize,
    placements: usize,
    lost: usize,
}

impl Workers {
    fn new(model: &Arc<Model>, engine: &mut Engine, seed: u64) -> Self {
        let mut workers = Self {
            model: Arc::clone(model),
            living: BTreeMap::new(),
            rng: StdRng::seed_from_u64(seed),
            next: 0,
            moved_at: usize::MAX,
            placements: 0,
            lost: 0,
        };
        for _ in 0..workers.rng.random_range(1..=4) {
            workers.join(engine);
        }
        workers
    }

    fn join(&mut self, engine: &mut Engine) {
        let id = WorkerId(self.next);
        self.next += 1;
        let shape = engine.shard_shape().clone();
        let own = self.rng.random_bool(0.5).then(|| Arc::clone(&self.model));
        let lives = Arc::new(AtomicBool::new(true));
        let port = InProcess::new((shape, own), Arc::clone(&lives), self.rng.random());
        engine.join(id, Box::new(port));
        self.living.insert(id, lives);
    }

    fn kill(&mut self) {
        let living: Vec<_> = self.living.keys().copied().collect();
        if let Some(id) = living.choose(&mut self.rng) {
            let lives = self.living.remove(id).unwrap();
            lives.store(false, Ordering::Relaxed);
        }
    }

    /// Between two steps, with answers of `len` tokens. `deaths`: how likely one dies, and one joins.
    fn disturb(&mut self, engine: &mut Engine, len: usize, deaths: f64) {
        if self.rng.random_bool(deaths) {
            self.kill();
        }
        if self.living.len() < 4 && self.rng.random_bool(deaths) {
            self.join(engine);
        }
        for event in engine.spread_mut().unwrap().take_events() {
            match event {
                SpreadEvent::Moved { .. } => self.placements += 1,
                SpreadEvent::Lost(_) => self.lost += 1,
            }
        }
        let spread = engine.spread().unwrap();
        if len / MOVE_EVERY == self.moved_at || spread.is_migrating() {
            return;
        }
        self.moved_at = len / MOVE_EVERY;
        let there = spread.workers().map(Owner::Worker);
        let owners: Vec<_> = there.chain([Owner::Here]).collect();
        let goal = anywhere(engine.shard_shape(), &owners, &mut self.rng);
        engine.aim(goal);
    }
}

fn one_device(model: &Arc<Model>, questions: &[Question]) -> Vec<Vec<TokenId>> {
    let mut engine = Engine::new(Arc::clone(model), limits());
    answers(&mut engine, questions, |_, _| {})
}

/// Until there were so many placements, or so many generations, each with up to 3 users.
fn run(model: &Arc<Model>, (placements, generations): (usize, usize), deaths: f64) {
    let (mut done, mut lost, mut generated) = (0, 0, 0);
    for seed in 0.. {
        let mut rng = StdRng::seed_from_u64(seed);
        let questions: Vec<_> = (0..rng.random_range(1..=3))
            .map(|_| Question::random(model, &mut rng))
            .collect();
        let expected = one_device(model, &questions);
        let mut engine = Engine::new(Arc::clone(model), limits());
        engine.open_to_workers(SLICES, (Arc::new(|| Duration::ZERO), Arc::new(|_| {})));
        let mut workers = Workers::new(model, &mut engine, seed);
        let found = answers(&mut engine, &questions, |engine, len| {
            workers.disturb(engine, len, deaths);
        });
        assert!(
            found == expected,
            "seed {seed}: other tokens than of one device"
        );
        let (used, _) = engine.block_usage();
        assert_eq!(used, 0, "seed {seed}: blocks are left");
        done += workers.placements;
        lost += workers.lost;
        generated += questions.len();
        if done >= placements && generated >= generations {
            break;
        }
    }
    println!("{done} placements, {generated} generations, {lost} workers lost");
    assert!(deaths == 0.0 || lost > 0, "workers were lost");
}

fn tiny() -> Arc<Model> {
    Arc::new(Model::dummy(ModelShape::Tiny, &Device::flex()))
}

fn trained(name: &str) -> Option<Arc<Model>> {
    let folder = trained_model(name)?;
    Some(Arc::new(
        Model::open(&folder, &Device::flex(), |_| {}).unwrap(),
    ))
}

#[test]
fn random_placements_change_no_token() {
    run(&tiny(), (200, 0), 0.0);
}

#[test]
fn workers_that_die_and_come_back_change_no_token() {
    run(&tiny(), (0, 100), 0.05);
}

#[test]
fn a_thousand_placements_change_no_token_of_stories260k() {
    if let Some(model) = trained("stories260K") {
        run(&model, (1000, 0), 0.0);
        run(&model, (0, 100), 0.05);
    }
}

#[test]
fn a_thousand_placements_change_no_token_of_tinystories() {
    if let Some(model) = trained("tinystories-656K") {
        run(&model, (1000, 0), 0.0);
        run(&model, (0, 100), 0.05);
    }
}
