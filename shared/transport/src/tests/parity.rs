//! Layers that come in part, and parity that makes up for the rest, or pretends to.

use std::time::Duration;

use bytes::Bytes;
use edgeprompt_kv::LayerIndex;
use edgeprompt_protocol::{FetchId, LAYER_HEADER_BYTES, ParityHeader};
use edgeprompt_testkit::emulator::{
    BitRate, DirectionProfile, EmulatedLink, LinkEmulator, Probability,
};
use quinn::SendStream;

use super::hostile::Rogue;
use super::{Domain, answer, any_port, config, fetch_of, layer_of};
use crate::close::StreamEnd;
use crate::layer_sender::protection;
use crate::parity::{Strides, planes_of};
use crate::{CloudLink, EdgeEndpoint, LayerProblem};

/// Bytes at the end of a layer's stream that are held back.
const HELD_BYTES: usize = 1000;

const STRIDES: Strides = [1300, 1900];

fn header_of(layer: u32, strides: Strides) -> ParityHeader {
    ParityHeader {
        fetch: FetchId(1),
        layer: LayerIndex(layer),
        strides: strides.map(|stride| u32::try_from(stride).unwrap()),
    }
}

/// The honest stream of a layer's parity.
fn parity_of(rogue: &Rogue, layer: u32) -> Vec<u8> {
    let protected = &rogue.layer(layer)[LAYER_HEADER_BYTES..];
    let planes = planes_of(&[protected], STRIDES);
    [&header_of(layer, STRIDES).encode()[..], &planes].concat()
}

/// Sends the honest stream of a layer, but its end.
async fn send_but_the_end(rogue: &Rogue, layer: u32) -> SendStream {
    let mut bytes = rogue.layer(layer);
    bytes.truncate(bytes.len() - HELD_BYTES);
    let mut stream = rogue.link.link.connection.open_uni().await.unwrap();
    stream.write_chunk(Bytes::from(bytes)).await.unwrap();
    stream
}

/// Expects a layer whose end was rebuilt.
async fn check_rebuilt(rogue: &mut Rogue, layer: u32) {
    let received = rogue.stream.next_layer().await.unwrap().unwrap();
    assert_eq!(received.layer, LayerIndex(layer));
    assert_eq!(received.rebuilt_bytes, HELD_BYTES);
    let expected = layer_of(&rogue.manifest, received.layer);
    assert_eq!(received.kv, expected);
}

#[tokio::test]
async fn what_is_missing_of_a_layer_is_rebuilt_and_waited_for_no_more() {
    let mut rogue = Rogue::start().await;
    let layer = send_but_the_end(&rogue, 0).await;
    assert_eq!(rogue.send(parity_of(&rogue, 0)).await, None);
    check_rebuilt(&mut rogue, 0).await;
    let stopped = layer.stopped().await.unwrap();
    assert_eq!(stopped, Some(StreamEnd::Cancelled.code()));

    // The parity may overtake its layer.
    let mut parity = rogue.link.link.connection.open_uni().await.unwrap();
    let bytes = Bytes::from(parity_of(&rogue, 1));
    parity.write_chunk(bytes).await.unwrap();
    parity.finish().unwrap();
    let _layer = send_but_the_end(&rogue, 1).await;
    check_rebuilt(&mut rogue, 1).await;
}

#[tokio::test]
async fn a_layer_comes_by_itself_if_its_parity_is_of_no_use() {
    let mut rogue = Rogue::start().await;
    let mut overlong = parity_of(&rogue, 0);
    overlong.push(0);
    let truncated = parity_of(&rogue, 1)[..500].to_vec();
    for (number, parity) in [(0, overlong), (1, truncated)] {
        // Nothing of the planes' own end can be used before they are read.
        let held = rogue.layer(number)[LAYER_HEADER_BYTES + 5..].to_vec();
        let beginning = rogue.layer(number)[..LAYER_HEADER_BYTES + 5].to_vec();
        let mut layer = rogue.link.link.connection.open_uni().await.unwrap();
        layer.write_chunk(beginning.into()).await.unwrap();
        rogue.send(parity).await;
        layer.write_chunk(held.into()).await.unwrap();
        layer.finish().unwrap();
        let received = rogue.stream.next_layer().await.unwrap().unwrap();
        assert_eq!(received.kv, layer_of(&rogue.manifest, LayerIndex(number)));
    }
}

