//! Edges that bring each other sessions: those of one trust domain that speak the same, and nobody else.

use edgeprompt_protocol::PEER_ALPN;

use super::{Domain, any_port, config};
use crate::cloud_endpoint::{Admission, SESSIONS, Speech};
use crate::congestion::PathHint;
use crate::{AcceptError, Callee, CloudEndpoint, ConnectError, PeerEndpoint};

/// What edges said to each other before the present version.
const BEFORE: &[u8] = b"edgeprompt-handover/1";

#[tokio::test]
async fn edges_of_one_version_have_a_link() {
    let domain = Domain::start();
    let mut listening =
        CloudEndpoint::bind_for_sessions(any_port(), &domain.join(), config()).unwrap();
    let addr = listening.local_addr().unwrap();
    let dialling = PeerEndpoint::bind(any_port(), &domain.join(), config()).unwrap();
    let _link = dialling.connect(addr).await.unwrap();
    assert!(listening.accept().await.is_some());
}

#[tokio::test]
async fn an_edge_of_another_version_is_told_so_and_gets_no_link() {
    assert_ne!(PEER_ALPN, BEFORE);
    let domain = Domain::start();
    let listening = CloudEndpoint::bind_for_sessions(any_port(), &domain.join(), config()).unwrap();
    let addr = listening.local_addr().unwrap();
    let edge = domain.join();
    let transport = config().peer_transport(PathHint::default());
    let settings = (config(), transport);
    let dialling =
        PeerEndpoint::start(any_port(), (&edge, BEFORE, Callee::Edge), settings).unwrap();
    let told = dialling.connect(addr).await.unwrap_err();
    let callee = Callee::Edge;
    assert_eq!(told, ConnectError::Version { addr, callee });
    for said in ["--handover-listen", "same release"] {
        assert!(told.to_string().contains(said), "{told}");
    }
    let last = loop {
        if let Some(last) = listening.refusals().last {
            break last;
        }
        tokio::task::yield_now().await;
    };
    assert!(matches!(*last, AcceptError::Version), "{last:?}");
    assert!(last.to_string().contains("same release"), "{last}");
}

#[tokio::test]
async fn an_edge_that_dials_another_version_is_told_so() {
    let domain = Domain::start();
    let speech = Speech {
        alpn: BEFORE,
        ..SESSIONS
    };
    let edge = domain.join();
    let known = (edge.credentials(), Admission::TrustDomain);
    let listening = CloudEndpoint::start(any_port(), known, config(), speech).unwrap();
    let addr = listening.local_addr().unwrap();
    let dialling = PeerEndpoint::bind(any_port(), &domain.join(), config()).unwrap();
    let told = dialling.connect(addr).await.unwrap_err();
    let callee = Callee::Edge;
    assert_eq!(told, ConnectError::Version { addr, callee });
}
