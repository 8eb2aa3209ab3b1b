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

/// The edge's work on a layer for a private prompt, as a share of computing the public layer. What
/// it really is would tell the private prompt's length; this is that of a prompt a few times
/// shorter than the public one.
const PRIVATE_SHARE: f64 = 0.25;

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

    /// Until the edge is done with the last layer, if `first` is the first to be asked for.
    ///
    /// A flow shop: cloud, link and edge each take one layer after another, and the edge's one
    /// engine also computes the layers before `first`. The cloud computes those as well, for each
    /// layer needs them.
    pub fn time(&self, first: u32) -> Duration {
        let work = self.computing.mul_f64(PRIVATE_SHARE);
        let (mut received, mut done) = (Duration::ZERO, Duration::ZERO);
        for layer in 0..self.layer_count {
            if layer < first {
                done = done.saturating_add(self.computing);
            } else {
                let computed = self.computing_in_cloud.saturating_mul(layer + 1);
                let ready = computed.saturating_add(self.latency);
                received = ready.max(received).saturating_add(self.sending);
                done = done.max(received);
            }
            done = done.saturating_add(work);
        }
        done
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
        // Five layers here take 5 × 125 ms; seven come in 700 ms, and are worked on for 25 ms each.
        assert_eq!(costs.time(5), Duration::from_millis(800));
        assert_eq!(costs.first_to_fetch(), LayerIndex(5));
    }

    #[test]
    fn a_long_way_makes_computing_the_first_layers_worth_it() {
        let costs = costs(50, 20, 600);
        assert_eq!(costs.time(0), Duration::from_nanos(852_500_000));
        assert_eq!(costs.first_to_fetch(), LayerIndex(10));
    }

    #[test]
    fn an_edge_that_is_busy_with_what_comes_computes_nothing_else() {
        // A layer comes every 30 ms and takes 30 ms of work: computing any here would delay all.
        assert_eq!(costs(120, 30, 1).first_to_fetch(), LayerIndex(0));
    }

    #[test]
    fn a_cloud_that_computes_as_fast_as_this_edge_is_worth_no_work_here() {
        let cloud = |computing_in_cloud| LayerCosts {
            computing_in_cloud: Duration::from_millis(computing_in_cloud),
            ..costs(100, 10, 1)
        };
        // Whatever is computed here, the cloud needs its twelve times 100 ms all the same.
        assert_eq!(cloud(100).time(0), Duration::from_millis(1236));
        assert_eq!(cloud(100).first_to_fetch(), LayerIndex(0));
        assert_eq!(cloud(300).first_to_fetch(), LayerIndex(12));
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
