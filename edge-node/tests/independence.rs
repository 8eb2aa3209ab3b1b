//! A cloud that is gone, dies half-way, stalls, lies about shapes or comes back: over real QUIC,
//! the answer is always the one a single machine gives, and the reason is told.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use burn::tensor::Device;
use edge_node::answer::{Answer, Cloud, Question, Stop, answer};
use edge_node::cloud_prompt::{CloudPrompt, CloudPromptError, LossReason};
use edge_node::patience::Patience;
use edge_node::private::PrivateTokens;
use edge_node::uplink::Uplink;
use edgeprompt_engine::{SegmentPrefill, Sequence, SequenceOptions, layer_from_view};
use edgeprompt_kv::{KvDtype, KvGeometry, LayerKv, LayerRange, PromptId, TokenId};
use edgeprompt_model::{Model, ModelShape};
use edgeprompt_protocol::{
    CloudRequest, Fetch, KvSource, Manifest, PromptRef, PublicPrompt, Refusal,
};
use edgeprompt_transport::{
    CloseReason, CloudEndpoint, CloudIdentity, ComputeSpan, EdgeIdentity, INVITATION_LIFETIME,
    IncomingRequest, LinkConfig, Timeouts,
};

/// What a cloud does with the first fetch; later ones it serves well.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    None,
    Refuse,
    OtherGeometry,
    /// Closes the link after so many layers.
    CloseAfter(usize),
    /// Gives the fetch up after so many layers.
    AbandonAfter(usize),
    /// Sends so many layers, then nothing more, for ever.
    StallAfter(usize),
    /// As `CloseAfter`, on every fetch.
    AlwaysCloseAfter(usize),
    /// Gives the first fetch up, and answers later ones for another shape.
    ThenOtherGeometry,
}

struct World {
    model: Arc<Model>,
    identity: Arc<CloudIdentity>,
    edge: EdgeIdentity,
}

const PUBLIC_LEN: u32 = 24;

impl World {
    fn new() -> Self {
        let identity = CloudIdentity::in_memory().unwrap();
        let edge = EdgeIdentity::join(&identity.invite(INVITATION_LIFETIME).unwrap()).unwrap();
        let model = Arc::new(Model::dummy(ModelShape::Tiny, &Device::flex()));
        Self {
            model,
            identity: Arc::new(identity),
            edge,
        }
    }

    fn public() -> Vec<TokenId> {
        (1..=PUBLIC_LEN).map(TokenId).collect()
    }

    fn private() -> Vec<TokenId> {
        (30..40).map(TokenId).collect()
    }

    /// A cloud with a fault, and how many fetches it has seen.
    fn cloud(&self, fault: Fault) -> (SocketAddr, Arc<AtomicUsize>) {
        let loopback = (Ipv4Addr::LOCALHOST, 0).into();
        let mut endpoint = CloudEndpoint::bind(loopback, &self.identity, link_config()).unwrap();
        let addr = endpoint.local_addr().unwrap();
        let fetches = Arc::new(AtomicUsize::new(0));
        let (model, counter) = (Arc::clone(&self.model), Arc::clone(&fetches));
        tokio::spawn(async move {
            while let Some(mut link) = endpoint.accept().await {
                let (model, counter) = (Arc::clone(&model), Arc::clone(&counter));
                tokio::spawn(async move {
                    while let Some(request) = link.next_request().await {
                        let first = counter.fetch_add(1, Ordering::SeqCst) == 0;
                        let fault = match (fault, first) {
                            (Fault::ThenOtherGeometry, false) => Fault::OtherGeometry,
                            (_, true) | (Fault::AlwaysCloseAfter(_), false) => fault,
                            (_, false) => Fault::None,
                        };
                        if serve(&model, request, fault).await == Served::CloseLink {
                            link.close(CloseReason::Internal);
                        }
                    }
                });
            }
        });
        (addr, fetches)
    }

    fn uplink(&self, addr: SocketAddr) -> Uplink {
        Uplink::new(&[addr], &self.edge, link_config()).unwrap()
    }

    async fn fetch(&self, uplink: &Uplink) -> Result<CloudPrompt, CloudPromptError> {
        let public = PromptRef::Public(PublicPrompt::Tokens(Self::public()));
        CloudPrompt::fetch(uplink, &self.model, public).await
    }

    /// The answer, which must be the single machine's whatever happens.
    async fn answer(&self, uplink: &Uplink) -> Answer {
        // Far beyond what a busy machine needs to resume a link.
        self.answer_within(uplink, Duration::from_secs(20)).await
    }

    async fn answer_within(&self, uplink: &Uplink, patience: Duration) -> Answer {
        self.answer_to(Self::private(), uplink, patience).await
    }

