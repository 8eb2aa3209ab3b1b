//! What the handle does to a running link, seen from its sockets.

use std::net::{SocketAddr, UdpSocket};
use std::thread;
use std::time::{Duration, Instant};

use crate::emulator::{
    BitRate, CLIENTS_MAX, Direction, DirectionProfile, EmulatedLink, EmulatorHandle, EmulatorStats,
    LinkEmulator, Probability, RateSchedule,
};

const MS: Duration = Duration::from_millis(1);

/// Patience with what should happen at once; spent only by a test that fails.
const TIMEOUT: Duration = Duration::from_secs(10);

/// A socket on loopback that does not wait for ever.
pub(super) fn socket() -> UdpSocket {
    let socket = UdpSocket::bind("127.0.0.1:0").unwrap();
    socket.set_read_timeout(Some(TIMEOUT)).unwrap();
    socket
}

/// A client, a target, and a link between them.
struct Pair {
    client: UdpSocket,
    target: UdpSocket,
    emulator: EmulatorHandle,
}

impl Pair {
    fn over(link: EmulatedLink) -> Self {
        let target = socket();
        let emulator = LinkEmulator::start(target.local_addr().unwrap(), link).unwrap();
        Self {
            client: socket(),
            target,
            emulator,
        }
    }

    fn over_clean_link(delay: Duration) -> Self {
        let rate = BitRate::megabits_per_second(100);
        Self::over(EmulatedLink::symmetric(
            DirectionProfile::constant(rate, delay),
            0,
        ))
    }

    fn send(&self, payload: &[u8]) {
        self.client.send_to(payload, self.emulator.addr()).unwrap();
    }

    /// Waits until the emulator has counted as a test expects.
    fn wait_until(&self, expected: impl Fn(&EmulatorStats) -> bool) -> EmulatorStats {
        let started_at = Instant::now();
        loop {
            let stats = self.emulator.stats();
            if expected(&stats) {
                return stats;
            }
            assert!(started_at.elapsed() < TIMEOUT, "{stats:?}");
            thread::yield_now();
        }
    }
}

/// The next datagram of a socket, and who sent it.
fn next_of(socket: &UdpSocket) -> (Vec<u8>, SocketAddr) {
    let mut buffer = [0; 2_000];
    let (bytes, from) = socket.recv_from(&mut buffer).unwrap();
    (buffer[..bytes].to_vec(), from)
}

#[test]
fn datagrams_go_there_and_back_unchanged() {
    let pair = Pair::over_clean_link(MS);
    let payloads: [&[u8]; 4] = [b"a", b"", &[7; 1_472], b"last"];
    for payload in payloads {
        pair.send(payload);
    }
    for payload in payloads {
        let (received, upstream) = next_of(&pair.target);
        assert_eq!(received, payload);
        pair.target.send_to(payload, upstream).unwrap();
    }
    for payload in payloads {
        assert_eq!(
            next_of(&pair.client),
            (payload.to_vec(), pair.emulator.addr())
        );
    }
    let stats = pair.emulator.stats();
    assert_eq!(
        (stats.up.delivered_packet_count, stats.up.delivered_bytes),
        (4, 1_477)
    );
    assert_eq!(
        (stats.down.delivered_packet_count, stats.down.received_bytes),
        (4, 1_477)
    );
    assert_eq!((stats.client_count, stats.refused_packet_count), (1, 0));
}

#[test]
fn each_client_gets_its_own_answers() {
    let pair = Pair::over_clean_link(MS);
    let others = [socket(), socket()];
    let clients = [&pair.client, &others[0], &others[1]];
    let mut upstreams = Vec::new();
    for (client, name) in clients.into_iter().zip(*b"abc") {
        client.send_to(&[name], pair.emulator.addr()).unwrap();
        let (received, upstream) = next_of(&pair.target);
        assert_eq!(received, [name]);
        upstreams.push(upstream);
    }
    // Stalled, so that the answers are all due at once.
    pair.emulator.stall();
    for (upstream, name) in upstreams.into_iter().zip(*b"abc") {
        pair.target.send_to(&[name, b'!'], upstream).unwrap();
    }
    pair.wait_until(|stats| stats.down.held_packet_count == 3);
    pair.emulator.resume();
    for (client, name) in clients.into_iter().zip(*b"abc") {
        assert_eq!(next_of(client).0, [name, b'!']);
    }
    assert_eq!(pair.emulator.stats().client_count, 3);
}

#[test]
fn only_the_target_answers_a_client() {
    let pair = Pair::over_clean_link(MS);
    pair.send(b"hello");
    let (_, upstream) = next_of(&pair.target);
    let upstream = SocketAddr::from(([127, 0, 0, 1], upstream.port()));
    socket().send_to(b"forged", upstream).unwrap();
    pair.target.send_to(b"true", upstream).unwrap();
    assert_eq!(next_of(&pair.client).0, b"true");
}

