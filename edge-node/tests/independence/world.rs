//! A small model, an edge that joined, and clouds with faults, over real QUIC.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use burn::tensor::Device;
use edge_node::answer::{Answer, Cloud, Question, Stop, answer};
use edge_node::cloud_prompt::{CloudPrompt, CloudPromptError};
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
pub(crate) enum Fault {
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

pub(crate) struct World {
    pub(crate) model: Arc<Model>,
    pub(crate) identity: Arc<CloudIdentity>,
    pub(crate) edge: EdgeIdentity,
}

pub(crate) const PUBLIC_LEN: u32 = 24;

impl World {
    pub(crate) fn new() -> Self {
        let identity = CloudIdentity::in_memory().unwrap();
        let edge = EdgeIdentity::join(&identity.invite(INVITATION_LIFETIME).unwrap()).unwrap();
        let model = Arc::new(Model::dummy(ModelShape::Tiny, &Device::flex()));
        Self {
            model,
            identity: Arc::new(identity),
            edge,
        }
    }

    pub(crate) fn public() -> Vec<TokenId> {
        (1..=PUBLIC_LEN).map(TokenId).collect()
    }

    pub(crate) fn private() -> Vec<TokenId> {
        (30..40).map(TokenId).collect()
    }

    /// A cloud with a fault, and how many fetches it has seen.
    pub(crate) fn cloud(&self, fault: Fault) -> (SocketAddr, Arc<AtomicUsize>) {
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

    pub(crate) fn uplink(&self, addr: SocketAddr) -> Uplink {
        Uplink::new(&[addr], &self.edge, link_config()).unwrap()
    }

    pub(crate) async fn fetch(&self, uplink: &Uplink) -> Result<CloudPrompt, CloudPromptError> {
        CloudPrompt::fetch(uplink, &self.model, Self::prompt_ref()).await
    }

    /// The public tokens as the edge asks for them.
    pub(crate) fn prompt_ref() -> PromptRef {
        PromptRef::Public(PublicPrompt::Tokens(Self::public()))
    }

    /// The answer, which must be the single machine's whatever happens.
    pub(crate) async fn answer(&self, uplink: &Uplink) -> Answer {
        // Far beyond what a busy machine needs to resume a link.
        self.answer_within(uplink, Duration::from_secs(20)).await
    }

    pub(crate) async fn answer_within(&self, uplink: &Uplink, patience: Duration) -> Answer {
        self.answer_to(Self::private(), uplink, patience).await
    }

    pub(crate) async fn answer_to(
        &self,
        private: Vec<TokenId>,
        uplink: &Uplink,
        patience: Duration,
    ) -> Answer {
        let cloud = match self.fetch(uplink).await {
            Ok(prompt) => Cloud::Arriving(prompt),
            Err(error) => Cloud::Unavailable {
                tokens: Self::public(),
                loss: error.loss(),
            },
        };
        self.answer_on(cloud, private, patience).await
    }

    /// As [`World::answer`], on layers from wherever `cloud` says.
    pub(crate) async fn answer_on(
        &self,
        cloud: Cloud,
        private: Vec<TokenId>,
        patience: Duration,
    ) -> Answer {
        let whole = [Self::public(), private.clone()].concat();
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
pub(crate) fn link_config() -> LinkConfig {
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
pub(crate) enum Served {
    Well,
    CloseLink,
}

pub(crate) async fn serve(model: &Model, incoming: IncomingRequest, fault: Fault) -> Served {
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

pub(crate) fn manifest(model: &Model, fetch: &Fetch, fault: Fault) -> Manifest {
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

pub(crate) fn layers(model: &Model) -> Vec<LayerKv> {
    SegmentPrefill::start(model, &World::public())
        .map(|(_, view)| layer_from_view(&view, &model.geometry, KvDtype::F32).unwrap())
        .collect()
}
