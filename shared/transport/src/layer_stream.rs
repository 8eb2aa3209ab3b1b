//! The layers of one fetch as they arrive, checked, in whatever order they come. It retries
//! nothing: a layer that does not come is the engine's to compute.

use std::sync::Arc;
use std::time::Instant;

use edgeprompt_kv::{LayerIndex, LayerKv};
use edgeprompt_protocol::{HeaderMismatch, LayerTimings, Manifest, TrailerError};
use quinn::{ReadError, RecvStream};
use tokio::sync::watch;
use tokio::time::timeout;

use crate::close::LinkLost;
use crate::cloud_link::CloudConnection;
use crate::layer_router::OpenRoute;

/// A layer that is what its digest says.
#[derive(Clone, Debug)]
pub struct ReceivedLayer {
    /// Which layer.
    pub layer: LayerIndex,
    /// Its keys and values; length and digest are checked.
    pub kv: LayerKv,
    /// When its header was read.
    pub first_byte_at: Instant,
    /// When its trailer was read and checked.
    pub last_byte_at: Instant,
    /// When the cloud worked on it, since the cloud received the fetch.
    pub timings: LayerTimings,
    /// Bytes that packets lost on the way would have brought, rebuilt from the layer's parity instead
    /// of waited for.
    pub rebuilt_bytes: usize,
}

/// A layer that came and is not usable; the others are not affected.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("layer {} is not usable: {problem}", .layer.0)]
pub struct LayerFailure {
    /// Which layer.
    pub layer: LayerIndex,
    /// Why.
    pub problem: LayerProblem,
}

/// What is wrong with a layer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayerProblem {
    /// Its bytes do not hash to its digest.
    #[error("its bytes do not match their digest")]
    Corrupt,
    /// Its stream ended early.
    #[error("it ended early")]
    Truncated,
    /// Its stream goes on after its trailer.
    #[error("bytes follow its trailer")]
    Overlong,
    /// It comes in far more pieces than packets that a path loses make of it.
    #[error("it came in too many pieces")]
    Scattered,
    /// It stopped coming.
    #[error("it made no progress in time")]
    Stalled,
    /// Its header contradicts the manifest.
    #[error(transparent)]
    Header(#[from] HeaderMismatch),
    /// Its trailer is not one.
    #[error(transparent)]
    Trailer(#[from] TrailerError),
    /// The link went away.
    #[error(transparent)]
    Lost(#[from] LinkLost),
}

/// Why there is no next layer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LayerStreamError {
    /// One layer is not usable; further ones may follow, so keep asking.
    #[error(transparent)]
    Layer(#[from] LayerFailure),
    /// The cloud gave up on the rest.
    #[error("the cloud abandoned the fetch with {missing_count} layers to come: its log says why")]
    Abandoned {
        /// Layers that will not come.
        missing_count: usize,
    },
    /// No layer came for too long; it may still, so asking again is allowed.
    #[error("no layer came in time, {missing_count} are missing")]
    TimedOut {
        /// Layers that have not come.
        missing_count: usize,
    },
    /// The link is gone, and with it the rest.
    #[error(transparent)]
    Lost(#[from] LinkLost),
}

impl LayerStreamError {
    /// Whether asking for the next layer can bring more.
    pub const fn is_final(&self) -> bool {
        match self {
            Self::Layer(_) | Self::TimedOut { .. } => false,
            Self::Abandoned { .. } | Self::Lost(_) => true,
        }
    }
}

/// The layers of one fetch. Dropping it tells the cloud to stop sending.
pub struct LayerStream {
    link: Arc<CloudConnection>,
    manifest: Arc<Manifest>,
    route: OpenRoute,
    control: Control,
    remaining_count: usize,
}

/// The stream that brought the manifest; its end is the cloud's word on the layers.
enum Control {
    Open(RecvStream),
    /// The cloud has sent every layer.
    Finished,
    Failed(LayerStreamError),
}

impl std::fmt::Debug for LayerStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerStream")
            .field("fetch", &self.manifest.fetch)
            .field("remaining_count", &self.remaining_count)
            .finish_non_exhaustive()
    }
}

impl LayerStream {
    pub(crate) fn new(
        link: Arc<CloudConnection>,
        manifest: Arc<Manifest>,
        route: OpenRoute,
        control: RecvStream,
    ) -> Self {
        route.announce(&manifest);
        let remaining_count = manifest.layers.len();
        Self {
            link,
            manifest,
            route,
            control: Control::Open(control),
            remaining_count,
        }
    }

    /// What the cloud promised; checked against what was asked for.
    pub fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// How many layers the cloud has begun to send, as that number grows: each of them is computed.
    pub fn begun(&self) -> watch::Receiver<usize> {
        self.route.begun.clone()
    }

    /// Layers that neither came nor failed yet.
    pub const fn remaining_count(&self) -> usize {
        self.remaining_count
    }

    /// The next layer to be complete, in any order; `None` once each has come or failed.
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`LayerStreamError`]; unless it [is final](LayerStreamError::is_final), ask again.
    pub async fn next_layer(&mut self) -> Result<Option<ReceivedLayer>, LayerStreamError> {
        if self.remaining_count == 0 {
            return Ok(None);
        }
        let patience = self.link.config.timeouts.layer;
        let missing_count = self.remaining_count;
        let waited = timeout(patience, self.wait()).await;
        waited
            .unwrap_or(Err(LayerStreamError::TimedOut { missing_count }))
            .map(Some)
    }

    async fn wait(&mut self) -> Result<ReceivedLayer, LayerStreamError> {
        loop {
            let ended = tokio::select! {
                biased;
                // The route is open as long as `self` is, so there is always a sender.
                Some(layer) = self.route.layers.recv() => {
                    self.remaining_count -= 1;
                    return Ok(layer?);
                }
                ended = self.control.ended(&self.link, self.remaining_count) => ended,
            };
            self.control = ended;
            if let Control::Failed(error) = &self.control {
                return Err(error.clone());
            }
        }
    }
}

impl Control {
    /// Waits for news: the stream's end, and after that the link's.
    async fn ended(&mut self, link: &CloudConnection, missing_count: usize) -> Self {
        match self {
            Self::Open(stream) => match stream.read_chunk(1, true).await {
                Ok(None) => Self::Finished,
                Err(ReadError::ConnectionLost(error)) => {
                    Self::Failed(LayerStreamError::Lost(error.into()))
                }
                // More bytes after the manifest are as little use as a reset.
                Ok(Some(_))
                | Err(
                    ReadError::Reset(_)
                    | ReadError::ClosedStream
                    | ReadError::IllegalOrderedRead
                    | ReadError::ZeroRttRejected,
                ) => Self::Failed(LayerStreamError::Abandoned { missing_count }),
            },
            Self::Finished => Self::Failed(LayerStreamError::Lost(
                link.connection.closed().await.into(),
            )),
            Self::Failed(error) => Self::Failed(error.clone()),
        }
    }
}
