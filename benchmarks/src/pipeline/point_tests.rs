//! Tests of [`super`]: rounds made up by hand, and what follows from them.

use edgeprompt_kv::KvDtype;
use edgeprompt_telemetry::timeline::{LayerTimes, Span};

use super::super::messages::RecomputedLayers;
use super::*;

fn span(start: u64, end: u64) -> Span {
    Span::new(Duration::from_millis(start), Duration::from_millis(end))
}

/// Two layers of 1 Mbit each, 10 ms on the wire, 3 ms on the cloud and 4 on the edge, in `ttft`.
fn streamed(ttft: u64) -> Answered {
    let layer = |from: u64| LayerTimes {
        cloud_compute: Some(span(from, from + 3)),
        wire: Some(span(from + 5, from + 15)),
        edge_wait: Some(span(from + 10, from + 15)),
        edge_compute: vec![span(from + 15, from + 19)],
    };
    Answered {
        timeline: LayerTimeline {
            ttft: Some(Duration::from_millis(ttft)),
            layers: vec![layer(0), layer(10)],
        },
        predicted_ms: None,
        received_bytes: 250_000,
        recomputed: None,
        first_token: 7,
        chosen_count: 0,
        busy_threads: 1.0,
    }
}

fn recomputed(reason: &str) -> Answered {
    let recomputed = RecomputedLayers {
        layer_count: 2,
        reason: reason.to_owned(),
        detail: String::new(),
    };
    Answered {
        recomputed: Some(recomputed),
        ..streamed(80)
    }
}

fn local(ttft: u64) -> Answered {
    Answered {
        timeline: LayerTimeline {
            ttft: Some(Duration::from_millis(ttft)),
            layers: vec![LayerTimes::default(); 2],
        },
        received_bytes: 0,
        ..streamed(ttft)
    }
}

fn round(ttft: u64) -> Round {
    Round {
        streaming: streamed(ttft),
        planned: streamed(ttft),
        local: local(2 * ttft),
    }
}

fn result(rounds: Vec<Round>) -> PointResult {
    let point = Point {
        rate_mbit_s: 200,
        rtt_ms: 4,
        loss_percent: 0.0,
        cloud_len: 16,
        codec: KvDtype::F32,
    };
    let measured = Measured {
        cold_link: streamed(99),
        rounds,
        emulator: EmulatorStats::default(),
        kv_bytes_logical: 500_000,
    };
    PointResult::of(point, measured)
}

fn close(found: f64, expected: f64) {
    assert!((found - expected).abs() < 1e-6, "{found}, not {expected}");
}

#[test]
fn the_model_is_computed_from_each_rounds_stages() {
    let found = result(vec![round(29), round(58), round(29)]);
    // T_prefix 2, then 3 + 10 + 10 + 4.
    close(found.t_prefix_ms.median, 2.0);
    close(found.flow_shop_ms.median, 29.0);
    close(found.ttft_over_flow_shop.median, 1.0);
    close(found.ttft_over_flow_shop.max, 2.0);
    // 2 + 13 + 13 + 4: cloud and link in turn.
    close(found.paper_ms.median, 32.0);
    close(found.cold_link_ttft_ms, 99.0);
    close(found.speedup_over_local.median, 2.0);
}

#[test]
fn a_perfect_link_is_charged_its_rate_only() {
    let found = result(vec![round(29)]);
    // 1 Mbit a layer at 200 Mbit/s: 5 ms instead of 10; 2 + 3 + 5 + 5 + 4.
    close(found.flow_shop_at_rate_ms.median, 19.0);
    close(found.ttft_over_flow_shop_at_rate.median, 29.0 / 19.0);
}

#[test]
fn goodput_counts_from_first_byte_to_last() {
    let found = result(vec![round(29)]);
    // 2 Mbit in 20 ms: half of the rate.
    close(found.kv_goodput_mbit_s.unwrap().median, 100.0);
    close(found.kv_goodput_share.unwrap().median, 0.5);
    close(found.kv_overlap_ratio.unwrap().median, 0.5);
}

