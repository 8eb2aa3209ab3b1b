//! The model of a path and the window that follows from it. It has no clock, no socket and no
//! packets: it is told what was acknowledged and lost, and when.

use std::time::{Duration, Instant};

use super::rate_filter::RateFilter;
use super::round::{Round, RoundReport, Supply};
use crate::config::{BitRate, LinkEstimate};

/// The window before anything is known: what QUIC servers of the web start with, and three times
/// RFC 9002's recommendation (section 7.2).
const INITIAL_PACKETS: u64 = 32;

/// Smallest window: enough for acknowledgements to keep coming.
const WINDOW_PACKETS_MIN: u64 = 4;

/// Largest window; also below the 4 GiB beyond which QUIC's pacer gives up.
const WINDOW_BYTES_MAX: u64 = 1 << 30;

/// One byte in so many may be lost without consequence: a radio link loses less, an overrun queue
/// soon more.
const LOSS_TOLERATED_ONE_IN: u64 = 32;

/// Rounds of one cycle: a probe, a drain, and cruising.
const CYCLE_ROUNDS: u32 = 8;

/// Rounds without growth after which the start is over, even if no queue shows.
const FLAT_ROUNDS_MAX: u32 = 3;

/// Late round trips in a row that show a queue; fewer may be chance.
const LATE_COUNT_MIN: u32 = 8;

/// How long a shortest round trip counts without being seen again.
const RTT_LIFETIME: Duration = Duration::from_secs(5);

/// Least time's worth of bytes beyond what the path itself holds: on a path of microseconds the
/// two programs' turns at the processor take longer than the path.
const HEADROOM_MIN: Duration = Duration::from_millis(1);

/// What the round trips of radio links vary by, whatever is sent.
const VARIATION: Duration = Duration::from_millis(10);

/// What the model says of the moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Doubling each round, until arrivals do not keep up or a queue shows.
    Start {
        window_bytes: u64,
        growth: Growth,
        best: BitRate,
        flat_rounds: u32,
    },
    /// One cycle of [`CYCLE_ROUNDS`]: a round with a larger window, to find a higher rate and to
    /// win a share from other links; a round without headroom, so that our queue goes away and
    /// the round trip shows; then rounds that keep the path busy with a short queue.
    Cycle { round: u32, queue: Queue },
    /// Half the window for a round, because no queue went away for [`RTT_LIFETIME`].
    FindRtt { shortest: Option<Duration> },
}

/// Whether the window of the start still grows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Growth {
    Doubling,
    /// A queue seems to show, since some moment of this round.
    Held,
    /// Held for a whole round, whose rate says whether it is a queue.
    Tested,
}

/// Whether our part of the queue has gone in this cycle.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Queue {
    Draining,
    Drained,
}

/// A shortest round trip and when it was last seen.
#[derive(Clone, Copy, Debug)]
struct SeenRtt {
    rtt: Duration,
    at: Instant,
}

/// Decides how many bytes of a link may be on their way.
#[derive(Clone, Debug)]
pub(super) struct RateController {
    packet_bytes: u64,
    phase: Phase,
    rates: RateFilter,
    /// The highest rate as of one and of two rounds ago, to see it grow.
    earlier_maxima: [BitRate; 2],
    /// What arrived while the cycle cruised, and in what time.
    cruise: Cruise,
    /// Round trips in a row that a queue made longer.
    late_count: u32,
    rtt: Option<SeenRtt>,
    /// How much longer than the shortest round trip packets may be on their way.
    headroom: Duration,
    /// A bound on the window after losses.
    cap_bytes: Option<u64>,
    round: Round,
    newest_sent_at: Instant,
    /// Acknowledged since the last batch ended.
    batch_bytes: u64,
    hint: Option<LinkEstimate>,
}

impl RateController {
    /// A controller for a path of which nothing is known.
    pub(super) fn new(now: Instant, packet_bytes: u16) -> Self {
        let packet_bytes = packet_bytes.into();
        Self {
            packet_bytes,
            phase: Phase::start(INITIAL_PACKETS * packet_bytes),
            rates: RateFilter::default(),
            earlier_maxima: [BitRate::ZERO; 2],
            cruise: Cruise::default(),
            late_count: 0,
            rtt: None,
            headroom: HEADROOM_MIN,
            cap_bytes: None,
            round: Round::start(now, now, Supply::Limited),
            newest_sent_at: now,
            batch_bytes: 0,
            hint: None,
        }
    }

