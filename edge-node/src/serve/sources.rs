//! Where a server's cloud prompts come from, the nearest first: this disk, neighbour edges, the cloud,
//! and computing here. It finds out who has a prompt; the layers come through [`crate::cloud_prompt::CloudPrompt`].
//!
//! A name means what the cloud last said that it means: what is remembered is used without asking,
//! and revalidated behind everybody's back.

use std::fs::File;
use std::sync::Arc;
use std::time::Instant;

use edgeprompt_kv::{KvDtype, LayerIndex, PromptId, TokenId};
use edgeprompt_model::Model;
use edgeprompt_protocol::{PromptEntry, PromptName, PromptRef, Refusal};
use edgeprompt_segment_store::SegmentReader;
use edgeprompt_transport::FetchError;
use tokio::time::timeout;

use crate::answer::Cloud;
use crate::cloud_prompt::{CloudPromptError, DiskMiss, Loss, LossReason, Offer};
use crate::disk_cache::DiskCache;
use crate::kv_origin::KvOrigin;
use crate::remembered::{RememberedPrompt, RememberedPrompts};
use crate::serve::cloud_health::CloudHealth;
use crate::serve::filling::Filler;
use crate::serve::neighbours::Neighbours;
use crate::serve::plan_log::Planned;
use crate::serve::planning::Wanted;
use crate::serve::room::Room;
use crate::serve::segments::SharedPromptError;
use crate::uplink::Uplink;
use crate::wire_codec::Codecs;

/// Who may have a cloud prompt.
#[derive(Debug, Default)]
pub struct Sources {
    /// What names meant before.
    pub memory: Option<RememberedPrompts>,
    /// This disk.
    pub disk: Option<Arc<DiskCache>>,
    /// Other edges.
    pub neighbours: Neighbours,
    /// The cloud.
    pub cloud: Option<Uplink>,
    /// The number formats in which keys and values may be asked for; what lost more is not used.
    pub codecs: Codecs,
    /// How the cloud was when it was last asked.
    pub health: CloudHealth,
}

/// What a name means, as far as that can be known without fetching the prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Meaning {
    /// This edge remembers it.
    Remembered {
        id: PromptId,
        known: RememberedPrompt,
    },
    /// The cloud lists it.
    Listed { id: PromptId, token_count: usize },
    /// Whoever sends it will say.
    Unheard,
}

impl Meaning {
    pub(crate) fn id(&self) -> Option<PromptId> {
        match self {
            Self::Remembered { id, .. } | Self::Listed { id, .. } => Some(*id),
            Self::Unheard => None,
        }
    }

    pub(crate) fn token_count(&self) -> Option<usize> {
        match self {
            Self::Remembered { known, .. } => Some(known.tokens.len()),
            Self::Listed { token_count, .. } => Some(*token_count),
            Self::Unheard => None,
        }
    }
}

impl From<&PromptEntry> for Meaning {
    fn from(entry: &PromptEntry) -> Self {
        Self::Listed {
            id: entry.prompt,
            token_count: entry.token_count as usize,
        }
    }
}

/// Who is asked for what, by a node of which model.
#[derive(Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) name: &'a PromptName,
    pub(crate) cloud: &'a Uplink,
    pub(crate) model: &'a Arc<Model>,
}

/// A prompt, and where its layers would come from. Nothing of it is taken yet.
pub(crate) struct Found {
    pub(crate) id: PromptId,
    pub(crate) known: RememberedPrompt,
    pub(crate) layers: Layers,
    pub(crate) word: Word,
    /// Why from there, if there was a choice or something to foretell.
    pub(crate) planned: Option<Planned>,
}

pub(crate) enum Layers {
    Offered(Box<Offer>),
    Computed(Cloud),
}

/// Who says that the name means it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Word {
    /// The cloud, just now: that is to be remembered.
    Clouds,
    /// This edge's memory, or a neighbour.
    Others,
}

impl Layers {
    pub(crate) fn origin(&self) -> KvOrigin {
        match self {
            Self::Offered(offer) => offer.origin,
            Self::Computed(_) => KvOrigin::Local,
        }
    }

