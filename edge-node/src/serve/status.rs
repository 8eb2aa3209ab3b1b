//! `/v1/status` and `/v1/requests/ID/timeline`: what the server does now, and what became of one request, in
//! numbers. Nothing here is or follows from anybody's text.

use std::sync::Arc;
use std::time::Instant;

use axum::extract::{Path, State};
use axum::{Extension, Json};
use edgeprompt_protocol::codec::decode_request;
use edgeprompt_protocol::frame::FRAME_PREFIX_BYTES;
use edgeprompt_transport::BitRate;
use serde_json::{Value, json};

use crate::audit::findings::in_words;
use crate::crew::roster::{JobCounts, Seen};
use crate::serve::access::Caller;
use crate::serve::api_error::ApiError;
use crate::serve::server::{App, Server};
use crate::uplink::{Path as CloudPath, Uplink};

/// Messages to the cloud that are told in words: the last ones.
const MESSAGES_TOLD_MAX: usize = 8;

/// What the server does now.
pub(crate) async fn status(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    let server = app.server()?;
    let counts = server.generator.tally().counts();
    let load = counts.load;
    let (cloud_bytes, cloud_bytes_max) = server.prompts.usage();
    Ok(Json(json!({
        "object": "status",
        "version": env!("CARGO_PKG_VERSION"),
        "uptime_ms": server.began_at.elapsed().as_secs_f64() * 1e3,
        "model": {
            "id": server.name,
            "max_model_len": server.capacity.model_len_max,
            "layer_count": server.model.decoder.layers().len(),
            "chat_template": server.model.chat_template.is_some(),
        },
        "requests": { "running": load.running, "waiting": load.waiting },
        "generation_tokens_total": counts.generation_tokens,
        "private_kv": {
            "used_blocks": load.blocks_used,
            "block_count": load.blocks_all,
            "used_bytes": server.capacity.bytes_of(load.blocks_used),
            "bytes": server.capacity.bytes_of(load.blocks_all),
        },
        "cloud_kv": { "used_bytes": cloud_bytes, "bytes_max": cloud_bytes_max },
        "placement": server.workers.as_ref().map(|roster| placement(&roster.seen())),
        "cloud": server.uplink.as_ref().map(|uplink| cloud(server, uplink)),
    })))
}

fn placement(seen: &Seen) -> Value {
    let jobs = |jobs: JobCounts| json!({ "heads": jobs.heads, "slices": jobs.slices });
    let workers = seen.workers.iter().map(|worker| {
        json!({
            "name": worker.name,
            "addr": worker.addr.to_string(),
            "state": worker.state.name(),
            "jobs": jobs(worker.jobs),
            "memory_bytes": worker.memory_bytes,
            "has_model": worker.has_model,
            "flops_per_second": worker.flops_per_second,
            "rate_bits_per_second": worker.bits_per_second,
            "one_way_ms": worker.one_way_seconds * 1e3,
        })
    });
    json!({
        "own_jobs": jobs(seen.own),
        "workers": workers.collect::<Vec<_>>(),
        "is_migrating": seen.is_migrating,
        "step_predicted_ms": seen.step_seconds.map(|it| it * 1e3),
    })
}

fn cloud(server: &Server, uplink: &Uplink) -> Value {
    let CloudPath { rtt, rate } = uplink.path();
    let sent = uplink.sent().count();
    let told = uplink.sent().last(MESSAGES_TOLD_MAX);
    let told = told.iter();
    let told = told.map(|frame| {
        let request = frame.get(FRAME_PREFIX_BYTES..);
        let request = request.and_then(|request| decode_request(request).ok());
        request.map_or_else(|| "not a request".to_owned(), |request| in_words(&request))
    });
    json!({
        "kv_plane": server.kv_plane(),
        "rate_bits_per_second": rate.map(BitRate::as_bits_per_second),
        "rtt_ms": rtt.map(|rtt| rtt.as_secs_f64() * 1e3),
        "sent_messages": sent.messages,
        "sent_bytes": sent.bytes,
        "last_messages": told.collect::<Vec<_>>(),
    })
}

/// What became of one of the caller's requests, by its `x-request-id`.
pub(crate) async fn timeline(
    State(app): State<Arc<App>>,
    Extension(caller): Extension<Caller>,
    Path(id): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let server = app.server()?;
    let found = server.timelines.find(&id, &caller);
    let unknown = || ApiError::not_found("no request of that id is known: it is old, or not yours");
    let mut timeline = found.ok_or_else(unknown)?.json(Instant::now());
    timeline["id"] = id.into();
    Ok(Json(timeline))
}
