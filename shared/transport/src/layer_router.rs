//! Receives layer streams of one link and hands each layer to the fetch it belongs to. Knows
//! fetches by number only; what is done with a layer is [`LayerStream`](crate::LayerStream)'s.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use edgeprompt_kv::{KvGeometry, LayerIndex, LayerKv};
use edgeprompt_protocol::{
    FetchId, HeaderMismatch, LAYER_HEADER_BYTES, LayerHeader, Manifest, ParityHeader,
};
use quinn::{Connection, RecvStream};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::timeout;

use crate::arrival_meter::ArrivalMeter;
use crate::close::StreamEnd;
use crate::cloud_link::{FETCHES_MAX, FetchError};
use crate::config::{BitRate, Timeouts};
use crate::layer_reader::{IncomingParity, LayerSource};
use crate::layer_stream::{LayerFailure, LayerProblem, ReceivedLayer};

/// Layers a fetch may have received and not yet handed on: all of them. Waiting here would leave
/// unread bytes in the link's window and stall its other fetches; what this holds is bounded by
/// the manifest that the edge agreed to.
const LAYERS_QUEUED_MAX: usize = KvGeometry::LAYER_COUNT_MAX as usize;

pub(crate) type LayerResult = Result<ReceivedLayer, LayerFailure>;

/// The open fetches of a link. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Routes {
    routes: Arc<Mutex<HashMap<FetchId, Arc<Route>>>>,
    arrivals: Arrivals,
}

/// What the link's layers are measured with. Clones share it.
#[derive(Clone, Default)]
pub(crate) struct Arrivals(Arc<Mutex<ArrivalMeter>>);

/// A layer that is arriving; dropping it ends it, whether it came or not.
pub(crate) struct Arriving<'a>(&'a Arrivals);

/// Where the layers of one fetch go.
struct Route {
    manifest: watch::Sender<Option<Arc<Manifest>>>,
    layers: mpsc::Sender<LayerResult>,
    /// The layers whose streams have come.
    claimed: Mutex<BTreeSet<LayerIndex>>,
    /// How many those are, for whoever wants to watch.
    begun: watch::Sender<usize>,
    /// Between the tasks of a layer and of its parity, whichever comes first.
    parities: Mutex<BTreeMap<LayerIndex, ParityDoor>>,
}

/// Both ends of the way of one layer's parity, until they are taken.
struct ParityDoor {
    sender: Option<oneshot::Sender<IncomingParity>>,
    receiver: Option<oneshot::Receiver<IncomingParity>>,
}

/// A fetch's end of its route; dropping it closes the route.
pub(crate) struct OpenRoute {
    routes: Routes,
    fetch: FetchId,
    manifest: watch::Sender<Option<Arc<Manifest>>>,
    pub(crate) layers: mpsc::Receiver<LayerResult>,
    pub(crate) begun: watch::Receiver<usize>,
}

impl OpenRoute {
    /// Lets streams through that waited for the manifest.
    pub(crate) fn announce(&self, manifest: &Arc<Manifest>) {
        self.manifest.send_replace(Some(Arc::clone(manifest)));
    }
}

impl Drop for OpenRoute {
    fn drop(&mut self) {
        self.routes.lock().remove(&self.fetch);
    }
}

impl Routes {
    /// Expects layers of `fetch`.
    pub(crate) fn open(&self, fetch: FetchId) -> Result<OpenRoute, FetchError> {
        let mut routes = self.lock();
        if routes.len() >= FETCHES_MAX {
            return Err(FetchError::TooMany);
        }
        if routes.contains_key(&fetch) {
            return Err(FetchError::IdInUse { fetch });
        }
        let (sender, layers) = mpsc::channel(LAYERS_QUEUED_MAX);
        let manifest = watch::Sender::new(None);
        let (counting, begun) = watch::channel(0);
        let route = Route {
            manifest: manifest.clone(),
            layers: sender,
            claimed: Mutex::default(),
            begun: counting,
            parities: Mutex::default(),
        };
        routes.insert(fetch, Arc::new(route));
        Ok(OpenRoute {
            routes: self.clone(),
            fetch,
            manifest,
            layers,
            begun,
        })
    }

    /// How fast layers arrive, once any has.
    pub(crate) fn arrival_rate(&self) -> Option<BitRate> {
        self.arrivals.lock().rate()
    }

    /// Takes every stream that the cloud opens, until the link is gone.
    pub(crate) async fn run(self, connection: Connection, timeouts: Timeouts) {
        while let Ok(stream) = connection.accept_uni().await {
            // At most LAYER_STREAMS_MAX of these run: a stream counts until it is read or stopped.
            tokio::spawn(self.clone().receive(stream, timeouts));
        }
    }

    async fn receive(self, mut stream: RecvStream, timeouts: Timeouts) {
        let mut bytes = [0; LAYER_HEADER_BYTES];
        let read = timeout(timeouts.layer, stream.read_exact(&mut bytes)).await;
        let ended = match read {
            Ok(Ok(())) if ParityHeader::begins(&bytes) => {
                self.route_parity(&bytes, stream, timeouts).await
            }
            Ok(Ok(())) => self
                .route_layer(&bytes, &mut stream, timeouts)
                .await
                .map_err(|end| (end, stream)),
            Ok(Err(_)) | Err(_) => Err((StreamEnd::Malformed, stream)),
        };
        if let Err((end, mut stream)) = ended {
            tracing::debug!(?end, "layer stream refused");
            // Fails if the stream is gone already.
            let _ = stream.stop(end.code());
        }
    }

