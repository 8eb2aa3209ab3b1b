#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::num::NonZeroUsize;

use burn::tensor::Device;
use edgeprompt_kv::LayerIndex;
use edgeprompt_model::ModelShape;
use proptest::prelude::*;

use super::*;
use crate::{SamplingParams, SegmentPrefill, Sequence, SequenceOptions};

fn model() -> Arc<Model> {
    Arc::new(Model::dummy(ModelShape::Tiny, &Device::flex()))
}

fn limits(block_count: usize) -> EngineLimits {
    let positive = |count| NonZeroUsize::new(count).unwrap();
    EngineLimits {
        max_num_seqs: positive(4),
        max_num_batched_tokens: positive(12),
        max_num_waiting: 100,
        block_len: positive(4),
        block_count,
    }
}

/// A generation as a user describes it.
#[derive(Clone, Debug)]
struct Case {
    /// Which cloud prompt, if any.
    cloud: Option<usize>,
    /// Which session on it, if any.
    session: Option<u8>,
    prompt: Vec<TokenId>,
    max_tokens: usize,
    seed: u64,
    temperature: f32,
}

const CLOUD_LENS: [u32; 2] = [9, 21];

fn cloud_tokens(cloud: usize) -> Vec<TokenId> {
    let first = 3 + 20 * u32::try_from(cloud).unwrap();
    (first..first + CLOUD_LENS[cloud]).map(TokenId).collect()
}

impl Case {
    fn sampler(&self) -> Sampler {
        let params = SamplingParams {
            temperature: self.temperature,
            ..SamplingParams::default()
        };
        Sampler::new(params, self.seed, &[])
    }

    fn session_id(&self) -> Option<SessionId> {
        let cloud = self
            .cloud
            .map_or(0, |cloud| u8::try_from(cloud).unwrap() + 1);
        self.session.map(|session| {
            let mut id = [0; 32];
            id[..2].copy_from_slice(&[session, cloud]);
            SessionId(id)
        })
    }

    /// What it gives alone.
    fn alone(&self, model: &Model) -> Vec<TokenId> {
        let segment = self
            .cloud
            .map(|cloud| CloudSegment::computed(model, &cloud_tokens(cloud)));
        let mut sequence = Sequence::new(model, segment, SequenceOptions::default());
        let (mut sampler, mut tokens) = (self.sampler(), Vec::new());
        let mut next = self.prompt.clone();
        while tokens.len() < self.max_tokens {
            sequence.begin(&next);
            while sequence.advance() != Progress::Complete {}
            let token = sampler.choose(&sequence.logits()).token;
            tokens.push(token);
            next = vec![token];
        }
        tokens
    }
}

fn cases() -> impl Strategy<Value = Vec<Case>> {
    // Some begin alike, so that those of a session have something to share.
    let tail = proptest::collection::vec((0..64u32).prop_map(TokenId), 1..8);
    let prompt = (0..2u32, 0..16u32, tail).prop_map(|(first, common, tail)| {
        let common = (first..first + common).map(TokenId);
        common.chain(tail).collect::<Vec<_>>()
    });
    let session = proptest::option::of(0..2u8);
    let cloud = proptest::option::of(0..CLOUD_LENS.len());
    let temperature = prop_oneof![Just(0.0f32), Just(1.0f32)];
    let case = (
        cloud,
        session,
        prompt,
        1..10usize,
        any::<u64>(),
        temperature,
    );
    let case = case.prop_map(
        |(cloud, session, prompt, max_tokens, seed, temperature)| Case {
            cloud,
            session,
            prompt,
            max_tokens,
            seed,
            temperature,
        },
    );
    proptest::collection::vec(case, 1..9)
}

/// Cloud prompts whose layers come one at a time.
struct Arriving {
    segment: CloudSegment,
    missing: Vec<(LayerIndex, edgeprompt_attention::KvView)>,
}

impl Arriving {
    fn new(model: &Model, cloud: usize) -> Self {
        let mut missing: Vec<_> = SegmentPrefill::start(model, &cloud_tokens(cloud)).collect();
        missing.reverse();
        let segment = CloudSegment::empty(&model.geometry, CLOUD_LENS[cloud]);
        Self { segment, missing }
    }

    fn next_layer(&mut self) {
        if let Some((layer, view)) = self.missing.pop() {
            self.segment.layers.fill(layer, view).unwrap();
        }
    }
}

