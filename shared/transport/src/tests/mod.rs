//! Links over real QUIC on loopback: identities, admission, fetches, and what peers do wrong.

mod admission;
mod estimates;
mod fetches;
mod floods;
mod hostile;
mod identities;
mod memory;
mod neighbours;
mod parity;
mod sessions;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use edgeprompt_kv::{
    KvDtype, KvGeometry, LayerIndex, LayerKv, LayerRange, ModelDigest, PromptId, TokenId,
};
use edgeprompt_protocol::{
    CloudRequest, Fetch, FetchId, KvSource, Manifest, PromptEntry, PromptRef, Refusal,
};
use tokio::task::JoinHandle;

use crate::{
    CloudEndpoint, CloudIdentity, CloudLink, ComputeSpan, EdgeEndpoint, EdgeIdentity,
    INVITATION_LIFETIME, IncomingRequest, LinkConfig, Timeouts,
};

const MODEL: ModelDigest = ModelDigest::new([7; 32]);
const LAYER_COUNT: u32 = 6;
const TOKEN_COUNT: u32 = 100;

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn config() -> LinkConfig {
    let connect = Duration::from_secs(3);
    LinkConfig {
        timeouts: Timeouts {
            connect,
            ..Timeouts::default()
        },
        ..LinkConfig::default()
    }
}

fn tokens() -> Vec<TokenId> {
    (0..TOKEN_COUNT).map(TokenId).collect()
}

fn prompt_id() -> PromptId {
    PromptId::of(&MODEL, &tokens())
}

fn fetch_of(id: u64) -> Fetch {
    let prompt = PromptRef::Id(prompt_id());
    Fetch {
        fetch: FetchId(id),
        model: MODEL,
        prompt,
        layers: None,
        dtype: KvDtype::F32,
    }
}

fn manifest_for(fetch: &Fetch) -> Manifest {
    Manifest {
        fetch: fetch.fetch,
        prompt: prompt_id(),
        model: MODEL,
        geometry: KvGeometry::new(LAYER_COUNT, 4, 64).unwrap(),
        dtype: fetch.dtype,
        layers: fetch.layers.unwrap_or(LayerRange::first(LAYER_COUNT)),
        tokens: tokens(),
        text: None,
        source: KvSource::Computing,
    }
}

/// A layer whose every byte says which layer it is.
fn layer_of(manifest: &Manifest, layer: LayerIndex) -> LayerKv {
    let byte = u8::try_from(layer.0 + 1).unwrap();
    let payload = Bytes::from(vec![byte; manifest.layer_bytes()]);
    let token_count = manifest.tokens.len();
    LayerKv::new(payload, &manifest.geometry, token_count, manifest.dtype).unwrap()
}

/// A trust domain with a cloud that listens and has not been told how to answer.
struct Domain {
    identity: CloudIdentity,
    cloud: CloudEndpoint,
    addr: SocketAddr,
}

impl Domain {
    fn start() -> Self {
        Self::start_with(config())
    }

    fn start_with(config: LinkConfig) -> Self {
        let identity = CloudIdentity::in_memory().unwrap();
        let cloud = CloudEndpoint::bind(any_port(), &identity, config).unwrap();
        let addr = cloud.local_addr().unwrap();
        Self {
            identity,
            cloud,
            addr,
        }
    }

    fn join(&self) -> EdgeIdentity {
        EdgeIdentity::join(&self.identity.invite(INVITATION_LIFETIME).unwrap()).unwrap()
    }

    /// A new edge, linked to a cloud that answers as [`answer`] does.
    async fn serve_edge(self) -> (CloudLink, EdgeEndpoint, JoinHandle<()>) {
        let edge = EdgeEndpoint::bind(any_port(), &self.join(), config()).unwrap();
        let addr = self.addr;
        let server = tokio::spawn(serve(self.cloud));
        (edge.connect(addr).await.unwrap(), edge, server)
    }
}

async fn serve(mut cloud: CloudEndpoint) {
    while let Some(mut link) = cloud.accept().await {
        tokio::spawn(async move {
            while let Some(request) = link.next_request().await {
                tokio::spawn(answer(request));
            }
        });
    }
}

/// Sends every layer asked for, the last one first: the receiver must not care.
async fn answer(incoming: IncomingRequest) {
    let IncomingRequest {
        request,
        received_at,
        responder,
    } = incoming;
    let fetch = match request {
        CloudRequest::Fetch(fetch) => fetch,
        CloudRequest::ListPrompts => {
            let name = "manual".parse().unwrap();
            let entry = PromptEntry {
                name,
                prompt: prompt_id(),
                token_count: TOKEN_COUNT,
            };
            return responder.prompts(vec![entry]).await.unwrap();
        }
    };
    if fetch.model != MODEL {
        return responder
            .refuse(Refusal::ModelMismatch { cloud: MODEL })
            .await
            .unwrap();
    }
    let manifest = manifest_for(&fetch);
    let sender = responder.manifest(&manifest).await.unwrap();
    let mut layers: Vec<_> = manifest.layers.iter().collect();
    layers.reverse();
    for layer in layers {
        let span = ComputeSpan::Computed {
            start: received_at,
            end: Instant::now(),
        };
        let sent = sender
            .send(layer, &layer_of(&manifest, layer), span)
            .await
            .unwrap();
        let overhead = 32 + 56;
        assert_eq!(sent.sent_bytes, manifest.layer_bytes() as u64 + overhead);
    }
    sender.finish().await.unwrap();
}

/// Reads all layers of a fetch and checks each against what [`answer`] sends.
async fn check_fetch(link: &CloudLink, fetch: Fetch) {
    let mut stream = link.fetch(fetch).await.unwrap();
    let manifest = Arc::new(stream.manifest().clone());
    let mut missing: Vec<_> = manifest.layers.iter().collect();
    while let Some(received) = stream.next_layer().await.unwrap() {
        assert_eq!(received.kv, layer_of(&manifest, received.layer));
        assert!(received.first_byte_at <= received.last_byte_at);
        assert!(received.timings.compute_start_us <= received.timings.compute_end_us);
        missing.retain(|layer| *layer != received.layer);
    }
    assert_eq!((missing, stream.remaining_count()), (Vec::new(), 0));
}