#[test]
fn the_regime_is_that_of_the_median_stages() {
    assert_eq!(result(vec![round(29)]).regime, Regime::TransmissionBound);
    let mut slow_edge = round(50);
    for layer in &mut slow_edge.streaming.timeline.layers {
        layer.edge_compute = vec![span(20, 50)];
    }
    let found = result(vec![slow_edge]);
    assert_eq!(found.regime, Regime::EdgeBoundLinkSecond);
    let stages = found.mean_stages();
    assert_eq!((stages.t_cc_ms, stages.t_ec_ms), (3.0, 30.0));
}

#[test]
fn only_an_edge_that_asked_for_nothing_has_declined() {
    let mut rounds = vec![round(29), round(29), round(29)];
    rounds[0].planned.chosen_count = 2;
    rounds[1].planned.chosen_count = 1;
    rounds[2].planned = recomputed("slow");
    let found = result(rounds);
    assert_eq!(found.declined_round_count, 1);
    close(found.planned_layers_here.median, 2.0);
    close(found.planned_layers_here.min, 1.0);
}

#[test]
fn regret_is_what_the_plan_took_beyond_the_better_way() {
    let with = |planned: u64, local_took: u64| {
        let round = Round {
            streaming: streamed(50),
            planned: streamed(planned),
            local: local(local_took),
        };
        result(vec![round])
    };
    close(with(60, 40).planner_regret, 0.5);
    close(with(60, 80).planner_regret, 0.2);
    close(with(30, 80).planner_regret, 0.0);
    let mut ignored = with(100, 50);
    ignored.emulator_down.overrun_packet_count = 1;
    let (mean, count) = mean_regret(&[with(60, 40), with(30, 80), ignored]).unwrap();
    close(mean, 0.25);
    assert_eq!(count, 2);
    assert_eq!(mean_regret(&[]), None);
}

#[test]
fn what_was_predicted_is_told_where_it_was() {
    let mut rounds = vec![round(29), round(29)];
    rounds[1].planned.predicted_ms = Some(31.0);
    let found = result(rounds);
    close(found.planned_predicted_ms.unwrap().median, 31.0);
    assert!(result(vec![round(29)]).planned_predicted_ms.is_none());
}

#[test]
fn rounds_that_chose_other_tokens_are_counted() {
    let mut rounds = vec![round(29), round(29)];
    rounds[0].local.first_token = 8;
    assert_eq!(result(rounds).same_first_token_count, 1);
}

#[test]
fn json_has_the_keys_that_readers_rely_on() {
    let value = serde_json::to_value(result(vec![round(29)])).unwrap();
    let keys: Vec<_> = value.as_object().unwrap().keys().cloned().collect();
    let expected = [
        "cold_link_ttft_ms",
        "declined_round_count",
        "edge_busy_threads",
        "emulator_down",
        "emulator_up",
        "flow_shop_at_rate_ms",
        "flow_shop_ms",
        "kv_bytes_logical",
        "kv_bytes_wire",
        "kv_goodput_mbit_s",
        "kv_goodput_share",
        "kv_overlap_ratio",
        "kv_wait_ms",
        "layers",
        "local_ttft_ms",
        "median_timeline",
        "paper_ms",
        "planned_layers_here",
        "planned_over_best",
        "planned_predicted_ms",
        "planned_ttft_ms",
        "planner_regret",
        "point",
        "regime",
        "rounds",
        "same_first_token_count",
        "speedup_over_local",
        "t_prefix_ms",
        "ttft_ms",
        "ttft_over_flow_shop",
        "ttft_over_flow_shop_at_rate",
    ];
    assert_eq!(keys, expected);
    assert_eq!(value["ttft_ms"]["median"], 29.0);
    assert_eq!(value["point"]["rate_mbit_s"], 200);
    assert_eq!(value["kv_bytes_wire"], 250_000);
    assert_eq!(value["kv_bytes_logical"], 500_000);
    assert_eq!(value["regime"], "transmission-bound");
}
