//! A leader's way to one worker: two streams of one link, one for what is waited for and one for what
//! is not.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use edgeprompt_engine::{Gone, Order, Reply, WorkerPort};
use edgeprompt_protocol::{WorkerHello, WorkerReply, WorkerSetup, WorkerStream};
use edgeprompt_transport::{LinkEstimate, PeerError, PeerLink, PeerReceiver, PeerSender};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::crew::wire;

/// Of what a step waits for: before anything that goes beside it.
const STEP_PRIORITY: i32 = 2;
const ASIDE_PRIORITY: i32 = 1;

/// How long a worker may take to say what it is.
const HELLO_PATIENCE: Duration = Duration::from_secs(10);

/// What is known of a worker beside its port.
#[derive(Clone, Debug)]
pub struct Standing {
    link: PeerLink,
    leaving: Arc<AtomicBool>,
    traffic: Arc<Traffic>,
}

/// Bytes of messages and numbers.
#[derive(Debug, Default)]
struct Traffic {
    sent: AtomicU64,
    received: AtomicU64,
}

impl Standing {
    /// Whether it wants to go.
    pub fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Relaxed)
    }

    /// What its link was found to be.
    pub fn link(&self) -> Option<LinkEstimate> {
        self.link.estimate()
    }

    /// Bytes sent to it and received from it.
    pub fn traffic(&self) -> (u64, u64) {
        let Traffic { sent, received } = &*self.traffic;
        let load = |count: &AtomicU64| count.load(Ordering::Relaxed);
        (load(sent), load(received))
    }

    /// Where it is.
    pub fn addr(&self) -> std::net::SocketAddr {
        self.link.addr()
    }
}

/// The port.
pub struct LinkPort {
    runtime: Handle,
    link: PeerLink,
    sender: PeerSender,
    receiver: PeerReceiver,
    has_model: bool,
    patience: Duration,
    traffic: Arc<Traffic>,
    /// Few are under way: the engine sees to that.
    aside: mpsc::UnboundedSender<Order>,
    aside_replies: mpsc::UnboundedReceiver<Reply>,
}

impl LinkPort {
    /// Tells a worker that has dialled what it is to compute, and hears what it is. `patience`: how long
    /// an answer may take before the worker is taken for lost.
    ///
    /// # Errors
    /// [`PeerError`].
    pub async fn open(
        link: PeerLink,
        setup: WorkerSetup,
        patience: Duration,
    ) -> Result<(Self, WorkerHello, Standing), PeerError> {
        let setup = WorkerStream::Steps(Box::new(setup));
        let (sender, mut receiver) = link.open(&setup, STEP_PRIORITY).await?;
        let hello = timeout(HELLO_PATIENCE, receiver.receive::<WorkerHello>()).await;
        let hello = hello.map_err(|_| PeerError::TimedOut)??;
        let (aside_sender, aside_receiver) =
            link.open(&WorkerStream::Aside, ASIDE_PRIORITY).await?;
        let standing = Standing {
            link: link.clone(),
            leaving: Arc::default(),
            traffic: Arc::default(),
        };
        let (aside, orders) = mpsc::unbounded_channel();
        let (replies, aside_replies) = mpsc::unbounded_channel();
        let traffic = Arc::clone(&standing.traffic);
        tokio::spawn(send_aside(orders, aside_sender, traffic));
        tokio::spawn(hear_aside(aside_receiver, replies, standing.clone()));
        let port = Self {
            runtime: Handle::current(),
            link,
            sender,
            receiver,
            has_model: hello.has_model,
            patience,
            traffic: Arc::clone(&standing.traffic),
            aside,
            aside_replies,
        };
        Ok((port, hello, standing))
    }

    fn gone(&self, error: &PeerError) -> Gone {
        Gone {
            reason: format!("{}: {error}", self.link.addr()),
        }
    }
}

impl WorkerPort for LinkPort {
    fn has_model(&self) -> bool {
        self.has_model
    }

    fn send(&mut self, order: Order) {
        let sending = send(&mut self.sender, order, &self.traffic);
        // What could not be sent is not answered, and that shows.
        if let Err(error) = self.runtime.block_on(sending) {
            tracing::debug!(%error, "an order cannot be sent");
        }
    }

    fn receive(&mut self, patience: Duration) -> Result<Reply, Gone> {
        let patience = patience.min(self.patience);
        let receiving = receive(&mut self.receiver, &self.traffic);
        let received = self
            .runtime
            .block_on(async { timeout(patience, receiving).await });
        match received {
            Ok(Ok(Some(reply))) => Ok(reply),
            Ok(Ok(None)) => Err(self.gone(&PeerError::Ended)),
            Ok(Err(error)) => Err(self.gone(&error)),
            Err(_) => Err(self.gone(&PeerError::TimedOut)),
        }
    }

    fn send_aside(&mut self, order: Order) {
        // Fails once the stream does, which shows when its answers are looked for.
        let _ = self.aside.send(order);
    }

    fn poll_aside(&mut self) -> Result<Option<Reply>, Gone> {
        match self.aside_replies.try_recv() {
            Ok(reply) => Ok(Some(reply)),
            Err(mpsc::error::TryRecvError::Empty) if self.link.is_open() => Ok(None),
            Err(_) => Err(self.gone(&PeerError::Ended)),
        }
    }
}

async fn send(sender: &mut PeerSender, order: Order, traffic: &Traffic) -> Result<(), PeerError> {
    let (message, numbers) = wire::order(order);
    let count = numbers.len() as u64;
    sender.send(&message).await?;
    sender.send_bytes(numbers).await?;
    traffic.sent.fetch_add(count, Ordering::Relaxed);
    Ok(())
}

/// The next reply; `None` if the worker wants to leave.
async fn receive(
    receiver: &mut PeerReceiver,
    traffic: &Traffic,
) -> Result<Option<Reply>, PeerError> {
    let message: WorkerReply = receiver.receive().await?;
    let count = wire::byte_count(message.number_count);
    let numbers = receiver.receive_bytes(count).await?;
    let numbers = numbers.ok_or(PeerError::Ended)?;
    traffic.received.fetch_add(count as u64, Ordering::Relaxed);
    Ok(wire::received_reply(message, &numbers))
}

async fn send_aside(
    mut orders: mpsc::UnboundedReceiver<Order>,
    mut sender: PeerSender,
    traffic: Arc<Traffic>,
) {
    while let Some(order) = orders.recv().await {
        if let Err(error) = send(&mut sender, order, &traffic).await {
            tracing::debug!(%error, "an order cannot be sent");
            return;
        }
    }
}

async fn hear_aside(
    mut receiver: PeerReceiver,
    replies: mpsc::UnboundedSender<Reply>,
    standing: Standing,
) {
    loop {
        match receive(&mut receiver, &standing.traffic).await {
            Ok(Some(reply)) => {
                if replies.send(reply).is_err() {
                    return;
                }
            }
            Ok(None) => standing.leaving.store(true, Ordering::Relaxed),
            Err(error) => {
                tracing::debug!(%error, "a worker's answers end");
                return;
            }
        }
    }
}
