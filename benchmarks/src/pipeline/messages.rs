//! What the harness and its two children say to each other.

use std::net::SocketAddr;

use edgeprompt_kv::{KvDtype, KvGeometry, TokenId};
use edgeprompt_telemetry::timeline::LayerTimeline;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::{Deserialize, Serialize};

/// Random tokens, by what they follow from: both nodes make the same ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct TokensSpec {
    /// The run's seed.
    pub(crate) seed: u64,
    /// Which of the run's prompts.
    pub(crate) ordinal: u64,
    /// How many tokens.
    pub(crate) len: usize,
}

impl TokensSpec {
    /// The tokens.
    pub(crate) fn tokens(&self, vocab_size: usize) -> Vec<TokenId> {
        let mut rng = ChaCha8Rng::seed_from_u64(self.seed);
        rng.set_stream(self.ordinal);
        let vocab_size = u32::try_from(vocab_size).unwrap_or(u32::MAX);
        let mut token = || TokenId(rng.random_range(0..vocab_size));
        (0..self.len).map(|_| token()).collect()
    }
}

/// The cloud serves.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct CloudReady {
    /// Where.
    pub(crate) addr: SocketAddr,
    /// What one edge joins with.
    pub(crate) join_token: String,
    /// The digest of its model.
    pub(crate) model_digest: String,
    /// The shape of its model's keys and values.
    pub(crate) geometry: KvGeometry,
}

/// What a cloud is told to do: compute a prompt and keep it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Store(pub(crate) TokensSpec);

/// The cloud has stored a prompt.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stored {
    /// Seconds on processors each second meanwhile.
    pub(crate) busy_threads: f64,
}

/// The edge has its model.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct EdgeReady {
    /// Most tokens that its model takes.
    pub(crate) context_len_max: usize,
}

/// What an edge is told to do.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EdgeOrder {
    /// To join a cloud's trust domain.
    Join {
        /// The cloud's token.
        token: String,
    },
    /// To reach the cloud at an address from now on, over a link that is not made yet.
    Reach {
        /// The address.
        addr: SocketAddr,
        /// In which number format layers are asked for.
        codec: KvDtype,
    },
    /// To close the link.
    Leave,
    /// To answer.
    Ask(Ask),
}

/// A question.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Ask {
    /// How to answer it.
    pub(crate) mode: Mode,
    /// The cloud prompt.
    pub(crate) public: TokensSpec,
    /// The private prompt.
    pub(crate) private: TokensSpec,
}

/// Ways to answer the same question.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Mode {
    /// The cloud streams its layers, and the edge waits for them as long as it takes.
    Streaming,
    /// As an edge does that knows its link: it asks for the layers that come sooner than it
    /// computes them, and computes the others meanwhile.
    Planned,
    /// The edge prefills the whole prompt, in one piece.
    Local,
}

/// What an edge says.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum EdgeReply {
    /// It is done.
    Done,
    /// It has answered.
    Answered(Box<Answered>),
}

/// One answer, measured.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Answered {
    /// Until the first token.
    pub(crate) timeline: LayerTimeline,
    /// How long until then was predicted, if it was.
    pub(crate) predicted_ms: Option<f64>,
    /// Keys and values received until the first token.
    pub(crate) received_bytes: u64,
    /// Layers of the cloud prompt that the edge computed because they did not come.
    pub(crate) recomputed: Option<RecomputedLayers>,
    /// Layers of the cloud prompt that the edge computed by choice.
    pub(crate) chosen_count: usize,
    /// The first token. All prompts here are random numbers, so it tells nothing about anybody.
    pub(crate) first_token: u32,
    /// Seconds on processors each second until the first token.
    pub(crate) busy_threads: f64,
}

/// Layers of the cloud prompt that the edge computed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct RecomputedLayers {
    /// How many.
    pub(crate) layer_count: usize,
    /// Why, as the metric says.
    pub(crate) reason: String,
    /// Why, in a sentence.
    pub(crate) detail: String,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_nodes_make_the_same_tokens_and_every_prompt_its_own() {
        let spec = TokensSpec {
            seed: 3,
            ordinal: 1,
            len: 64,
        };
        let other = TokensSpec { ordinal: 2, ..spec };
        assert_eq!(spec.tokens(100), spec.tokens(100));
        assert_ne!(spec.tokens(100), other.tokens(100));
        assert_eq!(spec.tokens(100).len(), 64);
        assert!(spec.tokens(100).iter().all(|token| token.0 < 100));
    }
}
