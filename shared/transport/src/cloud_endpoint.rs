//! A cloud's endpoint: accepts links, admits edges, drains. What an admitted edge asks is
//! [`EdgeLink`]'s.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::SystemTime;

use edgeprompt_protocol::{ALPN, PEER_ALPN, WELCOME, WORKER_ALPN};
use quinn::{Connection, ConnectionError, Endpoint, Incoming, ServerConfig, TransportConfig};
use rustls::pki_types::CertificateDer;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinHandle;
use tokio::time::timeout;

use crate::certificates::{ChainError, EDGE_DOMAIN, EdgePeer, NodeCredentials, is_edge_name};
use crate::close::{CloseReason, HandshakeFailure, LinkLost};
use crate::cloud_identity::CloudIdentity;
use crate::config::LinkConfig;
use crate::congestion::PathHint;
use crate::edge_count::{EdgeCount, EdgeSeat, LINKS_PER_EDGE_MAX};
use crate::edge_identity::EdgeIdentity;
use crate::edge_link::{EdgeLink, LinkContext, LinkPlaces};
use crate::enrolment::{Enrolment, EnrolmentError};
use crate::load::Load;
use crate::path_memory::{PathKey, PathMemory};
use crate::peer_link::PeerLink;
use crate::socket::{self, BindError};
use crate::tls;

/// Most handshakes at a time; further edges are refused and try again.
const HANDSHAKES_MAX: usize = 128;

/// Handshakes at a time from which on an edge must show that it receives at the address it sends
/// from: a flood of invented addresses then costs a datagram each and no memory.
pub(crate) const HANDSHAKES_UNVALIDATED_MAX: usize = 32;

/// Most links at a time.
const LINKS_MAX: usize = 1024;

/// Admitted links that wait for [`CloudEndpoint::accept`].
const ACCEPTED_MAX: usize = 64;

/// Why an edge was not admitted, as the cloud sees it.
#[derive(Debug, thiserror::Error)]
pub enum AcceptError {
    /// The edge trusts another cloud's root.
    #[error("the peer does not trust this cloud: it belongs to another trust domain")]
    NotTrustedByPeer,
    /// The edge's certificate is not of this cloud's trust domain.
    #[error(
        "the peer is not part of this cloud's trust domain: invite it with `cloud-node invite`"
    )]
    PeerNotTrusted,
    /// The peer speaks no protocol version of this cloud.
    #[error("the peer speaks another protocol version: update both nodes to the same release")]
    Version,
    /// The certificate is of the domain and not an edge's.
    #[error(transparent)]
    Chain(#[from] ChainError),
    /// The invitation does not admit the edge.
    #[error(transparent)]
    Enrolment(#[from] EnrolmentError),
    /// The edge is of the trust domain, and nobody said that it may lend its device.
    #[error(
        "nobody named this worker: if it is to see this node's texts, start again with --worker {name}"
    )]
    NotNamed {
        /// What it is called.
        name: String,
    },
    /// The edge has as many links as one may.
    #[error("the peer has {LINKS_PER_EDGE_MAX} links already")]
    TooManyLinks,
    /// The edge was too slow.
    #[error("the peer did not complete the handshake in time")]
    TimedOut,
    /// The link went away meanwhile.
    #[error(transparent)]
    Lost(#[from] LinkLost),
}

impl From<ConnectionError> for AcceptError {
    fn from(error: ConnectionError) -> Self {
        match HandshakeFailure::of(&error) {
            Some(HandshakeFailure::Version) => Self::Version,
            Some(HandshakeFailure::PeerRefused) => Self::PeerNotTrusted,
            Some(HandshakeFailure::RefusedByPeer) => Self::NotTrustedByPeer,
            Some(HandshakeFailure::Full) | None => Self::Lost(error.into()),
        }
    }
}

impl AcceptError {
    /// What the edge is told, where TLS has not told it already.
    const fn close_reason(&self) -> Option<CloseReason> {
        match self {
            Self::Chain(_) => Some(CloseReason::NotAnEdge),
            Self::Enrolment(EnrolmentError::AlreadyUsed) => Some(CloseReason::TokenAlreadyUsed),
            Self::Enrolment(EnrolmentError::Expired) => Some(CloseReason::TokenExpired),
            Self::Enrolment(EnrolmentError::Unknown) => Some(CloseReason::TokenUnknown),
            Self::Enrolment(EnrolmentError::Registry(_)) => Some(CloseReason::Internal),
            Self::TooManyLinks => Some(CloseReason::TooManyLinks),
            Self::NotNamed { .. } => Some(CloseReason::NotNamed),
            Self::NotTrustedByPeer
            | Self::PeerNotTrusted
            | Self::Version
            | Self::TimedOut
            | Self::Lost(_) => None,
        }
    }
}

