//! A session on its way out: the stream to the target, and the keys and values beside it.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use edgeprompt_engine::{KvChunk, layer_from_view};
use edgeprompt_handover::planning::strategy::Strategy;
use edgeprompt_handover::session::Epoch;
use edgeprompt_kv::{KvDtype, KvGeometry};
use edgeprompt_protocol::{KvChunkHeader, Move, PeerRequest, SessionKey, SessionOffer, Ticket};
use edgeprompt_transport::{PeerError, PeerLink, PeerReceiver, PeerSender};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::{AbortHandle, spawn_blocking};
use zeroize::Zeroize;

use crate::serve::generator::Mover;
use crate::serve::sessions::keeper::Command;
use crate::serve::sessions::links::Links;
use crate::serve::sessions::planned::Plan;

/// Messages of one move that wait for a slow link; the machine repeats what is lost.
const WAITING_MAX: usize = 1024;

/// Bytes of keys and values that are sent in one chunk, about, and tokens at least and at most.
const CHUNK_BYTES: usize = 4 << 20;
const CHUNK_LEN_MAX: usize = 256;
pub(crate) const BLOCK_LEN: usize = 16;

/// How long copying ahead may take before the session goes over as it is.
pub(crate) const COPYING_MAX: Duration = Duration::from_secs(20);

/// What a move came to.
#[derive(Clone, Debug)]
pub(crate) struct MoveReport {
    pub(crate) target: String,
    pub(crate) url: Option<String>,
    pub(crate) epoch: Epoch,
    pub(crate) strategy: Strategy,
    /// Of the delay, in seconds.
    pub(crate) predicted_s: f64,
    /// From asking until the target had it.
    pub(crate) took_s: f64,
    /// From the last token here until the target had it.
    pub(crate) switch_s: f64,
    pub(crate) prefill_len: usize,
    pub(crate) kv_tokens: usize,
    pub(crate) kv_bytes: u64,
}

/// Why a session did not move.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum MoveError {
    /// It is on its way.
    #[error("the session is being moved already, or is not here any more")]
    Busy,
    /// It has no token yet.
    #[error("the session has not begun to answer: try again in a moment")]
    NotBegun,
    /// It has ended.
    #[error("the session has ended")]
    Ended,
    /// It ended while it was being moved.
    #[error("the answer was complete before the target had the session, {} ms after the move began", after.as_millis())]
    Finished {
        /// How long the move had taken until then.
        after: Duration,
    },
    /// Sessions do not move there.
    #[error("{0}")]
    NotATarget(&'static str),
    /// Nobody answers there.
    #[error("{0}")]
    Unreachable(String),
    /// The target does not want it.
    #[error("{0}: the session stays here")]
    Refused(String),
    /// Its user wants it here, or elsewhere.
    #[error("the session was claimed back by its user")]
    Claimed,
    /// The target is this edge.
    #[error("the target is this edge itself: name another edge's --handover-listen")]
    Itself,
    /// The target fell silent.
    #[error("the target does not answer any more: the session stays here")]
    Silent,
}

/// A move under way.
pub(crate) struct Departure {
    pub(crate) to: mpsc::Sender<Out>,
    pub(crate) addr: SocketAddr,
    pub(crate) target: String,
    pub(crate) url: Option<String>,
    pub(crate) reply: Option<oneshot::Sender<Result<MoveReport, MoveError>>>,
    pub(crate) plan: Plan,
    pub(crate) began_at: Instant,
    pub(crate) switched_at: Option<Instant>,
    /// Until they are all sent.
    pub(crate) kv: Option<KvSending>,
    sent: Arc<KvSent>,
    keeper: mpsc::WeakSender<Command>,
    pub(crate) link: PeerLink,
    pub(crate) priority: i32,
    /// Why the target refused, in its words.
    pub(crate) refusal: Option<String>,
    task: AbortHandle,
}

/// To the target.
pub(crate) enum Out {
    /// The beginning of the stream, if it has not begun.
    Offer(Box<SessionOffer>),
    /// What follows.
    Order(Move),
}

/// How far keys and values may be sent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct KvBound {
    /// Private tokens known.
    pub(crate) known: usize,
    /// Where to stop, once that is known.
    pub(crate) end: Option<usize>,
}

/// Keys and values on their way.
pub(crate) struct KvSending {
    pub(crate) bound: watch::Sender<KvBound>,
    task: AbortHandle,
}

/// What has been sent.
#[derive(Debug, Default)]
pub(crate) struct KvSent {
    pub(crate) tokens: AtomicUsize,
    pub(crate) bytes: AtomicU64,
}

