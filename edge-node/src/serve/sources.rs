//! Where a server's cloud prompts come from, the nearest first: this disk, neighbour edges, the cloud,
//! and computing here. It finds out who has a prompt; the layers come through [`CloudPrompt`].
//!
//! A name means what the cloud last said that it means: what is remembered is used without asking,
//! and revalidated behind everybody's back.

use std::fs::File;
use std::sync::Arc;

use edgeprompt_kv::{PromptId, TokenId};
use edgeprompt_model::Model;
use edgeprompt_protocol::{PromptEntry, PromptName, PromptRef, Refusal};
use edgeprompt_segment_store::SegmentReader;
use edgeprompt_transport::FetchError;
use tokio::time::timeout;

use crate::answer::Cloud;
use crate::cloud_prompt::{CloudPrompt, CloudPromptError, Loss, LossReason};
use crate::disk_cache::DiskCache;
use crate::kv_origin::KvOrigin;
use crate::planner::Planner;
use crate::remembered::{RememberedPrompt, RememberedPrompts};
use crate::serve::cloud_health::CloudHealth;
use crate::serve::filling::Filler;
use crate::serve::neighbours::Neighbours;
use crate::serve::segments::SharedPromptError;
use crate::uplink::Uplink;

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
    /// How the cloud was when it was last asked.
    pub health: CloudHealth,
}

/// A prompt, and where its layers come from.
#[derive(Debug)]
pub(crate) struct Found {
    pub(crate) id: PromptId,
    pub(crate) known: RememberedPrompt,
    pub(crate) cloud: Cloud,
    pub(crate) origin: KvOrigin,
}

impl Found {
    fn arriving(prompt: CloudPrompt) -> Self {
        let manifest = &prompt.manifest;
        Self {
            id: manifest.prompt,
            known: RememberedPrompt {
                tokens: manifest.tokens.clone(),
                text: manifest.text.clone(),
            },
            origin: prompt.origin,
            cloud: Cloud::Arriving(prompt),
        }
    }

    fn computed(model: &Model, known: RememberedPrompt, cloud: Cloud) -> Self {
        Self {
            id: PromptId::of(&model.digest, &known.tokens),
            known,
            cloud,
            origin: KvOrigin::Local,
        }
    }
}

impl Sources {
    /// Finds the prompt of a name.
    pub(crate) async fn find(
        &self,
        name: &PromptName,
        filler: &Filler,
    ) -> Result<Found, SharedPromptError> {
        let model = filler.model();
        if let Some(known) = self.recall(name, model).await {
            let id = PromptId::of(&model.digest, &known.tokens);
            if let Some(found) = self.nearby(&id, model).await {
                return Ok(found);
            }
            return self.plan(name, known, filler).await;
        }
        let named = PromptRef::Named(name.clone());
        let Some(cloud) = &self.cloud else {
            let found = self.neighbours.fetch(model, &named, &[]).await;
            return found.map(Found::arriving).ok_or(SharedPromptError::Unknown);
        };
        if self.disk.is_some() || !self.neighbours.is_empty() {
            // A list is a few bytes; perhaps nothing else need come.
            if let Ok(id) = id_of(cloud, name).await {
                self.health.answered();
                let id = id.ok_or(SharedPromptError::Unknown)?;
                if let Some(found) = self.nearby(&id, model).await {
                    self.remember(name, &found);
                    return Ok(found);
                }
            }
        }
        match CloudPrompt::fetch(cloud, model, named.clone()).await {
            Ok(prompt) => {
                self.health.answered();
                let found = Found::arriving(prompt);
                self.remember(name, &found);
                Ok(found)
            }
            Err(error) => {
                self.check_refusal(name, &error)?;
                // What a neighbour means by a name is not remembered: only the cloud's word is.
                let found = self.neighbours.fetch(model, &named, &[]).await;
                found
                    .map(Found::arriving)
                    .ok_or(SharedPromptError::Unavailable)
            }
        }
    }

    /// A prompt that need not come from the cloud.
    async fn nearby(&self, id: &PromptId, model: &Arc<Model>) -> Option<Found> {
        if let Some(found) = self.on_disk(id, model).await {
            return Some(found);
        }
        let (prompt, cloud) = (PromptRef::Id(*id), self.cloud.as_slice());
        let fetched = self.neighbours.fetch(model, &prompt, cloud).await;
        fetched.map(Found::arriving)
    }

