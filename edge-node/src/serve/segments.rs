//! The cloud prompts of a server, by name: fetched once, kept in memory, shared by every request.
//!
//! A flight brings a prompt and is nobody's: it goes on when the request that began it is gone, so
//! what the cloud sees of it does not depend on anybody's prompt or patience.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use edgeprompt_engine::CloudSegment;
use edgeprompt_kv::{KvDtype, PromptId, TokenId};
use edgeprompt_protocol::PromptName;
use edgeprompt_segment_store::SegmentInfo;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::disk_cache::DiskCache;
use crate::kv_origin::KvOrigin;
use crate::planner::{Planner, Source};
use crate::remembered::RememberedPrompt;
use crate::serve::filling::{
    Fill, Filled, Filler, Filling, FillingWatch, Keep, Keeping, KeepingWatch,
};
use crate::serve::plan_log::count_plan;
use crate::serve::room::{Place, Room};
use crate::serve::shelf::{Shelf, Weight};
use crate::serve::sources::{Found, Meaning, Sources, Word};

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
    /// Whether they are on disk.
    pub keeping: KeepingWatch,
    /// The number format that they come in, which says what they lost.
    pub(crate) dtype: KvDtype,
    /// Where they come from, as far as is known before they are here.
    origin: KvOrigin,
}

impl SharedPrompt {
    /// Where its keys and values came from for whoever got this: from memory if they were complete
    /// then, else from where most of them came.
    pub fn origin(&self) -> KvOrigin {
        match (self.origin, self.filling.now()) {
            (KvOrigin::Memory, _) => KvOrigin::Memory,
            (origin, Filling::Filled(filled)) => filled.bytes.main().unwrap_or(origin),
            (origin, Filling::Filling | Filling::Broken) => origin,
        }
    }

    fn known(&self) -> RememberedPrompt {
        RememberedPrompt {
            tokens: self.tokens.to_vec(),
            text: self.text.as_deref().map(str::to_owned),
        }
    }

    /// For somebody who comes later.
    fn again(&self) -> Self {
        let origin = match self.filling.now() {
            Filling::Filled(_) => KvOrigin::Memory,
            Filling::Filling | Filling::Broken => self.origin,
        };
        Self {
            origin,
            ..self.clone()
        }
    }
}

/// Whether the keys and values of a prompt are on disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct OnDisk(pub(crate) bool);

/// Why there is no cloud prompt.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SharedPromptError {
    /// The cloud serves no prompt of that name, or nothing is known of it without a cloud.
    #[error("there is no cloud prompt of that name")]
    Unknown,
    /// The cloud did not say what it is, and this edge does not remember.
    #[error("the cloud does not send this cloud prompt now")]
    Unavailable,
    /// The cloud does not even refuse, and this edge does not remember.
    #[error(
        "the cloud does not answer, and neither this edge nor a neighbour knows this cloud prompt: \
         try again when it does"
    )]
    Silent,
    /// The cloud runs another model, and this edge does not remember.
    #[error(
        "the cloud runs another model, and neither this edge nor a neighbour knows this cloud prompt: \
         the edge node's log says what to do"
    )]
    OtherModel,
    /// Others that are being fetched take the room.
    #[error("other cloud prompts are being fetched now, as many as there is room for: try again")]
    Busy,
    /// There can never be room for it.
    #[error(
        "the keys and values of this cloud prompt have {bytes} bytes and {bytes_max} may be kept: \
         the server's --cloud-kv-mib says how many"
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

/// The prompts. Clones share them.
#[derive(Clone, Debug)]
pub struct CloudPrompts {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    sources: Sources,
    filler: Filler,
    room: Room,
    state: Mutex<State>,
}

type Landed = Result<SharedPrompt, SharedPromptError>;
type Flight = watch::Receiver<Option<Landed>>;

#[derive(Debug)]
struct State {
    shelf: Shelf<SharedPrompt>,
    flights: HashMap<PromptName, Flight>,
}

enum Lookup {
    Here(SharedPrompt),
    Coming(Flight),
}

