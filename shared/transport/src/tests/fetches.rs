//! Fetches as they should go, and how either side ends them early.

use std::time::Instant;

use edgeprompt_kv::{LayerIndex, LayerRange, ModelDigest, PromptId};
use edgeprompt_protocol::codec::encode_to_cloud;
use edgeprompt_protocol::{CloudRequest, Fetch, Manifest, PromptRef, PublicPrompt, Refusal};

use super::{Domain, MODEL, any_port, check_fetch, config, fetch_of, layer_of, manifest_for};
use crate::{
    CloseReason, ComputeSpan, EdgeEndpoint, EdgeLink, FetchError, IncomingRequest, LayerSender,
    LayerStream, LayerStreamError, LinkLost, ManifestMismatch, SendLayerError, SentMessages,
};

/// A link whose cloud end is in the test's hands, an open fetch on it and the sender of its layers.
async fn open_fetch() -> (LayerStream, LayerSender, EdgeLink, EdgeEndpoint, Domain) {
    let mut domain = Domain::start();
    let edge = EdgeEndpoint::bind(any_port(), &domain.join(), config()).unwrap();
    let link = edge.connect(domain.addr).await.unwrap();
    let mut edge_link = domain.cloud.accept().await.unwrap();
    let fetching = tokio::spawn(async move { link.fetch(fetch_of(1)).await.unwrap() });
    let IncomingRequest { responder, .. } = edge_link.next_request().await.unwrap();
    let sender = responder
        .manifest(&manifest_for(&fetch_of(1)))
        .await
        .unwrap();
    (fetching.await.unwrap(), sender, edge_link, edge, domain)
}

/// The error of a fetch that is answered with `change` of the right manifest.
async fn answered_with(change: impl FnOnce(&mut Manifest)) -> FetchError {
    let mut domain = Domain::start();
    let edge = EdgeEndpoint::bind(any_port(), &domain.join(), config()).unwrap();
    let link = edge.connect(domain.addr).await.unwrap();
    let mut edge_link = domain.cloud.accept().await.unwrap();
    let fetching = tokio::spawn(async move { link.fetch(fetch_of(1)).await });
    let IncomingRequest { responder, .. } = edge_link.next_request().await.unwrap();
    let mut manifest = manifest_for(&fetch_of(1));
    change(&mut manifest);
    let _sender = responder.manifest(&manifest).await.unwrap();
    fetching.await.unwrap().unwrap_err()
}

#[tokio::test]
async fn layers_arrive_whole_and_checked() {
    let (link, _edge, _server) = Domain::start().serve_edge().await;
    check_fetch(&link, fetch_of(1)).await;
    let some = LayerRange::new(2, 4);
    check_fetch(
        &link,
        Fetch {
            layers: some,
            ..fetch_of(2)
        },
    )
    .await;
    let stats = link.stats();
    assert!(stats.received_bytes > 8 * 4 * 64 * 100 * 8, "{stats:?}");
    assert!(stats.sent_bytes > 0 && !stats.rtt.is_zero());
}

#[tokio::test]
async fn fetches_of_one_link_run_side_by_side() {
    let (link, _edge, _server) = Domain::start().serve_edge().await;
    let ids = (0..8).map(|_| link.next_fetch_id().0);
    let fetches: Vec<_> = ids
        .map(|id| {
            let link = link.clone();
            tokio::spawn(async move { check_fetch(&link, fetch_of(id)).await })
        })
        .collect();
    for fetch in fetches {
        fetch.await.unwrap();
    }
}

#[tokio::test]
async fn prompts_are_listed_and_refusals_arrive() {
    let (link, _edge, _server) = Domain::start().serve_edge().await;
    assert_eq!(
        link.list_prompts().await.unwrap()[0].name.as_str(),
        "manual"
    );
    let other = ModelDigest::new([8; 32]);
    let refused = link
        .fetch(Fetch {
            model: other,
            ..fetch_of(1)
        })
        .await;
    let Err(FetchError::Refused(refusal)) = refused else {
        panic!("{refused:?}")
    };
    assert_eq!(refusal, Refusal::ModelMismatch { cloud: MODEL });
    // The number of a refused fetch is free again.
    check_fetch(&link, fetch_of(1)).await;
}

#[tokio::test]
async fn a_manifest_must_be_the_one_asked_for() {
    let model = ModelDigest::new([8; 32]);
    let error = answered_with(|manifest| {
        manifest.model = model;
        manifest.prompt = PromptId::of(&model, &manifest.tokens);
    });
    let error = error.await;
    assert!(
        matches!(error, FetchError::DigestMismatch { asked: MODEL, answered } if answered == model)
    );
    let error = answered_with(|manifest| manifest.layers = LayerRange::first(2)).await;
    assert!(matches!(
        error,
        FetchError::Manifest(ManifestMismatch::Layers)
    ));
    let error = answered_with(|manifest| {
        manifest.tokens.pop();
        manifest.prompt = PromptId::of(&MODEL, &manifest.tokens);
    });
    let error = error.await;
    assert!(matches!(
        error,
        FetchError::Manifest(ManifestMismatch::Prompt { .. })
    ));
    let error = answered_with(|manifest| manifest.fetch.0 = 9).await;
    assert!(matches!(
        error,
        FetchError::Manifest(ManifestMismatch::Fetch { .. })
    ));
}

