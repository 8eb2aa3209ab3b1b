//! What a link is tuned with: the path it runs over, how long anything may take, how much may
//! arrive. Values only; nothing here is read from files or the environment.

use std::sync::Arc;
use std::time::Duration;

use edgeprompt_protocol::frame::MESSAGE_BYTES_MAX;
use quinn::congestion::{BbrConfig, CubicConfig};
use quinn::{IdleTimeout, TransportConfig, VarInt};

use crate::congestion::{PathControllerFactory, PathHint};

/// Smallest window of a direction that carries layers: a short path still has bursts.
const WINDOW_BYTES_MIN: u64 = 8 << 20;

/// Largest window: what one link may make a node hold in QUIC's buffers.
const WINDOW_BYTES_MAX: u64 = 1 << 30;

/// Window of the direction that carries requests: two of the largest.
const CONTROL_WINDOW_BYTES: u32 = 4 << 20;

/// Most requests of one link at a time.
pub(crate) const REQUEST_STREAMS_MAX: u32 = 32;

/// Most streams of edges that speak about sessions, on one link: three for each session.
pub(crate) const PEER_STREAMS_MAX: u32 = 512;

/// Window of each stream of a link to a worker: what goes aside fills no more than that of the link's
/// buffers, so that what a step waits for is taken at once.
const WORKER_STREAM_WINDOW_BYTES: u32 = 4 << 20;

/// Most layer streams open at a time on one link; the sender waits for a free one. Early layers
/// go first in any case, so more would only be more bookkeeping.
pub(crate) const LAYER_STREAMS_MAX: u32 = 64;

const _: () = assert!(2 * MESSAGE_BYTES_MAX <= CONTROL_WINDOW_BYTES as usize);

/// A rate of data.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct BitRate(u64);

impl BitRate {
    /// Nothing ever arrives.
    pub const ZERO: Self = Self(0);

    /// So many bits each second.
    pub const fn bits_per_second(bits: u64) -> Self {
        Self(bits)
    }

    /// So many million bits each second.
    pub const fn megabits_per_second(megabits: u64) -> Self {
        Self(megabits.saturating_mul(1_000_000))
    }

    /// The rate at which `bytes` take `time`; as high as can be if they take none.
    pub fn of(bytes: u64, time: Duration) -> Self {
        const BITS_NANOS: u128 = 8 * 1_000_000_000;
        let rate = (u128::from(bytes) * BITS_NANOS).checked_div(time.as_nanos());
        Self(rate.map_or(u64::MAX, |rate| u64::try_from(rate).unwrap_or(u64::MAX)))
    }

    /// The rate in whole bits each second.
    pub const fn as_bits_per_second(self) -> u64 {
        self.0
    }

    /// The rate in whole bytes each second.
    pub const fn bytes_per_second(self) -> u64 {
        self.0 / 8
    }

    /// Whole bytes that arrive in `time`.
    pub fn bytes_in(self, time: Duration) -> u64 {
        let bytes = u128::from(self.0) * time.as_nanos() / (8 * 1_000_000_000);
        u64::try_from(bytes).unwrap_or(u64::MAX)
    }

    /// So many times the `denominator`-th part of it.
    pub(crate) fn part(self, numerator: u64, denominator: u64) -> Self {
        let bits = u128::from(self.0) * u128::from(numerator) / u128::from(denominator);
        Self(u64::try_from(bits).unwrap_or(u64::MAX))
    }
}

/// What a link was found to be, or what an operator says of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkEstimate {
    /// How fast bytes arrive.
    pub rate: BitRate,
    /// The round-trip time.
    pub rtt: Duration,
}

impl LinkEstimate {
    /// What streams get of a rate that was measured in packets: of 1,452 bytes, some 40 are headers and
    /// the tag that proves them unchanged.
    pub fn stream_rate(&self) -> BitRate {
        self.rate.part(97, 100)
    }
}

/// The path between two nodes, as far as buffers depend on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkProfile {
    /// The rate of the slowest hop.
    pub rate: BitRate,
    /// The round-trip time.
    pub rtt: Duration,
}

impl Default for LinkProfile {
    /// 10 Gbit/s over 20 ms: a metropolitan backhaul. Slower and shorter paths work as well; the
    /// profile bounds buffers and shapes nothing.
    fn default() -> Self {
        Self {
            rate: BitRate::megabits_per_second(10_000),
            rtt: Duration::from_millis(20),
        }
    }
}

impl LinkProfile {
    /// Twice the bandwidth-delay product, so that a lost packet's round trip does not stall the
    /// sender, within 8 MiB and 1 GiB.
    pub(crate) fn window_bytes(&self) -> u32 {
        let window = self.rate.bytes_in(self.rtt).saturating_mul(2);
        let window = window.clamp(WINDOW_BYTES_MIN, WINDOW_BYTES_MAX);
        u32::try_from(window).expect("WINDOW_BYTES_MAX fits 32 bits")
    }
}

