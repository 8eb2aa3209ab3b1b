//! Who takes part: both ends in this process, a link between them that stays open.

use std::fmt;
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use bytes::Bytes;
use clap::ValueEnum;
use edgeprompt_kv::{KvDtype, KvGeometry, LayerKv, LayerRange, ModelDigest, PromptId, TokenId};
use edgeprompt_protocol::{CloudRequest, Fetch, KvSource, Manifest, PromptRef};
use edgeprompt_testkit::emulator::EmulatorHandle;
use edgeprompt_transport::plain::{PlainReceiver, PlainSender};
use edgeprompt_transport::{
    CloudEndpoint, CloudIdentity, CloudLink, ComputeSpan, CongestionControl, EdgeEndpoint,
    EdgeIdentity, INVITATION_LIFETIME, IncomingRequest, LinkConfig,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Mutex;

use super::link_args::LinkArgs;

const MODEL: ModelDigest = ModelDigest::new([7; 32]);

/// A layer's shape: so many heads of so many numbers make 8 KiB of each token in f32.
const KV_HEAD_COUNT: u32 = 8;
const HEAD_DIM: u32 = 128;
const TOKENS_PER_MIB: u32 = 128;

/// A way to bring the bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Kind {
    /// Our links as they are
    Ours,
    /// Our links with CUBIC
    OursCubic,
    /// Our links with the QUIC library's BBR
    OursBbr,
    /// One stream of the QUIC library with its defaults and large windows
    Plain,
    /// TCP, on loopback only
    Tcp,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Ours => "ours",
            Self::OursCubic => "ours-cubic",
            Self::OursBbr => "ours-bbr",
            Self::Plain => "plain",
            Self::Tcp => "tcp",
        })
    }
}

/// The layers, and the same bytes in one piece.
pub(crate) struct Payload {
    manifest: Manifest,
    layers: Vec<LayerKv>,
    whole: Bytes,
}

impl Payload {
    pub(crate) fn new(layer_count: u32, layer_mib: u32) -> Result<Self> {
        let geometry = KvGeometry::new(layer_count, KV_HEAD_COUNT, HEAD_DIM)?;
        let tokens: Vec<_> = (0..TOKENS_PER_MIB * layer_mib).map(TokenId).collect();
        let layer_bytes = geometry.layer_bytes(tokens.len(), KvDtype::F32);
        let whole: Bytes = (0..layer_bytes * layer_count as usize)
            .map(|index| (index.wrapping_mul(2_654_435_761) >> 13).to_le_bytes()[0])
            .collect();
        let layers = whole.chunks(layer_bytes).map(|layer| {
            let payload = whole.slice_ref(layer);
            LayerKv::new(payload, &geometry, tokens.len(), KvDtype::F32)
        });
        let layers = layers.collect::<Result<_, _>>()?;
        let fetch = edgeprompt_protocol::FetchId(0);
        let manifest = Manifest {
            fetch,
            prompt: PromptId::of(&MODEL, &tokens),
            model: MODEL,
            geometry,
            dtype: KvDtype::F32,
            layers: LayerRange::first(layer_count),
            tokens,
            text: None,
            source: KvSource::Stored,
        };
        Ok(Self {
            manifest,
            layers,
            whole,
        })
    }

    pub(crate) fn bytes(&self) -> usize {
        self.whole.len()
    }
}

/// How long one transfer took.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Transfer {
    /// From asking to the last byte, checked where there is something to check.
    pub(crate) total: Duration,
    /// From the first byte to the last.
    pub(crate) flowing: Duration,
}

/// Packets that an emulated link dropped.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Losses {
    /// By chance, as asked for.
    pub(crate) by_chance: u64,
    /// Because its queue was full.
    pub(crate) by_queue: u64,
}

/// One that takes part.
pub(crate) struct Contender {
    pub(crate) kind: Kind,
    ends: Ends,
    emulator: Option<EmulatorHandle>,
}

enum Ends {
    Ours {
        link: CloudLink,
        _edge: EdgeEndpoint,
    },
    Plain {
        receiver: PlainReceiver,
        _sender: PlainSender,
    },
    Tcp {
        stream: Mutex<TcpStream>,
    },
}

impl Contender {
    pub(crate) async fn start(kind: Kind, payload: &Payload, link: &LinkArgs) -> Result<Self> {
        let congestion_control = match kind {
            Kind::OursCubic => CongestionControl::Cubic,
            Kind::OursBbr => CongestionControl::Bbr,
            Kind::Plain => return Self::plain(payload, link).await,
            Kind::Tcp => return Self::tcp(payload, link).await,
            Kind::Ours => CongestionControl::PathModel,
        };
        let config = LinkConfig {
            congestion_control,
            ..LinkConfig::default()
        };
        let (cloud_identity, edge_identity) = identities()?;
        let cloud = CloudEndpoint::bind(any_port(), &cloud_identity, config)?;
        let target = cloud.local_addr()?;
        let emulator = link.emulate(target)?;
        tokio::spawn(serve(
            cloud,
            payload.manifest.clone(),
            payload.layers.clone(),
        ));
        let edge = EdgeEndpoint::bind(any_port(), &edge_identity, config)?;
        let link = edge.connect(address(emulator.as_ref(), target)).await?;
        Ok(Self {
            kind,
            ends: Ends::Ours { link, _edge: edge },
            emulator,
        })
    }

