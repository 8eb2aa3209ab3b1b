//! One direction of the relay: a [`LinkModel`] with the packets that it decided about. Pure; the
//! relay brings time and takes what is due.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use quinn_udp::EcnCodepoint;

use super::faults::Corruptor;
use super::model::{DropReason, LinkModel, Verdict};
use super::profile::{DirectionProfile, DirectionSeed, Probability};
use super::rate::RateSchedule;
use super::stats::DirectionStats;

/// Most bytes that the emulator holds for one direction, in the queue and on their way: the
/// largest default queue, and 10 Gbit/s over 150 ms.
pub const HELD_BYTES_MAX: usize = 256 << 20;

/// Which client a packet is from or for, by order of appearance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct ClientIndex(pub(super) usize);

/// A datagram on its way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Packet {
    pub(super) client: ClientIndex,
    pub(super) ecn: Option<EcnCodepoint>,
    pub(super) payload: Vec<u8>,
}

/// One direction.
#[derive(Debug)]
pub(super) struct Lane {
    model: LinkModel,
    corruptor: Corruptor,
    held: BinaryHeap<Reverse<Held>>,
    held_bytes: usize,
    stats: DirectionStats,
}

/// A packet and when it arrives.
#[derive(Debug)]
struct Held {
    at: Duration,
    /// Keeps packets of one moment in order.
    number: u64,
    packet: Packet,
}

impl Lane {
    pub(super) fn new(profile: DirectionProfile, seed: DirectionSeed) -> Self {
        Self {
            model: LinkModel::with_seed(profile, seed),
            corruptor: Corruptor::new(seed),
            held: BinaryHeap::new(),
            held_bytes: 0,
            stats: DirectionStats::default(),
        }
    }

    /// Takes a packet that came in at `now` over a link that is not cut.
    pub(super) fn accept(&mut self, now: Duration, mut packet: Packet) {
        self.count_received(&packet);
        match self.model.offer(now, packet.payload.len()) {
            Verdict::Dropped {
                reason: DropReason::Loss,
            } => self.stats.lost_packet_count += 1,
            Verdict::Dropped {
                reason: DropReason::QueueFull,
            } => self.stats.queue_full_packet_count += 1,
            Verdict::Deliver { .. } if self.held_bytes >= HELD_BYTES_MAX => {
                self.stats.overrun_packet_count += 1;
            }
            Verdict::Deliver { at } => {
                if self.corruptor.pass(&mut packet.payload) {
                    self.stats.corrupted_packet_count += 1;
                }
                self.hold(at, packet);
            }
        }
    }

    /// Takes a packet that came in over a cut link.
    pub(super) fn refuse(&mut self, packet: &Packet) {
        self.count_received(packet);
        self.stats.cut_packet_count += 1;
    }

    /// Drops everything held.
    pub(super) fn cut(&mut self) {
        self.stats.cut_packet_count += self.stats.held_packet_count;
        self.stats.held_packet_count = 0;
        self.held_bytes = 0;
        self.held.clear();
    }

    /// When the next packet arrives.
    pub(super) fn next_due(&self) -> Option<Duration> {
        self.held.peek().map(|Reverse(held)| held.at)
    }

    /// The next packet that has arrived by `now`.
    pub(super) fn pop_due(&mut self, now: Duration) -> Option<Packet> {
        if self.next_due()? > now {
            return None;
        }
        let Reverse(Held { at, packet, .. }) = self.held.pop()?;
        let lateness = now - at;
        self.stats.lateness_total += lateness;
        self.stats.lateness_max = self.stats.lateness_max.max(lateness);
        self.stats.held_packet_count -= 1;
        self.held_bytes -= packet.payload.len();
        Some(packet)
    }

    pub(super) fn count_delivered(&mut self, packet_count: u64, bytes: u64) {
        self.stats.delivered_packet_count += packet_count;
        self.stats.delivered_bytes += bytes;
    }

    pub(super) fn count_unsent(&mut self, packet_count: u64) {
        self.stats.unsent_packet_count += packet_count;
    }

    pub(super) fn set_rate(&mut self, now: Duration, rate: &RateSchedule) {
        self.model.set_rate(now, rate);
    }

    pub(super) fn corrupt(&mut self, probability: Probability) {
        self.corruptor.set(probability);
    }

    pub(super) fn stats(&self) -> DirectionStats {
        self.stats
    }

    fn count_received(&mut self, packet: &Packet) {
        self.stats.received_packet_count += 1;
        self.stats.received_bytes += packet.payload.len() as u64;
    }

    fn hold(&mut self, at: Duration, packet: Packet) {
        self.held_bytes += packet.payload.len();
        self.stats.held_packet_count += 1;
        let number = self.stats.received_packet_count;
        self.held.push(Reverse(Held { at, number, packet }));
    }
}

impl Held {
    fn key(&self) -> (Duration, u64) {
        (self.at, self.number)
    }
}

impl PartialEq for Held {
    fn eq(&self, other: &Self) -> bool {
        self.key() == other.key()
    }
}

impl Eq for Held {}

impl PartialOrd for Held {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Held {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.key().cmp(&other.key())
    }
}
