//! A cloud's link to one edge: reads its requests, answers them. What the answer is, is the
//! caller's to decide; the layers after a manifest are [`LayerSender`]'s.

use std::sync::{Arc, Weak};
use std::time::Instant;

use edgeprompt_protocol::codec::{self, EncodeError};
use edgeprompt_protocol::{CloudReply, CloudRequest, Manifest, PromptEntry, Refusal};
use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::close::{CloseReason, LinkLost, StreamEnd};
use crate::config::{LinkEstimate, REQUEST_STREAMS_MAX, Timeouts};
use crate::congestion::PathController;
use crate::control::{self, CONTROL_PRIORITY, WriteMessageError};
use crate::edge_count::EdgeSeat;
use crate::layer_sender::{LayerSender, ParityUse};
use crate::load::{Load, LoadGuard};
use crate::path_memory::{PathKey, PathMemory};
use crate::socket::LinkStats;

/// Why a reply could not be sent.
#[derive(Debug, thiserror::Error)]
pub enum RespondError {
    /// The reply breaks a limit of the protocol.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The edge no longer wants it.
    #[error("the edge withdrew the request")]
    Withdrawn,
    /// The edge does not read.
    #[error("the reply could not be sent in time")]
    TimedOut,
    /// The link is gone.
    #[error(transparent)]
    Lost(#[from] LinkLost),
}

impl From<WriteMessageError> for RespondError {
    fn from(error: WriteMessageError) -> Self {
        match error {
            WriteMessageError::Stopped => Self::Withdrawn,
            WriteMessageError::TimedOut => Self::TimedOut,
            WriteMessageError::Lost(lost) => Self::Lost(lost),
        }
    }
}

/// What a link has of its endpoint.
pub(crate) struct LinkContext {
    pub(crate) timeouts: Timeouts,
    pub(crate) load: Load,
    pub(crate) memory: PathMemory,
    pub(crate) places: LinkPlaces,
}

/// What a link takes of the bounds on links; dropping it gives it back.
pub(crate) struct LinkPlaces {
    pub(crate) _link: OwnedSemaphorePermit,
    pub(crate) _edge: EdgeSeat,
}

/// The link itself, shared by everything that still sends on it; the last one closes it.
pub(crate) struct EdgeConnection {
    pub(crate) connection: Connection,
    pub(crate) timeouts: Timeouts,
    load: Load,
    pub(crate) memory: PathMemory,
    pub(crate) path: PathKey,
    pub(crate) parity: Arc<ParityUse>,
    _places: LinkPlaces,
}

impl Drop for EdgeConnection {
    fn drop(&mut self) {
        if let Some(estimate) = PathController::estimate_of(&self.connection) {
            self.memory.remember(self.path.clone(), estimate);
        }
        let draining = self.load.is_draining();
        let reason = if draining {
            CloseReason::ShuttingDown
        } else {
            CloseReason::Done
        };
        reason.close(&self.connection);
    }
}

/// A link to an admitted edge. It closes when this and every responder and sender is dropped.
pub struct EdgeLink {
    pub(crate) link: Arc<EdgeConnection>,
    requests: mpsc::Receiver<IncomingRequest>,
}

impl std::fmt::Debug for EdgeLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EdgeLink")
            .field("peer_name", &self.peer_name())
            .finish_non_exhaustive()
    }
}

impl EdgeLink {
    pub(crate) fn start(connection: Connection, path: PathKey, context: LinkContext) -> Self {
        let LinkContext {
            timeouts,
            load,
            memory,
            places,
        } = context;
        let link = EdgeConnection {
            connection,
            timeouts,
            load,
            memory,
            path,
            parity: Arc::default(),
            _places: places,
        };
        let link = Arc::new(link);
        let (sender, requests) = mpsc::channel(REQUEST_STREAMS_MAX as usize);
        tokio::spawn(accept_requests(Arc::downgrade(&link), sender));
        Self { link, requests }
    }

    /// The edge's name: the hash of its key under the edges' domain, so none can take another's.
    pub fn peer_name(&self) -> &str {
        &self.link.path.peer_name
    }

    /// The next request, or `None` once the link is gone or draining. Cancel-safe.
    ///
    /// Requests that are not of the protocol are refused before they get here.
    pub async fn next_request(&mut self) -> Option<IncomingRequest> {
        self.requests.recv().await
    }

    /// What the path was found to be, once the link has carried anything; `None` under another
    /// congestion control than [`PathModel`](crate::CongestionControl::PathModel).
    pub fn estimate(&self) -> Option<LinkEstimate> {
        PathController::estimate_of(&self.link.connection)
    }

    /// What the transport counted so far.
    pub fn stats(&self) -> LinkStats {
        LinkStats::of(&self.link.connection)
    }

