//! `/v1/chat/completions` and `/v1/completions`: from a request to its answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::body::Body;
use axum::extract::Request as HttpRequest;
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use edgeprompt_engine::{Generation, SessionId};
use edgeprompt_handover::session::{Claim, Epoch};
use edgeprompt_kv::{PromptId, TokenId};
use edgeprompt_protocol::{PromptName, SessionKey, SessionTerms, Ticket};
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::private::PrivateTokens;
use crate::serve::access::Caller;
use crate::serve::answering::{Answering, Details, Heard, Piece, TokenSource};
use crate::serve::api_error::ApiError;
use crate::serve::bodies::{Envelope, Events};
use crate::serve::fields::Fields;
use crate::serve::foretold::Foretold;
use crate::serve::prompting::{self, Before, Prompt, PromptingError};
use crate::serve::request::{AskedPrompt, Delivery, Endpoint, Request, StreamUsage};
use crate::serve::routes::{RequestId, fields};
use crate::serve::segments::SharedPrompt;
use crate::serve::server::{App, Server};
use crate::serve::sessions::{Facts, ReaderKind, Sessions, terms};
use crate::serve::stopwatch::{PromptLens, Stopwatch};
use crate::serve::timelines::Recorder;

/// Tokens before an answer that its spacing may depend on.
const CONTEXT_LEN: usize = 16;

/// The header of an answer that is right and took a longer way.
const WARNING: &str = "x-edgeprompt-warning";
/// The headers of an answer that can move.
const SESSION: &str = "x-edgeprompt-session";
const TICKET: &str = "x-edgeprompt-ticket";
const SEED: &str = "x-edgeprompt-seed";
const CLOUD_PROMPT: &str = "x-edgeprompt-cloud-prompt";
const CLOUD_PROMPT_ID: &str = "x-edgeprompt-cloud-prompt-id";
const CUT_INSIDE_TOKEN: &str = "the cloud prompt was not used: no token ends where it meets the private prompt; end the cloud prompt with a line break, and begin the private one with neither a space nor another line break";

/// Answers a request.
///
/// # Errors
/// [`ApiError`].
pub(crate) async fn complete(
    app: &App,
    endpoint: Endpoint,
    http: HttpRequest,
) -> Result<Response, ApiError> {
    let asked_at = Instant::now();
    let server = app.server()?;
    let caller = http.extensions().get::<Caller>().cloned();
    let caller = caller.ok_or_else(|| ApiError::failed("nobody let this request in"))?;
    let place = caller.place()?;
    let id = http.extensions().get::<RequestId>().cloned();
    let fields = fields(http).await?;
    check_model(server, &fields)?;
    let request = Request::parse(endpoint, &fields)?;
    drop(fields);
    let envelope = Envelope {
        endpoint,
        id: id.map_or_else(String::new, |id| id.0),
        created: unix_time(),
        model: server.name.clone(),
        logprobs: request.top_logprobs.is_some(),
        token_ids: request.return_token_ids,
    };
    let delivery = request.delivery;
    let seed = request.seed.unwrap_or_else(|| app.ids.number());
    let layer_count = server.model.decoder.layers().len();
    let named = (envelope.id.as_str(), &caller);
    let recorder = server.timelines.begin(named, layer_count, asked_at);
    if request.follows && server.sessions.is_none() {
        let message = "this server moves no sessions: handover must be \"forward\"";
        return Err(ApiError::field("handover", message));
    }
    let begun = Begun::of(server, request, (&caller, seed, recorder)).await?;
    let (warning, session, follows) = (begun.prepared.warning, begun.session, begun.follows);
    let seed = begun.prepared.terms.seed;
    let cloud_prompt = begun.prepared.cloud.as_ref().filter(|_| follows);
    let cloud_prompt = cloud_prompt.map(|(name, cloud)| (name.clone(), cloud.id));
    let named = (envelope.id.as_str(), asked_at);
    let stopwatch = begun.prepared.stopwatch(server, named);
    let heard = begun.answer(server, place, stopwatch).begin();
    let mut response = match delivery {
        Delivery::Whole => whole(heard, &envelope).await?,
        Delivery::Stream(usage) => streamed(heard, envelope, usage),
    };
    if let Some(warning) = warning {
        let warning = HeaderValue::from_static(warning);
        response.headers_mut().insert(WARNING, warning);
    }
    if let Some((key, ticket)) = session {
        let secrets = follows.then_some((ticket, seed));
        name_session(&mut response, key, secrets);
    }
    // Another edge may have another default, or another prompt of that name.
    if let Some((name, id)) = cloud_prompt {
        for (header, value) in [
            (CLOUD_PROMPT, name.as_str()),
            (CLOUD_PROMPT_ID, &id.to_string()),
        ] {
            if let Ok(value) = HeaderValue::from_str(value) {
                response.headers_mut().insert(header, value);
            }
        }
    }
    Ok(response)
}

