//! What the emulator counts.

use std::time::Duration;

use super::profile::Direction;

/// What happened in one direction so far. Every received packet is in exactly one of the other
/// counts of packets, but damaged ones, which are also delivered or lost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct DirectionStats {
    /// Packets that came in.
    pub received_packet_count: u64,
    /// Their bytes.
    pub received_bytes: u64,
    /// Packets that went out.
    pub delivered_packet_count: u64,
    /// Their bytes.
    pub delivered_bytes: u64,
    /// Packets in the queue or on their way.
    pub held_packet_count: u64,
    /// Packets lost by chance.
    pub lost_packet_count: u64,
    /// Packets that found the queue full.
    pub queue_full_packet_count: u64,
    /// Packets dropped because the link was cut.
    pub cut_packet_count: u64,
    /// Packets dropped because the emulator held [`HELD_BYTES_MAX`](super::HELD_BYTES_MAX)
    /// already: not the link's doing. Above zero, results are worthless.
    pub overrun_packet_count: u64,
    /// Packets that the operating system did not take: not the link's doing either.
    pub unsent_packet_count: u64,
    /// Packets damaged on purpose.
    pub corrupted_packet_count: u64,
    /// How late packets went out, together: the emulator's own error.
    pub lateness_total: Duration,
    /// How late the latest went out.
    pub lateness_max: Duration,
}

impl DirectionStats {
    /// How late a packet went out on average.
    pub fn lateness_mean(&self) -> Duration {
        let count = self.delivered_packet_count.max(1);
        Duration::from_secs_f64(self.lateness_total.as_secs_f64() / count as f64)
    }
}

/// What the emulator counted so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EmulatorStats {
    /// From the target.
    pub down: DirectionStats,
    /// To the target.
    pub up: DirectionStats,
    /// Addresses that have sent something and are served.
    pub client_count: usize,
    /// Packets of addresses beyond [`CLIENTS_MAX`](super::CLIENTS_MAX), dropped.
    pub refused_packet_count: u64,
}

impl EmulatorStats {
    /// One direction's counts.
    pub fn of(&self, direction: Direction) -> &DirectionStats {
        match direction {
            Direction::Down => &self.down,
            Direction::Up => &self.up,
        }
    }
}
