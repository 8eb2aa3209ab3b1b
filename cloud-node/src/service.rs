//! Serving edges: resolves what a request names and sends its layers as they become ready.

use std::sync::Arc;

use edgeprompt_kv::{KvDtype, LayerRange, TokenId};
use edgeprompt_protocol::{
    CloudRequest, Fetch, Manifest, PROMPT_TOKENS_MAX, PromptEntry, PromptRef, PublicPrompt,
    PublicPromptProblem, Refusal,
};
use edgeprompt_telemetry::names;
use edgeprompt_transport::{
    CloudEndpoint, EdgeLink, IncomingRequest, LayerSender, RespondError, SendLayerError,
};
use tokio::sync::watch;

use crate::compute::{ComputationLost, JOBS_WAITING_MAX, PromptComputer, ServedPrompt};
use crate::library::PromptLibrary;

/// Whether edges may send prompts that their users declare public.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum PublicPrompts {
    /// They may.
    #[default]
    Accepted,
    /// Only the library is served.
    Refused,
}

/// What a cloud serves.
pub struct CloudService {
    /// Computes and stores.
    pub computer: Arc<PromptComputer>,
    /// The prompts served by name.
    pub library: PromptLibrary,
    /// Whether others are computed too.
    pub public_prompts: PublicPrompts,
}

