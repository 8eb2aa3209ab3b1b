//! Who gets a link and who does not, with the words each side is told.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use edgeprompt_protocol::ALPN;
use quinn::{ClientConfig, ServerConfig};
use rcgen::{KeyPair, PKCS_ED25519};

use super::{Domain, any_port, check_fetch, config, fetch_of};
use crate::certificates::{CLOUD_NAME, NodeCredentials};
use crate::close::{CloseReason, HandshakeFailure};
use crate::{
    AcceptError, Callee, ConnectError, EdgeEndpoint, EdgeIdentity, EnrolmentError,
    INVITATION_LIFETIME, LinkConfig, LinkLost, Timeouts, socket, tls,
};

/// The error of an edge that dials `domain`'s cloud, and the cloud's, once it has one.
async fn refused(domain: &Domain, edge: &EdgeIdentity) -> (ConnectError, Arc<AcceptError>) {
    let endpoint = EdgeEndpoint::bind(any_port(), edge, config()).unwrap();
    let error = endpoint.connect(domain.addr).await.unwrap_err();
    (error, refusal(domain).await)
}

/// What the cloud makes of the one edge it refused; it may learn of it after the edge does.
async fn refusal(domain: &Domain) -> Arc<AcceptError> {
    loop {
        if let Some(error) = domain.cloud.refusals().last {
            return error;
        }
        tokio::task::yield_now().await;
    }
}

/// A client that has the right root and may lack everything else.
async fn dial_with(domain: &Domain, credentials: &NodeCredentials, alpn: &[u8]) -> ConnectionEnd {
    let crypto = tls::client_crypto(credentials, alpn).unwrap();
    let endpoint = socket::open(any_port(), None).unwrap();
    let client = ClientConfig::new(Arc::new(crypto));
    match endpoint
        .connect_with(client, domain.addr, CLOUD_NAME)
        .unwrap()
        .await
    {
        Ok(connection) => ConnectionEnd(connection.closed().await),
        Err(error) => ConnectionEnd(error),
    }
}

#[derive(Debug)]
struct ConnectionEnd(quinn::ConnectionError);

#[tokio::test]
async fn an_invited_edge_is_admitted_under_its_own_name() {
    let mut domain = Domain::start();
    let edge = domain.join();
    let endpoint = EdgeEndpoint::bind(any_port(), &edge, config()).unwrap();
    let _link = endpoint.connect(domain.addr).await.unwrap();
    let accepted = domain.cloud.accept().await.unwrap();
    assert_eq!(accepted.peer_name(), edge.name());
    assert!(edge.name().ends_with(".edge.edgeprompt.internal"));
    // It may come back: the invitation is its own now.
    let _again = endpoint.connect(domain.addr).await.unwrap();
}

#[tokio::test]
async fn an_edge_of_another_domain_is_refused_with_words_on_both_sides() {
    let (domain, other) = (Domain::start(), Domain::start());
    let (edge, cloud) = refused(&domain, &other.join()).await;
    assert!(
        matches!(edge, ConnectError::CloudNotTrusted { .. }),
        "{edge:?}"
    );
    assert!(edge.to_string().contains("edge-node join TOKEN"), "{edge}");
    assert!(matches!(*cloud, AcceptError::NotTrustedByPeer), "{cloud:?}");
    assert!(
        cloud.to_string().contains("another trust domain"),
        "{cloud}"
    );
}

#[tokio::test]
async fn a_node_without_a_certificate_of_the_domain_is_refused() {
    let (domain, other) = (Domain::start(), Domain::start());
    let stranger = other.join();
    let root = domain.join().credentials().root.clone();
    let NodeCredentials { chain, key, .. } = stranger.credentials();
    let credentials = NodeCredentials {
        root,
        chain: chain.clone(),
        key: key.clone_key(),
    };
    let end = dial_with(&domain, &credentials, ALPN).await;
    assert_eq!(
        HandshakeFailure::of(&end.0),
        Some(HandshakeFailure::RefusedByPeer),
        "{end:?}"
    );
    let last = refusal(&domain).await;
    assert!(matches!(*last, AcceptError::PeerNotTrusted), "{last:?}");
}

#[tokio::test]
async fn another_protocol_version_is_told_apart() {
    let domain = Domain::start();
    let end = dial_with(&domain, domain.join().credentials(), b"edgeprompt/0").await;
    assert_eq!(
        HandshakeFailure::of(&end.0),
        Some(HandshakeFailure::Version),
        "{end:?}"
    );
    let last = refusal(&domain).await;
    assert!(matches!(*last, AcceptError::Version), "{last:?}");
}