impl Drop for KvSending {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Drop for Departure {
    fn drop(&mut self) {
        // What is still to be said is said: the task ends with its channel. Only one that waits for a
        // dead link would not.
        if self.to.is_closed() {
            self.task.abort();
        }
    }
}

/// What a departure begins with.
pub(crate) struct Beginning {
    pub(crate) addr: SocketAddr,
    pub(crate) target: String,
    pub(crate) link: PeerLink,
    pub(crate) reply: oneshot::Sender<Result<MoveReport, MoveError>>,
    pub(crate) plan: Plan,
    pub(crate) began_at: Instant,
    pub(crate) priority: i32,
}

impl Departure {
    /// Begins to speak to the target.
    pub(crate) fn begin(
        beginning: Beginning,
        links: Arc<Links>,
        keeper: mpsc::WeakSender<Command>,
    ) -> Self {
        let (to, out) = mpsc::channel(WAITING_MAX);
        let Beginning {
            addr,
            target,
            link,
            reply,
            plan,
            began_at,
            priority,
        } = beginning;
        let line = Line {
            addr,
            links,
            keeper: keeper.clone(),
            offer: None,
            open: None,
        };
        let task = tokio::spawn(line.run(out)).abort_handle();
        Self {
            to,
            addr,
            target,
            url: None,
            reply: Some(reply),
            plan,
            began_at,
            switched_at: None,
            kv: None,
            sent: Arc::default(),
            keeper,
            link,
            priority,
            refusal: None,
            task,
        }
    }

    /// Begins to send keys and values from token `start` on.
    pub(crate) fn send_kv(
        &mut self,
        mover: Mover,
        (session, ticket, epoch): (SessionKey, Ticket, Epoch),
        (geometry, dtype): (KvGeometry, KvDtype),
        (start, bound): (usize, KvBound),
    ) {
        let (bound, watched) = watch::channel(bound);
        let sending = KvStream {
            link: self.link.clone(),
            priority: self.priority,
            mover,
            request: PeerRequest::Kv {
                session,
                ticket,
                epoch,
            },
            geometry,
            dtype,
            sent: Arc::clone(&self.sent),
        };
        let keeper = self.keeper.clone();
        let task = tokio::spawn(async move {
            if let Err(error) = sending.run(start, watched).await {
                tracing::info!(%error, "keys and values of a session do not all reach the target: it computes them");
            }
            if let Some(keeper) = keeper.upgrade() {
                // A keeper that is gone needs no word.
                let _ = keeper.send(Command::KvSent(epoch)).await;
            }
        });
        self.kv = Some(KvSending {
            bound,
            task: task.abort_handle(),
        });
    }

    /// Tells whoever asked for the move.
    pub(crate) fn fail(&mut self, error: MoveError) {
        if let Some(reply) = self.reply.take() {
            // Whoever asked may be gone.
            let _ = reply.send(Err(error));
        }
    }

    /// The target has it, under this epoch.
    pub(crate) fn succeed(&mut self, epoch: Epoch, private_len: usize) -> MoveReport {
        let since = |at: Instant| at.elapsed().as_secs_f64();
        let report = MoveReport {
            target: self.target.clone(),
            url: self.url.clone(),
            epoch,
            strategy: self.plan.strategy,
            predicted_s: self.plan.predicted.as_secs_f64(),
            took_s: since(self.began_at),
            switch_s: self.switched_at.map_or(0.0, since),
            prefill_len: self.plan.prefill_len.min(private_len),
            kv_tokens: self.sent.tokens.load(Ordering::Relaxed),
            kv_bytes: self.sent.bytes.load(Ordering::Relaxed),
        };
        if let Some(reply) = self.reply.take() {
            let _ = reply.send(Ok(report.clone()));
        }
        report
    }
}

/// The stream to the target, opened again when the link was lost.
struct Line {
    addr: SocketAddr,
    links: Arc<Links>,
    keeper: mpsc::WeakSender<Command>,
    offer: Option<Box<SessionOffer>>,
    open: Option<PeerSender>,
}

impl Line {
    async fn run(mut self, mut out: mpsc::Receiver<Out>) {
        while let Some(out) = out.recv().await {
            let said = match out {
                Out::Offer(offer) => {
                    if let Some(mut before) = self.offer.replace(offer) {
                        wipe(&mut before);
                    }
                    self.sender().await.map(drop)
                }
                Out::Order(order) => self.say(&order).await,
            };
            if let Err(error) = said {
                tracing::debug!(%error, "a move's stream is lost");
                self.open = None;
            }
        }
    }

    async fn say(&mut self, order: &Move) -> Result<(), PeerError> {
        self.sender().await?.send(order).await
    }

