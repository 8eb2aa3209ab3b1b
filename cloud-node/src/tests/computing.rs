//! One thread computes: its store keeps its bound, faults and withdrawn prompts cost one prompt.

use std::sync::Arc;

use edgeprompt_kv::{KvDtype, LayerIndex, LayerKv, TokenId};
use edgeprompt_protocol::KvSource;

use super::{Gate, LAYER_COUNT, Outcome, TOKEN_BYTES, model, prompt};
use crate::compute::PromptComputer;
use crate::served_prompt::{ComputationLost, ServedPrompt};

/// What an edge gets that asks for a prompt.
fn asked(computer: &PromptComputer, number: u32) -> ServedPrompt {
    let served = computer.serve(&"edge".into(), &prompt(number), KvDtype::F32);
    served.unwrap()
}

async fn layers(mut served: ServedPrompt) -> Result<Vec<LayerKv>, ComputationLost> {
    let mut layers = Vec::new();
    for layer in (0..).map(LayerIndex).take(LAYER_COUNT) {
        layers.push(served.layer(layer).await?.0);
    }
    Ok(layers)
}

#[tokio::test]
async fn a_store_for_two_keeps_two_of_ten_prompts() {
    let bytes_max = 2 * 10 * TOKEN_BYTES;
    let computer = PromptComputer::start(model(), bytes_max);
    for number in 0..10 {
        let served = asked(&computer, number);
        assert_eq!(served.source(), KvSource::Computing);
        layers(served).await.unwrap();
        assert_eq!(computer.computing_count(), 0);
        assert!(computer.stored_bytes() <= bytes_max);
    }
    assert_eq!(computer.stored_bytes(), bytes_max);
    let source = |number| asked(&computer, number).source();
    assert_eq!(source(9), KvSource::Stored);
    assert_eq!(source(8), KvSource::Stored);
    assert_eq!(source(0), KvSource::Computing, "it was evicted");
}

#[tokio::test]
async fn prompts_in_use_are_served_beside_a_full_store() {
    let bytes_max = 2 * 10 * TOKEN_BYTES;
    let computer = PromptComputer::start(model(), bytes_max);
    let mut held = Vec::new();
    for number in 0..5 {
        let served = asked(&computer, number);
        held.push(served.clone());
        layers(served).await.unwrap();
    }
    assert_eq!(computer.stored_bytes(), bytes_max);
    for served in held {
        assert!(layers(served).await.is_ok());
    }
}

#[tokio::test]
async fn a_panic_loses_one_prompt_and_no_other() {
    let (mut gate, computer) = Gate::computer(model(), 1 << 20);
    let first = asked(&computer, 1);
    let second = asked(&computer, 2);
    gate.at_gate().await;
    gate.open(Outcome::Panic);
    assert_eq!(layers(first).await, Err(ComputationLost(0)));
    gate.open(Outcome::Computed);
    assert!(layers(second).await.is_ok());

    let again = asked(&computer, 1);
    gate.open(Outcome::Computed);
    assert!(
        layers(again).await.is_ok(),
        "a lost prompt can be asked for again"
    );
    assert_eq!(
        (computer.computed_count(), computer.computing_count()),
        (2, 0)
    );
}

#[tokio::test]
async fn a_panic_of_the_tensor_library_is_survived_as_well() {
    let computer = PromptComputer::start(model(), 1 << 20);
    let beyond: Arc<[TokenId]> = [TokenId(1_000_000)].into();
    let served = computer
        .serve(&"edge".into(), &beyond, KvDtype::F32)
        .unwrap();
    assert!(
        layers(served).await.is_err(),
        "the vocabulary has 64 tokens"
    );
    let served = asked(&computer, 1);
    assert!(layers(served).await.is_ok());
}

#[tokio::test]
async fn a_prompt_that_nobody_waits_for_is_never_computed() {
    let (mut gate, computer) = Gate::computer(model(), 1 << 20);
    let first = asked(&computer, 1);
    gate.at_gate().await;
    let withdrawn = asked(&computer, 2);
    let third = asked(&computer, 3);
    drop(withdrawn);
    gate.open(Outcome::Computed);
    assert_eq!(gate.at_gate().await, prompt(3).to_vec());
    gate.open(Outcome::Computed);
    assert!(layers(first).await.is_ok() && layers(third).await.is_ok());
    assert_eq!(computer.computed_count(), 2);
}

#[tokio::test]
async fn who_still_waits_when_the_computer_goes_learns_it() {
    let (mut gate, computer) = Gate::computer(model(), 1 << 20);
    let first = asked(&computer, 1);
    let second = asked(&computer, 2);
    gate.at_gate().await;
    drop(computer);
    assert_eq!(layers(second).await, Err(ComputationLost(0)));
    gate.open(Outcome::Computed);
    assert!(layers(first).await.is_ok(), "what was begun is finished");
}
