//! One worker as the foreman knows it: what it said of itself, and what was measured since.

use std::cmp::Ordering;
use std::time::{Duration, Instant};

use edgeprompt_engine::{Owner, Owners, WorkerId};
use edgeprompt_placement::{Device, Link, WeightCopy};

use crate::crew::figures::{self, Pace};
use crate::crew::measures::Smoothed;
use crate::crew::port::Standing;
use crate::crew::roster::{JobCounts, WorkerSeen, WorkerState};

/// Before anything is known of a link: what small networks carry.
const RATE_UNKNOWN: f64 = 1e9;
pub(crate) const ONE_WAY_UNKNOWN: Duration = Duration::from_micros(200);

/// Between two changes of what a worker lends, at least.
const MEMORY_PERIOD: Duration = Duration::from_millis(500);

/// What is known of a worker.
pub(crate) struct Hand {
    pub(crate) standing: Standing,
    pub(crate) memory_bytes: u64,
    pub(crate) has_model: bool,
    pub(crate) flops_per_second: Smoothed,
    pub(crate) one_way_seconds: Smoothed,
    /// It was lost before, and is given nothing to do for a while.
    pub(crate) is_waiting: bool,
    /// It was seen to want to go.
    pub(crate) is_leaving: bool,
    /// When it was last listened to about its memory.
    pub(crate) memory_heard_at: Instant,
}

impl Hand {
    /// Whether it is to be given anything.
    pub(crate) fn is_of_use(&self) -> bool {
        !self.is_waiting && !self.is_leaving
    }

    /// Takes in what it lends now, beside what it lent before. One that changes its mind all the time is
    /// listened to now and then.
    pub(crate) fn hear_of_memory(&mut self, now: Instant) -> Ordering {
        let (lent, before) = (self.standing.memory_bytes(), self.memory_bytes);
        let is_new = now.saturating_duration_since(self.memory_heard_at) >= MEMORY_PERIOD;
        if lent == before || !is_new {
            return Ordering::Equal;
        }
        (self.memory_bytes, self.memory_heard_at) = (lent, now);
        lent.cmp(&before)
    }

    /// As the planner has it.
    pub(crate) fn device(&self, id: WorkerId) -> Device {
        Device {
            id: figures::device(Owner::Worker(id)),
            flops_per_second: self.flops_per_second.get(),
            memory_bytes: self.memory_bytes,
            link: Link {
                bits_per_second: self.rate(),
                one_way_seconds: self.one_way_seconds.get(),
            },
            weights: match self.has_model {
                true => WeightCopy::Whole,
                false => WeightCopy::OfItsJobs,
            },
        }
    }

    /// How fast it is, for whoever waits for it.
    pub(crate) fn pace(&self) -> Pace {
        Pace {
            flops_per_second: self.flops_per_second.get(),
            one_way_seconds: self.one_way_seconds.get(),
            bits_per_second: self.rate(),
        }
    }

    /// As others may see it, with what it has of `owners`.
    pub(crate) fn seen(&self, id: WorkerId, owners: &Owners) -> WorkerSeen {
        let jobs = JobCounts::of(owners, Owner::Worker(id));
        let state = match self {
            _ if self.is_leaving => WorkerState::Leaving,
            _ if self.is_waiting => WorkerState::Waiting,
            _ if jobs == JobCounts::default() => WorkerState::Idle,
            _ => WorkerState::Working,
        };
        WorkerSeen {
            name: self.standing.name().to_owned(),
            addr: self.standing.addr(),
            state,
            jobs,
            memory_bytes: self.memory_bytes,
            has_model: self.has_model,
            flops_per_second: self.flops_per_second.get(),
            bits_per_second: self.known_rate(),
            one_way_seconds: self.one_way_seconds.get(),
        }
    }

    fn rate(&self) -> f64 {
        self.known_rate().unwrap_or(RATE_UNKNOWN)
    }

    fn known_rate(&self) -> Option<f64> {
        let link = self.standing.link();
        let rate = link.map(|link| link.rate.as_bits_per_second() as f64);
        rate.filter(|rate| *rate > 0.0)
    }
}
