//! A cloud that changes under an edge, or sends more than there is room for: what works goes on working,
//! and nothing is taken in vain.

use std::fs::File;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use burn::tensor::Device;
use edge_node::kv_origin::KvOrigin;
use edge_node::serve::filling::{Filling, Keeping};
use edge_node::serve::segments::SharedPromptError;
use edge_node::serve::sources::Sources;
use edgeprompt_kv::{ModelDigest, PromptId};
use edgeprompt_model::Model;
use edgeprompt_protocol::codec::decode_request;
use edgeprompt_protocol::frame::FRAME_PREFIX_BYTES;
use edgeprompt_protocol::{CloudRequest, Manifest, PromptRef};
use edgeprompt_segment_store::{KeptSegment, SegmentFolder};
use edgeprompt_transport::{CloudEndpoint, LinkConfig};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::world::{HANGS, TEXT, World, loopback, manifest, name};

#[tokio::test(flavor = "multi_thread")]
async fn a_cloud_of_another_model_takes_nothing_away() {
    let world = World::new();
    let cloud = world.cloud();
    let (addr, uplink) = (cloud.addr(), world.uplink(&cloud));
    let sources = || Sources {
        cloud: Some(uplink.clone()),
        memory: Some(world.memory("edge")),
        ..Sources::default()
    };
    let first = world.edge(sources());
    world.brought(&first).await;
    cloud.stop().await;
    let mut other = Model::demo(&Device::flex()).unwrap();
    other.digest = ModelDigest::new([1; 32]);
    let other = Arc::new(other);
    // Which model it runs is asked in the background, nobody knows how often.
    let asked = || {
        let frames = uplink.sent().frames().into_iter();
        let requests = frames.map(|frame| decode_request(&frame[FRAME_PREFIX_BYTES..]).unwrap());
        let is_by_id = |request: &CloudRequest| matches!(request, CloudRequest::Fetch(fetch) if matches!(fetch.prompt, PromptRef::Id(_)));
        requests.filter(|request| !is_by_id(request)).count()
    };
    // It serves the one name, or another one alone.
    for prompts in [[("desk", TEXT)], [("other", TEXT)]] {
        let cloud = world.cloud_again(addr, &other, &prompts).await;
        let before = asked();
        first.revalidate().await;
        // The list, and a fetch that is refused.
        assert_eq!(asked(), before + 2);
        assert_eq!(world.brought(&first).await.0.origin(), KvOrigin::Memory);
        assert!(!first.source_is_well());
        let restarted = world.edge(sources());
        world.brought(&restarted).await;
        cloud.stop().await;
    }
    let _same = world
        .cloud_again(addr, &world.model, &[("desk", TEXT)])
        .await;
    first.revalidate().await;
    assert!(first.source_is_well());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_edge_of_another_model_keeps_in_the_same_folder_stays_there() {
    let world = World::new();
    let (cloud, disk) = (world.cloud(), world.disk("shared"));
    let sources = || Sources {
        cloud: Some(world.uplink(&cloud)),
        disk: Some(Arc::clone(&disk)),
        ..Sources::default()
    };
    let (mut prompt, _) = world.brought(&world.edge(sources())).await;
    assert_eq!(prompt.keeping.ended().await, Keeping::Kept);
    let folder = SegmentFolder::new(world.dir.path().join("shared"));
    let kept = folder.list().unwrap();
    let mut other = Model::demo(&Device::flex()).unwrap();
    other.digest = ModelDigest::new([1; 32]);
    // The cloud lists what the other edge has kept.
    let stranger = world.edge_of(&Arc::new(other), sources());
    let refused = stranger.get(&name()).await.unwrap_err();
    assert_eq!(refused, SharedPromptError::OtherModel);
    let ids = |kept: Vec<KeptSegment>| kept.into_iter().map(|it| it.id).collect::<Vec<_>>();
    assert_eq!(ids(folder.list().unwrap()), ids(kept));
    assert!(!folder.root().join("quarantine").exists());
    let (_, filled) = world.brought(&world.edge(sources())).await;
    assert_eq!(filled.bytes.of(KvOrigin::Disk), world.all_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_that_changed_is_replaced_and_one_that_is_gone_forgotten() {
    let world = World::new();
    let cloud = world.cloud_at(loopback(), &world.model, &[("desk", "Good day.\n")]);
    let addr = cloud.addr();
    let sources = || Sources {
        cloud: Some(world.uplink_to(addr)),
        memory: Some(world.memory("edge")),
        ..Sources::default()
    };
    let edge = world.edge(sources());
    let mut earlier = edge.get(&name()).await.unwrap();
    earlier.filling.ended().await;
    cloud.stop().await;
    let cloud = world
        .cloud_again(addr, &world.model, &[("desk", TEXT)])
        .await;
    edge.revalidate().await;
    world.brought(&edge).await;
    cloud.stop().await;
    let cloud = world.cloud_again(addr, &world.model, &[]).await;
    edge.revalidate().await;
    assert!(edge.list().is_empty());
    cloud.stop().await;
    let restarted = world.edge(sources()).get(&name()).await.unwrap_err();
    assert_eq!(restarted, SharedPromptError::Silent);
}

#[tokio::test(flavor = "multi_thread")]
async fn names_of_one_prompt_share_it_before_anything_is_asked() {
    let world = World::new();
    let cloud = world.cloud_at(loopback(), &world.model, &[("desk", TEXT), ("alias", TEXT)]);
    let alias = "alias".parse().unwrap();
    let memory = world.memory("edge");
    let known = manifest(&world, None);
    for name in [&name(), &alias] {
        memory.keep(name, &(&known).into()).unwrap();
    }
    let uplink = world.uplink(&cloud);
    let edge = world.edge(Sources {
        cloud: Some(uplink.clone()),
        memory: Some(memory),
        ..Sources::default()
    });
    let (prompt, _) = world.brought(&edge).await;
    let again = edge.get(&alias).await.unwrap();
    assert!(again.segment.layers.is_same(&prompt.segment.layers));
    assert_eq!(uplink.sent().frames().len(), 1);
    assert_eq!(edge.list().len(), 2);
    assert_eq!(edge.usage().0, world.all_bytes());
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_used_from_memory_is_used_on_disk_too() {
    let world = World::new();
    let cloud = world.cloud();
    let edge = world.edge(Sources {
        cloud: Some(world.uplink(&cloud)),
        disk: Some(world.disk("edge")),
        ..Sources::default()
    });
    let (mut prompt, _) = world.brought(&edge).await;
    assert_eq!(prompt.keeping.ended().await, Keeping::Kept);
    let folder = SegmentFolder::new(world.dir.path().join("edge"));
    let kept = || folder.list().unwrap().remove(0);
    let long_ago = SystemTime::UNIX_EPOCH + Duration::from_secs(1);
    let forget_use = || {
        let file = File::options().append(true).open(kept().path).unwrap();
        file.set_modified(long_ago).unwrap();
    };
    forget_use();
    edge.revalidate().await;
    assert!(kept().used_at > long_ago);
    forget_use();
    edge.settle(HANGS).await;
    assert!(kept().used_at > long_ago);
}

/// A cloud that promises every name a prompt of its own and sends nothing of it. Tells when an edge
/// does not want it any more.
fn promising(world: &Arc<World>) -> (SocketAddr, mpsc::UnboundedReceiver<()>) {
    let config = LinkConfig::default();
    let mut endpoint = CloudEndpoint::bind(loopback(), &world.identity, config).unwrap();
    let addr = endpoint.local_addr().unwrap();
    let (tell, withdrawn) = mpsc::unbounded_channel();
    let world = Arc::clone(world);
    tokio::spawn(async move {
        while let Some(mut link) = endpoint.accept().await {
            let (world, tell) = (Arc::clone(&world), tell.clone());
            tokio::spawn(async move {
                let mut count = 0;
                while let Some(request) = link.next_request().await {
                    let CloudRequest::Fetch(fetch) = &request.request else {
                        panic!("nothing but a prompt is asked for")
                    };
                    let mut promised = Manifest {
                        text: None,
                        ..manifest(&world, Some(fetch))
                    };
                    promised.tokens.rotate_left(count);
                    promised.prompt = PromptId::of(&promised.model, &promised.tokens);
                    count += 1;
                    let sender = request.responder.manifest(&promised).await.unwrap();
                    let tell = tell.clone();
                    tokio::spawn(async move {
                        sender.withdrawn().await;
                        let _ = tell.send(());
                    });
                }
            });
        }
    });
    (addr, withdrawn)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_there_is_no_room_for_is_not_taken() {
    let world = Arc::new(World::new());
    let (addr, mut withdrawn) = promising(&world);
    let sources = Sources {
        cloud: Some(world.uplink_to(addr)),
        ..Sources::default()
    };
    let edge = world.edge_with_room(sources, world.all_bytes() - 1);
    let refused = edge.get(&name()).await.unwrap_err();
    assert!(matches!(refused, SharedPromptError::TooLarge { .. }));
    timeout(HANGS, withdrawn.recv()).await.unwrap().unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_prompt_on_its_way_keeps_its_room() {
    let world = Arc::new(World::new());
    let (addr, mut withdrawn) = promising(&world);
    let sources = Sources {
        cloud: Some(world.uplink_to(addr)),
        ..Sources::default()
    };
    let edge = world.edge_with_room(sources, world.all_bytes() * 3 / 2);
    let first = edge.get(&name()).await.unwrap();
    assert_eq!(first.filling.now(), Filling::Filling);
    let second = edge.get(&"second".parse().unwrap()).await.unwrap_err();
    assert_eq!(second, SharedPromptError::Busy);
    timeout(HANGS, withdrawn.recv()).await.unwrap().unwrap();
    assert_eq!(edge.list().len(), 1);
}