/// The edges that were not admitted.
#[derive(Clone, Debug, Default)]
pub struct Refusals {
    /// How many.
    pub count: u64,
    /// Why, for the latest.
    pub last: Option<Arc<AcceptError>>,
}

/// Accepts links from edge nodes: of edges to their cloud, and with [`PeerLink`](crate::PeerLink) of
/// edges to each other.
#[derive(Debug)]
pub struct CloudEndpoint<L = EdgeLink> {
    endpoint: Endpoint,
    config: LinkConfig,
    load: Load,
    links: mpsc::Receiver<L>,
    refusals: Arc<Mutex<Refusals>>,
    acceptor: JoinHandle<()>,
}

impl CloudEndpoint {
    /// Listens on `addr`; port 0 takes a free one. Needs a running tokio runtime.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind(
        addr: SocketAddr,
        identity: &CloudIdentity,
        config: LinkConfig,
    ) -> Result<Self, BindError> {
        let admission = Admission::Invited(Arc::clone(identity.enrolment()));
        Self::start(addr, (identity.credentials(), admission), config, FETCHES)
    }

    /// As [`CloudEndpoint::bind`], for an edge that sends cloud prompts to its neighbours: every edge
    /// of its trust domain is admitted, as only the cloud knows whom it has invited.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind_for_neighbours(
        addr: SocketAddr,
        identity: &EdgeIdentity,
        config: LinkConfig,
    ) -> Result<Self, BindError> {
        let admission = Admission::TrustDomain;
        Self::start(addr, (identity.credentials(), admission), config, FETCHES)
    }
}

impl CloudEndpoint<PeerLink> {
    /// Listens for edges of the same trust domain that bring users' sessions, or read them. A cloud
    /// does not speak what is spoken here.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind_for_sessions(
        addr: SocketAddr,
        identity: &EdgeIdentity,
        config: LinkConfig,
    ) -> Result<Self, BindError> {
        let admission = Admission::TrustDomain;
        Self::start(addr, (identity.credentials(), admission), config, SESSIONS)
    }

    /// Listens for edges of the same trust domain that lend this one their devices. Only those that are
    /// named are let in.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn bind_for_workers(
        addr: SocketAddr,
        (identity, named): (&EdgeIdentity, Named),
        config: LinkConfig,
    ) -> Result<Self, BindError> {
        let admission = match named {
            Named::All => Admission::TrustDomain,
            Named::These(names) => Admission::Named(Arc::new(names)),
        };
        let speech = Speech {
            alpn: WORKER_ALPN,
            transport: LinkConfig::worker_transport,
            ..SESSIONS
        };
        Self::start(addr, (identity.credentials(), admission), config, speech)
    }
}