    /// The number format that they come in.
    pub(crate) fn dtype(&self) -> KvDtype {
        match self {
            Self::Offered(offer) => offer.manifest.dtype,
            Self::Computed(_) => KvDtype::F32,
        }
    }

    pub(crate) fn take(self) -> Cloud {
        match self {
            Self::Offered(offer) => Cloud::Arriving(offer.take()),
            Self::Computed(cloud) => cloud,
        }
    }
}

impl Found {
    pub(crate) fn offered(offer: Offer, word: Word, planned: Option<Planned>) -> Self {
        let manifest = &offer.manifest;
        Self {
            id: manifest.prompt,
            known: manifest.into(),
            layers: Layers::Offered(Box::new(offer)),
            word,
            planned,
        }
    }

    pub(crate) fn computed(
        wanted: Wanted<'_>,
        known: RememberedPrompt,
        (cloud, planned): (Cloud, Planned),
    ) -> Self {
        Self {
            id: wanted.id,
            known,
            layers: Layers::Computed(cloud),
            word: wanted.word,
            planned: Some(planned),
        }
    }
}

impl Sources {
    /// What a name means: what is remembered and fits in the room, else what the cloud lists, if it
    /// is worth asking for that.
    pub(crate) async fn meaning(
        &self,
        name: &PromptName,
        (model, room): (&Arc<Model>, &Room),
    ) -> Result<Meaning, SharedPromptError> {
        if let Some(known) = self.recall(name, model).await {
            // What was too large may be shorter by now.
            if self.cloud.is_none() || room.fits(known.tokens.len()) {
                let id = PromptId::of(&model.digest, &known.tokens);
                return Ok(Meaning::Remembered { id, known });
            }
        }
        if self.disk.is_none() && self.neighbours.is_empty() {
            return Ok(Meaning::Unheard);
        }
        // A list is a few bytes; perhaps nothing else need come.
        let Some(cloud) = self.asked_cloud() else {
            return Ok(Meaning::Unheard);
        };
        let question = Question { name, cloud, model };
        match self.answer(question, entries_of(cloud)).await {
            Some(entries) => {
                self.health.spoke();
                let entry = entries.iter().find(|entry| entry.name == *name);
                entry.map(Meaning::from).ok_or(SharedPromptError::Unknown)
            }
            None => Ok(Meaning::Unheard),
        }
    }

    /// Finds a prompt by what its name means.
    pub(crate) async fn find(
        &self,
        name: &PromptName,
        meaning: Meaning,
        filler: &Filler,
    ) -> Result<Found, SharedPromptError> {
        let (word, id, token_count, known) = match meaning {
            Meaning::Remembered { id, known } => {
                (Word::Others, id, known.tokens.len(), Some(known))
            }
            Meaning::Listed { id, token_count } => (Word::Clouds, id, token_count, None),
            Meaning::Unheard => return self.named((name, None), filler).await,
        };
        let wanted = Wanted {
            name,
            id,
            token_count,
            word,
        };
        self.planned(wanted, known, filler).await
    }

    /// Finds what the cloud means by a name now, from whoever has that.
    pub(crate) async fn renewed(
        &self,
        name: &PromptName,
        meaning: &Meaning,
        filler: &Filler,
    ) -> Result<Found, SharedPromptError> {
        let (model, asked_at) = (filler.model(), Instant::now());
        let codec = self.codec_for(meaning.token_count(), filler);
        let nearby = match meaning.id() {
            Some(id) => self.nearby(&id, model).await,
            None => None,
        };
        let offer = match nearby {
            Some(offer) => Some(offer),
            None => self.of_cloud((name, codec), model).await?,
        };
        let offer = offer.ok_or_else(|| self.no_answer())?;
        let planned = self.only(&offer, filler, asked_at);
        Ok(Found::offered(offer, Word::Clouds, planned))
    }