    /// What an earlier link over the same path came to, or what an operator says of it.
    ///
    /// Half of that rate is tried as soon as the round trip shows that the path may be the same
    /// ("careful resume", draft-ietf-tsvwg-careful-resume); more must be found as usual.
    pub(super) fn set_hint(&mut self, hint: LinkEstimate) {
        self.hint = Some(hint);
    }

    /// One packet sent at `sent_at` has arrived.
    pub(super) fn on_acked(&mut self, sent_at: Instant, bytes: u64) {
        self.newest_sent_at = self.newest_sent_at.max(sent_at);
        self.batch_bytes += bytes;
    }

    /// The acknowledgements that came `now` are complete.
    pub(super) fn on_batch_end(&mut self, now: Instant, in_flight_bytes: u64, supply: Supply) {
        let acked_bytes = std::mem::take(&mut self.batch_bytes);
        if acked_bytes == 0 {
            return;
        }
        let rtt = now.saturating_duration_since(self.newest_sent_at);
        self.round.on_acked(acked_bytes);
        self.round.on_sample(rtt, supply);
        self.see_rtt(now, rtt);
        self.take_hint();
        self.advance(rtt, in_flight_bytes, supply);
        self.grow(acked_bytes, supply);
        if let Some(report) = self.round.report(now, self.newest_sent_at) {
            self.round = Round::start(now, self.newest_sent_at, supply);
            self.end_round(now, &report);
        }
    }

    /// Packets of so many bytes are lost.
    pub(super) fn on_lost(&mut self, bytes: u64) {
        self.round.on_lost(bytes);
    }

    /// Nothing arrived for several round trips: the path may have become another.
    pub(super) fn on_persistent_loss(&mut self) {
        self.hint = self.estimate();
        self.phase = Phase::start(WINDOW_PACKETS_MIN * self.packet_bytes);
        self.rates = RateFilter::default();
        self.rtt = None;
        self.cap_bytes = None;
    }

    /// Packets are as long as this from now on.
    pub(super) fn set_packet_bytes(&mut self, packet_bytes: u16) {
        self.packet_bytes = packet_bytes.into();
    }

    /// How many bytes may be on their way.
    pub(super) fn window_bytes(&self) -> u64 {
        let wanted = match self.phase {
            Phase::Start { window_bytes, .. } => window_bytes,
            Phase::FindRtt { .. } => self.path_bytes(Duration::ZERO) / 2,
            Phase::Cycle { round: 0, .. } => self.path_bytes(self.headroom) / 8 * 11,
            Phase::Cycle {
                round: 1,
                queue: Queue::Draining,
            } => self.path_bytes(Duration::ZERO),
            Phase::Cycle { .. } => self.path_bytes(self.headroom),
        };
        let capped = self.cap_bytes.map_or(wanted, |cap| wanted.min(cap));
        capped.clamp(WINDOW_PACKETS_MIN * self.packet_bytes, WINDOW_BYTES_MAX)
    }

    /// What the path was found to be, once it has carried anything.
    pub(super) fn estimate(&self) -> Option<LinkEstimate> {
        let (rate, SeenRtt { rtt, .. }) = (self.rates.max()?, self.rtt?);
        Some(LinkEstimate { rate, rtt })
    }

    /// What the path holds if a packet takes so much longer than the shortest round trip.
    fn path_bytes(&self, extra: Duration) -> u64 {
        self.estimate().map_or(0, |path| {
            // Whole packets, and the batch that the pacer lets through at once.
            path.rate.bytes_in(path.rtt + extra) + WINDOW_PACKETS_MIN * self.packet_bytes
        })
    }

    fn see_rtt(&mut self, now: Instant, rtt: Duration) {
        let seen = self.rtt.get_or_insert(SeenRtt { rtt, at: now });
        // About the same is the same: clocks and queues have grain.
        if rtt <= seen.rtt + seen.rtt / 16 {
            seen.at = now;
        }
        seen.rtt = seen.rtt.min(rtt);
        self.headroom = self
            .headroom
            .clamp(headroom_min(seen.rtt), headroom_max(seen.rtt));
    }

    fn take_hint(&mut self) {
        let (Some(hint), Some(seen)) = (self.hint.take(), self.rtt) else {
            return;
        };
        let alike = hint.rtt / 2 <= seen.rtt && seen.rtt <= hint.rtt * 2;
        if let (true, Phase::Start { window_bytes, .. }) = (alike, &mut self.phase) {
            let half = hint.rate.bytes_in(seen.rtt) / 2;
            *window_bytes = half.clamp(*window_bytes, WINDOW_BYTES_MAX);
        }
    }

