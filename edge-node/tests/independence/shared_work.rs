//! The edge computes the first layers of a public prompt while the cloud sends the others: over real
//! QUIC, with the same answer, and with only those layers on the wire.

use std::time::Duration;

use edge_node::answer::Cloud;
use edge_node::cloud_prompt::CloudPrompt;
use edgeprompt_kv::{KvDtype, LayerIndex};

use crate::world::{Fault, PUBLIC_LEN, World};

const PATIENCE: Duration = Duration::from_secs(20);

/// Layers of the model that the tests use.
const LAYER_COUNT: u32 = 6;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_layers_asked_for_are_sent_and_the_others_computed() {
    let world = World::new();
    let layer_bytes = world
        .model
        .geometry
        .layer_bytes(PUBLIC_LEN as usize, KvDtype::F32) as u64;
    for first in [0, 1, 4, 5] {
        // A cloud that gives up half-way is asked again for what is missing.
        for fault in [Fault::None, Fault::AbandonAfter(1)] {
            let (addr, _) = world.cloud(fault);
            let uplink = world.uplink(addr);
            let fetching = CloudPrompt::fetch_from(
                &uplink,
                &world.model,
                World::prompt_ref(),
                LayerIndex(first),
            );
            let cloud = Cloud::Arriving(fetching.await.unwrap());
            let answered = world.answer_on(cloud, World::private(), PATIENCE).await;
            let sent = u64::from(LAYER_COUNT - first);
            assert_eq!(answered.received_bytes, sent * layer_bytes, "from {first}");
            assert_eq!(answered.chosen_count, first as usize);
            assert_eq!(answered.recomputed, None);
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layers_that_do_not_come_are_computed_after_those_of_choice() {
    let world = World::new();
    let (addr, _) = world.cloud(Fault::StallAfter(1));
    let uplink = world.uplink(addr);
    let first = LayerIndex(2);
    let fetching = CloudPrompt::fetch_from(&uplink, &world.model, World::prompt_ref(), first);
    let cloud = Cloud::Arriving(fetching.await.unwrap());
    let patience = Duration::from_millis(50);
    let answered = world.answer_on(cloud, World::private(), patience).await;
    assert_eq!(answered.chosen_count, 2);
    let recomputed = answered.recomputed.unwrap();
    assert!((3..=4).contains(&recomputed.layer_count), "{recomputed:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prompt_computed_here_by_choice_needs_no_cloud() {
    let world = World::new();
    let tokens = World::public();
    let cloud = Cloud::Here { tokens };
    let answered = world.answer_on(cloud, World::private(), PATIENCE).await;
    assert_eq!(answered.chosen_count, LAYER_COUNT as usize);
    assert_eq!((answered.recomputed, answered.received_bytes), (None, 0));
}
