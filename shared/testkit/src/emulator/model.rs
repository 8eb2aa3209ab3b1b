//! One direction of a link as arithmetic: which packets arrive, and when. It has no clock, no
//! socket and no packets, only their lengths.

use std::collections::VecDeque;
use std::time::Duration;

use rand::SeedableRng;
use rand_chacha::ChaCha8Rng;

use super::jitter::Jitter;
use super::profile::{DirectionProfile, DirectionSeed, Draw};
use super::rate::{RateSchedule, Work};

/// What becomes of a packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It arrives.
    Deliver {
        /// When, on the clock of `now`.
        at: Duration,
    },
    /// It does not.
    Dropped {
        /// Why.
        reason: DropReason,
    },
}

/// Why a packet does not arrive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DropReason {
    /// Chance.
    Loss,
    /// The queue had no room.
    QueueFull,
}

/// One direction of a link. Times count from the link's start.
///
/// A packet waits in a drop-tail queue, is sent at the rate of the schedule, may be lost, and
/// travels for the delay and the jitter of the moment. Nothing arrives faster than the rate over
/// any window, and nothing overtakes, except where reordering is asked for.
#[derive(Clone, Debug)]
pub struct LinkModel {
    profile: DirectionProfile,
    sender: Serialiser,
    jitter: Option<(Jitter, Serialiser)>,
    queue: Queue,
    rng: ChaCha8Rng,
    /// The latest `now` so far.
    now: Duration,
}

impl LinkModel {
    /// A direction that has carried nothing. Equal seeds give equal verdicts.
    pub fn new(profile: DirectionProfile, seed: u64) -> Self {
        Self::with_seed(profile, DirectionSeed { seed, stream: 0 })
    }

    pub(super) fn with_seed(profile: DirectionProfile, seed: DirectionSeed) -> Self {
        let sender = Serialiser::new(profile.rate.clone());
        let jitter = (!profile.jitter.is_zero())
            .then(|| (Jitter::new(profile.jitter, seed), sender.clone()));
        let mut rng = ChaCha8Rng::seed_from_u64(seed.seed);
        rng.set_stream(seed.stream);
        Self {
            profile,
            sender,
            jitter,
            queue: Queue::default(),
            rng,
            now: Duration::ZERO,
        }
    }

    /// Offers a packet of so many bytes. A `now` before that of an earlier packet counts as that
    /// one's.
    pub fn offer(&mut self, now: Duration, packet_bytes: usize) -> Verdict {
        self.now = self.now.max(now);
        // Drawn for every packet, so that the n-th packet's luck does not depend on the queue.
        let is_lost = self.profile.loss.covers(Draw::from(&mut self.rng));
        let is_late = self
            .profile
            .reordering
            .probability
            .covers(Draw::from(&mut self.rng));
        self.queue.forget_sent(self.now);
        if !self
            .queue
            .has_room(packet_bytes, self.profile.queue_bytes_max)
        {
            let reason = DropReason::QueueFull;
            return Verdict::Dropped { reason };
        }
        let sent_at = self.sender.carry(self.now, packet_bytes);
        self.queue.push(sent_at, packet_bytes);
        if is_lost {
            let reason = DropReason::Loss;
            return Verdict::Dropped { reason };
        }
        let left_at = self.jitter.as_mut().map_or(sent_at, |(jitter, exit)| {
            exit.release(sent_at.saturating_add(jitter.at(sent_at)), packet_bytes)
        });
        let extra = if is_late {
            self.profile.reordering.late_by
        } else {
            Duration::ZERO
        };
        let at = left_at
            .saturating_add(self.profile.delay)
            .saturating_add(extra);
        Verdict::Deliver { at }
    }

    /// Changes the rate. Packets already accepted keep their times; the schedule starts when the
    /// last of them is sent, or now.
    pub fn set_rate(&mut self, now: Duration, rate: &RateSchedule) {
        self.now = self.now.max(now);
        self.sender.restart(self.now, rate);
        if let Some((_, exit)) = &mut self.jitter {
            exit.restart(self.now, rate);
        }
    }

    /// Bytes that wait to be sent or are being sent.
    pub fn queued_bytes(&mut self, now: Duration) -> u64 {
        self.queue.forget_sent(now);
        self.queue.bytes
    }
}

/// Sends packets one after the other at the rate of a schedule. It is busy until it has done all
/// the work given to it, so no tokens are needed.
#[derive(Clone, Debug)]
struct Serialiser {
    schedule: RateSchedule,
    /// When the schedule starts.
    origin: Duration,
    /// By when it is free, as work from `origin`.
    busy_until: Work,
    /// When the last packet left.
    last_left_at: Duration,
}

impl Serialiser {
    fn new(schedule: RateSchedule) -> Self {
        Self {
            schedule,
            origin: Duration::ZERO,
            busy_until: Work::NONE,
            last_left_at: Duration::ZERO,
        }
    }

    /// When a packet that may start at `start` is sent. An empty one takes no time, but is not
    /// sent before it came.
    fn carry(&mut self, start: Duration, packet_bytes: usize) -> Duration {
        let possible = self.schedule.work_by(start.saturating_sub(self.origin));
        let begin = possible.max(self.busy_until);
        self.leave(begin.plus(Work::of_bytes(packet_bytes)), start)
    }

    /// When a packet is let through that was sent elsewhere at this rate and could be through at
    /// `end`: not before, and not sooner after its predecessor than the rate allows.
    fn release(&mut self, end: Duration, packet_bytes: usize) -> Duration {
        let possible = self.schedule.work_by(end.saturating_sub(self.origin));
        let behind = self.busy_until.plus(Work::of_bytes(packet_bytes));
        self.leave(possible.max(behind), end)
    }

    /// Takes `done` as the work after a packet that leaves no earlier than `earliest`.
    fn leave(&mut self, done: Work, earliest: Duration) -> Duration {
        self.busy_until = done;
        let done_at = self.origin.saturating_add(self.schedule.time_of(done));
        self.last_left_at = done_at.max(earliest).max(self.last_left_at);
        self.last_left_at
    }

    fn restart(&mut self, now: Duration, schedule: &RateSchedule) {
        self.schedule = schedule.clone();
        self.origin = now.max(self.last_left_at);
        self.busy_until = Work::NONE;
    }
}

/// The packets that wait or are being sent, by when they are sent.
#[derive(Clone, Debug, Default)]
struct Queue {
    /// Bounded by the queue's bytes; empty packets, which have none, count as one byte.
    packets: VecDeque<(Duration, u64)>,
    bytes: u64,
}

impl Queue {
    fn has_room(&self, packet_bytes: usize, bytes_max: u64) -> bool {
        self.packets.is_empty() || self.bytes.saturating_add(charge(packet_bytes)) <= bytes_max
    }

    fn push(&mut self, sent_at: Duration, packet_bytes: usize) {
        let bytes = charge(packet_bytes);
        self.packets.push_back((sent_at, bytes));
        self.bytes += bytes;
    }

    fn forget_sent(&mut self, now: Duration) {
        while let Some((_, bytes)) = self.packets.pop_front_if(|(sent_at, _)| *sent_at <= now) {
            self.bytes -= bytes;
        }
    }
}

fn charge(packet_bytes: usize) -> u64 {
    u64::try_from(packet_bytes.max(1)).unwrap_or(u64::MAX)
}
