//! Peers that ask for too much, or hold on to what they have: each meets a bound, and an honest
//! edge is served meanwhile.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use edgeprompt_protocol::ALPN;
use edgeprompt_protocol::frame::MESSAGE_BYTES_MAX;
use quinn::{ClientConfig, Endpoint};
use tokio::net::UdpSocket;

use super::{Domain, any_port, check_fetch, config, fetch_of, manifest_for};
use crate::certificates::CLOUD_NAME;
use crate::cloud_endpoint::HANDSHAKES_UNVALIDATED_MAX;
use crate::config::{LAYER_STREAMS_MAX, REQUEST_STREAMS_MAX};
use crate::edge_count::LINKS_PER_EDGE_MAX;
use crate::{
    AcceptError, ConnectError, EdgeEndpoint, IncomingRequest, LinkConfig, LinkLost, Timeouts,
    socket, tls,
};

/// The first datagram of a handshake with `cloud` from an address where nobody answers.
async fn first_datagram(client: &ClientConfig) -> (Endpoint, Vec<u8>) {
    let endpoint = socket::open(any_port(), None).unwrap();
    let path = UdpSocket::bind(any_port()).await.unwrap();
    let addr = path.local_addr().unwrap();
    let _connecting = endpoint
        .connect_with(client.clone(), addr, CLOUD_NAME)
        .unwrap();
    let mut datagram = vec![0; 2048];
    let (byte_count, _) = path.recv_from(&mut datagram).await.unwrap();
    datagram.truncate(byte_count);
    (endpoint, datagram)
}

/// What a cloud answers to a datagram: the long header's packet type (RFC 9000, section 17.2).
async fn answer_to(datagram: &[u8], cloud: SocketAddr) -> (UdpSocket, u8) {
    let from = UdpSocket::bind(any_port()).await.unwrap();
    from.send_to(datagram, cloud).await.unwrap();
    let mut answer = vec![0; 2048];
    from.recv_from(&mut answer).await.unwrap();
    (from, (answer[0] >> 4) & 3)
}

#[tokio::test]
async fn a_flood_of_handshakes_must_show_where_it_comes_from() {
    const INITIAL: u8 = 0;
    const RETRY: u8 = 3;
    let domain = Domain::start();
    let addr = domain.addr;
    let crypto = tls::client_crypto(domain.join().credentials(), ALPN).unwrap();
    let client = ClientConfig::new(Arc::new(crypto));
    let mut flood = Vec::new();
    for _ in 0..HANDSHAKES_UNVALIDATED_MAX {
        let (endpoint, datagram) = first_datagram(&client).await;
        let (from, answer) = answer_to(&datagram, addr).await;
        assert_eq!(answer, INITIAL);
        flood.push((endpoint, from));
    }
    for _ in 0..4 {
        let (endpoint, datagram) = first_datagram(&client).await;
        let (from, answer) = answer_to(&datagram, addr).await;
        assert_eq!(answer, RETRY);
        flood.push((endpoint, from));
    }
    // An honest edge answers the retry and is served while the flood stands.
    let (link, _edge, _server) = domain.serve_edge().await;
    check_fetch(&link, fetch_of(1)).await;
}

#[tokio::test]
async fn an_edge_has_so_many_links_and_no_more() {
    let domain = Domain::start();
    let (greedy, addr) = (domain.join(), domain.addr);
    let honest = EdgeEndpoint::bind(any_port(), &domain.join(), config()).unwrap();
    let _server = tokio::spawn(super::serve(domain.cloud));
    let endpoint = EdgeEndpoint::bind(any_port(), &greedy, config()).unwrap();
    let mut links = Vec::new();
    for _ in 0..LINKS_PER_EDGE_MAX {
        links.push(endpoint.connect(addr).await.unwrap());
    }
    for _ in 0..3 {
        let error = endpoint.connect(addr).await.unwrap_err();
        assert_eq!(error, ConnectError::TooManyLinks);
    }
    let link = honest.connect(addr).await.unwrap();
    check_fetch(&link, fetch_of(1)).await;
    check_fetch(&links[0], fetch_of(1)).await;
    // A link that goes makes room, as soon as the cloud has seen it go.
    links.remove(0).close();
    loop {
        match endpoint.connect(addr).await {
            Ok(link) => break check_fetch(&link, fetch_of(2)).await,
            Err(error) => assert_eq!(error, ConnectError::TooManyLinks),
        }
    }
}

#[tokio::test]
async fn the_cloud_knows_why_it_refused_a_link() {
    let mut domain = Domain::start();
    let endpoint = EdgeEndpoint::bind(any_port(), &domain.join(), config()).unwrap();
    let mut links = Vec::new();
    for _ in 0..LINKS_PER_EDGE_MAX {
        links.push((
            endpoint.connect(domain.addr).await.unwrap(),
            domain.cloud.accept().await.unwrap(),
        ));
    }
    let refused = endpoint.connect(domain.addr).await;
    assert_eq!(refused.unwrap_err(), ConnectError::TooManyLinks);
    let last = domain.cloud.refusals().last.unwrap();
    assert!(matches!(*last, AcceptError::TooManyLinks), "{last:?}");
}

