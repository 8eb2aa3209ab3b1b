//! Layers over real QUIC through the emulator: they arrive whole, whatever the link does to packets.

#![cfg(test)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use edgeprompt_kv::{
    KvDtype, KvGeometry, LayerIndex, LayerKv, LayerRange, ModelDigest, PromptId, TokenId,
};
use edgeprompt_protocol::{CloudRequest, Fetch, KvSource, Manifest, PromptRef};
use edgeprompt_testkit::emulator::{
    BitRate, DirectionProfile, EmulatedLink, EmulatorHandle, EmulatorStats, LinkEmulator,
    NamedLink, Probability,
};
use edgeprompt_transport::{
    CloudEndpoint, CloudIdentity, CloudLink, ComputeSpan, EdgeEndpoint, EdgeIdentity,
    INVITATION_LIFETIME, IncomingRequest, LinkConfig,
};

const MODEL: ModelDigest = ModelDigest::new([7; 32]);
const TOKEN_COUNT: u32 = 128;

fn tokens() -> Vec<TokenId> {
    (0..TOKEN_COUNT).map(TokenId).collect()
}

/// Layers of 1 MiB: two tensors of 128 tokens, 8 heads, 128 numbers of 4 bytes.
fn manifest_of(fetch: &Fetch, layer_count: u32) -> Manifest {
    Manifest {
        fetch: fetch.fetch,
        prompt: PromptId::of(&MODEL, &tokens()),
        model: MODEL,
        geometry: KvGeometry::new(layer_count, 8, 128).unwrap(),
        dtype: fetch.dtype,
        layers: LayerRange::first(layer_count),
        tokens: tokens(),
        text: None,
        source: KvSource::Computing,
    }
}

/// A layer whose bytes say which layer it is, and where in it they are.
fn layer_of(manifest: &Manifest, layer: LayerIndex) -> LayerKv {
    let byte_at = |index: usize| {
        index
            .wrapping_mul(31)
            .wrapping_add(layer.0 as usize)
            .to_le_bytes()[0]
    };
    let payload: Bytes = (0..manifest.layer_bytes()).map(byte_at).collect();
    LayerKv::new(
        payload,
        &manifest.geometry,
        manifest.tokens.len(),
        manifest.dtype,
    )
    .unwrap()
}

/// Answers one fetch with so many layers.
async fn answer(mut cloud: CloudEndpoint, layer_count: u32) {
    let mut link = cloud.accept().await.unwrap();
    let IncomingRequest {
        request,
        received_at,
        responder,
    } = link.next_request().await.unwrap();
    let CloudRequest::Fetch(fetch) = request else {
        panic!("{request:?}")
    };
    let manifest = manifest_of(&fetch, layer_count);
    let sender = responder.manifest(&manifest).await.unwrap();
    for layer in manifest.layers.iter() {
        let end = Instant::now();
        let span = ComputeSpan::Computed {
            start: received_at,
            end,
        };
        sender
            .send(layer, &layer_of(&manifest, layer), span)
            .await
            .unwrap();
    }
    sender.finish().await.unwrap();
    // The link must outlive what is still on its way.
    while link.next_request().await.is_some() {}
}

/// A cloud behind an emulated link, and an edge linked to it.
struct Path {
    emulator: EmulatorHandle,
    link: CloudLink,
    _edge: EdgeEndpoint,
}

impl Path {
    async fn over(link: EmulatedLink, layer_count: u32) -> Self {
        let any_port = SocketAddr::from(([127, 0, 0, 1], 0));
        let identity = CloudIdentity::in_memory().unwrap();
        let config = LinkConfig::default();
        let cloud = CloudEndpoint::bind(any_port, &identity, config).unwrap();
        let emulator = LinkEmulator::start(cloud.local_addr().unwrap(), link).unwrap();
        tokio::spawn(answer(cloud, layer_count));
        let token = identity.invite(INVITATION_LIFETIME).unwrap();
        let edge_identity = EdgeIdentity::join(&token).unwrap();
        let edge = EdgeEndpoint::bind(any_port, &edge_identity, config).unwrap();
        let link = edge.connect(emulator.addr()).await.unwrap();
        Self {
            emulator,
            link,
            _edge: edge,
        }
    }

    /// Fetches every layer, checks each, and says what the emulator counted.
    async fn check_fetch(&self, layer_count: u32) -> EmulatorStats {
        let fetch = Fetch {
            fetch: self.link.next_fetch_id(),
            model: MODEL,
            prompt: PromptRef::Id(PromptId::of(&MODEL, &tokens())),
            layers: None,
            dtype: KvDtype::F32,
        };
        let started_at = Instant::now();
        let mut stream = self.link.fetch(fetch).await.unwrap();
        let manifest = Arc::new(stream.manifest().clone());
        let mut layers = Vec::new();
        while let Some(received) = stream.next_layer().await.unwrap() {
            layers.push((received.layer, received.kv));
        }
        let time = started_at.elapsed();
        layers.sort_by_key(|(layer, _)| *layer);
        for (layer, kv) in &layers {
            assert_eq!(*kv, layer_of(&manifest, *layer));
        }
        assert_eq!(layers.len(), layer_count as usize);
        let bits = 8.0 * (layers.len() * manifest.layer_bytes()) as f64;
        println!("{:.0} Mbit/s", bits / time.as_secs_f64() / 1e6);
        let stats = self.emulator.stats();
        println!("link {:?}\nemulator {stats:?}", self.link.stats());
        stats
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layers_arrive_whole_over_a_lossy_link() {
    let seed = 4;
    println!("seed {seed}");
    let rate = BitRate::megabits_per_second(200);
    let direction = DirectionProfile::constant(rate, Duration::from_millis(10))
        .with_loss(Probability::per_million(1_000));
    let path = Path::over(EmulatedLink::symmetric(direction, seed), 12).await;
    let started_at = Instant::now();
    let stats = path.check_fetch(12).await;
    // 12 MiB at 200 Mbit/s: no link of that rate brings it sooner.
    assert!(started_at.elapsed() >= Duration::from_millis(500));
    // Of 9,000 packets or so, one in a thousand.
    assert!(stats.down.lost_packet_count > 0, "{stats:?}");
    assert!(path.link.stats().rtt >= Duration::from_millis(20));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layers_arrive_whole_over_a_gigabit_link() {
    let path = Path::over(NamedLink::Lan.link(1), 64).await;
    let stats = path.check_fetch(64).await;
    assert_eq!(
        stats.down.overrun_packet_count + stats.down.unsent_packet_count,
        0
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn layers_survive_damage_a_stall_and_a_cut() {
    let seed = 9;
    println!("seed {seed}");
    let path = Path::over(NamedLink::SixG.link(seed), 8).await;
    path.emulator.corrupt(Probability::per_million(5_000));
    let disturb = async {
        let pause = Duration::from_millis(30);
        tokio::time::sleep(pause).await;
        path.emulator.stall();
        tokio::time::sleep(pause).await;
        path.emulator.cut();
        tokio::time::sleep(pause).await;
        path.emulator.resume();
    };
    let (stats, ()) = tokio::join!(path.check_fetch(8), disturb);
    assert!(
        stats.down.corrupted_packet_count > 0 && stats.down.cut_packet_count > 0,
        "{stats:?}"
    );
}
