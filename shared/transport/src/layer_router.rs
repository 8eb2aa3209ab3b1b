//! Receives layer streams of one link and hands each layer to the fetch it belongs to. Knows
//! fetches by number only; what is done with a layer is [`LayerStream`](crate::LayerStream)'s.

use std::collections::{BTreeSet, HashMap};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Instant;

use bytes::{Bytes, BytesMut};
use edgeprompt_kv::{KvGeometry, LayerHasher, LayerIndex, LayerKv};
use edgeprompt_protocol::{
    FetchId, HeaderMismatch, LAYER_HEADER_BYTES, LAYER_TRAILER_BYTES, LayerHeader, LayerTrailer,
    Manifest,
};
use quinn::{Connection, ReadError, ReadExactError, RecvStream};
use tokio::sync::{mpsc, watch};
use tokio::time::timeout;

use crate::arrival_meter::ArrivalMeter;
use crate::close::{LinkLost, StreamEnd};
use crate::cloud_link::{FETCHES_MAX, FetchError};
use crate::config::{BitRate, Timeouts};
use crate::layer_stream::{LayerFailure, LayerProblem, ReceivedLayer};

/// Layers a fetch may have received and not yet handed on: all of them. Waiting here would leave
/// unread bytes in the link's window and stall its other fetches; what this holds is bounded by
/// the manifest that the edge agreed to.
const LAYERS_QUEUED_MAX: usize = KvGeometry::LAYER_COUNT_MAX as usize;

/// Bytes of a layer that are hashed at a time.
const HASHED_BYTES_MIN: usize = 64 << 10;

pub(crate) type LayerResult = Result<ReceivedLayer, LayerFailure>;

/// The open fetches of a link. Clones share them.
#[derive(Clone, Default)]
pub(crate) struct Routes {
    routes: Arc<Mutex<HashMap<FetchId, Arc<Route>>>>,
    arrivals: Arrivals,
}

/// What the link's layers are measured with. Clones share it.
#[derive(Clone, Default)]
struct Arrivals(Arc<Mutex<ArrivalMeter>>);

/// A layer that is arriving; dropping it ends it, whether it came or not.
struct Arriving<'a>(&'a Arrivals);

/// Where the layers of one fetch go.
struct Route {
    manifest: watch::Sender<Option<Arc<Manifest>>>,
    layers: mpsc::Sender<LayerResult>,
    /// The layers whose streams have come.
    claimed: Mutex<BTreeSet<LayerIndex>>,
    /// How many those are, for whoever wants to watch.
    begun: watch::Sender<usize>,
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
        if let Err(end) = self.route_stream(&mut stream, timeouts).await {
            tracing::debug!(?end, "layer stream refused");
            // Fails if the stream is gone already.
            let _ = stream.stop(end.code());
        }
    }

    /// Reads one stream; an error is a stream that belongs to no layer of any fetch.
    async fn route_stream(
        &self,
        stream: &mut RecvStream,
        timeouts: Timeouts,
    ) -> Result<(), StreamEnd> {
        let mut bytes = [0; LAYER_HEADER_BYTES];
        match timeout(timeouts.layer, stream.read_exact(&mut bytes)).await {
            Ok(Ok(())) => {}
            Ok(Err(_)) | Err(_) => return Err(StreamEnd::Malformed),
        }
        let first_byte_at = Instant::now();
        let header = LayerHeader::decode(&bytes).map_err(|_| StreamEnd::Malformed)?;
        let route = self
            .lock()
            .get(&header.fetch)
            .cloned()
            .ok_or(StreamEnd::UnknownFetch)?;
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
            let arriving = self.arrivals.begin();
            let hasher = header.hasher(&manifest.prompt);
            let expected = (payload_bytes, hasher);
            let (payload, trailer) = read_layer(stream, expected, &arriving, timeouts).await?;
            let (geometry, token_count) = (&manifest.geometry, manifest.tokens.len());
            let kv = LayerKv::new(payload, geometry, token_count, manifest.dtype)
                .expect("as many bytes were read as the manifest implies");
            Ok((kv, trailer))
        };
        let received = tokio::select! {
            received = received => received,
            () = route.layers.closed() => return Err(StreamEnd::Cancelled),
        };
        let result = match received {
            Ok((kv, trailer)) => {
                let (timings, last_byte_at) = (trailer.timings, Instant::now());
                Ok(ReceivedLayer {
                    layer,
                    kv,
                    first_byte_at,
                    last_byte_at,
                    timings,
                })
            }
            Err(problem) => Err(LayerFailure { layer, problem }),
        };
        let ended = if result.is_ok() {
            Ok(())
        } else {
            Err(StreamEnd::Malformed)
        };
        // Full is impossible, for claims are bounded; closed means that nobody wants the layer.
        let _ = route.layers.try_send(result);
        ended
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
    fn count(&self, bytes: usize) {
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
}

/// Reads payload and trailer, hashing as the bytes come.
async fn read_layer(
    stream: &mut RecvStream,
    (payload_bytes, mut hasher): (usize, LayerHasher),
    arriving: &Arriving<'_>,
    timeouts: Timeouts,
) -> Result<(Bytes, LayerTrailer), LayerProblem> {
    let stalled = |_| LayerProblem::Stalled;
    let mut payload = BytesMut::zeroed(payload_bytes);
    let (mut filled, mut hashed) = (0, 0);
    while filled < payload_bytes {
        // One read takes all that has arrived: packet by packet, timers and locks would cost more
        // than the bytes.
        let reading = stream.read(&mut payload[filled..]);
        let read = timeout(timeouts.layer, reading).await.map_err(stalled)??;
        let byte_count = read.ok_or(LayerProblem::Truncated)?;
        arriving.count(byte_count);
        filled += byte_count;
        // Less at a time would leave most of the hash's lanes empty.
        if filled - hashed >= HASHED_BYTES_MIN {
            hasher.update(&payload[hashed..filled]);
            hashed = filled;
        }
    }
    hasher.update(&payload[hashed..]);
    let mut bytes = [0; LAYER_TRAILER_BYTES];
    timeout(timeouts.layer, stream.read_exact(&mut bytes))
        .await
        .map_err(stalled)??;
    let end = timeout(timeouts.layer, stream.read_chunk(1, true))
        .await
        .map_err(stalled)??;
    if end.is_some() {
        return Err(LayerProblem::Overlong);
    }
    let trailer = LayerTrailer::decode(&bytes)?;
    if hasher.finish() != trailer.digest {
        return Err(LayerProblem::Corrupt);
    }
    Ok((payload.freeze(), trailer))
}

impl From<ReadExactError> for LayerProblem {
    fn from(error: ReadExactError) -> Self {
        match error {
            ReadExactError::FinishedEarly(_) => Self::Truncated,
            ReadExactError::ReadError(error) => error.into(),
        }
    }
}

impl From<ReadError> for LayerProblem {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::ConnectionLost(error) => Self::Lost(LinkLost::from(error)),
            ReadError::Reset(_)
            | ReadError::ClosedStream
            | ReadError::IllegalOrderedRead
            | ReadError::ZeroRttRejected => Self::Truncated,
        }
    }
}
