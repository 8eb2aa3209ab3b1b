//! How long a pipelined prefill should take, from the time each stage takes. A formula: nothing
//! here measures or waits.
//!
//! Every layer passes three machines in order, and each machine takes the layers in order: the
//! cloud computes it (t_cc), the link carries it (t_ct), the edge computes with it (t_ec). That is
//! a three-machine flow shop:
//!
//! ```text
//! c_l = c_{l−1} + t_cc^l                 the cloud has finished layer l
//! x_l = max(c_l, x_{l−1}) + t_ct^l       its last byte is at the edge
//! e_l = max(x_l, e_{l−1}) + t_ec^l       the edge has finished it
//! T   = T_prefix + e_L
//! equal stages: T = T_prefix + t_cc + t_ct + t_ec + (L−1)·max(t_cc, t_ct, t_ec)
//! ```
//!
//! A layer also travels: it arrives a delay after its last bit has left. That delay is no stage, for
//! layers travel side by side. The same delay for every layer moves x_l by so much, and with it
//! every e_l, so it counts once in T, and it counts as T_prefix.
//!
//! The formulas of EdgePrompt (arXiv 2504.11729) are here too, as published, for comparison. They
//! add t_cc and t_ct of a layer, as if the cloud stood still while the link is busy.
//!
//! The edge stage starts when the layer is there. A real edge projects the layer's queries before
//! that, so a measured time may be a little shorter than [`Pipeline::flow_shop`].

use std::fmt;
use std::time::Duration;

use serde::Serialize;

/// How long one layer occupies each machine.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct StageTimes {
    /// t_cc: the cloud computes the layer.
    pub cloud_compute: Duration,
    /// t_ct: the link carries it.
    pub transfer: Duration,
    /// t_ec: the edge computes with it.
    pub edge_compute: Duration,
}

/// When one layer leaves each machine, counted from the request's start.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LayerFinish {
    /// T_prefix + c_l.
    pub cloud: Duration,
    /// T_prefix + x_l.
    pub wire: Duration,
    /// T_prefix + e_l.
    pub edge: Duration,
}

/// The stages of all layers, in layer order.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Pipeline {
    /// T_prefix: what passes beside the stages, such as sending the request and the link's delay.
    pub t_prefix: Duration,
    /// One entry per layer.
    pub layers: Vec<StageTimes>,
}

/// Which machine has the most work in total, and so sets the time.
///
/// On a tie the later machine is named; so a run without cloud and link is edge-bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Regime {
    /// The cloud's compute. The paper has no name for it: it assumes a cloud faster than the edge.
    CloudBound,
    /// The link: the paper's P1.
    TransmissionBound,
    /// The edge, and the link has more work than the cloud: the paper's P2.
    EdgeBoundLinkSecond,
    /// The edge, and the cloud has more work than the link: the paper's P3.
    EdgeBoundCloudSecond,
}

impl fmt::Display for Regime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::CloudBound => "cloud-bound",
            Self::TransmissionBound => "transmission-bound (P1)",
            Self::EdgeBoundLinkSecond => "edge-bound (P2)",
            Self::EdgeBoundCloudSecond => "edge-bound (P3)",
        })
    }
}

impl Pipeline {
    /// When each layer leaves each machine.
    pub fn schedule(&self) -> Vec<LayerFinish> {
        self.schedule_beside(Duration::ZERO)
    }

    /// The same if the edge is busy with something else until so long after the request's start:
    /// with layers of its own, for example.
    pub fn schedule_beside(&self, edge_busy: Duration) -> Vec<LayerFinish> {
        let at_start = LayerFinish {
            cloud: self.t_prefix,
            wire: self.t_prefix,
            edge: self.t_prefix.max(edge_busy),
        };
        self.layers
            .iter()
            .scan(at_start, |before, layer| {
                let cloud = before.cloud.saturating_add(layer.cloud_compute);
                let wire = cloud.max(before.wire).saturating_add(layer.transfer);
                let edge = wire.max(before.edge).saturating_add(layer.edge_compute);
                *before = LayerFinish { cloud, wire, edge };
                Some(*before)
            })
            .collect()
    }

    /// T by the flow shop.
    pub fn flow_shop(&self) -> Duration {
        self.schedule()
            .last()
            .map_or(self.t_prefix, |finish| finish.edge)
    }

