//! The thread that moves the packets: it waits for sockets and deadlines, and asks the
//! [`Lane`]s what is due. It owns everything; others send it [`Command`]s.

use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr, UdpSocket};
use std::sync::mpsc::{Receiver, SyncSender};
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::faults::Condition;
use super::lane::{ClientIndex, Lane, Packet};
use super::profile::{Direction, EmulatedLink, Probability};
use super::rate::RateSchedule;
use super::socket::{BatchSocket, Datagram, ReceiveBuffers, Train};
use super::stats::EmulatorStats;

/// Most addresses that an emulator serves at a time: each has a socket of its own towards the
/// target, so that the target tells them apart.
pub const CLIENTS_MAX: usize = 64;

/// Shortest time between two rounds of deliveries that nothing else occasions. Packets that are
/// due within it go out together: at 1 Gbit/s four instead of one with each system call.
const DELIVERY_INTERVAL: Duration = Duration::from_micros(50);

/// What the handle asks of the relay.
#[derive(Debug)]
pub(super) enum Command {
    Stall,
    Resume,
    Cut,
    Corrupt(Probability),
    SetRate(Direction, RateSchedule),
    Stats(SyncSender<EmulatorStats>),
    Stop,
}

/// What the thread ends with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    Continue,
    Stop,
}

/// An address that sent something, and the socket that stands for it before the target.
#[derive(Debug)]
struct Client {
    addr: SocketAddr,
    upstream: BatchSocket,
}

/// A relay between clients and a target.
#[derive(Debug)]
pub(super) struct Relay {
    listener: BatchSocket,
    /// Wakes the thread when there is a command.
    waker: UdpSocket,
    commands: Receiver<Command>,
    target: SocketAddr,
    clients: Vec<Client>,
    refused_packet_count: u64,
    down: Lane,
    up: Lane,
    condition: Condition,
    started_at: Instant,
    train: Train,
}

impl Relay {
    pub(super) fn new(
        listener: BatchSocket,
        waker: UdpSocket,
        commands: Receiver<Command>,
        target: SocketAddr,
        link: EmulatedLink,
    ) -> Self {
        let seeds = (link.seed_of(Direction::Down), link.seed_of(Direction::Up));
        Self {
            listener,
            waker,
            commands,
            target,
            clients: Vec::new(),
            refused_packet_count: 0,
            down: Lane::new(link.down, seeds.0),
            up: Lane::new(link.up, seeds.1),
            condition: Condition::RUNNING,
            started_at: Instant::now(),
            train: Train::default(),
        }
    }

    /// Runs until told to stop.
    pub(super) fn run(mut self) {
        make_timers_precise();
        let mut buffers = ReceiveBuffers::new();
        let mut delivered_at = Duration::ZERO;
        loop {
            let ready = self.wait(delivered_at + DELIVERY_INTERVAL);
            if ready.wake {
                self.forget_wakes();
            }
            if self.obey_all() == Next::Stop {
                return;
            }
            for source in ready.sources {
                if self.take_in(source, &mut buffers) == Next::Stop {
                    return;
                }
            }
            if self.deliver_due() > 0 {
                delivered_at = self.started_at.elapsed();
            }
        }
    }

