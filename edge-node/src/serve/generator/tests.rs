//! The thread that computes, with a model of random weights.

use super::*;
use burn::tensor::Device;
use edgeprompt_engine::{KvChunk, Sampler, SamplingParams};
use edgeprompt_kv::TokenId;
use edgeprompt_model::ModelShape;

fn limits() -> EngineLimits {
    let some = |count| NonZeroUsize::new(count).unwrap();
    EngineLimits {
        max_num_seqs: some(2),
        max_num_batched_tokens: some(16),
        max_num_waiting: 1,
        block_len: some(4),
        block_count: 16,
    }
}

fn model() -> Arc<Model> {
    Arc::new(Model::dummy(ModelShape::Tiny, &Device::flex()))
}

fn start() -> Generator {
    Generator::start(model(), limits()).unwrap()
}

fn worker() -> Worker {
    Worker::new(model(), limits(), Tally::default())
}

fn generation(prompt: &[u32], max_tokens: usize) -> Generation {
    Generation {
        prompt: prompt.iter().copied().map(TokenId).collect(),
        segment: None,
        session: None,
        sampler: Sampler::new(SamplingParams::greedy(), 0, &[]),
        max_tokens,
        end_tokens: Vec::new(),
    }
}

#[test]
fn whoever_has_started_it_can_use_it() {
    assert_eq!(start().tally().counts().load.blocks_all, 16);
}

#[tokio::test]
async fn tokens_come_until_the_last_one() {
    let generator = start();
    let mut tokens = generator.generate(generation(&[1, 2, 3], 5)).await.unwrap();
    for count in 1..=5 {
        let output = tokens.next().await.unwrap();
        assert_eq!(output.finish.is_some(), count == 5);
    }
    assert!(tokens.next().await.is_none());
}

#[tokio::test]
async fn a_refusal_reaches_whoever_asked() {
    let refused = start().generate(generation(&[], 5)).await;
    assert_eq!(
        refused.err(),
        Some(GenerateError::Refused(SubmitError::EmptyPrompt))
    );
}

#[test]
fn copying_leaves_time_for_a_step() {
    let mut worker = worker();
    let id = worker.engine.submit(generation(&[1, 2, 3], 9)).unwrap();
    let (commands, waiting) = std::sync::mpsc::channel();
    let mover = Mover {
        id,
        commands: commands.clone(),
    };
    let put_in = || {
        mover.put_in(KvChunk {
            tokens: 0..0,
            layers: Vec::new(),
        })
    };
    let _taken: Vec<_> = (0..3).map(|_| put_in()).collect();
    mover.release();
    assert!(worker.obey_waiting(&waiting, Duration::ZERO).is_ok());
    assert_eq!(waiting.try_iter().count(), 3, "one copy, then a step");
    let _taken: Vec<_> = (0..3).map(|_| put_in()).collect();
    assert!(worker.obey_waiting(&waiting, Duration::MAX).is_ok());
    assert_eq!(waiting.try_iter().count(), 0);
    drop((commands, mover));
    assert!(worker.obey_waiting(&waiting, Duration::MAX).is_err());
}

#[tokio::test]
async fn a_panic_ends_every_wait() {
    let generator = start();
    assert!(generator.is_running());
    // No model has weights for this token.
    let mut tokens = generator.generate(generation(&[1 << 20], 5)).await.unwrap();
    assert!(tokens.next().await.is_none());
    let next = generator.generate(generation(&[1], 1)).await;
    assert_eq!(next.err(), Some(GenerateError::Stopped));
}
