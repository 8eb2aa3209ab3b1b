//! How links and streams end: the codes both nodes use, and what a lost link is reported as.

use quinn::{ConnectionError, VarInt};

/// Why a node closes a link; the code goes over the wire with the words.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CloseReason {
    /// The link is no longer needed.
    Done,
    /// The node shuts down.
    ShuttingDown,
    /// The edge's invitation belongs to another node.
    TokenAlreadyUsed,
    /// The edge's invitation was not used in time.
    TokenExpired,
    /// The cloud does not know the edge's invitation.
    TokenUnknown,
    /// The peer's certificate is valid and not an edge's.
    NotAnEdge,
    /// The node failed; its log says why.
    Internal,
    /// The edge has as many links as one edge may.
    TooManyLinks,
    /// The edge lends its device to one that does not want it.
    NotNamed,
}

impl CloseReason {
    const ALL: [Self; 9] = [
        Self::Done,
        Self::ShuttingDown,
        Self::TokenAlreadyUsed,
        Self::TokenExpired,
        Self::TokenUnknown,
        Self::NotAnEdge,
        Self::Internal,
        Self::TooManyLinks,
        Self::NotNamed,
    ];

    const fn code(self) -> u32 {
        match self {
            Self::Done => 0,
            Self::ShuttingDown => 1,
            Self::TokenAlreadyUsed => 2,
            Self::TokenExpired => 3,
            Self::TokenUnknown => 4,
            Self::NotAnEdge => 5,
            Self::Internal => 6,
            Self::TooManyLinks => 7,
            Self::NotNamed => 8,
        }
    }

    const fn words(self) -> &'static str {
        match self {
            Self::Done => "done",
            Self::ShuttingDown => "shutting down",
            Self::TokenAlreadyUsed => "join token already used by another node",
            Self::TokenExpired => "join token expired",
            Self::TokenUnknown => "join token unknown",
            Self::NotAnEdge => "not an edge node's certificate",
            Self::Internal => "internal failure",
            Self::TooManyLinks => "too many links of one edge",
            Self::NotNamed => "not one of the workers that are named",
        }
    }

    pub(crate) fn close(self, connection: &quinn::Connection) {
        connection.close(self.code().into(), self.words().as_bytes());
    }

    pub(crate) fn close_endpoint(self, endpoint: &quinn::Endpoint) {
        endpoint.close(self.code().into(), self.words().as_bytes());
    }

    /// The reason that a peer gave, if it is one of ours.
    pub(crate) fn of(error: &ConnectionError) -> Option<Self> {
        let ConnectionError::ApplicationClosed(close) = error else {
            return None;
        };
        let code = close.error_code;
        Self::ALL
            .into_iter()
            .find(|reason| VarInt::from_u32(reason.code()) == code)
    }
}

/// Why a stream is stopped or reset; only the code goes over the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamEnd {
    /// The reader wants no more of it. Zero, as when a stream is dropped.
    Cancelled,
    /// The writer gave up.
    Abandoned,
    /// It is not what the protocol says it is.
    Malformed,
    /// It belongs to no fetch that is open.
    UnknownFetch,
    /// Its layer came before or was not announced.
    UnexpectedLayer,
}

impl StreamEnd {
    pub(crate) const fn code(self) -> VarInt {
        VarInt::from_u32(match self {
            Self::Cancelled => 0,
            Self::Abandoned => 1,
            Self::Malformed => 2,
            Self::UnknownFetch => 3,
            Self::UnexpectedLayer => 4,
        })
    }
}

/// Why a link is gone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LinkLost {
    /// Nothing arrived for too long.
    #[error("the link timed out")]
    TimedOut,
    /// The peer closed it and said why.
    #[error("the peer closed the link: {}", .0.words())]
    ClosedByPeer(CloseReason),
    /// This node closed it.
    #[error("the link was closed here")]
    ClosedHere,
    /// The peer restarted or broke the transport protocol.
    #[error("the link broke: {detail}")]
    Broken {
        /// What the transport says.
        detail: String,
    },
}

impl From<&ConnectionError> for LinkLost {
    fn from(error: &ConnectionError) -> Self {
        if let Some(reason) = CloseReason::of(error) {
            return Self::ClosedByPeer(reason);
        }
        match error {
            ConnectionError::TimedOut => Self::TimedOut,
            ConnectionError::LocallyClosed => Self::ClosedHere,
            ConnectionError::VersionMismatch
            | ConnectionError::TransportError(_)
            | ConnectionError::ConnectionClosed(_)
            | ConnectionError::ApplicationClosed(_)
            | ConnectionError::Reset
            | ConnectionError::CidsExhausted => Self::Broken {
                detail: error.to_string(),
            },
        }
    }
}

impl From<ConnectionError> for LinkLost {
    fn from(error: ConnectionError) -> Self {
        Self::from(&error)
    }
}

/// Which side's TLS ended a handshake, and about what.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum HandshakeFailure {
    /// The nodes have no protocol version in common.
    Version,
    /// This node does not accept the peer's certificate.
    PeerRefused,
    /// The peer does not accept this node's certificate.
    RefusedByPeer,
    /// The peer takes no more links.
    Full,
}

/// The TLS alert "no application protocol in common".
const ALERT_NO_APPLICATION_PROTOCOL: u8 = 120;

/// The TLS alerts about certificates: bad_certificate to unknown_ca but 47 (illegal_parameter),
/// access_denied, decrypt_error (a signature that does not verify), certificate_required.
const ALERTS_CERTIFICATE: [u8; 10] = [42, 43, 44, 45, 46, 48, 49, 51, 113, 116];

impl HandshakeFailure {
    pub(crate) fn of(error: &ConnectionError) -> Option<Self> {
        let (code, certificate) = match error {
            ConnectionError::VersionMismatch => return Some(Self::Version),
            ConnectionError::TransportError(error) => (error.code, Self::PeerRefused),
            ConnectionError::ConnectionClosed(close) => (close.error_code, Self::RefusedByPeer),
            ConnectionError::ApplicationClosed(_)
            | ConnectionError::Reset
            | ConnectionError::TimedOut
            | ConnectionError::LocallyClosed
            | ConnectionError::CidsExhausted => return None,
        };
        if code == quinn::TransportErrorCode::CONNECTION_REFUSED {
            return Some(Self::Full);
        }
        let is_alert = |alert: u8| code == quinn::TransportErrorCode::crypto(alert);
        if is_alert(ALERT_NO_APPLICATION_PROTOCOL) {
            return Some(Self::Version);
        }
        ALERTS_CERTIFICATE
            .into_iter()
            .any(is_alert)
            .then_some(certificate)
    }
}
