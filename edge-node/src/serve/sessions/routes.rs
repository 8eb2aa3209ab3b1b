//! Sessions over HTTP: which there are, moving them, and reading one that has moved.

use std::sync::Arc;
use std::time::Instant;

use axum::Json;
use axum::extract::{Path, Request as HttpRequest, State};
use axum::http::StatusCode;
use axum::response::Response;
use edgeprompt_handover::session::{Claim, ClaimReply, Epoch};
use edgeprompt_kv::{PromptId, TokenId};
use edgeprompt_protocol::{SessionKey, Ticket};
use serde_json::{Value, json};

use super::{ClaimError, Facts, Listed, MoveError, MoveReport, Reader, Sessions, Taken, Wish};
use crate::serve::access::Caller;
use crate::serve::api_error::ApiError;
use crate::serve::completions::{Reading, read};
use crate::serve::fields::Fields;
use crate::serve::request::Endpoint;
use crate::serve::routes::{RequestId, fields};
use crate::serve::server::{App, Server};

/// Most sessions that are moved by one request.
const BATCH_MAX: usize = 256;

fn sessions(server: &Server) -> Result<&Sessions, ApiError> {
    let sessions = server.sessions.as_ref();
    sessions.ok_or_else(|| {
        ApiError::not_found(
            "this server moves no sessions: --handover-listen and --handover-target",
        )
        .with_code("handover_disabled")
    })
}

fn caller(http: &HttpRequest) -> Result<Caller, ApiError> {
    let caller = http.extensions().get::<Caller>().cloned();
    caller.ok_or_else(|| ApiError::failed("nobody let this request in"))
}

/// The caller's sessions.
pub(crate) async fn list(
    State(app): State<Arc<App>>,
    http: HttpRequest,
) -> Result<Json<Value>, ApiError> {
    let sessions = sessions(app.server()?)?;
    let listed = sessions.list(&caller(&http)?);
    let data: Vec<Value> = listed.iter().map(entry).collect();
    Ok(Json(json!({ "object": "list", "data": data })))
}

fn entry(session: &Listed) -> Value {
    json!({
        "id": session.key.to_string(),
        "object": "session",
        "token_count": session.token_count,
        "state": session.state,
        "node": session.target,
    })
}

/// Moves one session.
pub(crate) async fn hand_over(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    http: HttpRequest,
) -> Result<Json<Value>, ApiError> {
    let sessions = sessions(app.server()?)?;
    let caller = caller(&http)?;
    let wish = wish(&fields(http).await?)?;
    let key = key(&id)?;
    let handle = sessions.find(key, &caller).ok_or_else(no_session)?;
    let report = sessions.hand_over(vec![handle], &wish).await.pop();
    report
        .unwrap_or(Err(MoveError::Ended))
        .map(|report| Json(moved(key, &report)))
        .map_err(not_moved)
}

/// Moves several sessions together, in the order given: the first has the link first.
pub(crate) async fn hand_over_many(
    State(app): State<Arc<App>>,
    http: HttpRequest,
) -> Result<Json<Value>, ApiError> {
    let sessions = sessions(app.server()?)?;
    let caller = caller(&http)?;
    let fields = fields(http).await?;
    let wish = wish(&fields)?;
    let expected = format!("a list of up to {BATCH_MAX} session ids");
    let named = fields.read("sessions", &expected, |value| {
        let ids = value.as_array().filter(|ids| ids.len() <= BATCH_MAX)?;
        ids.iter()
            .map(|id| key(id.as_str()?).ok())
            .collect::<Option<Vec<_>>>()
    })?;
    let named = named.unwrap_or_else(|| {
        let here = sessions.list(&caller);
        let here = here.iter().filter(|session| session.state == "here");
        here.map(|session| session.key).take(BATCH_MAX).collect()
    });
    // One that ended after it was listed, or was never here, holds up no other.
    let handles: Vec<_> = named
        .iter()
        .map(|key| sessions.find(*key, &caller))
        .collect();
    let here = handles.iter().flatten().cloned().collect();
    let mut reports = sessions.hand_over(here, &wish).await.into_iter();
    let tried = named.iter().zip(&handles).map(|(key, handle)| {
        let report = handle.as_ref().and_then(|_| reports.next());
        match report.unwrap_or(Err(MoveError::Ended)) {
            Ok(report) => moved(*key, &report),
            Err(error) => kept(*key, &error),
        }
    });
    let data: Vec<Value> = tried.collect();
    Ok(Json(json!({ "object": "list", "data": data })))
}

