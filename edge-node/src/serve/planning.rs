//! Asks for a cloud prompt's layers where the planner expects them soonest, and elsewhere if they are
//! not to be had there.

use std::time::Instant;

use edgeprompt_kv::{KvDtype, LayerIndex, PromptId};
use edgeprompt_protocol::{PromptName, PromptRef};
use tokio::time::timeout;

use crate::answer::Cloud;
use crate::cloud_prompt::Offer;
use crate::kv_origin::KvOrigin;
use crate::planner::{FromCloud, Job, Known, OnDisk, Peer, Plan, Source, Tokens, Ways};
use crate::remembered::RememberedPrompt;
use crate::serve::filling::Filler;
use crate::serve::plan_log::Planned;
use crate::serve::segments::SharedPromptError;
use crate::serve::sources::{Found, Question, Sources, Word, is_unknown, silence, unavailable};
use crate::wire_codec::Codecs;

/// A prompt that is to be found.
#[derive(Clone, Copy)]
pub(crate) struct Wanted<'a> {
    pub(crate) name: &'a PromptName,
    pub(crate) id: PromptId,
    pub(crate) token_count: usize,
    /// Who says that the name means it.
    pub(crate) word: Word,
}

impl Sources {
    /// Finds a prompt by its id where its layers are expected soonest; `known` if this edge remembers
    /// its tokens.
    pub(crate) async fn planned(
        &self,
        wanted: Wanted<'_>,
        known: Option<RememberedPrompt>,
        filler: &Filler,
    ) -> Result<Found, SharedPromptError> {
        let (model, planned_at) = (filler.model(), Instant::now());
        let mut disk = self.on_disk(&wanted.id, model).await;
        // A segment has its prompt's tokens in its head.
        let known = known.or_else(|| Some((&disk.as_ref()?.manifest).into()));
        let mut ways = self.ways(known.as_ref());
        ways.disk = disk.as_ref().map(|offer| self.kept(offer));
        let job = Job::new(model.geometry, wanted.token_count);
        let (prompt, mut round) = (PromptRef::Id(wanted.id), self.neighbours.round());
        while let Some(plan) = filler.planner().plan(&job, &ways) {
            let source = plan.source();
            let planned = Planned { plan, planned_at };
            let offer = match source {
                Source::Disk => {
                    ways.disk = None;
                    disk.take()
                }
                Source::Peer(index) => {
                    ways.peers.retain(|peer| peer.index != index);
                    let cloud = self.cloud.as_slice();
                    round.offer_of(index, model, &prompt, cloud).await
                }
                Source::Memory | Source::Cloud | Source::Local | Source::Hybrid(_) => {
                    let Some(known) = known else { break };
                    return self.cloud_or_here(wanted, known, (filler, planned)).await;
                }
            };
            if let Some(offer) = offer {
                return Ok(Found::offered(offer, wanted.word, Some(planned)));
            }
        }
        let token_count = Some(wanted.token_count);
        self.named((wanted.name, token_count), filler).await
    }

    /// The number format in which to ask the cloud: the fastest by the plan, the smallest where nothing is
    /// known of the prompt or of the link.
    pub(crate) fn codec_for(&self, token_count: Option<usize>, filler: &Filler) -> KvDtype {
        let job = token_count.map(|count| Job::new(filler.model().geometry, count));
        let cloud = self.ways(None).cloud;
        let only = Ways {
            cloud,
            ..Ways::default()
        };
        let plan = job.and_then(|job| filler.planner().plan(&job, &only));
        let codec = plan.as_ref().and_then(Plan::codec);
        codec.unwrap_or_else(|| self.codecs.smallest())
    }

    /// What was foretold of the only source that was asked.
    pub(crate) fn only(
        &self,
        offer: &Offer,
        filler: &Filler,
        planned_at: Instant,
    ) -> Option<Planned> {
        let (mut ways, dtype) = (Ways::default(), offer.manifest.dtype);
        match offer.origin {
            KvOrigin::Disk => ways.disk = Some(self.kept(offer)),
            KvOrigin::Peer => ways.peers.push(Peer {
                index: 0,
                dtype,
                speed: Known::Unmeasured,
            }),
            _ => {
                let codecs = Codecs::Only(dtype);
                let cloud = self.ways(None).cloud;
                ways.cloud = cloud.map(|cloud| FromCloud { codecs, ..cloud });
            }
        }
        let job = Job::new(filler.model().geometry, offer.manifest.tokens.len());
        let plan = filler.planner().plan(&job, &ways)?;
        Some(Planned { plan, planned_at })
    }

    /// What there is beside the disk.
    fn ways(&self, known: Option<&RememberedPrompt>) -> Ways {
        Ways {
            peers: self.neighbours.peers(),
            cloud: self.asked_cloud().map(|it| FromCloud {
                codecs: self.codecs,
                speed: it.fresh_estimate().into(),
            }),
            tokens: match known {
                Some(_) => Tokens::Known,
                None => Tokens::Unknown,
            },
            ..Ways::default()
        }
    }

    /// What is known of a disk that offers a prompt.
    fn kept(&self, offer: &Offer) -> OnDisk {
        let disk = self.disk.as_ref();
        OnDisk {
            dtype: offer.manifest.dtype,
            speed: disk
                .and_then(|disk| disk.fresh_speed(Instant::now()))
                .into(),
        }
    }

    /// Layers of a prompt whose tokens are known: from the cloud as far as is planned. A cloud that
    /// says nothing for as long as computing them would take is not waited for.
    async fn cloud_or_here(
        &self,
        wanted: Wanted<'_>,
        known: RememberedPrompt,
        (filler, planned): (&Filler, Planned),
    ) -> Result<Found, SharedPromptError> {
        let (name, model, tokens) = (wanted.name, filler.model(), known.tokens.clone());
        let first = planned.plan.first_to_fetch();
        let (uplink, loss) = match (&self.cloud, self.asked_cloud()) {
            (None, _) => (None, None),
            (Some(_), None) => (None, Some(silence())),
            (Some(_), Some(cloud)) => (Some(cloud), None),
        };
        let is_asked = first < LayerIndex(model.geometry.layer_count());
        let Some(uplink) = uplink.filter(|_| is_asked) else {
            let cloud = match loss {
                Some(loss) => unavailable(tokens, loss),
                None => Cloud::Here { tokens },
            };
            return Ok(Found::computed(wanted, known, (cloud, planned)));
        };
        let named = PromptRef::Named(name.clone());
        let codec = planned
            .plan
            .codec()
            .unwrap_or_else(|| self.codecs.smallest());
        let asking = uplink.clone().asking_for(codec);
        let offered = Offer::of_cloud(&asking, model, named, first);
        let loss = match timeout(filler.patience(tokens.len()), offered).await {
            Ok(Ok(offer)) => {
                self.health.answered();
                return Ok(Found::offered(offer, Word::Clouds, Some(planned)));
            }
            // The one answer that a memory must not contradict.
            Ok(Err(error)) if is_unknown(&error) => {
                self.health.answered();
                return Err(SharedPromptError::Unknown);
            }
            Ok(Err(error)) => error.loss(),
            Err(_) => silence(),
        };
        let cloud = uplink;
        self.note(&loss, Question { name, cloud, model });
        let cloud = unavailable(tokens, loss);
        Ok(Found::computed(wanted, known, (cloud, planned)))
    }
}

#[cfg(test)]
mod tests;
