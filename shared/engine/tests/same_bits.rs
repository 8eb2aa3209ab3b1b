//! On the processor a token's scores, keys and values are the same bits however they are computed: its
//! prompt in one pass or in pieces, decoded one by one, alone or beside others, or computed again after
//! its blocks were taken.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::num::NonZeroUsize;
use std::sync::Arc;

use burn::tensor::{Device, Tensor};
use edgeprompt_attention::{Fusion, KvView};
use edgeprompt_engine::{
    Chosen, CloudSegment, Engine, EngineLimits, ForwardPass, Generation, PrivateKv, Progress,
    Sampler, SamplingParams, Sequence, SequenceOptions, SessionId,
};
use edgeprompt_kv::{LayerIndex, TokenId, TokenRange};
use edgeprompt_model::{Model, ModelShape};
use edgeprompt_testkit::fixtures::trained_model;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;

/// The probabilities of so many tokens are compared, besides those of tokens that are chosen.
const TOP_LEN: usize = 20;

const CLOUD_LENS: [u32; 2] = [9, 70];

/// A generation as a user describes it.
#[derive(Clone, Debug)]
struct Case {
    /// Which cloud prompt, if any.
    cloud: Option<usize>,
    prompt: Vec<TokenId>,
    max_tokens: usize,
    seed: u64,
}

/// How an engine computes it.
#[derive(Clone, Debug)]
struct Way {
    max_num_seqs: usize,
    max_num_batched_tokens: usize,
    block_len: usize,
    /// Blocks beyond those that the longest generation takes.
    spare_blocks: usize,
}

fn cases(vocab: u32) -> impl Strategy<Value = Vec<Case>> {
    let cloud = proptest::option::of(0..CLOUD_LENS.len());
    let prompt = proptest::collection::vec((0..vocab).prop_map(TokenId), 1..40);
    let case = (cloud, prompt, 1..12usize, any::<u64>());
    let case = case.prop_map(|(cloud, prompt, max_tokens, seed)| Case {
        cloud,
        prompt,
        max_tokens,
        seed,
    });
    proptest::collection::vec(case, 1..7)
}

fn ways() -> impl Strategy<Value = Way> {
    let block_len = prop_oneof![Just(1usize), Just(3), Just(16)];
    (1..6usize, 1..50usize, block_len, 0..6usize).prop_map(
        |(max_num_seqs, max_num_batched_tokens, block_len, spare_blocks)| Way {
            max_num_seqs,
            max_num_batched_tokens,
            block_len,
            spare_blocks,
        },
    )
}

fn cloud_tokens(cloud: usize) -> Vec<TokenId> {
    let first = 3 + 5 * u32::try_from(cloud).unwrap();
    let tokens = (0..CLOUD_LENS[cloud]).map(|token| TokenId(first + token * 7 % 50));
    tokens.collect()
}

fn sampler(seed: u64) -> Sampler {
    let params = SamplingParams {
        temperature: 1.0,
        ..SamplingParams::default()
    };
    Sampler::new(params, seed, &[]).with_logprobs(TOP_LEN)
}

/// Keys and values of a layer.
type LayerBits = (Vec<u32>, Vec<u32>);

fn layer_bits(view: &KvView) -> LayerBits {
    let bits = |tensor: &Tensor<3>| {
        let numbers: Vec<f32> = tensor.to_data().try_to_vec().unwrap();
        numbers.into_iter().map(f32::to_bits).collect()
    };
    (bits(&view.keys), bits(&view.values))
}

fn chosen_bits(chosen: &Chosen) -> Vec<(TokenId, u32)> {
    let top = chosen.top.iter().copied();
    let all = std::iter::once((chosen.token, chosen.logprob)).chain(top);
    all.map(|(token, logprob)| (token, logprob.to_bits()))
        .collect()
}