    /// Sleeps until a socket has something or a packet is due, the latter not before `earliest`.
    fn wait(&self, earliest: Duration) -> Ready {
        let elapsed = self.started_at.elapsed();
        let due = [self.down.next_due(), self.up.next_due()];
        let due = due.into_iter().flatten().min();
        let timeout = due
            .and_then(|due| self.condition.wait_for(due, elapsed))
            .map(|wait| wait.max(earliest.saturating_sub(elapsed)))
            .and_then(|wait| Timespec::try_from(wait).ok());
        let upstream = self
            .clients
            .iter()
            .map(|client| client.upstream.as_socket());
        let sockets = [&self.waker, self.listener.as_socket()]
            .into_iter()
            .chain(upstream);
        let mut fds: Vec<_> = sockets
            .map(|socket| PollFd::new(socket, PollFlags::IN))
            .collect();
        // Interrupted by a signal, nothing is ready; the next round waits again.
        let _ = poll(&mut fds, timeout.as_ref());
        let is_ready = |index: usize| !fds[index].revents().is_empty();
        let upstream = (0..self.clients.len()).map(ClientIndex);
        let upstream = upstream
            .filter(|client| is_ready(2 + client.0))
            .map(Source::Upstream);
        let listener = is_ready(1).then_some(Source::Listener);
        Ready {
            wake: is_ready(0),
            sources: listener.into_iter().chain(upstream).collect(),
        }
    }

    /// Takes in one batch of datagrams.
    fn take_in(&mut self, source: Source, buffers: &mut ReceiveBuffers) -> Next {
        let socket = match source {
            Source::Listener => &self.listener,
            Source::Upstream(client) => &self.clients[client.0].upstream,
        };
        let received = socket.receive(buffers);
        // A command given before a packet was sent must count for that packet.
        let next = self.obey_all();
        let now = self.condition.link_time(self.started_at.elapsed());
        for datagram in received.datagrams() {
            match source {
                Source::Listener => self.take_up(now, datagram),
                Source::Upstream(client) => self.take_down(now, client, datagram),
            }
        }
        next
    }

    fn take_up(&mut self, now: Duration, datagram: Datagram<'_>) {
        let Some(client) = self.client_of(datagram.from) else {
            self.refused_packet_count += 1;
            return;
        };
        let packet = packet_of(client, datagram);
        offer(&mut self.up, self.condition, now, packet);
    }

    fn take_down(&mut self, now: Duration, client: ClientIndex, datagram: Datagram<'_>) {
        // The socket is open to everyone on the machine, the link only to the target.
        if datagram.from == self.target {
            let packet = packet_of(client, datagram);
            offer(&mut self.down, self.condition, now, packet);
        }
    }

    /// The client at an address, a new one if there is room.
    fn client_of(&mut self, addr: SocketAddr) -> Option<ClientIndex> {
        if let Some(index) = self.clients.iter().position(|client| client.addr == addr) {
            return Some(ClientIndex(index));
        }
        if self.clients.len() >= CLIENTS_MAX {
            return None;
        }
        let upstream = BatchSocket::bind(any_addr_like(self.target)).ok()?;
        self.clients.push(Client { addr, upstream });
        Some(ClientIndex(self.clients.len() - 1))
    }

    /// Sends every packet that has arrived; says how many.
    fn deliver_due(&mut self) -> usize {
        // What was due at the moment of a stall waits as well.
        if self.condition.is_stalled() {
            return 0;
        }
        let now = self.condition.link_time(self.started_at.elapsed());
        let sender = Sender {
            listener: &self.listener,
            clients: &self.clients,
            target: self.target,
        };
        let down = sender.deliver(Direction::Down, now, &mut self.down, &mut self.train);
        let up = sender.deliver(Direction::Up, now, &mut self.up, &mut self.train);
        down + up
    }

    fn forget_wakes(&self) {
        let mut wake = [0];
        while self.waker.recv(&mut wake).is_ok() {}
    }

    fn obey_all(&mut self) -> Next {
        while let Ok(command) = self.commands.try_recv() {
            if self.obey(command) == Next::Stop {
                return Next::Stop;
            }
        }
        Next::Continue
    }

