//! What a link is like: rate, delay, jitter, loss, reordering and queue of each direction, and the
//! named links. Values only; [`LinkModel`](super::LinkModel) makes them happen.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use super::rate::{BitRate, RateSchedule};

/// Round trips' worth of bytes that a queue holds unless told otherwise. One is the classical
/// rule for a router: enough for one sender to keep the link busy when it halves its window.
pub const QUEUE_BDP_MULTIPLE: u64 = 1;

/// Smallest queue by default: on a short link the rule above gives a handful of packets, and
/// switches hold more. Also more than any datagram.
pub const QUEUE_BYTES_MIN: u64 = 256 << 10;

/// Largest queue by default: what the emulator is ready to hold for one direction.
pub const QUEUE_BYTES_MAX: u64 = 64 << 20;

/// How likely something is to happen to a packet, in millionths.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Probability(u32);

impl Probability {
    /// Certain in this unit.
    const ALL: u32 = 1_000_000;

    /// It never happens.
    pub const NEVER: Self = Self(0);
    /// It always happens.
    pub const ALWAYS: Self = Self(Self::ALL);

    /// So many packets of a million; more than a million is always.
    pub const fn per_million(count: u32) -> Self {
        if count > Self::ALL {
            return Self::ALWAYS;
        }
        Self(count)
    }

    /// Whether it happens to a packet that drew `draw`, a number below a million.
    pub(super) const fn covers(self, draw: Draw) -> bool {
        draw.0 < self.0
    }
}

/// A number below a million.
#[derive(Clone, Copy, Debug)]
pub(super) struct Draw(u32);

impl Draw {
    pub(super) fn from(rng: &mut impl rand::RngExt) -> Self {
        Self(rng.random_range(0..Probability::ALL))
    }
}

/// Packets that take a longer way, so that others overtake them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Reordering {
    /// How many do.
    pub probability: Probability,
    /// How much longer they take.
    pub late_by: Duration,
}

/// One direction of a link.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DirectionProfile {
    /// How fast it sends.
    pub rate: RateSchedule,
    /// How long a packet travels after its last bit was sent.
    pub delay: Duration,
    /// Up to how much longer it travels, varying over time; packets stay in order and never come
    /// faster than `rate`.
    pub jitter: Duration,
    /// How many packets vanish. They take their time on the link before.
    pub loss: Probability,
    /// How many packets come late.
    pub reordering: Reordering,
    /// How many bytes may wait to be sent, with the packet being sent. A packet that finds no room
    /// is dropped; an empty queue takes any packet.
    pub queue_bytes_max: u64,
}

impl DirectionProfile {
    /// A clean direction: no jitter, loss or reordering, and a queue of [`QUEUE_BDP_MULTIPLE`]
    /// bandwidth-delay products of its mean rate, between [`QUEUE_BYTES_MIN`] and
    /// [`QUEUE_BYTES_MAX`]. The way back is taken to be as long as the way there.
    pub fn new(rate: RateSchedule, delay: Duration) -> Self {
        let round_trip = delay.saturating_mul(2);
        let in_flight = rate.mean().bytes_in(round_trip);
        let queue = in_flight.saturating_mul(QUEUE_BDP_MULTIPLE);
        Self {
            rate,
            delay,
            jitter: Duration::ZERO,
            loss: Probability::NEVER,
            reordering: Reordering::default(),
            queue_bytes_max: queue.clamp(QUEUE_BYTES_MIN, QUEUE_BYTES_MAX),
        }
    }

    /// As [`DirectionProfile::new`] with one rate for ever.
    pub fn constant(rate: BitRate, delay: Duration) -> Self {
        Self::new(RateSchedule::constant(rate), delay)
    }

    /// The same direction at another rate, with the default queue of that rate.
    #[must_use]
    pub fn with_rate(self, rate: RateSchedule) -> Self {
        let queue_bytes_max = Self::new(rate.clone(), self.delay).queue_bytes_max;
        Self {
            rate,
            queue_bytes_max,
            ..self
        }
    }

    /// The same direction with jitter.
    #[must_use]
    pub fn with_jitter(self, jitter: Duration) -> Self {
        Self { jitter, ..self }
    }

    /// The same direction with loss.
    #[must_use]
    pub fn with_loss(self, loss: Probability) -> Self {
        Self { loss, ..self }
    }
}

/// A way of a link.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Direction {
    /// From the target to whoever sent to the emulator: cloud to edge.
    Down,
    /// From whoever sends to the emulator to the target: edge to cloud.
    Up,
}

/// A link to emulate.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct EmulatedLink {
    /// Towards whoever sends to the emulator.
    pub down: DirectionProfile,
    /// Towards the target.
    pub up: DirectionProfile,
    /// What all chance follows from: the same seed gives the same fate to the same packets.
    pub seed: u64,
}

impl EmulatedLink {
    /// The same in both directions.
    pub fn symmetric(direction: DirectionProfile, seed: u64) -> Self {
        Self {
            down: direction.clone(),
            up: direction,
            seed,
        }
    }

