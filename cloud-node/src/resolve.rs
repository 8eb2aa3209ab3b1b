//! What a fetch asks for, as a manifest and a prompt that is there or on its way, or a refusal.
//! It sends nothing.

use std::sync::Arc;

use edgeprompt_kv::{KvDtype, LayerRange, TokenId};
use edgeprompt_protocol::{Fetch, Manifest, PromptRef, PublicPrompt, PublicPromptProblem, Refusal};
use tokio::sync::{AcquireError, Semaphore};
use tokio::task::{JoinError, spawn_blocking};

use crate::job_queue::EdgeName;
use crate::library::LibraryPrompt;
use crate::prompt_limit::PromptTooLong;
use crate::served_prompt::ServedPrompt;
use crate::service::{CloudService, PublicPrompts};

/// Public texts tokenised at a time. The longest takes a core for about a second; the others are
/// for computing.
const TOKENISING_MAX: usize = 2;

/// Public texts of one edge tokenised at a time: those of others never wait behind many of its.
const TOKENISING_PER_EDGE_MAX: usize = 1;

/// Resolves the fetches of every edge.
pub(crate) struct Resolver {
    pub(crate) cloud: Arc<CloudService>,
    tokenising: Arc<Semaphore>,
}

/// One edge, as far as sharing the cloud with others goes.
pub(crate) struct Asker {
    name: EdgeName,
    tokenising: Arc<Semaphore>,
}

/// Who wants a prompt, and in which number format.
type Wanted<'a> = (&'a Asker, KvDtype);

/// A prompt that is there or on its way, with its text if it was made from one.
struct Found {
    prompt: ServedPrompt,
    text: Option<Arc<str>>,
}