/// Says which session an answer is of, and to whoever follows it what opens it elsewhere.
fn name_session(response: &mut Response, key: SessionKey, secrets: Option<(Ticket, u64)>) {
    let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect();
    let mut set = |name, value: String| {
        if let Ok(value) = HeaderValue::from_str(&value) {
            response.headers_mut().insert(name, value);
        }
    };
    set(SESSION, key.to_string());
    if let Some((ticket, seed)) = secrets {
        set(TICKET, hex(&ticket.0));
        set(SEED, seed.to_string());
    }
}

fn check_model(server: &Server, fields: &Fields) -> Result<(), ApiError> {
    match fields.text("model")? {
        Some(name) => server.check_model(&name),
        None => Ok(()),
    }
}

fn unix_time() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH);
    since.map_or(0, |since| since.as_secs())
}

/// What is to be generated, before the engine has it. Deliberately not `Debug`.
struct Prepared {
    private: PrivateTokens,
    cloud: Option<(PromptName, SharedPrompt)>,
    context: PrivateTokens,
    lens: PromptLens,
    terms: SessionTerms,
    session: Option<SessionId>,
    warning: Option<&'static str>,
}

impl Prepared {
    async fn of(
        server: &Server,
        request: &mut Request,
        (caller, seed): (&Caller, u64),
    ) -> Result<Self, ApiError> {
        let cloud = server.cloud_prompt(&request.cloud_prompt).await?;
        let asked = std::mem::replace(
            &mut request.prompt,
            AskedPrompt::Tokens(PrivateTokens::default()),
        );
        let prompt = prompt(server, asked, cloud.clone()).await?;
        let (private, cloud, warning) = match prompt {
            Prompt::Private(private) => (private, cloud, None),
            Prompt::InOnePiece(private) => (private, None, Some(CUT_INSIDE_TOKEN)),
        };
        let cloud_tokens = cloud.as_ref().map_or(&[][..], |cloud| &cloud.tokens);
        let lens = PromptLens {
            cloud: cloud_tokens.len(),
            private: private.len(),
            shared: 0,
        };
        let max_tokens = server.capacity.max_tokens(request.max_tokens, lens)?;
        let end_tokens = match request.ignore_eos {
            true => &[][..],
            false => &server.model.config.eos,
        };
        let terms = terms(
            &request.sampling,
            seed,
            (max_tokens, end_tokens),
            (&request.stops, request.top_logprobs),
        );
        let session = request.session;
        let session =
            session.map(|name| caller.session(name, cloud.as_ref().map(|cloud| cloud.id)));
        let name = server.cloud_prompt_name(&request.cloud_prompt);
        Ok(Self {
            context: end_of(&[cloud_tokens, private.for_engine()].concat()),
            private,
            cloud: name.cloned().zip(cloud),
            lens,
            terms,
            session,
            warning,
        })
    }

    /// Runs from a request's arrival, and knows what is foretold of its first token.
    fn stopwatch(&self, server: &Server, (id, asked_at): (&str, Instant)) -> Stopwatch {
        let cloud = self.cloud.as_ref().map(|(_, cloud)| cloud);
        let foretold = Foretold::of(server, cloud, (id, asked_at));
        Stopwatch::start(self.lens, asked_at).foretelling(foretold)
    }

    fn facts(
        &self,
        (key, ticket): (SessionKey, Ticket),
        caller: &Caller,
        reader: ReaderKind,
    ) -> Facts {
        Facts {
            key,
            ticket,
            caller: Some(caller.clone()),
            reader,
            prompt: self.private.clone(),
            context: self.context.clone(),
            cloud: self.cloud.clone(),
            terms: self.terms.clone(),
        }
    }
}

