//! Counters that say zero before anything has happened: one that appears first with a one has no rate,
//! and an alert on it sleeps through the first failure.

use edgeprompt_handover::planning::strategy::Strategy;
use edgeprompt_kv::KvDtype;
use edgeprompt_telemetry::names;
use metrics::counter;

use crate::cloud_prompt::LossReason;
use crate::disk_cache::Failed;
use crate::kv_origin::KvOrigin;
use crate::planner::Source;
use crate::public_layers::FASTER_HERE;
use crate::serve::answering::FinishReason;

/// Begins every counter of a serving edge, with all that its label can say.
pub(crate) fn begin() {
    for name in [
        names::EDGE_PROMPT_TOKENS_TOTAL,
        names::EDGE_PROMPT_TOKENS_CACHED_TOTAL,
        names::EDGE_PREFIX_CACHE_QUERIES_TOTAL,
        names::EDGE_PREFIX_CACHE_HITS_TOTAL,
        names::EDGE_GENERATION_TOKENS_TOTAL,
        names::EDGE_KV_BYTES_TRANSFERRED_TOTAL,
        names::EDGE_KV_BYTES_SENT_TOTAL,
        names::EDGE_KV_LAYERS_REBUILT_TOTAL,
        names::EDGE_HANDOVER_KV_BYTES_TOTAL,
        names::EDGE_PLACEMENT_MIGRATIONS_TOTAL,
        names::EDGE_PLACEMENT_MIGRATED_BYTES_TOTAL,
        names::EDGE_WORKERS_LOST_TOTAL,
    ] {
        counter!(name).increment(0);
    }
    for reason in FinishReason::ALL {
        counter!(names::EDGE_REQUEST_SUCCESS_TOTAL, names::FINISHED_REASON => reason.label())
            .increment(0);
    }
    for source in KvOrigin::ALL.map(KvOrigin::label) {
        counter!(names::EDGE_KV_SOURCE_BYTES_TOTAL, names::SOURCE => source).increment(0);
        counter!(names::EDGE_KV_SOURCE_ANSWERS_TOTAL, names::SOURCE => source).increment(0);
    }
    for source in Source::LABELS {
        counter!(names::EDGE_KV_PLANS_TOTAL, names::SOURCE => source).increment(0);
    }
    for kind in Strategy::ALL.map(Strategy::name) {
        for result in ["moved", "given_up"] {
            counter!(names::EDGE_HANDOVER_TOTAL, names::KIND => kind, names::RESULT => result)
                .increment(0);
        }
    }
    for codec in KvDtype::ALL.map(KvDtype::name) {
        counter!(names::EDGE_KV_PLAN_CODECS_TOTAL, names::CODEC => codec).increment(0);
    }
    for reason in Failed::ALL.map(Failed::label) {
        counter!(names::EDGE_KV_DISK_FAILED_TOTAL, names::REASON => reason).increment(0);
    }
    for reason in LossReason::ALL.map(LossReason::label) {
        for name in [
            names::EDGE_CLOUD_FAILED_TOTAL,
            names::EDGE_KV_XFER_FAILED_TOTAL,
            names::EDGE_KV_LAYERS_RECOMPUTED_TOTAL,
        ] {
            counter!(name, names::REASON => reason).increment(0);
        }
    }
    counter!(names::EDGE_KV_LAYERS_RECOMPUTED_TOTAL, names::REASON => FASTER_HERE).increment(0);
}