fn run(model: &Arc<Model>, cases: &[Case], layer_every: usize) -> Vec<Vec<TokenId>> {
    // Room for little more than the longest, so that some are preempted.
    let mut engine = Engine::new(Arc::clone(model), limits(9));
    let mut clouds: Vec<_> = (0..CLOUD_LENS.len())
        .map(|cloud| Arriving::new(model, cloud))
        .collect();
    let mut ids = Vec::new();
    for case in cases {
        let generation = Generation {
            prompt: case.prompt.clone(),
            segment: case.cloud.map(|cloud| clouds[cloud].segment.clone()),
            session: case.session_id(),
            sampler: case.sampler(),
            max_tokens: case.max_tokens,
            end_tokens: Vec::new(),
        };
        ids.push(engine.submit(generation).unwrap());
    }
    let mut tokens = vec![Vec::new(); cases.len()];
    let mut steps = 0;
    while !engine.is_idle() {
        steps += 1;
        assert!(steps < 10_000, "no end in sight");
        if steps % layer_every == 0 {
            clouds.iter_mut().for_each(Arriving::next_layer);
        }
        for output in engine.step().into_iter().flatten() {
            let index = ids.iter().position(|id| *id == output.id).unwrap();
            tokens[index].push(output.chosen.token);
        }
    }
    assert_eq!(engine.block_usage().0, 0, "every block is free again");
    assert!(engine.suspended.is_empty());
    tokens
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, ..ProptestConfig::default() })]

    #[test]
    fn tokens_do_not_depend_on_what_else_is_computed(cases in cases(), layer_every in 1..4usize) {
        let model = model();
        let batched = run(&model, &cases, layer_every);
        for (case, tokens) in cases.iter().zip(batched) {
            prop_assert_eq!(tokens, case.alone(&model));
        }
    }
}

fn generation(prompt_len: u32, max_tokens: usize, segment: Option<CloudSegment>) -> Generation {
    Generation {
        prompt: (1..=prompt_len).map(TokenId).collect(),
        segment,
        session: None,
        sampler: Sampler::new(SamplingParams::greedy(), 0, &[]),
        max_tokens,
        end_tokens: Vec::new(),
    }
}

#[test]
fn a_prompt_without_its_cloud_layers_holds_up_nobody() {
    let model = model();
    let mut engine = Engine::new(Arc::clone(&model), limits(40));
    let segment = CloudSegment::empty(&model.geometry, 9);
    let waiting = engine
        .submit(generation(5, 3, Some(segment.clone())))
        .unwrap();
    assert!(engine.step().is_some_and(|outputs| outputs.is_empty()));
    assert!(engine.step().is_none(), "nothing can be computed");
    let other = engine.submit(generation(5, 3, None)).unwrap();
    for _ in 0..3 {
        let outputs = engine.step().unwrap();
        assert!(outputs.len() == 1 && outputs[0].id == other);
    }
    assert!(engine.step().is_none());
    engine.cancel(waiting);
    assert!(engine.is_idle());
    assert_eq!(engine.block_usage().0, 0);
}

#[test]
fn layers_that_come_for_many_at_once_hold_up_nobody_who_generates() {
    let model = model();
    let mut cloud = Arriving::new(&model, 0);
    let limits = EngineLimits {
        max_num_seqs: NonZeroUsize::new(8).unwrap(),
        ..limits(40)
    };
    let mut engine = Engine::new(Arc::clone(&model), limits);
    let talking = engine.submit(generation(2, 30, None)).unwrap();
    for _ in 0..4 {
        let waiting = generation(10, 1, Some(cloud.segment.clone()));
        engine.submit(waiting).unwrap();
    }
    // Each has its turn, and stands still then.
    while engine.counts() != (5, 0) {
        engine.step().unwrap();
    }
    (0..model.geometry.layer_count()).for_each(|_| cloud.next_layer());
    let mut step_count = 0;
    while engine.counts() != (1, 0) {
        let mut computed = 0;
        let outputs = engine.step_told(&mut |event, rows| {
            if event == PassEvent::Computed(LayerIndex(0)) {
                computed += rows.iter().map(|row| row.len).sum::<usize>();
            }
        });
        assert!(computed <= 2 * 12, "{computed} tokens in a step");
        assert!(outputs.unwrap().iter().any(|output| output.id == talking));
        step_count += 1;
    }
    assert!(step_count >= 2, "40 tokens in {step_count} steps");
}

#[test]
fn what_cannot_be_answered_is_refused() {
    let mut engine = Engine::new(model(), limits(100));
    let refused = |engine: &mut Engine, generation| engine.submit(generation).unwrap_err();
    assert_eq!(
        refused(&mut engine, generation(0, 1, None)),
        SubmitError::EmptyPrompt
    );
    assert_eq!(
        refused(&mut engine, generation(128, 1, None)),
        SubmitError::ContextTooShort {
            token_count: 129,
            context_len_max: 128
        }
    );
    let mut small = Engine::new(model(), limits(2));
    assert!(matches!(
        refused(&mut small, generation(9, 1, None)),
        SubmitError::Admission(AdmissionError::NeverFits { .. })
    ));
}

