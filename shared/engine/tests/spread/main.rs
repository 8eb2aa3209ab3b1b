//! Heads and feed-forward slices on several devices, on their way between them and lost with them: the
//! tokens are those of one device.

// All of it is test code, so a panic is a failed test.
#![cfg(test)]
#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod held;
mod question;
mod worker;

use std::collections::BTreeMap;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use burn::tensor::Device;
use edgeprompt_engine::{
    Engine, EngineLimits, LayerOwners, Owner, Owners, Portions, SequenceId, ShardShape,
    SpreadEvent, WorkerId,
};
use edgeprompt_kv::TokenId;
use edgeprompt_model::{Model, ModelShape};
use edgeprompt_testkit::fixtures::trained_model;
use question::{Kind, Question, SoFar, questions};
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use worker::{Fate, InProcess, Manners, Moment, Seen};

/// Tokens between two placements.
const MOVE_EVERY: usize = 8;

const SLICES: usize = 4;

/// Blocks for all that is asked for at a time, and blocks for less than that.
const MANY_BLOCKS: usize = 48;
const FEW_BLOCKS: usize = 18;

/// Several for whatever travels.
const SMALL_PORTIONS: Portions = Portions {
    under_way_max: 60,
    under_way_bytes: 1 << 14,
    cut_bytes: 1 << 16,
    message_numbers: 1,
    prefix_numbers: 1 << 10,
    late_blocks: 0,
};

/// Steps in which nothing was computed, one after the other: more than anything waits for.
const IDLE_STEPS_MAX: usize = 2000;

fn limits(block_count: usize) -> EngineLimits {
    let positive = |count| NonZeroUsize::new(count).unwrap();
    EngineLimits {
        max_num_seqs: positive(4),
        max_num_batched_tokens: positive(24),
        max_num_waiting: 100,
        block_len: positive(8),
        block_count,
    }
}

/// Tokens, each with the logarithm of its probability.
type Answer = Vec<(TokenId, f32)>;

fn tokens(answer: &Answer) -> Vec<TokenId> {
    answer.iter().map(|(token, _)| *token).collect()
}

/// Fails where tokens differ, and says by how much the one was more probable than the other.
fn assert_same(found: &Answer, expected: &Answer, seed: u64) {
    let mut both = found.iter().zip(expected).enumerate();
    if let Some((index, (found, expected))) = both.find(|(_, (a, b))| a.0 != b.0) {
        let gap = expected.1 - found.1;
        panic!("seed {seed}: token {index} is not that of one device, by {gap:e}");
    }
    assert_eq!(found.len(), expected.len(), "seed {seed}: as many tokens");
}