/// A generation that the engine has taken in. Deliberately not `Debug`.
struct Begun {
    tokens: TokenSource,
    /// Of a session, if it may move: its name, and what opens it.
    session: Option<(SessionKey, Ticket)>,
    recorder: Recorder,
    prepared: Prepared,
    heard: PrivateTokens,
    details: Details,
    follows: bool,
}

impl Begun {
    async fn of(
        server: &Server,
        mut request: Request,
        (caller, seed, recorder): (&Caller, u64, Recorder),
    ) -> Result<Self, ApiError> {
        let prepared = Prepared::of(server, &mut request, (caller, seed)).await?;
        if let Some((name, cloud)) = &prepared.cloud {
            recorder.builds_on(name.clone(), cloud.tokens.len(), cloud.filling.clone());
        }
        let named = Sessions::name();
        let kind = match request.follows {
            true => ReaderKind::Following,
            false => ReaderKind::Staying,
        };
        let facts = prepared.facts(named, caller, kind);
        let generation = Generation {
            session: prepared.session,
            ..facts.generation()
        };
        let tokens = server
            .generator
            .generate_recorded(generation, recorder.clone());
        let tokens = tokens.await?;
        let (tokens, session) = match &server.sessions {
            Some(sessions) => {
                let reader = sessions.begin(facts, tokens);
                (TokenSource::Session(reader), Some(named))
            }
            None => (TokenSource::Engine(tokens), None),
        };
        Ok(Self {
            tokens,
            session,
            recorder,
            prepared,
            heard: PrivateTokens::default(),
            details: details(&request),
            follows: request.follows,
        })
    }

    fn answer(
        self,
        server: &Server,
        place: Arc<OwnedSemaphorePermit>,
        stopwatch: Stopwatch,
    ) -> Answering {
        Answering {
            model: Arc::clone(&server.model),
            tokens: self.tokens,
            heard: self.heard,
            cloud: self.prepared.cloud.map(|(_, cloud)| cloud),
            context: self.prepared.context,
            stops: self.prepared.terms.stops,
            details: self.details,
            stopwatch,
            recorder: self.recorder,
            place,
        }
    }
}

/// A session that its reader comes back to. Deliberately not `Debug`.
pub(crate) struct Reading {
    pub(crate) endpoint: Endpoint,
    pub(crate) id: String,
    pub(crate) key: SessionKey,
    pub(crate) ticket: Ticket,
    pub(crate) epoch: Epoch,
    pub(crate) claim: Claim,
    /// The cloud prompt that the session builds on, if its reader knows.
    pub(crate) cloud_prompt: Option<PromptId>,
    /// The answer so far.
    pub(crate) heard: Vec<TokenId>,
}

/// Goes on with an answer that was asked for elsewhere, with the fields of that request.
///
/// # Errors
/// [`ApiError`].
pub(crate) async fn read(
    server: &Server,
    (fields, reading): (Fields, Reading),
    (caller, asked_at): (&Caller, Instant),
) -> Result<Response, ApiError> {
    let sessions = server.sessions.as_ref();
    let sessions = sessions.ok_or_else(|| ApiError::not_found("this server moves no sessions"))?;
    // Whoever comes back has the place that the session kept.
    let kept = sessions.place(reading.key, &reading.ticket);
    let place = caller.place_or(kept)?;
    check_model(server, &fields)?;
    let mut request = Request::parse(reading.endpoint, &fields)?;
    drop(fields);
    let Delivery::Stream(usage) = request.delivery else {
        return Err(ApiError::field("request", "only a stream can be followed"));
    };
    let draws_blindly = request.seed.is_none() && request.sampling.temperature != 0.0;
    let seed = request.seed.unwrap_or_default();
    let envelope = Envelope {
        endpoint: reading.endpoint,
        id: reading.id.clone(),
        created: unix_time(),
        model: server.name.clone(),
        logprobs: request.top_logprobs.is_some(),
        token_ids: true,
    };
    let layer_count = server.model.decoder.layers().len();
    let named = (envelope.id.as_str(), caller);
    let recorder = server.timelines.begin(named, layer_count, asked_at);
    let prepared = Prepared::of(server, &mut request, (caller, seed)).await?;
    if reading.heard.len() >= prepared.terms.max_tokens as usize {
        let message = "the answer has as many tokens as were asked for";
        return Err(ApiError::status(StatusCode::CONFLICT, message).with_code("session_ended"));
    }
    let (key, ticket) = (reading.key, reading.ticket);
    let begin_again = || {
        if draws_blindly {
            let message = "an answer that is begun again needs the seed that the header x-edgeprompt-seed told";
            return Err(ApiError::field("request", message));
        }
        let id = prepared.cloud.as_ref().map(|(_, cloud)| cloud.id);
        if reading.cloud_prompt.is_some() && reading.cloud_prompt != id {
            let message = "the cloud prompt of that name is another one here";
            return Err(
                ApiError::status(StatusCode::CONFLICT, message).with_code("cloud_prompt_mismatch")
            );
        }
        Ok(prepared.facts((key, ticket), caller, ReaderKind::Following))
    };
    let reader = sessions.reader(&reading, begin_again).await?;
    let begun = Begun {
        tokens: TokenSource::Session(reader),
        session: Some((key, ticket)),
        recorder,
        prepared,
        heard: PrivateTokens::new(reading.heard),
        details: details(&request),
        follows: true,
    };
    // It goes on, or was begun long before it was asked for here: nothing is foretold.
    let stopwatch = Stopwatch::start(begun.prepared.lens, asked_at);
    let heard = begun.answer(server, place, stopwatch).begin();
    let mut response = streamed(heard, envelope, usage);
    name_session(&mut response, key, None);
    Ok(response)
}