fn kept(key: SessionKey, error: &MoveError) -> Value {
    json!({
        "id": key.to_string(),
        "object": "handover",
        "error": error.to_string(),
        "code": code(error),
    })
}

fn wish(fields: &Fields) -> Result<Wish, ApiError> {
    let target = fields.text("target")?;
    let expected = "one of token, cache, joint, stream and precopy";
    let strategy = fields.read("strategy", expected, |value| value.as_str()?.parse().ok())?;
    Ok(Wish {
        target: target.ok_or_else(|| ApiError::field("target", "target is missing"))?,
        strategy,
    })
}

fn moved(key: SessionKey, report: &MoveReport) -> Value {
    json!({
        "id": key.to_string(),
        "object": "handover",
        "target": report.target,
        "url": report.url,
        "epoch": [report.epoch.claim, report.epoch.hop],
        "strategy": report.strategy.name(),
        "predicted_ms": 1e3 * report.predicted_s,
        "took_ms": 1e3 * report.took_s,
        "switch_ms": 1e3 * report.switch_s,
        "handover_tokens_prefilled": report.prefill_len,
        "handover_tokens_sent": report.kv_tokens,
        "handover_bytes": report.kv_bytes,
    })
}

fn not_moved(error: MoveError) -> ApiError {
    let status = match error {
        MoveError::Ended
        | MoveError::Finished { .. }
        | MoveError::Busy
        | MoveError::NotBegun
        | MoveError::Claimed => StatusCode::CONFLICT,
        MoveError::Itself | MoveError::NotATarget(_) => StatusCode::BAD_REQUEST,
        MoveError::Unreachable(_) | MoveError::Refused(_) | MoveError::Silent => {
            StatusCode::BAD_GATEWAY
        }
    };
    ApiError::status(status, error.to_string()).with_code(code(&error))
}

const fn code(error: &MoveError) -> &'static str {
    match error {
        MoveError::Ended | MoveError::Finished { .. } => "session_ended",
        MoveError::Busy | MoveError::NotBegun | MoveError::Claimed => "session_busy",
        MoveError::Itself => "target_is_source",
        MoveError::NotATarget(_) => "target_unknown",
        MoveError::Unreachable(_) | MoveError::Refused(_) | MoveError::Silent => "handover_failed",
    }
}

fn no_session() -> ApiError {
    ApiError::not_found("no session of that id is here: GET /v1/sessions lists them")
        .with_code("session_not_found")
}

fn key(id: &str) -> Result<SessionKey, ApiError> {
    unhex(id).map(SessionKey).ok_or_else(no_session)
}

/// So many bytes as hexadecimal digits.
fn unhex<const N: usize>(hex: &str) -> Option<[u8; N]> {
    let mut bytes = [0; N];
    if hex.len() != 2 * N || !hex.is_ascii() {
        return None;
    }
    for (index, byte) in bytes.iter_mut().enumerate() {
        *byte = u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).ok()?;
    }
    Some(bytes)
}

/// Goes on with a session for a user who follows it.
pub(crate) async fn go_on(
    State(app): State<Arc<App>>,
    Path(id): Path<String>,
    http: HttpRequest,
) -> Result<Response, ApiError> {
    let asked_at = Instant::now();
    let server = app.server()?;
    let sessions = sessions(server)?;
    let caller = caller(&http)?;
    let name = http.extensions().get::<RequestId>().cloned();
    let fields = fields(http).await?;
    let asked = Asked::parse(key(&id)?, &fields)?;
    let vocab_size = server.model.config.vocab_size;
    if asked
        .answered
        .iter()
        .any(|token| token.0 as usize >= vocab_size)
    {
        let message = format!("a token id is outside the vocabulary of {vocab_size}");
        return Err(ApiError::field("token_ids", message));
    }
    let found = sessions.open(asked.key, &asked.ticket);
    if found.map_err(not_taken)?.is_none() && asked.claim == Claim::Attach {
        return Err(no_session());
    }
    let reading = Reading {
        endpoint: asked.endpoint,
        id: name.map_or_else(String::new, |id| id.0),
        key: asked.key,
        ticket: asked.ticket,
        epoch: asked.epoch,
        claim: asked.claim,
        cloud_prompt: asked.cloud_prompt,
        heard: asked.answered,
    };
    read(server, (asked.request, reading), (&caller, asked_at)).await
}

