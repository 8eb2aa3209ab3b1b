//! A worker's side of one link: orders are read as they come, and obeyed one after the other on a
//! thread of their own.

use std::sync::Arc;
use std::thread;
use std::time::Instant;

use bytes::Bytes;
use edgeprompt_engine::{Answer, Order, OrderError, Reply, Shard, ShardShape, Task, among_threads};
use edgeprompt_model::Model;
use edgeprompt_protocol::{WorkerAnswer, WorkerHello, WorkerOrder, WorkerReply, WorkerStream};
use edgeprompt_transport::{PeerError, PeerLink, PeerReceiver, PeerSender};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};
use tokio::time::{MissedTickBehavior, interval};

use crate::crew::debt::Debt;
use crate::crew::lending::{DeviceMemory, LOOK_PERIOD, Lending};
use crate::crew::wire::{self, WireError};

/// Orders aside that wait: each may be as long as a job's weights.
const ORDERS_MAX: usize = 2;

/// Answers to those that the link has not taken: more than a leader asks for at a time.
const REPLIES_MAX: usize = 32;

/// What a worker lends.
#[derive(Clone)]
pub struct Lent {
    /// What it computes, in floating-point operations a second, with all of the device.
    pub flops_per_second: f64,
    /// What it gives to weights, keys and values.
    pub memory_bytes: u64,
    /// How much of the time it computes, from 1 to 100.
    pub percent: u8,
    /// A copy of the model.
    pub model: Option<Arc<Model>>,
    /// What the device has of memory now, where that can be told.
    pub device_memory: fn() -> Option<DeviceMemory>,
}