    fn obey(&mut self, command: Command) -> Next {
        let elapsed = self.started_at.elapsed();
        match command {
            Command::Stall => self.condition.stall(elapsed),
            Command::Resume => self.condition.resume(elapsed),
            Command::Cut => {
                self.condition.cut(elapsed);
                self.down.cut();
                self.up.cut();
            }
            Command::Corrupt(probability) => {
                self.down.corrupt(probability);
                self.up.corrupt(probability);
            }
            Command::SetRate(direction, rate) => {
                let now = self.condition.link_time(elapsed);
                match direction {
                    Direction::Down => self.down.set_rate(now, &rate),
                    Direction::Up => self.up.set_rate(now, &rate),
                }
            }
            // Who asked may have given up.
            Command::Stats(reply) => drop(reply.try_send(self.stats())),
            Command::Stop => return Next::Stop,
        }
        Next::Continue
    }

    fn stats(&self) -> EmulatorStats {
        EmulatorStats {
            down: self.down.stats(),
            up: self.up.stats(),
            client_count: self.clients.len(),
            refused_packet_count: self.refused_packet_count,
        }
    }
}

/// A socket that packets come from.
#[derive(Clone, Copy, Debug)]
enum Source {
    Listener,
    Upstream(ClientIndex),
}

/// What a wait ended with.
struct Ready {
    wake: bool,
    sources: Vec<Source>,
}

fn packet_of(client: ClientIndex, datagram: Datagram<'_>) -> Packet {
    Packet {
        client,
        ecn: datagram.ecn,
        payload: datagram.payload.to_vec(),
    }
}

fn offer(lane: &mut Lane, condition: Condition, now: Duration, packet: Packet) {
    if condition.is_cut() {
        lane.refuse(&packet);
    } else {
        lane.accept(now, packet);
    }
}

/// The way out of the relay.
struct Sender<'a> {
    listener: &'a BatchSocket,
    clients: &'a [Client],
    target: SocketAddr,
}

impl Sender<'_> {
    /// Sends what is due in trains, one for each run of packets to the same place.
    fn deliver(&self, way: Direction, now: Duration, lane: &mut Lane, train: &mut Train) -> usize {
        let mut packet_count = 0;
        let mut towards = ClientIndex(0);
        while let Some(Packet {
            client,
            ecn,
            payload,
        }) = lane.pop_due(now)
        {
            if towards != client || !train.has_room_for(&payload, ecn) {
                self.send(way, towards, lane, train);
            }
            towards = client;
            train.push(&payload, ecn);
            packet_count += 1;
        }
        self.send(way, towards, lane, train);
        packet_count
    }

    fn send(&self, way: Direction, towards: ClientIndex, lane: &mut Lane, train: &mut Train) {
        if train.packet_count() == 0 {
            return;
        }
        let client = &self.clients[towards.0];
        let sent = match way {
            Direction::Down => self.listener.send(train, client.addr),
            Direction::Up => client.upstream.send(train, self.target),
        };
        let packet_count = train.packet_count() as u64;
        match sent {
            Ok(()) => lane.count_delivered(packet_count, train.bytes() as u64),
            Err(_) => lane.count_unsent(packet_count),
        }
        train.clear();
    }
}

/// Where to bind a socket that is to reach `target`.
fn any_addr_like(target: SocketAddr) -> SocketAddr {
    match target {
        SocketAddr::V4(_) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        SocketAddr::V6(_) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// Opens the socket that wakes the relay, and the one to wake it with.
pub(super) fn wake_pair() -> io::Result<(UdpSocket, UdpSocket)> {
    let woken = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    let waker = UdpSocket::bind((Ipv4Addr::LOCALHOST, 0))?;
    woken.connect(waker.local_addr()?)?;
    waker.connect(woken.local_addr()?)?;
    woken.set_nonblocking(true)?;
    Ok((woken, waker))
}

/// Linux lets a thread's timers run 50 µs late to save power; this thread's must not. With that,
/// a sleep ends within some microseconds on a free core, and no core is burnt in spinning.
#[cfg(target_os = "linux")]
fn make_timers_precise() {
    // Late timers are a loss of precision that the statistics show.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
}

/// Elsewhere timers are as precise as the system makes them.
#[cfg(not(target_os = "linux"))]
fn make_timers_precise() {}