    async fn answer_to(
        &self,
        private: Vec<TokenId>,
        uplink: &Uplink,
        patience: Duration,
    ) -> Answer {
        let whole = [Self::public(), private.clone()].concat();
        let cloud = match self.fetch(uplink).await {
            Ok(prompt) => Cloud::Arriving(prompt),
            Err(error) => Cloud::Unavailable {
                tokens: Self::public(),
                loss: error.loss(),
            },
        };
        let model = Arc::clone(&self.model);
        let answered = tokio::task::spawn_blocking(move || {
            let private = PrivateTokens::new(private);
            let question = Question {
                model: &model,
                private: &private,
                options: SequenceOptions::default(),
                max_tokens: 12,
                stop: Stop::AtLengthOnly,
                patience: Patience::Limited(patience),
                asked_at: Instant::now(),
            };
            answer(&question, cloud, |_| {})
        });
        let answered = answered.await.unwrap();
        let mut alone = Sequence::new(&self.model, None, SequenceOptions::default());
        let expected = alone.generate_greedy(&whole, 12);
        assert!(answered.tokens.for_engine() == expected, "a wrong answer");
        answered
    }
}

/// Short waits, so that a stalled cloud is noticed within a test.
fn link_config() -> LinkConfig {
    let second = Duration::from_secs(1);
    let timeouts = Timeouts {
        connect: second,
        layer: second,
        ..Timeouts::default()
    };
    LinkConfig {
        timeouts,
        ..LinkConfig::default()
    }
}

#[derive(PartialEq)]
enum Served {
    Well,
    CloseLink,
}

async fn serve(model: &Model, incoming: IncomingRequest, fault: Fault) -> Served {
    let CloudRequest::Fetch(fetch) = incoming.request else {
        panic!("only fetches are sent")
    };
    if fault == Fault::Refuse {
        incoming.responder.refuse(Refusal::Internal).await.unwrap();
        return Served::Well;
    }
    let manifest = manifest(model, &fetch, fault);
    let layers = layers(model);
    // A request may still come on a link that is being closed.
    let Ok(sender) = incoming.responder.manifest(&manifest).await else {
        return Served::Well;
    };
    let limit = match fault {
        Fault::CloseAfter(n) | Fault::AbandonAfter(n) | Fault::StallAfter(n) => n,
        Fault::AlwaysCloseAfter(n) => n,
        Fault::OtherGeometry | Fault::ThenOtherGeometry => 0,
        Fault::None | Fault::Refuse => layers.len(),
    };
    for layer in manifest.layers.iter().take(limit) {
        let _ = sender
            .send(layer, &layers[layer.as_usize()], ComputeSpan::Stored)
            .await;
    }
    match fault {
        Fault::CloseAfter(_) | Fault::AlwaysCloseAfter(_) => return Served::CloseLink,
        Fault::StallAfter(_) | Fault::OtherGeometry => {
            tokio::spawn(async move {
                let _held = sender;
                std::future::pending::<()>().await;
            });
        }
        Fault::AbandonAfter(_) | Fault::ThenOtherGeometry => drop(sender),
        Fault::None | Fault::Refuse => sender.finish().await.unwrap(),
    }
    Served::Well
}

fn manifest(model: &Model, fetch: &Fetch, fault: Fault) -> Manifest {
    let PromptRef::Public(PublicPrompt::Tokens(tokens)) = fetch.prompt.clone() else {
        panic!("only public tokens are asked for")
    };
    let geometry = match fault {
        Fault::OtherGeometry => KvGeometry::new(6, 2, 16).unwrap(),
        _ => model.geometry,
    };
    Manifest {
        fetch: fetch.fetch,
        prompt: PromptId::of(&model.digest, &tokens),
        model: model.digest,
        geometry,
        dtype: KvDtype::F32,
        layers: fetch
            .layers
            .unwrap_or_else(|| LayerRange::first(geometry.layer_count())),
        tokens,
        text: None,
        source: KvSource::Stored,
    }
}

fn layers(model: &Model) -> Vec<LayerKv> {
    SegmentPrefill::start(model, &World::public())
        .map(|(_, view)| layer_from_view(&view, &model.geometry, KvDtype::F32).unwrap())
        .collect()
}

