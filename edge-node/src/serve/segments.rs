//! The cloud prompts of a server, by name: fetched once, kept in memory, shared by every request.
//!
//! A flight brings a prompt and is nobody's: it goes on when the request that began it is gone, so
//! what the cloud sees of it does not depend on anybody's prompt or patience.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use edgeprompt_engine::CloudSegment;
use edgeprompt_kv::{KvDtype, PromptId, TokenId};
use edgeprompt_protocol::{PromptName, PromptRef, Refusal};
use edgeprompt_transport::FetchError;
use tokio::sync::watch;

use crate::answer::Cloud;
use crate::cloud_prompt::{CloudPrompt, CloudPromptError, Loss};
use crate::remembered::{RememberedPrompt, RememberedPrompts};
use crate::serve::filling::{Filler, Filling, FillingWatch};
use crate::serve::shelf::Shelf;
use crate::uplink::Uplink;

/// Prompts fetched at a time: names come from requests, and each is a task and a fetch.
const FLIGHTS_MAX: usize = 32;

/// A cloud prompt that requests share.
#[derive(Clone, Debug)]
pub struct SharedPrompt {
    /// What identifies its keys and values.
    pub id: PromptId,
    /// Its tokens.
    pub tokens: Arc<[TokenId]>,
    /// Its text, if it was made from one.
    pub text: Option<Arc<str>>,
    /// Its keys and values, as far as they are here.
    pub segment: CloudSegment,
    /// How far that is.
    pub filling: FillingWatch,
}

/// Why there is no cloud prompt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SharedPromptError {
    /// The cloud serves no prompt of that name, or nothing is known of it without a cloud.
    #[error("there is no cloud prompt of that name")]
    Unknown,
    /// The cloud did not say what it is, and this edge does not remember.
    #[error("the cloud does not send this cloud prompt now")]
    Unavailable,
    /// Too many others are being fetched.
    #[error("{FLIGHTS_MAX} other cloud prompts are being fetched now")]
    Busy,
    /// There is no room for it.
    #[error(
        "the keys and values of this cloud prompt have {bytes} bytes and {bytes_max} may be kept"
    )]
    TooLarge {
        /// Bytes of its keys and values.
        bytes: u64,
        /// Bytes there is room for.
        bytes_max: u64,
    },
    /// This edge failed; its log says why.
    #[error("the edge node failed to take the cloud prompt in")]
    Failed,
}

/// Where prompts come from.
#[derive(Debug)]
pub enum PromptSource {
    /// A cloud, or what is remembered of it.
    Cloud {
        /// The way to it.
        uplink: Uplink,
        /// What it said before.
        memory: Option<RememberedPrompts>,
    },
    /// Only what is remembered.
    Memory(Option<RememberedPrompts>),
}

/// The prompts. Clones share them.
#[derive(Clone, Debug)]
pub struct CloudPrompts {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    source: PromptSource,
    filler: Filler,
    state: Mutex<State>,
}

type Landed = Result<SharedPrompt, SharedPromptError>;
type Flight = watch::Receiver<Option<Landed>>;

#[derive(Debug)]
struct State {
    shelf: Shelf<SharedPrompt>,
    flights: HashMap<PromptName, Flight>,
    /// Whether the last flight came from the cloud.
    source_is_well: bool,
}

enum Lookup {
    Here(SharedPrompt),
    Coming(Flight),
}

impl CloudPrompts {
    /// No prompts yet, and room for `bytes_max` bytes of keys and values.
    pub fn new(source: PromptSource, filler: Filler, bytes_max: u64) -> Self {
        let state = State {
            shelf: Shelf::new(bytes_max),
            flights: HashMap::new(),
            source_is_well: true,
        };
        Self {
            shared: Arc::new(Shared {
                source,
                filler,
                state: Mutex::new(state),
            }),
        }
    }

    /// The prompt of a name, its layers perhaps still on their way. However many ask at a time, one
    /// flight brings it; a failure is told to all of them and the next request tries again.
    ///
    /// # Errors
    /// [`SharedPromptError`].
    pub async fn get(&self, name: &PromptName) -> Result<SharedPrompt, SharedPromptError> {
        let mut flight = match self.look_up(name)? {
            Lookup::Here(prompt) => return Ok(prompt),
            Lookup::Coming(flight) => flight,
        };
        let landed = flight.wait_for(Option::is_some).await;
        // A flight that panicked says nothing.
        let landed = landed.ok().and_then(|landed| landed.clone());
        landed.unwrap_or(Err(SharedPromptError::Failed))
    }

    /// The prompts here, by name.
    pub fn list(&self) -> Vec<(PromptName, SharedPrompt)> {
        let state = self.shared.state();
        let kept = state.shelf.iter();
        kept.map(|(name, prompt)| (name.clone(), prompt.clone()))
            .collect()
    }

    /// Whether the last prompt came from where prompts should come from, and all of its layers.
    pub fn source_is_well(&self) -> bool {
        let recomputed = |prompt: &SharedPrompt| match prompt.filling.now() {
            Filling::Filled(filled) => filled.recomputed_count > 0,
            Filling::Filling => false,
            Filling::Broken => true,
        };
        let state = self.shared.state();
        state.source_is_well && !state.shelf.iter().any(|(_, prompt)| recomputed(prompt))
    }

