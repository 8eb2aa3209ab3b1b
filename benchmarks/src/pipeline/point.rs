//! One point of the sweep: what its rounds were, and what follows from them. Pure.

use std::time::Duration;

use edgeprompt_telemetry::flow_shop::{Pipeline, Regime, StageTimes};
use edgeprompt_telemetry::timeline::LayerTimeline;
use edgeprompt_testkit::emulator::{DirectionStats, EmulatorStats};
use serde::Serialize;

use super::messages::Answered;
use super::plan::Point;
use crate::statistics::{Spread, median_index};

/// The same question, answered in each way.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Round {
    /// The cloud's layers streamed, the edge waiting for them.
    pub(crate) streaming: Answered,
    /// Only what comes sooner than the edge computes it streamed.
    pub(crate) planned: Answered,
    /// Everything computed on the edge.
    pub(crate) local: Answered,
}

/// Everything measured at a point.
pub(crate) struct Measured {
    /// The first transfer of a new link, handshake included.
    pub(crate) cold_link: Answered,
    /// On the warm link; at least one.
    pub(crate) rounds: Vec<Round>,
    /// What the emulated link counted.
    pub(crate) emulator: EmulatorStats,
    /// Keys and values of the cloud prompt in f32.
    pub(crate) kv_bytes_logical: u64,
}

/// What follows. Times in milliseconds, rates in megabits each second.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct PointResult {
    /// The link and the prompt.
    pub(crate) point: Point,
    /// T: from asking to the first token, streaming.
    pub(crate) ttft_ms: Spread,
    /// T_prefix.
    pub(crate) t_prefix_ms: Spread,
    /// T by the flow shop, from the stages of the same round.
    pub(crate) flow_shop_ms: Spread,
    /// T over that.
    pub(crate) ttft_over_flow_shop: Spread,
    /// T by the flow shop if the link had carried every layer at the emulated rate.
    pub(crate) flow_shop_at_rate_ms: Spread,
    /// T over that.
    pub(crate) ttft_over_flow_shop_at_rate: Spread,
    /// T by the paper's equation (7), from the stages of the same round.
    pub(crate) paper_ms: Spread,
    /// The median stages of every layer.
    pub(crate) layers: Vec<LayerStages>,
    /// Which machine has most work.
    pub(crate) regime: Regime,
    /// The share of the transfer that the edge did not wait for.
    pub(crate) kv_overlap_ratio: Option<Spread>,
    /// How long the edge waited for layers.
    pub(crate) kv_wait_ms: Spread,
    /// Keys and values of the cloud prompt, as the edge received them.
    pub(crate) kv_bytes_wire: u64,
    /// The same keys and values in f32.
    pub(crate) kv_bytes_logical: u64,
    /// From the first byte of the first layer to the last of the last, pauses included.
    pub(crate) kv_goodput_mbit_s: Option<Spread>,
    /// Of the emulated rate.
    pub(crate) kv_goodput_share: Option<Spread>,
    /// The whole prompt prefilled on the edge.
    pub(crate) local_ttft_ms: Spread,
    /// That over T.
    pub(crate) speedup_over_local: Spread,
    /// T of an edge that asks only for what comes sooner than it computes it.
    pub(crate) planned_ttft_ms: Spread,
    /// That over the better of streaming and local prefill.
    pub(crate) planned_over_best: Spread,
    /// What that T was predicted to be; nothing if the link was not known yet.
    pub(crate) planned_predicted_ms: Option<Spread>,
    /// How much longer the plan took than the better of streaming and local prefill, as a share of
    /// that: medians over the rounds. None is 0.
    pub(crate) planner_regret: f64,
    /// Layers that such an edge computed, by choice or because they were late.
    pub(crate) planned_layers_here: Spread,
    /// Rounds in which it did not ask the cloud at all.
    pub(crate) declined_round_count: usize,
    /// T of the first transfer of a new link, once.
    pub(crate) cold_link_ttft_ms: f64,
    /// Rounds in which streaming and local prefill chose the same token.
    pub(crate) same_first_token_count: usize,
    /// Threads busy in the edge process while it prefilled locally.
    pub(crate) edge_busy_threads: Spread,
    /// What the emulated link counted, cloud to edge.
    pub(crate) emulator_down: EmulatorCounts,
    /// The same, edge to cloud.
    pub(crate) emulator_up: EmulatorCounts,
    /// Where the median T went, layer by layer.
    pub(crate) median_timeline: LayerTimeline,
    /// Every round.
    pub(crate) rounds: Vec<Round>,
}

/// The stages of one layer, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct LayerStages {
    /// The cloud computes it.
    pub(crate) t_cc_ms: f64,
    /// The link carries it.
    pub(crate) t_ct_ms: f64,
    /// The edge computes with it.
    pub(crate) t_ec_ms: f64,
}

/// What the emulated link counted in one direction.
#[derive(Clone, Copy, Debug, Serialize)]
pub(crate) struct EmulatorCounts {
    delivered_bytes: u64,
    lost_packet_count: u64,
    queue_full_packet_count: u64,
    /// Not the link's doing: above zero, results are worthless.
    overrun_packet_count: u64,
    /// Not the link's doing either.
    unsent_packet_count: u64,
    lateness_mean_us: f64,
    lateness_max_us: f64,
}