/// How long a node waits for anything before it gives up.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timeouts {
    /// For a link: handshake and admission.
    pub connect: Duration,
    /// For a control message, once its stream is open.
    pub message: Duration,
    /// For the answer to a request: a cloud may tokenise and look up a prompt first.
    pub reply: Duration,
    /// For the next layer of a fetch, and for progress within one; a late layer waits behind all
    /// earlier ones.
    pub layer: Duration,
    /// For any packet; a link silent for longer is lost.
    pub idle: Duration,
    /// Between packets that keep an idle link open; below `idle`.
    pub keep_alive: Duration,
    /// For what is under way when a node closes.
    pub drain: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(5),
            message: Duration::from_secs(10),
            reply: Duration::from_secs(30),
            layer: Duration::from_secs(60),
            idle: Duration::from_secs(30),
            keep_alive: Duration::from_secs(5),
            drain: Duration::from_secs(10),
        }
    }
}

/// What decides how many bytes may be on their way.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CongestionControl {
    /// A model of the path: the rate at which bytes arrive and the shortest round trip. Packets
    /// that a radio link loses do not slow it down.
    #[default]
    PathModel,
    /// CUBIC (RFC 9438), to compare with: every lost packet counts as a full queue.
    Cubic,
    /// The QUIC library's experimental BBR, to compare with.
    Bbr,
}

/// How an endpoint makes or accepts links.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkConfig {
    /// The path.
    pub profile: LinkProfile,
    /// The patience.
    pub timeouts: Timeouts,
    /// Most bytes of layers that one fetch may bring; a manifest that announces more is refused.
    pub fetch_bytes_max: usize,
    /// How much is sent at a time.
    pub congestion_control: CongestionControl,
    /// What is known of the path to a peer before the first link to it; a link remembers for the
    /// next. A new link starts with half of the rate, once the round trip has shown to be alike.
    pub expected: Option<LinkEstimate>,
}

impl Default for LinkConfig {
    /// Up to 32 GiB a fetch: more than the longest prompt of a 7-billion-parameter model at half
    /// precision needs with grouped KV heads.
    fn default() -> Self {
        Self {
            profile: LinkProfile::default(),
            timeouts: Timeouts::default(),
            fetch_bytes_max: 32 << 30,
            congestion_control: CongestionControl::default(),
            expected: None,
        }
    }
}

impl LinkConfig {
    /// Transport parameters of the node that receives requests and sends layers, for one link.
    pub(crate) fn cloud_transport(&self, hint: PathHint) -> TransportConfig {
        let mut transport = self.transport(hint);
        transport
            .max_concurrent_bidi_streams(REQUEST_STREAMS_MAX.into())
            .max_concurrent_uni_streams(VarInt::from_u32(0))
            .stream_receive_window(CONTROL_WINDOW_BYTES.into())
            .receive_window(CONTROL_WINDOW_BYTES.into())
            .send_window(self.profile.window_bytes().into());
        transport
    }

    /// Transport parameters of the node that sends requests and receives layers.
    pub(crate) fn edge_transport(&self) -> TransportConfig {
        let mut transport = self.transport(PathHint::default());
        transport
            .max_concurrent_bidi_streams(VarInt::from_u32(0))
            .max_concurrent_uni_streams(LAYER_STREAMS_MAX.into())
            .stream_receive_window(self.profile.window_bytes().into())
            .receive_window(self.profile.window_bytes().into())
            .send_window(CONTROL_WINDOW_BYTES.into());
        transport
    }

    /// Transport parameters of edges that speak about sessions: the one that dials opens streams, and
    /// bytes go both ways.
    pub(crate) fn peer_transport(&self, hint: PathHint) -> TransportConfig {
        let mut transport = self.transport(hint);
        transport
            .max_concurrent_bidi_streams(PEER_STREAMS_MAX.into())
            // The word of admission takes one.
            .max_concurrent_uni_streams(VarInt::from_u32(1))
            .stream_receive_window(self.profile.window_bytes().into())
            .receive_window(self.profile.window_bytes().into())
            .send_window(self.profile.window_bytes().into());
        transport
    }

    /// Transport parameters of a leader and its workers.
    pub(crate) fn worker_transport(&self, hint: PathHint) -> TransportConfig {
        let mut transport = self.peer_transport(hint);
        transport.stream_receive_window(WORKER_STREAM_WINDOW_BYTES.into());
        transport
    }

    fn transport(&self, hint: PathHint) -> TransportConfig {
        let mut transport = TransportConfig::default();
        match self.congestion_control {
            CongestionControl::PathModel => transport
                .congestion_controller_factory(Arc::new(PathControllerFactory::with_hint(hint))),
            CongestionControl::Cubic => {
                transport.congestion_controller_factory(Arc::new(CubicConfig::default()))
            }
            CongestionControl::Bbr => {
                transport.congestion_controller_factory(Arc::new(BbrConfig::default()))
            }
        };
        // QUIC counts milliseconds in 62 bits: a longer timeout is none.
        let idle = IdleTimeout::try_from(self.timeouts.idle).ok();
        transport
            .max_idle_timeout(idle)
            .keep_alive_interval(Some(self.timeouts.keep_alive))
            .datagram_receive_buffer_size(None);
        transport
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn windows_follow_the_bandwidth_delay_product() {
        let window = |megabits, millis| {
            let rate = BitRate::megabits_per_second(megabits);
            LinkProfile {
                rate,
                rtt: Duration::from_millis(millis),
            }
            .window_bytes()
        };
        assert_eq!(window(10_000, 20), 50_000_000);
        assert_eq!(window(1_000, 100), 25_000_000);
        assert_eq!(window(10, 10), 8 << 20);
        assert_eq!(window(u64::MAX, 1_000), 1 << 30);
    }
}
