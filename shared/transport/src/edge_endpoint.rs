//! An edge's endpoint: makes links to clouds and says clearly why it could not.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use edgeprompt_protocol::{ALPN, PEER_ALPN, WELCOME, WORKER_ALPN};
use quinn::crypto::rustls::QuicClientConfig;
use quinn::{ClientConfig, Connection, ConnectionError, Endpoint, ReadExactError, TransportConfig};
use rustls::pki_types::CertificateDer;
use tokio::time::timeout;

use crate::certificates::{CLOUD_NAME, EDGE_DOMAIN, edge_name_of};
use crate::close::{CloseReason, HandshakeFailure, LinkLost};
use crate::cloud_link::CloudLink;
use crate::config::LinkConfig;
use crate::congestion::PathHint;
use crate::edge_identity::EdgeIdentity;
use crate::peer_link::PeerLink;
use crate::sent_messages::SentMessages;
use crate::socket::{self, BindError};
use crate::tls;

/// Whom an endpoint dials.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Callee {
    /// The cloud.
    Cloud,
    /// An edge that shares public keys and values.
    Neighbour,
    /// An edge that takes sessions.
    Edge,
    /// An edge that takes others' devices.
    Leader,
}

impl Callee {
    /// What the certificate of whoever answers is asked for.
    const fn certificate_name(self) -> &'static str {
        match self {
            Self::Cloud => CLOUD_NAME,
            Self::Neighbour | Self::Edge | Self::Leader => EDGE_DOMAIN,
        }
    }

    /// What listens there.
    const fn listener(self) -> &'static str {
        match self {
            Self::Cloud => "`cloud-node serve`",
            Self::Neighbour => "`edge-node serve --peer-listen`",
            Self::Edge => "`edge-node serve --handover-listen`",
            Self::Leader => "`edge-node serve --worker-listen`",
        }
    }
}

impl fmt::Display for Callee {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Cloud => "cloud",
            Self::Neighbour | Self::Edge | Self::Leader => "edge",
        })
    }
}

/// Why there is no link to a cloud or another edge, by what to do about it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ConnectError {
    /// Nothing answers there.
    #[error("no {callee} answers at {addr}: check the address, and that {} runs there", callee.listener())]
    Unreachable {
        /// The address dialled.
        addr: SocketAddr,
        /// Who should answer there.
        callee: Callee,
    },
    /// The address cannot be dialled from this endpoint.
    #[error("{addr} cannot be dialled from here: {detail}")]
    Address {
        /// The address dialled.
        addr: SocketAddr,
        /// What the transport says.
        detail: String,
    },
    /// The node there does not hold the certificate that this edge trusts.
    #[error(
        "the node at {addr} is not one that this edge trusts ({detail}): check the address, or run `edge-node join TOKEN` with a token of its trust domain"
    )]
    CloudNotTrusted {
        /// The address dialled.
        addr: SocketAddr,
        /// What is wrong with its certificate.
        detail: String,
    },
    /// The cloud does not accept this edge's certificate.
    #[error(
        "this edge is not part of the cloud's trust domain ({detail}): run `edge-node join TOKEN` with a token from `cloud-node invite`"
    )]
    EdgeNotTrusted {
        /// What the cloud said.
        detail: String,
    },
    /// Another node joined with this edge's token.
    #[error("join token already used by another node: get a new one with `cloud-node invite`")]
    TokenAlreadyUsed,
    /// This edge's token was not used in time.
    #[error(
        "join token expired before this edge first connected: get a new one with `cloud-node invite`"
    )]
    TokenExpired,
    /// The cloud gave out no such token, or revoked it.
    #[error(
        "the cloud does not know this edge's join token: get a new one with `cloud-node invite`"
    )]
    TokenUnknown,
    /// Who answers is the edge that dialled.
    #[error("the edge at {addr} is this one: name another edge's --handover-listen")]
    Itself {
        /// The address dialled.
        addr: SocketAddr,
    },
    /// The edge that this one lends its device to takes others.
    #[error("the leader does not take this device: start it again with --worker {name}")]
    NotNamed {
        /// What this edge is called.
        name: String,
    },
    /// Somebody else listens there, or the nodes are of different versions.
    #[error(
        "who answers at {addr} is not {} of this release: check the address, and update both nodes to the same release", callee.listener()
    )]
    Version {
        /// The address dialled.
        addr: SocketAddr,
        /// Who should answer there.
        callee: Callee,
    },
    /// Who answers takes no more links.
    #[error("the node takes no more links: try again later")]
    Full,
    /// This edge has as many links there as one edge may.
    #[error(
        "this edge has too many links to the node: close one, or wait until a lost one expires"
    )]
    TooManyLinks,
    /// The link came and went.
    #[error(transparent)]
    Lost(#[from] LinkLost),
}