/// Why the layers of a fetch were not all sent.
#[derive(Debug, thiserror::Error)]
enum ServeError {
    #[error(transparent)]
    Respond(#[from] RespondError),
    #[error(transparent)]
    Send(#[from] SendLayerError),
    #[error(transparent)]
    Lost(#[from] ComputationLost),
}

/// What a prompt consists of.
struct Content {
    tokens: Arc<[TokenId]>,
    text: Option<Arc<str>>,
}

impl CloudService {
    /// Accepts edges until `shutdown` says so, then lets what is under way end.
    pub async fn run(
        self: Arc<Self>,
        mut endpoint: CloudEndpoint,
        mut shutdown: watch::Receiver<bool>,
    ) {
        loop {
            tokio::select! {
                link = endpoint.accept() => match link {
                    Some(link) => {
                        tokio::spawn(Arc::clone(&self).serve_link(link));
                    }
                    None => return,
                },
                // A dropped sender means that whoever could ask for a shutdown is gone.
                _ = shutdown.wait_for(|stop| *stop) => break,
            }
        }
        endpoint.drain().await;
    }

    async fn serve_link(self: Arc<Self>, mut link: EdgeLink) {
        let edges = metrics::gauge!(names::CLOUD_EDGES_CONNECTED);
        edges.increment(1.0);
        tracing::info!(edge = link.peer_name(), "edge connected");
        while let Some(request) = link.next_request().await {
            tokio::spawn(Arc::clone(&self).serve_request(request));
        }
        edges.decrement(1.0);
        tracing::info!(edge = link.peer_name(), "edge gone");
    }

    async fn serve_request(self: Arc<Self>, incoming: IncomingRequest) {
        let served = match incoming.request {
            CloudRequest::ListPrompts => incoming
                .responder
                .prompts(self.entries())
                .await
                .map_err(ServeError::from),
            CloudRequest::Fetch(fetch) => match self.prepare(&fetch) {
                Err(refusal) => {
                    metrics::counter!(names::CLOUD_REFUSALS_TOTAL, names::REASON => reason(&refusal))
                        .increment(1);
                    tracing::info!(%refusal, "fetch refused");
                    incoming
                        .responder
                        .refuse(refusal)
                        .await
                        .map_err(ServeError::from)
                }
                Ok((manifest, prompt)) => {
                    let sender = incoming.responder.manifest(&manifest).await;
                    match sender {
                        Ok(sender) => send_layers(sender, prompt).await,
                        Err(error) => Err(error.into()),
                    }
                }
            },
        };
        if let Err(error) = served {
            tracing::info!(%error, "request ended early");
        }
    }

    fn entries(&self) -> Vec<PromptEntry> {
        let count = |tokens: &[TokenId]| u32::try_from(tokens.len()).unwrap_or(u32::MAX);
        self.library
            .iter()
            .map(|(name, prompt)| PromptEntry {
                name: name.clone(),
                prompt: prompt.id,
                token_count: count(&prompt.tokens),
            })
            .collect()
    }

    fn prepare(&self, fetch: &Fetch) -> Result<(Manifest, ServedPrompt), Refusal> {
        let model = self.computer.model();
        if fetch.model != model.digest {
            return Err(Refusal::ModelMismatch {
                cloud: model.digest,
            });
        }
        if fetch.dtype != KvDtype::F32 {
            return Err(Refusal::UnsupportedDtype { dtype: fetch.dtype });
        }
        let layer_count = model.geometry.layer_count();
        let layers = fetch
            .layers
            .unwrap_or_else(|| LayerRange::first(layer_count));
        if layers.bounds().end > layer_count {
            return Err(Refusal::LayersOutOfRange { layer_count });
        }
        let Content { tokens, text } = self.resolve(&fetch.prompt)?;
        let prompt = self.computer.serve(&tokens).map_err(|_| Refusal::Busy {
            fetch_count_max: JOBS_WAITING_MAX,
        })?;
        let manifest = Manifest {
            fetch: fetch.fetch,
            prompt: prompt.id(),
            model: model.digest,
            geometry: model.geometry,
            dtype: KvDtype::F32,
            layers,
            tokens: tokens.to_vec(),
            text: text.map(|text| text.to_string()),
            source: prompt.source(),
        };
        Ok((manifest, prompt))
    }

    fn resolve(&self, prompt: &PromptRef) -> Result<Content, Refusal> {
        let named = match prompt {
            PromptRef::Named(name) => self
                .library
                .get(name)
                .ok_or_else(|| Refusal::UnknownPrompt { name: name.clone() })?,
            PromptRef::Id(id) => self.library.find(id).ok_or(Refusal::UnknownPromptId)?,
            PromptRef::Public(public) => return self.public(public),
        };
        Ok(Content {
            tokens: Arc::clone(&named.tokens),
            text: Some(Arc::clone(&named.text)),
        })
    }

    fn public(&self, public: &PublicPrompt) -> Result<Content, Refusal> {
        if self.public_prompts == PublicPrompts::Refused {
            return Err(Refusal::PublicPromptRefused(
                PublicPromptProblem::NotOffered,
            ));
        }
        let model = self.computer.model();
        let unreadable = Refusal::PublicPromptRefused(PublicPromptProblem::NotTokenisable);
        let (tokens, text): (Arc<[TokenId]>, _) = match public {
            PublicPrompt::Tokens(tokens) => (tokens.as_slice().into(), None),
            PublicPrompt::Text(text) => {
                let tokenizer = model.tokenizer().map_err(|_| unreadable.clone())?;
                let tokens = tokenizer.encode(text).map_err(|_| unreadable)?;
                (tokens.into(), Some(text.as_str().into()))
            }
        };
        if tokens.is_empty() {
            return Err(Refusal::PromptEmpty);
        }
        // One position at least must be left for a private token.
        let token_count_max = PROMPT_TOKENS_MAX.min(model.config.context_len_max - 1);
        if tokens.len() > token_count_max {
            let narrow = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
            return Err(Refusal::PromptTooLong {
                token_count: narrow(tokens.len()),
                token_count_max: narrow(token_count_max),
            });
        }
        let vocabulary_len = u32::try_from(model.config.vocab_size).unwrap_or(u32::MAX);
        if let Some(token) = tokens
            .iter()
            .copied()
            .find(|token| token.0 >= vocabulary_len)
        {
            let problem = PublicPromptProblem::OutsideVocabulary {
                token,
                vocabulary_len,
            };
            return Err(Refusal::PublicPromptRefused(problem));
        }
        Ok(Content { tokens, text })
    }
}

async fn send_layers(sender: LayerSender, mut prompt: ServedPrompt) -> Result<(), ServeError> {
    for layer in sender.manifest().layers.iter() {
        let (kv, span) = prompt.layer(layer).await?;
        let sent = sender.send(layer, &kv, span).await?;
        metrics::counter!(names::CLOUD_LAYERS_SENT_TOTAL).increment(1);
        metrics::counter!(names::CLOUD_KV_BYTES_SENT_TOTAL).increment(sent.sent_bytes);
    }
    sender.finish().await?;
    Ok(())
}

/// A refusal as a label: few values, nothing from the request.
const fn reason(refusal: &Refusal) -> &'static str {
    match refusal {
        Refusal::UnknownPrompt { .. } | Refusal::UnknownPromptId => "unknown_prompt",
        Refusal::ModelMismatch { .. } => "model_mismatch",
        Refusal::PromptTooLong { .. } => "prompt_too_long",
        Refusal::PromptEmpty => "prompt_empty",
        Refusal::PublicPromptRefused(_) => "public_prompt",
        Refusal::UnsupportedDtype { .. } => "dtype",
        Refusal::LayersOutOfRange { .. } => "layers",
        Refusal::Busy { .. } => "busy",
        Refusal::Internal => "internal",
    }
}