    /// From the cloud by name, perhaps with so many tokens. While it does not send it, from a
    /// neighbour: what that means by the name is not remembered.
    pub(crate) async fn named(
        &self,
        (name, token_count): (&PromptName, Option<usize>),
        filler: &Filler,
    ) -> Result<Found, SharedPromptError> {
        let (model, asked_at) = (filler.model(), Instant::now());
        let codec = self.codec_for(token_count, filler);
        let (offer, word) = match self.of_cloud((name, codec), model).await? {
            Some(offer) => (Some(offer), Word::Clouds),
            None => {
                let named = PromptRef::Named(name.clone());
                let offer = self.neighbours.offer(model, &named, &[]).await;
                (offer, Word::Others)
            }
        };
        let offer = offer.ok_or_else(|| match self.cloud {
            Some(_) => self.no_answer(),
            None => SharedPromptError::Unknown,
        })?;
        let planned = self.only(&offer, filler, asked_at);
        Ok(Found::offered(offer, word, planned))
    }

    /// What the cloud would send under a name; `None` if it sends nothing now.
    async fn of_cloud(
        &self,
        (name, codec): (&PromptName, KvDtype),
        model: &Arc<Model>,
    ) -> Result<Option<Offer>, SharedPromptError> {
        let Some(cloud) = self.asked_cloud() else {
            return Ok(None);
        };
        let named = PromptRef::Named(name.clone());
        let uplink = cloud.clone().asking_for(codec);
        let asked = async {
            match Offer::of_cloud(&uplink, model, named, LayerIndex(0)).await {
                Err(error) if is_unknown(&error) => Ok(None),
                offered => offered.map(Some),
            }
        };
        match self.answer(Question { name, cloud, model }, asked).await {
            Some(offered) => {
                self.health.answered();
                offered.map(Some).ok_or(SharedPromptError::Unknown)
            }
            None => Ok(None),
        }
    }

    /// The cloud, unless it is silent.
    pub(crate) fn asked_cloud(&self) -> Option<&Uplink> {
        self.cloud.as_ref().filter(|_| !self.health.is_silent())
    }

    /// The answer to what nobody but the cloud can answer, which has only so long.
    async fn answer<T>(
        &self,
        question: Question<'_>,
        asked: impl Future<Output = Result<T, CloudPromptError>>,
    ) -> Option<T> {
        let loss = match timeout(self.health.answer_patience(), asked).await {
            Ok(Ok(answer)) => return Some(answer),
            Ok(Err(error)) => error.loss(),
            Err(_) => silence(),
        };
        self.note(&loss, question);
        None
    }

    fn no_answer(&self) -> SharedPromptError {
        match (self.health.is_silent(), self.health.is_of_other_model()) {
            (true, _) => SharedPromptError::Silent,
            (_, true) => SharedPromptError::OtherModel,
            (false, false) => SharedPromptError::Unavailable,
        }
    }

    /// A prompt that need not come from the cloud.
    async fn nearby(&self, id: &PromptId, model: &Arc<Model>) -> Option<Offer> {
        if let Some(offer) = self.on_disk(id, model).await {
            return Some(offer);
        }
        let (prompt, cloud) = (PromptRef::Id(*id), self.cloud.as_slice());
        self.neighbours.offer(model, &prompt, cloud).await
    }

    pub(crate) async fn on_disk(&self, id: &PromptId, model: &Arc<Model>) -> Option<Offer> {
        let disk = Arc::clone(self.disk.as_ref()?);
        let reader = self.open(Arc::clone(&disk), *id).await?;
        let kept_as = reader.info().dtype;
        let wanted = self.codecs.smallest();
        if kept_as > wanted {
            // It stays until what is fetched now takes its place.
            tracing::info!(prompt = id.short(), %kept_as, %wanted, "what the disk has lost too much");
            return None;
        }
        let others = self.neighbours.uplinks().chain(&self.cloud);
        let others: Vec<_> = others.cloned().collect();
        match Offer::of_disk((Arc::clone(&disk), reader), model, others).await {
            Ok(offer) => Some(offer),
            Err(DiskMiss::OfOthers) => {
                tracing::debug!(prompt = id.short(), "on disk it is another model's");
                None
            }
            Err(DiskMiss::Damaged(problem)) => {
                let id = *id;
                // The thread says what fails.
                tokio::task::spawn_blocking(move || disk.put_aside(&id, &problem));
                None
            }
        }
    }

