//! Senders with a [`RateController`] each that share one bottleneck, in simulated time: the test
//! kit's link model, QUIC's pacer and loss detection, and nothing that waits.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BinaryHeap};
use std::time::{Duration, Instant};

use edgeprompt_testkit::emulator::{DirectionProfile, LinkModel, RateSchedule, Verdict};

use super::controller::RateController;
use super::round::Supply;

/// What quinn sends at most on a path of Ethernet.
pub(super) const PACKET_BYTES: u16 = 1452;

/// Packets after a missing one that show it to be lost (RFC 9002, section 6.1.1).
const REORDERING_MAX: u64 = 3;

/// A bottleneck and the senders behind it.
pub(super) struct Simulation {
    epoch: Instant,
    now: Duration,
    bottleneck: LinkModel,
    /// The way of acknowledgements.
    return_delay: Duration,
    flows: Vec<Flow>,
    events: BinaryHeap<Reverse<(Duration, u64, Event)>>,
    event_count: u64,
    stalls: Option<Stalls>,
    pub(super) queue_bytes_max: u64,
}

/// Times when the sender's machine gives it no processor.
#[derive(Clone, Copy)]
struct Stalls {
    period: Duration,
    /// At the beginning of each.
    time: Duration,
}

impl Stalls {
    /// When the one that is on at a moment ends.
    fn end(self, at: Duration) -> Option<Duration> {
        let into = at.as_nanos() % self.period.as_nanos();
        let left = self
            .time
            .as_nanos()
            .checked_sub(into)
            .filter(|left| *left > 0)?;
        u64::try_from(left)
            .ok()
            .map(|left| at + Duration::from_nanos(left))
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Event {
    Acked { flow: usize, packet: u64 },
    Wake { flow: usize },
}

/// One sender.
pub(super) struct Flow {
    pub(super) controller: RateController,
    pacer: Pacer,
    in_flight: BTreeMap<u64, Duration>,
    next_packet: u64,
    waits_until: Option<Duration>,
    smoothed_rtt: Duration,
    /// What there is to send; `u64::MAX` for ever.
    pub(super) backlog_bytes: u64,
    is_limited: bool,
    pub(super) arrived_bytes: u64,
    pub(super) lost_packets: u64,
}

/// As quinn's: a bucket of two milliseconds' worth that fills at 5/4 windows each round trip.
struct Pacer {
    tokens: f64,
    filled_at: Duration,
}

impl Pacer {
    /// When a packet may leave.
    fn ready_at(&mut self, now: Duration, window_bytes: u64, rtt: Duration) -> Duration {
        let packet = f64::from(PACKET_BYTES);
        let per_second = window_bytes as f64 * 1.25 / rtt.as_secs_f64();
        let capacity = (per_second / 1.25 * 0.002).clamp(10.0 * packet, 256.0 * packet);
        let filled = (now - self.filled_at).as_secs_f64() * per_second;
        self.tokens = (self.tokens + filled).min(capacity);
        self.filled_at = now;
        if self.tokens >= packet {
            return now;
        }
        // The runtime's timer has a grain of a millisecond.
        now + Duration::from_secs_f64((capacity - self.tokens) / per_second) + GRAIN
    }
}

/// How long a sender waits for any acknowledgement.
const PERSISTENT: Duration = Duration::from_secs(1);

const GRAIN: Duration = Duration::from_micros(500);

impl Flow {
    fn new(now: Instant, start: Duration) -> Self {
        Self {
            controller: RateController::new(now, PACKET_BYTES),
            pacer: Pacer {
                tokens: 0.0,
                filled_at: start,
            },
            in_flight: BTreeMap::new(),
            next_packet: 0,
            waits_until: None,
            smoothed_rtt: Duration::ZERO,
            backlog_bytes: u64::MAX,
            is_limited: true,
            arrived_bytes: 0,
            lost_packets: 0,
        }
    }

    fn in_flight_bytes(&self) -> u64 {
        self.in_flight.len() as u64 * u64::from(PACKET_BYTES)
    }
}

impl Simulation {
    /// One bottleneck; acknowledgements take as long back as packets take there.
    pub(super) fn over(profile: DirectionProfile, seed: u64) -> Self {
        println!("seed {seed}");
        Self {
            epoch: Instant::now(),
            now: Duration::ZERO,
            return_delay: profile.delay,
            bottleneck: LinkModel::new(profile, seed),
            flows: Vec::new(),
            events: BinaryHeap::new(),
            event_count: 0,
            stalls: None,
            queue_bytes_max: 0,
        }
    }

    /// A further sender from now on.
    pub(super) fn add_flow(&mut self) -> usize {
        self.flows.push(Flow::new(self.epoch + self.now, self.now));
        let flow = self.flows.len() - 1;
        self.flows[flow].smoothed_rtt = self.return_delay * 2;
        self.schedule(self.now, Event::Wake { flow });
        flow
    }

    pub(super) fn flow(&mut self, flow: usize) -> &mut Flow {
        &mut self.flows[flow]
    }

    /// From now on all senders stand still for so long once in each period.
    pub(super) fn stall(&mut self, time: Duration, period: Duration) {
        self.stalls = Some(Stalls { period, time });
    }

    pub(super) fn set_rate(&mut self, rate: RateSchedule) {
        self.bottleneck.set_rate(self.now, &rate);
    }

    /// Gives a sender something to send.
    pub(super) fn supply(&mut self, flow: usize, bytes: u64) {
        self.flows[flow].backlog_bytes = bytes;
        self.schedule(self.now, Event::Wake { flow });
    }

    /// Lets time pass; returns what arrived meanwhile, of each sender.
    pub(super) fn run(&mut self, time: Duration) -> Vec<u64> {
        let before: Vec<_> = self.flows.iter().map(|flow| flow.arrived_bytes).collect();
        let until = self.now + time;
        self.queue_bytes_max = 0;
        while let Some(Reverse((at, _, event))) = self.events.peek().copied() {
            if at > until {
                break;
            }
            self.events.pop();
            if let Some(end) = self.stalls.and_then(|stalls| stalls.end(at)) {
                self.schedule(end, event);
                continue;
            }
            self.now = at;
            match event {
                Event::Acked { flow, packet } => self.acknowledge(flow, packet),
                Event::Wake { flow } => self.wake(flow),
            }
            let (Event::Acked { flow, .. } | Event::Wake { flow }) = event;
            self.send(flow);
        }
        self.now = until;
        let pairs = self.flows.iter().zip(before);
        pairs
            .map(|(flow, before)| flow.arrived_bytes - before)
            .collect()
    }

    fn send(&mut self, index: usize) {
        loop {
            let flow = &mut self.flows[index];
            let window_bytes = flow.controller.window_bytes();
            flow.is_limited = flow.backlog_bytes < u64::from(PACKET_BYTES);
            let full = flow.in_flight_bytes() + u64::from(PACKET_BYTES) >= window_bytes;
            if flow.is_limited || full {
                // Something must come if all that is in flight is lost.
                return self.wake_at(index, self.now + Duration::from_millis(400));
            }
            let ready_at = flow
                .pacer
                .ready_at(self.now, window_bytes, flow.smoothed_rtt);
            if ready_at > self.now {
                return self.wake_at(index, ready_at);
            }
            flow.pacer.tokens -= f64::from(PACKET_BYTES);
            if flow.backlog_bytes != u64::MAX {
                flow.backlog_bytes -= u64::from(PACKET_BYTES);
            }
            let packet = flow.next_packet;
            flow.next_packet += 1;
            flow.in_flight.insert(packet, self.now);
            let verdict = self.bottleneck.offer(self.now, PACKET_BYTES.into());
            let queued = self.bottleneck.queued_bytes(self.now);
            self.queue_bytes_max = self.queue_bytes_max.max(queued);
            if let Verdict::Deliver { at } = verdict {
                let flow = index;
                self.schedule(at + self.return_delay, Event::Acked { flow, packet });
            }
        }
    }

    fn wake(&mut self, index: usize) {
        let flow = &mut self.flows[index];
        flow.waits_until = None;
        let oldest = flow.in_flight.first_key_value();
        if oldest.is_some_and(|(_, sent_at)| self.now - *sent_at > PERSISTENT) {
            flow.lost_packets += flow.in_flight.len() as u64;
            flow.in_flight.clear();
            flow.controller.on_persistent_loss();
        }
    }

    /// One wake-up at a time for each sender, the earliest asked for.
    fn wake_at(&mut self, index: usize, at: Duration) {
        let flow = &mut self.flows[index];
        if flow.waits_until.is_none_or(|waits| at < waits) {
            flow.waits_until = Some(at);
            self.schedule(at, Event::Wake { flow: index });
        }
    }

    fn acknowledge(&mut self, index: usize, packet: u64) {
        let (epoch, now) = (self.epoch, self.now);
        let flow = &mut self.flows[index];
        let Some(sent_at) = flow.in_flight.remove(&packet) else {
            return;
        };
        flow.arrived_bytes += u64::from(PACKET_BYTES);
        flow.smoothed_rtt = (flow.smoothed_rtt * 7 + (now - sent_at)) / 8;
        flow.controller
            .on_acked(epoch + sent_at, PACKET_BYTES.into());
        let supply = if flow.is_limited {
            Supply::Limited
        } else {
            Supply::Ample
        };
        let in_flight_bytes = flow.in_flight_bytes();
        flow.controller
            .on_batch_end(epoch + now, in_flight_bytes, supply);
        while let Some(oldest) = flow.in_flight.first_entry()
            && *oldest.key() + REORDERING_MAX <= packet
        {
            oldest.remove();
            flow.lost_packets += 1;
            flow.controller.on_lost(PACKET_BYTES.into());
            if flow.backlog_bytes != u64::MAX {
                flow.backlog_bytes += u64::from(PACKET_BYTES);
            }
        }
    }

    fn schedule(&mut self, at: Duration, event: Event) {
        self.event_count += 1;
        self.events.push(Reverse((at, self.event_count, event)));
    }
}
