//! Sends the layers of one fetch, each on a stream of its own, early layers first. It computes
//! nothing: whoever has a layer hands it in.

#[cfg(feature = "fault-injection")]
pub(crate) mod damage;
pub(crate) mod protection;

use std::collections::BTreeSet;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use edgeprompt_kv::{LayerIndex, LayerKv, PromptId};
use edgeprompt_protocol::{HeaderMismatch, LayerHeader, LayerTimings, LayerTrailer, Manifest};
use quinn::{SendStream, WriteError};
use tokio::time::timeout;

use crate::close::{LinkLost, StreamEnd};
use crate::edge_link::EdgeConnection;
use crate::load::LoadGuard;

pub(crate) use protection::ParityUse;

/// Bytes handed to the transport at a time: a reader that stalls is noticed between two of them.
const CHUNK_BYTES: usize = 256 << 10;

/// When a layer was computed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComputeSpan {
    /// Before anyone asked.
    Stored,
    /// Between these two instants.
    Computed {
        /// When its computation started.
        start: Instant,
        /// When it ended.
        end: Instant,
    },
}

/// Why a layer, or the end of the layers, could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum SendLayerError {
    /// The layer is not one the manifest announced.
    #[error(transparent)]
    Mismatch(#[from] HeaderMismatch),
    /// The layer was sent before.
    #[error("layer {} was sent already", .layer.0)]
    SentAlready {
        /// The layer.
        layer: LayerIndex,
    },
    /// Layers that the manifest announced were not sent.
    #[error("{missing_count} announced layers were not sent")]
    Incomplete {
        /// How many.
        missing_count: usize,
    },
    /// The edge no longer wants the layers: stop computing them.
    #[error("the edge withdrew the fetch")]
    Withdrawn,
    /// The edge does not read.
    #[error("the layer made no progress in time")]
    TimedOut,
    /// The link is gone.
    #[error(transparent)]
    Lost(#[from] LinkLost),
}

impl From<WriteError> for SendLayerError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::ConnectionLost(error) => Self::Lost(error.into()),
            WriteError::Stopped(_) | WriteError::ClosedStream | WriteError::ZeroRttRejected => {
                Self::Withdrawn
            }
        }
    }
}

/// A layer that is on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SentLayer {
    /// Bytes of its stream: header, payload and trailer, without a parity that may have followed.
    pub sent_bytes: u64,
    /// The times the edge is told.
    pub timings: LayerTimings,
}

/// Sends the layers of one manifest. Dropping it before [`LayerSender::finish`] tells the edge
/// that the rest will not come.
pub struct LayerSender {
    control: SendStream,
    manifest: Manifest,
    link: Arc<EdgeConnection>,
    received_at: Instant,
    progress: Mutex<Progress>,
    phase: Phase,
    _guard: LoadGuard,
}

#[derive(Default)]
struct Progress {
    claimed: BTreeSet<LayerIndex>,
    /// Streams that are written whole; kept until the edge has acknowledged them.
    streams: Vec<SendStream>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Phase {
    Open,
    Finished,
}

impl std::fmt::Debug for LayerSender {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("LayerSender")
            .field("fetch", &self.manifest.fetch)
            .finish_non_exhaustive()
    }
}

impl LayerSender {
    pub(crate) fn new(
        control: SendStream,
        manifest: Manifest,
        link: Arc<EdgeConnection>,
        received_at: Instant,
        guard: LoadGuard,
    ) -> Self {
        let (progress, phase) = (Mutex::default(), Phase::Open);
        Self {
            control,
            manifest,
            link,
            received_at,
            progress,
            phase,
            _guard: guard,
        }
    }

    /// The manifest that announced the layers.
    pub const fn manifest(&self) -> &Manifest {
        &self.manifest
    }

    /// Waits until the edge no longer wants the layers, or is gone: stop computing them. It borrows
    /// nothing, so a queued job can wait for it beside its turn. After [`LayerSender::finish`] it
    /// means nothing.
    pub fn withdrawn(&self) -> impl Future<Output = ()> + Send + use<> {
        let stopped = self.control.stopped();
        async move {
            // The stream is not finished yet, so it has been stopped or has gone with its link.
            let _ = stopped.await;
        }
    }

    /// Sends one layer; returns when the transport has all of it, not when the edge does.
    ///
    /// The transport takes what its window allows and then makes this wait, so compute on another
    /// thread and send from one task. Layers may be sent in any order and at the same time; the
    /// earlier layer goes first on the wire.
    ///
    /// # Errors
    /// [`SendLayerError`].
    pub async fn send(
        &self,
        layer: LayerIndex,
        kv: &LayerKv,
        span: ComputeSpan,
    ) -> Result<SentLayer, SendLayerError> {
        let header = LayerHeader {
            fetch: self.manifest.fetch,
            layer,
            dtype: kv.dtype(),
            payload_bytes: kv.payload().len() as u64,
        };
        header.check_against(&self.manifest)?;
        self.claim(layer)?;
        tokio::select! {
            biased;
            () = self.withdrawn() => Err(self.link_error()),
            sent = self.send_stream(header, kv.payload(), span) => sent,
        }
    }

