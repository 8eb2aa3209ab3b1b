//! What tests do to a link while it runs: stop its time, cut it, damage its packets. Pure: the
//! relay says what time it is.

use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;

use super::profile::{DirectionSeed, Draw, Probability};

/// Most bytes that are changed in one damaged packet.
const CORRUPT_BYTES_MAX: usize = 3;

/// Sets the numbers of damage apart from those of loss, which share the seed.
const CORRUPTION_STREAMS: u64 = 2 << 32;

/// Whether the link runs, and its clock, which stands still while it is stalled: so queue, rate
/// and packets on their way go on afterwards as if nothing had been.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Condition {
    state: State,
    /// How long the link's clock stood still so far.
    behind: Duration,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Running,
    /// Since then, in time that does not stop.
    Stalled(Duration),
    Cut,
}

impl Condition {
    pub(super) const RUNNING: Self = Self {
        state: State::Running,
        behind: Duration::ZERO,
    };

    pub(super) fn stall(&mut self, elapsed: Duration) {
        self.resume(elapsed);
        self.state = State::Stalled(elapsed);
    }

    pub(super) fn cut(&mut self, elapsed: Duration) {
        self.resume(elapsed);
        self.state = State::Cut;
    }

    pub(super) fn resume(&mut self, elapsed: Duration) {
        if let State::Stalled(since) = self.state {
            self.behind += elapsed.saturating_sub(since);
        }
        self.state = State::Running;
    }

    pub(super) fn is_cut(self) -> bool {
        self.state == State::Cut
    }

    pub(super) fn is_stalled(self) -> bool {
        matches!(self.state, State::Stalled(_))
    }

    /// The link's time when `elapsed` has passed outside.
    pub(super) fn link_time(self, elapsed: Duration) -> Duration {
        let outside = match self.state {
            State::Running | State::Cut => elapsed,
            State::Stalled(since) => since,
        };
        outside.saturating_sub(self.behind)
    }

    /// How long to wait outside until the link's time is `due`; `None` while it stands still.
    pub(super) fn wait_for(self, due: Duration, elapsed: Duration) -> Option<Duration> {
        match self.state {
            State::Running | State::Cut => Some(due.saturating_sub(self.link_time(elapsed))),
            State::Stalled(_) => None,
        }
    }
}

/// Damages packets by chance.
#[derive(Clone, Debug)]
pub(super) struct Corruptor {
    probability: Probability,
    rng: ChaCha8Rng,
}

impl Corruptor {
    pub(super) fn new(seed: DirectionSeed) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed.seed);
        rng.set_stream(CORRUPTION_STREAMS + seed.stream);
        Self {
            probability: Probability::NEVER,
            rng,
        }
    }

    pub(super) fn set(&mut self, probability: Probability) {
        self.probability = probability;
    }

    /// Changes up to [`CORRUPT_BYTES_MAX`] bytes if the packet is unlucky; says whether it was.
    pub(super) fn pass(&mut self, packet: &mut [u8]) -> bool {
        if packet.is_empty() || !self.probability.covers(Draw::from(&mut self.rng)) {
            return false;
        }
        let byte_count = self.rng.random_range(1..=CORRUPT_BYTES_MAX);
        let first = self.rng.random_range(0..packet.len());
        // A run of bytes, so that none is changed back; never by nothing.
        for byte in packet[first..].iter_mut().take(byte_count) {
            *byte ^= self.rng.random_range(1..=u8::MAX);
        }
        true
    }
}
