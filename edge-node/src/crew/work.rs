//! A worker's side of one link: orders are read as they come, and obeyed one after the other on a
//! thread of their own.

use std::sync::Arc;
use std::thread;
use std::time::{Duration, Instant};

use edgeprompt_engine::{Answer, Order, OrderError, Reply, Shard, among_threads};
use edgeprompt_model::Model;
use edgeprompt_protocol::{WorkerAnswer, WorkerHello, WorkerOrder, WorkerReply, WorkerStream};
use edgeprompt_transport::{PeerError, PeerLink, PeerReceiver, PeerSender};
use tokio::runtime::Handle;
use tokio::sync::{mpsc, oneshot};

use crate::crew::wire::{self, WireError};

/// Orders that wait: a leader waits for most answers before it goes on.
const ORDERS_MAX: usize = 16;

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
    /// The leader asks for more than was lent.
    #[error(
        "the leader asks for {asked_mib} MiB and {lent_mib} are lent: give more with --memory-mib"
    )]
    Memory {
        /// What it would take.
        asked_mib: u64,
        /// What is lent.
        lent_mib: u64,
    },
    /// This machine has no thread or runtime for it.
    #[error("nothing can be computed here: {0}")]
    Thread(#[from] std::io::Error),
}

impl Lent {
    fn hello(&self, leader: edgeprompt_kv::ModelDigest) -> WorkerHello {
        WorkerHello {
            flops_per_second: self.flops_per_second * f64::from(self.percent) / 100.0,
            memory_bytes: self.memory_bytes,
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
    sender.send(&lent.hello(leader)).await?;
    let (WorkerStream::Aside, aside_sender, aside_receiver) = link.accept().await? else {
        return Err(WorkError::OutOfOrder);
    };
    let own_model = lent.own_model(leader).cloned();
    let bench = Bench {
        shard: empty(wire::shape(*setup), own_model),
        steps: sender,
        aside: aside_sender,
        lent,
    };
    let (to_steps, steps) = mpsc::channel(ORDERS_MAX);
    let (to_aside, aside) = mpsc::channel(ORDERS_MAX);
    let runtime = Handle::current();
    let (done, ended) = oneshot::channel();
    thread::Builder::new()
        .name("worker".to_owned())
        .spawn(move || {
            let worked = among_threads(|| runtime.block_on(bench.run((steps, aside), leave)));
            // Fails only if nobody waits for it any more.
            let _ = done.send(worked);
        })?;
    let read = tokio::try_join!(
        read_orders(receiver, to_steps),
        read_orders(aside_receiver, to_aside),
    );
    link.close(edgeprompt_transport::CloseReason::Done);
    // A thread that panicked has said so.
    let worked = ended.await.unwrap_or(Ok(()));
    match (worked, read) {
        (Err(error), _) => Err(error),
        // The leader needs this device no more.
        (Ok(()), Err(WorkError::Link(PeerError::Ended)) | Ok(_)) => Ok(()),
        (Ok(()), Err(error)) => Err(error),
    }
}

async fn read_orders(
    mut receiver: PeerReceiver,
    orders: mpsc::Sender<Order>,
) -> Result<(), WorkError> {
    loop {
        let message: WorkerOrder = receiver.receive().await?;
        let count = wire::byte_count(message.number_count);
        let numbers = receiver.receive_bytes(count).await?;
        let numbers = numbers.ok_or(PeerError::Ended)?;
        let order = wire::received_order(message, &numbers)?;
        if orders.send(order).await.is_err() {
            return Ok(());
        }
    }
}

/// Where the work is done.
struct Bench {
    shard: Shard,
    steps: PeerSender,
    aside: PeerSender,
    lent: Lent,
}

impl Bench {
    async fn run(
        mut self,
        (mut steps, mut aside): (mpsc::Receiver<Order>, mpsc::Receiver<Order>),
        mut leave: oneshot::Receiver<()>,
    ) -> Result<(), WorkError> {
        let mut wants_to_leave = false;
        loop {
            // What a step waits for goes first.
            tokio::select! {
                biased;
                order = steps.recv() => {
                    let Some(order) = order else { return Ok(()) };
                    if let Some(reply) = self.obey(order)? {
                        send(&mut self.steps, reply).await?;
                    }
                }
                order = aside.recv() => {
                    let Some(order) = order else { return Ok(()) };
                    if let Some(reply) = self.obey(order)? {
                        send(&mut self.aside, reply).await?;
                    }
                }
                _ = &mut leave, if !wants_to_leave => {
                    wants_to_leave = true;
                    let message = WorkerReply {
                        turn: 0,
                        answer: WorkerAnswer::Leaving,
                        number_count: 0,
                    };
                    self.aside.send(&message).await?;
                }
            }
        }
    }

    fn obey(&mut self, order: Order) -> Result<Option<Reply>, WorkError> {
        let turn = order.turn;
        let began = Instant::now();
        let answer = self.shard.obey(order.task)?;
        self.check_memory()?;
        let Some(answer) = answer else {
            return Ok(None);
        };
        let answer = match answer {
            Answer::Part { numbers, .. } => {
                rest(began.elapsed(), self.lent.percent);
                let busy = began.elapsed();
                Answer::Part { numbers, busy }
            }
            other => other,
        };
        Ok(Some(Reply { turn, answer }))
    }

    fn check_memory(&self) -> Result<(), WorkError> {
        let asked = self.shard.weight_bytes();
        if asked <= self.lent.memory_bytes {
            return Ok(());
        }
        Err(WorkError::Memory {
            asked_mib: asked >> 20,
            lent_mib: self.lent.memory_bytes >> 20,
        })
    }
}

/// After so long at work, as long as makes it so many of a hundred.
pub fn rest(worked: Duration, percent: u8) {
    let percent = f64::from(percent.clamp(1, 100));
    let rest = worked.mul_f64((100.0 - percent) / percent);
    if !rest.is_zero() {
        thread::sleep(rest);
    }
}

async fn send(sender: &mut PeerSender, reply: Reply) -> Result<(), PeerError> {
    let (message, numbers) = wire::reply(reply);
    sender.send(&message).await?;
    sender.send_bytes(numbers).await
}
