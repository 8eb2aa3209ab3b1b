//! Which layers to ask the cloud for, and which to compute here because they would come later, by the
//! flow shop of [`edgeprompt_telemetry::flow_shop`]. Pure: durations and counts in, a layer out.
//!
//! Layers are needed from the first to the last, and both sources can work at the same time: this
//! edge from the first layer on while the cloud sends the last ones. The idea is that of Cake
//! (arXiv 2410.03065), which loads and computes chunks of tokens from opposite ends.
//!
//! Nothing private is an input: which layers an edge asks for is seen by the cloud.

use std::time::Duration;

use edgeprompt_kv::LayerIndex;
use edgeprompt_telemetry::flow_shop::{Pipeline, StageTimes};

/// The share of the time that working on both sides must save: less is not worth keeping cloud, link
/// and processor busy, and estimates are no better.
const SAVING_MIN: f64 = 0.1;

/// Times below this are as good as each other: it is what scheduling adds to either, and no person
/// sees it.
const NOISE: Duration = Duration::from_millis(20);

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
    /// Never slower than all of them or none of them; of the plans that are fastest, the one that
    /// computes least here.
    pub fn first_to_fetch(&self) -> LayerIndex {
        let none = self.layer_count;
        let either = match felt(self.time(none)) < felt(self.time(0)) {
            true => none,
            false => 0,
        };
        let shared = (1..none).map(|first| (first, felt(self.time(first))));
        let shared = shared.min_by_key(|&(_, time)| time);
        let worth_it = felt(self.time(either)).mul_f64(1.0 - SAVING_MIN);
        let first = match shared {
            Some((first, time)) if time <= worth_it => first,
            Some(_) | None => either,
        };
        LayerIndex(first)
    }

    /// Until the edge is done with the last layer, if `first` is the first to be asked for.
    pub fn time(&self, first: u32) -> Duration {
        self.time_with(first, self.computing.mul_f64(PRIVATE_SHARE))
    }

    /// The same if the edge works for so long on each layer once it is there.
    ///
    /// The edge's one engine also computes the layers before `first`; the cloud computes those as
    /// well, for each layer needs them.
    pub fn time_with(&self, first: u32, work: Duration) -> Duration {
        let here = self.computing.saturating_add(work).saturating_mul(first);
        let fetched = (first..self.layer_count).map(|layer| StageTimes {
            cloud_compute: match layer == first {
                true => self.computing_in_cloud.saturating_mul(first + 1),
                false => self.computing_in_cloud,
            },
            transfer: self.sending,
            edge_compute: work,
        });
        let pipeline = Pipeline {
            t_prefix: self.latency,
            layers: fetched.collect(),
        };
        let schedule = pipeline.schedule_beside(here);
        schedule.last().map_or(here, |finish| finish.edge)
    }
}

/// A time as far as it matters.
pub(crate) fn felt(time: Duration) -> Duration {
    time.max(NOISE)
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
            let chosen = felt(costs.time(costs.first_to_fetch().0));
            for first in 0..=costs.layer_count {
                let other = felt(costs.time(first)).as_secs_f64();
                prop_assert!(other >= chosen.as_secs_f64() * (1.0 - SAVING_MIN) - 1e-9);
            }
        }

        /// The recurrence written out, layer by layer, without the pipeline.
        #[test]
        fn every_plan_takes_what_the_flow_shop_says(
            computing in 0u64..500, sending in 0u64..500, latency in 0u64..500, cloud in 0u64..500,
            work in 0u64..500, first in 0u64..=12,
        ) {
            let (mut received, mut done) = (0, first * (computing + work));
            for layer in first..12 {
                let computed = latency + cloud * (layer + 1);
                received = computed.max(received) + sending;
                done = done.max(received) + work;
            }
            let costs = LayerCosts {
                computing_in_cloud: Duration::from_millis(cloud),
                ..costs(computing, sending, latency)
            };
            let first = u32::try_from(first).expect("at most 12");
            let time = costs.time_with(first, Duration::from_millis(work));
            prop_assert_eq!(time, Duration::from_millis(done));
        }
    }
}
