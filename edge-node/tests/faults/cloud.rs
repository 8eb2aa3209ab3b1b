//! A cloud that does to a fetch what its case asks for, over real QUIC.

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::time::Duration;

use edgeprompt_engine::{SegmentPrefill, layer_from_view};
use edgeprompt_kv::{
    KvDtype, KvGeometry, LayerIndex, LayerKv, LayerRange, ModelDigest, PromptId, TokenId,
};
use edgeprompt_model::Model;
use edgeprompt_protocol::{
    CloudRequest, Fetch, FetchId, KvSource, LAYER_HEADER_BYTES, LAYER_TRAILER_BYTES, Manifest,
    PublicPromptProblem, Refusal,
};
use edgeprompt_testkit::emulator::EmulatorHandle;
use edgeprompt_transport::{
    CloseReason, CloudEndpoint, CloudIdentity, ComputeSpan, Damage, EdgeLink, IncomingRequest,
    LayerSender, LinkConfig, Responder, SendLayerError, Timeouts,
};
use tokio::task::JoinSet;

use crate::case::{Case, Fault, RefusalKind, StreamDamage, When, WrongManifest};

/// Bytes of a trailer that say when the cloud worked, and that nobody compares with anything: the
/// end of the computation and the start of sending.
const UNCHECKED_BYTES: usize = 16;

/// Short enough that a fault is noticed within a test, long enough for a busy machine.
pub(crate) fn link_config() -> LinkConfig {
    let millis = Duration::from_millis;
    let timeouts = Timeouts {
        connect: millis(500),
        message: millis(500),
        reply: millis(500),
        layer: millis(300),
        idle: millis(500),
        keep_alive: millis(100),
        drain: millis(50),
    };
    LinkConfig {
        timeouts,
        ..LinkConfig::default()
    }
}

/// What the cloud knows and has seen of one case.
pub(crate) struct HostileCloud {
    pub(crate) case: Arc<Case>,
    pub(crate) model: Arc<Model>,
    pub(crate) layers: Vec<LayerKv>,
    /// The fetches that were answered so far.
    pub(crate) fetch_count: AtomicUsize,
    /// Whether a fault that happens at a certain place has happened.
    pub(crate) struck_count: AtomicUsize,
    /// The link to disturb.
    pub(crate) emulator: OnceLock<EmulatorHandle>,
    tasks: Mutex<JoinSet<()>>,
}

/// What becomes of the link after a request.
#[derive(PartialEq)]
enum After {
    GoOn,
    CloseLink,
    CloseAll,
}

impl HostileCloud {
    pub(crate) fn new(case: &Arc<Case>, model: &Arc<Model>) -> Self {
        let views = SegmentPrefill::start(model, &case.public);
        let layers =
            views.map(|(_, view)| layer_from_view(&view, &model.geometry, KvDtype::F32).unwrap());
        Self {
            case: Arc::clone(case),
            model: Arc::clone(model),
            layers: layers.collect(),
            fetch_count: AtomicUsize::new(0),
            struck_count: AtomicUsize::new(0),
            emulator: OnceLock::new(),
            tasks: Mutex::default(),
        }
    }

    /// Bytes of one layer's stream.
    pub(crate) fn stream_bytes(&self) -> usize {
        LAYER_HEADER_BYTES + self.layers[0].payload().len() + LAYER_TRAILER_BYTES
    }

    /// Ends everything that serves or holds on to something.
    pub(crate) fn stop(&self) {
        self.tasks.lock().unwrap().abort_all();
    }

    pub(crate) fn spawn(&self, task: impl Future<Output = ()> + Send + 'static) {
        self.tasks.lock().unwrap().spawn(task);
    }

    /// Keeps a fetch open: dropped, it would tell the edge that the rest will not come.
    fn hold(&self, sender: LayerSender) {
        self.spawn(async move {
            let _held = sender;
            std::future::pending::<()>().await;
        });
    }

    /// Serves until it is stopped or the case wants it dead.
    pub(crate) fn start(self: &Arc<Self>, identity: &CloudIdentity) -> SocketAddr {
        let loopback = (Ipv4Addr::LOCALHOST, 0).into();
        let mut endpoint = CloudEndpoint::bind(loopback, identity, link_config()).unwrap();
        let addr = endpoint.local_addr().unwrap();
        let cloud = Arc::clone(self);
        self.spawn(async move {
            let (dead, mut died) = tokio::sync::mpsc::channel(1);
            loop {
                let link = tokio::select! {
                    link = endpoint.accept() => link,
                    _ = died.recv() => return,
                };
                let Some(link) = link else { return };
                let (serving, dead) = (Arc::clone(&cloud), dead.clone());
                cloud.spawn(async move {
                    if serving.serve_link(link).await == After::CloseAll {
                        let _ = dead.send(()).await;
                    }
                });
            }
        });
        addr
    }