#[tokio::test]
async fn parity_that_lies_makes_a_corrupt_layer_and_no_more() {
    let mut rogue = Rogue::start().await;
    let _layer = send_but_the_end(&rogue, 0).await;
    let mut lie = parity_of(&rogue, 0);
    for byte in &mut lie[LAYER_HEADER_BYTES..] {
        *byte ^= 0x55;
    }
    rogue.send(lie).await;
    // Rebuilt bytes are the trailer's as well, whose times may be impossible.
    let problem = rogue.problem(0).await;
    assert!(
        matches!(problem, LayerProblem::Corrupt | LayerProblem::Trailer(_)),
        "{problem:?}"
    );
    let _layer = send_but_the_end(&rogue, 1).await;
    rogue.send(parity_of(&rogue, 1)).await;
    check_rebuilt(&mut rogue, 1).await;
}

#[tokio::test]
async fn parity_of_no_layer_is_stopped() {
    let mut rogue = Rogue::start().await;
    // Padded, so that the stream is still being sent when it is stopped.
    let refused = |header: ParityHeader| [&header.encode()[..], &[0; 1 << 20]].concat();
    let good = header_of(0, STRIDES);
    let strides = [u32::MAX, u32::MAX];
    let ended = rogue.send(refused(ParityHeader { strides, ..good })).await;
    assert_eq!(ended, Some(StreamEnd::Malformed.code()));
    let ended = rogue.send(refused(header_of(77, STRIDES))).await;
    assert_eq!(ended, Some(StreamEnd::Malformed.code()));
    let fetch = FetchId(99);
    let ended = rogue.send(refused(ParityHeader { fetch, ..good })).await;
    assert_eq!(ended, Some(StreamEnd::UnknownFetch.code()));

    rogue.send(rogue.layer(0)).await;
    rogue.stream.next_layer().await.unwrap().unwrap();
    let ended = rogue.send(refused(good)).await;
    assert_eq!(ended, Some(StreamEnd::Cancelled.code()), "too late");
    let ended = rogue.send(refused(good)).await;
    assert_eq!(ended, Some(StreamEnd::UnexpectedLayer.code()), "again");
}

#[tokio::test]
async fn an_edge_that_does_not_know_parity_is_sent_no_more() {
    let rogue = Rogue::start().await;
    let link = &rogue.link.link;
    let open = async |bytes: Vec<u8>| {
        let mut stream = link.connection.open_uni().await.unwrap();
        stream.write_chunk(bytes.into()).await.unwrap();
        stream
    };
    let taken = open(parity_of(&rogue, 0)).await;
    let mut whole = open(rogue.layer(0)).await;
    whole.finish().unwrap();
    protection::heed_refusal(taken.stopped(), link.parity.clone()).await;
    assert!(!link.parity.is_refused());
    // What such an edge takes a parity's header for.
    let refused = open(b"not a layer's header, and as long as one".to_vec()).await;
    protection::heed_refusal(refused.stopped(), link.parity.clone()).await;
    assert!(link.parity.is_refused());
}

/// Fetches all layers; returns how many bytes were rebuilt.
async fn fetch_all(link: &CloudLink) -> usize {
    let fetch = fetch_of(link.next_fetch_id().0);
    let mut stream = link.fetch(fetch).await.unwrap();
    let mut rebuilt_bytes = 0;
    while let Some(received) = stream.next_layer().await.unwrap() {
        let expected = layer_of(stream.manifest(), received.layer);
        assert_eq!(received.kv, expected);
        rebuilt_bytes += received.rebuilt_bytes;
    }
    rebuilt_bytes
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_lossy_path_takes_is_rebuilt() {
    const SEED: u64 = 5;
    const FETCHES_MAX: usize = 200;
    println!("seed {SEED}");
    let mut domain = Domain::start();
    let edge = EdgeEndpoint::bind(any_port(), &domain.join(), config()).unwrap();
    let rate = BitRate::megabits_per_second(100);
    let direction = DirectionProfile::constant(rate, Duration::from_millis(10))
        .with_loss(Probability::per_million(10_000));
    let emulated = EmulatedLink::symmetric(direction, SEED);
    let emulator = LinkEmulator::start(domain.addr, emulated).unwrap();
    let connecting = edge.connect(emulator.addr());
    let (link, served) = tokio::join!(connecting, domain.cloud.accept());
    let (link, mut served) = (link.unwrap(), served.unwrap());
    for number in 1..=FETCHES_MAX {
        let serve = async { answer(served.next_request().await.unwrap()).await };
        let (rebuilt_bytes, ()) = tokio::join!(fetch_all(&link), serve);
        println!("fetch {number}: {rebuilt_bytes} bytes rebuilt");
        if rebuilt_bytes > 0 {
            assert!(link.lost().is_none() && !served.link.parity.is_refused());
            return;
        }
    }
    panic!("one packet in a hundred was lost, and nothing was rebuilt");
}