const fn details(request: &Request) -> Details {
    Details {
        logprobs: request.top_logprobs.is_some(),
        token_ids: request.return_token_ids,
    }
}

fn end_of(whole: &[TokenId]) -> PrivateTokens {
    PrivateTokens::new(whole[whole.len().saturating_sub(CONTEXT_LEN)..].to_vec())
}

/// The tokens of what was asked. A long text takes its time, which is not the async threads'.
async fn prompt(
    server: &Server,
    asked: AskedPrompt,
    cloud: Option<SharedPrompt>,
) -> Result<Prompt, ApiError> {
    let (model, seam) = (Arc::clone(&server.model), server.seam);
    let field = match &asked {
        AskedPrompt::Messages(_) => "messages",
        AskedPrompt::Text(_) | AskedPrompt::Tokens(_) => "prompt",
    };
    let prompted = tokio::task::spawn_blocking(move || {
        let before = cloud.as_ref().map(|cloud| Before {
            tokens: &cloud.tokens,
            text: cloud.text.as_deref(),
        });
        prompting::prompt(&model, &asked, before, seam)
    });
    let prompted = prompted.await;
    let prompted = prompted.map_err(|_| ApiError::failed("the tokenizer failed"))?;
    prompted.map_err(|error| {
        let refused = ApiError::field(field, error.to_string());
        match error {
            PromptingError::Cut(_) => refused.with_code("cut_inside_token"),
            _ => refused,
        }
    })
}

async fn whole(
    mut heard: mpsc::Receiver<Heard>,
    envelope: &Envelope,
) -> Result<Response, ApiError> {
    let mut whole = Piece::default();
    while let Some(heard) = heard.recv().await {
        match heard {
            Heard::Piece(piece) => whole.append(piece),
            Heard::Quiet => {}
            Heard::Ended(ended) => return Ok(Json(envelope.whole(&whole, &ended)).into_response()),
            Heard::Failed(error) => return Err(error),
            // Only whoever follows is told, and follows a stream.
            Heard::Moved(_) => break,
        }
    }
    Err(ApiError::failed("the answer broke off"))
}

fn streamed(heard: mpsc::Receiver<Heard>, envelope: Envelope, usage: StreamUsage) -> Response {
    let events = Events::new(envelope, usage);
    let events = stream::unfold((heard, events), async |(mut heard, mut events)| {
        let text = events.write(&heard.recv().await?);
        Some((Ok::<_, Infallible>(text), (heard, events)))
    });
    let headers = [
        (header::CONTENT_TYPE, "text/event-stream"),
        (header::CACHE_CONTROL, "no-cache"),
        // Some proxies collect an answer before they hand it on.
        (header::HeaderName::from_static("x-accel-buffering"), "no"),
    ];
    (headers, Body::from_stream(events)).into_response()
}