    async fn serve_link(&self, mut link: EdgeLink) -> After {
        while let Some(request) = link.next_request().await {
            let after = self.serve(request).await;
            if after != After::GoOn {
                link.close(CloseReason::Internal);
                return after;
            }
        }
        After::GoOn
    }

    async fn serve(&self, incoming: IncomingRequest) -> After {
        let CloudRequest::Fetch(fetch) = incoming.request else {
            panic!("only fetches are sent")
        };
        let is_first = self.fetch_count.fetch_add(1, Ordering::SeqCst) == 0;
        let meets = |when: When| is_first || when == When::Always;
        match &self.case.fault {
            Fault::Refuse(kind) => {
                let _ = incoming.responder.refuse(refusal(*kind)).await;
                After::GoOn
            }
            Fault::NoAnswer => After::GoOn,
            Fault::Manifest(wrong) => {
                let manifest = self.wrong_manifest(&fetch, *wrong);
                // Kept open: what the edge makes of the manifest is the test.
                if let Ok(sender) = incoming.responder.manifest(&manifest).await {
                    self.hold(sender);
                }
                After::GoOn
            }
            Fault::Die { after } => {
                self.send(&fetch, incoming.responder, *after).await;
                After::CloseAll
            }
            Fault::CloseLink { after, when } if meets(*when) => {
                self.send(&fetch, incoming.responder, *after).await;
                After::CloseLink
            }
            Fault::Abandon { after, when } if meets(*when) => {
                drop(self.send(&fetch, incoming.responder, *after).await);
                After::GoOn
            }
            Fault::Silence { after, when } if meets(*when) => {
                if let Some(sender) = self.send(&fetch, incoming.responder, *after).await {
                    self.hold(sender);
                }
                After::GoOn
            }
            Fault::Stream {
                layer,
                damage,
                when,
            } if meets(*when) => {
                self.send_damaged(&fetch, incoming.responder, (*layer, *damage))
                    .await;
                After::GoOn
            }
            Fault::Cut { after } => self.disturb(&fetch, incoming.responder, *after).await,
            Fault::CutAndResume { after, .. } | Fault::StallAndResume { after, .. } if is_first => {
                self.disturb(&fetch, incoming.responder, *after).await
            }
            _ => {
                self.finish(&fetch, incoming.responder).await;
                After::GoOn
            }
        }
    }

    fn manifest(&self, fetch: &Fetch) -> Manifest {
        let tokens = self.case.public.clone();
        Manifest {
            fetch: fetch.fetch,
            prompt: PromptId::of(&self.model.digest, &tokens),
            model: self.model.digest,
            geometry: self.model.geometry,
            dtype: KvDtype::F32,
            layers: self.range(fetch),
            tokens,
            text: None,
            source: KvSource::Stored,
        }
    }

    fn range(&self, fetch: &Fetch) -> LayerRange {
        let all = LayerRange::first(self.model.geometry.layer_count());
        fetch.layers.unwrap_or(all)
    }

    fn wrong_manifest(&self, fetch: &Fetch, wrong: WrongManifest) -> Manifest {
        let right = self.manifest(fetch);
        match wrong {
            WrongManifest::Geometry => Manifest {
                geometry: KvGeometry::new(right.geometry.layer_count(), 2, 16).unwrap(),
                ..right
            },
            WrongManifest::Model => {
                let model = ModelDigest::new([7; 32]);
                let prompt = PromptId::of(&model, &right.tokens);
                Manifest {
                    model,
                    prompt,
                    ..right
                }
            }
            WrongManifest::Tokens => {
                let mut tokens = right.tokens;
                tokens.push(TokenId(5));
                let prompt = PromptId::of(&right.model, &tokens);
                Manifest {
                    tokens,
                    prompt,
                    ..right
                }
            }
            WrongManifest::Layers => Manifest {
                layers: LayerRange::first(right.geometry.layer_count() - 1),
                ..right
            },
            WrongManifest::Fetch => Manifest {
                fetch: FetchId(fetch.fetch.0 + 1),
                ..right
            },
        }
    }

    /// Sends as many of the first layers as asked for; `None` if the link is gone.
    async fn send(&self, fetch: &Fetch, responder: Responder, count: usize) -> Option<LayerSender> {
        let sender = responder.manifest(&self.manifest(fetch)).await.ok()?;
        for layer in sender.manifest().layers.iter().take(count) {
            self.send_layer(&sender, layer).await.ok()?;
        }
        Some(sender)
    }

