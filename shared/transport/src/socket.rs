//! The UDP socket under an endpoint, and what the transport counts on a link.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use quinn::{Endpoint, EndpointConfig, ServerConfig, TokioRuntime};
use socket2::{Domain, Protocol, Socket, Type};

use crate::tls::TlsError;

/// Kernel buffers asked for, against bursts between two turns of the event loop; the kernel
/// grants what `net.core.rmem_max` and `wmem_max` allow.
pub const SOCKET_BUFFER_BYTES: usize = 8 << 20;

/// Why an endpoint could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    /// The address cannot be bound.
    #[error("cannot listen on {addr}")]
    Socket {
        /// The address.
        addr: SocketAddr,
        /// Why.
        source: io::Error,
    },
    /// The identity cannot be used for TLS.
    #[error("the node's identity cannot be used: {detail}")]
    Identity {
        /// What the TLS library says.
        detail: String,
    },
}

impl From<TlsError> for BindError {
    fn from(error: TlsError) -> Self {
        Self::Identity {
            detail: error.to_string(),
        }
    }
}

/// What the transport counted on a link so far.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LinkStats {
    /// UDP payload sent, handshake and acknowledgements included.
    pub sent_bytes: u64,
    /// UDP payload received.
    pub received_bytes: u64,
    /// Packets declared lost and sent again.
    pub lost_packet_count: u64,
    /// The congestion window.
    pub congestion_window_bytes: u64,
    /// The smoothed round-trip time.
    pub rtt: Duration,
}

impl LinkStats {
    pub(crate) fn of(connection: &quinn::Connection) -> Self {
        let stats = connection.stats();
        Self {
            sent_bytes: stats.udp_tx.bytes,
            received_bytes: stats.udp_rx.bytes,
            lost_packet_count: stats.path.lost_packets,
            congestion_window_bytes: stats.path.cwnd,
            rtt: stats.path.rtt,
        }
    }
}

/// Opens an endpoint on `addr`; it accepts links if there is a `server` configuration.
pub(crate) fn open(addr: SocketAddr, server: Option<ServerConfig>) -> Result<Endpoint, BindError> {
    bind(addr)
        .and_then(|socket| {
            Endpoint::new(
                EndpointConfig::default(),
                server,
                socket.into(),
                Arc::new(TokioRuntime),
            )
        })
        .map_err(|source| BindError::Socket { addr, source })
}

/// The address that an endpoint has.
pub(crate) fn local_addr(endpoint: &Endpoint) -> Result<SocketAddr, BindError> {
    let unknown = SocketAddr::from(([0, 0, 0, 0], 0));
    endpoint.local_addr().map_err(|source| BindError::Socket {
        addr: unknown,
        source,
    })
}

fn bind(addr: SocketAddr) -> io::Result<Socket> {
    let socket = Socket::new(Domain::for_address(addr), Type::DGRAM, Some(Protocol::UDP))?;
    if addr.is_ipv6()
        && let Err(error) = socket.set_only_v6(false)
    {
        tracing::debug!(%error, "the socket takes IPv6 only");
    }
    let grown = socket
        .set_recv_buffer_size(SOCKET_BUFFER_BYTES)
        .and_then(|()| socket.set_send_buffer_size(SOCKET_BUFFER_BYTES));
    if let Err(error) = grown {
        tracing::debug!(%error, "the socket's buffers keep their size");
    }
    socket.bind(&addr.into())?;
    Ok(socket)
}