    async fn on_disk(&self, id: &PromptId, model: &Arc<Model>) -> Option<Found> {
        let disk = Arc::clone(self.disk.as_ref()?);
        let reader = self.open(Arc::clone(&disk), *id).await?;
        let others = self.neighbours.uplinks().chain(&self.cloud);
        let others: Vec<_> = others.cloned().collect();
        match CloudPrompt::of_disk((Arc::clone(&disk), reader), model, &others) {
            Ok(prompt) => Some(Found::arriving(prompt)),
            Err(problem) => {
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

    /// Layers of a prompt whose tokens are known: from the cloud as far as that is faster. A cloud
    /// that says nothing for as long as computing them would take is not waited for.
    async fn plan(
        &self,
        name: &PromptName,
        known: RememberedPrompt,
        filler: &Filler,
    ) -> Result<Found, SharedPromptError> {
        let (model, tokens) = (filler.model(), known.tokens.clone());
        let Some(uplink) = &self.cloud else {
            return Ok(Found::computed(model, known, Cloud::Here { tokens }));
        };
        if self.health.is_silent() {
            return Ok(Found::computed(
                model,
                known,
                unavailable(tokens, silence()),
            ));
        }
        let planner = Planner::new(filler.speed());
        let named = PromptRef::Named(name.clone());
        let obtained = planner.obtain(uplink, model, (named, tokens.clone()));
        let loss = match timeout(filler.patience(tokens.len()), obtained).await {
            Ok(Ok(Cloud::Arriving(prompt))) => {
                self.health.answered();
                let found = Found::arriving(prompt);
                self.remember(name, &found);
                return Ok(found);
            }
            Ok(Ok(cloud)) => return Ok(Found::computed(model, known, cloud)),
            Ok(Err(error)) => {
                self.check_refusal(name, &error)?;
                error.loss()
            }
            Err(_) => {
                let loss = silence();
                tracing::warn!(%name, error = loss.detail, "a cloud prompt was not fetched");
                loss
            }
        };
        match loss.reason {
            LossReason::Unreachable
            | LossReason::LinkLost
            | LossReason::Stalled
            | LossReason::Slow => self.health.fell_silent(uplink),
            LossReason::Refused | LossReason::Corrupt => {}
        }
        Ok(Found::computed(model, known, unavailable(tokens, loss)))
    }

    /// A cloud that has no such prompt is the one answer that a memory must not contradict.
    fn check_refusal(
        &self,
        name: &PromptName,
        error: &CloudPromptError,
    ) -> Result<(), SharedPromptError> {
        if let CloudPromptError::Fetch(FetchError::Refused(Refusal::UnknownPrompt { .. })) = error {
            self.health.answered();
            return Err(SharedPromptError::Unknown);
        }
        self.health.failed();
        tracing::warn!(%name, %error, "a cloud prompt was not fetched");
        Ok(())
    }

    /// Of the names and what they mean here, those that mean something else to the cloud now. What is
    /// remembered of them is forgotten. None where the cloud does not say.
    pub(crate) async fn changed(&self, here: Vec<(PromptName, PromptId)>) -> Vec<PromptName> {
        let Some(cloud) = &self.cloud else {
            return Vec::new();
        };
        let entries = match entries_of(cloud).await {
            Ok(entries) => entries,
            Err(error) => {
                tracing::debug!(%error, "the cloud prompts were not revalidated");
                return Vec::new();
            }
        };
        let is_same = |(name, id): &(PromptName, PromptId)| {
            let same = |entry: &PromptEntry| (&entry.name, &entry.prompt) == (name, id);
            entries.iter().any(same)
        };
        let changed = here.into_iter().filter(|named| !is_same(named));
        let changed: Vec<_> = changed.map(|(name, _)| name).collect();
        if let Some(memory) = self.memory.clone() {
            let names = changed.clone();
            let forgetting = move || names.iter().for_each(|name| memory.forget(name));
            // A thread that panicked has said so.
            let _ = tokio::task::spawn_blocking(forgetting).await;
        }
        changed
    }

    async fn recall(&self, name: &PromptName, model: &Arc<Model>) -> Option<RememberedPrompt> {
        let (memory, name) = (self.memory.clone()?, name.clone());
        let model = Arc::clone(model);
        let recalled = tokio::task::spawn_blocking(move || memory.recall(&name, &model));
        // A thread that panicked has said so.
        recalled.await.ok().flatten()
    }

    fn remember(&self, name: &PromptName, found: &Found) {
        let (Some(memory), Cloud::Arriving(prompt)) = (self.memory.clone(), &found.cloud) else {
            return;
        };
        let (name, manifest) = (name.clone(), prompt.manifest.clone());
        tokio::task::spawn_blocking(move || memory.keep_or_warn(&name, &manifest));
    }
}

/// Layers that will not come.
const fn unavailable(tokens: Vec<TokenId>, loss: Loss) -> Cloud {
    Cloud::Unavailable { tokens, loss }
}

/// What is known of a cloud that says nothing.
fn silence() -> Loss {
    Loss {
        reason: LossReason::Slow,
        detail: "the cloud says nothing for as long as computing here takes".to_owned(),
    }
}

/// What the cloud means by a name; `None` if it means nothing.
async fn id_of(cloud: &Uplink, name: &PromptName) -> Result<Option<PromptId>, CloudPromptError> {
    let entries = entries_of(cloud).await?;
    let mut named = entries.iter().filter(|entry| entry.name == *name);
    Ok(named.next().map(|entry| entry.prompt))
}

async fn entries_of(cloud: &Uplink) -> Result<Vec<PromptEntry>, CloudPromptError> {
    Ok(cloud.link().await?.list_prompts().await?)
}
