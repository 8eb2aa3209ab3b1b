//! Every metric of both nodes: its name, kind, unit, meaning and buckets, and nothing else.
//!
//! Names follow the Prometheus habit: the base unit is part of the name. Where vLLM measures the
//! same quantity, the suffix and the buckets are vLLM's, so that its dashboards need only another
//! prefix. Labels are few-valued by rule: never a session, a peer or a prompt.

use metrics::{Unit, describe_counter, describe_gauge, describe_histogram};

/// Counter: cloud prompts whose keys and values were computed, not found in the store.
pub const CLOUD_PROMPTS_COMPUTED_TOTAL: &str = "cloud_prompts_computed_total";
/// Counter: layers sent to edges, each edge counted.
pub const CLOUD_LAYERS_SENT_TOTAL: &str = "cloud_layers_sent_total";
/// Counter: bytes of keys and values sent to edges, framing not included.
pub const CLOUD_KV_BYTES_TRANSFERRED_TOTAL: &str = "cloud_kv_bytes_transferred_total";
/// Histogram: time to compute one layer of a cloud prompt.
pub const CLOUD_LAYER_COMPUTE_SECONDS: &str = "cloud_layer_compute_seconds";
/// Counter, by [`REASON`]: requests of edges that were refused.
pub const CLOUD_REFUSALS_TOTAL: &str = "cloud_refusals_total";
/// Gauge: edges connected now.
pub const CLOUD_EDGES_CONNECTED: &str = "cloud_edges_connected";