    /// Says that all layers were sent and waits until the edge has them, within reason.
    ///
    /// # Errors
    /// [`SendLayerError::Incomplete`] if announced layers are missing.
    pub async fn finish(mut self) -> Result<(), SendLayerError> {
        let Progress { claimed, streams } = std::mem::take(
            self.progress
                .get_mut()
                .unwrap_or_else(PoisonError::into_inner),
        );
        let missing_count = self.manifest.layers.len() - claimed.len();
        if missing_count > 0 {
            return Err(SendLayerError::Incomplete { missing_count });
        }
        self.phase = Phase::Finished;
        // Fails if the edge has all it wants and went on.
        let _ = self.control.finish();
        let acknowledged = async {
            for stream in streams {
                let _ = stream.stopped().await;
            }
        };
        timeout(self.link.timeouts.layer, acknowledged)
            .await
            .map_err(|_| SendLayerError::TimedOut)
    }

    fn claim(&self, layer: LayerIndex) -> Result<(), SendLayerError> {
        if self.progress().claimed.insert(layer) {
            return Ok(());
        }
        Err(SendLayerError::SentAlready { layer })
    }

    async fn send_stream(
        &self,
        header: LayerHeader,
        payload: &Bytes,
        span: ComputeSpan,
    ) -> Result<SentLayer, SendLayerError> {
        let patience = self.link.timeouts.layer;
        let opening = timeout(patience, self.link.connection.open_uni()).await;
        let mut stream = opening
            .map_err(|_| SendLayerError::TimedOut)?
            .map_err(LinkLost::from)?;
        let timings = self.timings(span, Instant::now());
        let written = write_layer(
            &mut stream,
            (header, self.manifest.prompt),
            payload,
            (timings, patience),
        )
        .await;
        match written {
            Ok((sent_bytes, trailer)) => {
                self.progress().streams.push(stream);
                self.protect(header, payload, &trailer).await;
                Ok(SentLayer {
                    sent_bytes,
                    timings,
                })
            }
            Err(error) => {
                // Fails if the edge has stopped the stream, and then it knows.
                let _ = stream.reset(StreamEnd::Abandoned.code());
                Err(error)
            }
        }
    }

    fn timings(&self, span: ComputeSpan, now: Instant) -> LayerTimings {
        let since = |instant: Instant| {
            let elapsed = instant.saturating_duration_since(self.received_at);
            u64::try_from(elapsed.as_micros()).unwrap_or(u64::MAX)
        };
        let (compute_start_us, compute_end_us) = match span {
            ComputeSpan::Stored => (0, 0),
            ComputeSpan::Computed { start, end } => (since(start), since(end.max(start))),
        };
        LayerTimings {
            compute_start_us,
            compute_end_us,
            send_start_us: since(now),
        }
    }

    fn link_error(&self) -> SendLayerError {
        self.link
            .connection
            .close_reason()
            .map_or(SendLayerError::Withdrawn, |error| {
                SendLayerError::Lost(error.into())
            })
    }

    fn progress(&self) -> std::sync::MutexGuard<'_, Progress> {
        self.progress.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LayerSender {
    fn drop(&mut self) {
        if self.phase == Phase::Open {
            // Fails if the edge has withdrawn the fetch, and then it knows.
            let _ = self.control.reset(StreamEnd::Abandoned.code());
        }
    }
}

async fn write_layer(
    stream: &mut SendStream,
    (header, prompt): (LayerHeader, PromptId),
    payload: &Bytes,
    (timings, patience): (LayerTimings, Duration),
) -> Result<(u64, LayerTrailer), SendLayerError> {
    stream
        .set_priority(protection::layer_priority(header.layer))
        .map_err(|_| SendLayerError::Withdrawn)?;
    let mut sent_bytes = 0;
    let mut write = async |chunk: Bytes| {
        sent_bytes += chunk.len() as u64;
        let written = timeout(patience, stream.write_chunk(chunk)).await;
        written
            .map_err(|_| SendLayerError::TimedOut)?
            .map_err(SendLayerError::from)
    };
    // A layer takes milliseconds to hash, in which the link's task could not send it.
    let hashed = payload.clone();
    let digest = tokio::task::spawn_blocking(move || header.digest(&prompt, &hashed));
    write(Bytes::copy_from_slice(&header.encode())).await?;
    let mut rest = payload.clone();
    while !rest.is_empty() {
        write(rest.split_to(rest.len().min(CHUNK_BYTES))).await?;
    }
    // Hashing neither panics nor is aborted, but with the runtime, and then nothing is sent.
    let digest = digest.await.map_err(|_| LinkLost::ClosedHere)?;
    let trailer = LayerTrailer { digest, timings };
    write(Bytes::copy_from_slice(&trailer.encode())).await?;
    stream.finish().map_err(|_| SendLayerError::Withdrawn)?;
    Ok((sent_bytes, trailer))
}
