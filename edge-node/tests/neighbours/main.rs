//! Edges of one trust domain that have cloud prompts from each other, over real QUIC: what a neighbour
//! does wrong costs little and never an answer.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod changing;
mod world;

use std::net::SocketAddr;
use std::num::NonZeroU8;
use std::path::Path;
use std::sync::Arc;

use edge_node::disk_cache::DiskCache;
use edge_node::kv_origin::KvOrigin;
use edge_node::serve::filling::Keeping;
use edge_node::serve::sources::Sources;
use edgeprompt_engine::{SegmentPrefill, layer_from_view};
use edgeprompt_kv::{KvDtype, LayerKv, ModelDigest, PromptId};
use edgeprompt_protocol::{CloudRequest, LAYER_HEADER_BYTES, Manifest, Refusal};
use edgeprompt_segment_store::SegmentFolder;
use edgeprompt_transport::{CloudEndpoint, ComputeSpan, Damage, IncomingRequest, LinkConfig};

use crate::world::{World, loopback, manifest, name};

#[tokio::test(flavor = "multi_thread")]
async fn a_thousand_who_ask_at_once_cause_one_fetch() {
    let world = World::new();
    let cloud = world.cloud();
    let uplink = world.uplink(&cloud);
    let prompts = world.edge(Sources {
        cloud: Some(uplink.clone()),
        ..Sources::default()
    });
    let asking: Vec<_> = (0..1000)
        .map(|_| {
            let prompts = prompts.clone();
            tokio::spawn(async move { prompts.get(&name()).await.unwrap().segment })
        })
        .collect();
    let (prompt, filled) = world.brought(&prompts).await;
    for asked in asking {
        assert!(asked.await.unwrap().layers.is_same(&prompt.segment.layers));
    }
    assert_eq!(uplink.sent().frames().len(), 1);
    assert_eq!(filled.bytes.of(KvOrigin::Cloud), world.all_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_neighbour_has_in_memory_or_on_disk_does_not_come_from_the_cloud() {
    let world = World::new();
    let cloud = world.cloud();
    let disk = world.disk("first");
    let first = world.edge(Sources {
        cloud: Some(world.uplink(&cloud)),
        disk: Some(Arc::clone(&disk)),
        ..Sources::default()
    });
    let (mut prompt, _) = world.brought(&first).await;
    assert_eq!(prompt.keeping.ended().await, Keeping::Kept);
    let restarted = world.edge(Sources::default());
    let places = [(&first, None), (&restarted, Some(disk))];
    for (prompts, disk) in places {
        let uplink = world.uplink(&cloud);
        let second = world.edge(Sources {
            cloud: Some(uplink.clone()),
            neighbours: world.neighbours(world.listen(prompts, disk)),
            ..Sources::default()
        });
        let (prompt, filled) = world.brought(&second).await;
        assert_eq!(filled.bytes.of(KvOrigin::Peer), world.all_bytes());
        assert_eq!(prompt.origin(), KvOrigin::Peer);
        // What the name means, and nothing else.
        assert_eq!(uplink.sent().frames().len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_a_cloud_neighbours_and_the_disk_are_enough() {
    let world = World::new();
    let cloud = world.cloud();
    let first = world.edge(Sources {
        cloud: Some(world.uplink(&cloud)),
        ..Sources::default()
    });
    world.brought(&first).await;
    let addr = world.listen(&first, None);
    let gone = world.uplink(&cloud);
    cloud.stop().await;
    let second = world.edge(Sources {
        cloud: Some(gone),
        neighbours: world.neighbours(addr),
        ..Sources::default()
    });
    let (_, filled) = world.brought(&second).await;
    assert_eq!(filled.bytes.of(KvOrigin::Peer), world.all_bytes());
    assert!(!second.source_is_well());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_changed_prompt_is_noticed_and_a_remembered_one_needs_no_question() {
    let world = World::new();
    let cloud = world.cloud();
    let uplink = world.uplink(&cloud);
    let edge = |memory: &str| {
        world.edge(Sources {
            cloud: Some(uplink.clone()),
            disk: Some(world.disk("edge")),
            memory: Some(world.memory(memory)),
            ..Sources::default()
        })
    };
    let first = edge("edge");
    let (mut prompt, _) = world.brought(&first).await;
    assert_eq!(prompt.keeping.ended().await, Keeping::Kept);
    first.revalidate().await;
    assert_eq!(first.get(&name()).await.unwrap().origin(), KvOrigin::Memory);
    // A list, a fetch and another list.
    assert_eq!(uplink.sent().frames().len(), 3);

    let second = edge("edge");
    let (prompt, filled) = world.brought(&second).await;
    assert_eq!(filled.bytes.of(KvOrigin::Disk), world.all_bytes());
    assert_eq!(prompt.origin(), KvOrigin::Disk);
    assert_eq!(uplink.sent().frames().len(), 3);

    // An edge that remembers an earlier text of that name.
    let earlier = Manifest {
        tokens: world.tokens[..5].to_vec(),
        text: None,
        ..manifest(&world, None)
    };
    let earlier = Manifest {
        prompt: PromptId::of(&world.model.digest, &earlier.tokens),
        ..earlier
    };
    let memory = world.memory("other");
    memory.keep(&name(), &(&earlier).into()).unwrap();
    let third = world.edge(Sources {
        memory: Some(world.memory("other")),
        ..Sources::default()
    });
    let mut stale = third.get(&name()).await.unwrap();
    stale.filling.ended().await;
    assert_eq!(*stale.tokens, world.tokens[..5]);
    let fourth = edge("other");
    fourth.get(&name()).await.unwrap().filling.ended().await;
    fourth.revalidate().await;
    world.brought(&fourth).await;
}

/// What a neighbour does wrong.
#[derive(Clone, Copy, Debug)]
enum Wrong {
    /// It is not there.
    Absent,
    /// It has another model.
    OtherModel,
    /// It has another prompt under the id.
    OtherPrompt,
    /// A bit of its second layer is another.
    FlippedBit,
    /// It promises and sends nothing.
    Silent,
    /// It breaks off after its first layer.
    BrokenOff,
    /// Its numbers are none.
    NotANumber,
}

async fn misbehave(
    world: Arc<World>,
    layers: Arc<Vec<LayerKv>>,
    wrong: Wrong,
    request: IncomingRequest,
) {
    let CloudRequest::Fetch(fetch) = request.request else {
        panic!("a neighbour is asked for layers only")
    };
    let mut promised = manifest(&world, Some(&fetch));
    match wrong {
        Wrong::OtherModel => {
            let cloud = ModelDigest::new([1; 32]);
            let _ = request
                .responder
                .refuse(Refusal::ModelMismatch { cloud })
                .await;
            return;
        }
        Wrong::OtherPrompt => {
            promised.tokens.pop();
            promised.prompt = PromptId::of(&promised.model, &promised.tokens);
        }
        _ => {}
    }
    let Ok(sender) = request.responder.manifest(&promised).await else {
        return;
    };
    for (layer, kv) in promised.layers.iter().zip(layers.iter()) {
        let sent = match (wrong, layer.0) {
            (Wrong::OtherPrompt, _) | (Wrong::BrokenOff, 1..) => return,
            (Wrong::Silent, _) => return std::future::pending().await,
            (Wrong::FlippedBit, 1) => {
                let bits = NonZeroU8::MIN;
                let at = LAYER_HEADER_BYTES + 9;
                sender
                    .send_damaged(layer, kv, &Damage::Flip { at, bits })
                    .await
            }
            (Wrong::NotANumber, 1) => {
                let nothing = vec![0xff; kv.payload().len()];
                let (geometry, count) = (&world.model.geometry, world.tokens.len());
                let kv = LayerKv::new(nothing.into(), geometry, count, KvDtype::F32).unwrap();
                sender
                    .send(layer, &kv, ComputeSpan::Stored)
                    .await
                    .map(|_| ())
            }
            _ => sender
                .send(layer, kv, ComputeSpan::Stored)
                .await
                .map(|_| ()),
        };
        // The edge may have turned away.
        let Ok(()) = sent else { return };
    }
    let _ = sender.finish().await;
}

/// A neighbour that does something wrong, and where.
fn wrong_neighbour(world: &Arc<World>, wrong: Wrong) -> SocketAddr {
    let endpoint =
        CloudEndpoint::bind_for_neighbours(loopback(), &world.join(), LinkConfig::default());
    let mut endpoint = endpoint.unwrap();
    let addr = endpoint.local_addr().unwrap();
    if matches!(wrong, Wrong::Absent) {
        return addr;
    }
    let (geometry, tokens) = (&world.model.geometry, &world.tokens);
    let views = SegmentPrefill::start(&world.model, tokens);
    let layers = views.map(|(_, view)| layer_from_view(&view, geometry, KvDtype::F32).unwrap());
    let (layers, world) = (Arc::new(layers.collect()), Arc::clone(world));
    tokio::spawn(async move {
        while let Some(mut link) = endpoint.accept().await {
            let (world, layers) = (Arc::clone(&world), Arc::clone(&layers));
            tokio::spawn(async move {
                while let Some(request) = link.next_request().await {
                    let (world, layers) = (Arc::clone(&world), Arc::clone(&layers));
                    tokio::spawn(misbehave(world, layers, wrong, request));
                }
            });
        }
    });
    addr
}

#[tokio::test(flavor = "multi_thread")]
async fn a_neighbour_that_fails_costs_no_answer_and_the_cloud_is_asked() {
    let world = Arc::new(World::new());
    let cloud = world.cloud();
    let all = world.all_bytes();
    let layer = all / u64::from(world.model.geometry.layer_count());
    for (wrong, from_peer) in [
        (Wrong::Absent, 0),
        (Wrong::OtherModel, 0),
        (Wrong::OtherPrompt, 0),
        (Wrong::FlippedBit, all - layer),
        (Wrong::Silent, 0),
        (Wrong::BrokenOff, layer),
    ] {
        let prompts = world.edge(Sources {
            cloud: Some(world.uplink(&cloud)),
            neighbours: world.neighbours(wrong_neighbour(&world, wrong)),
            ..Sources::default()
        });
        let (_, filled) = world.brought(&prompts).await;
        let bytes = filled.bytes;
        let received = bytes.of(KvOrigin::Peer);
        match wrong {
            // The layer that it did send may be lost with the rest.
            Wrong::BrokenOff => assert!(received <= from_peer, "{received}"),
            _ => assert_eq!(received, from_peer, "{wrong:?}"),
        }
        assert_eq!(bytes.of(KvOrigin::Cloud), all - received, "{wrong:?}");
        assert_eq!(filled.recomputed_count, 0, "{wrong:?}");
    }
    // This is seen too late to ask anybody.
    let prompts = world.edge(Sources {
        cloud: Some(world.uplink(&cloud)),
        neighbours: world.neighbours(wrong_neighbour(&world, Wrong::NotANumber)),
        ..Sources::default()
    });
    let (_, filled) = world.brought(&prompts).await;
    assert!(filled.recomputed_count > 0 && filled.bytes.of(KvOrigin::Local) > 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_without_room_keeps_nothing_and_fails_nothing() {
    let world = World::new();
    let cloud = world.cloud();
    let root = world.dir.path().join("small");
    let disk = DiskCache::new(&SegmentFolder::new(&root), "here", world.all_bytes());
    let prompts = world.edge(Sources {
        cloud: Some(world.uplink(&cloud)),
        disk: Some(Arc::new(disk)),
        ..Sources::default()
    });
    let (mut prompt, _) = world.brought(&prompts).await;
    assert_eq!(prompt.keeping.ended().await, Keeping::NotKept);
    assert!(!Path::new(&root).exists());
}