/// Gauge: requests that compute now.
pub const EDGE_NUM_REQUESTS_RUNNING: &str = "edge_num_requests_running";
/// Gauge: requests that wait for their turn.
pub const EDGE_NUM_REQUESTS_WAITING: &str = "edge_num_requests_waiting";
/// Gauge: the share of the private KV blocks in use, from 0 to 1.
pub const EDGE_KV_CACHE_USAGE_PERC: &str = "edge_kv_cache_usage_perc";
/// Histogram: from the request's arrival to its first token.
pub const EDGE_TIME_TO_FIRST_TOKEN_SECONDS: &str = "edge_time_to_first_token_seconds";
/// Histogram: what that was foretold to be, where something was known. It is to be compared with
/// [`EDGE_TIME_TO_FIRST_TOKEN_SECONDS`], which also counts answers without a prediction: those on a
/// cloud prompt from a source that nothing was known of, and those that were begun elsewhere.
pub const EDGE_TTFT_PREDICTED_SECONDS: &str = "edge_ttft_predicted_seconds";
/// Histogram: each gap between two tokens of one sequence.
pub const EDGE_INTER_TOKEN_LATENCY_SECONDS: &str = "edge_inter_token_latency_seconds";
/// Histogram: from the request's arrival to its last token.
pub const EDGE_E2E_REQUEST_LATENCY_SECONDS: &str = "edge_e2e_request_latency_seconds";
/// Counter: tokens of prompts, both parts.
pub const EDGE_PROMPT_TOKENS_TOTAL: &str = "edge_prompt_tokens_total";
/// Counter: those of them whose keys and values were a cloud prompt's, or left by the session.
pub const EDGE_PROMPT_TOKENS_CACHED_TOTAL: &str = "edge_prompt_tokens_cached_total";
/// Counter: tokens of prompts that the engine took in, both parts: as vLLM's queries, in tokens.
pub const EDGE_PREFIX_CACHE_QUERIES_TOTAL: &str = "edge_prefix_cache_queries_total";
/// Counter: those of them whose keys and values were in memory already.
pub const EDGE_PREFIX_CACHE_HITS_TOTAL: &str = "edge_prefix_cache_hits_total";
/// Counter: tokens of answers.
pub const EDGE_GENERATION_TOKENS_TOTAL: &str = "edge_generation_tokens_total";
/// Counter, by [`FINISHED_REASON`]: answers that came to their end.
pub const EDGE_REQUEST_SUCCESS_TOTAL: &str = "edge_request_success_total";
/// Histogram: how long a forward pass stood still for one layer of the cloud prompt.
pub const EDGE_KV_LAYER_WAIT_SECONDS: &str = "edge_kv_layer_wait_seconds";
/// Histogram: first to last byte of one cloud prompt's keys and values.
pub const EDGE_KV_XFER_TIME_SECONDS: &str = "edge_kv_xfer_time_seconds";
/// Counter: bytes of keys and values received, framing not included.
pub const EDGE_KV_BYTES_TRANSFERRED_TOTAL: &str = "edge_kv_bytes_transferred_total";
/// Counter: bytes of keys and values sent to neighbour edges, framing not included.
pub const EDGE_KV_BYTES_SENT_TOTAL: &str = "edge_kv_bytes_sent_total";
/// Counter: layers that lost packets on the way and were whole without them, thanks to their parity.
pub const EDGE_KV_LAYERS_REBUILT_TOTAL: &str = "edge_kv_layers_rebuilt_total";
/// Counter, by [`SOURCE`]: bytes of keys and values of cloud prompts that were brought into memory.
pub const EDGE_KV_SOURCE_BYTES_TOTAL: &str = "edge_kv_source_bytes_total";
/// Counter, by [`SOURCE`]: where cloud prompts were planned to come from, hybrid among them.
pub const EDGE_KV_PLANS_TOTAL: &str = "edge_kv_plans_total";
/// Counter, by [`CODEC`]: the number formats in which cloud prompts were planned to come.
pub const EDGE_KV_PLAN_CODECS_TOTAL: &str = "edge_kv_plan_codecs_total";
/// Histogram: how long bringing a cloud prompt in was predicted to take, where that was possible.
pub const EDGE_KV_PLAN_PREDICTED_SECONDS: &str = "edge_kv_plan_predicted_seconds";
/// Histogram: how long it took, of those with a prediction.
pub const EDGE_KV_PLAN_ACTUAL_SECONDS: &str = "edge_kv_plan_actual_seconds";
/// Histogram: how much longer it took than the best alternative was predicted to take; its sum is the
/// planner's regret.
pub const EDGE_KV_PLAN_REGRET_SECONDS: &str = "edge_kv_plan_regret_seconds";
/// Counter, by [`KIND`] and [`RESULT`]: sessions that were to move to another edge.
pub const EDGE_HANDOVER_TOTAL: &str = "edge_handover_total";
/// Counter: bytes of private keys and values sent to other edges.
pub const EDGE_HANDOVER_KV_BYTES_TOTAL: &str = "edge_handover_kv_bytes_total";
/// Histogram: from a session's last token here to its first from the node it moved to, as a user who
/// stays here sees it.
pub const EDGE_HANDOVER_INTERRUPTION_SECONDS: &str = "edge_handover_interruption_seconds";
/// Gauge: devices that others lend this edge now.
pub const EDGE_WORKERS: &str = "edge_workers";
/// Counter: workers that were lost while they were linked.
pub const EDGE_WORKERS_LOST_TOTAL: &str = "edge_workers_lost_total";
/// Counter: placements of heads and slices that were brought about while generating.
pub const EDGE_PLACEMENT_MIGRATIONS_TOTAL: &str = "edge_placement_migrations_total";
/// Histogram: what a step takes with the placement in force, as the planner has it, at each plan.
pub const EDGE_PLACEMENT_STEP_PREDICTED_SECONDS: &str = "edge_placement_step_predicted_seconds";
/// Gauge: milliseconds that a step will take with the placement that was decided on last, as predicted
/// before anything moved.
pub const EDGE_PLACEMENT_FORECAST_MILLISECONDS: &str = "edge_placement_forecast_milliseconds";
/// Counter: bytes of weights, keys and values that changed their device.
pub const EDGE_PLACEMENT_MIGRATED_BYTES_TOTAL: &str = "edge_placement_migrated_bytes_total";
/// Counter, by [`SOURCE`]: answers on a cloud prompt, by where its keys and values came from.
pub const EDGE_KV_SOURCE_ANSWERS_TOTAL: &str = "edge_kv_source_answers_total";
/// Counter, by [`REASON`]: questions to the cloud that brought no answer, or none for this model.
pub const EDGE_CLOUD_FAILED_TOTAL: &str = "edge_cloud_failed_total";
/// Counter, by [`REASON`]: segments that the disk cache could not read or keep.
pub const EDGE_KV_DISK_FAILED_TOTAL: &str = "edge_kv_disk_failed_total";
/// Counter, by [`REASON`]: layers of a cloud prompt that the edge computed itself.
pub const EDGE_KV_LAYERS_RECOMPUTED_TOTAL: &str = "edge_kv_layers_recomputed_total";
/// Counter, by [`REASON`]: transfers of keys and values that ended without all their layers.
pub const EDGE_KV_XFER_FAILED_TOTAL: &str = "edge_kv_xfer_failed_total";

