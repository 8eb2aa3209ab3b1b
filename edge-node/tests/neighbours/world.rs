//! A trust domain: a cloud, edges with what they need, and the right numbers.

use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use burn::tensor::Device;
use cloud_node::compute::PromptComputer;
use cloud_node::library::PromptLibrary;
use cloud_node::running::RunningCloud;
use cloud_node::service::{CloudService, PublicPrompts};
use edge_node::disk_cache::DiskCache;
use edge_node::prefill_speed::PrefillSpeed;
use edge_node::remembered::RememberedPrompts;
use edge_node::serve::filling::{Filled, Filler, Filling};
use edge_node::serve::generator::Generator;
use edge_node::serve::neighbourly::Neighbourly;
use edge_node::serve::neighbours::Neighbours;
use edge_node::serve::segments::{CloudPrompts, SharedPrompt};
use edge_node::serve::sources::Sources;
use edge_node::uplink::Uplink;
use edgeprompt_engine::{CloudSegment, EngineLimits, layer_from_view};
use edgeprompt_kv::{KvDtype, LayerIndex, LayerKv, LayerRange, PromptId, TokenId};
use edgeprompt_model::Model;
use edgeprompt_protocol::{Fetch, FetchId, KvSource, Manifest, PromptName};
use edgeprompt_segment_store::SegmentFolder;
use edgeprompt_transport::{
    CloudEndpoint, CloudIdentity, EdgeIdentity, INVITATION_LIFETIME, LinkConfig,
};
use tempfile::TempDir;

/// If it takes longer it hangs.
pub(crate) const HANGS: Duration = Duration::from_secs(60);

pub(crate) const TEXT: &str = "You work at the desk of a shop.\nThe ruby plan costs nine crowns.\n";

pub(crate) fn name() -> PromptName {
    "desk".parse().unwrap()
}

pub(crate) fn loopback() -> SocketAddr {
    (Ipv4Addr::LOCALHOST, 0).into()
}

/// A trust domain and everything that does not change in it.
pub(crate) struct World {
    pub(crate) model: Arc<Model>,
    pub(crate) tokens: Vec<TokenId>,
    pub(crate) identity: CloudIdentity,
    pub(crate) dir: TempDir,
}

impl World {
    pub(crate) fn new() -> Self {
        let model = Model::demo(&Device::flex()).unwrap();
        Self {
            tokens: model.tokenizer().unwrap().encode(TEXT).unwrap(),
            model: Arc::new(model),
            identity: CloudIdentity::in_memory().unwrap(),
            dir: tempfile::tempdir().unwrap(),
        }
    }

    pub(crate) fn join(&self) -> EdgeIdentity {
        EdgeIdentity::join(&self.identity.invite(INVITATION_LIFETIME).unwrap()).unwrap()
    }

    pub(crate) fn id(&self) -> PromptId {
        PromptId::of(&self.model.digest, &self.tokens)
    }

    pub(crate) fn cloud(&self) -> RunningCloud {
        self.cloud_at(loopback(), &self.model, &[("desk", TEXT)])
    }