/// Asks each question when it is time, and collects the answers. `between`: after each step.
fn answers(
    engine: &mut Engine,
    questions: &[Question],
    mut between: impl FnMut(&mut Engine, &SoFar),
) -> Vec<Answer> {
    let mut ids: Vec<SequenceId> = Vec::new();
    let mut answers: BTreeMap<_, Vec<_>> = BTreeMap::new();
    let (mut step, mut idle) = (0, 0);
    while ids.len() < questions.len() || !engine.is_idle() {
        while let Some(next) = questions.get(ids.len())
            && (next.at <= step || engine.is_idle())
        {
            ids.push(engine.submit(next.generation()).unwrap());
        }
        step += 1;
        idle += 1;
        let mut shared_len = 0;
        for output in engine.step().into_iter().flatten() {
            idle = 0;
            shared_len += output.shared_len;
            answers
                .entry(output.id)
                .or_default()
                .push((output.chosen.token, output.chosen.logprob));
        }
        assert!(idle < IDLE_STEPS_MAX, "something is waited for in vain");
        let len = answers.values().map(Vec::len).max().unwrap_or(0);
        let ids = &ids;
        between(
            engine,
            &SoFar {
                ids,
                len,
                shared_len,
            },
        );
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
    living: BTreeMap<WorkerId, Arc<Fate>>,
    manners: Manners,
    seen: Arc<Seen>,
    rng: StdRng,
    next: u32,
    /// Tokens at the last placement, in units of [`MOVE_EVERY`].
    moved_at: usize,
    placements: usize,
    lost: usize,
}

impl Workers {
    fn new(
        model: &Arc<Model>,
        engine: &mut Engine,
        (seen, manners): (&Arc<Seen>, Manners),
        seed: u64,
    ) -> Self {
        let mut workers = Self {
            model: Arc::clone(model),
            living: BTreeMap::new(),
            manners,
            seen: Arc::clone(seen),
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
        let fate = Fate::new(&self.seen);
        let nature = (Arc::clone(&fate), self.manners);
        let port = InProcess::new((shape, own), nature, self.rng.random());
        engine.join(id, Box::new(port));
        self.living.insert(id, fate);
    }

    /// Now, or in the middle of what is yet to come.
    fn kill(&mut self) {
        let living: Vec<_> = self.living.values().collect();
        if let Some(fate) = living.choose(&mut self.rng) {
            let soon = self.rng.random_range(1..40);
            let at = *["order", "reply"].choose(&mut self.rng).unwrap();
            let kind = *["take", "take", "put", "switch"]
                .choose(&mut self.rng)
                .unwrap();
            match self.rng.random_range(0..4) {
                0 => fate.die_now(),
                1 => fate.die_at_order(soon),
                2 => fate.die_at_reply(soon),
                _ => fate.die_at(Moment { at, kind }),
            }
        }
    }

    /// Between two steps, with answers of `len` tokens. `deaths`: how likely one dies, and one joins.
    fn disturb(&mut self, engine: &mut Engine, len: usize, deaths: f64) {
        if self.rng.random_bool(deaths) {
            self.kill();
            // Now and then all in one stage: they are lost together.
            if self.rng.random_bool(0.1) {
                let (at, kind) = ("reply", "heads");
                let living = self.living.values();
                living.for_each(|fate| fate.die_at(Moment { at, kind }));
            }
        }
        if self.living.len() < 4 && self.rng.random_bool(deaths) {
            self.join(engine);
        }
        let mut lost = 0;
        for event in engine.spread_mut().unwrap().take_events() {
            match event {
                SpreadEvent::Moved { .. } => self.placements += 1,
                SpreadEvent::Lost(who) => {
                    self.living.remove(&who.worker);
                    lost += 1;
                }
            }
        }
        self.lost += lost;
        if lost > 1 {
            self.seen.note("lost together");
        }
        let spread = engine.spread().unwrap();
        if spread.is_migrating() {
            // Now and then there is another goal while the last one is under way.
            if !self.rng.random_bool(deaths / 4.0) {
                return;
            }
            self.seen.note("given up");
        } else if len / MOVE_EVERY == self.moved_at {
            return;
        }
        self.moved_at = len / MOVE_EVERY;
        let there = spread.workers().map(Owner::Worker);
        let owners: Vec<_> = there.chain([Owner::Here]).collect();
        let goal = anywhere(engine.shard_shape(), &owners, &mut self.rng);
        engine.aim(goal);
    }
}

fn one_device(model: &Arc<Model>, questions: &[Question]) -> Vec<Answer> {
    let mut engine = Engine::new(Arc::clone(model), limits(MANY_BLOCKS));
    answers(&mut engine, questions, |_, _| {})
}

/// What a run is like.
struct Setting {
    /// At least so many of each.
    placements: usize,
    generations: usize,
    /// How likely one dies between two steps.
    deaths: f64,
    manners: Manners,
    block_count: usize,
    kind: Kind,
}

impl Setting {
    fn placements(placements: usize) -> Self {
        Self {
            placements,
            generations: 0,
            deaths: 0.0,
            manners: Manners::default(),
            block_count: MANY_BLOCKS,
            kind: Kind::Apart,
        }
    }

    fn deaths(generations: usize) -> Self {
        let manners = Manners {
            repeats: 0.02,
            lies: 0.0005,
        };
        Self {
            generations,
            deaths: 0.05,
            manners,
            ..Self::placements(0)
        }
    }
}

/// Until there were as many placements and generations as the setting has, with up to 3 users each time.
fn run(model: &Arc<Model>, setting: &Setting) -> Arc<Seen> {
    let seen = Arc::new(Seen::default());
    let (mut done, mut lost, mut generated) = (0, 0, 0);
    for seed in 0.. {
        let mut rng = StdRng::seed_from_u64(seed);
        let asked = questions(model, setting.kind, &mut rng);
        let expected = one_device(model, &asked);
        let arriving = question::arriving(model, &asked);
        let mut engine = Engine::new(Arc::clone(model), limits(setting.block_count));
        engine.open_to_workers(SLICES, (Arc::new(|| Duration::ZERO), Arc::new(|_| {})));
        if rng.random_bool(0.2) {
            engine.spread_mut().unwrap().move_in(SMALL_PORTIONS);
        }
        let mut workers = Workers::new(model, &mut engine, (&seen, setting.manners), seed);
        let mut watch = question::Watch::default();
        let found = answers(&mut engine, &arriving, |engine, so_far| {
            question::bring_layers((&asked, &arriving), &seen, &mut rng);
            workers.disturb(engine, so_far.len, setting.deaths);
            watch.look((engine, so_far), workers.lost, &seen);
        });
        for (found, expected) in found.iter().zip(&expected) {
            assert_same(found, expected, seed);
        }
        let (used, _) = engine.block_usage();
        assert_eq!(used, 0, "seed {seed}: blocks are left");
        done += workers.placements;
        lost += workers.lost;
        generated += asked.len();
        if done >= setting.placements && generated >= setting.generations {
            break;
        }
    }
    println!("{done} placements, {generated} generations, {lost} workers lost");
    assert!(setting.deaths == 0.0 || lost > 0, "workers were lost");
    seen
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
    run(&tiny(), &Setting::placements(200));
}

#[test]
fn workers_that_die_and_come_back_change_no_token() {
    let seen = run(&tiny(), &Setting::deaths(100));
    seen.assert_all(&[
        "died at order: heads",
        "died at order: feed-forward",
        "died at reply: heads",
        "died at reply: feed-forward",
        "repeated",
        "lied: not a number",
        "lied: too few numbers",
    ]);
}

#[test]
fn a_thousand_placements_change_no_token_of_stories260k() {
    if let Some(model) = trained("stories260K") {
        run(&model, &Setting::placements(1000));
        run(&model, &Setting::deaths(100));
    }
}

#[test]
fn a_thousand_placements_change_no_token_of_tinystories() {
    if let Some(model) = trained("tinystories-656K") {
        run(&model, &Setting::placements(1000));
        run(&model, &Setting::deaths(100));
    }
}

/// Workers die while jobs change hands: what is late is on its way, some have switched and some not.
#[test]
fn workers_that_die_while_jobs_change_hands_change_no_token() {
    let setting = Setting {
        deaths: 0.1,
        ..Setting::deaths(160)
    };
    let seen = run(&tiny(), &setting);
    seen.assert_all(&[
        "died at order: take",
        "died at order: put",
        "died at order: switch",
        "died at reply: take",
        "died at reply: put",
        "died at reply: switch",
        "given up",
        "lost together",
        "another portion",
        "another round",
    ]);
}

/// Preemption, and layers of cloud prompts that come one by one, while jobs move and workers die.
#[test]
fn few_blocks_and_late_layers_change_no_token() {
    let setting = Setting {
        block_count: FEW_BLOCKS,
        kind: Kind::Late,
        deaths: 0.02,
        placements: 40,
        ..Setting::deaths(40)
    };
    run(&tiny(), &setting).assert_all(&["preempted", "layers came late"]);
}

/// Sessions begin with what others of them have computed, wherever the heads were then.
#[test]
fn sessions_and_sampling_change_no_token() {
    for deaths in [0.0, 0.02] {
        let setting = Setting {
            kind: Kind::Session,
            deaths,
            placements: 30,
            ..Setting::deaths(30)
        };
        run(&tiny(), &setting).assert_all(&["shared"]);
    }
}