impl ConnectError {
    fn of(error: &ConnectionError, (addr, callee): (SocketAddr, Callee)) -> Self {
        let detail = error.to_string();
        match HandshakeFailure::of(error) {
            Some(HandshakeFailure::Version) => return Self::Version { addr, callee },
            Some(HandshakeFailure::PeerRefused) => return Self::CloudNotTrusted { addr, detail },
            Some(HandshakeFailure::RefusedByPeer) => return Self::EdgeNotTrusted { detail },
            Some(HandshakeFailure::Full) => return Self::Full,
            None => {}
        }
        match (CloseReason::of(error), error) {
            (Some(CloseReason::TokenAlreadyUsed), _) => Self::TokenAlreadyUsed,
            (Some(CloseReason::TokenExpired), _) => Self::TokenExpired,
            (Some(CloseReason::TokenUnknown), _) => Self::TokenUnknown,
            (Some(CloseReason::TooManyLinks), _) => Self::TooManyLinks,
            (Some(CloseReason::NotAnEdge), _) => Self::EdgeNotTrusted { detail },
            (_, ConnectionError::TimedOut) => Self::Unreachable { addr, callee },
            (
                Some(
                    CloseReason::Done
                    | CloseReason::ShuttingDown
                    | CloseReason::Internal
                    | CloseReason::NotNamed,
                ),
                _,
            )
            | (None, _) => Self::Lost(error.into()),
        }
    }
}

/// Makes links to the cloud of one trust domain, or to its other edges.
#[derive(Clone, Debug)]
pub struct EdgeEndpoint {
    endpoint: Endpoint,
    client: ClientConfig,
    callee: Callee,
    config: LinkConfig,
}

impl EdgeEndpoint {
    /// Opens a socket on `addr`; port 0 takes a free one. Needs a running tokio runtime.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(
        addr: SocketAddr,
        identity: &EdgeIdentity,
        config: LinkConfig,
    ) -> Result<Self, BindError> {
        let crypto = tls::client_crypto(identity.credentials(), ALPN)?;
        let transport = config.edge_transport();
        Self::start(addr, (crypto, Callee::Cloud), (config, transport))
    }

    /// As [`EdgeEndpoint::bind`], for links to other edges of the same trust domain instead of its
    /// cloud: to any of them, and to nobody else.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind_for_neighbours(
        addr: SocketAddr,
        identity: &EdgeIdentity,
        config: LinkConfig,
    ) -> Result<Self, BindError> {
        let crypto = tls::neighbour_crypto(identity.credentials(), ALPN)?;
        let transport = config.edge_transport();
        Self::start(addr, (crypto, Callee::Neighbour), (config, transport))
    }

    fn start(
        addr: SocketAddr,
        (crypto, callee): (QuicClientConfig, Callee),
        (config, transport): (LinkConfig, TransportConfig),
    ) -> Result<Self, BindError> {
        let mut client = ClientConfig::new(Arc::new(crypto));
        client.transport_config(Arc::new(transport));
        Ok(Self {
            endpoint: socket::open(addr, None)?,
            client,
            callee,
            config,
        })
    }

    /// Links to the cloud at `addr`, once it has admitted this edge.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect(&self, addr: SocketAddr) -> Result<CloudLink, ConnectError> {
        let connection = self.dial(addr).await?;
        Ok(CloudLink::start(connection, self.config, None))
    }

    /// As [`EdgeEndpoint::connect`], and keeps what is sent to the cloud in `record`.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub async fn connect_recorded(
        &self,
        addr: SocketAddr,
        record: SentMessages,
    ) -> Result<CloudLink, ConnectError> {
        let connection = self.dial(addr).await?;
        Ok(CloudLink::start(connection, self.config, Some(record)))
    }

    /// Closes every link and waits until the clouds know, within the configuration's `drain`.
    pub async fn close(self) {
        CloseReason::Done.close_endpoint(&self.endpoint);
        // The peers' last acknowledgements are not worth waiting for longer.
        let _ = timeout(self.config.timeouts.drain, self.endpoint.wait_idle()).await;
    }

    async fn dial(&self, addr: SocketAddr) -> Result<Connection, ConnectError> {
        let connecting = self
            .endpoint
            .connect_with(self.client.clone(), addr, self.callee.certificate_name())
            .map_err(|error| ConnectError::Address {
                addr,
                detail: error.to_string(),
            })?;
        let admitted = async {
            let connection = connecting.await?;
            await_welcome(&connection).await?;
            Ok(connection)
        };
        match timeout(self.config.timeouts.connect, admitted).await {
            Ok(Ok(connection)) => Ok(connection),
            Ok(Err(error)) => Err(ConnectError::of(&error, (addr, self.callee))),
            Err(_) => Err(ConnectError::Unreachable {
                addr,
                callee: self.callee,
            }),
        }
    }
}