    /// A cloud in the place of one that has stopped, which lets go of its address a moment later.
    pub(crate) async fn cloud_again(
        &self,
        addr: SocketAddr,
        model: &Arc<Model>,
        prompts: &[(&str, &str)],
    ) -> RunningCloud {
        let free = async {
            while UdpSocket::bind(addr).is_err() {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(HANGS, free).await.unwrap();
        self.cloud_at(addr, model, prompts)
    }

    /// A cloud of a model with `(name, text)` prompts.
    pub(crate) fn cloud_at(
        &self,
        addr: SocketAddr,
        model: &Arc<Model>,
        prompts: &[(&str, &str)],
    ) -> RunningCloud {
        let mut library = PromptLibrary::default();
        for (name, text) in prompts {
            library.add(name.parse().unwrap(), text, model).unwrap();
        }
        let service = CloudService {
            computer: PromptComputer::start(Arc::clone(model), 1 << 30),
            library: library.into(),
            public_prompts: PublicPrompts::Refused,
        };
        let config = LinkConfig::default();
        service.start(addr, &self.identity, config).unwrap()
    }

    pub(crate) fn uplink(&self, cloud: &RunningCloud) -> Uplink {
        self.uplink_to(cloud.addr())
    }

    pub(crate) fn uplink_to(&self, addr: SocketAddr) -> Uplink {
        Uplink::new(&[addr], &self.join(), LinkConfig::default()).unwrap()
    }

    pub(crate) fn disk(&self, edge: &str) -> Arc<DiskCache> {
        let folder = SegmentFolder::new(self.dir.path().join(edge));
        Arc::new(DiskCache::new(&folder, "here", 1 << 30))
    }

    pub(crate) fn memory(&self, edge: &str) -> RememberedPrompts {
        let root = self.dir.path().join(format!("{edge}-names"));
        RememberedPrompts::new(&root, "here", self.model.digest)
    }

    pub(crate) fn edge(&self, sources: Sources) -> CloudPrompts {
        self.edge_with_room(sources, 1 << 30)
    }

    pub(crate) fn edge_with_room(&self, sources: Sources, bytes_max: u64) -> CloudPrompts {
        CloudPrompts::new(sources, filler(&self.model), bytes_max)
    }

    /// An edge of another model.
    pub(crate) fn edge_of(&self, model: &Arc<Model>, sources: Sources) -> CloudPrompts {
        CloudPrompts::new(sources, filler(model), 1 << 30)
    }

    pub(crate) fn neighbours(&self, addr: SocketAddr) -> Neighbours {
        let mut neighbours = Neighbours::default();
        neighbours.add("near", &[addr], &self.join()).unwrap();
        neighbours
    }

    /// Lets neighbours have what `prompts` have, and says where.
    pub(crate) fn listen(
        &self,
        prompts: &CloudPrompts,
        disk: Option<Arc<DiskCache>>,
    ) -> SocketAddr {
        let endpoint =
            CloudEndpoint::bind_for_neighbours(loopback(), &self.join(), LinkConfig::default());
        let endpoint = endpoint.unwrap();
        let addr = endpoint.local_addr().unwrap();
        let neighbourly = Neighbourly::new(Arc::clone(&self.model), prompts.clone(), disk);
        tokio::spawn(neighbourly.run(endpoint));
        addr
    }

    /// What `prompts` brings, which must be the right numbers.
    pub(crate) async fn brought(&self, prompts: &CloudPrompts) -> (SharedPrompt, Filled) {
        let mut prompt = prompts.get(&name()).await.unwrap();
        let Filling::Filled(filled) = prompt.filling.ended().await else {
            panic!("the prompt is broken");
        };
        let right = CloudSegment::computed(&self.model, &self.tokens);
        assert_eq!(*prompt.tokens, self.tokens);
        assert_eq!(self.bytes(&prompt.segment), self.bytes(&right));
        (prompt, filled)
    }

    pub(crate) fn bytes(&self, segment: &CloudSegment) -> Vec<LayerKv> {
        let (geometry, dtype) = (&self.model.geometry, KvDtype::F32);
        let layers = (0..geometry.layer_count()).map(LayerIndex);
        let layers = layers.map(|layer| segment.layers.get(layer).unwrap());
        layers
            .map(|view| layer_from_view(view, geometry, dtype).unwrap())
            .collect()
    }

    pub(crate) fn all_bytes(&self) -> u64 {
        let geometry = &self.model.geometry;
        let layer = geometry.layer_bytes(self.tokens.len(), KvDtype::F32);
        layer as u64 * u64::from(geometry.layer_count())
    }
}

pub(crate) fn manifest(world: &World, fetch: Option<&Fetch>) -> Manifest {
    Manifest {
        fetch: fetch.map_or(FetchId(0), |fetch| fetch.fetch),
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

fn filler(model: &Arc<Model>) -> Filler {
    let generator = Generator::start(Arc::clone(model), EngineLimits::LEAST).unwrap();
    // So slow that waiting always pays, and nothing is computed that could come.
    let speed = PrefillSpeed::new(Duration::from_secs(10), 1);
    Filler::new(Arc::clone(model), generator, speed)
}
