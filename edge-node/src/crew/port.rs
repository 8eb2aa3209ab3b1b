//! A leader's way to one worker: two streams of one link, one for what is waited for and one for what
//! is not.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{self, RecvTimeoutError, TryRecvError};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use edgeprompt_engine::{Gone, Order, Reply, ShardShape, WorkerPort};
use edgeprompt_protocol::codec;
use edgeprompt_protocol::{WorkerAnswer, WorkerHello, WorkerReply, WorkerSetup, WorkerStream};
use edgeprompt_transport::{
    CloseReason, LinkEstimate, PeerError, PeerLink, PeerReceiver, PeerSender,
};
use futures_util::FutureExt;
use tokio::runtime::Handle;
use tokio::sync::mpsc as asynchronous;
use tokio::time::timeout;

use crate::crew::awaited::{Awaited, Unasked};
use crate::crew::wire::{self, WireError};

#[cfg(test)]
mod tests;

/// Of what a step waits for: before anything that goes beside it.
const STEP_PRIORITY: i32 = 2;
const ASIDE_PRIORITY: i32 = 1;

/// How long a worker may take to say what it is.
const HELLO_PATIENCE: Duration = Duration::from_secs(10);

/// Orders without an answer wait for one with: so much of them at most.
const HELD_BYTES_MAX: usize = 64 << 10;

/// What is read or written between two looks at whether anything goes on.
const PIECE_BYTES: usize = 256 << 10;

/// How long an answer is looked for before the thread is put to sleep, which takes about as long.
const SPIN: Duration = Duration::from_micros(60);

/// What is known of a worker beside its port.
#[derive(Clone)]
pub struct Standing(Arc<Shared>);

/// What the port and its tasks share.
struct Shared {
    link: PeerLink,
    leaving: AtomicBool,
    /// What it lends, as it said last.
    memory_bytes: AtomicU64,
    /// Bytes of numbers.
    sent: AtomicU64,
    received: AtomicU64,
    /// Why the way is gone, once it is.
    broken: OnceLock<String>,
}

/// What is awaited on a stream.
type Expectations = Arc<Mutex<Awaited>>;

