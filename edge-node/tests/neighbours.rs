//! Edges of one trust domain that have cloud prompts from each other, over real QUIC: what a neighbour
//! does wrong costs little and never an answer.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::net::{Ipv4Addr, SocketAddr};
use std::num::{NonZeroU8, NonZeroUsize};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use burn::tensor::Device;
use cloud_node::compute::PromptComputer;
use cloud_node::library::PromptLibrary;
use cloud_node::running::RunningCloud;
use cloud_node::service::{CloudService, PublicPrompts};
use edge_node::disk_cache::DiskCache;
use edge_node::kv_origin::KvOrigin;
use edge_node::prefill_speed::PrefillSpeed;
use edge_node::remembered::RememberedPrompts;
use edge_node::serve::filling::{Filled, Filler, Filling, Keeping};
use edge_node::serve::generator::Generator;
use edge_node::serve::neighbourly::Neighbourly;
use edge_node::serve::neighbours::Neighbours;
use edge_node::serve::segments::{CloudPrompts, SharedPrompt};
use edge_node::serve::sources::Sources;
use edge_node::uplink::Uplink;
use edgeprompt_engine::{CloudSegment, EngineLimits, SegmentPrefill, layer_from_view};
use edgeprompt_kv::{KvDtype, LayerIndex, LayerKv, LayerRange, ModelDigest, PromptId, TokenId};
use edgeprompt_model::Model;
use edgeprompt_protocol::{
    CloudRequest, Fetch, KvSource, LAYER_HEADER_BYTES, Manifest, PromptName, Refusal,
};
use edgeprompt_segment_store::SegmentFolder;
use edgeprompt_transport::{
    CloudEndpoint, CloudIdentity, ComputeSpan, Damage, EdgeIdentity, INVITATION_LIFETIME,
    IncomingRequest, LinkConfig,
};
use tempfile::TempDir;

const TEXT: &str = "You work at the desk of a shop.\nThe ruby plan costs nine crowns.\n";

fn name() -> PromptName {
    "desk".parse().unwrap()
}

fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// A trust domain and everything that does not change in it.
struct World {
    model: Arc<Model>,
    tokens: Vec<TokenId>,
    identity: CloudIdentity,
    dir: TempDir,
}

impl World {
    fn new() -> Self {
        let model = Model::demo(&Device::flex()).unwrap();
        Self {
            tokens: model.tokenizer().unwrap().encode(TEXT).unwrap(),
            model: Arc::new(model),
            identity: CloudIdentity::in_memory().unwrap(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn join(&self) -> EdgeIdentity {
        EdgeIdentity::join(&self.identity.invite(INVITATION_LIFETIME).unwrap()).unwrap()
    }

    fn id(&self) -> PromptId {
        PromptId::of(&self.model.digest, &self.tokens)
    }

    fn cloud(&self) -> RunningCloud {
        let mut library = PromptLibrary::default();
        library.add(name(), TEXT, &self.model).unwrap();
        let service = CloudService {
            computer: PromptComputer::start(Arc::clone(&self.model), 1 << 30),
            library,
            public_prompts: PublicPrompts::Refused,
        };
        let config = LinkConfig::default();
        service.start(loopback(), &self.identity, config).unwrap()
    }

    fn uplink(&self, cloud: &RunningCloud) -> Uplink {
        Uplink::new(&[cloud.addr()], &self.join(), LinkConfig::default()).unwrap()
    }

    fn disk(&self, edge: &str) -> Arc<DiskCache> {
        let folder = SegmentFolder::new(self.dir.path().join(edge));
        Arc::new(DiskCache::new(&folder, "here", 1 << 30))
    }

    fn memory(&self, edge: &str) -> RememberedPrompts {
        let root = self.dir.path().join(format!("{edge}-names"));
        RememberedPrompts::new(&root, "here", self.model.digest)
    }

    fn edge(&self, sources: Sources) -> CloudPrompts {
        let some = |count| NonZeroUsize::new(count).unwrap();
        let limits = EngineLimits {
            max_num_seqs: some(1),
            max_num_batched_tokens: some(1),
            max_num_waiting: 1,
            block_len: some(1),
            block_count: 1,
        };
        let generator = Generator::start(Arc::clone(&self.model), limits).unwrap();
        // So slow that waiting always pays, and nothing is computed that could come.
        let speed = PrefillSpeed::new(Duration::from_secs(10), 1);
        let filler = Filler::new(Arc::clone(&self.model), generator, speed);
        CloudPrompts::new(sources, filler, 1 << 30)
    }

    fn neighbours(&self, addr: SocketAddr) -> Neighbours {
        let mut neighbours = Neighbours::default();
        neighbours.add("near", &[addr], &self.join()).unwrap();
        neighbours
    }

    /// Lets neighbours have what `prompts` have, and says where.
    fn listen(&self, prompts: &CloudPrompts, disk: Option<Arc<DiskCache>>) -> SocketAddr {
        let endpoint =
            CloudEndpoint::bind_for_neighbours(loopback(), &self.join(), LinkConfig::default());
        let endpoint = endpoint.unwrap();
        let addr = endpoint.local_addr().unwrap();
        let neighbourly = Neighbourly::new(Arc::clone(&self.model), prompts.clone(), disk);
        tokio::spawn(neighbourly.run(endpoint));
        addr
    }

    /// What `prompts` brings, which must be the right numbers.
    async fn brought(&self, prompts: &CloudPrompts) -> (SharedPrompt, Filled) {
        let mut prompt = prompts.get(&name()).await.unwrap();
        let Filling::Filled(filled) = prompt.filling.ended().await else {
            panic!("the prompt is broken");
        };
        let right = CloudSegment::computed(&self.model, &self.tokens);
        assert_eq!(*prompt.tokens, self.tokens);
        assert_eq!(self.bytes(&prompt.segment), self.bytes(&right));
        (prompt, filled)
    }

    fn bytes(&self, segment: &CloudSegment) -> Vec<LayerKv> {
        let (geometry, dtype) = (&self.model.geometry, KvDtype::F32);
        let layers = (0..geometry.layer_count()).map(LayerIndex);
        let layers = layers.map(|layer| segment.layers.get(layer).unwrap());
        layers
            .map(|view| layer_from_view(view, geometry, dtype).unwrap())
            .collect()
    }

    fn all_bytes(&self) -> u64 {
        let geometry = &self.model.geometry;
        let layer = geometry.layer_bytes(self.tokens.len(), KvDtype::F32);
        layer as u64 * u64::from(geometry.layer_count())
    }
}

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
    world.memory("other").keep(&name(), &earlier).unwrap();
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

fn manifest(world: &World, fetch: Option<&Fetch>) -> Manifest {
    Manifest {
        fetch: fetch.map_or(edgeprompt_protocol::FetchId(0), |fetch| fetch.fetch),
        source: KvSource::Stored,
        prompt: world.id(),
        model: world.model.digest,
        geometry: world.model.geometry,
        dtype: KvDtype::F32,
        layers: LayerRange::first(world.model.geometry.layer_count()),
        tokens: world.tokens.clone(),
        text: Some(TEXT.to_owned()),
    }
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
