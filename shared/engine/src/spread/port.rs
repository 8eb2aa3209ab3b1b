//! The way to a worker, and what becomes of workers.

use std::sync::Arc;
use std::time::Duration;

use crate::shard::{Order, Reply};

/// A worker, as long as it is linked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct WorkerId(pub u32);

/// The way to a worker is gone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}")]
pub struct Gone {
    /// Why, for people.
    pub reason: String,
}

/// A worker is lost, and with it the keys and values of its heads.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("worker {} is lost: {reason}", .worker.0)]
pub struct Lost {
    /// Who.
    pub worker: WorkerId,
    /// Why, for people.
    pub reason: String,
}

/// Workers that are lost, each once: whoever waits for many finds all of them before anything is
/// computed again.
#[derive(Debug, Default)]
pub(crate) struct Losses(Vec<Lost>);

impl Losses {
    pub(crate) fn add(&mut self, lost: Lost) {
        if !self.names(lost.worker) {
            self.0.push(lost);
        }
    }

    pub(crate) fn names(&self, worker: WorkerId) -> bool {
        self.0.iter().any(|lost| lost.worker == worker)
    }

    pub(crate) fn into_inner(self) -> Vec<Lost> {
        self.0
    }

    /// An error if there are any.
    pub(crate) fn check(self) -> Result<(), Self> {
        match self.0.is_empty() {
            true => Ok(()),
            false => Err(self),
        }
    }
}

impl From<Lost> for Losses {
    fn from(lost: Lost) -> Self {
        Self(vec![lost])
    }
}

/// How long a leader waits for the answers of a stage, all workers together.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Patience {
    /// However much is asked for.
    pub max: Duration,
    /// For anything at all.
    pub stage: Duration,
    /// In addition, for each token of a pass.
    pub token: Duration,
}

impl Patience {
    /// The same for everything.
    pub const fn of(max: Duration) -> Self {
        Self {
            max,
            stage: max,
            token: Duration::ZERO,
        }
    }

    /// For a stage of a pass of so many tokens.
    pub fn with(&self, token_count: usize) -> Duration {
        let count = u32::try_from(token_count).unwrap_or(u32::MAX);
        let all = self.stage.saturating_add(self.token.saturating_mul(count));
        all.min(self.max)
    }
}

impl Default for Patience {
    fn default() -> Self {
        Self::of(Duration::from_secs(10))
    }
}

/// The way to one worker. Orders of each way are obeyed in their order, those sent aside whenever
/// there is nothing else to do. A way that has failed once is gone for good.
pub trait WorkerPort: Send {
    /// Whether the worker has a copy of the model, so that weights need not be sent.
    fn has_model(&self) -> bool;

    /// Sends an order without waiting for the link: what it does not take yet goes while the answer is
    /// waited for. That it cannot be sent shows then, too. Orders that are not answered may go with the
    /// next one that is.
    fn send(&mut self, order: Order);

    /// Waits for the next answer to what was sent, so long at most. One that is there already is taken
    /// without any patience.
    ///
    /// # Errors
    /// [`Gone`] if none will come, or none came in time.
    fn receive(&mut self, patience: Duration) -> Result<Reply, Gone>;

    /// Sends an order that nobody waits for.
    fn send_aside(&mut self, order: Order);

    /// The next answer to what was sent aside, if it is there. Also tells whether the way is gone.
    ///
    /// # Errors
    /// [`Gone`].
    fn poll_aside(&mut self) -> Result<Option<Reply>, Gone>;
}

/// Time since any moment.
pub type Clock = Arc<dyn Fn() -> Duration + Send + Sync>;

/// Called after the leader's part of a layer, with how long that took: a device that is shared with others
/// may rest.
pub type Pace = Arc<dyn Fn(Duration) + Send + Sync>;

/// What happened since it was last asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpreadEvent {
    /// Jobs are where they were to go.
    Moved {
        /// How many.
        jobs: usize,
        /// Of keys and values, to and from workers.
        kv_bytes: u64,
        /// Of weights.
        weight_bytes: u64,
    },
    /// A worker is lost. What was computed for sequences is computed again.
    Lost(Lost),
}