/// A cloud with a fault: how many layers the edge computed, and why.
async fn recomputed(fault: Fault) -> (Option<(usize, LossReason)>, usize) {
    let world = World::new();
    let (addr, fetches) = world.cloud(fault);
    let answered = world.answer(&world.uplink(addr)).await;
    let recomputed = answered.recomputed.map(|r| (r.layer_count, r.loss.reason));
    (recomputed, fetches.load(Ordering::SeqCst))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cloud_without_faults_sends_everything() {
    assert_eq!(recomputed(Fault::None).await, (None, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_link_is_resumed_with_the_missing_layers_only() {
    for fault in [
        Fault::CloseAfter(0),
        Fault::CloseAfter(3),
        Fault::AbandonAfter(4),
    ] {
        let (recomputed, fetches) = recomputed(fault).await;
        assert_eq!(recomputed, None, "{fault:?}");
        assert!(fetches >= 2, "{fault:?}: it was asked again");
    }
    let world = World::new();
    let (addr, _) = world.cloud(Fault::AbandonAfter(4));
    let answered = world.answer(&world.uplink(addr)).await;
    let layer = world
        .model
        .geometry
        .layer_bytes(PUBLIC_LEN as usize, KvDtype::F32) as u64;
    assert_eq!(answered.received_bytes, 6 * layer, "every layer once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cloud_that_keeps_dying_is_given_up() {
    let (recomputed, fetches) = recomputed(Fault::AlwaysCloseAfter(0)).await;
    let (layer_count, reason) = recomputed.expect("nothing came");
    assert_eq!(layer_count, 6);
    assert!(
        matches!(
            reason,
            LossReason::LinkLost | LossReason::Stalled | LossReason::Slow
        ),
        "{reason:?}"
    );
    assert!(fetches >= 2, "it was asked again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stalled_cloud_is_waited_for_only_as_long_as_patience_lasts() {
    let world = World::new();
    let (addr, _) = world.cloud(Fault::StallAfter(0));
    let answered = world
        .answer_within(&world.uplink(addr), Duration::from_millis(50))
        .await;
    let lost = answered.recomputed.unwrap();
    assert_eq!((lost.layer_count, lost.loss.reason), (6, LossReason::Slow));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_resumed_fetch_must_be_of_the_same_shape() {
    let (layer_count, reason) = recomputed(Fault::ThenOtherGeometry).await.0.unwrap();
    assert_eq!(layer_count, 6);
    // If the cloud gave up before its manifest arrived, the second fetch counts as the first.
    assert!(
        matches!(reason, LossReason::Refused | LossReason::Corrupt),
        "{reason:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refusals_and_wrong_shapes_are_told_apart() {
    assert_eq!(
        recomputed(Fault::Refuse).await.0,
        Some((6, LossReason::Refused))
    );
    assert_eq!(
        recomputed(Fault::OtherGeometry).await.0,
        Some((6, LossReason::Corrupt))
    );
    let world = World::new();
    let answered = world
        .answer(&world.uplink((Ipv4Addr::LOCALHOST, 1).into()))
        .await;
    let lost = answered.recomputed.unwrap();
    assert_eq!(
        (lost.layer_count, lost.loss.reason),
        (6, LossReason::Unreachable)
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restarted_cloud_is_rejoined_without_a_restart_of_the_edge() {
    let world = World::new();
    let loopback = (Ipv4Addr::LOCALHOST, 0).into();
    let first = CloudEndpoint::bind(loopback, &world.identity, link_config()).unwrap();
    let addr = first.local_addr().unwrap();
    let uplink = world.uplink(addr);
    // Nobody serves requests there; the link itself is made, then the cloud goes.
    let accepting = tokio::spawn(async move {
        let mut first = first;
        let admitted = first.accept().await;
        (first, admitted)
    });
    let link = uplink.link().await.unwrap();
    let (first, admitted) = accepting.await.unwrap();
    drop(admitted);
    first.drain().await;
    link.closed().await;
    let down = world.answer(&uplink).await.recomputed.unwrap();
    assert_eq!(down.loss.reason, LossReason::Unreachable);

    let mut again = CloudEndpoint::bind(addr, &world.identity, link_config()).unwrap();
    let model = Arc::clone(&world.model);
    tokio::spawn(async move {
        let mut link = again.accept().await.unwrap();
        while let Some(request) = link.next_request().await {
            serve(&model, request, Fault::None).await;
        }
    });
    assert_eq!(world.answer(&uplink).await.recomputed, None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn requests_are_the_same_bytes_whatever_the_private_prompt_is() {
    let world = World::new();
    let (addr, _) = world.cloud(Fault::None);
    let mut requests = Vec::new();
    for private in [vec![5], (1..60).collect(), vec![63; 17], vec![1, 2, 3]] {
        let private: Vec<TokenId> = private.into_iter().map(TokenId).collect();
        let uplink = world.uplink(addr);
        world
            .answer_to(private, &uplink, Duration::from_secs(20))
            .await;
        requests.push(uplink.sent().bytes());
    }
    assert!(!requests[0].is_empty());
    assert!(requests.iter().all(|request| *request == requests[0]));
}
