//! UDP sockets that move many datagrams in one system call: `recvmmsg`, and segmentation and
//! receive offload, where the system has them.

use std::fmt;
use std::io::{self, IoSliceMut};
use std::net::{SocketAddr, UdpSocket};

use quinn_udp::{BATCH_SIZE, EcnCodepoint, RecvMeta, Transmit, UdpSocketState};

/// Kernel buffers asked for, against bursts while the relay does not run; the kernel grants what
/// `net.core.rmem_max` and `wmem_max` allow.
const KERNEL_BUFFER_BYTES: usize = 8 << 20;

/// Room for one receive: the largest datagram, and the largest train of them that comes at once.
const RECEIVE_BYTES_MAX: usize = 1 << 16;

/// Most bytes in one send: the largest UDP payload over IPv4, which a train must not exceed either.
const SEND_BYTES_MAX: usize = 65_507;

/// Longest datagram that is sent in a train: segments must fit the interface's MTU, and one of
/// 1,500 is the least to be expected.
const SEGMENT_BYTES_MAX: usize = 1_472;

/// A non-blocking UDP socket.
#[derive(Debug)]
pub(super) struct BatchSocket {
    socket: UdpSocket,
    state: UdpSocketState,
}

impl BatchSocket {
    pub(super) fn bind(addr: SocketAddr) -> io::Result<Self> {
        let socket = UdpSocket::bind(addr)?;
        let state = UdpSocketState::new((&socket).into())?;
        // Smaller buffers work as well, only not at the highest rates.
        let _ = state.set_recv_buffer_size((&socket).into(), KERNEL_BUFFER_BYTES);
        let _ = state.set_send_buffer_size((&socket).into(), KERNEL_BUFFER_BYTES);
        Ok(Self { socket, state })
    }

    pub(super) fn local_addr(&self) -> io::Result<SocketAddr> {
        self.socket.local_addr()
    }

    /// The socket itself, to wait on.
    pub(super) fn as_socket(&self) -> &UdpSocket {
        &self.socket
    }

    /// Receives what is there, up to a batch.
    pub(super) fn receive<'a>(&self, buffers: &'a mut ReceiveBuffers) -> Received<'a> {
        let mut slices = buffers.bytes.each_mut().map(|bytes| IoSliceMut::new(bytes));
        // An error is nothing received: the next wait tells whether there is more to it.
        let count = self
            .state
            .recv((&self.socket).into(), &mut slices, &mut buffers.meta)
            .unwrap_or(0);
        Received {
            meta: &buffers.meta[..count],
            bytes: &buffers.bytes,
        }
    }

    /// Sends a train; fails as a whole.
    pub(super) fn send(&self, train: &Train, destination: SocketAddr) -> io::Result<()> {
        let whole = Transmit {
            destination,
            ecn: train.ecn,
            contents: &train.contents,
            segment_size: Some(train.segment_bytes),
            src_ip: None,
        };
        if train.packet_count <= self.state.max_gso_segments() {
            return self.state.try_send((&self.socket).into(), &whole);
        }
        // Without offload: one by one.
        train
            .contents
            .chunks(train.segment_bytes)
            .try_for_each(|contents| {
                let segment_size = None;
                let single = Transmit {
                    contents,
                    segment_size,
                    ..whole
                };
                self.state.try_send((&self.socket).into(), &single)
            })
    }
}

/// Memory that datagrams are received into.
pub(super) struct ReceiveBuffers {
    bytes: [Box<[u8]>; BATCH_SIZE],
    meta: [RecvMeta; BATCH_SIZE],
}

impl ReceiveBuffers {
    pub(super) fn new() -> Self {
        Self {
            bytes: std::array::from_fn(|_| vec![0; RECEIVE_BYTES_MAX].into()),
            meta: [RecvMeta::default(); BATCH_SIZE],
        }
    }
}

impl fmt::Debug for ReceiveBuffers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ReceiveBuffers").finish_non_exhaustive()
    }
}

/// What one call received.
pub(super) struct Received<'a> {
    meta: &'a [RecvMeta],
    bytes: &'a [Box<[u8]>],
}

/// One datagram received.
#[derive(Clone, Copy, Debug)]
pub(super) struct Datagram<'a> {
    pub(super) from: SocketAddr,
    pub(super) ecn: Option<EcnCodepoint>,
    pub(super) payload: &'a [u8],
}

impl<'a> Received<'a> {
    pub(super) fn datagrams(self) -> impl Iterator<Item = Datagram<'a>> {
        self.meta.iter().zip(self.bytes).flat_map(|(meta, bytes)| {
            // An empty datagram is one datagram, which `chunks` would not find.
            let empty = (meta.len == 0).then_some(&bytes[..0]);
            let payloads = bytes[..meta.len].chunks(meta.stride.max(1));
            payloads.chain(empty).map(|payload| Datagram {
                from: meta.addr,
                ecn: meta.ecn,
                payload,
            })
        })
    }
}

/// Datagrams of equal length, the last perhaps shorter, that go out together.
#[derive(Debug, Default)]
pub(super) struct Train {
    contents: Vec<u8>,
    segment_bytes: usize,
    packet_count: usize,
    ecn: Option<EcnCodepoint>,
}

/// Most datagrams in a train: what the kernel takes at once (`UDP_MAX_SEGMENTS` is 64 at least).
const TRAIN_PACKETS_MAX: usize = 64;

impl Train {
    pub(super) fn has_room_for(&self, payload: &[u8], ecn: Option<EcnCodepoint>) -> bool {
        let is_whole = self.contents.len() == self.packet_count * self.segment_bytes;
        self.packet_count == 0
            || is_whole
                && self.ecn == ecn
                && self.packet_count < TRAIN_PACKETS_MAX
                && self.segment_bytes <= SEGMENT_BYTES_MAX
                && (1..=self.segment_bytes).contains(&payload.len())
                && self.contents.len() + payload.len() <= SEND_BYTES_MAX
    }

    /// Appends a datagram that there is room for.
    pub(super) fn push(&mut self, payload: &[u8], ecn: Option<EcnCodepoint>) {
        if self.packet_count == 0 {
            self.segment_bytes = payload.len();
            self.ecn = ecn;
        }
        self.contents.extend_from_slice(payload);
        self.packet_count += 1;
    }

    pub(super) fn packet_count(&self) -> usize {
        self.packet_count
    }

    pub(super) fn bytes(&self) -> usize {
        self.contents.len()
    }

    pub(super) fn clear(&mut self) {
        self.contents.clear();
        self.packet_count = 0;
    }
}
