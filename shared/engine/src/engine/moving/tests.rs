#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::num::NonZeroUsize;

use burn::tensor::Device;
use edgeprompt_model::{Model, ModelShape};
use proptest::prelude::*;

use super::*;
use crate::{CloudSegment, EngineLimits, Sampler, SamplingParams};

const CLOUD_LEN: u32 = 9;

fn engine(model: &Arc<Model>, block_count: usize) -> Engine {
    let positive = |count| NonZeroUsize::new(count).unwrap();
    let limits = EngineLimits {
        max_num_seqs: positive(3),
        max_num_batched_tokens: positive(7),
        max_num_waiting: 100,
        block_len: positive(4),
        block_count,
    };
    Engine::new(Arc::clone(model), limits)
}

fn cloud(model: &Model) -> CloudSegment {
    let tokens: Vec<TokenId> = (3..3 + CLOUD_LEN).map(TokenId).collect();
    CloudSegment::computed(model, &tokens)
}

/// The same generation wherever it is begun.
fn generation(model: &Model, prompt_len: u32, seed: u64) -> Generation {
    let params = SamplingParams {
        temperature: if seed.is_multiple_of(2) { 0.0 } else { 1.0 },
        frequency_penalty: 0.3,
        ..SamplingParams::default()
    };
    Generation {
        prompt: (5..5 + prompt_len).map(TokenId).collect(),
        segment: Some(cloud(model)),
        session: None,
        sampler: Sampler::new(params, seed, &[]),
        max_tokens: LEN,
        end_tokens: Vec::new(),
    }
}

const LEN: usize = 24;

/// Steps until one of a generation's tokens comes.
fn next(engine: &mut Engine, id: SequenceId) -> TokenId {
    for _ in 0..200 {
        for output in engine.step().expect("something to compute") {
            if output.id == id {
                return output.chosen.token;
            }
        }
    }
    panic!("no token in 200 steps");
}

/// Where the keys and values of a move come from.
#[derive(Clone, Debug)]
enum Way {
    /// Computed again, all of them.
    Tokens,
    /// Put in from here on, in chunks; what is before is computed.
    Ascending { from: usize, chunk: usize },
    /// Put in from the end on, so many, and the others computed meanwhile.
    Descending { count: usize, chunk: usize },
}

fn ways() -> impl Strategy<Value = Way> {
    prop_oneof![
        Just(Way::Tokens),
        (0..30usize, 1..9usize).prop_map(|(from, chunk)| Way::Ascending { from, chunk }),
        (1..30usize, 1..9usize).prop_map(|(count, chunk)| Way::Descending { count, chunk }),
    ]
}

/// The chunks of tokens, in the order in which they are put in.
fn chunks(way: &Way, computed: usize) -> Vec<Range<usize>> {
    match way {
        Way::Tokens => Vec::new(),
        Way::Ascending { from, chunk } => (*from..computed)
            .step_by(*chunk)
            .map(|start| start..(start + chunk).min(computed))
            .collect(),
        Way::Descending { count, chunk } => (computed.saturating_sub(*count)..computed)
            .rev()
            .step_by(*chunk)
            .map(|last| (last + 1).saturating_sub(*chunk)..last + 1)
            .collect(),
    }
}

/// Moves a generation that has `answered` to a new engine, with other work there.
fn moved(
    model: &Arc<Model>,
    (source, id): (&mut Engine, SequenceId),
    generation: Generation,
    (answered, way): (&[TokenId], &Way),
) -> (Engine, SequenceId) {
    source.hold(id, 0);
    let stepped = source.step().unwrap_or_default();
    assert!(stepped.iter().all(|output| output.id != id), "it is held");
    let computed = source.progress(id).unwrap().computed_count;
    let mut target = engine(model, 40);
    let mut busy = self::generation(model, 6, 1);
    busy.segment = None;
    target.submit(busy).unwrap();
    let compute_max = match way {
        Way::Tokens | Way::Descending { .. } => usize::MAX,
        Way::Ascending { from, .. } => *from,
    };
    let half = answered.len() / 2;
    let held = target.submit_held(generation, &answered[..half], compute_max);
    let held = held.unwrap();
    target.step();
    target.extend(held, &answered[half..]);
    for chunk in chunks(way, computed) {
        let chunk = source.take_out(id, chunk).unwrap();
        target.put_in(held, chunk).unwrap();
        target.step();
    }
    source.cancel(id);
    target.release(held);
    (target, held)
}

