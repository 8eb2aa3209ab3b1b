//! A link between two edges of one trust domain, for users' sessions: any number of streams, each of
//! which begins with a request and goes on as that says.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use edgeprompt_protocol::PeerRequest;
use edgeprompt_protocol::codec::{self, DecodeError, EncodeError, ToPeer};
use edgeprompt_protocol::frame::{self, FRAME_PREFIX_BYTES, FrameError, FrameProgress};
use quinn::{Connection, RecvStream, SendStream};
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::close::{CloseReason, LinkLost, StreamEnd};
use crate::config::{LinkEstimate, PEER_STREAMS_MAX, Timeouts};
use crate::congestion::PathController;
use crate::control::{self, ReadMessageError, WriteMessageError};
use crate::edge_link::LinkContext;
use crate::path_memory::PathKey;

/// Why a stream to another edge is of no more use.
#[derive(Debug, thiserror::Error)]
pub enum PeerError {
    /// What is to be sent breaks a limit of the protocol.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// What came is not a message.
    #[error("the other edge sent what is not a message")]
    Decode(#[from] DecodeError),
    /// What came is not a frame.
    #[error("the other edge sent what is not a frame")]
    Frame(#[from] FrameError),
    /// The other edge ended the stream.
    #[error("the other edge ended the stream")]
    Ended,
    /// It is too slow.
    #[error("the other edge took too long")]
    TimedOut,
    /// The link is gone.
    #[error(transparent)]
    Lost(#[from] LinkLost),
}

impl From<ReadMessageError> for PeerError {
    fn from(error: ReadMessageError) -> Self {
        match error {
            ReadMessageError::Frame(error) => Self::Frame(error),
            ReadMessageError::Decode(error) => Self::Decode(error),
            ReadMessageError::Ended => Self::Ended,
            ReadMessageError::TimedOut => Self::TimedOut,
            ReadMessageError::Lost(lost) => Self::Lost(lost),
        }
    }
}

impl From<WriteMessageError> for PeerError {
    fn from(error: WriteMessageError) -> Self {
        match error {
            WriteMessageError::Stopped => Self::Ended,
            WriteMessageError::TimedOut => Self::TimedOut,
            WriteMessageError::Lost(lost) => Self::Lost(lost),
        }
    }
}

/// A link to another edge. Clones share it; it closes with the last of them and of its streams.
#[derive(Clone)]
pub struct PeerLink {
    connection: Connection,
    timeouts: Timeouts,
    /// What an accepted link takes of the bounds on links, and whose it is.
    accepted: Option<Arc<(PathKey, LinkContext)>>,
}

impl std::fmt::Debug for PeerLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let addr = self.connection.remote_address();
        f.debug_struct("PeerLink")
            .field("addr", &addr)
            .finish_non_exhaustive()
    }
}

/// A stream that another edge has opened.
pub struct IncomingPeerRequest {
    /// What it is for.
    pub request: PeerRequest,
    /// To answer on.
    pub sender: PeerSender,
    /// What follows.
    pub receiver: PeerReceiver,
}

impl PeerLink {
    pub(crate) const fn dialled(connection: Connection, timeouts: Timeouts) -> Self {
        Self {
            connection,
            timeouts,
            accepted: None,
        }
    }

    pub(crate) fn accepted(connection: Connection, path: PathKey, context: LinkContext) -> Self {
        Self {
            connection,
            timeouts: context.timeouts,
            accepted: Some(Arc::new((path, context))),
        }
    }

    /// Opens a stream with a request. `priority`: what goes first on the link, the highest number; the
    /// request itself goes before all of it, so that the other edge knows what to wait for.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn open<M: ToPeer>(
        &self,
        request: &M,
        priority: i32,
    ) -> Result<(PeerSender, PeerReceiver), PeerError> {
        let opening = timeout(self.timeouts.message, self.connection.open_bi());
        let opened = opening.await.map_err(|_| PeerError::TimedOut)?;
        let (stream, receive) = opened.map_err(LinkLost::from)?;
        // Fails only for a stream that is closed.
        let _ = stream.set_priority(REQUEST_PRIORITY);
        let mut sender = PeerSender {
            stream,
            patience: self.timeouts.message,
        };
        sender.send(request).await?;
        let _ = sender.stream.set_priority(priority);
        Ok((sender, PeerReceiver::new(receive, self.timeouts.message)))
    }

