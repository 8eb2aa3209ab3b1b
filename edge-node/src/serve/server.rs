//! What the routes serve from: one model, one engine, its cloud prompts.

use std::num::NonZeroUsize;
use std::sync::{Arc, OnceLock};
use std::time::Instant;

use edgeprompt_engine::EngineLimits;
use edgeprompt_kv::KvDtype;
use edgeprompt_model::Model;
use edgeprompt_protocol::PromptName;
use edgeprompt_telemetry::exporter::MetricsHandle;

use crate::crew::roster::Roster;
use crate::serve::access::{Callers, RequestIds};
use crate::serve::api_error::ApiError;
use crate::serve::filling::Filling;
use crate::serve::generator::Generator;
use crate::serve::origins::Origins;
use crate::serve::prompting::Seam;
use crate::serve::request::AskedCloudPrompt;
use crate::serve::segments::{CloudPrompts, SharedPrompt};
use crate::serve::sessions::Sessions;
use crate::serve::stopwatch::PromptLens;
use crate::serve::timelines::Timelines;
use crate::uplink::Uplink;

/// Tokens of one block of private KV, as vLLM's.
const BLOCK_LEN: NonZeroUsize = NonZeroUsize::new(16).expect("16 is not 0");

/// Most requests that wait for their turn, each with a prompt in memory.
const WAITING_MAX: usize = 1024;

/// The HTTP side, which is there before the model is loaded.
pub(crate) struct App {
    pub(crate) callers: Callers,
    pub(crate) ids: RequestIds,
    pub(crate) metrics: MetricsHandle,
    pub(crate) origins: Origins,
    /// Empty while the model is being loaded.
    pub(crate) server: OnceLock<Server>,
}

impl App {
    /// The server once it is loaded.
    ///
    /// # Errors
    /// [`ApiError`] before that.
    pub(crate) fn server(&self) -> Result<&Server, ApiError> {
        let server = self.server.get();
        server.ok_or_else(|| ApiError::unavailable("the model is being loaded"))
    }
}

/// A loaded server.
pub(crate) struct Server {
    pub(crate) model: Arc<Model>,
    pub(crate) name: String,
    /// Where the model came from.
    pub(crate) root: String,
    /// Unix time in seconds.
    pub(crate) created: u64,
    pub(crate) began_at: Instant,
    pub(crate) capacity: Capacity,
    pub(crate) generator: Generator,
    pub(crate) prompts: CloudPrompts,
    /// The way to the cloud, if one is used.
    pub(crate) uplink: Option<Uplink>,
    /// Who lends this node a device, if anybody may.
    pub(crate) workers: Option<Roster>,
    pub(crate) timelines: Timelines,
    /// Fetched at the start; the first is the default.
    pub(crate) prefetched: Vec<PromptName>,
    pub(crate) seam: Seam,
    /// Answers that may move to other edges, if they may.
    pub(crate) sessions: Option<Sessions>,
    /// Set once all of them were there: what gives way later comes again when it is asked for.
    pub(crate) was_ready: OnceLock<()>,
}

impl Server {
    /// The cloud prompt that a request builds on.
    ///
    /// # Errors
    /// [`ApiError`] if it cannot be had.
    pub(crate) async fn cloud_prompt(
        &self,
        asked: &AskedCloudPrompt,
    ) -> Result<Option<SharedPrompt>, ApiError> {
        match self.cloud_prompt_name(asked) {
            Some(name) => Ok(Some(self.prompts.get(name).await?)),
            None => Ok(None),
        }
    }

    /// The name of the cloud prompt that a request builds on.
    pub(crate) fn cloud_prompt_name<'a>(
        &'a self,
        asked: &'a AskedCloudPrompt,
    ) -> Option<&'a PromptName> {
        match asked {
            AskedCloudPrompt::Default => self.prefetched.first(),
            AskedCloudPrompt::Nothing => None,
            AskedCloudPrompt::Named(name) => Some(name),
        }
    }

    /// Whether a client that asks for the model `name` asks for this server's.
    ///
    /// # Errors
    /// [`ApiError`] if not.
    pub(crate) fn check_model(&self, name: &str) -> Result<(), ApiError> {
        if name == self.name {
            return Ok(());
        }
        let message = "no model of that name is served here: GET /v1/models says which";
        let error = ApiError::not_found(message).with_code("model_not_found");
        Err(error.with_param("model"))
    }

    /// Whether the engine runs and every prompt to be there from the start has been there.
    pub(crate) fn is_ready(&self) -> bool {
        if self.was_ready.get().is_none() && self.are_prefetched_here() {
            self.was_ready.get_or_init(|| ());
        }
        self.generator.is_running() && self.was_ready.get().is_some()
    }

    /// How the way to the cloud is, in a word.
    pub(crate) fn kv_plane(&self) -> &'static str {
        match self.prompts.source_is_well() {
            true => "ok",
            false => "degraded",
        }
    }

    fn are_prefetched_here(&self) -> bool {
        let here = self.prompts.list();
        let is_here = |name: &PromptName| {
            here.iter().any(|(other, prompt)| {
                other == name && matches!(prompt.filling.now(), Filling::Filled(_))
            })
        };
        self.prefetched.iter().all(is_here)
    }
}

/// How much fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Capacity {
    /// Tokens of one request: prompt and answer.
    pub(crate) model_len_max: usize,
    /// Blocks of private KV.
    block_count: usize,
    /// Bytes of one of them, all layers.
    block_bytes: u64,
}

