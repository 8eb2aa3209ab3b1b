//! How fast this edge computes public prompts, measured with tokens that mean nothing, so that what
//! follows from it tells nothing about anybody's prompt.

use std::time::{Duration, Instant};

use edgeprompt_engine::SegmentPrefill;
use edgeprompt_kv::TokenId;
use edgeprompt_model::Model;

/// Enough tokens that the products are about as efficient as those of a long prompt, few enough
/// that a large model takes well under a second.
const TOKENS_MEASURED: usize = 128;

/// Most layers that are timed: half of them may be disturbed by whatever else the machine does.
const LAYERS_TIMED_MAX: usize = 5;

/// No further layer is timed after so long.
const MEASURING_MAX: Duration = Duration::from_millis(300);

/// The time of one layer over a number of tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PrefillSpeed {
    layer: Duration,
    token_count: usize,
}

impl PrefillSpeed {
    /// Times a few layers after one that warms up, and keeps the median. It computes for a moment: not
    /// for async threads.
    pub fn measure(model: &Model) -> Self {
        let token_count = TOKENS_MEASURED.min(model.config.context_len_max.max(1));
        let tokens = vec![TokenId(0); token_count];
        let mut prefill = SegmentPrefill::start(model, &tokens);
        let began = Instant::now();
        // From one projection to the next is exactly one layer. The first is a projection alone, and
        // the layer after it warms up: a model of fewer layers is timed by what it has.
        let mut times = Vec::new();
        while times.len() < LAYERS_TIMED_MAX + 2 {
            let start = Instant::now();
            if prefill.next().is_none() {
                break;
            }
            times.push(start.elapsed());
            if times.len() > 2 && began.elapsed() > MEASURING_MAX {
                break;
            }
        }
        let layer = typical(times);
        Self { layer, token_count }
    }

    /// So long a layer over so many tokens.
    pub const fn new(layer: Duration, token_count: usize) -> Self {
        Self { layer, token_count }
    }

    /// How many tokens it was measured with.
    pub const fn token_count(&self) -> usize {
        self.token_count
    }

    /// Halfway to another speed, as if measured with its tokens.
    #[must_use]
    pub(crate) fn mean(&self, other: Self) -> Self {
        let layer = self.layer(other.token_count).saturating_add(other.layer) / 2;
        Self { layer, ..other }
    }

    /// The time of one layer over `token_count` tokens, in proportion: attention's share, which
    /// grows faster, is small for prompts up to some thousand tokens.
    #[expect(clippy::cast_precision_loss, reason = "an estimate")]
    pub fn layer(&self, token_count: usize) -> Duration {
        let share = token_count as f64 / self.token_count.max(1) as f64;
        self.layer.mul_f64(share)
    }
}

/// The median of those after the first two, or the last one if there are no more.
fn typical(times: Vec<Duration>) -> Duration {
    let last = times.last().copied().unwrap_or_default();
    let mut timed: Vec<_> = times.into_iter().skip(2).collect();
    timed.sort();
    timed.get(timed.len() / 2).copied().unwrap_or(last)
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
    fn a_disturbed_layer_does_not_count() {
        let typical =
            |times: &[u64]| typical(times.iter().copied().map(Duration::from_millis).collect());
        assert_eq!(
            typical(&[1, 50, 20, 90, 21, 19, 22]),
            Duration::from_millis(21)
        );
        assert_eq!(typical(&[1, 50]), Duration::from_millis(50));
        assert_eq!(typical(&[]), Duration::ZERO);
    }

    #[test]
    fn something_is_measured_on_the_smallest_model() {
        let model = Model::dummy(ModelShape::Tiny, &Device::flex());
        let speed = PrefillSpeed::measure(&model);
        assert_eq!(speed.token_count, 128);
        assert!(speed.layer(128) > Duration::ZERO);
    }
}