    /// The next stream that the other edge opens, with its first message.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn accept<M: ToPeer>(&self) -> Result<(M, PeerSender, PeerReceiver), PeerError> {
        let (stream, receive) = self.connection.accept_bi().await.map_err(LinkLost::from)?;
        let patience = self.timeouts.message;
        let mut receiver = PeerReceiver::new(receive, patience);
        let first = timeout(patience, receiver.receive()).await;
        let first = first.map_err(|_| PeerError::TimedOut)??;
        Ok((first, PeerSender { stream, patience }, receiver))
    }

    /// Reads the requests of streams that the other edge opens, as they come, until the link is gone.
    pub fn requests(&self) -> mpsc::Receiver<IncomingPeerRequest> {
        let (to, requests) = mpsc::channel(PEER_STREAMS_MAX as usize);
        tokio::spawn(accept_streams(self.clone(), to));
        requests
    }

    /// What the path was found to be, once the link has carried anything.
    pub fn estimate(&self) -> Option<LinkEstimate> {
        PathController::estimate_of(&self.connection)
    }

    /// The name of the edge that dialled; nothing on the link of one that did so itself.
    pub fn peer_name(&self) -> Option<&str> {
        self.accepted.as_ref().map(|it| it.0.peer_name.as_str())
    }

    /// The other edge's address.
    pub fn addr(&self) -> std::net::SocketAddr {
        self.connection.remote_address()
    }

    /// Whether it has not been lost or closed.
    pub fn is_open(&self) -> bool {
        self.connection.close_reason().is_none()
    }

    /// Returns once the link is gone.
    pub async fn closed(&self) {
        self.connection.closed().await;
    }

    /// Closes the link at once; what is under way fails.
    pub fn close(&self, reason: CloseReason) {
        reason.close(&self.connection);
    }
}

async fn accept_streams(link: PeerLink, to: mpsc::Sender<IncomingPeerRequest>) {
    while let Ok((send, receive)) = link.connection.accept_bi().await {
        // At most PEER_STREAMS_MAX of these run: a stream counts until it is finished.
        tokio::spawn(read_request(
            (send, receive),
            link.timeouts.message,
            to.clone(),
        ));
        if to.is_closed() {
            return;
        }
    }
}

async fn read_request(
    (mut send, receive): (SendStream, RecvStream),
    patience: Duration,
    to: mpsc::Sender<IncomingPeerRequest>,
) {
    let mut receiver = PeerReceiver::new(receive, patience);
    match timeout(patience, receiver.receive()).await {
        Ok(Ok(request)) => {
            let sender = PeerSender {
                stream: send,
                patience,
            };
            // Fails only when nobody answers any more.
            let _ = to
                .send(IncomingPeerRequest {
                    request,
                    sender,
                    receiver,
                })
                .await;
        }
        refused => {
            if let Ok(Err(error)) = refused {
                tracing::warn!(%error, "a stream of another edge is refused");
            }
            // Fails only if the stream is gone already.
            let _ = send.reset(StreamEnd::Malformed.code());
        }
    }
}

/// Sends on a stream. Dropping it ends the stream.
pub struct PeerSender {
    stream: SendStream,
    patience: Duration,
}

impl PeerSender {
    /// Sends a message.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn send<M: ToPeer>(&mut self, message: &M) -> Result<(), PeerError> {
        let frame = codec::encode_to_peer(message)?;
        Ok(control::write_frame(&mut self.stream, frame, self.patience).await?)
    }

    /// Sends raw bytes, which take as long as the link needs while it makes progress, and as long as
    /// streams that go before this one need it.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn send_bytes(&mut self, mut bytes: Bytes) -> Result<(), PeerError> {
        while !bytes.is_empty() {
            let piece = bytes.split_to(bytes.len().min(SENT_AT_ONCE_BYTES));
            let patience = self.patience * TURN_PATIENCE_FACTOR;
            control::write_frame(&mut self.stream, piece, patience).await?;
        }
        Ok(())
    }

    /// Writes of `pieces`, none of them empty, what the link takes, as soon as it takes anything, and takes
    /// it out of the list. Cancel-safe.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn send_some(&mut self, pieces: &mut Vec<Bytes>) -> Result<(), PeerError> {
        let written = self.stream.write_chunks(pieces).await;
        pieces.drain(..written.map_err(WriteMessageError::from)?.chunks);
        Ok(())
    }

    /// Sends a message and the bytes that follow it in one go, as long as the link makes progress.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn send_with<M: ToPeer>(
        &mut self,
        message: &M,
        bytes: Bytes,
    ) -> Result<(), PeerError> {
        let mut pieces = vec![codec::encode_to_peer(message)?, bytes];
        pieces.retain(|piece| !piece.is_empty());
        while !pieces.is_empty() {
            let sending = timeout(self.patience, self.send_some(&mut pieces));
            sending.await.map_err(|_| PeerError::TimedOut)??;
        }
        Ok(())
    }

    /// Ends the stream, and waits until the other edge has all of it.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn finish(mut self) -> Result<(), PeerError> {
        self.stream.finish().map_err(|_| PeerError::Ended)?;
        let acknowledged = timeout(self.patience, self.stream.stopped()).await;
        match acknowledged {
            Ok(Ok(None)) => Ok(()),
            Ok(Ok(Some(_))) => Err(PeerError::Ended),
            Ok(Err(_)) => Err(PeerError::Ended),
            Err(_) => Err(PeerError::TimedOut),
        }
    }

    /// Returns once the other edge reads nothing any more: whether it said so, or the link was lost.
    pub fn stopped(&self) -> impl Future<Output = Stopped> + Send + use<> {
        let stopped = self.stream.stopped();
        async move {
            match stopped.await {
                Ok(_) => Stopped::ByReader,
                Err(_) => Stopped::LinkLost,
            }
        }
    }
}