impl PointResult {
    /// What follows from the rounds at a point.
    ///
    /// # Panics
    /// If there is no round.
    pub(crate) fn of(point: Point, measured: Measured) -> Self {
        let Measured {
            cold_link,
            rounds,
            emulator,
            kv_bytes_logical,
        } = measured;
        let streamed: Vec<_> = rounds.iter().map(|round| &round.streaming).collect();
        let pipelines: Vec<_> = streamed
            .iter()
            .map(|answered| answered.timeline.pipeline())
            .collect();
        let median = median_index(streamed.iter().map(|answered| ttft_ms(answered)));
        let each = |of: fn(&Answered) -> f64| Spread::of(streamed.iter().map(|a| of(a)));
        let formula = |of: &dyn Fn(&Pipeline) -> Duration| {
            Spread::of(pipelines.iter().map(|pipeline| ms(of(pipeline))))
        };
        let over = |of: &dyn Fn(&Pipeline) -> Duration| {
            let pairs = streamed.iter().zip(&pipelines);
            Spread::of(pairs.map(|(answered, pipeline)| ttft_ms(answered) / ms(of(pipeline))))
        };
        let kv_bytes = streamed[median].received_bytes;
        let at_rate = |pipeline: &Pipeline| at_rate(pipeline, &point, kv_bytes).flow_shop();
        let goodputs = || streamed.iter().map(|a| goodput_mbit_s(a));
        let layers = median_stages(&pipelines);
        let of_rounds = |of: fn(&Round) -> f64| Spread::of(rounds.iter().map(of));
        Self {
            ttft_ms: each(ttft_ms),
            t_prefix_ms: formula(&|pipeline| pipeline.t_prefix),
            flow_shop_ms: formula(&Pipeline::flow_shop),
            ttft_over_flow_shop: over(&Pipeline::flow_shop),
            flow_shop_at_rate_ms: formula(&at_rate),
            ttft_over_flow_shop_at_rate: over(&at_rate),
            paper_ms: formula(&Pipeline::paper_eq7),
            regime: regime(&layers),
            layers,
            kv_overlap_ratio: Spread::of_some(streamed.iter().map(|a| a.timeline.overlap_ratio())),
            kv_wait_ms: each(|answered| ms(answered.timeline.exposed_wait())),
            kv_bytes_wire: kv_bytes,
            kv_bytes_logical,
            kv_goodput_mbit_s: Spread::of_some(goodputs()),
            kv_goodput_share: Spread::of_some(
                goodputs().map(|goodput| goodput.map(|goodput| goodput / point.rate_mbit_s())),
            ),
            local_ttft_ms: of_rounds(|round| ttft_ms(&round.local)),
            speedup_over_local: of_rounds(|round| {
                ttft_ms(&round.local) / ttft_ms(&round.streaming)
            }),
            planned_ttft_ms: of_rounds(|round| ttft_ms(&round.planned)),
            planned_over_best: of_rounds(|round| {
                let best = ttft_ms(&round.streaming).min(ttft_ms(&round.local));
                ttft_ms(&round.planned) / best
            }),
            planned_predicted_ms: Spread::of_some(
                rounds.iter().map(|round| round.planned.predicted_ms),
            ),
            planner_regret: regret(&rounds),
            planned_layers_here: of_rounds(|round| count_as_f64(layers_here(&round.planned))),
            declined_round_count: rounds.iter().filter(|r| declined(&r.planned)).count(),
            cold_link_ttft_ms: ttft_ms(&cold_link),
            same_first_token_count: rounds.iter().filter(|round| round.agrees()).count(),
            edge_busy_threads: of_rounds(|round| round.local.busy_threads),
            emulator_down: (&emulator.down).into(),
            emulator_up: (&emulator.up).into(),
            median_timeline: streamed[median].timeline.clone(),
            point,
            rounds,
        }
    }

    /// The mean layer.
    pub(crate) fn mean_stages(&self) -> LayerStages {
        let mean = |of: fn(&LayerStages) -> f64| {
            let sum: f64 = self.layers.iter().map(of).sum();
            sum / count_as_f64(self.layers.len().max(1))
        };
        LayerStages {
            t_cc_ms: mean(|layer| layer.t_cc_ms),
            t_ct_ms: mean(|layer| layer.t_ct_ms),
            t_ec_ms: mean(|layer| layer.t_ec_ms),
        }
    }

    /// The flow shop of the round with the median T.
    pub(crate) fn median_pipeline(&self) -> Pipeline {
        self.median_timeline.pipeline()
    }

    /// Packets that the emulator failed to handle: above zero, the point is worthless.
    pub(crate) const fn emulator_failure_count(&self) -> u64 {
        let (down, up) = (&self.emulator_down, &self.emulator_up);
        down.overrun_packet_count
            + down.unsent_packet_count
            + up.overrun_packet_count
            + up.unsent_packet_count
    }
}