#[tokio::test]
async fn a_cloud_that_gives_up_says_so() {
    let (mut stream, sender, _link, _edge, _domain) = open_fetch().await;
    let manifest = sender.manifest().clone();
    let layer = layer_of(&manifest, LayerIndex(0));
    sender
        .send(LayerIndex(0), &layer, ComputeSpan::Stored)
        .await
        .unwrap();
    let again = sender
        .send(LayerIndex(0), &layer, ComputeSpan::Stored)
        .await;
    assert!(matches!(
        again,
        Err(SendLayerError::SentAlready {
            layer: LayerIndex(0)
        })
    ));
    assert_eq!(
        stream.next_layer().await.unwrap().unwrap().layer,
        LayerIndex(0)
    );
    let finished = sender.finish().await;
    assert!(matches!(
        finished,
        Err(SendLayerError::Incomplete { missing_count: 5 })
    ));
    let error = stream.next_layer().await.unwrap_err();
    assert_eq!(error, LayerStreamError::Abandoned { missing_count: 5 });
    assert!(error.is_final());
}

#[tokio::test]
async fn an_edge_that_gives_up_stops_the_cloud() {
    let (stream, sender, _link, _edge, _domain) = open_fetch().await;
    drop(stream);
    let manifest = sender.manifest().clone();
    // The withdrawal takes a moment to arrive; a sender notices at one of its layers.
    let mut outcome = Ok(());
    for layer in manifest.layers.iter() {
        let kv = layer_of(&manifest, layer);
        outcome = sender
            .send(layer, &kv, ComputeSpan::Stored)
            .await
            .map(|_| ());
        if outcome.is_err() {
            break;
        }
    }
    match outcome {
        Ok(()) => sender.finish().await.unwrap(),
        Err(error) => assert!(
            matches!(error, SendLayerError::Withdrawn | SendLayerError::Lost(_)),
            "{error:?}"
        ),
    }
}

#[tokio::test]
async fn a_lost_cloud_ends_the_stream() {
    let (mut stream, _sender, link, _edge, _domain) = open_fetch().await;
    link.close(CloseReason::ShuttingDown);
    let error = stream.next_layer().await.unwrap_err();
    assert_eq!(
        error,
        LayerStreamError::Lost(LinkLost::ClosedByPeer(CloseReason::ShuttingDown))
    );
}

#[tokio::test]
async fn draining_lets_a_fetch_end_and_takes_no_more() {
    let (mut stream, sender, mut link, edge, domain) = open_fetch().await;
    let addr = domain.addr;
    let draining = tokio::spawn(domain.cloud.drain());
    assert!(link.next_request().await.is_none());
    let manifest = sender.manifest().clone();
    let sending = async {
        for layer in manifest.layers.iter() {
            let kv = layer_of(&manifest, layer);
            let end = Instant::now();
            let span = ComputeSpan::Computed { start: end, end };
            sender.send(layer, &kv, span).await.unwrap();
        }
        sender.finish().await.unwrap();
    };
    let receiving = async {
        while stream.next_layer().await.unwrap().is_some() {}
        stream.remaining_count()
    };
    assert_eq!(tokio::join!(sending, receiving).1, 0);
    draining.await.unwrap();
    assert!(edge.connect(addr).await.is_err());
}

#[tokio::test]
async fn what_the_cloud_saw_is_recorded_byte_for_byte() {
    let domain = Domain::start();
    let edge = EdgeEndpoint::bind(any_port(), &domain.join(), config()).unwrap();
    let record = SentMessages::new();
    let link = edge
        .connect_recorded(domain.addr, record.clone())
        .await
        .unwrap();
    let _server = tokio::spawn(super::serve(domain.cloud));
    link.list_prompts().await.unwrap();
    check_fetch(&link, fetch_of(3)).await;
    let requests = [CloudRequest::ListPrompts, CloudRequest::Fetch(fetch_of(3))];
    let frames = requests.map(|request| encode_to_cloud(&request).unwrap());
    assert_eq!(record.frames(), frames);
    assert_eq!(record.bytes(), frames.concat());
}

#[tokio::test]
async fn requests_beyond_a_limit_never_leave() {
    let (link, _edge, _server) = Domain::start().serve_edge().await;
    let long = PublicPrompt::Text("x".repeat(2 << 20));
    let prompt = PromptRef::Public(long);
    let refused = link
        .fetch(Fetch {
            prompt,
            ..fetch_of(1)
        })
        .await;
    assert!(matches!(refused, Err(FetchError::Encode(_))), "{refused:?}");

    let _first = link.fetch(fetch_of(1)).await.unwrap();
    let second = link.fetch(fetch_of(1)).await;
    assert!(
        matches!(second, Err(FetchError::IdInUse { .. })),
        "{second:?}"
    );
}
