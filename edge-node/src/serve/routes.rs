//! The HTTP API: which path does what, who may, and what every answer carries.

use std::sync::Arc;
use std::time::{Duration, Instant};

use axum::body::to_bytes;
use axum::extract::{Path, Request, State};
use axum::http::{HeaderValue, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use edgeprompt_protocol::PromptName;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::serve::api_error::ApiError;
use crate::serve::completions::complete;
use crate::serve::fields::Fields;
use crate::serve::origins::shared_with_origins;
use crate::serve::page::page;
use crate::serve::request::Endpoint;
use crate::serve::segments::{OnDisk, SharedPrompt};
use crate::serve::server::{App, Server};
use crate::serve::sessions::routes as sessions;
use crate::serve::status::{status, timeline};
use crate::serve::timelines::describe;
use crate::serve::tokens::{detokenize, tokenize};

/// Largest body: the longest context as token ids in JSON takes about a megabyte.
const BODY_BYTES_MAX: usize = 2 << 20;
/// How long a client may take to send one.
const BODY_PATIENCE: Duration = Duration::from_secs(30);

/// What a request is called in logs and in its answer.
#[derive(Clone, Debug)]
pub(crate) struct RequestId(pub(crate) String);

/// All routes.
pub(crate) fn router(app: Arc<App>) -> Router {
    let guarded = Router::new()
        .route("/v1/chat/completions", post(chat))
        .route("/v1/completions", post(text))
        .route("/v1/models", get(models))
        // Names of models may have slashes.
        .route("/v1/models/{*name}", get(model))
        .route("/v1/cloud-prompts", get(cloud_prompts))
        .route("/v1/cloud-prompts/{name}", get(cloud_prompt))
        .route("/v1/sessions", get(sessions::list))
        .route("/v1/sessions/{id}/handover", post(sessions::hand_over))
        .route("/v1/sessions/{id}/read", post(sessions::go_on))
        .route("/v1/handovers", post(sessions::hand_over_many))
        .route("/v1/status", get(status))
        .route("/v1/requests/{id}/timeline", get(timeline))
        .route("/tokenize", post(tokenize))
        .route("/detokenize", post(detokenize))
        .route_layer(from_fn_with_state(Arc::clone(&app), identified));
    Router::new()
        .merge(guarded)
        .merge(page())
        .route("/health", get(health))
        .route("/v1/health", get(health))
        .route("/ping", get(health))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .route("/version", get(version))
        .fallback(async || ApiError::not_found("there is no such path"))
        .method_not_allowed_fallback(async || {
            ApiError::status(
                StatusCode::METHOD_NOT_ALLOWED,
                "this path takes another method",
            )
        })
        .layer(from_fn_with_state(Arc::clone(&app), shared_with_origins))
        .layer(from_fn_with_state(Arc::clone(&app), named))
        .with_state(app)
}

/// Gives every request an id, which its answer and the log carry.
async fn named(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    let began = Instant::now();
    let id = app.ids.of(request.headers());
    let (method, path) = (request.method().clone(), request.uri().path().to_owned());
    request.extensions_mut().insert(RequestId(id.clone()));
    let mut response = next.run(request).await;
    let status = response.status();
    // Paths that are not ours may hold anything.
    let path = match status {
        StatusCode::NOT_FOUND | StatusCode::METHOD_NOT_ALLOWED => "-",
        _ => path.as_str(),
    };
    let milliseconds = began.elapsed().as_millis();
    match is_watching(path) {
        true => tracing::debug!(%id, %method, path, status = status.as_u16(), "request"),
        false => {
            tracing::info!(%id, %method, path, status = status.as_u16(), milliseconds, "request");
        }
    }
    if let Ok(id) = HeaderValue::from_str(&id) {
        response.headers_mut().insert("x-request-id", id);
    }
    response
}

/// Whether a path is one that the page looks at several times a second.
fn is_watching(path: &str) -> bool {
    path == "/v1/status" || path.starts_with("/v1/requests/")
}

/// Lets in who may use the server.
async fn identified(State(app): State<Arc<App>>, mut request: Request, next: Next) -> Response {
    match app.callers.identify(request.headers()) {
        Ok(caller) => {
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(error) => error.into_response(),
    }
}

/// The fields of a request's body.
///
/// # Errors
/// [`ApiError`] if it is too large, too slow, or no JSON object.
pub(crate) async fn fields(request: Request) -> Result<Fields, ApiError> {
    let kind = request.headers().get(header::CONTENT_TYPE);
    let kind = kind.and_then(|kind| kind.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if request.method() == Method::POST && !kind.eq_ignore_ascii_case("application/json") {
        // A page of another site can post forms to this machine, but not this type.
        let message = "send the header `Content-Type: application/json`";
        return Err(ApiError::status(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            message,
        ));
    }
    let body = timeout(BODY_PATIENCE, to_bytes(request.into_body(), BODY_BYTES_MAX)).await;
    match body {
        Ok(Ok(body)) => Fields::parse(&body),
        Ok(Err(_)) => {
            let message = format!("the body has more than {BODY_BYTES_MAX} bytes, or broke off");
            Err(ApiError::status(StatusCode::PAYLOAD_TOO_LARGE, message))
        }
        Err(_) => {
            let message = "the body took too long";
            Err(ApiError::status(StatusCode::REQUEST_TIMEOUT, message))
        }
    }
}

async fn chat(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    complete(&app, Endpoint::Chat, request).await
}

async fn text(State(app): State<Arc<App>>, request: Request) -> Result<Response, ApiError> {
    complete(&app, Endpoint::Text, request).await
}

async fn models(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    let model = description(app.server()?);
    Ok(Json(json!({ "object": "list", "data": [model] })))
}

async fn model(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let server = app.server()?;
    server.check_model(&name)?;
    Ok(Json(description(server)))
}

fn description(server: &Server) -> Value {
    json!({
        "id": server.name,
        "object": "model",
        "created": server.created,
        "owned_by": "edgeprompt",
        "root": server.root,
        "max_model_len": server.capacity.model_len_max,
    })
}

async fn cloud_prompts(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    let server = app.server()?;
    let here = server.prompts.list_with_disk().await;
    let entry = |listed: &_| entry(listed, server.prefetched.first());
    let data: Vec<Value> = here.iter().map(entry).collect();
    Ok(Json(json!({ "object": "list", "data": data })))
}

/// One cloud prompt with its text, which is public.
async fn cloud_prompt(
    State(app): State<Arc<App>>,
    Path(name): Path<String>,
) -> Result<Json<Value>, ApiError> {
    let server = app.server()?;
    let here = server.prompts.list_with_disk().await;
    let found = here.iter().find(|(other, _, _)| other.as_str() == name);
    let not_here = || ApiError::not_found("no cloud prompt of that name is in memory");
    let listed @ (_, prompt, _) = found.ok_or_else(not_here)?;
    let mut entry = entry(listed, server.prefetched.first());
    let text = prompt.text.as_deref().map(str::to_owned);
    entry["text"] = text
        .or_else(|| server.model.tokenizer().ok()?.decode(&prompt.tokens).ok())
        .into();
    Ok(Json(entry))
}

fn entry(
    (name, prompt, on_disk): &(PromptName, SharedPrompt, OnDisk),
    default: Option<&PromptName>,
) -> Value {
    let layers = &prompt.segment.layers;
    let mut entry = json!({
        "id": name.as_str(),
        "object": "cloud_prompt",
        "prompt_id": prompt.id.to_string(),
        "default": default == Some(name),
        "token_count": prompt.tokens.len(),
        "layer_count": layers.layer_count(),
        "layers_here": layers.layer_count() - layers.missing().count(),
        "source": prompt.origin().label(),
        "on_disk": on_disk.0,
    });
    describe(&mut entry, &prompt.filling.now());
    entry
}

async fn health(State(app): State<Arc<App>>) -> Result<Json<Value>, ApiError> {
    match app.server()?.generator.is_running() {
        true => Ok(Json(json!({ "status": "ok" }))),
        false => Err(ApiError::unavailable(
            "the engine has stopped: restart the edge node, its log says why",
        )),
    }
}

/// Whether answers would come at once, and how the way to the cloud is.
async fn ready(State(app): State<Arc<App>>) -> Result<Response, ApiError> {
    let server = app.server()?;
    let (status, word) = match server.is_ready() {
        true => (StatusCode::OK, "ok"),
        false => (StatusCode::SERVICE_UNAVAILABLE, "not ready"),
    };
    let kv_plane = server.kv_plane();
    Ok((
        status,
        Json(json!({ "status": word, "kv_plane": kv_plane })),
    )
        .into_response())
}

async fn metrics(State(app): State<Arc<App>>) -> Response {
    let kind = [(
        header::CONTENT_TYPE,
        "text/plain; version=0.0.4; charset=utf-8",
    )];
    (kind, app.metrics.render()).into_response()
}

async fn version() -> Json<Value> {
    Json(json!({ "version": env!("CARGO_PKG_VERSION") }))
}

#[cfg(test)]
mod tests;
