//! Admitted peers that send what no honest node sends: refused, reported, and nobody else notices.

use bytes::Bytes;
use edgeprompt_kv::LayerIndex;
use edgeprompt_protocol::frame::MESSAGE_BYTES_MAX;
use edgeprompt_protocol::{
    FetchId, LAYER_HEADER_BYTES, LayerHeader, LayerTimings, LayerTrailer, Manifest,
};
use quinn::VarInt;

use super::{Domain, any_port, check_fetch, config, fetch_of, layer_of, manifest_for};
use crate::close::StreamEnd;
use crate::{
    EdgeEndpoint, EdgeLink, IncomingRequest, LayerProblem, LayerSender, LayerStream,
    LayerStreamError,
};

/// A fetch whose cloud sends raw streams.
pub(super) struct Rogue {
    pub(super) stream: LayerStream,
    pub(super) link: EdgeLink,
    pub(super) manifest: Manifest,
    _sender: LayerSender,
    _edge: EdgeEndpoint,
    _domain: Domain,
}

impl Rogue {
    pub(super) async fn start() -> Self {
        let mut domain = Domain::start();
        let edge = EdgeEndpoint::bind(any_port(), &domain.join(), config()).unwrap();
        let edge_end = edge.connect(domain.addr).await.unwrap();
        let mut link = domain.cloud.accept().await.unwrap();
        let fetching = tokio::spawn(async move { edge_end.fetch(fetch_of(1)).await.unwrap() });
        let IncomingRequest { responder, .. } = link.next_request().await.unwrap();
        let manifest = manifest_for(&fetch_of(1));
        let sender = responder.manifest(&manifest).await.unwrap();
        let stream = fetching.await.unwrap();
        Self {
            stream,
            link,
            manifest,
            _sender: sender,
            _edge: edge,
            _domain: domain,
        }
    }

    /// Sends `bytes` as one stream; returns the code it was stopped with, if it was.
    pub(super) async fn send(&self, bytes: Vec<u8>) -> Option<VarInt> {
        let mut stream = self.link.link.connection.open_uni().await.unwrap();
        stream.write_chunk(Bytes::from(bytes)).await.unwrap();
        stream.finish().unwrap();
        stream.stopped().await.unwrap()
    }

    /// The honest stream of a layer.
    pub(super) fn layer(&self, layer: u32) -> Vec<u8> {
        let kv = layer_of(&self.manifest, LayerIndex(layer));
        let header = LayerHeader::of(&self.manifest, LayerIndex(layer));
        let trailer = LayerTrailer {
            digest: header.digest(&self.manifest.prompt, kv.payload()),
            timings: LayerTimings::default(),
        };
        [&header.encode()[..], kv.payload(), &trailer.encode()].concat()
    }

    pub(super) async fn problem(&mut self, layer: u32) -> LayerProblem {
        let error = self.stream.next_layer().await.unwrap_err();
        assert!(!error.is_final());
        let LayerStreamError::Layer(failure) = error else {
            panic!("{error:?}")
        };
        assert_eq!(failure.layer, LayerIndex(layer));
        failure.problem
    }
}

#[tokio::test]
async fn a_corrupt_layer_is_detected_and_the_others_still_come() {
    let mut rogue = Rogue::start().await;
    let mut corrupt = rogue.layer(0);
    corrupt[1000] ^= 1;
    rogue.send(corrupt).await;
    assert_eq!(rogue.problem(0).await, LayerProblem::Corrupt);

    let mut truncated = rogue.layer(1);
    truncated.truncate(5000);
    rogue.send(truncated).await;
    assert_eq!(rogue.problem(1).await, LayerProblem::Truncated);

    let mut overlong = rogue.layer(2);
    overlong.push(0);
    rogue.send(overlong).await;
    assert_eq!(rogue.problem(2).await, LayerProblem::Overlong);

    // The bytes and the digest of another layer are as whole, and not this one's.
    let (mut other, header) = (rogue.layer(5), rogue.layer(4));
    other[..LAYER_HEADER_BYTES].copy_from_slice(&header[..LAYER_HEADER_BYTES]);
    rogue.send(other).await;
    assert_eq!(rogue.problem(4).await, LayerProblem::Corrupt);

    rogue.send(rogue.layer(3)).await;
    let layer = rogue.stream.next_layer().await.unwrap().unwrap();
    assert_eq!(layer.layer, LayerIndex(3));
    assert_eq!(rogue.stream.remaining_count(), 1);
}

#[tokio::test]
async fn a_header_that_contradicts_the_manifest_is_refused_before_the_payload() {
    let mut rogue = Rogue::start().await;
    let header = LayerHeader::of(&rogue.manifest, LayerIndex(4));
    let huge = LayerHeader {
        payload_bytes: u64::MAX,
        ..header
    };
    rogue.send(huge.encode().to_vec()).await;
    assert!(matches!(rogue.problem(4).await, LayerProblem::Header(_)));
}

#[tokio::test]
async fn streams_of_no_layer_are_stopped() {
    let mut rogue = Rogue::start().await;
    rogue.send(rogue.layer(0)).await;
    assert_eq!(
        rogue.stream.next_layer().await.unwrap().unwrap().layer,
        LayerIndex(0)
    );
    // Padded, so that the stream is still being sent when it is stopped.
    let refused = |bytes: Vec<u8>| [bytes, vec![0; 1 << 20]].concat();
    let duplicate = rogue.send(refused(rogue.layer(0))).await;
    assert_eq!(duplicate, Some(StreamEnd::UnexpectedLayer.code()));
    let header = LayerHeader::of(&rogue.manifest, LayerIndex(77));
    let unannounced = rogue.send(refused(header.encode().to_vec())).await;
    assert_eq!(unannounced, Some(StreamEnd::UnexpectedLayer.code()));
    let header = LayerHeader {
        fetch: FetchId(99),
        ..header
    };
    let unknown = rogue.send(refused(header.encode().to_vec())).await;
    assert_eq!(unknown, Some(StreamEnd::UnknownFetch.code()));
    let garbage = rogue.send(refused(b"GET / HTTP/1.1\r\n".to_vec())).await;
    assert_eq!(garbage, Some(StreamEnd::Malformed.code()));
    rogue.send(rogue.layer(1)).await;
    assert_eq!(
        rogue.stream.next_layer().await.unwrap().unwrap().layer,
        LayerIndex(1)
    );
}

#[tokio::test]
async fn an_oversized_request_is_refused_and_the_cloud_serves_on() {
    let domain = Domain::start();
    let other = EdgeEndpoint::bind(any_port(), &domain.join(), config()).unwrap();
    let addr = domain.addr;
    let (link, _edge, _server) = domain.serve_edge().await;
    let other = other.connect(addr).await.unwrap();
    let too_large = u32::try_from(MESSAGE_BYTES_MAX).unwrap() + 1;
    let bodies = [(too_large, 0), (8, 8), (5, 5)];
    for (claimed, sent) in bodies {
        let (mut send, mut receive) = link.shared.connection.open_bi().await.unwrap();
        let body = [&claimed.to_le_bytes()[..], &vec![0xff; sent]].concat();
        send.write_all(&body).await.unwrap();
        let answer = receive.read_to_end(100).await;
        let reset = quinn::ReadError::Reset(StreamEnd::Malformed.code());
        assert_eq!(answer, Err(quinn::ReadToEndError::Read(reset)));
        check_fetch(&other, fetch_of(u64::from(claimed))).await;
    }
    check_fetch(&link, fetch_of(1)).await;
}
