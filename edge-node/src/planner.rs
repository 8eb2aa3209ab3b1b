//! Asks the cloud for those layers of a public prompt that come sooner than this edge computes
//! them, from what links and computing have been measured to take.

use std::sync::Arc;
use std::time::Duration;

use edgeprompt_kv::{KvDtype, LayerIndex, TokenId};
use edgeprompt_model::Model;
use edgeprompt_protocol::PromptRef;
use edgeprompt_transport::LinkEstimate;

use crate::answer::Cloud;
use crate::cloud_prompt::{CloudPrompt, CloudPromptError};
use crate::fetch_plan::LayerCosts;
use crate::prefill_speed::PrefillSpeed;
use crate::uplink::Uplink;

/// What is known of a cloud and of the way to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CloudEstimate {
    /// The way.
    pub link: LinkEstimate,
    /// How fast it computed the layer that came last; no time at all if that was stored.
    pub speed: PrefillSpeed,
    /// The number format in which layers come.
    pub dtype: KvDtype,
}

/// Plans fetches for one model on this edge.
#[derive(Clone, Copy, Debug)]
pub struct Planner {
    speed: PrefillSpeed,
}

impl Planner {
    /// Plans for an edge that computes at `speed`.
    pub const fn new(speed: PrefillSpeed) -> Self {
        Self { speed }
    }

    /// The first layer of a prompt of `token_count` tokens worth asking for over a link; the number
    /// of layers if none is. A link that nothing is known of brings them all: that is how it is
    /// measured, and patience ends what takes too long.
    pub fn first_to_fetch(
        &self,
        model: &Model,
        token_count: usize,
        cloud: Option<CloudEstimate>,
    ) -> LayerIndex {
        let Some(CloudEstimate { link, speed, dtype }) = cloud else {
            return LayerIndex(0);
        };
        let bytes = model.geometry.layer_bytes(token_count, dtype);
        let costs = LayerCosts {
            layer_count: model.geometry.layer_count(),
            computing: self.speed.layer(token_count),
            computing_in_cloud: speed.layer(token_count),
            sending: time_of(bytes, link.rate.bytes_per_second()),
            latency: link.rtt,
        };
        costs.first_to_fetch()
    }

    /// The layers of a prompt whose tokens are known: what is worth asking the cloud for is on its
    /// way, the rest is this edge's to compute.
    ///
    /// # Errors
    /// [`CloudPromptError`] if the cloud was asked in vain.
    pub async fn obtain(
        &self,
        uplink: &Uplink,
        model: &Arc<Model>,
        (prompt, tokens): (PromptRef, Vec<TokenId>),
    ) -> Result<Cloud, CloudPromptError> {
        let first = self.first_to_fetch(model, tokens.len(), uplink.fresh_estimate());
        if first.0 == model.geometry.layer_count() {
            return Ok(Cloud::Here { tokens });
        }
        let fetched = CloudPrompt::fetch_from(uplink, model, prompt, first);
        Ok(Cloud::Arriving(fetched.await?))
    }
}

#[expect(clippy::cast_precision_loss, reason = "an estimate")]
fn time_of(bytes: usize, bytes_per_second: u64) -> Duration {
    let seconds = bytes as f64 / bytes_per_second.max(1) as f64;
    Duration::try_from_secs_f64(seconds).unwrap_or(Duration::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use burn::tensor::Device;
    use edgeprompt_model::ModelShape;
    use edgeprompt_transport::BitRate;

    #[test]
    fn what_is_asked_for_follows_the_link() {
        let model = Model::dummy(ModelShape::Tiny, &Device::flex());
        // A layer of 100 tokens has 12,800 bytes and takes 10 ms here.
        let planner = Planner::new(PrefillSpeed::new(Duration::from_millis(10), 100));
        let first = |bits| {
            let rate = BitRate::bits_per_second(bits);
            let rtt = Duration::from_millis(1);
            let estimate = CloudEstimate {
                link: LinkEstimate { rate, rtt },
                speed: PrefillSpeed::new(Duration::ZERO, 1),
                dtype: KvDtype::F32,
            };
            planner.first_to_fetch(&model, 100, Some(estimate)).0
        };
        assert_eq!(first(1_000_000_000), 0);
        assert_eq!(first(10_240_000), 2, "10 ms a layer either way: shared");
        assert_eq!(first(100_000), 6, "a second a layer");
        assert_eq!(planner.first_to_fetch(&model, 100, None), LayerIndex(0));
    }
}