    /// Closes the link at once; what is under way fails.
    pub fn close(&self, reason: CloseReason) {
        reason.close(&self.link.connection);
    }
}

/// A request and how to answer it.
pub struct IncomingRequest {
    /// What the edge asks.
    pub request: CloudRequest,
    /// When its last byte was read; the timings of layers count from here.
    pub received_at: Instant,
    /// How to answer. Dropping it leaves the edge without an answer.
    pub responder: Responder,
}

impl std::fmt::Debug for IncomingRequest {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("IncomingRequest")
            .field("request", &self.request)
            .finish_non_exhaustive()
    }
}

/// Answers one request.
pub struct Responder {
    stream: SendStream,
    link: Arc<EdgeConnection>,
    received_at: Instant,
    guard: LoadGuard,
}

impl std::fmt::Debug for Responder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Responder").finish_non_exhaustive()
    }
}

impl Responder {
    /// Waits until the edge no longer wants an answer, or is gone. It borrows nothing, so a queued
    /// job can wait for it beside its turn.
    pub fn withdrawn(&self) -> impl Future<Output = ()> + Send + use<> {
        let stopped = self.stream.stopped();
        async move {
            // Either way there is nobody left to answer: the stream is not finished before this
            // responder is used up.
            let _ = stopped.await;
        }
    }

    /// Says why the request is not served.
    ///
    /// # Errors
    /// [`RespondError`].
    pub async fn refuse(self, refusal: Refusal) -> Result<(), RespondError> {
        self.finish(CloudReply::Refused(refusal)).await
    }

    /// Lists the prompts served by name.
    ///
    /// # Errors
    /// [`RespondError`].
    pub async fn prompts(self, entries: Vec<PromptEntry>) -> Result<(), RespondError> {
        self.finish(CloudReply::Prompts(entries)).await
    }

    /// Announces the layers that the sender is for.
    ///
    /// # Errors
    /// [`RespondError`]; an invalid manifest is refused here as it would be by the edge.
    pub async fn manifest(mut self, manifest: &Manifest) -> Result<LayerSender, RespondError> {
        self.write(&CloudReply::Manifest(manifest.clone())).await?;
        let Self {
            stream,
            link,
            received_at,
            guard,
        } = self;
        Ok(LayerSender::new(
            stream,
            manifest.clone(),
            link,
            received_at,
            guard,
        ))
    }

    async fn finish(mut self, reply: CloudReply) -> Result<(), RespondError> {
        self.write(&reply).await?;
        self.stream.finish().map_err(|_| RespondError::Withdrawn)?;
        // A drain counts this request until the edge has the answer, within reason.
        let acknowledged = self.stream.stopped();
        let _ = tokio::time::timeout(self.link.timeouts.message, acknowledged).await;
        Ok(())
    }

    async fn write(&mut self, reply: &CloudReply) -> Result<(), RespondError> {
        let frame = codec::encode_to_edge(reply)?;
        self.stream
            .set_priority(CONTROL_PRIORITY)
            .map_err(|_| RespondError::Withdrawn)?;
        Ok(control::write_frame(&mut self.stream, frame, self.link.timeouts.message).await?)
    }
}

/// Reads requests until the link is gone or draining. Holds the link weakly: it must be able to
/// close while this waits.
async fn accept_requests(link: Weak<EdgeConnection>, requests: mpsc::Sender<IncomingRequest>) {
    let Some((connection, load)) = link
        .upgrade()
        .map(|link| (link.connection.clone(), link.load.clone()))
    else {
        return;
    };
    loop {
        let accepted = tokio::select! {
            accepted = connection.accept_bi() => accepted,
            () = load.draining() => return,
            () = requests.closed() => return,
        };
        let (Ok((send, receive)), Some(link)) = (accepted, link.upgrade()) else {
            return;
        };
        // At most REQUEST_STREAMS_MAX of these run: a stream counts until it is answered.
        tokio::spawn(read_request(send, receive, link, requests.clone()));
    }
}

async fn read_request(
    mut send: SendStream,
    mut receive: RecvStream,
    link: Arc<EdgeConnection>,
    requests: mpsc::Sender<IncomingRequest>,
) {
    let patience = link.timeouts.message;
    match control::read_message(&mut receive, codec::decode_request, patience).await {
        Ok(request) => {
            let (received_at, guard) = (Instant::now(), link.load.begin());
            let responder = Responder {
                stream: send,
                link,
                received_at,
                guard,
            };
            // Fails only when nobody answers requests any more.
            let _ = requests
                .send(IncomingRequest {
                    request,
                    received_at,
                    responder,
                })
                .await;
        }
        Err(error) => {
            tracing::warn!(%error, "request refused");
            // Either fails only if the stream is gone already.
            let _ = receive.stop(StreamEnd::Malformed.code());
            let _ = send.reset(StreamEnd::Malformed.code());
        }
    }
}