#[test]
fn clients_are_bounded() {
    let pair = Pair::over_clean_link(MS);
    let clients: Vec<_> = (0..=CLIENTS_MAX).map(|_| socket()).collect();
    for client in &clients {
        client.send_to(b"hello", pair.emulator.addr()).unwrap();
    }
    let stats = pair.wait_until(|stats| stats.refused_packet_count == 1);
    assert_eq!(stats.client_count, CLIENTS_MAX);
    // Those that were served before still are.
    let served = stats.up.received_packet_count;
    clients[0].send_to(b"again", pair.emulator.addr()).unwrap();
    pair.wait_until(|stats| stats.up.received_packet_count == served + 1);
}

#[test]
fn a_stalled_link_holds_packets_and_a_resumed_one_delivers_them() {
    let pair = Pair::over_clean_link(20 * MS);
    pair.send(b"before");
    pair.wait_until(|stats| stats.up.received_packet_count == 1);
    pair.emulator.stall();
    let at_stall = pair.emulator.stats().up;
    pair.send(b"during");
    pair.wait_until(|stats| stats.up.received_packet_count == 2);
    // Longer than the delay: on a link that ran, both would have arrived.
    thread::sleep(40 * MS);
    let stats = pair.emulator.stats().up;
    assert_eq!(
        stats.delivered_packet_count,
        at_stall.delivered_packet_count
    );
    assert_eq!(stats.held_packet_count, at_stall.held_packet_count + 1);
    pair.emulator.resume();
    assert_eq!(next_of(&pair.target).0, b"before");
    assert_eq!(next_of(&pair.target).0, b"during");
}

#[test]
fn a_cut_link_drops_everything_until_it_is_resumed() {
    let pair = Pair::over_clean_link(MS);
    // Stalled, so that the packet is still on its way however slow the test is.
    pair.emulator.stall();
    pair.send(b"on its way");
    pair.wait_until(|stats| stats.up.held_packet_count == 1);
    pair.emulator.cut();
    pair.send(b"too late");
    let stats = pair.wait_until(|stats| stats.up.cut_packet_count == 2);
    assert_eq!(stats.up.held_packet_count, 0);
    pair.emulator.resume();
    pair.send(b"after");
    assert_eq!(next_of(&pair.target).0, b"after");
}

#[test]
fn a_corrupting_link_changes_every_packet_it_is_asked_to() {
    let pair = Pair::over_clean_link(MS);
    pair.emulator.corrupt(Probability::ALWAYS);
    pair.send(&[3; 100]);
    let (received, _) = next_of(&pair.target);
    assert!(received.len() == 100 && received != [3; 100]);
    pair.emulator.corrupt(Probability::NEVER);
    pair.send(&[3; 100]);
    assert_eq!(next_of(&pair.target).0, [3; 100]);
    assert_eq!(pair.emulator.stats().up.corrupted_packet_count, 1);
}

#[test]
fn a_new_rate_holds_for_one_direction() {
    let pair = Pair::over_clean_link(Duration::ZERO);
    let rate = |kilobits: u64| RateSchedule::constant(BitRate::bits_per_second(kilobits * 1_000));
    // 1,000 bytes at 80 kbit/s: 100 ms.
    pair.emulator.set_rate(Direction::Up, rate(80));
    let sent_at = Instant::now();
    pair.send(&[0; 1_000]);
    let (received, upstream) = next_of(&pair.target);
    assert!(sent_at.elapsed() >= 100 * MS);
    pair.emulator.set_rate(Direction::Up, rate(100_000));
    // At 80 kbit/s these would take longer than the test waits.
    for _ in 0..120 {
        pair.target.send_to(&received, upstream).unwrap();
        next_of(&pair.client);
        pair.send(&received);
        next_of(&pair.target);
    }
    assert!(sent_at.elapsed() < TIMEOUT);
}

#[test]
fn lost_packets_are_counted_and_repeatable() {
    let seed = 42;
    println!("seed {seed}");
    let loss = Probability::per_million(200_000);
    let clean = DirectionProfile::constant(BitRate::megabits_per_second(100), MS);
    let survivors = || {
        let link = EmulatedLink::symmetric(clean.clone().with_loss(loss), seed);
        let pair = Pair::over(link);
        for number in 0..100 {
            pair.send(&[number]);
        }
        let settled = |stats: &EmulatorStats| {
            stats.up.delivered_packet_count + stats.up.lost_packet_count == 100
        };
        let stats = pair.wait_until(settled).up;
        assert!((5..=40).contains(&stats.lost_packet_count), "{stats:?}");
        let received = (0..stats.delivered_packet_count).map(|_| next_of(&pair.target).0[0]);
        received.collect::<Vec<_>>()
    };
    assert_eq!(survivors(), survivors());
}

#[test]
fn a_dropped_emulator_is_gone() {
    let pair = Pair::over_clean_link(MS);
    let addr = pair.emulator.addr();
    drop(pair.emulator);
    // Its port is free again.
    UdpSocket::bind(addr).unwrap();
}