impl CloudPrompts {
    /// No prompts yet, and room for `bytes_max` bytes of keys and values.
    pub fn new(sources: Sources, filler: Filler, bytes_max: u64) -> Self {
        let state = State {
            shelf: Shelf::new(bytes_max),
            flights: HashMap::new(),
        };
        let room = Room::new(filler.model().geometry, bytes_max);
        Self {
            shared: Arc::new(Shared {
                sources,
                filler,
                room,
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
            Lookup::Here(prompt) => {
                if prompt.origin == KvOrigin::Memory {
                    count_plan(Source::Memory);
                }
                return Ok(prompt);
            }
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

    /// As [`CloudPrompts::list`], with what is on disk now: that takes a look at the disk.
    pub(crate) async fn list_with_disk(&self) -> Vec<(PromptName, SharedPrompt, OnDisk)> {
        let (here, disk) = (self.list(), self.disk());
        let looked = tokio::task::spawn_blocking(move || {
            let on_disk = |prompt: &SharedPrompt| {
                let is_kept = prompt.keeping.now() == Keeping::Kept;
                let is_there = disk.as_ref().is_some_and(|disk| disk.has(&prompt.id));
                OnDisk(is_kept && is_there)
            };
            let here = here.into_iter();
            here.map(|(name, prompt)| {
                let on_disk = on_disk(&prompt);
                (name, prompt, on_disk)
            })
            .collect()
        });
        // A thread that panicked has said so.
        looked.await.unwrap_or_default()
    }

    /// Plans for this node, by how fast it computes now.
    pub(crate) fn planner(&self) -> Planner {
        self.shared.filler.planner()
    }

    /// Where the prompts are kept on disk, if they are.
    pub(crate) fn disk(&self) -> Option<Arc<DiskCache>> {
        self.shared.sources.disk.clone()
    }

    /// Asks the cloud what the names here mean now, and brings what has changed. What is here stays
    /// until something else can take its place, or until the cloud says that there is no such
    /// prompt. Answers under way keep what they began with.
    pub async fn revalidate(&self) {
        self.mark_used().await;
        let (sources, model) = (&self.shared.sources, self.shared.filler.model());
        let Some(entries) = sources.entries(model).await else {
            return;
        };
        let mut is_well = true;
        let mut is_of_our_model = !sources.health.is_of_other_model();
        for (name, prompt) in self.list() {
            let listed = entries.iter().find(|entry| entry.name == name);
            if listed.is_some_and(|entry| entry.prompt == prompt.id) {
                // An id follows from the model as well.
                is_of_our_model = true;
                continue;
            }
            // A name that is not listed is asked for: a cloud of another model lists other names.
            let meaning = listed.map_or(Meaning::Unheard, Meaning::from);
            match self.shared.renew(&name, meaning).await {
                Ok(()) => tracing::info!(%name, "the cloud has changed a cloud prompt"),
                Err(SharedPromptError::Unknown) => {
                    tracing::info!(%name, "the cloud has a cloud prompt no more");
                }
                // It answers so for every name, and has said so.
                Err(SharedPromptError::OtherModel) => return,
                Err(error) => {
                    is_well = false;
                    tracing::warn!(%name, %error, "a changed cloud prompt is not here yet: the earlier one is used");
                }
            }
        }
        if is_well && is_of_our_model {
            sources.health.answered();
        }
    }

    /// Waits until the prompts here are on disk as well, where they are to be, within `patience`.
    pub async fn settle(&self, patience: Duration) {
        let kept = async {
            for (_, mut prompt) in self.list() {
                prompt.keeping.ended().await;
            }
            self.mark_used().await;
        };
        // What is not on disk is fetched again.
        let _ = timeout(patience, kept).await;
    }

    /// The disk does not see uses from memory.
    async fn mark_used(&self) {
        let ids = self.list().into_iter().map(|(_, prompt)| prompt.id);
        self.shared.sources.mark_used(ids.collect()).await;
    }

    /// Bytes of keys and values of the prompts here, and how many there may be.
    pub fn usage(&self) -> (u64, u64) {
        let state = self.shared.state();
        (state.shelf.bytes(), state.shelf.bytes_max())
    }

    /// Whether the cloud, if there is one, answers for this model, and sent all that it last promised
    /// or has answered since; and nothing here is broken.
    pub fn source_is_well(&self) -> bool {
        let state = self.shared.state();
        let mut prompts = state.shelf.iter();
        self.shared.sources.health.is_well()
            && !prompts.any(|(_, prompt)| prompt.filling.now() == Filling::Broken)
    }

    fn look_up(&self, name: &PromptName) -> Result<Lookup, SharedPromptError> {
        let mut state = self.shared.state();
        if let Some(prompt) = state.shelf.get(name) {
            if prompt.filling.now() != Filling::Broken {
                return Ok(Lookup::Here(prompt.again()));
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
        let place = self.shared.room.enter()?;
        let (tell, flight) = watch::channel(None);
        state.flights.insert(name.clone(), flight.clone());
        drop(state);
        let (shared, name) = (Arc::clone(&self.shared), name.clone());
        tokio::spawn(async move {
            let landed = shared.bring(&name, place).await;
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
            let weight = self.weight(prompt);
            state.shelf.put(name, prompt.clone(), weight);
        }
    }

    async fn bring(&self, name: &PromptName, mut place: Place) -> Landed {
        let known_here = (self.filler.model(), &self.room);
        let meaning = self.sources.meaning(name, known_here).await?;
        // Two names of one prompt share its memory.
        if let Some(prompt) = meaning.id().and_then(|id| self.same(&id)) {
            if matches!(meaning, Meaning::Listed { .. }) {
                self.sources.remember(name, prompt.known());
            }
            return Ok(prompt);
        }
        if let Some(token_count) = meaning.token_count() {
            place
                .take(token_count, self.sources.codecs.smallest())
                .await?;
        }
        let found = self.sources.find(name, meaning, &self.filler).await?;
        self.take_in(name, found, place).await
    }

    /// Puts what the cloud means by a name in the place of what is here, once it has told all of it but
    /// the layers, which come or are computed.
    async fn renew(&self, name: &PromptName, meaning: Meaning) -> Result<(), SharedPromptError> {
        let mut place = self.room.enter()?;
        if let Some(token_count) = meaning.token_count() {
            place
                .take(token_count, self.sources.codecs.smallest())
                .await?;
        }
        let renewed = match self.sources.renewed(name, &meaning, &self.filler).await {
            Ok(found) => self.take_in(name, found, place).await?,
            Err(SharedPromptError::Unknown) => {
                self.state().shelf.remove(name);
                self.sources.forget(name).await;
                return Err(SharedPromptError::Unknown);
            }
            Err(error) => return Err(error),
        };
        let weight = self.weight(&renewed);
        self.state().shelf.put(name.clone(), renewed, weight);
        Ok(())
    }

    /// Takes the layers of what was found, unless they are here already or there is no room for them.
    async fn take_in(&self, name: &PromptName, found: Found, mut place: Place) -> Landed {
        let (known, word) = (found.known.clone(), found.word);
        let prompt = match self.same(&found.id) {
            Some(prompt) => prompt,
            None => {
                let codec = found.layers.dtype();
                place.take(known.tokens.len(), codec).await?;
                self.fill(found, place).await?
            }
        };
        if word == Word::Clouds {
            self.sources.remember(name, known);
        }
        Ok(prompt)
    }

    fn same(&self, id: &PromptId) -> Option<SharedPrompt> {
        let state = self.state();
        let mut same = state.shelf.iter().filter(|(_, prompt)| prompt.id == *id);
        let (_, prompt) = same.find(|(_, prompt)| prompt.filling.now() != Filling::Broken)?;
        Some(prompt.again())
    }

    /// Begins to fill a prompt whose tokens are known.
    async fn fill(&self, found: Found, place: Place) -> Landed {
        let Found {
            id,
            known,
            layers,
            planned,
            ..
        } = found;
        let (origin, dtype) = (layers.origin(), layers.dtype());
        let tokens: Arc<[TokenId]> = known.tokens.into();
        let text: Option<Arc<str>> = known.text.map(Into::into);
        let keep = self.sources.disk.clone().map(|disk| {
            let model = self.filler.model();
            let info = SegmentInfo {
                model: model.digest,
                geometry: model.geometry,
                dtype,
                tokens: Arc::clone(&tokens),
                text: text.clone(),
            };
            Keep { disk, info }
        });
        let is_promised = origin != KvOrigin::Local;
        let fill = Fill {
            cloud: layers.take(),
            token_count: tokens.len(),
            planned,
            keep,
            place,
        };
        let begun = self.filler.begin(fill).await;
        let begun = begun.ok_or(SharedPromptError::Failed)?;
        if is_promised {
            self.watch(begun.filling.clone());
        }
        Ok(SharedPrompt {
            id,
            tokens,
            text,
            segment: begun.segment,
            filling: begun.filling,
            keeping: begun.keeping,
            dtype,
            origin,
        })
    }

    /// Notes it if layers that were promised do not come.
    fn watch(&self, mut filling: FillingWatch) {
        let Some(cloud) = self.sources.cloud.clone() else {
            return;
        };
        let (health, model) = (self.sources.health.clone(), self.filler.model().digest);
        tokio::spawn(async move {
            if let Filling::Filled(Filled {
                loss: Some(loss), ..
            }) = filling.ended().await
            {
                health.broke_off(&loss, &cloud, model);
            }
        });
    }

    fn weight(&self, prompt: &SharedPrompt) -> Weight {
        Weight {
            prompt: prompt.id,
            bytes: self.room.bytes(prompt.tokens.len()),
        }
    }
}

#[cfg(test)]
mod tests;
