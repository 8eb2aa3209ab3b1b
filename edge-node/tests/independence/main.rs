//! A cloud that is gone, dies half-way, stalls, lies about shapes or comes back: over real QUIC,
//! the answer is always the one a single machine gives, and the reason is told.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod shared_work;
mod world;

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use edge_node::cloud_prompt::LossReason;
use edgeprompt_kv::{KvDtype, TokenId};
use edgeprompt_transport::CloudEndpoint;
use world::{Fault, PUBLIC_LEN, World, link_config, serve};

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