/// The label of the counters that are split by cause. Its values are a closed set of short words.
pub const REASON: &str = "reason";
/// The label of where keys and values came from: memory, disk, peer, cloud or local; of a plan also
/// hybrid, cloud and local at a time.
pub const SOURCE: &str = "source";
/// Label: a number format of keys and values.
pub const CODEC: &str = "codec";
/// The label of why an answer ended, in OpenAI's words.
pub const FINISHED_REASON: &str = "finished_reason";

/// The label of what was done: for a handover, its strategy.
pub const KIND: &str = "kind";
/// The label of what came of it: for a handover, `moved` or `given_up`.
pub const RESULT: &str = "result";

/// vLLM's buckets of `vllm:time_to_first_token_seconds`.
pub const TIME_TO_FIRST_TOKEN_BUCKETS: &[f64] = &[
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
];

/// vLLM's buckets of `vllm:inter_token_latency_seconds`.
pub const INTER_TOKEN_LATENCY_BUCKETS: &[f64] = &[
    0.01, 0.025, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0, 20.0,
    40.0, 80.0,
];

/// vLLM's buckets of `vllm:e2e_request_latency_seconds`.
pub const REQUEST_LATENCY_BUCKETS: &[f64] = &[
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0, 240.0,
    480.0, 960.0, 1920.0, 7680.0,
];

/// vLLM's buckets of `vllm:nixl_xfer_time_seconds`, its transfer of one request's KV cache.
pub const KV_XFER_TIME_BUCKETS: &[f64] = &[
    0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.2, 0.3, 0.5, 0.75, 1.0, 5.0,
];

/// Buckets of what happens once per layer. vLLM has no such histogram; its finest bucket, 1 ms, is
/// coarser than one layer of a small model, so these are 1-2-5 steps from 100 µs to 10 s.
pub const LAYER_TIME_BUCKETS: &[f64] = &[
    0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0,
    10.0,
];

/// One row of [`METRICS`].
#[derive(Clone, Copy, Debug)]
pub struct Metric {
    /// As it appears in the exported text.
    pub name: &'static str,
    /// How it is counted.
    pub kind: MetricKind,
    /// What one of it is.
    pub unit: Unit,
    /// One sentence for the reader of a dashboard.
    pub help: &'static str,
}

/// How a metric moves.
#[derive(Clone, Copy, Debug)]
pub enum MetricKind {
    /// It only grows.
    Counter,
    /// It goes up and down.
    Gauge,
    /// Samples, counted into buckets.
    Histogram {
        /// Upper bounds in the metric's unit, ascending; one more bucket without a bound follows.
        buckets: &'static [f64],
    },
}