    async fn send_layer(
        &self,
        sender: &LayerSender,
        layer: LayerIndex,
    ) -> Result<(), SendLayerError> {
        let kv = &self.layers[layer.as_usize()];
        sender.send(layer, kv, ComputeSpan::Stored).await.map(drop)
    }

    /// Sends everything, in the order of the case.
    async fn finish(&self, fetch: &Fetch, responder: Responder) {
        let Ok(sender) = responder.manifest(&self.manifest(fetch)).await else {
            return;
        };
        let mut layers: Vec<LayerIndex> = sender.manifest().layers.iter().collect();
        if let Fault::Shuffled { order } = &self.case.fault {
            let place = |layer: &LayerIndex| order.iter().position(|at| *at == layer.as_usize());
            layers.sort_by_key(place);
            self.struck_count.fetch_add(1, Ordering::SeqCst);
        }
        for layer in layers {
            if self.send_layer(&sender, layer).await.is_err() {
                return;
            }
        }
        let _ = sender.finish().await;
    }

    async fn send_damaged(
        &self,
        fetch: &Fetch,
        responder: Responder,
        (damaged, damage): (usize, StreamDamage),
    ) {
        let damage = self.damage(damaged, damage);
        let Ok(sender) = responder.manifest(&self.manifest(fetch)).await else {
            return;
        };
        for layer in sender.manifest().layers.iter() {
            let sent = if layer.as_usize() == damaged {
                self.struck_count.fetch_add(1, Ordering::SeqCst);
                let kv = &self.layers[damaged];
                sender.send_damaged(layer, kv, &damage).await
            } else {
                self.send_layer(&sender, layer).await
            };
            if sent.is_err() {
                return;
            }
        }
        match damage {
            Damage::Stall(_) => self.hold(sender),
            _ => drop(sender.finish().await),
        }
    }

    fn damage(&self, layer: usize, damage: StreamDamage) -> Damage {
        let place = |ppm: usize| ppm * self.stream_bytes() / 1_000_000;
        match damage {
            StreamDamage::Flip { at_ppm, bits } => Damage::Flip {
                at: place(at_ppm),
                bits,
            },
            StreamDamage::Truncate { at_ppm } => Damage::Truncate(place(at_ppm)),
            StreamDamage::Reset { at_ppm } => Damage::Reset(place(at_ppm)),
            StreamDamage::Stall { at_ppm } => Damage::Stall(place(at_ppm)),
            StreamDamage::Overlong { byte_count } => Damage::Overlong(byte_count),
            StreamDamage::OtherPayload => {
                Damage::Payload(self.layers[(layer + 1) % self.layers.len()].clone())
            }
        }
    }

    /// Whether the fault is one that the edge need not notice.
    pub(crate) fn is_harmless(&self) -> bool {
        let Fault::Stream {
            damage: StreamDamage::Flip { at_ppm, .. },
            ..
        } = self.case.fault
        else {
            return false;
        };
        at_ppm * self.stream_bytes() / 1_000_000 >= self.stream_bytes() - UNCHECKED_BYTES
    }

    /// Sends some layers, disturbs the link, and sends the others into it.
    async fn disturb(&self, fetch: &Fetch, responder: Responder, after: usize) -> After {
        let Some(sender) = self.send(fetch, responder, after).await else {
            return After::GoOn;
        };
        let emulator = self.emulator.get().unwrap();
        match self.case.fault {
            Fault::StallAndResume { .. } => emulator.stall(),
            _ => emulator.cut(),
        }
        self.struck_count.fetch_add(1, Ordering::SeqCst);
        let rest: Vec<LayerIndex> = sender.manifest().layers.iter().skip(after).collect();
        for layer in rest {
            if self.send_layer(&sender, layer).await.is_err() {
                return After::GoOn;
            }
        }
        match self.case.fault {
            Fault::CutAndResume { pause, .. } | Fault::StallAndResume { pause, .. } => {
                tokio::time::sleep(pause).await;
                emulator.resume();
                let _ = sender.finish().await;
            }
            _ => self.hold(sender),
        }
        After::GoOn
    }
}

fn refusal(kind: RefusalKind) -> Refusal {
    match kind {
        RefusalKind::Busy => Refusal::Busy {
            waiting_count_max: 1,
        },
        RefusalKind::Internal => Refusal::Internal,
        RefusalKind::PublicPrompt => {
            Refusal::PublicPromptRefused(PublicPromptProblem::NotTokenisable)
        }
    }
}