impl<L: Send + 'static> CloudEndpoint<L> {
    pub(crate) fn start(
        addr: SocketAddr,
        (credentials, admission): (&NodeCredentials, Admission),
        config: LinkConfig,
        speech: Speech<L>,
    ) -> Result<Self, BindError> {
        let crypto = Arc::new(tls::server_crypto(credentials, speech.alpn)?);
        let server = ServerConfig::with_crypto(crypto);
        let endpoint = socket::open(addr, Some(server.clone()))?;
        let (sender, links) = mpsc::channel(ACCEPTED_MAX);
        let acceptor = Acceptor {
            admission,
            speech,
            server,
            config,
            load: Load::default(),
            edges: EdgeCount::default(),
            memory: PathMemory::default(),
            accepted: sender,
            refusals: Arc::default(),
        };
        let (load, refusals) = (acceptor.load.clone(), Arc::clone(&acceptor.refusals));
        let acceptor = tokio::spawn(acceptor.run(endpoint.clone()));
        Ok(Self {
            endpoint,
            config,
            load,
            links,
            refusals,
            acceptor,
        })
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// [`BindError::Socket`] if the socket is gone.
    pub fn local_addr(&self) -> Result<SocketAddr, BindError> {
        socket::local_addr(&self.endpoint)
    }

    /// The next admitted edge, or `None` once the endpoint is closed. Cancel-safe.
    ///
    /// Handshakes run beside each other and beside this; an edge that is refused shows only in
    /// [`CloudEndpoint::refusals`] and in the log.
    pub async fn accept(&mut self) -> Option<L> {
        self.links.recv().await
    }

    /// The edges refused so far.
    pub fn refusals(&self) -> Refusals {
        self.refusals
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Stops taking links and requests, lets those under way end, then closes every link.
    ///
    /// It waits no longer than the configuration's `drain`.
    pub async fn drain(mut self) {
        self.acceptor.abort();
        self.links.close();
        self.load.start_draining();
        let patience = self.config.timeouts.drain;
        if timeout(patience, self.load.idle()).await.is_err() {
            tracing::warn!("requests are still under way: closing their links");
        }
        CloseReason::ShuttingDown.close_endpoint(&self.endpoint);
        // The peers' last acknowledgements are not worth waiting for longer.
        let _ = timeout(patience, self.endpoint.wait_idle()).await;
    }
}

impl<L> Drop for CloudEndpoint<L> {
    fn drop(&mut self) {
        self.acceptor.abort();
        self.load.start_draining();
        CloseReason::ShuttingDown.close_endpoint(&self.endpoint);
    }
}

/// Edges of a trust domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Named {
    /// Each of them.
    All,
    /// Those with these names: [`EdgeIdentity::name`].
    These(BTreeSet<String>),
}

impl Named {
    /// Those with these names, if edges may be called so.
    ///
    /// # Errors
    /// [`NotAName`] for the first that none is called.
    pub fn these(names: &[String]) -> Result<Self, NotAName> {
        match names.iter().find(|name| !is_edge_name(name)) {
            Some(name) => Err(NotAName(name.clone())),
            None => Ok(Self::These(names.iter().cloned().collect())),
        }
    }
}

/// No edge is called so.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "no edge is called {0}: names look like 0123456789abcdef.{EDGE_DOMAIN}, and `edge-node join` prints them"
)]
pub struct NotAName(String);

/// Who of a trust domain is let in.
#[derive(Clone)]
pub(crate) enum Admission {
    /// Whom the registry admits.
    Invited(Arc<Enrolment>),
    /// Everybody.
    TrustDomain,
    /// Those with these names.
    Named(Arc<BTreeSet<String>>),
}

impl Admission {
    /// Reads and writes files.
    fn admit(&self, peer: &EdgePeer) -> Result<(), AcceptError> {
        match self {
            Self::Invited(enrolment) => Ok(enrolment.admit(peer, SystemTime::now())?),
            Self::TrustDomain => Ok(()),
            Self::Named(names) if names.contains(&peer.name) => Ok(()),
            Self::Named(_) => Err(AcceptError::NotNamed {
                name: peer.name.clone(),
            }),
        }
    }
}

/// What is spoken on links of a kind.
pub(crate) struct Speech<L> {
    pub(crate) alpn: &'static [u8],
    pub(crate) transport: fn(&LinkConfig, PathHint) -> TransportConfig,
    pub(crate) begin: fn(Connection, PathKey, LinkContext) -> L,
}

const FETCHES: Speech<EdgeLink> = Speech {
    alpn: ALPN,
    transport: LinkConfig::cloud_transport,
    begin: EdgeLink::start,
};

pub(crate) const SESSIONS: Speech<PeerLink> = Speech {
    alpn: PEER_ALPN,
    transport: LinkConfig::peer_transport,
    begin: PeerLink::accepted,
};

/// The task that turns incoming handshakes into links.
struct Acceptor<L> {
    admission: Admission,
    speech: Speech<L>,
    /// Complete but for the transport parameters, which each link has its own of.
    server: ServerConfig,
    config: LinkConfig,
    load: Load,
    edges: EdgeCount,
    memory: PathMemory,
    accepted: mpsc::Sender<L>,
    refusals: Arc<Mutex<Refusals>>,
}