    async fn plain(payload: &Payload, link: &LinkArgs) -> Result<Self> {
        let config = LinkConfig::default();
        let (cloud_identity, edge_identity) = identities()?;
        let whole = payload.whole.clone();
        let sender = PlainSender::bind(any_port(), &cloud_identity, &config, whole)?;
        let target = sender.local_addr()?;
        let emulator = link.emulate(target)?;
        let addr = address(emulator.as_ref(), target);
        let receiver = PlainReceiver::connect(addr, &edge_identity, &config).await?;
        let _sender = sender;
        Ok(Self {
            kind: Kind::Plain,
            ends: Ends::Plain { receiver, _sender },
            emulator,
        })
    }

    async fn tcp(payload: &Payload, link: &LinkArgs) -> Result<Self> {
        ensure!(
            link.spec().is_none(),
            "the emulator relays UDP: leave tcp out with --contenders"
        );
        let listener = TcpListener::bind(any_port()).await?;
        let stream = TcpStream::connect(listener.local_addr()?).await?;
        stream.set_nodelay(true)?;
        tokio::spawn(serve_tcp(listener, payload.whole.clone()));
        Ok(Self {
            kind: Kind::Tcp,
            ends: Ends::Tcp {
                stream: Mutex::new(stream),
            },
            emulator: None,
        })
    }

    /// Brings the bytes once, into fresh memory: whoever receives layers keeps them.
    pub(crate) async fn transfer(&self, payload: &Payload) -> Result<Transfer> {
        let started_at = Instant::now();
        let first_at = match &self.ends {
            Ends::Ours { link, .. } => fetch_layers(link, payload).await?,
            Ends::Plain { receiver, .. } => {
                let mut arrivals = Arrivals::default();
                let mut received = vec![0; payload.bytes()];
                receiver
                    .receive(&mut received, |bytes| arrivals.add(bytes))
                    .await?;
                arrivals.check(payload)?
            }
            Ends::Tcp { stream } => receive_tcp(&mut *stream.lock().await, payload).await?,
        };
        Ok(Transfer {
            total: started_at.elapsed(),
            flowing: first_at.elapsed(),
        })
    }

    /// What the emulated link dropped on the way to the edge.
    pub(crate) fn losses(&self) -> Option<Losses> {
        let down = self.emulator.as_ref()?.stats().down;
        Some(Losses {
            by_chance: down.lost_packet_count,
            by_queue: down.queue_full_packet_count,
        })
    }
}

fn identities() -> Result<(CloudIdentity, EdgeIdentity)> {
    let cloud = CloudIdentity::in_memory()?;
    let edge = EdgeIdentity::join(&cloud.invite(INVITATION_LIFETIME)?)?;
    Ok((cloud, edge))
}

fn any_port() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn address(emulator: Option<&EmulatorHandle>, target: SocketAddr) -> SocketAddr {
    emulator.map_or(target, EmulatorHandle::addr)
}

async fn serve(mut cloud: CloudEndpoint, manifest: Manifest, layers: Vec<LayerKv>) -> Result<()> {
    let mut link = cloud.accept().await.context("the endpoint is open")?;
    while let Some(incoming) = link.next_request().await {
        let IncomingRequest {
            request, responder, ..
        } = incoming;
        let CloudRequest::Fetch(fetch) = request else {
            bail!("only fetches are sent");
        };
        let sender = responder
            .manifest(&Manifest {
                fetch: fetch.fetch,
                ..manifest.clone()
            })
            .await?;
        for (layer, kv) in manifest.layers.iter().zip(&layers) {
            sender.send(layer, kv, ComputeSpan::Stored).await?;
        }
        sender.finish().await?;
    }
    Ok(())
}

/// Fetches every layer; returns when the first byte of one came.
async fn fetch_layers(link: &CloudLink, payload: &Payload) -> Result<Instant> {
    let fetch = Fetch {
        fetch: link.next_fetch_id(),
        model: MODEL,
        prompt: PromptRef::Id(payload.manifest.prompt),
        layers: None,
        dtype: KvDtype::F32,
    };
    let mut stream = link.fetch(fetch).await?;
    let (mut first_at, mut byte_count) = (Instant::now(), 0);
    while let Some(layer) = stream.next_layer().await? {
        first_at = first_at.min(layer.first_byte_at);
        byte_count += layer.kv.payload().len();
    }
    ensure!(byte_count == payload.bytes(), "{byte_count} bytes came");
    Ok(first_at)
}

#[derive(Default)]
struct Arrivals {
    first_at: Option<Instant>,
    byte_count: usize,
}

impl Arrivals {
    fn add(&mut self, bytes: usize) {
        self.first_at.get_or_insert_with(Instant::now);
        self.byte_count += bytes;
    }

    fn check(self, payload: &Payload) -> Result<Instant> {
        ensure!(
            self.byte_count == payload.bytes(),
            "{} bytes came",
            self.byte_count
        );
        self.first_at.context("at least one byte came")
    }
}

async fn serve_tcp(listener: TcpListener, whole: Bytes) -> Result<()> {
    let (mut stream, _) = listener.accept().await?;
    loop {
        stream.read_u8().await?;
        stream.write_all(&whole).await?;
    }
}

async fn receive_tcp(stream: &mut TcpStream, payload: &Payload) -> Result<Instant> {
    let mut arrivals = Arrivals::default();
    let mut received = vec![0; payload.bytes()];
    stream.write_u8(0).await?;
    while arrivals.byte_count < payload.bytes() {
        let byte_count = stream.read(&mut received[arrivals.byte_count..]).await?;
        ensure!(byte_count > 0, "the connection ended early");
        arrivals.add(byte_count);
    }
    arrivals.check(payload)
}
