//! How fast an edge takes sessions in: what this one has measured of itself, and what others say.

use std::time::Duration;

use edgeprompt_handover::planning::kv_size::KvTokenBits;
use edgeprompt_handover::planning::link_rate::LinkRate;
use edgeprompt_handover::planning::prefill::{PrefillCoefficients, PrefillModel};
use edgeprompt_handover::planning::scenario::Costs;
use edgeprompt_kv::KvDtype;
use edgeprompt_protocol::{PeerRequest, TargetSpeed};
use edgeprompt_transport::{LinkEstimate, PeerLink};
use tokio::time::timeout;

use super::Node;
use super::planned::Way;

/// How long a target may take to say how fast it is: a plan is worth no more.
const ASKING_MAX: Duration = Duration::from_millis(500);

/// What an unknown link is taken for, in bits a second.
const RATE_UNKNOWN: f64 = 200e6;

impl Node {
    /// What it has measured of itself.
    pub(super) fn speed(&self) -> TargetSpeed {
        let layers = f64::from(self.model.geometry.layer_count());
        let times = self.generator.tally().step_times();
        let prefill = times.prefill().unwrap_or_else(|| PrefillCoefficients {
            per_token_s: self.speed.layer(1).as_secs_f64() * layers,
            ..PrefillCoefficients::default()
        });
        let alone = PrefillModel::new(prefill).ok();
        TargetSpeed {
            prefill_token_s: prefill.per_token_s,
            prefill_pair_s: prefill.per_pair_s,
            receiving_factor: alone.map_or(1.0, |alone| times.receiving_factor(&alone)),
            decode_s: times.decode().unwrap_or_default().as_secs_f64(),
            behind_len_max: u32::try_from(self.behind_len_max).unwrap_or(u32::MAX),
        }
    }

    /// The way to a target of this speed; `None` for numbers that nothing can be planned with.
    pub(super) fn way(
        &self,
        dtype: KvDtype,
        (link, target): (Option<LinkEstimate>, TargetSpeed),
    ) -> Option<Way> {
        let geometry = &self.model.geometry;
        let layers = f64::from(geometry.layer_count());
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let layer_bytes = geometry.layer_bytes(64, dtype) as f64 / 64.0;
        #[expect(clippy::cast_precision_loss, reason = "an estimate")]
        let rate = link.map_or(RATE_UNKNOWN, |link| {
            link.stream_rate().as_bits_per_second() as f64
        });
        let alone = PrefillModel::new(PrefillCoefficients {
            per_token_s: target.prefill_token_s,
            per_pair_s: target.prefill_pair_s,
            ..PrefillCoefficients::default()
        });
        let alone = alone.ok()?;
        let costs = Costs {
            kv: KvTokenBits::of_measured_bytes(layer_bytes * layers).ok()?,
            prefill: alone.slowed(target.receiving_factor).ok()?,
            link: LinkRate::constant(rate.max(1.0)).ok()?,
        };
        Some(Way {
            costs,
            alone,
            rtt: link.map_or(Duration::ZERO, |link| link.rtt),
            decode: Duration::try_from_secs_f64(target.decode_s).ok()?,
            behind_len: target.behind_len_max,
        })
    }
}

/// What the edge at the other end says of itself; `None` if it says nothing in time.
pub(super) async fn ask(link: &PeerLink) -> Option<TargetSpeed> {
    let asking = async {
        let (_sender, mut receiver) = link.open(&PeerRequest::Speed, 1).await?;
        receiver.receive().await
    };
    match timeout(ASKING_MAX, asking).await {
        Ok(Ok(speed)) => Some(speed),
        Ok(Err(error)) => {
            tracing::debug!(%error, "the target does not say how fast it is");
            None
        }
        Err(_) => None,
    }
}
