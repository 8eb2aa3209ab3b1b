//! A link between two programs on one machine: a UDP relay with the rate, delay, jitter, loss and
//! queue of a profile or a measured trace, and faults on demand. Knows nothing of QUIC.
//!
//! ```
//! use std::net::UdpSocket;
//! use std::time::{Duration, Instant};
//! use edgeprompt_testkit::emulator::{BitRate, DirectionProfile, EmulatedLink, LinkEmulator};
//!
//! let target = UdpSocket::bind("127.0.0.1:0")?;
//! let rate = BitRate::megabits_per_second(50);
//! let direction = DirectionProfile::constant(rate, Duration::from_millis(5));
//! let link = EmulatedLink::symmetric(direction, 1);
//! let emulator = LinkEmulator::start(target.local_addr()?, link)?;
//!
//! let sender = UdpSocket::bind("127.0.0.1:0")?;
//! let sent_at = Instant::now();
//! sender.send_to(b"hello", emulator.addr())?;
//! let mut bytes = [0; 8];
//! assert_eq!(target.recv(&mut bytes)?, 5);
//! assert!(sent_at.elapsed() >= Duration::from_millis(5));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! A measured link is a named one with the rate of a trace:
//!
//! ```
//! use edgeprompt_testkit::emulator::{NamedLink, RateSchedule};
//!
//! # let folder = std::env::temp_dir().join(format!("edgeprompt-trace-{}", std::process::id()));
//! # std::fs::create_dir_all(&folder)?;
//! let path = folder.join("5g_trace_40_walking");
//! # std::fs::write(&path, "0.0 12.5\n1.0 40.0\n")?;
//! let mut link = NamedLink::FiveG.link(1);
//! link.down = link.down.with_rate(RateSchedule::from_trace_file(&path)?);
//! # std::fs::remove_dir_all(&folder)?;
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```
//!
//! # What it is and is not
//!
//! [`LinkModel`] decides, from lengths and times alone, and the same seed gives the same decisions.
//! One thread does what it says, woken by the kernel's timer, so its precision is that of the
//! machine's scheduler: some tens of microseconds on a free core, more on a busy one.
//! What came while it was away counts as having come at once, which a short queue at a high rate
//! may not hold. [`EmulatorStats`] tells how late it was, and [`saturation_rate`] how fast it can
//! be: trust no result whose rate comes near that. A rate counts UDP payload.
//!
//! # The kernel instead
//!
//! Where root and network namespaces are to be had, the kernel's token bucket shapes real
//! interfaces without a process in between. It has a rate and a queue; delay and loss need
//! `netem`, which not every kernel has:
//!
//! ```text
//! ip netns add edge
//! ip link add to-edge type veth peer name to-cloud netns edge
//! ip addr add 10.77.0.1/24 dev to-edge && ip link set to-edge up
//! ip -n edge addr add 10.77.0.2/24 dev to-cloud && ip -n edge link set to-cloud up
//! tc qdisc add dev to-edge root tbf rate 200mbit burst 32kb limit 512kb
//! ip netns exec edge tc qdisc add dev to-cloud root tbf rate 50mbit burst 32kb limit 128kb
//! ip netns exec edge edge-node serve ...
//! ```
//!
//! Its rates count Ethernet headers. Offload must be off on both ends for `burst` to mean what it
//! says: `ethtool -K to-edge gso off tso off gro off`.

mod faults;
mod handle;
mod jitter;
mod lane;
mod model;
mod profile;
mod rate;
mod relay;
mod saturation;
mod socket;
mod stats;
#[cfg(test)]
mod tests;
mod trace;

pub use handle::{EmulatorHandle, LinkEmulator, StartError};
pub use lane::HELD_BYTES_MAX;
pub use model::{DropReason, LinkModel, Verdict};
pub use profile::{
    Direction, DirectionProfile, EmulatedLink, NamedLink, Probability, QUEUE_BDP_MULTIPLE,
    QUEUE_BYTES_MAX, QUEUE_BYTES_MIN, Reordering, UnknownLink,
};
pub use rate::{BitRate, RATE_STEPS_MAX, RateSchedule, RateStep, ScheduleError};
pub use relay::CLIENTS_MAX;
pub use saturation::{Saturation, saturation_rate};
pub use stats::{DirectionStats, EmulatorStats};
pub use trace::{LineProblem, TraceError};
