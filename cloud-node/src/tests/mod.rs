//! The cloud with its computing thread in hand: tests let it go on prompt by prompt.

mod computing;
mod serving;

use std::sync::{Arc, mpsc};

use burn::tensor::Device;
use edgeprompt_kv::TokenId;
use edgeprompt_model::{Model, ModelShape};

use crate::compute::{PromptComputer, compute};

/// Holds the computing thread up before every prompt. Dropping it lets everything go.
struct Gate {
    started: tokio::sync::mpsc::UnboundedReceiver<Vec<TokenId>>,
    go: mpsc::Sender<Outcome>,
}

/// What becomes of a prompt at the gate.
enum Outcome {
    Computed,
    Panic,
}

impl Gate {
    fn computer(model: Arc<Model>, store_bytes_max: usize) -> (Self, Arc<PromptComputer>) {
        let (starting, started) = tokio::sync::mpsc::unbounded_channel();
        let (go, going) = mpsc::channel();
        let computer = PromptComputer::start_with(model, store_bytes_max, move |model, job| {
            // Fails once the gate is gone, and then nobody looks.
            let _ = starting.send(job.kv.tokens.to_vec());
            match going.recv() {
                Ok(Outcome::Panic) => panic!("a fault made by a test"),
                Ok(Outcome::Computed) | Err(mpsc::RecvError) => compute(model, job),
            }
        });
        (Self { started, go }, computer)
    }

    /// The tokens of the prompt at the gate.
    async fn at_gate(&mut self) -> Vec<TokenId> {
        self.started.recv().await.unwrap()
    }

    fn open(&self, outcome: Outcome) {
        self.go.send(outcome).unwrap();
    }
}

fn model() -> Arc<Model> {
    Arc::new(Model::dummy(ModelShape::Tiny, &Device::flex()))
}

/// Of that model.
const LAYER_COUNT: usize = 6;

/// Of one token's keys and values: 2 × 2 heads × 8 × 4 bytes a layer.
const TOKEN_BYTES: usize = LAYER_COUNT * 2 * 2 * 8 * 4;

/// Ten tokens, others for every number.
fn prompt(number: u32) -> Arc<[TokenId]> {
    (number..number + 10).map(TokenId).collect()
}
