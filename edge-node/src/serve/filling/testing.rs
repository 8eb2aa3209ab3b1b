//! A filler for tests of prompts: its generator has room for next to nothing.

use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use edgeprompt_engine::EngineLimits;
use edgeprompt_model::Model;

use super::Filler;
use crate::prefill_speed::PrefillSpeed;
use crate::serve::generator::Generator;

impl Filler {
    /// On a node that computes a token of a layer in so long.
    pub(crate) fn for_prompts(model: &Arc<Model>, per_token: Duration) -> Self {
        let one = NonZeroUsize::MIN;
        let limits = EngineLimits {
            max_num_seqs: one,
            max_num_batched_tokens: one,
            max_num_waiting: 1,
            block_len: one,
            block_count: 1,
        };
        let generator = Generator::start(Arc::clone(model), limits).unwrap();
        Self::new(
            Arc::clone(model),
            generator,
            PrefillSpeed::new(per_token, 1),
        )
    }
}
