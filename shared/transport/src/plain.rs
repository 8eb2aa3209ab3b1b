//! A plain QUIC transfer with the same certificates: what a measurement compares links with. It
//! has no messages, no layers, no digests and the QUIC library's own congestion control.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use edgeprompt_protocol::ALPN;
use quinn::{ClientConfig, Connection, Endpoint, Incoming, ServerConfig, TransportConfig};
use tokio::task::JoinHandle;

use crate::certificates::CLOUD_NAME;
use crate::close::LinkLost;
use crate::cloud_identity::CloudIdentity;
use crate::config::LinkConfig;
use crate::edge_endpoint::ConnectError;
use crate::edge_identity::EdgeIdentity;
use crate::socket::{self, BindError};
use crate::tls;

/// Why a plain transfer failed.
#[derive(Debug, thiserror::Error)]
pub enum PlainError {
    /// The sender cannot be asked.
    #[error("the transfer cannot be asked for")]
    Ask(#[from] quinn::WriteError),
    /// The bytes stopped coming.
    #[error("the transfer ended early")]
    Read(#[from] quinn::ReadError),
    /// The link is gone.
    #[error(transparent)]
    Lost(#[from] LinkLost),
}

/// Sends the same bytes to whoever asks, as one stream. Dropping it ends it.
#[derive(Debug)]
pub struct PlainSender {
    endpoint: Endpoint,
    acceptor: JoinHandle<()>,
}

impl PlainSender {
    /// Listens on `addr`; port 0 takes a free one. Of `config` only the path's windows count.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(
        addr: SocketAddr,
        identity: &CloudIdentity,
        config: &LinkConfig,
        payload: Bytes,
    ) -> Result<Self, BindError> {
        let crypto = tls::server_crypto(identity.credentials(), ALPN)?;
        let mut server = ServerConfig::with_crypto(Arc::new(crypto));
        server.transport_config(Arc::new(transport(config)));
        let endpoint = socket::open(addr, Some(server))?;
        let acceptor = tokio::spawn(accept(endpoint.clone(), payload));
        Ok(Self { endpoint, acceptor })
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// [`BindError::Socket`] if the socket is gone.
    pub fn local_addr(&self) -> Result<SocketAddr, BindError> {
        socket::local_addr(&self.endpoint)
    }
}

impl Drop for PlainSender {
    fn drop(&mut self) {
        self.acceptor.abort();
    }
}

async fn accept(endpoint: Endpoint, payload: Bytes) {
    while let Some(incoming) = endpoint.accept().await {
        tokio::spawn(serve(incoming, payload.clone()));
    }
}

/// Serves one link until it goes away.
async fn serve(incoming: Incoming, payload: Bytes) {
    let Ok(connection) = incoming.await else {
        return;
    };
    while let Ok((mut send, _)) = connection.accept_bi().await {
        if send.write_chunk(payload.clone()).await.is_err() || send.finish().is_err() {
            return;
        }
    }
}

/// Asks a [`PlainSender`] for its bytes.
#[derive(Debug)]
pub struct PlainReceiver {
    connection: Connection,
    _endpoint: Endpoint,
}

impl PlainReceiver {
    /// Links to the sender at `addr`.
    ///
    /// # Errors
    /// [`ConnectError`]; [`ConnectError::Lost`] if the receiver's socket cannot be opened.
    pub async fn connect(
        addr: SocketAddr,
        identity: &EdgeIdentity,
        config: &LinkConfig,
    ) -> Result<Self, ConnectError> {
        let unusable = |detail: String| ConnectError::Address { addr, detail };
        let crypto = tls::client_crypto(identity.credentials(), ALPN)
            .map_err(|error| unusable(error.to_string()))?;
        let mut client = ClientConfig::new(Arc::new(crypto));
        client.transport_config(Arc::new(transport(config)));
        let endpoint = socket::open(SocketAddr::from(([127, 0, 0, 1], 0)), None)
            .map_err(|error| unusable(error.to_string()))?;
        let connecting = endpoint
            .connect_with(client, addr, CLOUD_NAME)
            .map_err(|error| unusable(error.to_string()))?;
        let connection = connecting.await.map_err(LinkLost::from)?;
        Ok(Self {
            connection,
            _endpoint: endpoint,
        })
    }

    /// Asks, and reads to the end or as much as `buffer` takes. Tells `progress` of the bytes as
    /// they come.
    ///
    /// # Errors
    /// [`PlainError`].
    pub async fn receive(
        &self,
        buffer: &mut [u8],
        mut progress: impl FnMut(usize),
    ) -> Result<(), PlainError> {
        let (mut send, mut receive) = self.connection.open_bi().await.map_err(LinkLost::from)?;
        send.write_all(&[0]).await?;
        // Fails if the sender has stopped the stream, and then reading says so.
        let _ = send.finish();
        let mut filled = 0;
        while filled < buffer.len()
            && let Some(byte_count) = receive.read(&mut buffer[filled..]).await?
        {
            filled += byte_count;
            progress(byte_count);
        }
        Ok(())
    }
}

fn transport(config: &LinkConfig) -> TransportConfig {
    let window = config.profile.window_bytes();
    let mut transport = TransportConfig::default();
    transport
        .stream_receive_window(window.into())
        .receive_window(window.into())
        .send_window(window.into());
    transport
}