/// All tokens of a sequence in one pass: the scores after each, and the keys and values.
fn in_one_pass(
    model: &Model,
    cloud: Option<&CloudSegment>,
    tokens: &[TokenId],
) -> (Vec<Vec<f32>>, Vec<LayerBits>) {
    let start = cloud.map_or(0, |cloud| cloud.range().end().0);
    let end = start + u32::try_from(tokens.len()).unwrap();
    let mut kv = PrivateKv::empty(&model.geometry, &model.decoder.device());
    let mut pass = ForwardPass::start(model, tokens, TokenRange::new(start, end));
    while pass.advance(model, cloud, &mut kv, Fusion::Exact) != Progress::Complete {}
    let layers = (0..model.geometry.layer_count()).map(|layer| kv.view(LayerIndex(layer)));
    let layers = layers.map(|view| layer_bits(&view)).collect();
    let scores = pass.logits_of_all(model);
    let of_tokens = scores.chunks(model.config.vocab_size);
    (of_tokens.map(<[f32]>::to_vec).collect(), layers)
}

/// What an engine made of a generation.
#[derive(Default)]
struct Answer {
    tokens: Vec<TokenId>,
    chosen: Vec<Vec<(TokenId, u32)>>,
    /// Of the tokens that were computed before the last was chosen.
    kv: Option<(usize, Vec<LayerBits>)>,
}

/// Answers of all cases by one engine.
fn run(model: &Arc<Model>, cases: &[Case], way: &Way, clouds: &[CloudSegment]) -> Vec<Answer> {
    let positive = |count| NonZeroUsize::new(count).unwrap();
    let longest = cases.iter().map(|it| it.prompt.len() + it.max_tokens).max();
    let limits = EngineLimits {
        max_num_seqs: positive(way.max_num_seqs),
        max_num_batched_tokens: positive(way.max_num_batched_tokens),
        max_num_waiting: 100,
        block_len: positive(way.block_len),
        block_count: longest.unwrap().div_ceil(way.block_len) + 1 + way.spare_blocks,
    };
    let mut engine = Engine::new(Arc::clone(model), limits);
    let submitted = cases.iter().map(|case| {
        let generation = Generation {
            prompt: case.prompt.clone(),
            segment: case.cloud.map(|cloud| clouds[cloud].clone()),
            session: None,
            sampler: sampler(case.seed),
            max_tokens: case.max_tokens,
            end_tokens: Vec::new(),
        };
        engine.submit(generation).unwrap()
    });
    let ids: Vec<_> = submitted.collect();
    let mut answers: Vec<_> = cases.iter().map(|_| Answer::default()).collect();
    while !engine.is_idle() {
        for output in engine.step().expect("something to compute") {
            let index = ids.iter().position(|id| *id == output.id).unwrap();
            let answer = &mut answers[index];
            answer.tokens.push(output.chosen.token);
            answer.chosen.push(chosen_bits(&output.chosen));
            if let Some(chunk) = engine.take_out(output.id, 0..usize::MAX) {
                let layers = chunk.layers.iter().map(layer_bits).collect();
                answer.kv = Some((chunk.tokens.end, layers));
            }
        }
    }
    answers
}

fn check(model: &Arc<Model>, cases: &[Case], way: &Way) -> Result<(), TestCaseError> {
    let clouds: Vec<_> = (0..CLOUD_LENS.len())
        .map(|cloud| CloudSegment::computed(model, &cloud_tokens(cloud)))
        .collect();
    for (case, answer) in cases.iter().zip(run(model, cases, way, &clouds)) {
        let cloud = case.cloud.map(|cloud| &clouds[cloud]);
        let tokens = [&case.prompt[..], &answer.tokens].concat();
        let (scores, _) = in_one_pass(model, cloud, &tokens);
        let mut sampler = sampler(case.seed);
        for (scores, found) in scores[case.prompt.len() - 1..].iter().zip(&answer.chosen) {
            prop_assert_eq!(&chosen_bits(&sampler.choose(scores)), found);
        }
        let Some((computed, found)) = answer.kv else {
            continue;
        };
        let (_, expected) = in_one_pass(model, cloud, &tokens[..computed]);
        prop_assert!(found == expected, "keys or values differ");
    }
    Ok(())
}