#[test]
fn an_end_token_ends_an_answer() {
    let model = model();
    let mut alone = Engine::new(Arc::clone(&model), limits(40));
    alone.submit(generation(5, 1, None)).unwrap();
    let first = alone.step().unwrap()[0].chosen.token;
    let mut engine = Engine::new(model, limits(40));
    let ended = Generation {
        end_tokens: vec![first],
        ..generation(5, 9, None)
    };
    engine.submit(ended).unwrap();
    let outputs = engine.step().unwrap();
    assert!(outputs[0].finish == Some(Finish::EndToken));
    assert!(engine.is_idle());
}

#[test]
fn what_a_session_has_computed_is_not_computed_again() {
    let model = model();
    let mut engine = Engine::new(Arc::clone(&model), limits(40));
    let mut rows_of = |session: u8, prompt: Vec<TokenId>| {
        let asked = Generation {
            prompt,
            session: Some(SessionId([session; 32])),
            ..generation(1, 1, None)
        };
        engine.submit(asked).unwrap();
        let mut computed = 0;
        while !engine.is_idle() {
            engine.step_told(&mut |event, rows| {
                if event == PassEvent::Computed(LayerIndex(0)) {
                    computed += rows.iter().map(|row| row.len).sum::<usize>();
                }
            });
        }
        computed
    };
    let prompt: Vec<_> = (1..=10).map(TokenId).collect();
    assert_eq!(rows_of(1, prompt.clone()), 10);
    assert_eq!(rows_of(1, prompt.clone()), 2, "two full blocks are there");
    assert_eq!(
        rows_of(1, prompt[..8].to_vec()),
        4,
        "the last token is computed"
    );
    assert_eq!(rows_of(2, prompt), 10, "another session");
    assert_eq!(engine.block_usage().0, 0);
}

#[test]
fn a_session_reads_an_adopted_segment_as_if_it_had_computed_it() {
    let model = model();
    // Not a whole number of blocks: the rest is computed.
    let cloud: Vec<_> = (5..20).map(TokenId).collect();
    let own = [TokenId(40), TokenId(41)];
    let segment = CloudSegment::computed(&model, &cloud);
    let session = SessionId([7; 32]);
    let (mut engine, expected) = {
        let mut sequence = Sequence::new(&model, Some(segment.clone()), SequenceOptions::default());
        sequence.begin(&own);
        while sequence.advance() != Progress::Complete {}
        let mut expected = vec![crate::greedy(&sequence.logits())];
        while expected.len() < 8 {
            let last = expected[expected.len() - 1];
            expected.push(sequence.next_greedy(&[last]));
        }
        (Engine::new(model, limits(20)), expected)
    };
    engine.adopt(session, &cloud, &segment).unwrap();
    assert_eq!(engine.block_usage().0, 0, "nobody holds them yet");
    let prompt = [cloud.clone(), own.to_vec()].concat();
    let asked = Generation {
        prompt,
        session: Some(session),
        ..generation(1, 8, None)
    };
    engine.submit(asked).unwrap();
    let mut found = Vec::new();
    while !engine.is_idle() {
        for output in engine.step().unwrap() {
            assert_eq!(output.shared_len, 12, "three blocks of four");
            found.push(output.chosen.token);
        }
    }
    assert_eq!(found, expected);
    let many: Vec<_> = (0..100).map(TokenId).collect();
    let segment = CloudSegment::empty(&engine.model.geometry.clone(), 100);
    assert!(engine.adopt(session, &many, &segment).is_err());
}

#[test]
fn whoever_is_told_hears_of_each_layer_and_each_wait() {
    let model = model();
    let mut cloud = Arriving::new(&model, 0);
    let mut engine = Engine::new(Arc::clone(&model), limits(40));
    let waiting = generation(2, 1, Some(cloud.segment.clone()));
    let waiting = engine.submit(waiting).unwrap();
    let mut heard = Vec::new();
    while !engine.is_idle() {
        let outputs = engine.step_told(&mut |event, rows| {
            assert!(rows.len() == 1 && rows[0].id == waiting);
            heard.push(event);
        });
        if outputs.is_none() {
            cloud.next_layer();
        }
    }
    let computed = |event: &PassEvent| matches!(event, PassEvent::Computed(_));
    let layers: Vec<_> = heard.iter().copied().filter(computed).collect();
    let all = (0..model.geometry.layer_count()).map(|layer| PassEvent::Computed(LayerIndex(layer)));
    assert_eq!(layers, all.collect::<Vec<_>>());
    assert_eq!(
        heard[..5],
        [
            PassEvent::Resumed,
            PassEvent::Missing(LayerIndex(0)),
            PassEvent::Resumed,
            PassEvent::Missing(LayerIndex(0)),
            PassEvent::Resumed,
        ]
    );
}