fn not_taken(taken: Taken) -> ApiError {
    match taken {
        // Who does not have the ticket learns nothing.
        Taken::ByAnother => no_session(),
        Taken::Here => {
            ApiError::status(StatusCode::CONFLICT, "the session is here").with_code("session_busy")
        }
        Taken::Under(epoch) => stale(epoch),
    }
}

fn stale(epoch: Epoch) -> ApiError {
    let Epoch { claim, hop } = epoch;
    let message = format!("the session was claimed later, under epoch [{claim}, {hop}]");
    ApiError::status(StatusCode::CONFLICT, message).with_code("stale_epoch")
}

impl Sessions {
    /// Claims a session for its reader. Nothing else may be wrong with what that asks: whoever has had
    /// the session has it no longer then.
    ///
    /// # Errors
    /// [`ApiError`].
    pub(crate) async fn reader(
        &self,
        reading: &Reading,
        begin_again: impl FnOnce() -> Result<Facts, ApiError>,
    ) -> Result<Reader, ApiError> {
        let found = self.open(reading.key, &reading.ticket);
        if let Some(handle) = found.map_err(not_taken)? {
            let claimed = handle.claim(reading.epoch, reading.heard.clone()).await;
            match claimed {
                // One that has moved is told where.
                Ok((ClaimReply::Granted(_) | ClaimReply::Moved(_), _)) => {
                    return Ok(handle.read(reading.heard.len()));
                }
                Ok((ClaimReply::Stale(epoch), _)) => return Err(stale(epoch)),
                Err(ClaimError::OtherAnswer) => {
                    let message = "the answer that is generated under this epoch is another one";
                    return Err(ApiError::field("token_ids", message));
                }
                Err(ClaimError::Unknown) => {}
            }
        }
        match reading.claim {
            Claim::Take => self
                .take(begin_again()?, (reading.epoch, &reading.heard))
                .map_err(not_taken),
            Claim::Attach => Err(no_session()),
        }
    }
}

/// A reader and what it brings. Deliberately not `Debug`.
struct Asked {
    key: SessionKey,
    ticket: Ticket,
    epoch: Epoch,
    claim: Claim,
    /// What the session builds on, wherever that is called how.
    cloud_prompt: Option<PromptId>,
    answered: Vec<TokenId>,
    endpoint: Endpoint,
    /// As it was asked at first.
    request: Fields,
}

impl Asked {
    fn parse(key: SessionKey, fields: &Fields) -> Result<Self, ApiError> {
        let missing = |name: &'static str| ApiError::field(name, format!("{name} is missing"));
        let ticket = fields.read("ticket", "64 hexadecimal digits", |value| {
            unhex(value.as_str()?).map(Ticket)
        })?;
        let epoch = fields.read("epoch", "a list of two whole numbers", |value| {
            let part = |index: usize| u32::try_from(value.get(index)?.as_u64()?).ok();
            let (claim, hop) = (part(0)?, part(1)?);
            Some(Epoch { claim, hop })
        })?;
        let claim = fields.read("claim", "\"attach\" or \"take\"", |value| {
            match value.as_str()? {
                "attach" => Some(Claim::Attach),
                "take" => Some(Claim::Take),
                _ => None,
            }
        })?;
        let answered = fields.read("token_ids", "a list of token ids", |value| {
            let ids = value.as_array()?.iter();
            ids.map(|id| u32::try_from(id.as_u64()?).ok().map(TokenId))
                .collect::<Option<Vec<_>>>()
        })?;
        let endpoint = fields.read(
            "endpoint",
            "\"/v1/chat/completions\" or \"/v1/completions\"",
            |value| match value.as_str()? {
                "/v1/chat/completions" => Some(Endpoint::Chat),
                "/v1/completions" => Some(Endpoint::Text),
                _ => None,
            },
        )?;
        let cloud_prompt = fields.read("cloud_prompt_id", "64 hexadecimal digits", |value| {
            value.as_str()?.parse().ok()
        })?;
        Ok(Self {
            key,
            cloud_prompt,
            ticket: ticket.ok_or_else(|| missing("ticket"))?,
            epoch: epoch.ok_or_else(|| missing("epoch"))?,
            claim: claim.unwrap_or(Claim::Attach),
            answered: answered.unwrap_or_default(),
            endpoint: endpoint.ok_or_else(|| missing("endpoint"))?,
            request: fields
                .object("request")?
                .ok_or_else(|| missing("request"))?,
        })
    }
}