    async fn open(&self, disk: Arc<DiskCache>, id: PromptId) -> Option<SegmentReader<File>> {
        let opened = tokio::task::spawn_blocking(move || disk.open(&id)).await;
        // A thread that panicked has said so.
        opened.ok().flatten()
    }

    /// The cloud was asked in vain.
    pub(crate) fn note(&self, loss: &Loss, question: Question<'_>) {
        let Question { name, cloud, model } = question;
        // That is said once, whatever is asked for.
        if loss.reason != LossReason::OtherModel {
            tracing::warn!(%name, error = loss.detail, "a cloud prompt was not fetched");
        }
        self.health.failed(loss, cloud, model.digest);
    }

    /// What the cloud serves by name now; `None` where it does not say.
    pub(crate) async fn entries(&self, model: &Model) -> Option<Vec<PromptEntry>> {
        let cloud = self.cloud.as_ref()?;
        let asked = timeout(self.health.answer_patience(), entries_of(cloud)).await;
        let loss = match asked {
            Ok(Ok(entries)) => {
                self.health.spoke();
                return Some(entries);
            }
            Ok(Err(error)) => error.loss(),
            Err(_) => silence(),
        };
        tracing::debug!(
            error = loss.detail,
            "the cloud prompts were not revalidated"
        );
        self.health.failed(&loss, cloud, model.digest);
        None
    }

    /// Makes prompts that are used from memory the last ones to go from the disk.
    pub(crate) async fn mark_used(&self, ids: Vec<PromptId>) {
        let Some(disk) = self.disk.clone() else {
            return;
        };
        let marking = move || ids.iter().for_each(|id| disk.mark_used(id));
        // A thread that panicked has said so.
        let _ = tokio::task::spawn_blocking(marking).await;
    }

    async fn recall(&self, name: &PromptName, model: &Arc<Model>) -> Option<RememberedPrompt> {
        let (memory, name) = (self.memory.clone()?, name.clone());
        let model = Arc::clone(model);
        let recalled = tokio::task::spawn_blocking(move || memory.recall(&name, &model));
        // A thread that panicked has said so.
        recalled.await.ok().flatten()
    }

    /// Remembers what the cloud means by a name.
    pub(crate) fn remember(&self, name: &PromptName, prompt: RememberedPrompt) {
        if let Some(memory) = self.memory.clone() {
            let name = name.clone();
            tokio::task::spawn_blocking(move || memory.keep_or_warn(&name, &prompt));
        }
    }

    /// Forgets what a name meant, which means nothing any more.
    pub(crate) async fn forget(&self, name: &PromptName) {
        let Some(memory) = self.memory.clone() else {
            return;
        };
        let name = name.clone();
        // A thread that panicked has said so.
        let _ = tokio::task::spawn_blocking(move || memory.forget(&name)).await;
    }
}

/// Layers that will not come.
pub(crate) const fn unavailable(tokens: Vec<TokenId>, loss: Loss) -> Cloud {
    Cloud::Unavailable { tokens, loss }
}

/// What is known of a cloud that says nothing.
pub(crate) fn silence() -> Loss {
    Loss {
        reason: LossReason::Slow,
        detail: "the cloud says nothing for as long as it is worth waiting".to_owned(),
    }
}

/// Whether the cloud says that it has no such prompt.
pub(crate) const fn is_unknown(error: &CloudPromptError) -> bool {
    matches!(
        error,
        CloudPromptError::Fetch(FetchError::Refused(Refusal::UnknownPrompt { .. }))
    )
}

async fn entries_of(cloud: &Uplink) -> Result<Vec<PromptEntry>, CloudPromptError> {
    Ok(cloud.link().await?.list_prompts().await?)
}