impl Round {
    fn agrees(&self) -> bool {
        self.streaming.first_token == self.local.first_token
    }
}

impl From<&DirectionStats> for EmulatorCounts {
    fn from(stats: &DirectionStats) -> Self {
        Self {
            delivered_bytes: stats.delivered_bytes,
            lost_packet_count: stats.lost_packet_count,
            queue_full_packet_count: stats.queue_full_packet_count,
            overrun_packet_count: stats.overrun_packet_count,
            unsent_packet_count: stats.unsent_packet_count,
            lateness_mean_us: ms(stats.lateness_mean()) * 1e3,
            lateness_max_us: ms(stats.lateness_max) * 1e3,
        }
    }
}

/// The mean regret of the planner over those points at which the emulator kept up, and how many they
/// are.
pub(crate) fn mean_regret(points: &[PointResult]) -> Option<(f64, usize)> {
    let worth = points.iter().filter(|it| it.emulator_failure_count() == 0);
    let regrets: Vec<_> = worth.map(|point| point.planner_regret).collect();
    let sum: f64 = regrets.iter().sum();
    (!regrets.is_empty()).then(|| (sum / count_as_f64(regrets.len()), regrets.len()))
}

/// The planned T over the better of the others, less 1: how much the plan lost, never below 0.
fn regret(rounds: &[Round]) -> f64 {
    let median = |of: fn(&Round) -> &Answered| {
        Spread::of(rounds.iter().map(|round| ttft_ms(of(round)))).median
    };
    let best = median(|round| &round.streaming).min(median(|round| &round.local));
    (median(|round| &round.planned) / best - 1.0).max(0.0)
}

/// Layers of the cloud prompt that the edge computed.
fn layers_here(answered: &Answered) -> usize {
    let recomputed = answered.recomputed.as_ref();
    answered.chosen_count + recomputed.map_or(0, |recomputed| recomputed.layer_count)
}

/// Whether an edge chose to compute every layer.
fn declined(answered: &Answered) -> bool {
    answered.chosen_count == answered.timeline.layers.len()
}

fn median_stages(pipelines: &[Pipeline]) -> Vec<LayerStages> {
    let layer_count = pipelines.iter().map(|pipeline| pipeline.layers.len()).min();
    let of_layer = |layer: usize, of: fn(&StageTimes) -> Duration| {
        Spread::of(pipelines.iter().map(|p| ms(of(&p.layers[layer])))).median
    };
    let stages = |layer| LayerStages {
        t_cc_ms: of_layer(layer, |stage| stage.cloud_compute),
        t_ct_ms: of_layer(layer, |stage| stage.transfer),
        t_ec_ms: of_layer(layer, |stage| stage.edge_compute),
    };
    (0..layer_count.unwrap_or_default()).map(stages).collect()
}

fn regime(layers: &[LayerStages]) -> Regime {
    let duration = |ms: f64| Duration::from_secs_f64(ms / 1e3);
    let stage = |layer: &LayerStages| StageTimes {
        cloud_compute: duration(layer.t_cc_ms),
        transfer: duration(layer.t_ct_ms),
        edge_compute: duration(layer.t_ec_ms),
    };
    let pipeline = Pipeline {
        t_prefix: Duration::ZERO,
        layers: layers.iter().map(stage).collect(),
    };
    pipeline.regime()
}

/// The same pipeline with a link that carries every layer at the emulated rate.
fn at_rate(pipeline: &Pipeline, point: &Point, kv_bytes: u64) -> Pipeline {
    let layer_count = pipeline.layers.len().max(1) as u64;
    let bits = bits_as_f64(kv_bytes / layer_count);
    let transfer = Duration::from_secs_f64(bits / (point.rate_mbit_s() * 1e6));
    let stage = |stage: &StageTimes| StageTimes { transfer, ..*stage };
    Pipeline {
        t_prefix: pipeline.t_prefix,
        layers: pipeline.layers.iter().map(stage).collect(),
    }
}

fn goodput_mbit_s(answered: &Answered) -> Option<f64> {
    let wires = || {
        answered
            .timeline
            .layers
            .iter()
            .filter_map(|layer| layer.wire)
    };
    let first = wires().map(|wire| wire.start()).min()?;
    let last = wires().map(|wire| wire.end()).max()?;
    let seconds = last.saturating_sub(first).as_secs_f64();
    (seconds > 0.0).then(|| bits_as_f64(answered.received_bytes) / seconds / 1e6)
}

fn ttft_ms(answered: &Answered) -> f64 {
    ms(answered.timeline.ttft.unwrap_or_default())
}

/// Milliseconds of a duration.
pub(crate) fn ms(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

#[expect(clippy::cast_precision_loss, reason = "far below 2^53")]
fn bits_as_f64(bytes: u64) -> f64 {
    (bytes * 8) as f64
}

#[expect(clippy::cast_precision_loss, reason = "a count of layers")]
fn count_as_f64(count: usize) -> f64 {
    count as f64
}

#[cfg(test)]
#[path = "point_tests.rs"]
mod tests;
