//! The cloud with its computing thread in hand: tests let it go on prompt by prompt.

mod computing;
mod serving;

use std::sync::{Arc, mpsc};

use burn::tensor::Device;
use edgeprompt_kv::TokenId;
use edgeprompt_model::{Model, ModelConfig, ModelShape};

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

/// 4 layers; one token takes 4 × 2 × 2 heads × 8 × 4 bytes.
fn model() -> Arc<Model> {
    let config = ModelConfig {
        hidden_dim: 32,
        mlp_dim: 64,
        layer_count: 4,
        q_head_count: 4,
        kv_head_count: 2,
        head_dim: 8,
        vocab_size: 64,
        context_len_max: 128,
        ..ModelShape::M110.config()
    };
    Arc::new(Model::random(config, &Device::flex(), 1))
}

const TOKEN_BYTES: usize = 4 * 2 * 2 * 8 * 4;

/// Ten tokens, others for every number.
fn prompt(number: u32) -> Arc<[TokenId]> {
    (number..number + 10).map(TokenId).collect()
}