/// Why a text was not tokenised, of which the edge learns nothing.
#[derive(Debug, thiserror::Error)]
enum TokeniseError {
    #[error(transparent)]
    Closed(#[from] AcquireError),
    #[error(transparent)]
    Died(#[from] JoinError),
}

impl Asker {
    /// The edge of that name.
    pub(crate) fn new(name: &str) -> Self {
        Self {
            name: name.into(),
            tokenising: Arc::new(Semaphore::new(TOKENISING_PER_EDGE_MAX)),
        }
    }
}

impl Resolver {
    /// Resolves what `cloud` serves.
    pub(crate) fn new(cloud: Arc<CloudService>) -> Self {
        let tokenising = Arc::new(Semaphore::new(TOKENISING_MAX));
        Self { cloud, tokenising }
    }

    /// What to send for a fetch.
    pub(crate) async fn prepare(
        &self,
        fetch: &Fetch,
        asker: &Asker,
    ) -> Result<(Manifest, ServedPrompt), Refusal> {
        let layers = self.layers(fetch)?;
        let wanted = (asker, fetch.dtype);
        let Found { prompt, text } = self.find(&fetch.prompt, wanted).await?;
        let model = self.cloud.computer.model();
        let manifest = Manifest {
            fetch: fetch.fetch,
            prompt: prompt.id(),
            model: model.digest,
            geometry: model.geometry,
            dtype: prompt.dtype(),
            layers,
            tokens: prompt.tokens().to_vec(),
            text: text.map(|text| text.to_string()),
            source: prompt.source(),
        };
        Ok((manifest, prompt))
    }

    fn layers(&self, fetch: &Fetch) -> Result<LayerRange, Refusal> {
        let model = self.cloud.computer.model();
        if fetch.model != model.digest {
            let cloud = model.digest;
            return Err(Refusal::ModelMismatch { cloud });
        }
        let layer_count = model.geometry.layer_count();
        let all = LayerRange::first(layer_count);
        let layers = fetch.layers.unwrap_or(all);
        if layers.bounds().end > layer_count {
            return Err(Refusal::LayersOutOfRange { layer_count });
        }
        Ok(layers)
    }

    async fn find(&self, prompt: &PromptRef, wanted: Wanted<'_>) -> Result<Found, Refusal> {
        let library = self.cloud.library.now();
        match prompt {
            PromptRef::Named(name) => {
                let unknown = || Refusal::UnknownPrompt { name: name.clone() };
                let prompt = library.get(name).ok_or_else(unknown)?;
                self.library_prompt(prompt, wanted)
            }
            PromptRef::Id(id) => {
                if let Some(prompt) = library.find(id) {
                    return self.library_prompt(prompt, wanted);
                }
                let (_, dtype) = wanted;
                let computed = self.cloud.computer.find(id, dtype);
                let prompt = computed.ok_or(Refusal::UnknownPromptId)?;
                Ok(Found { prompt, text: None })
            }
            PromptRef::Public(public) => self.public(public, wanted).await,
        }
    }

    fn library_prompt(&self, prompt: &LibraryPrompt, wanted: Wanted<'_>) -> Result<Found, Refusal> {
        let text = Some(Arc::clone(&prompt.text));
        let prompt = self.serve(&prompt.tokens, wanted)?;
        Ok(Found { prompt, text })
    }

    async fn public(&self, public: &PublicPrompt, wanted: Wanted<'_>) -> Result<Found, Refusal> {
        if self.cloud.public_prompts == PublicPrompts::Refused {
            let problem = PublicPromptProblem::NotOffered;
            return Err(Refusal::PublicPromptRefused(problem));
        }
        let (tokens, text): (Arc<[TokenId]>, _) = match public {
            PublicPrompt::Tokens(tokens) => (tokens.as_slice().into(), None),
            PublicPrompt::Text(text) => {
                let tokens = self.tokenise(text, wanted.0).await;
                let tokens = tokens.map_err(|error| {
                    tracing::error!(%error, "a public text was not tokenised");
                    Refusal::Internal
                })?;
                let problem = PublicPromptProblem::NotTokenisable;
                let tokens = tokens.ok_or(Refusal::PublicPromptRefused(problem))?;
                (tokens, Some(text.as_str().into()))
            }
        };
        let vocabulary_len = narrow(self.cloud.computer.model().config.vocab_size);
        let mut outside = tokens.iter().filter(|token| token.0 >= vocabulary_len);
        if let Some(&token) = outside.next() {
            let problem = PublicPromptProblem::OutsideVocabulary {
                token,
                vocabulary_len,
            };
            return Err(Refusal::PublicPromptRefused(problem));
        }
        let prompt = self.serve(&tokens, wanted)?;
        Ok(Found { prompt, text })
    }

    /// The tokens of a text, or `None` if the model's tokenizer cannot read it.
    async fn tokenise(
        &self,
        text: &str,
        asker: &Asker,
    ) -> Result<Option<Arc<[TokenId]>>, TokeniseError> {
        let own = Arc::clone(&asker.tokenising).acquire_owned().await?;
        let shared = Arc::clone(&self.tokenising).acquire_owned().await?;
        let (model, text) = (Arc::clone(self.cloud.computer.model()), text.to_owned());
        let tokens = spawn_blocking(move || {
            // Released here, not where the result is awaited: an edge that leaves does not end it.
            let _permits = (own, shared);
            let tokens = model.tokenizer().ok()?.encode(&text).ok()?;
            Some(tokens.into())
        });
        Ok(tokens.await?)
    }

    fn serve(
        &self,
        tokens: &Arc<[TokenId]>,
        (asker, dtype): Wanted<'_>,
    ) -> Result<ServedPrompt, Refusal> {
        if tokens.is_empty() {
            return Err(Refusal::PromptEmpty);
        }
        let computer = &self.cloud.computer;
        let fits = computer.limit().check(tokens.len());
        fits.map_err(
            |PromptTooLong { token_count, limit }| Refusal::PromptTooLong {
                token_count: narrow(token_count),
                token_count_max: narrow(limit.token_count_max()),
            },
        )?;
        let served = computer.serve(&asker.name, tokens, dtype);
        served.map_err(|busy| {
            tracing::warn!(%busy, "a prompt was not taken in");
            Refusal::Busy {
                waiting_count_max: busy.limit(),
            }
        })
    }
}

fn narrow(count: usize) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}