    async fn sender(&mut self) -> Result<&mut PeerSender, PeerError> {
        if self.open.is_none() {
            let link = self.links.to(self.addr).await;
            let link = link.map_err(|_| PeerError::TimedOut)?;
            let offer = self.offer.clone().ok_or(PeerError::Ended)?;
            let opening = Opening(PeerRequest::Move(offer));
            let (sender, receiver) = link.open(&opening.0, 1).await?;
            tokio::spawn(hear(receiver, self.keeper.clone()));
            self.open = Some(sender);
        }
        self.open.as_mut().ok_or(PeerError::Ended)
    }
}

impl Drop for Line {
    fn drop(&mut self) {
        if let Some(offer) = &mut self.offer {
            wipe(offer);
        }
    }
}

/// What begins a stream, wiped once that is said.
struct Opening(PeerRequest);

impl Drop for Opening {
    fn drop(&mut self) {
        if let PeerRequest::Move(offer) = &mut self.0 {
            wipe(offer);
        }
    }
}

/// Overwrites what is private in an offer.
fn wipe(offer: &mut SessionOffer) {
    let prompts = offer.prompt.iter_mut().chain(&mut offer.context);
    prompts.for_each(|token| token.0.zeroize());
    for told in &mut offer.answer {
        told.token.0.zeroize();
        told.top.iter_mut().for_each(|(token, _)| token.0.zeroize());
    }
    offer.terms.stops.zeroize();
}

async fn hear(mut receiver: PeerReceiver, keeper: mpsc::WeakSender<Command>) {
    // An end of the stream shows when something is to be said.
    while let Ok(answer) = receiver.receive().await {
        let Some(keeper) = keeper.upgrade() else {
            return;
        };
        if keeper.send(Command::Answer(answer)).await.is_err() {
            return;
        }
    }
}

struct KvStream {
    link: PeerLink,
    priority: i32,
    mover: Mover,
    request: PeerRequest,
    geometry: KvGeometry,
    dtype: KvDtype,
    sent: Arc<KvSent>,
}

impl KvStream {
    async fn run(self, start: usize, mut bound: watch::Receiver<KvBound>) -> Result<(), PeerError> {
        // Behind every control stream; of several sessions, the one that leaves first.
        let (mut sender, _receiver) = self.link.open(&self.request, self.priority).await?;
        let mut next = start;
        loop {
            let KvBound { known, end } = *bound.borrow_and_update();
            let until = end.unwrap_or(known / BLOCK_LEN * BLOCK_LEN);
            if end.is_some() && next >= until {
                break;
            }
            let chunk_end = until.min(next + self.chunk_len());
            let chunk = match chunk_end > next {
                true => self.mover.take_out(next..chunk_end).await,
                false => None,
            };
            match chunk {
                Some(chunk) => next = self.send(&mut sender, chunk).await?,
                // More will not be computed.
                None if end.is_some() => break,
                // Heads went to other devices meanwhile: the target computes what is missing.
                None if !self.is_whole().await => break,
                None => {
                    if bound.changed().await.is_err() {
                        break;
                    }
                }
            }
        }
        sender.finish().await
    }

    /// Whether keys and values are here, as far as they are computed.
    async fn is_whole(&self) -> bool {
        let progress = self.mover.progress().await;
        progress.is_some_and(|it| it.is_whole)
    }

    fn chunk_len(&self) -> usize {
        let layers = self.geometry.layer_count() as usize;
        let token_bytes = self.geometry.layer_bytes(1, KvDtype::F32) * layers;
        (CHUNK_BYTES / token_bytes.max(1)).clamp(BLOCK_LEN, CHUNK_LEN_MAX)
    }

    async fn send(&self, sender: &mut PeerSender, chunk: KvChunk) -> Result<usize, PeerError> {
        let (geometry, dtype) = (self.geometry, self.dtype);
        let tokens = chunk.tokens.clone();
        let encoding = spawn_blocking(move || encode(&chunk, &geometry, dtype));
        // A thread that panicked has said so.
        let pieces = encoding.await.map_err(|_| PeerError::Ended)?;
        for piece in pieces {
            self.sent
                .bytes
                .fetch_add(piece.len() as u64, Ordering::Relaxed);
            sender.send_bytes(piece).await?;
        }
        self.sent.tokens.fetch_add(tokens.len(), Ordering::Relaxed);
        Ok(tokens.end)
    }
}

/// A chunk as it travels: its header, then its layers, the first one first.
fn encode(chunk: &KvChunk, geometry: &KvGeometry, dtype: KvDtype) -> Vec<Bytes> {
    let small = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let header = KvChunkHeader {
        start: small(chunk.tokens.start),
        len: small(chunk.tokens.len()),
        dtype,
    };
    let layers = chunk.layers.iter().map(|view| {
        let layer = layer_from_view(view, geometry, dtype).expect("the engine's own shape");
        layer.payload().clone()
    });
    let header = Bytes::copy_from_slice(&header.to_bytes());
    std::iter::once(header).chain(layers).collect()
}
