//! One round trip as a sender sees it: what was acknowledged and lost, how fast, how late.

use std::time::{Duration, Instant};

use crate::config::BitRate;

/// Shortest round: on a path of microseconds a rate over one round trip would be that of a burst.
const ROUND_MIN: Duration = Duration::from_millis(10);

/// Whether the sender had something to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Supply {
    /// More than the window and the pacer let through: rates are those of the path.
    Ample,
    /// Less at some moment: rates are at most those of the path.
    Limited,
}

/// The round under way. It ends with the first acknowledgement of something sent within it.
#[derive(Clone, Debug)]
pub(super) struct Round {
    started_at: Instant,
    /// When the newest packet was sent that was acknowledged before the round.
    start_sent_at: Instant,
    acked_bytes: u64,
    lost_bytes: u64,
    rtt_min: Option<Duration>,
    supply: Supply,
}

/// What a round has shown.
#[derive(Clone, Copy, Debug)]
pub(super) struct RoundReport {
    pub(super) rate: BitRate,
    pub(super) time: Duration,
    pub(super) supply: Supply,
    /// The shortest round trip in it: what of the queue never went away.
    pub(super) rtt_min: Duration,
    pub(super) acked_bytes: u64,
    pub(super) lost_bytes: u64,
}

impl Round {
    pub(super) fn start(now: Instant, newest_sent_at: Instant, supply: Supply) -> Self {
        Self {
            started_at: now,
            start_sent_at: newest_sent_at,
            acked_bytes: 0,
            lost_bytes: 0,
            rtt_min: None,
            supply,
        }
    }

    pub(super) fn on_acked(&mut self, bytes: u64) {
        self.acked_bytes += bytes;
    }

    pub(super) fn on_lost(&mut self, bytes: u64) {
        self.lost_bytes += bytes;
    }

    /// Takes what the newest packet of a batch of acknowledgements says.
    pub(super) fn on_sample(&mut self, rtt: Duration, supply: Supply) {
        self.rtt_min = Some(self.rtt_min.map_or(rtt, |min| min.min(rtt)));
        if supply == Supply::Limited {
            self.supply = Supply::Limited;
        }
    }

    /// The report, if a packet sent at `newest_sent_at` and acknowledged `now` ends the round.
    pub(super) fn report(&self, now: Instant, newest_sent_at: Instant) -> Option<RoundReport> {
        let acked_in = now.saturating_duration_since(self.started_at);
        if newest_sent_at < self.started_at || acked_in < ROUND_MIN {
            return None;
        }
        // Acknowledgements may come in a heap after a pause; what was sent in a given time cannot
        // have left the path any faster.
        let sent_in = newest_sent_at.saturating_duration_since(self.start_sent_at);
        let time = acked_in.max(sent_in);
        Some(RoundReport {
            rate: BitRate::of(self.acked_bytes, time),
            time,
            supply: self.supply,
            rtt_min: self.rtt_min?,
            acked_bytes: self.acked_bytes,
            lost_bytes: self.lost_bytes,
        })
    }
}

impl RoundReport {
    /// Whether more than one in `parts` bytes was lost.
    pub(super) const fn lost_more_than_one_in(&self, parts: u64) -> bool {
        self.lost_bytes.saturating_mul(parts) > self.acked_bytes.saturating_add(self.lost_bytes)
    }
}