    /// T when the cloud waits for the link before it computes the next layer: the flow shop with
    /// cloud and link as one machine. For equal layers it is [`Self::paper_eq7`].
    pub fn cloud_and_link_in_turn(&self) -> Duration {
        let one_machine = |layer: &StageTimes| StageTimes {
            cloud_compute: Duration::ZERO,
            transfer: layer.cloud_compute.saturating_add(layer.transfer),
            edge_compute: layer.edge_compute,
        };
        let layers = self.layers.iter().map(one_machine).collect();
        Self {
            t_prefix: self.t_prefix,
            layers,
        }
        .flow_shop()
    }

    /// T without any pipelining: every stage of every layer, one after the other.
    pub fn serial_sum(&self) -> Duration {
        let sums = self.sums();
        sums.cloud_compute
            .saturating_add(sums.transfer)
            .saturating_add(sums.edge_compute)
            .saturating_add(self.t_prefix)
    }

    /// T by the paper's equation (7):
    ///
    /// ```text
    /// T_prefix + t_cc^1 + t_ct^1 + max[Σ_{l≥2}(t_cc^l + t_ct^l), Σ_{l<L} t_ec^l] + t_ec^L
    /// ```
    ///
    /// It compares sums, not layers, so with unequal layers it can be too small as well.
    pub fn paper_eq7(&self) -> Duration {
        let Some((first, last)) = self.layers.first().zip(self.layers.last()) else {
            return self.t_prefix;
        };
        let edge_but_last = self.sums().edge_compute.saturating_sub(last.edge_compute);
        self.cloud_side_of(first)
            .saturating_add(self.cloud_side_after_first().max(edge_but_last))
            .saturating_add(last.edge_compute)
    }

    /// T as on the paper's slides, which differ from equation (7):
    ///
    /// ```text
    /// T_prefix + t_cc^1 + t_ct^1 + max[Σ_{l≥2}(t_cc^l + t_ct^l), Σ_l t_ec^l]
    /// ```
    ///
    /// When the left side is larger, the edge's work on the last layer is missing from it.
    pub fn paper_slides(&self) -> Duration {
        let Some(first) = self.layers.first() else {
            return self.t_prefix;
        };
        self.cloud_side_of(first)
            .saturating_add(self.cloud_side_after_first().max(self.sums().edge_compute))
    }

    /// T as the paper simplifies it for the regime (its equations 12 to 14); `None` when
    /// cloud-bound, which it does not treat. For equal layers it agrees with the flow shop.
    pub fn paper_regime(&self) -> Option<Duration> {
        let (first, last) = self.layers.first().zip(self.layers.last())?;
        let sums = self.sums();
        let rest = match self.regime() {
            Regime::CloudBound => return None,
            Regime::TransmissionBound => sums
                .transfer
                .saturating_sub(first.transfer)
                .saturating_add(last.edge_compute),
            Regime::EdgeBoundLinkSecond | Regime::EdgeBoundCloudSecond => sums.edge_compute,
        };
        Some(self.cloud_side_of(first).saturating_add(rest))
    }

    /// Which machine sets the time.
    pub fn regime(&self) -> Regime {
        let StageTimes {
            cloud_compute: cloud,
            transfer: link,
            edge_compute: edge,
        } = self.sums();
        if edge < cloud.max(link) {
            if link < cloud {
                Regime::CloudBound
            } else {
                Regime::TransmissionBound
            }
        } else if link < cloud {
            Regime::EdgeBoundCloudSecond
        } else {
            Regime::EdgeBoundLinkSecond
        }
    }

    /// Each machine's work over all layers.
    pub fn sums(&self) -> StageTimes {
        self.layers
            .iter()
            .fold(StageTimes::default(), |sum, layer| StageTimes {
                cloud_compute: sum.cloud_compute.saturating_add(layer.cloud_compute),
                transfer: sum.transfer.saturating_add(layer.transfer),
                edge_compute: sum.edge_compute.saturating_add(layer.edge_compute),
            })
    }

    /// T_prefix + t_cc + t_ct of the first layer: before that the edge can do nothing.
    fn cloud_side_of(&self, first: &StageTimes) -> Duration {
        self.t_prefix
            .saturating_add(first.cloud_compute)
            .saturating_add(first.transfer)
    }