/// Engines of any limits beside one pass.
fn engines_equal_one_pass(model: Model, case_count: u32) {
    let (model, config) = (
        Arc::new(model),
        ProptestConfig {
            cases: case_count,
            failure_persistence: None,
            ..ProptestConfig::default()
        },
    );
    let vocab = u32::try_from(model.config.vocab_size).unwrap();
    TestRunner::new(config)
        .run(&(cases(vocab), ways()), |(cases, way)| {
            check(&model, &cases, &way)
        })
        .unwrap();
}

#[test]
fn a_small_model_gives_the_same_bits_however_it_computes() {
    engines_equal_one_pass(Model::dummy(ModelShape::Tiny, &Device::flex()), 60);
}

#[test]
fn the_demo_model_gives_the_same_bits_however_it_computes() {
    engines_equal_one_pass(Model::demo(&Device::flex()).unwrap(), 12);
}

#[test]
fn stories260k_gives_the_same_bits_however_it_computes() {
    let Some(folder) = trained_model("stories260K") else {
        return;
    };
    let model = Model::open(&folder, &Device::flex(), |_| {}).unwrap();
    engines_equal_one_pass(model, 30);
}

/// Once is enough for a model of 110 million: its widths are those of models that people use.
#[test]
fn a_model_of_a_common_shape_gives_the_same_bits_in_pieces_and_decoded() {
    let model = Model::dummy(ModelShape::M110, &Device::flex());
    let segment = CloudSegment::computed(&model, &cloud_tokens(1));
    let prompt: Vec<_> = (0..37).map(|token| TokenId(token * 811 % 32_000)).collect();
    let (expected, _) = in_one_pass(&model, Some(&segment), &prompt);
    let mut sequence = Sequence::new(&model, Some(segment), SequenceOptions::default());
    let mut rest = &prompt[..];
    for len in [13, 1, 1, 2, 5, 14, 1] {
        let (piece, later) = rest.split_at(len);
        sequence.begin(piece);
        while sequence.advance() != Progress::Complete {}
        let bits = |scores: &[f32]| scores.iter().map(|it| it.to_bits()).collect::<Vec<_>>();
        let last = prompt.len() - later.len() - 1;
        assert!(bits(&sequence.logits()) == bits(&expected[last]), "{last}");
        rest = later;
    }
    assert!(rest.is_empty());
}

/// A cloud prompt that every sequence reads for itself, from blocks, is a part of its prompt.
#[test]
fn an_adopted_segment_gives_the_bits_of_one_pass_over_all() {
    let model = Arc::new(Model::dummy(ModelShape::Tiny, &Device::flex()));
    let cloud = cloud_tokens(1);
    let segment = CloudSegment::computed(&model, &cloud);
    let positive = |count| NonZeroUsize::new(count).unwrap();
    let limits = EngineLimits {
        max_num_seqs: positive(2),
        max_num_batched_tokens: positive(64),
        max_num_waiting: 100,
        block_len: positive(16),
        block_count: 20,
    };
    let mut engine = Engine::new(Arc::clone(&model), limits);
    let session = SessionId([7; 32]);
    engine.adopt(session, &cloud, &segment).unwrap();
    let prompt = [&cloud[..], &[TokenId(40), TokenId(41)]].concat();
    let generation = Generation {
        prompt: prompt.clone(),
        segment: None,
        session: Some(session),
        sampler: sampler(3),
        max_tokens: 8,
        end_tokens: Vec::new(),
    };
    engine.submit(generation).unwrap();
    let (mut tokens, mut found) = (prompt.clone(), Vec::new());
    while !engine.is_idle() {
        for output in engine.step().unwrap() {
            assert_eq!(output.shared_len, 64, "four blocks of sixteen");
            tokens.push(output.chosen.token);
            found.push(chosen_bits(&output.chosen));
        }
    }
    let (scores, _) = in_one_pass(&model, None, &tokens);
    let mut sampler = sampler(3);
    for (scores, found) in scores[prompt.len() - 1..].iter().zip(&found) {
        assert_eq!(&chosen_bits(&sampler.choose(scores)), found);
    }
}