/// All keys and values of a generation that are computed.
fn kv_bits(engine: &Engine, id: SequenceId) -> Vec<u32> {
    let chunk = engine.take_out(id, 0..usize::MAX).unwrap();
    let tensors = chunk.layers.into_iter().flat_map(|it| [it.keys, it.values]);
    let numbers = tensors.flat_map(|it| it.into_data().try_to_vec::<f32>().unwrap());
    numbers.map(f32::to_bits).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 60, ..ProptestConfig::default() })]

    /// A generation that moves twice gives the tokens of one that stays, and has its keys and values to
    /// the last bit, whatever way they take.
    #[test]
    fn a_move_changes_no_token(
        prompt_len in 1..20u32,
        seed: u64,
        moves in (1..LEN / 2, 1..LEN / 2),
        ways in (ways(), ways()),
    ) {
        let model = Arc::new(Model::dummy(ModelShape::Tiny, &Device::flex()));
        let new = || generation(&model, prompt_len, seed);
        let mut alone = engine(&model, 40);
        let id = alone.submit(new()).unwrap();
        let mut expected: Vec<TokenId> = (1..LEN).map(|_| next(&mut alone, id)).collect();
        let expected_kv = kv_bits(&alone, id);
        expected.push(next(&mut alone, id));

        let mut here = engine(&model, 40);
        let mut id = here.submit(new()).unwrap();
        let mut tokens = Vec::new();
        for (count, way) in [(moves.0, &ways.0), (moves.1, &ways.1)] {
            tokens.extend((0..count).map(|_| next(&mut here, id)));
            (here, id) = moved(&model, (&mut here, id), new(), (&tokens, way));
        }
        while tokens.len() + 1 < LEN {
            tokens.push(next(&mut here, id));
        }
        prop_assert!(kv_bits(&here, id) == expected_kv, "{ways:?} {moves:?}");
        tokens.push(next(&mut here, id));
        prop_assert!(tokens == expected, "{ways:?} {moves:?}");
        prop_assert!(here.progress(id).is_none(), "it has ended");
    }
}

#[test]
fn what_is_put_in_is_not_computed() {
    let model = Arc::new(Model::dummy(ModelShape::Tiny, &Device::flex()));
    let mut source = engine(&model, 40);
    let id = source.submit(generation(&model, 20, 0)).unwrap();
    let first = next(&mut source, id);
    let (mut target, held) = moved(
        &model,
        (&mut source, id),
        generation(&model, 20, 0),
        (&[first], &Way::Ascending { from: 0, chunk: 50 }),
    );
    let mut rows = Vec::new();
    for _ in 0..3 {
        target.step_told(&mut |_, some| {
            rows.extend(some.iter().filter(|row| row.id == held).copied())
        });
    }
    assert!(
        rows.iter().all(|row| row.len == 1 && row.start >= 20),
        "{rows:?}"
    );
    assert!(!rows.is_empty());
}

#[test]
fn a_held_generation_that_loses_its_blocks_computes_them_again() {
    let model = Arc::new(Model::dummy(ModelShape::Tiny, &Device::flex()));
    let mut source = engine(&model, 40);
    let id = source.submit(generation(&model, 20, 0)).unwrap();
    let begun: Vec<TokenId> = (0..4).map(|_| next(&mut source, id)).collect();
    source.hold(id, 0);
    // Room for one of them at a time.
    let mut target = engine(&model, 11);
    let long = Generation {
        segment: None,
        ..generation(&model, 16, 0)
    };
    let first = target.submit(long).unwrap();
    next(&mut target, first);
    let held = target
        .submit_held(generation(&model, 20, 0), &begun, 0)
        .unwrap();
    let chunk = source.take_out(id, 0..usize::MAX).unwrap();
    target.put_in(held, chunk).unwrap();
    assert_eq!(target.progress(held).unwrap().computed_count, 23);
    for _ in 1..LEN {
        next(&mut target, first);
    }
    assert!(
        target.progress(held).unwrap().computed_count < 23,
        "it was preempted"
    );
    target.release(held);
    source.release(id);
    for _ in begun.len()..LEN {
        assert_eq!(next(&mut target, held), next(&mut source, id));
    }
}

#[test]
fn what_is_wiped_is_zero() {
    let model = Arc::new(Model::dummy(ModelShape::Tiny, &Device::flex()));
    let mut engine = engine(&model, 40);
    let other = engine.submit(generation(&model, 9, 1)).unwrap();
    let id = engine.submit(generation(&model, 20, 0)).unwrap();
    next(&mut engine, id);
    let keys = |engine: &Engine, id| {
        let chunk = engine.take_out(id, 0..usize::MAX).unwrap();
        chunk.layers[1]
            .keys
            .clone()
            .into_data()
            .try_to_vec::<f32>()
            .unwrap()
    };
    let before = keys(&engine, other);
    assert!(keys(&engine, id).iter().any(|number| *number != 0.0));
    engine.wipe(id);
    assert!(keys(&engine, id).iter().all(|number| *number == 0.0));
    assert_eq!(keys(&engine, other), before);
}

#[test]
fn chunks_that_do_not_fit_are_refused() {
    let model = Arc::new(Model::dummy(ModelShape::Tiny, &Device::flex()));
    let mut source = engine(&model, 40);
    let id = source.submit(generation(&model, 20, 0)).unwrap();
    let first = next(&mut source, id);
    let mut target = engine(&model, 40);
    let held = target
        .submit_held(generation(&model, 20, 0), &[first], 0)
        .unwrap();
    let mut put = |tokens| target.put_in(held, source.take_out(id, tokens).unwrap());
    assert_eq!(put(8..12), Ok(()));
    assert_eq!(put(4..6), Err(NotRestored::OutOfOrder));
    assert_eq!(put(4..8), Ok(()));
    assert_eq!(put(12..20), Ok(()));
    assert!(source.take_out(id, 20..21).is_none(), "it is not computed");
    let running = target.submit(generation(&model, 2, 0)).unwrap();
    let chunk = source.take_out(id, 0..4).unwrap();
    assert_eq!(target.put_in(running, chunk), Err(NotRestored::NotHeld));
}
