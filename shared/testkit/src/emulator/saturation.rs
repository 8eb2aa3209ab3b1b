//! How fast the emulator itself is, on this machine and now: what no emulated rate may come near.

use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use super::handle::{EmulatorHandle, LinkEmulator, StartError};
use super::profile::EmulatedLink;
use super::rate::BitRate;
use super::socket::{BatchSocket, ReceiveBuffers, Train};

/// Payload of a packet: what QUIC sends over a path with an MTU of 1,500.
const PACKET_BYTES: usize = 1_452;

/// Packets sent at once: what quinn gives the kernel at a time.
const TRAIN_PACKETS: usize = 10;

/// Most bytes under way, so that no kernel buffer overflows: the measurement is of work done, not
/// of work thrown away.
const UNDER_WAY_BYTES_MAX: u64 = 1 << 20;

/// After so long without progress, what is under way counts as lost.
const PATIENCE: Duration = Duration::from_millis(100);

/// Between looks at a full window or an empty socket.
const NAP: Duration = Duration::from_micros(20);

/// What the emulator relays at most.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Saturation {
    /// Payload delivered, in one direction.
    pub rate: BitRate,
    /// Packets delivered in each second, of 1,452 bytes each.
    pub packets_per_second: u64,
    /// Packets sent and not delivered.
    pub lost_packet_count: u64,
}

/// Pushes packets through an unlimited emulator on loopback for `time`. Sender and receiver run on
/// the same machine, as those of a test do, so this is what a test can have and not what the
/// emulator could do alone.
///
/// # Errors
/// [`StartError`].
///
/// # Panics
/// If the thread that receives panics.
pub fn saturation_rate(time: Duration) -> Result<Saturation, StartError> {
    let open = || {
        BatchSocket::bind((Ipv4Addr::LOCALHOST, 0).into())
            .map_err(|source| StartError::Socket { source })
    };
    let (source, sink) = (open()?, open()?);
    let target = sink
        .local_addr()
        .map_err(|source| StartError::Socket { source })?;
    let emulator = LinkEmulator::start(target, EmulatedLink::unlimited(0))?;
    let (delivered, done) = (
        Arc::new(AtomicU64::new(0)),
        Arc::new(AtomicBool::new(false)),
    );
    let receiver = thread::Builder::new()
        .spawn({
            let (delivered, done) = (Arc::clone(&delivered), Arc::clone(&done));
            move || drain(&sink, &delivered, &done)
        })
        .map_err(|source| StartError::Thread { source })?;
    let started_at = Instant::now();
    let sent_bytes = push(&source, &emulator, &delivered, time);
    let (elapsed, arrived) = (started_at.elapsed(), delivered.load(Ordering::Relaxed));
    await_quiet(&delivered, sent_bytes);
    done.store(true, Ordering::Relaxed);
    receiver.join().expect("the receiver only counts");
    let missing = sent_bytes.saturating_sub(delivered.load(Ordering::Relaxed));
    Ok(saturation_of(arrived, missing, elapsed))
}

fn saturation_of(arrived_bytes: u64, missing_bytes: u64, elapsed: Duration) -> Saturation {
    let per_second = |amount: u64| {
        let scaled = u128::from(amount) * 1_000_000_000 / elapsed.as_nanos().max(1);
        u64::try_from(scaled).unwrap_or(u64::MAX)
    };
    Saturation {
        rate: BitRate::bits_per_second(per_second(8 * arrived_bytes)),
        packets_per_second: per_second(arrived_bytes / PACKET_BYTES as u64),
        lost_packet_count: missing_bytes / PACKET_BYTES as u64,
    }
}

/// Sends for `time` as fast as packets are delivered; says how many bytes.
fn push(
    source: &BatchSocket,
    emulator: &EmulatorHandle,
    delivered: &AtomicU64,
    time: Duration,
) -> u64 {
    let mut train = Train::default();
    for _ in 0..TRAIN_PACKETS {
        train.push(&[0; PACKET_BYTES], None);
    }
    let (mut sent, mut given_up) = (0_u64, 0);
    let (started_at, mut progress) = (Instant::now(), Progress::new());
    while started_at.elapsed() < time {
        let arrived = delivered.load(Ordering::Relaxed);
        if progress.stuck_at(arrived) {
            given_up = sent.saturating_sub(arrived);
        }
        // Less than nothing if what was given up came after all.
        if sent.saturating_sub(arrived + given_up) > UNDER_WAY_BYTES_MAX {
            thread::sleep(NAP);
        } else if source.send(&train, emulator.addr()).is_ok() {
            sent += train.bytes() as u64;
        }
    }
    sent
}

/// Counts what arrives.
fn drain(sink: &BatchSocket, delivered: &AtomicU64, done: &AtomicBool) {
    let mut buffers = ReceiveBuffers::new();
    while !done.load(Ordering::Relaxed) {
        let received = sink.receive(&mut buffers);
        let bytes: usize = received
            .datagrams()
            .map(|datagram| datagram.payload.len())
            .sum();
        if bytes == 0 {
            thread::sleep(NAP);
        }
        delivered.fetch_add(bytes as u64, Ordering::Relaxed);
    }
}

/// Waits until everything has arrived, or nothing has for a while.
fn await_quiet(delivered: &AtomicU64, sent_bytes: u64) {
    let mut progress = Progress::new();
    loop {
        let arrived = delivered.load(Ordering::Relaxed);
        if arrived >= sent_bytes || progress.stuck_at(arrived) {
            return;
        }
        thread::sleep(NAP);
    }
}

/// Notices when a count stands still.
struct Progress {
    count: u64,
    since: Instant,
}

impl Progress {
    fn new() -> Self {
        let since = Instant::now();
        Self { count: 0, since }
    }

    fn stuck_at(&mut self, count: u64) -> bool {
        if count != self.count {
            let since = Instant::now();
            *self = Self { count, since };
        }
        self.since.elapsed() > PATIENCE
    }
}