#[tokio::test]
async fn a_replayed_token_is_refused_and_the_first_edge_keeps_working() {
    let domain = Domain::start();
    let token = domain.identity.invite(INVITATION_LIFETIME).unwrap();
    let (first, second) = (
        EdgeIdentity::join(&token).unwrap(),
        EdgeIdentity::join(&token).unwrap(),
    );
    let endpoint = EdgeEndpoint::bind(any_port(), &first, config()).unwrap();
    let link = endpoint.connect(domain.addr).await.unwrap();
    let (edge, cloud) = refused(&domain, &second).await;
    assert_eq!(edge, ConnectError::TokenAlreadyUsed);
    assert!(
        matches!(*cloud, AcceptError::Enrolment(EnrolmentError::AlreadyUsed)),
        "{cloud:?}"
    );
    let _server = tokio::spawn(super::serve(domain.cloud));
    check_fetch(&link, fetch_of(1)).await;
}

#[tokio::test]
async fn an_expired_token_is_refused() {
    let domain = Domain::start();
    let token = domain.identity.invite(Duration::ZERO).unwrap();
    let (edge, cloud) = refused(&domain, &EdgeIdentity::join(&token).unwrap()).await;
    assert_eq!(edge, ConnectError::TokenExpired);
    assert!(
        matches!(*cloud, AcceptError::Enrolment(EnrolmentError::Expired)),
        "{cloud:?}"
    );
}

#[tokio::test]
async fn an_edge_cannot_pose_as_the_cloud() {
    let domain = Domain::start();
    let token = domain.identity.invite(INVITATION_LIFETIME).unwrap();
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let authority = token.authority().unwrap();
    let root = token.root().clone();
    let posing = authority
        .edge_named(CLOUD_NAME, key, root, SystemTime::now())
        .unwrap();
    let crypto = tls::server_crypto(&posing, ALPN).unwrap();
    let server = ServerConfig::with_crypto(Arc::new(crypto));
    let endpoint = socket::open(any_port(), Some(server)).unwrap();
    let addr = endpoint.local_addr().unwrap();
    tokio::spawn(async move {
        while let Some(incoming) = endpoint.accept().await {
            let _ = incoming.await;
        }
    });
    let edge = EdgeEndpoint::bind(any_port(), &domain.join(), config()).unwrap();
    let error = edge.connect(addr).await.unwrap_err();
    assert!(
        matches!(error, ConnectError::CloudNotTrusted { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn an_edge_cannot_take_another_name() {
    let domain = Domain::start();
    let token = domain.identity.invite(INVITATION_LIFETIME).unwrap();
    let other = domain.join();
    let key = KeyPair::generate_for(&PKCS_ED25519).unwrap();
    let authority = token.authority().unwrap();
    let root = token.root().clone();
    let posing = authority
        .edge_named(other.name(), key, root, SystemTime::now())
        .unwrap();
    let end = dial_with(&domain, &posing, ALPN).await;
    assert_eq!(
        CloseReason::of(&end.0),
        Some(CloseReason::NotAnEdge),
        "{end:?}"
    );
}

#[tokio::test]
async fn an_address_where_nothing_answers_is_unreachable() {
    let domain = Domain::start();
    let silent = std::net::UdpSocket::bind(any_port()).unwrap();
    let addr = silent.local_addr().unwrap();
    let timeouts = Timeouts {
        connect: Duration::from_millis(200),
        ..Timeouts::default()
    };
    let impatient = LinkConfig {
        timeouts,
        ..config()
    };
    let edge = EdgeEndpoint::bind(any_port(), &domain.join(), impatient).unwrap();
    assert_eq!(
        edge.connect(addr).await.unwrap_err(),
        ConnectError::Unreachable {
            addr,
            callee: Callee::Cloud,
        }
    );
}

#[tokio::test]
async fn a_slow_handshake_holds_up_nobody() {
    let domain = Domain::start();
    let crypto = tls::client_crypto(domain.join().credentials(), ALPN).unwrap();
    let endpoint = socket::open(any_port(), None).unwrap();
    // Only the edge's first datagram reaches the cloud, and none of the cloud's the edge.
    let path = tokio::net::UdpSocket::bind(any_port()).await.unwrap();
    let client = ClientConfig::new(Arc::new(crypto));
    let addr = path.local_addr().unwrap();
    let _stalled = endpoint.connect_with(client, addr, CLOUD_NAME).unwrap();
    let mut datagram = [0; 2048];
    let (byte_count, _) = path.recv_from(&mut datagram).await.unwrap();
    path.send_to(&datagram[..byte_count], domain.addr)
        .await
        .unwrap();
    path.recv_from(&mut datagram).await.unwrap();

    let (link, _edge, _server) = domain.serve_edge().await;
    check_fetch(&link, fetch_of(1)).await;
}

#[tokio::test]
async fn a_closed_endpoint_closes_its_links() {
    let domain = Domain::start();
    let edge = EdgeEndpoint::bind(any_port(), &domain.join(), config()).unwrap();
    let link = edge.connect(domain.addr).await.unwrap();
    drop(domain.cloud);
    assert_eq!(
        link.closed().await,
        LinkLost::ClosedByPeer(CloseReason::ShuttingDown)
    );
    assert!(link.lost().is_some());
}