impl<L: Send + 'static> Acceptor<L> {
    async fn run(self, endpoint: Endpoint) {
        let acceptor = Arc::new(self);
        let handshakes = Arc::new(Semaphore::new(HANDSHAKES_MAX));
        let links = Arc::new(Semaphore::new(LINKS_MAX));
        while let Some(incoming) = endpoint.accept().await {
            let handshake_count = HANDSHAKES_MAX - handshakes.available_permits();
            if handshake_count >= HANDSHAKES_UNVALIDATED_MAX && !incoming.remote_address_validated()
            {
                // Fails only for an edge that has shown its address.
                let _ = incoming.retry();
                continue;
            }
            let handshake = Arc::clone(&handshakes).try_acquire_owned();
            let link = Arc::clone(&links).try_acquire_owned();
            let (Ok(handshake), Ok(link)) = (handshake, link) else {
                tracing::warn!(addr = %incoming.remote_address(), "too many links: refused one");
                incoming.refuse();
                continue;
            };
            let acceptor = Arc::clone(&acceptor);
            tokio::spawn(async move {
                acceptor.admit(incoming, link).await;
                drop(handshake);
            });
        }
    }

    async fn admit(&self, incoming: Incoming, permit: OwnedSemaphorePermit) {
        let addr = incoming.remote_address();
        match self.handshake(incoming).await {
            Ok(admitted) => {
                tracing::info!(%addr, peer = admitted.path.peer_name, "edge admitted");
                let (_link, _edge) = (permit, admitted.seat);
                let context = LinkContext {
                    timeouts: self.config.timeouts,
                    load: self.load.clone(),
                    memory: self.memory.clone(),
                    places: LinkPlaces { _link, _edge },
                };
                let link = (self.speech.begin)(admitted.connection, admitted.path, context);
                // Fails only when the endpoint is gone, and then the link is to go as well.
                let _ = self.accepted.send(link).await;
            }
            Err(error) => {
                tracing::warn!(%addr, %error, "edge refused");
                let mut refusals = self.refusals.lock().unwrap_or_else(PoisonError::into_inner);
                refusals.count += 1;
                refusals.last = Some(Arc::new(error));
            }
        }
    }

    async fn handshake(&self, incoming: Incoming) -> Result<Admitted, AcceptError> {
        let patience = self.config.timeouts.connect;
        let (hint, mut server) = (PathHint::default(), self.server.clone());
        let transport = (self.speech.transport)(&self.config, hint.clone());
        server.transport_config(Arc::new(transport));
        let connecting = incoming.accept_with(Arc::new(server))?;
        let connection = timeout(patience, connecting)
            .await
            .map_err(|_| AcceptError::TimedOut)??;
        match timeout(patience, self.welcome(&connection)).await {
            Ok(Ok((peer, seat))) => {
                let path = PathKey {
                    peer_name: peer.name,
                    ip: connection.remote_address().ip(),
                };
                if let Some(known) = self.memory.recall(&path).or(self.config.expected) {
                    hint.set(known);
                }
                Ok(Admitted {
                    connection,
                    path,
                    seat,
                })
            }
            Ok(Err(error)) => {
                if let Some(reason) = error.close_reason() {
                    reason.close(&connection);
                }
                Err(error)
            }
            Err(_) => Err(AcceptError::TimedOut),
        }
    }

    async fn welcome(&self, connection: &Connection) -> Result<(EdgePeer, EdgeSeat), AcceptError> {
        let peer = peer_of(connection)?;
        let (admission, candidate) = (self.admission.clone(), peer.clone());
        let admission = move || admission.admit(&candidate);
        // The registry may be a file, and waiting for its lock must not hold up other links.
        let admitted = tokio::task::spawn_blocking(admission).await;
        admitted.map_err(|_| LinkLost::ClosedHere)??;
        let seat = self
            .edges
            .take_seat(&peer.name)
            .ok_or(AcceptError::TooManyLinks)?;
        let mut stream = connection.open_uni().await?;
        stream
            .write_all(&WELCOME)
            .await
            .map_err(|error| match error {
                quinn::WriteError::ConnectionLost(error) => AcceptError::from(error),
                quinn::WriteError::Stopped(_)
                | quinn::WriteError::ClosedStream
                | quinn::WriteError::ZeroRttRejected => AcceptError::TimedOut,
            })?;
        Ok((peer, seat))
    }
}

/// An edge that is let in.
struct Admitted {
    connection: Connection,
    path: PathKey,
    seat: EdgeSeat,
}

fn peer_of(connection: &Connection) -> Result<EdgePeer, ChainError> {
    let identity = connection.peer_identity().ok_or(ChainError::Shape)?;
    let chain = identity
        .downcast::<Vec<CertificateDer<'static>>>()
        .map_err(|_| ChainError::Shape)?;
    EdgePeer::of_chain(&chain)
}