    /// A link that only passes packets on: what the emulator itself costs.
    pub fn unlimited(seed: u64) -> Self {
        let direction = DirectionProfile {
            queue_bytes_max: u64::MAX,
            ..DirectionProfile::constant(BitRate::UNLIMITED, Duration::ZERO)
        };
        Self::symmetric(direction, seed)
    }

    /// The seed of one direction's chances; no two directions of any two seeds share one.
    pub(super) fn seed_of(&self, direction: Direction) -> DirectionSeed {
        match direction {
            Direction::Down => DirectionSeed {
                seed: self.seed,
                stream: 0,
            },
            Direction::Up => DirectionSeed {
                seed: self.seed,
                stream: 1,
            },
        }
    }
}

/// Where the chances of one direction come from.
#[derive(Clone, Copy, Debug)]
pub(super) struct DirectionSeed {
    pub(super) seed: u64,
    pub(super) stream: u64,
}

/// The links that have a name. Rates are what one user gets, not what a cell can; delays are to a
/// node at the metropolitan edge, not to a distant data centre.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum NamedLink {
    /// Switched gigabit Ethernet: 1 Gbit/s both ways, 0.1 ms (half of a usual round trip between
    /// two hosts of one building), no loss.
    Lan,
    /// A home or office Wi-Fi (802.11ac, 80 MHz, two streams, 867 Mbit/s on the air, a good third
    /// of it left by medium access, acknowledgements and neighbours): 300 Mbit/s both ways, 2 ms,
    /// 4 ms of jitter from contention, 0.05 % loss left over by link-layer retransmission.
    Wifi,
    /// 5G: 400 Mbit/s down, which is near the median second (434) of the Lumos5G millimetre-wave
    /// walks and drives; 50 Mbit/s up, the user-experienced rate that ITU-R M.2410 asks of
    /// IMT-2020; 8 ms, which is that report's 4 ms on the air plus as much to the edge site; 4 ms
    /// of jitter from scheduling; 0.01 % loss.
    FiveG,
    /// LTE: 35 Mbit/s down, near the median second (33) of the Lumos5G project's LTE drives;
    /// 10 Mbit/s up; 20 ms, which is the 10 ms that ITU-R M.2134 allows IMT-Advanced on the air
    /// plus as much through the core network; 10 ms of jitter; 0.05 % loss.
    Lte,
    /// 6G as ITU-R M.2160 sketches IMT-2030: 500 Mbit/s down, its larger example of a
    /// user-experienced rate; 250 Mbit/s up, with IMT-2020's ratio of two; 1 ms, the upper end of
    /// its latency on the air; 0.5 ms of jitter; 0.001 % loss, the lower end of its reliability.
    SixG,
}

impl NamedLink {
    /// Every one of them.
    pub const ALL: [Self; 5] = [Self::Lan, Self::Wifi, Self::FiveG, Self::Lte, Self::SixG];

    /// Its name.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Lan => "lan",
            Self::Wifi => "wifi",
            Self::FiveG => "5g",
            Self::Lte => "lte",
            Self::SixG => "6g",
        }
    }

    /// What it is like.
    pub fn link(self, seed: u64) -> EmulatedLink {
        let (down, up) = match self {
            Self::Lan => (1_000, 1_000),
            Self::Wifi => (300, 300),
            Self::FiveG => (400, 50),
            Self::Lte => (35, 10),
            Self::SixG => (500, 250),
        };
        let direction = |megabits| {
            DirectionProfile::constant(BitRate::megabits_per_second(megabits), self.delay())
                .with_jitter(self.jitter())
                .with_loss(self.loss())
        };
        EmulatedLink {
            down: direction(down),
            up: direction(up),
            seed,
        }
    }

    const fn delay(self) -> Duration {
        match self {
            Self::Lan => Duration::from_micros(100),
            Self::Wifi => Duration::from_millis(2),
            Self::FiveG => Duration::from_millis(8),
            Self::Lte => Duration::from_millis(20),
            Self::SixG => Duration::from_millis(1),
        }
    }

    const fn jitter(self) -> Duration {
        match self {
            Self::Lan => Duration::ZERO,
            Self::Wifi | Self::FiveG => Duration::from_millis(4),
            Self::Lte => Duration::from_millis(10),
            Self::SixG => Duration::from_micros(500),
        }
    }

    const fn loss(self) -> Probability {
        match self {
            Self::Lan => Probability::NEVER,
            Self::Wifi | Self::Lte => Probability::per_million(500),
            Self::FiveG => Probability::per_million(100),
            Self::SixG => Probability::per_million(10),
        }
    }
}

impl fmt::Display for NamedLink {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A name that no link has.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no link is called {name:?}; there are lan, wifi, 5g, lte and 6g")]
pub struct UnknownLink {
    /// The name.
    pub name: String,
}

impl FromStr for NamedLink {
    type Err = UnknownLink;

    fn from_str(name: &str) -> Result<Self, UnknownLink> {
        let found = Self::ALL.into_iter().find(|link| link.name() == name);
        found.ok_or_else(|| UnknownLink { name: name.into() })
    }
}
