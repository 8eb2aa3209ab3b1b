//! A filler for tests of prompts: its generator has room for next to nothing.

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
        let generator = Generator::start(Arc::clone(model), EngineLimits::LEAST).unwrap();
        Self::new(
            Arc::clone(model),
            generator,
            PrefillSpeed::new(per_token, 1),
        )
    }
}