/// Why nobody reads a stream any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stopped {
    /// The other edge wants no more.
    ByReader,
    /// The link is gone.
    LinkLost,
}

/// Bytes that are handed to the link at once; their progress is what patience is about.
const SENT_AT_ONCE_BYTES: usize = 256 << 10;

/// Of raw bytes, over that of a message: other streams may have their turn before. A link that is dead
/// is noticed sooner.
const TURN_PATIENCE_FACTOR: u32 = 12;

/// Above everything that an edge sends to another.
const REQUEST_PRIORITY: i32 = 2;

/// Pieces of what has come that are taken at once: some tens of kilobytes.
const PIECES: usize = 32;

/// Receives on a stream. Dropping it tells the other edge that nothing is read any more. What has come in
/// part is kept, so that nothing is lost when a wait is given up.
pub struct PeerReceiver {
    stream: RecvStream,
    patience: Duration,
    /// Of what has come and nobody has taken. A length is only a claim: it grows as bytes come.
    received: BytesMut,
}

impl PeerReceiver {
    fn new(stream: RecvStream, patience: Duration) -> Self {
        Self {
            stream,
            patience,
            received: BytesMut::new(),
        }
    }

    /// The next message, however long it takes to begin; once it has begun, it must make progress.
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn receive<M: ToPeer>(&mut self) -> Result<M, PeerError> {
        loop {
            match frame::parse(&self.received)? {
                FrameProgress::Whole { body, .. } => {
                    let message = codec::decode_from_peer(body)?;
                    let len = FRAME_PREFIX_BYTES + body.len();
                    self.received.advance(len);
                    return Ok(message);
                }
                FrameProgress::Needs(_) => {
                    let has_begun = !self.received.is_empty();
                    let more = self.fill(has_begun.then_some(self.patience)).await?;
                    more.ok_or(PeerError::Ended)?;
                }
            }
        }
    }

    /// Takes what has come, as soon as anything has; nothing at the end of the stream.
    async fn fill(&mut self, patience: Option<Duration>) -> Result<Option<()>, PeerError> {
        let mut pieces = [const { Bytes::new() }; PIECES];
        let reading = self.stream.read_chunks(&mut pieces);
        let read = match patience {
            Some(patience) => timeout(patience, reading)
                .await
                .map_err(|_| PeerError::TimedOut)?,
            None => reading.await,
        };
        let Some(count) = read.map_err(ReadMessageError::from)? else {
            return Ok(None);
        };
        for piece in &pieces[..count] {
            self.received.extend_from_slice(piece);
        }
        Ok(Some(()))
    }

    /// Exactly so many raw bytes, few, however long they take; `None` if the stream ends before the
    /// first. Cancel-safe.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn receive_bytes(&mut self, count: usize) -> Result<Option<Bytes>, PeerError> {
        while self.received.len() < count {
            match self.fill(None).await? {
                Some(()) => {}
                None if self.received.is_empty() => return Ok(None),
                None => return Err(PeerError::Ended),
            }
        }
        Ok(Some(self.received.split_to(count).freeze()))
    }

    /// Exactly so many raw bytes that follow others, and make progress. Cancel-safe.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn receive_rest(&mut self, count: usize) -> Result<Bytes, PeerError> {
        while self.received.len() < count {
            let patience = self.patience * TURN_PATIENCE_FACTOR;
            let more = self.fill(Some(patience)).await?;
            more.ok_or(PeerError::Ended)?;
        }
        Ok(self.received.split_to(count).freeze())
    }
}