    fn look_up(&self, name: &PromptName) -> Result<Lookup, SharedPromptError> {
        let mut state = self.shared.state();
        if let Some(prompt) = state.shelf.get(name) {
            if prompt.filling.now() != Filling::Broken {
                return Ok(Lookup::Here(prompt.clone()));
            }
            state.shelf.remove(name);
        }
        if let Some(flight) = state.flights.get(name) {
            if flight.has_changed().is_ok() {
                return Ok(Lookup::Coming(flight.clone()));
            }
            // It panicked.
            state.flights.remove(name);
        }
        if state.flights.len() >= FLIGHTS_MAX {
            return Err(SharedPromptError::Busy);
        }
        let (tell, flight) = watch::channel(None);
        state.flights.insert(name.clone(), flight.clone());
        drop(state);
        let (shared, name) = (Arc::clone(&self.shared), name.clone());
        tokio::spawn(async move {
            let landed = shared.bring(&name).await;
            shared.land(name, &landed);
            tell.send_replace(Some(landed));
        });
        Ok(Lookup::Coming(flight))
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn land(&self, name: PromptName, landed: &Landed) {
        let mut state = self.state();
        state.flights.remove(&name);
        if let Ok(prompt) = landed {
            let bytes = self.bytes(prompt.tokens.len());
            state.shelf.put(name, prompt.clone(), bytes);
        }
    }

    async fn bring(&self, name: &PromptName) -> Landed {
        match &self.source {
            PromptSource::Memory(memory) => {
                let recalled = self.recall(memory.as_ref(), name).await;
                let recalled = recalled.ok_or(SharedPromptError::Unknown)?;
                let tokens = recalled.tokens.clone();
                self.fill(recalled, Cloud::Here { tokens }).await
            }
            PromptSource::Cloud { uplink, memory } => {
                let model = self.filler.model();
                let named = PromptRef::Named(name.clone());
                let fetched = CloudPrompt::fetch(uplink, model, named).await;
                self.state().source_is_well = fetched.is_ok();
                match fetched {
                    Ok(prompt) => {
                        self.remember(memory.as_ref(), name, &prompt);
                        let known = RememberedPrompt {
                            tokens: prompt.manifest.tokens.clone(),
                            text: prompt.manifest.text.clone(),
                        };
                        self.fill(known, Cloud::Arriving(prompt)).await
                    }
                    // The one answer that a memory must not contradict.
                    Err(CloudPromptError::Fetch(FetchError::Refused(Refusal::UnknownPrompt {
                        ..
                    }))) => {
                        self.state().source_is_well = true;
                        Err(SharedPromptError::Unknown)
                    }
                    Err(error) => {
                        tracing::warn!(%name, %error, "a cloud prompt was not fetched");
                        let recalled = self.recall(memory.as_ref(), name).await;
                        let recalled = recalled.ok_or(SharedPromptError::Unavailable)?;
                        let cloud = unavailable(&recalled, error.loss());
                        self.fill(recalled, cloud).await
                    }
                }
            }
        }
    }

    /// Begins to fill a prompt whose tokens are known.
    async fn fill(&self, known: RememberedPrompt, cloud: Cloud) -> Landed {
        let (bytes, bytes_max) = (
            self.bytes(known.tokens.len()),
            self.state().shelf.bytes_max(),
        );
        if bytes > bytes_max {
            return Err(SharedPromptError::TooLarge { bytes, bytes_max });
        }
        let begun = self.filler.begin(cloud, known.tokens.len()).await;
        let (segment, filling) = begun.ok_or(SharedPromptError::Failed)?;
        Ok(SharedPrompt {
            id: PromptId::of(&self.filler.model().digest, &known.tokens),
            tokens: known.tokens.into(),
            text: known.text.map(Into::into),
            segment,
            filling,
        })
    }

    async fn recall(
        &self,
        memory: Option<&RememberedPrompts>,
        name: &PromptName,
    ) -> Option<RememberedPrompt> {
        let (memory, name) = (memory?.clone(), name.clone());
        let model = Arc::clone(self.filler.model());
        let recalled = tokio::task::spawn_blocking(move || memory.recall(&name, &model));
        // A thread that panicked has said so.
        recalled.await.ok().flatten()
    }

    fn remember(
        &self,
        memory: Option<&RememberedPrompts>,
        name: &PromptName,
        prompt: &CloudPrompt,
    ) {
        let Some(memory) = memory.cloned() else {
            return;
        };
        let (name, manifest) = (name.clone(), prompt.manifest.clone());
        tokio::task::spawn_blocking(move || memory.keep_or_warn(&name, &manifest));
    }

    fn bytes(&self, token_count: usize) -> u64 {
        let geometry = &self.filler.model().geometry;
        let layer = geometry.layer_bytes(token_count, KvDtype::F32) as u64;
        layer.saturating_mul(u64::from(geometry.layer_count()))
    }
}

fn unavailable(recalled: &RememberedPrompt, loss: Loss) -> Cloud {
    Cloud::Unavailable {
        tokens: recalled.tokens.clone(),
        loss,
    }
}

#[cfg(test)]
mod tests;