/// What decides it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct CapacityConfig {
    /// Bytes for private keys and values.
    pub(crate) kv_cache_bytes: u64,
    /// Sequences that compute at a time.
    pub(crate) max_num_seqs: NonZeroUsize,
    /// Tokens of one request, if fewer than the model's context.
    pub(crate) max_model_len: Option<NonZeroUsize>,
}

impl Capacity {
    /// What fits; no blocks beyond those that all sequences could use.
    pub(crate) fn new(model: &Model, config: CapacityConfig) -> Self {
        let context_len_max = model.config.context_len_max;
        let asked = config
            .max_model_len
            .map_or(context_len_max, NonZeroUsize::get);
        let model_len_max = asked.min(context_len_max);
        if asked > context_len_max {
            tracing::warn!(
                asked,
                context_len_max,
                "--max-model-len is more than the model's context, which counts"
            );
        }
        let geometry = &model.geometry;
        let layer_bytes = geometry.layer_bytes(BLOCK_LEN.get(), KvDtype::F32) as u64;
        let block_bytes = layer_bytes
            .saturating_mul(u64::from(geometry.layer_count()))
            .max(1);
        let affordable = usize::try_from(config.kv_cache_bytes / block_bytes);
        let each = model_len_max.div_ceil(BLOCK_LEN.get());
        let usable = each.saturating_mul(config.max_num_seqs.get());
        Self {
            model_len_max,
            block_count: affordable.unwrap_or(usize::MAX).min(usable),
            block_bytes,
        }
    }

    /// Private tokens that fit, of all requests together.
    pub(crate) const fn pool_len(&self) -> usize {
        self.block_count * BLOCK_LEN.get()
    }

    /// Bytes of so many blocks of private KV.
    pub(crate) const fn bytes_of(&self, block_count: usize) -> u64 {
        (block_count as u64).saturating_mul(self.block_bytes)
    }

    /// The engine's limits.
    pub(crate) const fn engine_limits(
        &self,
        max_num_seqs: NonZeroUsize,
        max_num_batched_tokens: NonZeroUsize,
    ) -> EngineLimits {
        EngineLimits {
            max_num_seqs,
            max_num_batched_tokens,
            max_num_waiting: WAITING_MAX,
            block_len: BLOCK_LEN,
            block_count: self.block_count,
        }
    }

    /// How many tokens to generate after a prompt: as many as were asked for, or as there is room.
    ///
    /// # Errors
    /// [`ApiError`] if there is no room for one.
    pub(crate) fn max_tokens(
        &self,
        asked: Option<usize>,
        prompt: PromptLens,
    ) -> Result<usize, ApiError> {
        let prompt_len = prompt.cloud + prompt.private;
        if prompt_len >= self.model_len_max {
            let message = format!(
                "the prompt has {prompt_len} tokens, {} of them the cloud prompt's, and prompt and answer together at most {}",
                prompt.cloud, self.model_len_max
            );
            return Err(ApiError::request(message).with_code("context_length_exceeded"));
        }
        // The last token of an answer takes no position and no slot.
        let room = self.model_len_max - prompt_len + 1;
        let fitting = (self.pool_len() + 1).saturating_sub(prompt.private).max(1);
        Ok(asked.unwrap_or(fitting).min(room))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use edgeprompt_model::ModelShape;

    /// The tiny model's block: 16 tokens of 6 layers of 2 heads of 8, twice, 4 bytes each.
    const BLOCK_BYTES: u64 = 16 * 6 * 2 * 8 * 2 * 4;

    fn capacity(kv_cache_bytes: u64, max_model_len: usize) -> Capacity {
        let model = Model::dummy(ModelShape::Tiny, &Device::flex());
        let config = CapacityConfig {
            kv_cache_bytes,
            max_num_seqs: NonZeroUsize::new(4).unwrap(),
            max_model_len: NonZeroUsize::new(max_model_len),
        };
        Capacity::new(&model, config)
    }

    fn prompt(cloud: usize, private: usize) -> PromptLens {
        PromptLens {
            cloud,
            private,
            shared: 0,
        }
    }

    #[test]
    fn blocks_are_those_that_are_paid_for_and_can_be_used() {
        assert_eq!(capacity(5 * BLOCK_BYTES + 1, 0).pool_len(), 80);
        // 4 sequences of 128 tokens.
        assert_eq!(capacity(1 << 40, 0).pool_len(), 512);
        assert_eq!(capacity(1 << 40, 1000).model_len_max, 128);
        assert_eq!(capacity(1 << 40, 100).model_len_max, 100);
    }

    #[test]
    fn an_answer_is_as_long_as_asked_or_as_there_is_room() {
        let capacity = capacity(1 << 40, 0);
        assert_eq!(capacity.max_tokens(Some(5), prompt(100, 20)), Ok(5));
        assert_eq!(capacity.max_tokens(Some(50), prompt(100, 20)), Ok(9));
        assert_eq!(capacity.max_tokens(None, prompt(100, 20)), Ok(9));
        assert!(capacity.max_tokens(None, prompt(100, 28)).is_err());
        let small = super::Capacity {
            block_count: 2,
            ..capacity
        };
        assert_eq!(small.max_tokens(None, prompt(0, 20)), Ok(13));
    }
}
