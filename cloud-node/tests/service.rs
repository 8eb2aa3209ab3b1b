//! The cloud's service over real QUIC: many edges, one computation, clear refusals.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
// All of it is test code, so a panic is a failed test.
#![cfg(test)]

use std::net::Ipv4Addr;
use std::sync::Arc;

use burn::tensor::Device;
use cloud_node::compute::PromptComputer;
use cloud_node::library::ServedLibrary;
use cloud_node::running::RunningCloud;
use cloud_node::service::{CloudService, PublicPrompts};
use edgeprompt_engine::{SegmentPrefill, layer_from_view};
use edgeprompt_kv::{KvDtype, LayerIndex, LayerKv, LayerRange, ModelDigest, TokenId};
use edgeprompt_model::{Model, ModelShape};
use edgeprompt_protocol::{Fetch, KvSource, PromptRef, PublicPrompt, Refusal};
use edgeprompt_transport::{
    CloudIdentity, CloudLink, EdgeEndpoint, EdgeIdentity, FetchError, INVITATION_LIFETIME,
    LinkConfig,
};

struct Cloud {
    identity: CloudIdentity,
    computer: Arc<PromptComputer>,
    serving: RunningCloud,
}

fn model() -> Arc<Model> {
    Arc::new(Model::dummy(ModelShape::Tiny, &Device::flex()))
}

fn start(public_prompts: PublicPrompts) -> Cloud {
    let identity = CloudIdentity::in_memory().unwrap();
    let loopback = (Ipv4Addr::LOCALHOST, 0).into();
    let computer = PromptComputer::start(model(), 1 << 20);
    let service = CloudService {
        computer: Arc::clone(&computer),
        library: ServedLibrary::default(),
        public_prompts,
    };
    let serving = service.start(loopback, &identity, LinkConfig::default());
    Cloud {
        identity,
        computer,
        serving: serving.unwrap(),
    }
}

impl Cloud {
    async fn edge(&self) -> CloudLink {
        let token = self.identity.invite(INVITATION_LIFETIME).unwrap();
        let identity = EdgeIdentity::join(&token).unwrap();
        let loopback = (Ipv4Addr::LOCALHOST, 0).into();
        let edge = EdgeEndpoint::bind(loopback, &identity, LinkConfig::default()).unwrap();
        edge.connect(self.serving.addr()).await.unwrap()
    }

    fn fetch(&self, link: &CloudLink, tokens: Vec<u32>) -> Fetch {
        let tokens = tokens.into_iter().map(TokenId).collect();
        Fetch {
            fetch: link.next_fetch_id(),
            model: self.computer.model().digest,
            prompt: PromptRef::Public(PublicPrompt::Tokens(tokens)),
            layers: None,
            dtype: KvDtype::F32,
        }
    }