/// Every metric there is.
pub const METRICS: &[Metric] = &[
    counter(
        CLOUD_PROMPTS_COMPUTED_TOTAL,
        Unit::Count,
        "Cloud prompts whose keys and values were computed rather than found in the store.",
    ),
    counter(
        CLOUD_LAYERS_SENT_TOTAL,
        Unit::Count,
        "Layers sent to edges, each edge counted.",
    ),
    counter(
        CLOUD_KV_BYTES_TRANSFERRED_TOTAL,
        Unit::Bytes,
        "Bytes of keys and values sent to edges, framing not included.",
    ),
    seconds(
        CLOUD_LAYER_COMPUTE_SECONDS,
        LAYER_TIME_BUCKETS,
        "Time to compute one layer of a cloud prompt.",
    ),
    counter(
        CLOUD_REFUSALS_TOTAL,
        Unit::Count,
        "Requests of edges that were refused, by reason.",
    ),
    gauge(CLOUD_EDGES_CONNECTED, "Edges connected now."),
    gauge(EDGE_NUM_REQUESTS_RUNNING, "Requests that compute now."),
    gauge(
        EDGE_NUM_REQUESTS_WAITING,
        "Requests that wait for their turn.",
    ),
    gauge(
        EDGE_KV_CACHE_USAGE_PERC,
        "Share of the private KV blocks in use, from 0 to 1.",
    ),
    seconds(
        EDGE_TIME_TO_FIRST_TOKEN_SECONDS,
        TIME_TO_FIRST_TOKEN_BUCKETS,
        "From the request's arrival to its first token.",
    ),
    seconds(
        EDGE_TTFT_PREDICTED_SECONDS,
        TIME_TO_FIRST_TOKEN_BUCKETS,
        "How long it was predicted to take from a request's arrival to its first token.",
    ),
    seconds(
        EDGE_INTER_TOKEN_LATENCY_SECONDS,
        INTER_TOKEN_LATENCY_BUCKETS,
        "Each gap between two tokens of one sequence.",
    ),
    seconds(
        EDGE_E2E_REQUEST_LATENCY_SECONDS,
        REQUEST_LATENCY_BUCKETS,
        "From the request's arrival to its last token.",
    ),
    counter(
        EDGE_PROMPT_TOKENS_TOTAL,
        Unit::Count,
        "Tokens of prompts, both parts.",
    ),
    counter(
        EDGE_PROMPT_TOKENS_CACHED_TOTAL,
        Unit::Count,
        "Tokens of prompts whose keys and values were a cloud prompt's, or left by the session.",
    ),
    counter(
        EDGE_PREFIX_CACHE_QUERIES_TOTAL,
        Unit::Count,
        "Tokens of prompts that the engine took in, both parts.",
    ),
    counter(
        EDGE_PREFIX_CACHE_HITS_TOTAL,
        Unit::Count,
        "Tokens of prompts whose keys and values were in memory already.",
    ),
    counter(
        EDGE_GENERATION_TOKENS_TOTAL,
        Unit::Count,
        "Tokens of answers.",
    ),
    counter(
        EDGE_REQUEST_SUCCESS_TOTAL,
        Unit::Count,
        "Answers that came to their end, by reason.",
    ),
    seconds(
        EDGE_KV_LAYER_WAIT_SECONDS,
        LAYER_TIME_BUCKETS,
        "How long a forward pass stood still for one layer of the cloud prompt.",
    ),
    seconds(
        EDGE_KV_XFER_TIME_SECONDS,
        KV_XFER_TIME_BUCKETS,
        "First to last byte of one cloud prompt's keys and values.",
    ),
    counter(
        EDGE_KV_BYTES_TRANSFERRED_TOTAL,
        Unit::Bytes,
        "Bytes of keys and values received, framing not included.",
    ),
    counter(
        EDGE_KV_LAYERS_REBUILT_TOTAL,
        Unit::Count,
        "Layers that lost packets on the way and were whole without them, thanks to their parity.",
    ),
    counter(
        EDGE_KV_BYTES_SENT_TOTAL,
        Unit::Bytes,
        "Bytes of keys and values of cloud prompts sent to neighbour edges, framing not included.",
    ),
    counter(
        EDGE_KV_SOURCE_BYTES_TOTAL,
        Unit::Bytes,
        "Bytes of keys and values of cloud prompts that were brought into memory, by source.",
    ),
    counter(
        EDGE_KV_PLANS_TOTAL,
        Unit::Count,
        "Cloud prompts by where they were planned to come from.",
    ),
    counter(
        EDGE_KV_PLAN_CODECS_TOTAL,
        Unit::Count,
        "Cloud prompts by the number format in which they were planned to come.",
    ),
    seconds(
        EDGE_KV_PLAN_PREDICTED_SECONDS,
        TIME_TO_FIRST_TOKEN_BUCKETS,
        "How long bringing a cloud prompt in was predicted to take.",
    ),
    seconds(
        EDGE_KV_PLAN_ACTUAL_SECONDS,
        TIME_TO_FIRST_TOKEN_BUCKETS,
        "How long bringing in a cloud prompt with a prediction took.",
    ),
    seconds(
        EDGE_KV_PLAN_REGRET_SECONDS,
        TIME_TO_FIRST_TOKEN_BUCKETS,
        "How much longer it took than the best alternative was predicted to take.",
    ),
    counter(
        EDGE_HANDOVER_TOTAL,
        Unit::Count,
        "Sessions that were to move to another edge, by how and by what came of it.",
    ),
    counter(
        EDGE_HANDOVER_KV_BYTES_TOTAL,
        Unit::Bytes,
        "Bytes of private keys and values sent to other edges.",
    ),
    seconds(
        EDGE_HANDOVER_INTERRUPTION_SECONDS,
        INTER_TOKEN_LATENCY_BUCKETS,
        "From a session's last token here to its first from the node it moved to.",
    ),
    gauge(EDGE_WORKERS, "Devices that others lend this edge now."),
    gauge(
        EDGE_PLACEMENT_FORECAST_MILLISECONDS,
        "Milliseconds that a step will take with the placement decided on last, predicted before anything moved.",
    ),
    seconds(
        EDGE_PLACEMENT_STEP_PREDICTED_SECONDS,
        INTER_TOKEN_LATENCY_BUCKETS,
        "What a step takes with the placement in force, as the planner has it, at each plan.",
    ),
    counter(
        EDGE_WORKERS_LOST_TOTAL,
        Unit::Count,
        "Workers that were lost while they were linked.",
    ),
    counter(
        EDGE_PLACEMENT_MIGRATIONS_TOTAL,
        Unit::Count,
        "Placements of heads and slices that were brought about while generating.",
    ),
    counter(
        EDGE_PLACEMENT_MIGRATED_BYTES_TOTAL,
        Unit::Bytes,
        "Bytes of weights, keys and values that changed their device.",
    ),
    counter(
        EDGE_KV_SOURCE_ANSWERS_TOTAL,
        Unit::Count,
        "Answers on a cloud prompt, by where its keys and values came from.",
    ),
    counter(
        EDGE_CLOUD_FAILED_TOTAL,
        Unit::Count,
        "Questions to the cloud that brought no answer, or none for this model, by reason.",
    ),
    counter(
        EDGE_KV_DISK_FAILED_TOTAL,
        Unit::Count,
        "Segments that the disk cache could not read or keep, by reason.",
    ),
    counter(
        EDGE_KV_LAYERS_RECOMPUTED_TOTAL,
        Unit::Count,
        "Layers of a cloud prompt that the edge computed itself, by reason.",
    ),
    counter(
        EDGE_KV_XFER_FAILED_TOTAL,
        Unit::Count,
        "Transfers of keys and values that ended without all their layers, by reason.",
    ),
];