    /// Takes the steps that do not wait for the end of a round.
    fn advance(&mut self, rtt: Duration, in_flight_bytes: u64, supply: Supply) {
        let base = self.rtt.map_or(rtt, |seen| seen.rtt);
        let is_late = rtt > base + headroom_min(base) / 2;
        self.late_count = if is_late { self.late_count + 1 } else { 0 };
        let queue_shows = self.late_count >= LATE_COUNT_MIN;
        let drained = in_flight_bytes <= self.window_bytes();
        match &mut self.phase {
            Phase::Start {
                window_bytes,
                growth: growth @ Growth::Doubling,
                ..
            } if supply == Supply::Ample && queue_shows => {
                // What shows now was sent a round trip ago, when the window was half as large.
                *window_bytes = *window_bytes / 8 * 5;
                *growth = Growth::Held;
            }
            Phase::Cycle { round: 1, queue } if drained => *queue = Queue::Drained,
            Phase::FindRtt { shortest } if drained || shortest.is_some() => {
                *shortest = Some(shortest.map_or(rtt, |other| other.min(rtt)));
            }
            Phase::Start { .. } | Phase::Cycle { .. } | Phase::FindRtt { .. } => {}
        }
    }

    fn grow(&mut self, acked_bytes: u64, supply: Supply) {
        if let Phase::Start {
            window_bytes,
            growth: Growth::Doubling,
            ..
        } = &mut self.phase
            && supply == Supply::Ample
        {
            *window_bytes = window_bytes.saturating_add(acked_bytes);
        }
    }

    fn end_round(&mut self, now: Instant, report: &RoundReport) {
        let max_before = self.rates.max().unwrap_or(BitRate::ZERO);
        match report.supply {
            Supply::Ample => self.rates.push_round(report.rate),
            Supply::Limited => self.rates.raise(report.rate),
        }
        if self.path_is_slower(report) {
            self.rates.reset(report.rate);
        }
        self.heed_loss(report);
        self.phase = self.next_phase(now, report);
        if report.supply == Supply::Ample {
            self.earlier_maxima = [max_before, self.earlier_maxima[0]];
        }
    }

    /// A queue that never went away in a round kept the path busy all the time: its rate is that
    /// of the round, and older, higher ones are history.
    fn path_is_slower(&self, report: &RoundReport) -> bool {
        let (Some(path), Phase::Cycle { .. }) = (self.estimate(), self.phase) else {
            return false;
        };
        report.supply == Supply::Ample
            && report.rtt_min > path.rtt + (self.headroom * 2).max(VARIATION)
            && report.rate < path.rate.part(3, 4)
    }

    /// Keeps the window below what was lost of, and tries more again when nothing is.
    fn heed_loss(&mut self, report: &RoundReport) {
        if matches!(self.phase, Phase::Start { .. }) {
            return;
        }
        if report.lost_more_than_one_in(LOSS_TOLERATED_ONE_IN) {
            let least = self.path_bytes(Duration::ZERO) / 4 * 3;
            self.cap_bytes = Some((self.window_bytes() / 8 * 7).max(least));
        } else if !report.lost_more_than_one_in(2 * LOSS_TOLERATED_ONE_IN) {
            let enough = 2 * self.path_bytes(self.headroom);
            let raised = self.cap_bytes.map(|cap| cap + cap / 16);
            self.cap_bytes = raised.filter(|cap| *cap < enough);
        }
    }

    fn next_phase(&mut self, now: Instant, report: &RoundReport) -> Phase {
        match self.phase {
            Phase::FindRtt { shortest: None } => self.phase,
            Phase::FindRtt {
                shortest: Some(rtt),
            } => {
                self.rtt = Some(SeenRtt { rtt, at: now });
                Phase::cycle(2)
            }
            _ if report.supply == Supply::Limited => self.phase.without_hold(),
            Phase::Start { .. } => self.next_start(report),
            Phase::Cycle { .. } if self.rtt_is_old(now) => Phase::FindRtt { shortest: None },
            Phase::Cycle { .. } if self.path_is_faster(report) => Phase::start(self.window_bytes()),
            Phase::Cycle { round, .. } => {
                // A round shows what was sent in the one before.
                match round {
                    // The probe paid: another at once, however late packets come.
                    1 if report.rate >= self.earlier_maxima[0].part(9, 8) => {
                        return Phase::cycle(0);
                    }
                    0 => self.adapt_headroom(),
                    3.. => self.cruise.add(report),
                    _ => {}
                }
                Phase::cycle((round + 1) % CYCLE_ROUNDS)
            }
        }
    }

