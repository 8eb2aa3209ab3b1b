//! `/v1/chat/completions` and `/v1/completions`: from a request to its answer.

use std::convert::Infallible;
use std::sync::Arc;
use std::time::{Instant, SystemTime, UNIX_EPOCH};

use axum::Json;
use axum::body::Body;
use axum::extract::Request as HttpRequest;
use axum::http::{HeaderValue, header};
use axum::response::{IntoResponse, Response};
use edgeprompt_engine::{Generation, Sampler};
use edgeprompt_kv::TokenId;
use futures_util::stream;
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::private::PrivateTokens;
use crate::serve::access::Caller;
use crate::serve::answering::{Answering, Details, Heard, Piece};
use crate::serve::api_error::ApiError;
use crate::serve::bodies::{Envelope, Events};
use crate::serve::fields::Fields;
use crate::serve::generator::Tokens;
use crate::serve::prompting::{self, Before, Prompt, PromptingError};
use crate::serve::request::{AskedPrompt, Delivery, Endpoint, Request, StreamUsage};
use crate::serve::routes::{RequestId, fields};
use crate::serve::segments::SharedPrompt;
use crate::serve::server::{App, Server};
use crate::serve::stopwatch::{PromptLens, Stopwatch};
use crate::serve::timelines::Recorder;

/// Tokens before an answer that its spacing may depend on.
const CONTEXT_LEN: usize = 16;

/// The header of an answer that is right and took a longer way.
const WARNING: &str = "x-edgeprompt-warning";
const CUT_INSIDE_TOKEN: &str = "the cloud prompt was not used: no token ends where it meets the private prompt; end the cloud prompt, or begin the private one, with a space or a new line";

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
    let begun = Begun::of(server, request, (&caller, seed, recorder)).await?;
    let warning = begun.warning;
    let heard = begun.answer(server, place, asked_at).begin();
    let mut response = match delivery {
        Delivery::Whole => whole(heard, &envelope).await?,
        Delivery::Stream(usage) => streamed(heard, envelope, usage),
    };
    if let Some(warning) = warning {
        let warning = HeaderValue::from_static(warning);
        response.headers_mut().insert(WARNING, warning);
    }
    Ok(response)
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

/// A generation that the engine has taken in. Deliberately not `Debug`.
struct Begun {
    tokens: Tokens,
    recorder: Recorder,
    cloud: Option<SharedPrompt>,
    context: PrivateTokens,
    lens: PromptLens,
    stops: Vec<String>,
    details: Details,
    warning: Option<&'static str>,
}

impl Begun {
    async fn of(
        server: &Server,
        request: Request,
        (caller, seed, recorder): (&Caller, u64, Recorder),
    ) -> Result<Self, ApiError> {
        let cloud = server.cloud_prompt(&request.cloud_prompt).await?;
        let prompt = prompt(server, request.prompt, cloud.clone()).await?;
        let (private, cloud, warning) = match prompt {
            Prompt::Private(private) => (private, cloud, None),
            Prompt::InOnePiece(private) => (private, None, Some(CUT_INSIDE_TOKEN)),
        };
        let name = server.cloud_prompt_name(&request.cloud_prompt);
        if let (Some(name), Some(cloud)) = (name, &cloud) {
            recorder.builds_on(name.clone(), cloud.tokens.len(), cloud.filling.clone());
        }
        let cloud_tokens = cloud.as_ref().map_or(&[][..], |cloud| &cloud.tokens);
        let lens = PromptLens {
            cloud: cloud_tokens.len(),
            private: private.len(),
            shared: 0,
        };
        let max_tokens = server.capacity.max_tokens(request.max_tokens, lens)?;
        let whole = [cloud_tokens, private.for_engine()].concat();
        let mut sampler = Sampler::new(request.sampling, seed, &whole);
        if let Some(count) = request.top_logprobs {
            sampler = sampler.with_logprobs(count);
        }
        let session = request.session;
        let session =
            session.map(|name| caller.session(name, cloud.as_ref().map(|cloud| cloud.id)));
        let generation = Generation {
            prompt: private.for_engine().to_vec(),
            segment: cloud.as_ref().map(|cloud| cloud.segment.clone()),
            session,
            sampler,
            max_tokens,
            end_tokens: match request.ignore_eos {
                true => Vec::new(),
                false => server.model.config.eos.clone(),
            },
        };
        let tokens = server
            .generator
            .generate_recorded(generation, recorder.clone());
        let tokens = tokens.await?;
        Ok(Self {
            tokens,
            recorder,
            cloud,
            context: end_of(&whole),
            lens,
            stops: request.stops,
            details: Details {
                logprobs: request.top_logprobs.is_some(),
                token_ids: request.return_token_ids,
            },
            warning,
        })
    }

    fn answer(self, server: &Server, place: OwnedSemaphorePermit, asked_at: Instant) -> Answering {
        Answering {
            model: Arc::clone(&server.model),
            tokens: self.tokens,
            cloud: self.cloud,
            context: self.context,
            stops: self.stops,
            details: self.details,
            stopwatch: Stopwatch::start(self.lens, asked_at),
            recorder: self.recorder,
            place,
        }
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
