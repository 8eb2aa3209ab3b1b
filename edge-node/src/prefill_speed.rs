//! How fast this edge computes public prompts, measured with tokens that mean nothing, so that what
//! follows from it tells nothing about anybody's prompt.

use std::time::{Duration, Instant};

use edgeprompt_engine::SegmentPrefill;
use edgeprompt_kv::TokenId;
use edgeprompt_model::Model;

/// Enough tokens that the products are about as efficient as those of a long prompt, few enough
/// that a large model takes well under a second.
const TOKENS_MEASURED: usize = 128;

/// The time of one layer over a number of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefillSpeed {
    layer: Duration,
    token_count: usize,
}

impl PrefillSpeed {
    /// Times one layer, once to warm up and once to keep. It computes for a moment: not for async
    /// threads.
    pub fn measure(model: &Model) -> Self {
        let token_count = TOKENS_MEASURED.min(model.config.context_len_max.max(1));
        let tokens = vec![TokenId(0); token_count];
        let mut prefill = SegmentPrefill::start(model, &tokens);
        // From one projection to the next is exactly one layer. A model of fewer layers than this
        // takes is timed by what it has.
        let mut layer = Duration::ZERO;
        for _ in 0..3 {
            let start = Instant::now();
            if prefill.next().is_none() {
                break;
            }
            layer = start.elapsed();
        }
        Self { layer, token_count }
    }

    /// So long a layer over so many tokens.
    pub const fn new(layer: Duration, token_count: usize) -> Self {
        Self { layer, token_count }
    }

    /// The time of one layer over `token_count` tokens, in proportion: attention's share, which
    /// grows faster, is small for prompts up to some thousand tokens.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub fn layer(&self, token_count: usize) -> Duration {
        let share = token_count as f64 / self.token_count.max(1) as f64;
        self.layer.mul_f64(share)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use edgeprompt_model::ModelShape;

    #[test]
    fn time_is_in_proportion_to_tokens() {
        let speed = PrefillSpeed::new(Duration::from_millis(20), 128);
        assert_eq!(speed.layer(64), Duration::from_millis(10));
        assert_eq!(speed.layer(512), Duration::from_millis(80));
    }

    #[test]
    fn something_is_measured_on_the_smallest_model() {
        let model = Model::dummy(ModelShape::Tiny, &Device::flex());
        let speed = PrefillSpeed::measure(&model);
        assert_eq!(speed.token_count, 128);
        assert!(speed.layer(128) > Duration::ZERO);
    }
}
