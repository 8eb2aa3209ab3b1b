//! The longest prompt that a cloud takes, computed once from every limit there is.

use std::fmt;

use edgeprompt_kv::KvDtype;
use edgeprompt_model::Model;
use edgeprompt_protocol::{LAYER_BYTES_MAX, PROMPT_TOKENS_MAX};

/// The longest prompt that a cloud takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PromptLimit {
    token_count_max: usize,
    cause: LimitCause,
}

/// What a prompt must fit into.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LimitCause {
    /// A message between nodes.
    Message,
    /// The model's context.
    Context,
    /// The largest layer that is sent.
    Layer,
    /// The cloud's store.
    Store,
}

/// A prompt is longer than the limit.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{token_count} tokens do not fit {}, which takes {}", .limit.cause, .limit.token_count_max)]
pub struct PromptTooLong {
    /// Tokens of the prompt.
    pub token_count: usize,
    /// What the cloud takes.
    pub limit: PromptLimit,
}

impl fmt::Display for LimitCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Message => "a message between nodes",
            Self::Context => "the model's context",
            Self::Layer => "the largest layer that is sent",
            Self::Store => "the cloud's store",
        })
    }
}

impl PromptLimit {
    /// The limit of a model on any cloud.
    pub fn of_model(model: &Model) -> Self {
        let message = Self {
            token_count_max: PROMPT_TOKENS_MAX,
            cause: LimitCause::Message,
        };
        // One position at least must be left for a private token.
        let context = model.config.context_len_max.saturating_sub(1);
        let layer = LAYER_BYTES_MAX / model.geometry.layer_bytes(1, KvDtype::F32);
        message
            .and(context, LimitCause::Context)
            .and(layer, LimitCause::Layer)
    }

    /// The limit of a model on a cloud with a store of that size: a prompt must fit it alone.
    pub fn of_store(model: &Model, store_bytes_max: usize) -> Self {
        let layer_count = model.decoder.layers().len();
        let token_bytes = model.geometry.layer_bytes(1, KvDtype::F32) * layer_count;
        Self::of_model(model).and(store_bytes_max / token_bytes, LimitCause::Store)
    }

    /// Most tokens of a prompt.
    pub const fn token_count_max(&self) -> usize {
        self.token_count_max
    }

    /// Checks a prompt's length.
    ///
    /// # Errors
    /// [`PromptTooLong`].
    pub const fn check(&self, token_count: usize) -> Result<(), PromptTooLong> {
        if token_count <= self.token_count_max {
            return Ok(());
        }
        let limit = *self;
        Err(PromptTooLong { token_count, limit })
    }

    const fn and(self, token_count_max: usize, cause: LimitCause) -> Self {
        if self.token_count_max <= token_count_max {
            return self;
        }
        Self {
            token_count_max,
            cause,
        }
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;
    use edgeprompt_model::{ModelConfig, ModelShape};

    use super::*;

    /// 2 × 4 heads × 512 × 4 bytes: 16 KiB a token and layer.
    fn model(context_len_max: usize) -> Model {
        let config = ModelConfig {
            hidden_dim: 8,
            mlp_dim: 8,
            layer_count: 2,
            q_head_count: 4,
            kv_head_count: 4,
            head_dim: 512,
            vocab_size: 8,
            context_len_max,
            ..ModelShape::M110.config()
        };
        Model::random(config, &Device::flex(), 1)
    }

    #[test]
    fn the_smallest_limit_counts_and_is_named() {
        let check = |limit: PromptLimit, token_count_max, cause| {
            let expected = PromptLimit {
                token_count_max,
                cause,
            };
            assert_eq!(limit, expected);
            assert_eq!(limit.check(token_count_max), Ok(()));
            assert!(limit.check(token_count_max + 1).is_err());
        };
        check(PromptLimit::of_model(&model(100)), 99, LimitCause::Context);
        let long = model(1 << 20);
        check(PromptLimit::of_model(&long), 65_536, LimitCause::Layer);
        let store = PromptLimit::of_store(&long, (1 << 20) - 1);
        check(store, 31, LimitCause::Store);
        let too_long = store.check(32).unwrap_err().to_string();
        assert!(too_long.contains("32 tokens do not fit the cloud's store"));
    }
}