    async fn layers(
        &self,
        fetch: Fetch,
        link: &CloudLink,
    ) -> (KvSource, Vec<(LayerIndex, LayerKv)>) {
        let mut stream = link.fetch(fetch).await.unwrap();
        let source = stream.manifest().source;
        let mut layers = Vec::new();
        while let Some(layer) = stream.next_layer().await.unwrap() {
            layers.push((layer.layer, layer.kv));
        }
        layers.sort_by_key(|(layer, _)| *layer);
        (source, layers)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn many_edges_at_once_share_one_computation() {
    let cloud = Arc::new(start(PublicPrompts::Accepted));
    let mut asking = tokio::task::JoinSet::new();
    for _ in 0..12 {
        let cloud = Arc::clone(&cloud);
        asking.spawn(async move {
            let link = cloud.edge().await;
            cloud
                .layers(cloud.fetch(&link, (1..60).collect()), &link)
                .await
                .1
        });
    }
    let received = asking.join_all().await;
    let model = cloud.computer.model();
    let tokens: Vec<_> = (1..60).map(TokenId).collect();
    let expected: Vec<_> = SegmentPrefill::start(model, &tokens)
        .map(|(layer, view)| {
            let wire = layer_from_view(&view, &model.geometry, KvDtype::F32);
            (layer, wire.unwrap())
        })
        .collect();
    for layers in received {
        assert_eq!(layers, expected);
    }
    assert_eq!(cloud.computer.computed_count(), 1);

    let link = cloud.edge().await;
    let mut part = cloud.fetch(&link, (1..60).collect());
    part.layers = LayerRange::new(1, 3);
    let (source, layers) = cloud.layers(part, &link).await;
    assert_eq!(source, KvSource::Stored);
    assert_eq!(layers, expected[1..3]);
    assert_eq!(cloud.computer.computed_count(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_served_is_refused_with_a_reason() {
    let cloud = start(PublicPrompts::Accepted);
    let link = cloud.edge().await;
    let refusal = async |fetch: Fetch| match link.fetch(fetch).await {
        Err(FetchError::Refused(refusal)) => refusal,
        other => panic!("{other:?}"),
    };
    let fetch = |tokens| cloud.fetch(&link, tokens);

    let too_long = refusal(fetch(vec![1; 128])).await;
    assert_eq!(
        too_long,
        Refusal::PromptTooLong {
            token_count: 128,
            token_count_max: 127
        }
    );
    let outside = refusal(fetch(vec![1, 64])).await;
    assert!(
        outside
            .to_string()
            .contains("token 64 is outside the vocabulary of 64"),
        "{outside}"
    );
    let named = PromptRef::Named("nothing".parse().unwrap());
    let unknown = refusal(Fetch {
        prompt: named,
        ..fetch(vec![1])
    })
    .await;
    assert!(matches!(unknown, Refusal::UnknownPrompt { .. }));
    let other_model = Fetch {
        model: ModelDigest::new([0; 32]),
        ..fetch(vec![1])
    };
    let cloud_digest = cloud.computer.model().digest;
    assert_eq!(
        refusal(other_model).await,
        Refusal::ModelMismatch {
            cloud: cloud_digest
        }
    );
    let beyond = Fetch {
        layers: LayerRange::new(0, 7),
        ..fetch(vec![1])
    };
    assert_eq!(
        refusal(beyond).await,
        Refusal::LayersOutOfRange { layer_count: 6 }
    );
    assert_eq!(cloud.computer.computed_count(), 0);

    let closed = start(PublicPrompts::Refused);
    let link = closed.edge().await;
    let refused = link.fetch(closed.fetch(&link, vec![1])).await.unwrap_err();
    assert!(
        refused.to_string().contains("its own prompts only"),
        "{refused}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_number_format_is_sent_and_kept() {
    let cloud = start(PublicPrompts::Accepted);
    let link = cloud.edge().await;
    let (model, tokens) = (cloud.computer.model(), 1..60);
    let ids: Vec<_> = tokens.clone().map(TokenId).collect();
    let layer_count = model.decoder.layers().len();
    let mut kept_bytes = 0;
    // One that loses something comes first: it is encoded while the prompt is computed.
    for dtype in KvDtype::ALL.into_iter().rev() {
        let expected: Vec<_> = SegmentPrefill::start(model, &ids)
            .map(|(layer, view)| {
                (
                    layer,
                    layer_from_view(&view, &model.geometry, dtype).unwrap(),
                )
            })
            .collect();
        for _ in 0..2 {
            let fetch = cloud.fetch(&link, tokens.clone().collect());
            let (_, layers) = cloud.layers(Fetch { dtype, ..fetch }, &link).await;
            assert_eq!(layers, expected, "{dtype}");
        }
        kept_bytes += layer_count * model.geometry.layer_bytes(ids.len(), dtype);
    }
    assert_eq!(cloud.computer.computed_count(), 1);
    assert_eq!(cloud.computer.stored_bytes(), kept_bytes);
}
