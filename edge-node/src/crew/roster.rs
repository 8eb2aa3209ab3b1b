//! Who lends this node a device and what each does, as the foreman saw it last: for whoever asks.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};

use edgeprompt_engine::{Owner, Owners};

/// The list. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Roster(Arc<Mutex<Seen>>);

/// Everybody at one moment.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Seen {
    /// What this node does itself.
    pub own: JobCounts,
    /// Those that lend their devices, in the order in which they came.
    pub workers: Vec<WorkerSeen>,
    /// Whether jobs are on their way.
    pub is_migrating: bool,
    /// What a step takes as it is placed, in seconds, as far as that is known.
    pub step_seconds: Option<f64>,
}

/// Heads and feed-forward slices of all layers together.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct JobCounts {
    /// KV heads.
    pub heads: usize,
    /// Slices.
    pub slices: usize,
}

/// One that lends its device.
#[derive(Clone, Debug, PartialEq)]
pub struct WorkerSeen {
    /// What it is called: the hash of its key.
    pub name: String,
    /// Where it is.
    pub addr: SocketAddr,
    /// What it is about.
    pub state: WorkerState,
    /// What it has.
    pub jobs: JobCounts,
    /// What it gives to weights, keys and values.
    pub memory_bytes: u64,
    /// Whether it has a copy of the model.
    pub has_model: bool,
    /// What it computes, as measured.
    pub flops_per_second: f64,
    /// What its link carries, as far as that is known.
    pub bits_per_second: Option<f64>,
    /// What a message takes one way.
    pub one_way_seconds: f64,
}

/// What a worker is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WorkerState {
    /// It computes.
    Working,
    /// It has nothing to do: a token takes no less time with it.
    Idle,
    /// It was lost and is back, and is given nothing for a while.
    Waiting,
    /// It wants to go.
    Leaving,
}

impl WorkerState {
    /// In a word.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Working => "working",
            Self::Idle => "idle",
            Self::Waiting => "waiting",
            Self::Leaving => "leaving",
        }
    }
}

impl JobCounts {
    /// What a device has.
    pub(crate) fn of(owners: &Owners, device: Owner) -> Self {
        let count = |all: &[Owner]| all.iter().filter(|owner| **owner == device).count();
        let layers = owners.layers().iter();
        layers.fold(Self::default(), |sum, layer| Self {
            heads: sum.heads + count(&layer.heads),
            slices: sum.slices + count(&layer.slices),
        })
    }
}

impl Roster {
    /// As it is now.
    pub(crate) fn note(&self, seen: Seen) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = seen;
    }

    /// As it was last.
    pub fn seen(&self) -> Seen {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        seen.clone()
    }
}
