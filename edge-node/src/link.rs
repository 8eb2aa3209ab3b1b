//! From an address and an identity to a link with a cloud, and the exit code of what goes wrong.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Context;
use cloud_node::launch::{Exit, Failure, default_identity_dir};
use edgeprompt_protocol::Refusal;
use edgeprompt_transport::{
    CloudLink, ConnectError, EdgeEndpoint, EdgeIdentity, FetchError, LinkConfig, SentMessages,
};

/// The folder of this edge's identity.
///
/// # Errors
/// If none is given and there is no home folder.
pub fn identity_dir(given: Option<&PathBuf>) -> Result<PathBuf, Failure> {
    let dir = given.cloned().or_else(|| default_identity_dir("edge"));
    dir.context("no home folder: give --identity DIR")
        .map_err(Failure::of(Exit::Usage))
}

/// Links to the cloud at `host`, which is `NAME:PORT` or an address; what is sent is kept in
/// `record`.
///
/// # Errors
/// [`Failure`] with the exit code of what went wrong.
pub async fn connect(
    host: &str,
    identity: &EdgeIdentity,
    record: SentMessages,
) -> Result<CloudLink, Failure> {
    let mut addrs = tokio::net::lookup_host(host)
        .await
        .with_context(|| format!("{host} is not an address like 127.0.0.1:4433"))
        .map_err(Failure::of(Exit::Usage))?;
    let addr = addrs
        .next()
        .with_context(|| format!("{host} has no address"))
        .map_err(Failure::of(Exit::PeerUnreachable))?;
    let endpoint = EdgeEndpoint::bind(any_port(addr), identity, LinkConfig::default())
        .map_err(Failure::of(Exit::Usage))?;
    let link = endpoint.connect_recorded(addr, record).await;
    link.map_err(|error| Failure {
        exit: connect_exit(&error),
        error: error.into(),
    })
}

/// A free port on the interface that reaches `peer`; a loopback peer needs no other interface.
fn any_port(peer: SocketAddr) -> SocketAddr {
    match (peer, peer.ip().is_loopback()) {
        (SocketAddr::V4(_), true) => (Ipv4Addr::LOCALHOST, 0).into(),
        (SocketAddr::V4(_), false) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        (SocketAddr::V6(_), true) => (Ipv6Addr::LOCALHOST, 0).into(),
        (SocketAddr::V6(_), false) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

const fn connect_exit(error: &ConnectError) -> Exit {
    match error {
        ConnectError::Unreachable { .. }
        | ConnectError::Address { .. }
        | ConnectError::Version
        | ConnectError::Full
        | ConnectError::Lost(_) => Exit::PeerUnreachable,
        ConnectError::CloudNotTrusted { .. }
        | ConnectError::EdgeNotTrusted { .. }
        | ConnectError::TokenAlreadyUsed
        | ConnectError::TokenExpired
        | ConnectError::TokenUnknown => Exit::VerificationFailed,
    }
}

/// A failed fetch with its exit code.
pub fn fetch_failure(error: FetchError) -> Failure {
    let exit = match &error {
        FetchError::Refused(Refusal::ModelMismatch { .. }) | FetchError::DigestMismatch { .. } => {
            Exit::ModelMismatch
        }
        FetchError::Refused(Refusal::Busy { .. } | Refusal::Internal)
        | FetchError::NoAnswer
        | FetchError::TimedOut
        | FetchError::TooMany
        | FetchError::Lost(_) => Exit::PeerUnreachable,
        FetchError::Refused(_)
        | FetchError::TooLarge { .. }
        | FetchError::Encode(_)
        | FetchError::IdInUse { .. } => Exit::Usage,
        FetchError::Manifest(_)
        | FetchError::Decode(_)
        | FetchError::Frame(_)
        | FetchError::WrongKind => Exit::VerificationFailed,
    };
    Failure {
        exit,
        error: error.into(),
    }
}