/// A cloud that gives a message little time.
fn impatient() -> LinkConfig {
    let message = Duration::from_millis(100);
    LinkConfig {
        timeouts: Timeouts {
            message,
            ..config().timeouts
        },
        ..config()
    }
}

#[tokio::test]
async fn requests_that_never_end_are_given_up_and_hold_up_nobody() {
    let domain = Domain::start_with(impatient());
    let addr = domain.addr;
    let slow = EdgeEndpoint::bind(any_port(), &domain.join(), config()).unwrap();
    let (link, _edge, _server) = domain.serve_edge().await;
    let slow = slow.connect(addr).await.unwrap();
    let claimed = u32::try_from(MESSAGE_BYTES_MAX).unwrap().to_le_bytes();
    let mut streams = Vec::new();
    for _ in 0..REQUEST_STREAMS_MAX {
        let (mut send, receive) = slow.shared.connection.open_bi().await.unwrap();
        send.write_all(&[&claimed[..], &[0]].concat())
            .await
            .unwrap();
        streams.push((send, receive));
    }
    // As many requests as may be open are, so a further one has to wait.
    let further = tokio::time::timeout(Duration::ZERO, slow.shared.connection.open_bi()).await;
    assert!(further.is_err());
    check_fetch(&link, fetch_of(1)).await;
    for (_send, mut receive) in streams {
        let reset = quinn::ReadError::Reset(crate::close::StreamEnd::Malformed.code());
        let ended = receive.read_to_end(1).await;
        assert_eq!(ended, Err(quinn::ReadToEndError::Read(reset)));
    }
    check_fetch(&slow, fetch_of(1)).await;
}

#[tokio::test]
async fn a_cloud_has_so_many_layer_streams_and_no_more() {
    let mut domain = Domain::start();
    let edge = EdgeEndpoint::bind(any_port(), &domain.join(), config()).unwrap();
    let link = edge.connect(domain.addr).await.unwrap();
    let rogue = domain.cloud.accept().await.unwrap();
    let mut streams = Vec::new();
    loop {
        let opening = rogue.link.connection.open_uni();
        let Ok(opened) = tokio::time::timeout(Duration::ZERO, opening).await else {
            break;
        };
        let mut stream = opened.unwrap();
        stream.write_all(b"E").await.unwrap();
        streams.push(stream);
    }
    // The cloud's word of welcome was a stream as well.
    let most = LAYER_STREAMS_MAX as usize;
    assert!((most - 1..=most).contains(&streams.len()));
    // Another cloud serves the same edge process meanwhile.
    let (other, _edge, _server) = Domain::start().serve_edge().await;
    check_fetch(&other, fetch_of(1)).await;
    assert!(link.lost().is_none());
}

#[tokio::test]
async fn a_queued_request_that_is_withdrawn_is_noticed_at_once() {
    let mut domain = Domain::start();
    let edge = EdgeEndpoint::bind(any_port(), &domain.join(), config()).unwrap();
    let link = edge.connect(domain.addr).await.unwrap();
    let mut edge_link = domain.cloud.accept().await.unwrap();
    let fetching = {
        let link = link.clone();
        tokio::spawn(async move { link.fetch(fetch_of(1)).await })
    };
    let IncomingRequest { responder, .. } = edge_link.next_request().await.unwrap();
    let withdrawn = responder.withdrawn();
    // Still wanted.
    assert!(
        tokio::time::timeout(Duration::ZERO, responder.withdrawn())
            .await
            .is_err()
    );
    fetching.abort();
    withdrawn.await;

    let fetching = {
        let link = link.clone();
        tokio::spawn(async move { link.fetch(fetch_of(2)).await.unwrap() })
    };
    let IncomingRequest { responder, .. } = edge_link.next_request().await.unwrap();
    let sender = responder
        .manifest(&manifest_for(&fetch_of(2)))
        .await
        .unwrap();
    let stream = fetching.await.unwrap();
    assert!(
        tokio::time::timeout(Duration::ZERO, sender.withdrawn())
            .await
            .is_err()
    );
    let withdrawn = sender.withdrawn();
    drop(stream);
    withdrawn.await;

    // A link that closes withdraws everything.
    let fetching = {
        let link = link.clone();
        tokio::spawn(async move { link.fetch(fetch_of(3)).await })
    };
    let IncomingRequest { responder, .. } = edge_link.next_request().await.unwrap();
    link.close();
    responder.withdrawn().await;
    let lost = fetching.await.unwrap().unwrap_err();
    assert!(lost.to_string().contains("closed"), "{lost}");
    assert_eq!(link.lost(), Some(LinkLost::ClosedHere));
}