    fn next_start(&self, report: &RoundReport) -> Phase {
        let Phase::Start {
            window_bytes,
            growth,
            best,
            flat_rounds,
        } = self.phase
        else {
            return self.phase;
        };
        let grew = report.rate >= best.part(5, 4);
        let flat_rounds = if grew { 0 } else { flat_rounds + 1 };
        let growth = match growth {
            Growth::Doubling => Growth::Doubling,
            Growth::Held => Growth::Tested,
            // What arrives is what was sent: late packets are not behind each other.
            Growth::Tested if self.arrives_as_sent(report, window_bytes) => Growth::Doubling,
            Growth::Tested => return Phase::cycle(1),
        };
        let over =
            flat_rounds >= FLAT_ROUNDS_MAX || report.lost_more_than_one_in(LOSS_TOLERATED_ONE_IN);
        if over {
            return Phase::cycle(1);
        }
        Phase::Start {
            window_bytes: window_bytes.min(WINDOW_BYTES_MAX),
            growth,
            best: best.max(report.rate),
            flat_rounds,
        }
    }

    /// Whether a window brought most of what it would bring without any queue.
    fn arrives_as_sent(&self, report: &RoundReport, window_bytes: u64) -> bool {
        self.rtt.is_some_and(|seen| {
            let without_queue = BitRate::of(window_bytes, seen.rtt);
            report.rate >= without_queue.part(4, 5)
        })
    }

    fn rtt_is_old(&self, now: Instant) -> bool {
        self.rtt
            .is_some_and(|seen| now.saturating_duration_since(seen.at) > RTT_LIFETIME)
    }

    /// The rate grows and no queue shows: the cycle's small steps would take too long.
    fn path_is_faster(&self, report: &RoundReport) -> bool {
        let base = self.rtt.map_or(report.rtt_min, |seen| seen.rtt);
        report.rtt_min <= base + self.headroom / 2
            && report.rate >= self.earlier_maxima[1].part(6, 5)
            && !report.lost_more_than_one_in(LOSS_TOLERATED_ONE_IN)
    }

    /// If cruising brought less than the path has shown it can do, then round trips vary by
    /// themselves, and more must be on its way for the path to stay busy.
    fn adapt_headroom(&mut self) {
        let cruise = std::mem::take(&mut self.cruise);
        let Some(path) = self.estimate().filter(|_| !cruise.time.is_zero()) else {
            return;
        };
        let rate = BitRate::of(cruise.bytes, cruise.time);
        if rate < path.rate.part(7, 8) {
            self.headroom += (path.rtt / 8).max(HEADROOM_MIN);
        } else if rate > path.rate.part(15, 16) {
            self.headroom = self.headroom / 8 * 7;
        }
        self.headroom = self
            .headroom
            .clamp(headroom_min(path.rtt), headroom_max(path.rtt));
    }
}

/// A sum of rounds.
#[derive(Clone, Copy, Debug, Default)]
struct Cruise {
    bytes: u64,
    time: Duration,
}

impl Cruise {
    fn add(&mut self, report: &RoundReport) {
        self.bytes += report.acked_bytes;
        self.time += report.time;
    }
}

impl Phase {
    const fn start(window_bytes: u64) -> Self {
        Self::Start {
            window_bytes,
            growth: Growth::Doubling,
            best: BitRate::ZERO,
            flat_rounds: 0,
        }
    }

    const fn cycle(round: u32) -> Self {
        let queue = Queue::Draining;
        Self::Cycle { round, queue }
    }

    /// The same after a round that says nothing about the path.
    const fn without_hold(self) -> Self {
        match self {
            Self::Start {
                window_bytes,
                best,
                flat_rounds,
                ..
            } => Self::Start {
                window_bytes,
                growth: Growth::Doubling,
                best,
                flat_rounds,
            },
            Self::Cycle { .. } | Self::FindRtt { .. } => self,
        }
    }
}

/// A quarter of the round trip: with it in the queue, a path whose rate doubles is followed within
/// a few rounds, and short pauses of the sender leave no gap.
fn headroom_min(rtt: Duration) -> Duration {
    (rtt / 4).max(HEADROOM_MIN)
}

/// Half the round trip, or what the named radio links vary by.
fn headroom_max(rtt: Duration) -> Duration {
    (rtt / 2).max(VARIATION)
}