/// Why a worker is of no more use.
#[derive(Debug, thiserror::Error)]
enum PortError {
    #[error(transparent)]
    Link(#[from] PeerError),
    #[error(transparent)]
    Unasked(#[from] Unasked),
    #[error(transparent)]
    Wire(#[from] WireError),
}

impl Shared {
    /// What fails once is gone, and the worker hears of it.
    fn fail(&self, error: &PortError) {
        let reason = format!("{}: {error}", self.link.addr());
        // The first reason is what it was.
        if self.broken.set(reason).is_ok() {
            self.link.close(CloseReason::Done);
        }
    }

    fn gone(&self) -> Gone {
        let reason = self.broken.get().cloned();
        let reason = reason.unwrap_or_else(|| format!("{}: the link ended", self.link.addr()));
        Gone { reason }
    }
}

impl Standing {
    /// Whether it wants to go.
    pub fn is_leaving(&self) -> bool {
        self.0.leaving.load(Ordering::Relaxed)
    }

    /// What it lends, in bytes, as it said last.
    pub fn memory_bytes(&self) -> u64 {
        self.0.memory_bytes.load(Ordering::Relaxed)
    }

    /// What its link was found to be.
    pub fn link(&self) -> Option<LinkEstimate> {
        self.0.link.estimate()
    }

    /// Bytes sent to it and received from it.
    pub fn traffic(&self) -> (u64, u64) {
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (load(&self.0.sent), load(&self.0.received))
    }

    /// Where it is.
    pub fn addr(&self) -> std::net::SocketAddr {
        self.0.link.addr()
    }

    /// What it is called: the hash of its key.
    pub fn name(&self) -> &str {
        self.0.link.peer_name().unwrap_or_default()
    }
}

/// The port. Dropping it ends the link.
pub struct LinkPort {
    runtime: Handle,
    shared: Arc<Shared>,
    has_model: bool,
    patience: Duration,
    sender: PeerSender,
    /// What the link has not taken yet.
    unsent: Vec<Bytes>,
    steps: Expectations,
    replies: mpsc::Receiver<Reply>,
    aside: Expectations,
    /// Few are under way: the engine sees to that.
    aside_orders: asynchronous::UnboundedSender<Order>,
    aside_replies: mpsc::Receiver<Reply>,
}

impl Drop for LinkPort {
    fn drop(&mut self) {
        self.shared.link.close(CloseReason::Done);
    }
}

impl LinkPort {
    /// Tells a worker that has dialled what it is to compute, and hears what it is. `patience`: how long
    /// nothing may go on before the worker is taken for lost.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn open(
        link: PeerLink,
        setup: WorkerSetup,
        patience: Duration,
    ) -> Result<(Self, WorkerHello, Standing), PeerError> {
        let shape = wire::shape(setup.clone());
        let setup = WorkerStream::Steps(Box::new(setup));
        let (sender, mut receiver) = link.open(&setup, STEP_PRIORITY).await?;
        let hello = timeout(HELLO_PATIENCE, receiver.receive::<WorkerHello>()).await;
        let hello = hello.map_err(|_| PeerError::TimedOut)??;
        let (aside_sender, aside_receiver) =
            link.open(&WorkerStream::Aside, ASIDE_PRIORITY).await?;
        let shared = Arc::new(Shared {
            link,
            leaving: AtomicBool::new(false),
            memory_bytes: AtomicU64::new(hello.memory_bytes),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            broken: OnceLock::new(),
        });
        let (steps, replies) = listen(&shared, receiver, &shape);
        let (aside, aside_replies) = listen(&shared, aside_receiver, &shape);
        let (aside_orders, orders) = asynchronous::unbounded_channel();
        let (common, awaited) = (Arc::clone(&shared), Arc::clone(&aside));
        tokio::spawn(async move {
            let way = (aside_sender, patience);
            if let Err(error) = send_aside((&common, &awaited), orders, way).await {
                common.fail(&error);
            }
        });
        let standing = Standing(Arc::clone(&shared));
        let port = Self {
            runtime: Handle::current(),
            shared,
            has_model: hello.has_model,
            patience,
            sender,
            unsent: Vec::new(),
            steps,
            replies,
            aside,
            aside_orders,
            aside_replies,
        };
        Ok((port, hello, standing))
    }

    /// Hands over what the link takes without waiting.
    fn send_some(&mut self) {
        while !self.unsent.is_empty() {
            match self.sender.send_some(&mut self.unsent).now_or_never() {
                None => return,
                Some(Ok(())) => {}
                Some(Err(error)) => {
                    self.unsent.clear();
                    self.shared.fail(&error.into());
                }
            }
        }
    }

    /// Hands over all of it, until `deadline`.
    fn send_rest(&mut self, deadline: Instant) {
        let (sender, unsent) = (&mut self.sender, &mut self.unsent);
        let sending = async {
            while !unsent.is_empty() {
                sender.send_some(unsent).await?;
            }
            Ok::<_, PeerError>(())
        };
        let patience = deadline.saturating_duration_since(Instant::now());
        let sent = self
            .runtime
            .block_on(async { timeout(patience, sending).await });
        let sent = sent.unwrap_or(Err(PeerError::TimedOut));
        if let Err(error) = sent {
            self.unsent.clear();
            self.shared.fail(&error.into());
        }
    }

    /// The next answer, until `deadline`.
    fn wait(&self, deadline: Instant) -> Result<Reply, Gone> {
        let begun = Instant::now();
        loop {
            match self.replies.try_recv() {
                Ok(reply) => return Ok(reply),
                Err(TryRecvError::Disconnected) => return Err(self.shared.gone()),
                Err(TryRecvError::Empty) if begun.elapsed() > SPIN => break,
                Err(TryRecvError::Empty) => std::thread::yield_now(),
            }
        }
        let patience = deadline.saturating_duration_since(Instant::now());
        match self.replies.recv_timeout(patience) {
            Ok(reply) => Ok(reply),
            Err(RecvTimeoutError::Disconnected) => Err(self.shared.gone()),
            Err(RecvTimeoutError::Timeout) => {
                self.shared.fail(&PeerError::TimedOut.into());
                Err(self.shared.gone())
            }
        }
    }
}

impl WorkerPort for LinkPort {
    fn has_model(&self) -> bool {
        self.has_model
    }

    fn send(&mut self, order: Order) {
        if self.shared.broken.get().is_some() {
            return;
        }
        let is_answered = lock(&self.steps).note(&order, Instant::now());
        let (message, numbers) = wire::order(order);
        let frame = match codec::encode_to_peer(&message) {
            Ok(frame) => frame,
            Err(error) => return self.shared.fail(&PeerError::from(error).into()),
        };
        let count = numbers.len() as u64;
        self.shared.sent.fetch_add(count, Ordering::Relaxed);
        let pieces = [frame, numbers];
        let pieces = pieces.into_iter().filter(|piece| !piece.is_empty());
        self.unsent.extend(pieces);
        let held: usize = self.unsent.iter().map(Bytes::len).sum();
        if is_answered || held > HELD_BYTES_MAX {
            self.send_some();
        }
    }

    fn receive(&mut self, patience: Duration) -> Result<Reply, Gone> {
        if self.shared.broken.get().is_some() {
            return Err(self.shared.gone());
        }
        let deadline = Instant::now() + patience.min(self.patience);
        if !self.unsent.is_empty() {
            self.send_rest(deadline);
        }
        self.wait(deadline)
    }

    fn send_aside(&mut self, order: Order) {
        lock(&self.aside).note(&order, Instant::now());
        // Fails once the stream does, which shows when its answers are looked for.
        let _ = self.aside_orders.send(order);
    }

    fn poll_aside(&mut self) -> Result<Option<Reply>, Gone> {
        if self.shared.broken.get().is_some() {
            return Err(self.shared.gone());
        }
        // Before it is looked whether an answer is late: it may be here.
        match self.aside_replies.try_recv() {
            Ok(reply) => return Ok(Some(reply)),
            Err(TryRecvError::Disconnected) => return Err(self.shared.gone()),
            Err(TryRecvError::Empty) => {}
        }
        if lock(&self.aside).is_overdue(Instant::now(), self.patience) {
            self.shared.fail(&PeerError::TimedOut.into());
            return Err(self.shared.gone());
        }
        Ok(None)
    }
}

fn lock(expectations: &Mutex<Awaited>) -> MutexGuard<'_, Awaited> {
    expectations.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Reads the answers of a stream as they come, whatever the engine does meanwhile.
fn listen(
    shared: &Arc<Shared>,
    receiver: PeerReceiver,
    shape: &ShardShape,
) -> (Expectations, mpsc::Receiver<Reply>) {
    let awaited = Arc::new(Mutex::new(Awaited::new(shape, Instant::now())));
    // Holds no more than was asked for.
    let (to, replies) = mpsc::channel();
    let (shared, expectations) = (Arc::clone(shared), Arc::clone(&awaited));
    tokio::spawn(async move {
        let Err(error) = hear((&shared, &expectations), receiver, &to).await else {
            return;
        };
        shared.fail(&error);
    });
    (awaited, replies)
}

/// Until nobody listens.
async fn hear(
    (shared, awaited): (&Shared, &Mutex<Awaited>),
    mut receiver: PeerReceiver,
    replies: &mpsc::Sender<Reply>,
) -> Result<(), PortError> {
    loop {
        let message: WorkerReply = receiver.receive().await?;
        match (message.answer, message.number_count) {
            (WorkerAnswer::Leaving, 0) => {
                shared.leaving.store(true, Ordering::Relaxed);
                continue;
            }
            (WorkerAnswer::Memory { bytes }, 0) => {
                shared.memory_bytes.store(bytes, Ordering::Relaxed);
                continue;
            }
            _ => {}
        }
        lock(awaited).check(&message)?;
        let count = wire::byte_count(message.number_count);
        let numbers = receive_numbers(&mut receiver, count, awaited).await?;
        lock(awaited).answered(Instant::now());
        shared.received.fetch_add(count as u64, Ordering::Relaxed);
        let reply = wire::received_reply(message, &numbers)?;
        if replies.send(reply).is_err() {
            return Ok(());
        }
    }
}

async fn receive_numbers(
    receiver: &mut PeerReceiver,
    count: usize,
    awaited: &Mutex<Awaited>,
) -> Result<Bytes, PeerError> {
    if count <= PIECE_BYTES {
        return receiver.receive_rest(count).await;
    }
    let mut numbers = BytesMut::new();
    while numbers.len() < count {
        let piece = PIECE_BYTES.min(count - numbers.len());
        numbers.extend_from_slice(&receiver.receive_rest(piece).await?);
        lock(awaited).moved(Instant::now());
    }
    Ok(numbers.freeze())
}

/// Until nobody orders any more.
async fn send_aside(
    (shared, awaited): (&Shared, &Mutex<Awaited>),
    mut orders: asynchronous::UnboundedReceiver<Order>,
    (mut sender, patience): (PeerSender, Duration),
) -> Result<(), PortError> {
    while let Some(order) = orders.recv().await {
        let (message, mut numbers) = wire::order(order);
        let count = numbers.len() as u64;
        let mut pieces = vec![codec::encode_to_peer(&message).map_err(PeerError::from)?];
        while !(pieces.is_empty() && numbers.is_empty()) {
            if !numbers.is_empty() {
                pieces.push(numbers.split_to(numbers.len().min(PIECE_BYTES)));
            }
            while !pieces.is_empty() {
                let sent = timeout(patience, sender.send_some(&mut pieces)).await;
                sent.map_err(|_| PeerError::TimedOut)??;
            }
            lock(awaited).moved(Instant::now());
        }
        shared.sent.fetch_add(count, Ordering::Relaxed);
    }
    Ok(())
}
