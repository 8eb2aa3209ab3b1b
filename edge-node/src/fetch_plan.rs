//! Which layers to ask the cloud for, and which to compute here because they would come later.
//! Pure: durations and counts in, a layer out.
//!
//! Layers are needed from the first to the last, and both sources can work at the same time: this
//! edge from the first layer on while the cloud sends the last ones. The idea is that of Cake
//! (arXiv 2410.03065), which loads and computes chunks of tokens from opposite ends.
//!
//! Nothing private is an input: which layers an edge asks for is seen by the cloud.

use std::time::Duration;

use edgeprompt_kv::LayerIndex;

/// The share of the time that computing some layers here must save: less is not worth a busy
/// processor, and estimates are no better.
const SAVING_MIN: f64 = 0.1;

/// What each way of getting a layer takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerCosts {
    /// Layers of the model.
    pub layer_count: u32,
    /// Computing one layer of the prompt here.
    pub computing: Duration,
    /// Computing one layer in the cloud; zero where it has them stored.
    pub computing_in_cloud: Duration,
    /// Sending one layer over the link, by itself.
    pub sending: Duration,
    /// From asking to the first byte, without the cloud's computing.
    pub latency: Duration,
}

impl LayerCosts {
    /// The first layer to ask for: 0 for all of them, the number of layers for none.
    ///
    /// Of the plans that are fastest, the one that computes least here.
    pub fn first_to_fetch(&self) -> LayerIndex {
        let plans = (1..=self.layer_count).map(|first| (first, self.time(first)));
        let fastest = plans.min_by_key(|&(_, time)| time);
        let worth_it = self.time(0).mul_f64(1.0 - SAVING_MIN);
        let first = match fastest {
            Some((first, time)) if time <= worth_it => first,
            Some(_) | None => 0,
        };
        LayerIndex(first)
    }

    /// Until the last layer is here, if `first` is the first to be asked for.
    ///
    /// The cloud computes those before as well, for each layer needs them; cloud and link are the
    /// first two machines of the flow shop.
    pub fn time(&self, first: u32) -> Duration {
        let computed_here = self.computing.saturating_mul(first);
        let received = (first..self.layer_count).fold(Duration::ZERO, |before, layer| {
            let computed = self.computing_in_cloud.saturating_mul(layer + 1);
            let ready = computed.saturating_add(self.latency);
            ready.max(before).saturating_add(self.sending)
        });
        computed_here.max(received)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn costs(computing_ms: u64, sending_ms: u64, latency_ms: u64) -> LayerCosts {
        LayerCosts {
            layer_count: 12,
            computing: Duration::from_millis(computing_ms),
            computing_in_cloud: Duration::ZERO,
            sending: Duration::from_millis(sending_ms),
            latency: Duration::from_millis(latency_ms),
        }
    }

    #[test]
    fn a_fast_link_brings_every_layer() {
        assert_eq!(costs(200, 2, 10).first_to_fetch(), LayerIndex(0));
    }

    #[test]
    fn a_slow_link_brings_none() {
        assert_eq!(costs(10, 500, 50).first_to_fetch(), LayerIndex(12));
    }

    #[test]
    fn equal_sources_share_the_layers() {
        let costs = costs(100, 100, 0);
        assert_eq!(costs.first_to_fetch(), LayerIndex(6));
        assert_eq!(costs.time(6), Duration::from_millis(600));
    }

    #[test]
    fn a_long_way_makes_computing_the_first_layers_worth_it() {
        let first = costs(50, 20, 300).first_to_fetch();
        assert_eq!(first, LayerIndex(7));
    }

    #[test]
    fn a_cloud_that_computes_as_fast_as_this_edge_is_worth_no_work_here() {
        let costs = LayerCosts {
            computing_in_cloud: Duration::from_millis(100),
            ..costs(100, 10, 1)
        };
        // Whatever is computed here, the cloud needs its twelve times 100 ms all the same.
        assert_eq!(costs.first_to_fetch(), LayerIndex(0));
        assert_eq!(costs.time(0), Duration::from_millis(1211));
        assert_eq!(costs.time(6), Duration::from_millis(1211));
        let slow = LayerCosts {
            computing_in_cloud: Duration::from_millis(300),
            ..costs
        };
        assert_eq!(slow.first_to_fetch(), LayerIndex(12));
    }

    proptest! {
        #[test]
        fn no_plan_is_faster_by_more_than_the_saving_asked_for(
            computing in 0u64..500, sending in 0u64..500, latency in 0u64..500, cloud in 0u64..500,
        ) {
            let costs = LayerCosts {
                computing_in_cloud: Duration::from_millis(cloud),
                ..costs(computing, sending, latency)
            };
            let chosen = costs.time(costs.first_to_fetch().0);
            for first in 0..=costs.layer_count {
                prop_assert!(costs.time(first).as_secs_f64() >= chosen.as_secs_f64() * (1.0 - SAVING_MIN) - 1e-9);
            }
        }
    }
}