/// Why work on a link has ended.
#[derive(Debug, thiserror::Error)]
pub enum WorkError {
    /// The link is of no more use.
    #[error(transparent)]
    Link(#[from] PeerError),
    /// What came is not what was sent.
    #[error(transparent)]
    Wire(#[from] WireError),
    /// The leader contradicts itself.
    #[error(transparent)]
    Order(#[from] OrderError),
    /// The leader did not open the streams that it must.
    #[error("the leader speaks of work in the wrong order")]
    OutOfOrder,
    /// This machine has no thread or runtime for it.
    #[error("nothing can be computed here: {0}")]
    Thread(#[from] std::io::Error),
}

impl Lent {
    fn hello(&self, leader: edgeprompt_kv::ModelDigest, memory_bytes: u64) -> WorkerHello {
        WorkerHello {
            flops_per_second: self.flops_per_second * f64::from(self.percent) / 100.0,
            memory_bytes,
            has_model: self.own_model(leader).is_some(),
        }
    }

    /// The copy, if it is of the leader's model.
    fn own_model(&self, leader: edgeprompt_kv::ModelDigest) -> Option<&Arc<Model>> {
        self.model.as_ref().filter(|model| model.digest == leader)
    }
}

/// Works for whoever is at the other end of `link`, until that one ends it. `empty`: makes a shard on
/// the device that is lent. Once `leave` says so, the leader is asked to find another.
///
/// # Errors
/// [`WorkError`]. That the leader ended the work is none.
pub async fn work(
    link: PeerLink,
    lent: Lent,
    empty: impl FnOnce(edgeprompt_engine::ShardShape, Option<Arc<Model>>) -> Shard,
    leave: oneshot::Receiver<()>,
) -> Result<(), WorkError> {
    let (opening, mut sender, receiver) = link.accept::<WorkerStream>().await?;
    let WorkerStream::Steps(setup) = opening else {
        return Err(WorkError::OutOfOrder);
    };
    let leader = setup.model;
    let mut lending = Lending::new(lent.memory_bytes);
    // As much as there is now, or a leader would fill a device that is short already.
    let memory_bytes = lending.news(0, (lent.device_memory)());
    let memory_bytes = memory_bytes.unwrap_or(lent.memory_bytes);
    sender.send(&lent.hello(leader, memory_bytes)).await?;
    let (WorkerStream::Aside, aside_sender, aside_receiver) = link.accept().await? else {
        return Err(WorkError::OutOfOrder);
    };
    let own_model = lent.own_model(leader).cloned();
    if let (Some(model), None) = (&lent.model, &own_model) {
        tracing::warn!(
            leader = leader.short(),
            own = model.digest.short(),
            "--model is not the leader's model: its weights come over the link"
        );
    }
    let shape = wire::shape(*setup);
    let _closing = Closing(link);
    let (to_aside, aside) = mpsc::channel(ORDERS_MAX);
    let (aside_replies, replies) = mpsc::channel(REPLIES_MAX);
    tokio::spawn(read_aside(Orders::new(aside_receiver, &shape), to_aside));
    let answering = tokio::spawn(answer_aside(aside_sender, replies));
    let bench = Bench {
        shard: empty(shape.clone(), own_model).with_bytes_max(lent.memory_bytes),
        orders: Orders::new(receiver, &shape),
        steps: sender,
        aside,
        aside_replies,
        debt: Debt::of(lent.percent),
        lending,
        device_memory: lent.device_memory,
    };
    let runtime = Handle::current();
    let (done, ended) = oneshot::channel();
    thread::Builder::new()
        .name("worker".to_owned())
        .spawn(move || {
            let worked = among_threads(|| runtime.block_on(bench.run(leave)));
            // Fails only if nobody waits for it any more.
            let _ = done.send(worked);
        })?;
    // A thread that panicked has said so.
    let worked = ended.await.unwrap_or(Ok(()));
    answering.abort();
    match worked {
        // The leader needs this device no more.
        Ok(()) | Err(WorkError::Link(PeerError::Ended)) => Ok(()),
        Err(error) => Err(error),
    }
}

/// Whatever ends the work ends the link, and so everything that reads from it.
struct Closing(PeerLink);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close(edgeprompt_transport::CloseReason::Done);
    }
}

/// Orders of a stream.
struct Orders {
    receiver: PeerReceiver,
    shape: ShardShape,
    /// Of an order that has come but for its numbers.
    begun: Option<WorkerOrder>,
}

impl Orders {
    fn new(receiver: PeerReceiver, shape: &ShardShape) -> Self {
        Self {
            receiver,
            shape: shape.clone(),
            begun: None,
        }
    }

    /// The next one. Cancel-safe.
    async fn next(&mut self) -> Result<Order, WorkError> {
        let message = match self.begun.take() {
            Some(message) => message,
            None => self.receiver.receive().await?,
        };
        let number_count = message.number_count;
        if number_count as usize > wire::numbers_max(&message.task, &self.shape) {
            return Err(WireError::Numbers.into());
        }
        // Kept here, for a wait that is given up.
        self.begun = Some(message);
        let numbers = self
            .receiver
            .receive_rest(wire::byte_count(number_count))
            .await?;
        let message = self.begun.take().ok_or(WorkError::OutOfOrder)?;
        Ok(wire::received_order(message, &numbers)?)
    }
}

async fn read_aside(mut orders: Orders, to: mpsc::Sender<Result<Order, WorkError>>) {
    loop {
        let order = orders.next().await;
        let is_last = order.is_err();
        if to.send(order).await.is_err() || is_last {
            return;
        }
    }
}

/// So that nobody who computes waits for the link.
async fn answer_aside(mut sender: PeerSender, mut replies: mpsc::Receiver<Said>) {
    while let Some(said) = replies.recv().await {
        let (message, numbers) = match said {
            Said::Reply(reply) => wire::reply(reply),
            Said::Leaving => (unasked(WorkerAnswer::Leaving), Bytes::new()),
            Said::Memory(bytes) => (unasked(WorkerAnswer::Memory { bytes }), Bytes::new()),
        };
        if let Err(error) = sender.send_with(&message, numbers).await {
            // What has ended shows where orders are read.
            tracing::debug!(%error, "an answer cannot be sent");
            return;
        }
    }
}

/// What is said aside.
enum Said {
    Reply(Reply),
    Leaving,
    Memory(u64),
}

const fn unasked(answer: WorkerAnswer) -> WorkerReply {
    WorkerReply {
        turn: 0,
        answer,
        number_count: 0,
    }
}

/// Where the work is done.
struct Bench {
    shard: Shard,
    orders: Orders,
    steps: PeerSender,
    aside: mpsc::Receiver<Result<Order, WorkError>>,
    aside_replies: mpsc::Sender<Said>,
    debt: Debt,
    lending: Lending,
    device_memory: fn() -> Option<DeviceMemory>,
}

impl Bench {
    async fn run(mut self, mut leave: oneshot::Receiver<()>) -> Result<(), WorkError> {
        let mut wants_to_leave = false;
        let mut look = interval(LOOK_PERIOD);
        look.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            // What a step waits for goes first.
            tokio::select! {
                biased;
                order = self.orders.next() => {
                    if let Some(reply) = self.obey(order?)? {
                        let (message, numbers) = wire::reply(reply);
                        self.steps.send_with(&message, numbers).await?;
                    }
                }
                order = self.aside.recv() => {
                    let Some(order) = order else { return Ok(()) };
                    if let Some(reply) = self.obey(order?)? {
                        self.say(Said::Reply(reply)).await;
                    }
                }
                _ = &mut leave, if !wants_to_leave => {
                    wants_to_leave = true;
                    self.say(Said::Leaving).await;
                }
                _ = look.tick() => {
                    let memory = (self.device_memory)();
                    if let Some(bytes) = self.lending.news(self.shard.bytes(), memory) {
                        self.say(Said::Memory(bytes)).await;
                    }
                }
            }
        }
    }

    async fn say(&self, said: Said) {
        // Fails once the link does, which shows where orders are read.
        let _ = self.aside_replies.send(said).await;
    }

    fn obey(&mut self, order: Order) -> Result<Option<Reply>, WorkError> {
        let turn = order.turn;
        let changes_hands = matches!(order.task, Task::Switch { .. });
        let began = Instant::now();
        let answer = self.shard.obey(order.task)?;
        if changes_hands {
            let (heads, slices) = self.shard.job_counts();
            tracing::info!(heads, slices, "this device computes for the leader");
        }
        let Some(answer) = answer else {
            return Ok(None);
        };
        let answer = match answer {
            Answer::Part { numbers, .. } => {
                self.debt.pay(began.elapsed());
                let busy = began.elapsed();
                Answer::Part { numbers, busy }
            }
            other => other,
        };
        Ok(Some(Reply { turn, answer }))
    }
}