/// Makes links to other edges of the same trust domain, to speak about users' sessions.
#[derive(Clone, Debug)]
pub struct PeerEndpoint {
    endpoint: EdgeEndpoint,
    /// What this edge is called itself.
    name: String,
}

impl PeerEndpoint {
    /// Opens a socket on `addr`; port 0 takes a free one. Needs a running tokio runtime.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(
        addr: SocketAddr,
        identity: &EdgeIdentity,
        config: LinkConfig,
    ) -> Result<Self, BindError> {
        let transport = config.peer_transport(PathHint::default());
        Self::start(
            addr,
            (identity, PEER_ALPN, Callee::Edge),
            (config, transport),
        )
    }

    /// As [`PeerEndpoint::bind`], for links to an edge that one lends one's device to.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind_for_work(
        addr: SocketAddr,
        identity: &EdgeIdentity,
        config: LinkConfig,
    ) -> Result<Self, BindError> {
        let transport = config.worker_transport(PathHint::default());
        Self::start(
            addr,
            (identity, WORKER_ALPN, Callee::Leader),
            (config, transport),
        )
    }

    pub(crate) fn start(
        addr: SocketAddr,
        (identity, alpn, callee): (&EdgeIdentity, &[u8], Callee),
        (config, transport): (LinkConfig, TransportConfig),
    ) -> Result<Self, BindError> {
        let crypto = tls::neighbour_crypto(identity.credentials(), alpn)?;
        Ok(Self {
            endpoint: EdgeEndpoint::start(addr, (crypto, callee), (config, transport))?,
            name: identity.name().to_owned(),
        })
    }

    /// Links to the edge at `addr`, once it has admitted this one.
    ///
    /// # Errors
    /// [`ConnectError`], [`ConnectError::Itself`] if that is this edge, by whatever address.
    pub async fn connect(&self, addr: SocketAddr) -> Result<PeerLink, ConnectError> {
        let connection = self
            .endpoint
            .dial(addr)
            .await
            .map_err(|error| match error {
                ConnectError::Lost(LinkLost::ClosedByPeer(CloseReason::NotNamed)) => {
                    let name = self.name.clone();
                    ConnectError::NotNamed { name }
                }
                other => other,
            })?;
        if name_of(&connection).is_some_and(|name| name == self.name) {
            CloseReason::Done.close(&connection);
            return Err(ConnectError::Itself { addr });
        }
        Ok(PeerLink::dialled(connection, self.endpoint.config.timeouts))
    }
}

/// The name in the certificate of the edge that answered.
fn name_of(connection: &Connection) -> Option<String> {
    let chain = connection.peer_identity()?;
    let chain = chain.downcast::<Vec<CertificateDer<'static>>>().ok()?;
    edge_name_of(chain.first()?).ok()
}

/// Waits for the cloud's word that it admits this edge; a refusal closes the connection.
async fn await_welcome(connection: &Connection) -> Result<(), ConnectionError> {
    let mut stream = connection.accept_uni().await?;
    let mut word = [0; WELCOME.len()];
    match stream.read_exact(&mut word).await {
        Ok(()) if word == WELCOME => Ok(()),
        Err(ReadExactError::ReadError(quinn::ReadError::ConnectionLost(error))) => Err(error),
        // The right certificate and a wrong word: not a cloud of this protocol after all.
        Ok(()) | Err(_) => Err(ConnectionError::VersionMismatch),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_does_not_answer_is_named_with_what_should_run_there() {
        let addr = SocketAddr::from(([10, 0, 0, 7], 4433));
        let said = |callee| ConnectError::Unreachable { addr, callee }.to_string();
        let cloud = "no cloud answers at 10.0.0.7:4433: check the address, and that `cloud-node serve` runs there";
        assert_eq!(said(Callee::Cloud), cloud);
        for (callee, flag) in [
            (Callee::Neighbour, "--peer-listen"),
            (Callee::Edge, "--handover-listen"),
            (Callee::Leader, "--worker-listen"),
        ] {
            let said = said(callee);
            assert!(
                said.starts_with("no edge answers at 10.0.0.7:4433"),
                "{said}"
            );
            assert!(said.contains(flag), "{said}");
        }
    }
}