    /// Hands a parity's stream to whoever reads its layer; an error is one that nobody reads.
    async fn route_parity(
        &self,
        header: &[u8; LAYER_HEADER_BYTES],
        stream: RecvStream,
        timeouts: Timeouts,
    ) -> Result<(), (StreamEnd, RecvStream)> {
        let door = async {
            let header = ParityHeader::decode(header).map_err(|_| StreamEnd::Malformed)?;
            let route = self.route_of(header.fetch)?;
            let manifest = route.manifest(timeouts).await?;
            let strides = header
                .check_against(&manifest)
                .map_err(|_| StreamEnd::Malformed)?;
            let sender = route.parity_sender(header.layer);
            Ok((sender.ok_or(StreamEnd::UnexpectedLayer)?, strides))
        };
        let (sender, strides) = match door.await {
            Ok(door) => door,
            Err(end) => return Err((end, stream)),
        };
        // Comes back if the layer has come without it.
        let parity = IncomingParity { strides, stream };
        sender
            .send(parity)
            .map_err(|parity| (StreamEnd::Cancelled, parity.stream))
    }

    /// Reads one layer's stream; an error is one that belongs to no layer of any fetch.
    async fn route_layer(
        &self,
        header: &[u8; LAYER_HEADER_BYTES],
        stream: &mut RecvStream,
        timeouts: Timeouts,
    ) -> Result<(), StreamEnd> {
        let first_byte_at = Instant::now();
        let header = LayerHeader::decode(header).map_err(|_| StreamEnd::Malformed)?;
        let route = self.route_of(header.fetch)?;
        let manifest = route.manifest(timeouts).await?;
        let checked = header.check_against(&manifest);
        if let Err(HeaderMismatch::Layer { .. } | HeaderMismatch::Fetch { .. }) = checked {
            return Err(StreamEnd::UnexpectedLayer);
        }
        let layer = header.layer;
        if !route.claim(layer) {
            return Err(StreamEnd::UnexpectedLayer);
        }
        let received = async {
            let payload_bytes = checked.map_err(LayerProblem::Header)?;
            let source = LayerSource {
                stream,
                parity: route.parity_receiver(layer),
                arriving: self.arrivals.begin(),
                patience: timeouts.layer,
            };
            let hasher = header.hasher(&manifest.prompt);
            let whole = source.read(payload_bytes, hasher).await?;
            let (geometry, token_count) = (&manifest.geometry, manifest.tokens.len());
            let kv = LayerKv::new(whole.payload, geometry, token_count, manifest.dtype)
                .expect("as many bytes were read as the manifest implies");
            Ok(ReceivedLayer {
                layer,
                kv,
                first_byte_at,
                last_byte_at: Instant::now(),
                timings: whole.trailer.timings,
                rebuilt_bytes: whole.rebuilt_bytes,
            })
        };
        let received = tokio::select! {
            received = received => received,
            () = route.layers.closed() => return Err(StreamEnd::Cancelled),
        };
        let result = received.map_err(|problem| LayerFailure { layer, problem });
        let ended = if result.is_ok() {
            Ok(())
        } else {
            Err(StreamEnd::Malformed)
        };
        // Full is impossible, for claims are bounded; closed means that nobody wants the layer.
        let _ = route.layers.try_send(result);
        ended
    }

    fn route_of(&self, fetch: FetchId) -> Result<Arc<Route>, StreamEnd> {
        let route = self.lock().get(&fetch).cloned();
        route.ok_or(StreamEnd::UnknownFetch)
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<FetchId, Arc<Route>>> {
        self.routes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Arrivals {
    fn begin(&self) -> Arriving<'_> {
        self.lock().begin(Instant::now());
        Arriving(self)
    }

    fn lock(&self) -> MutexGuard<'_, ArrivalMeter> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Arriving<'_> {
    /// So many bytes of it have come.
    pub(crate) fn count(&self, bytes: usize) {
        self.0.lock().count(Instant::now(), bytes);
    }
}

impl Drop for Arriving<'_> {
    fn drop(&mut self) {
        self.0.lock().end(Instant::now());
    }
}

impl Route {
    /// Waits for the manifest, which may come after its first layers.
    async fn manifest(&self, timeouts: Timeouts) -> Result<Arc<Manifest>, StreamEnd> {
        let mut manifest = self.manifest.subscribe();
        let announced = async {
            let announced = manifest.wait_for(Option::is_some).await.ok()?;
            announced.clone()
        };
        tokio::select! {
            announced = timeout(timeouts.reply, announced) => {
                announced.ok().flatten().ok_or(StreamEnd::UnknownFetch)
            }
            () = self.layers.closed() => Err(StreamEnd::Cancelled),
        }
    }

    fn claim(&self, layer: LayerIndex) -> bool {
        let mut claimed = self.claimed.lock().unwrap_or_else(PoisonError::into_inner);
        let new = claimed.insert(layer);
        self.begun.send_replace(claimed.len());
        new
    }
    /// The way to the task of a layer; `None` for a second parity.
    fn parity_sender(&self, layer: LayerIndex) -> Option<oneshot::Sender<IncomingParity>> {
        self.at_door(layer, |door| door.sender.take())
    }

    /// The way from the task of a layer's parity. A layer is claimed once, so it is there.
    fn parity_receiver(&self, layer: LayerIndex) -> oneshot::Receiver<IncomingParity> {
        let receiver = self.at_door(layer, |door| door.receiver.take());
        receiver.unwrap_or_else(|| oneshot::channel().1)
    }

    /// Only layers of the manifest have a door.
    fn at_door<T>(&self, layer: LayerIndex, take: impl FnOnce(&mut ParityDoor) -> T) -> T {
        let mut doors = self.parities.lock().unwrap_or_else(PoisonError::into_inner);
        take(doors.entry(layer).or_insert_with(|| {
            let (sender, receiver) = oneshot::channel();
            ParityDoor {
                sender: Some(sender),
                receiver: Some(receiver),
            }
        }))
    }
}