/// Registers unit and help text of every metric with the recorder that is installed.
///
/// A metric appears in the exported text from its first sample on, not from its description.
pub fn describe() {
    for metric in METRICS {
        match metric.kind {
            MetricKind::Counter => describe_counter!(metric.name, metric.unit, metric.help),
            MetricKind::Gauge => describe_gauge!(metric.name, metric.unit, metric.help),
            MetricKind::Histogram { .. } => {
                describe_histogram!(metric.name, metric.unit, metric.help);
            }
        }
    }
}

const fn counter(name: &'static str, unit: Unit, help: &'static str) -> Metric {
    Metric {
        name,
        kind: MetricKind::Counter,
        unit,
        help,
    }
}

/// A value that goes up and down, a count or a share.
const fn gauge(name: &'static str, help: &'static str) -> Metric {
    Metric {
        name,
        kind: MetricKind::Gauge,
        unit: Unit::Count,
        help,
    }
}

const fn seconds(name: &'static str, buckets: &'static [f64], help: &'static str) -> Metric {
    Metric {
        name,
        kind: MetricKind::Histogram { buckets },
        unit: Unit::Seconds,
        help,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn every_name_says_its_node_and_is_used_once() {
        let names: BTreeSet<_> = METRICS.iter().map(|metric| metric.name).collect();
        assert_eq!(names.len(), METRICS.len());
        for name in names {
            assert!(
                name.starts_with("cloud_") || name.starts_with("edge_"),
                "{name}"
            );
            assert!(
                name.bytes()
                    .all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'),
                "{name}"
            );
        }
    }

    #[test]
    fn every_name_ends_as_its_kind_and_unit_ask() {
        for Metric {
            name, kind, unit, ..
        } in METRICS
        {
            let is_counter = matches!(kind, MetricKind::Counter);
            assert_eq!(name.ends_with("_total"), is_counter, "{name}");
            let is_histogram = matches!(kind, MetricKind::Histogram { .. });
            assert_eq!(name.ends_with("_seconds"), is_histogram, "{name}");
            assert_eq!(name.contains("_bytes_"), *unit == Unit::Bytes, "{name}");
            assert_eq!(is_histogram, *unit == Unit::Seconds, "{name}");
        }
    }

    #[test]
    fn buckets_ascend() {
        for Metric { name, kind, .. } in METRICS {
            if let MetricKind::Histogram { buckets } = kind {
                assert!(buckets.is_sorted_by(|a, b| a < b), "{name}");
            }
        }
    }
}