    /// Σ_{l≥2}(t_cc^l + t_ct^l).
    fn cloud_side_after_first(&self) -> Duration {
        self.layers
            .iter()
            .skip(1)
            .fold(Duration::ZERO, |sum, layer| {
                sum.saturating_add(layer.cloud_compute)
                    .saturating_add(layer.transfer)
            })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn us(us: u64) -> Duration {
        Duration::from_micros(us)
    }

    fn stage([cloud_compute, transfer, edge_compute]: [u64; 3]) -> StageTimes {
        StageTimes {
            cloud_compute: us(cloud_compute),
            transfer: us(transfer),
            edge_compute: us(edge_compute),
        }
    }

    fn pipeline(layers: &[[u64; 3]]) -> Pipeline {
        Pipeline {
            t_prefix: us(7),
            layers: layers.iter().copied().map(stage).collect(),
        }
    }

    fn equal(layer: [u64; 3], layer_count: usize) -> Pipeline {
        pipeline(&vec![layer; layer_count])
    }

    /// The longest way through the grid of machines and layers, found without any recursion: the
    /// cloud up to layer i, the link from i to j, the edge from j on.
    fn longest_path(layers: &[[u64; 3]]) -> Duration {
        let machine = |m: usize, from: usize, to: usize| -> u64 {
            layers[from..=to].iter().map(|layer| layer[m]).sum()
        };
        let last = layers.len() - 1;
        let paths = (0..=last).flat_map(|i| (i..=last).map(move |j| (i, j)));
        let longest = paths
            .map(|(i, j)| machine(0, 0, i) + machine(1, i, j) + machine(2, j, last))
            .max();
        us(7 + longest.unwrap_or(0))
    }

    fn stages() -> impl Strategy<Value = [u64; 3]> {
        [0..2000_u64, 0..2000_u64, 0..2000_u64]
    }

    fn unequal_layers() -> impl Strategy<Value = Vec<[u64; 3]>> {
        proptest::collection::vec(stages(), 1..40)
    }

    #[test]
    fn the_papers_sum_is_far_above_the_pipeline_it_describes() {
        let example = equal([3000, 3500, 4000], 32);
        assert_eq!(example.flow_shop(), us(7 + 134_500));
        assert_eq!(example.paper_eq7(), us(7 + 212_000));
    }

    #[test]
    fn a_schedule_is_followed_by_hand() {
        let finishes = pipeline(&[[2, 5, 1], [2, 1, 9], [2, 1, 1]]).schedule();
        let finish = |cloud: u64, wire: u64, edge: u64| LayerFinish {
            cloud: us(7 + cloud),
            wire: us(7 + wire),
            edge: us(7 + edge),
        };
        assert_eq!(
            finishes,
            [finish(2, 7, 8), finish(4, 8, 17), finish(6, 9, 18)]
        );
    }

    #[test]
    fn a_busy_edge_begins_later_and_holds_up_neither_cloud_nor_link() {
        let finishes = pipeline(&[[2, 5, 1], [2, 1, 9]]).schedule_beside(us(20));
        let found: Vec<_> = finishes.iter().map(|it| (it.wire, it.edge)).collect();
        assert_eq!(found, [(us(14), us(21)), (us(15), us(30))]);
    }

    #[test]
    fn each_regime_is_named_after_its_largest_machine() {
        let check = |layer, expected: Regime, name: &str| {
            assert_eq!(equal(layer, 4).regime(), expected);
            assert_eq!(expected.to_string(), name);
        };
        check([3, 2, 1], Regime::CloudBound, "cloud-bound");
        check(
            [1, 3, 2],
            Regime::TransmissionBound,
            "transmission-bound (P1)",
        );
        check([1, 2, 3], Regime::EdgeBoundLinkSecond, "edge-bound (P2)");
        check([2, 1, 3], Regime::EdgeBoundCloudSecond, "edge-bound (P3)");
        check(
            [2, 2, 1],
            Regime::TransmissionBound,
            "transmission-bound (P1)",
        );
        check([2, 2, 2], Regime::EdgeBoundLinkSecond, "edge-bound (P2)");
        check([0, 0, 2], Regime::EdgeBoundLinkSecond, "edge-bound (P2)");
    }

    #[test]
    fn nothing_to_do_takes_the_prefix_alone() {
        let empty = pipeline(&[]);
        assert_eq!(empty.flow_shop(), us(7));
        assert_eq!(empty.serial_sum(), us(7));
        assert_eq!(empty.paper_eq7(), us(7));
        assert_eq!(empty.paper_slides(), us(7));
        assert_eq!(empty.paper_regime(), None);
    }

    #[test]
    fn equation_7_is_too_small_when_the_long_layer_is_in_the_middle() {
        let middle = pipeline(&[[0, 0, 0], [100, 0, 100], [0, 0, 0]]);
        assert_eq!(middle.flow_shop(), us(7 + 200));
        assert_eq!(middle.paper_eq7(), us(7 + 100));
    }

    #[test]
    fn the_slides_forget_the_last_layer_on_a_slow_link() {
        let slow_link = equal([1, 40, 20], 8);
        assert_eq!(slow_link.flow_shop(), us(7 + 61 + 7 * 40));
        assert_eq!(slow_link.paper_slides(), us(7 + 41 + 7 * 41));
        assert!(slow_link.paper_slides() < slow_link.flow_shop());
    }

    #[test]
    fn absurd_times_saturate() {
        let forever = StageTimes {
            cloud_compute: Duration::MAX,
            transfer: Duration::MAX,
            edge_compute: Duration::MAX,
        };
        let pipeline = Pipeline {
            t_prefix: us(1),
            layers: vec![forever; 2],
        };
        assert_eq!(pipeline.flow_shop(), Duration::MAX);
        assert_eq!(pipeline.serial_sum(), Duration::MAX);
        assert_eq!(pipeline.paper_eq7(), Duration::MAX);
        assert_eq!(pipeline.paper_slides(), Duration::MAX);
        assert_eq!(pipeline.paper_regime(), Some(Duration::MAX));
    }

    proptest! {
        #[test]
        fn equal_stages_have_a_closed_form(layer in stages(), layer_count in 1_usize..100) {
            let pipeline = equal(layer, layer_count);
            let longest = layer.into_iter().max().unwrap_or(0);
            let others = u64::try_from(layer_count - 1).expect("below 100");
            let closed = us(7 + layer.iter().sum::<u64>() + others * longest);
            prop_assert_eq!(pipeline.flow_shop(), closed);
            prop_assert_eq!(pipeline.paper_eq7(), pipeline.cloud_and_link_in_turn());
            if let Some(simplified) = pipeline.paper_regime() {
                prop_assert_eq!(simplified, closed);
            }
        }

        #[test]
        fn equation_7_is_never_below_the_flow_shop_for_equal_layers(
            layer in stages(),
            layer_count in 1_usize..100,
        ) {
            let pipeline = equal(layer, layer_count);
            prop_assert!(pipeline.flow_shop() <= pipeline.paper_eq7());
        }

        #[test]
        fn the_recursion_is_the_longest_path(layers in unequal_layers()) {
            prop_assert_eq!(pipeline(&layers).flow_shop(), longest_path(&layers));
        }

        #[test]
        fn more_pipelining_is_never_slower(layers in unequal_layers()) {
            let pipeline = pipeline(&layers);
            prop_assert!(pipeline.flow_shop() <= pipeline.cloud_and_link_in_turn());
            prop_assert!(pipeline.cloud_and_link_in_turn() <= pipeline.serial_sum());
        }

        #[test]
        fn no_machine_can_be_beaten(layers in unequal_layers()) {
            let pipeline = pipeline(&layers);
            let (first, last) = (pipeline.layers[0], pipeline.layers[layers.len() - 1]);
            let sums = pipeline.sums();
            let through_cloud = sums.cloud_compute + last.transfer + last.edge_compute;
            let through_link = first.cloud_compute + sums.transfer + last.edge_compute;
            let through_edge = first.cloud_compute + first.transfer + sums.edge_compute;
            let bound = through_cloud.max(through_link).max(through_edge);
            prop_assert!(pipeline.t_prefix + bound <= pipeline.flow_shop());
        }

        #[test]
        fn a_longer_stage_costs_between_nothing_and_its_length(
            layers in unequal_layers(),
            place in any::<prop::sample::Index>(),
            machine in 0_usize..3,
            extra in 0_u64..2000,
        ) {
            let before = pipeline(&layers).flow_shop();
            let mut longer = layers.clone();
            longer[place.index(layers.len())][machine] += extra;
            let after = pipeline(&longer).flow_shop();
            prop_assert!(before <= after);
            prop_assert!(after <= before + us(extra));
        }
    }
}
