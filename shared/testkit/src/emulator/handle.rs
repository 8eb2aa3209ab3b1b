//! Starting an emulator, and what can be done to it while it runs.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};
use std::sync::mpsc::{SyncSender, sync_channel};
use std::thread::{self, JoinHandle};

use super::profile::{Direction, EmulatedLink, Probability};
use super::rate::RateSchedule;
use super::relay::{Command, Relay, wake_pair};
use super::socket::BatchSocket;
use super::stats::EmulatorStats;

/// Most commands on their way to the relay, which obeys them at once: a handful of threads' worth.
const COMMANDS_MAX: usize = 16;

/// Why an emulator does not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// A socket on loopback cannot be opened.
    #[error("cannot open a UDP socket on loopback")]
    Socket {
        /// Why.
        source: io::Error,
    },
    /// The relay's thread cannot be started.
    #[error("cannot start the relay's thread")]
    Thread {
        /// Why.
        source: io::Error,
    },
}

/// Starts emulators.
#[derive(Clone, Copy, Debug)]
pub struct LinkEmulator;

impl LinkEmulator {
    /// Relays between whoever sends to the handle's address, on loopback, and `target`.
    ///
    /// All clients share the one link, as behind one access point. It lasts until the handle is
    /// dropped.
    ///
    /// # Errors
    /// [`StartError`].
    pub fn start(target: SocketAddr, link: EmulatedLink) -> Result<EmulatorHandle, StartError> {
        let socket = |source| StartError::Socket { source };
        let listener = BatchSocket::bind((Ipv4Addr::LOCALHOST, 0).into()).map_err(socket)?;
        let addr = listener.local_addr().map_err(socket)?;
        let (woken, waker) = wake_pair().map_err(socket)?;
        let (commands, received) = sync_channel(COMMANDS_MAX);
        let relay = Relay::new(listener, woken, received, target, link);
        let thread = thread::Builder::new()
            .name("link-emulator".into())
            .spawn(|| relay.run())
            .map_err(|source| StartError::Thread { source })?;
        Ok(EmulatorHandle {
            addr,
            commands,
            waker,
            thread: Some(thread),
        })
    }
}

/// A running emulator; dropping it stops it.
///
/// What is asked here holds for every packet sent to the emulator afterwards. Calls wait for the
/// relay's thread for some microseconds at most.
#[derive(Debug)]
pub struct EmulatorHandle {
    addr: SocketAddr,
    commands: SyncSender<Command>,
    waker: UdpSocket,
    /// Taken only when dropped.
    thread: Option<JoinHandle<()>>,
}

impl EmulatorHandle {
    /// Where to send instead of to the target.
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// What was counted so far.
    pub fn stats(&self) -> EmulatorStats {
        let (reply, answer) = sync_channel(1);
        self.ask(Command::Stats(reply));
        answer
            .recv()
            .expect("the relay runs until its handle is dropped")
    }

    /// Stops the link's time: nothing arrives, senders fill the queue and then lose packets.
    /// Replaces a cut.
    pub fn stall(&self) {
        self.ask(Command::Stall);
    }

    /// Drops what is on its way and everything sent from now on. Replaces a stall.
    pub fn cut(&self) {
        self.ask(Command::Cut);
    }

    /// Ends a stall, after which the link goes on where it stood, or a cut.
    pub fn resume(&self) {
        self.ask(Command::Resume);
    }

    /// From now on changes some bytes of so many of the packets, in both directions.
    pub fn corrupt(&self, probability: Probability) {
        self.ask(Command::Corrupt(probability));
    }

    /// Changes the rate of a direction. Packets already accepted keep their times.
    pub fn set_rate(&self, direction: Direction, rate: RateSchedule) {
        self.ask(Command::SetRate(direction, rate));
    }

    fn ask(&self, command: Command) {
        let sent = self.commands.send(command);
        sent.expect("the relay runs until its handle is dropped");
        // Fails if the relay has more wake-ups than it can hold: then it is awake.
        let _ = self.waker.send(&[0]);
    }
}

impl Drop for EmulatorHandle {
    fn drop(&mut self) {
        // Fails if the relay has panicked, which its test has then seen.
        let _ = self.commands.send(Command::Stop);
        let _ = self.waker.send(&[0]);
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
