//! Serving edges: sends the layers of what each request names as they become ready. Every request
//! has a task of its own, so an edge that reads slowly holds up nobody but itself.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use edgeprompt_kv::TokenId;
use edgeprompt_protocol::{CloudRequest, Fetch, PromptEntry, Refusal};
use edgeprompt_telemetry::names;
use edgeprompt_transport::{
    CloudEndpoint, EdgeLink, IncomingRequest, LayerSender, RespondError, Responder, SendLayerError,
};
use tokio::sync::watch;
use tokio::task::JoinSet;

use crate::compute::PromptComputer;
use crate::library::ServedLibrary;
use crate::resolve::{Asker, Resolver};
use crate::served_prompt::{ComputationLost, ServedPrompt};

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
    pub library: ServedLibrary,
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

/// A cloud that serves.
struct Serving {
    resolver: Resolver,
    draining: AtomicBool,
}

/// Counts a link for as long as it is served, however that ends.
struct ConnectedEdge;

impl CloudService {
    /// Accepts edges until `shutdown` says so, then lets what is under way end.
    pub async fn run(
        self: Arc<Self>,
        mut endpoint: CloudEndpoint,
        mut shutdown: watch::Receiver<bool>,
    ) {
        let serving = Arc::new(Serving {
            resolver: Resolver::new(self),
            draining: AtomicBool::new(false),
        });
        let mut links = JoinSet::new();
        loop {
            tokio::select! {
                link = endpoint.accept() => match link {
                    Some(link) => {
                        links.spawn(Arc::clone(&serving).serve_link(link));
                    }
                    None => return,
                },
                Some(_) = links.join_next() => {}
                // A dropped sender means that whoever could ask for a shutdown is gone.
                _ = shutdown.wait_for(|stop| *stop) => break,
            }
        }
        serving.draining.store(true, Ordering::Release);
        endpoint.drain().await;
        // What the drain did not wait for has nobody to send to any more.
        links.shutdown().await;
    }

    fn entries(&self) -> Vec<PromptEntry> {
        let count = |tokens: &[TokenId]| u32::try_from(tokens.len()).unwrap_or(u32::MAX);
        self.library
            .now()
            .iter()
            .map(|(name, prompt)| PromptEntry {
                name: name.clone(),
                prompt: prompt.id,
                token_count: count(&prompt.tokens),
            })
            .collect()
    }
}

impl Serving {
    async fn serve_link(self: Arc<Self>, mut link: EdgeLink) {
        let _connected = ConnectedEdge::begin();
        tracing::info!(edge = link.peer_name(), "edge connected");
        let asker = Arc::new(Asker::new(link.peer_name()));
        let mut requests = JoinSet::new();
        loop {
            tokio::select! {
                request = link.next_request() => match request {
                    Some(request) => {
                        requests.spawn(Arc::clone(&self).serve_request(request, Arc::clone(&asker)));
                    }
                    None => break,
                },
                Some(_) = requests.join_next() => {}
            }
        }
        // A drain takes no more requests and lets these end. Otherwise the edge is gone, and with
        // it whoever waited: nothing must be computed for it any more.
        if self.draining.load(Ordering::Acquire) {
            while requests.join_next().await.is_some() {}
        }
        tracing::info!(edge = link.peer_name(), "edge gone");
    }

    async fn serve_request(self: Arc<Self>, incoming: IncomingRequest, asker: Arc<Asker>) {
        let responder = incoming.responder;
        let served = match incoming.request {
            CloudRequest::ListPrompts => {
                let listed = responder.prompts(self.resolver.cloud.entries()).await;
                listed.map_err(ServeError::from)
            }
            CloudRequest::Fetch(fetch) => self.serve_fetch(&fetch, responder, &asker).await,
        };
        if let Err(error) = served {
            tracing::info!(%error, "request ended early");
        }
    }

    async fn serve_fetch(
        &self,
        fetch: &Fetch,
        responder: Responder,
        asker: &Asker,
    ) -> Result<(), ServeError> {
        match self.resolver.prepare(fetch, asker).await {
            Err(refusal) => {
                let reason = reason(&refusal);
                metrics::counter!(names::CLOUD_REFUSALS_TOTAL, names::REASON => reason)
                    .increment(1);
                tracing::info!(%refusal, "fetch refused");
                Ok(responder.refuse(refusal).await?)
            }
            Ok((manifest, prompt)) => {
                send_layers(responder.manifest(&manifest).await?, prompt).await
            }
        }
    }
}

impl ConnectedEdge {
    fn begin() -> Self {
        metrics::gauge!(names::CLOUD_EDGES_CONNECTED).increment(1.0);
        Self
    }
}

impl Drop for ConnectedEdge {
    fn drop(&mut self) {
        metrics::gauge!(names::CLOUD_EDGES_CONNECTED).decrement(1.0);
    }
}

async fn send_layers(sender: LayerSender, mut prompt: ServedPrompt) -> Result<(), ServeError> {
    for layer in sender.manifest().layers.iter() {
        let (kv, span) = tokio::select! {
            biased;
            // A prompt that nobody waits for any more loses its turn.
            () = sender.withdrawn() => return Err(SendLayerError::Withdrawn.into()),
            computed = prompt.layer(layer) => computed?,
        };
        sender.send(layer, &kv, span).await?;
        metrics::counter!(names::CLOUD_LAYERS_SENT_TOTAL).increment(1);
        metrics::counter!(names::CLOUD_KV_BYTES_TRANSFERRED_TOTAL)
            .increment(kv.payload().len() as u64);
    }
    sender.finish().await?;
    Ok(())
}

/// Begins the counters of a cloud: one that appears first with a one has no rate.
pub(crate) fn begin_counters() {
    for name in [
        names::CLOUD_PROMPTS_COMPUTED_TOTAL,
        names::CLOUD_LAYERS_SENT_TOTAL,
        names::CLOUD_KV_BYTES_TRANSFERRED_TOTAL,
    ] {
        metrics::counter!(name).increment(0);
    }
    for reason in REASONS {
        metrics::counter!(names::CLOUD_REFUSALS_TOTAL, names::REASON => reason).increment(0);
    }
}

/// What [`reason`] may say.
pub(crate) const REASONS: [&str; 9] = [
    "unknown_prompt",
    "model_mismatch",
    "prompt_too_long",
    "prompt_empty",
    "public_prompt",
    "dtype",
    "layers",
    "busy",
    "internal",
];

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

#[cfg(test)]
mod tests {
    use edgeprompt_kv::{KvDtype, ModelDigest};
    use edgeprompt_protocol::PublicPromptProblem;

    use super::*;

    #[test]
    fn every_reason_has_a_counter_from_the_start() {
        let one = 1;
        let refusals = [
            Refusal::UnknownPrompt {
                name: "desk".parse().unwrap(),
            },
            Refusal::UnknownPromptId,
            Refusal::ModelMismatch {
                cloud: ModelDigest::new([0; 32]),
            },
            Refusal::PromptTooLong {
                token_count: one,
                token_count_max: one,
            },
            Refusal::PromptEmpty,
            Refusal::PublicPromptRefused(PublicPromptProblem::NotOffered),
            Refusal::UnsupportedDtype {
                dtype: KvDtype::F32,
            },
            Refusal::LayersOutOfRange { layer_count: one },
            Refusal::Busy {
                waiting_count_max: one,
            },
            Refusal::Internal,
        ];
        let mut said: Vec<_> = refusals.iter().map(reason).collect();
        said.dedup();
        assert_eq!(said, REASONS);
    }
}
