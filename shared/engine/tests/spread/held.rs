//! Generations that were begun elsewhere: their keys and values are put in while heads are on their way.

use std::sync::Arc;
use std::time::Duration;

use edgeprompt_engine::{
    CloudSegment, Engine, Generation, KvChunk, NotAdopted, NotRestored, Owner, Sampler,
    SamplingParams, SequenceId, SessionId, WorkerId,
};
use edgeprompt_kv::TokenId;
use edgeprompt_model::Model;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::question::{Kind, Question, questions};
use super::worker::{Fate, InProcess, Manners, Seen};
use super::{MANY_BLOCKS, SLICES, anywhere, limits, one_device, tiny, tokens};

/// Tokens of the answer before it moves.
const ANSWERED: usize = 12;

/// An engine that was asked something, as far as so many tokens of the answer, then held.
fn begun(model: &Arc<Model>, question: &Question) -> (Engine, SequenceId, Vec<TokenId>) {
    let mut source = Engine::new(Arc::clone(model), limits(MANY_BLOCKS));
    let id = source.submit(question.generation()).unwrap();
    let mut answered = Vec::new();
    while answered.len() < ANSWERED {
        let outputs = source.step().unwrap();
        answered.extend(outputs.iter().map(|it| it.chosen.token));
    }
    source.hold(id, 0);
    (source, id, answered)
}

/// Private tokens in two chunks.
fn in_two(source: &Engine, id: SequenceId, rng: &mut StdRng) -> [KvChunk; 2] {
    let count = source.progress(id).unwrap().computed_count;
    let middle = rng.random_range(1..count);
    [0..middle, middle..count].map(|tokens| source.take_out(id, tokens).unwrap())
}

fn spread_engine(model: &Arc<Model>, seen: &Arc<Seen>, rng: &mut StdRng) -> Engine {
    let mut engine = Engine::new(Arc::clone(model), limits(MANY_BLOCKS));
    engine.open_to_workers(SLICES, (Arc::new(|| Duration::ZERO), Arc::new(|_| {})));
    for id in 0..2 {
        let shape = engine.shard_shape().clone();
        let nature = (Fate::new(seen), Manners::default());
        let port = InProcess::new((shape, None), nature, rng.random());
        engine.join(WorkerId(id), Box::new(port));
    }
    engine
}

fn aim_at_workers(engine: &mut Engine, rng: &mut StdRng) {
    let owners: Vec<_> = (0..2).map(|id| Owner::Worker(WorkerId(id))).collect();
    let goal = anywhere(engine.shard_shape(), &owners, rng);
    engine.aim(goal);
}

/// So many steps; what they bring for a generation.
fn some_steps(engine: &mut Engine, id: SequenceId, count: usize) -> Vec<TokenId> {
    let outputs = (0..count).flat_map(|_| engine.step().unwrap_or_default());
    let of_it = outputs.filter(|output| output.id == id);
    of_it.map(|output| output.chosen.token).collect()
}

#[test]
fn what_is_put_in_while_heads_move_moves_with_them() {
    let (model, seen) = (tiny(), Arc::new(Seen::default()));
    for seed in 0..60 {
        let mut rng = StdRng::seed_from_u64(seed);
        let asked = questions(&model, Kind::Late, &mut rng);
        let expected = tokens(&one_device(&model, &asked[..1])[0]);
        let (source, id, answered) = begun(&model, &asked[0]);
        let [first, second] = in_two(&source, id, &mut rng);
        let mut target = spread_engine(&model, &seen, &mut rng);
        let other = target.submit(asked[1].generation()).unwrap();
        let held = target.submit_held(asked[0].generation(), &answered, 0);
        let held = held.unwrap();
        target.put_in(held, first).unwrap();
        aim_at_workers(&mut target, &mut rng);
        let before = seen.count("put");
        some_steps(&mut target, held, rng.random_range(1..8));
        let is_on_the_way = target.spread().unwrap().is_migrating() && seen.count("put") > before;
        match target.put_in(held, second) {
            Ok(()) if is_on_the_way => seen.note("put in on the way"),
            Ok(()) => {}
            Err(refused) => {
                assert_eq!(refused, NotRestored::Spread);
                seen.note("put in too late");
            }
        }
        some_steps(&mut target, held, rng.random_range(0..20));
        // What another had is overwritten on all devices, and only that.
        target.wipe(other);
        target.cancel(other);
        target.release(held);
        let mut found = answered.clone();
        while target.progress(held).is_some() {
            found.extend(some_steps(&mut target, held, 1));
        }
        assert!(found == expected, "seed {seed}: other tokens");
    }
    seen.assert_all(&["put in on the way", "put in too late", "wipe"]);
}

#[test]
fn what_a_session_adopts_while_heads_move_moves_with_them() {
    let (model, seen) = (tiny(), Arc::new(Seen::default()));
    let session = SessionId([7; 32]);
    let public: Vec<_> = (5..25).map(TokenId).collect();
    let segment = CloudSegment::computed(&model, &public);
    let asked = || Generation {
        prompt: [&public[..], &[TokenId(40), TokenId(41)]].concat(),
        segment: None,
        session: Some(session),
        sampler: Sampler::new(SamplingParams::greedy(), 0, &[]),
        max_tokens: 20,
        end_tokens: Vec::new(),
    };
    let mut alone = Engine::new(Arc::clone(&model), limits(MANY_BLOCKS));
    let id = alone.submit(asked()).unwrap();
    let expected = some_steps(&mut alone, id, 20);
    for seed in 0..40 {
        let mut rng = StdRng::seed_from_u64(seed);
        let others = questions(&model, Kind::Late, &mut rng);
        let mut engine = spread_engine(&model, &seen, &mut rng);
        let other = engine.submit(others[0].generation()).unwrap();
        some_steps(&mut engine, other, 3);
        aim_at_workers(&mut engine, &mut rng);
        some_steps(&mut engine, other, rng.random_range(1..8));
        match engine.adopt(session, &public, &segment) {
            Ok(()) => seen.note("adopted"),
            Err(refused) => {
                assert_eq!(refused, NotAdopted::Spread);
                seen.note("not adopted");
            }
        }
        some_steps(&mut engine, other, rng.random_range(0..10));
        let id = engine.submit(asked()).unwrap();
        let mut found = Vec::new();
        while engine.progress(id).is_some() {
            found.extend(some_steps(&mut engine, id, 1));
        }
        assert!(found == expected, "seed {seed}: other tokens");
    }
    seen.assert_all(&["adopted", "not adopted"]);
}
