//! What a peer may send: anything. Round trips of valid values, refusals of all others.

use edgeprompt_kv::{
    GeometryError, KvDtype, KvGeometry, LayerDigest, LayerIndex, LayerRange, ModelDigest, PromptId,
    TokenId,
};
use edgeprompt_protocol::codec::{
    DecodeError, EncodeError, decode_reply, decode_request, encode_to_cloud, encode_to_edge,
};
use edgeprompt_protocol::frame::MESSAGE_BYTES_MAX;
use edgeprompt_protocol::{
    CloudReply, CloudRequest, Fetch, FetchId, HeaderError, HeaderMismatch, InvalidMessage,
    KvSource, LayerHeader, LayerTimings, LayerTrailer, Manifest, PROMPT_ENTRIES_MAX,
    PROMPT_TOKENS_MAX, PUBLIC_TEXT_BYTES_MAX, ParityHeader, ParityHeaderError, ParityMismatch,
    PromptEntry, PromptRef, PublicPrompt, TrailerError,
};
use proptest::prelude::*;

const MODEL: ModelDigest = ModelDigest::new([0x11; 32]);

fn manifest(tokens: Vec<TokenId>) -> Manifest {
    Manifest {
        fetch: FetchId(7),
        prompt: PromptId::of(&MODEL, &tokens),
        model: MODEL,
        geometry: KvGeometry::new(4, 2, 8).expect("4 layers of 2 heads of 8 are within the limits"),
        dtype: KvDtype::F32,
        layers: LayerRange::first(4),
        tokens,
        text: None,
        source: KvSource::Stored,
    }
}

fn fetch(prompt: PromptRef) -> Fetch {
    Fetch {
        fetch: FetchId(7),
        model: MODEL,
        prompt,
        layers: None,
        dtype: KvDtype::F32,
    }
}

fn refusal_of(reply: CloudReply) -> InvalidMessage {
    match encode_to_edge(&reply) {
        Err(EncodeError::Invalid(invalid)) => invalid,
        other => panic!("expected an invalid message, got {other:?}"),
    }
}

/// Takes the valid encoding of a manifest and puts `patch` in place of the bytes at `at`.
fn patched(at: usize, patch: &[u8]) -> Result<CloudReply, DecodeError> {
    let frame = encode_to_edge(&CloudReply::Manifest(manifest(vec![TokenId(1)])))
        .expect("the manifest is valid before it is patched");
    let mut body = frame[4..].to_vec();
    body[at..at + patch.len()].copy_from_slice(patch);
    decode_reply(&body)
}

#[test]
fn the_largest_messages_fit() {
    let tokens = vec![TokenId(u32::MAX); PROMPT_TOKENS_MAX];
    let text = "x".repeat(PUBLIC_TEXT_BYTES_MAX);
    let largest = CloudReply::Manifest(Manifest {
        text: Some(text),
        ..manifest(tokens)
    });
    let frame = encode_to_edge(&largest).unwrap();
    assert_eq!(decode_reply(&frame[4..]).unwrap(), largest);

    let name = "n".repeat(128).parse().unwrap();
    let entry = PromptEntry {
        name,
        prompt: PromptId::new([1; 32]),
        token_count: u32::MAX,
    };
    let list = CloudReply::Prompts(vec![entry; PROMPT_ENTRIES_MAX]);
    let frame = encode_to_edge(&list).unwrap();
    assert_eq!(decode_reply(&frame[4..]).unwrap(), list);
}

#[test]
fn limits_hold_for_the_sender_too() {
    let public = |prompt| encode_to_cloud(&CloudRequest::Fetch(fetch(PromptRef::Public(prompt))));
    let text = public(PublicPrompt::Text("x".repeat(PUBLIC_TEXT_BYTES_MAX + 1)));
    assert!(matches!(
        text,
        Err(EncodeError::Invalid(InvalidMessage::TextTooLong { .. }))
    ));
    let tokens = public(PublicPrompt::Tokens(vec![
        TokenId(0);
        PROMPT_TOKENS_MAX + 1
    ]));
    assert!(matches!(
        tokens,
        Err(EncodeError::Invalid(InvalidMessage::TooManyTokens { .. }))
    ));
    let empty = public(PublicPrompt::Tokens(Vec::new()));
    assert!(matches!(
        empty,
        Err(EncodeError::Invalid(InvalidMessage::EmptyPrompt))
    ));

    let good = manifest(vec![TokenId(1)]);
    let beyond = Manifest {
        layers: LayerRange::first(5),
        ..good.clone()
    };
    let invalid = refusal_of(CloudReply::Manifest(beyond));
    assert_eq!(
        invalid,
        InvalidMessage::Layers {
            start: 0,
            end: 5,
            layer_count: 4
        }
    );
    let geometry = KvGeometry::new(4, 1024, 4096).unwrap();
    let large = Manifest {
        geometry,
        ..manifest(vec![TokenId(1); 64])
    };
    assert!(matches!(
        refusal_of(CloudReply::Manifest(large)),
        InvalidMessage::LayerTooLarge {
            bytes: 2_147_483_648
        }
    ));
    let lie = Manifest {
        tokens: vec![TokenId(2)],
        ..good
    };
    assert!(matches!(
        refusal_of(CloudReply::Manifest(lie)),
        InvalidMessage::PromptId { .. }
    ));
}

#[test]
fn decoded_manifests_are_checked() {
    // Body: kind, fetch, prompt 32, model 32, geometry 3, dtype, layers 2, tokens, text, source.
    assert!(matches!(
        patched(66, &[0]),
        Err(DecodeError::Invalid(InvalidMessage::Geometry(
            GeometryError::Zero
        )))
    ));
    let reversed = InvalidMessage::Layers {
        start: 3,
        end: 1,
        layer_count: 4,
    };
    assert!(matches!(patched(70, &[3, 1]), Err(DecodeError::Invalid(i)) if i == reversed));
    assert!(matches!(
        patched(2, &[0xff]),
        Err(DecodeError::Invalid(InvalidMessage::PromptId { .. }))
    ));
    assert!(matches!(patched(69, &[9]), Err(DecodeError::Malformed(_))));
}

#[test]
fn a_claimed_length_is_refused_before_it_is_allocated() {
    // ListPrompts' reply and a public text that claim 2^64-1 entries and bytes.
    let entries = [&[1, 0xfd][..], &[0xff; 8]].concat();
    assert!(matches!(
        decode_reply(&entries),
        Err(DecodeError::Malformed(_))
    ));
    let text = [&[0, 7][..], &[0x11; 32], &[2, 0, 0xfd], &[0xff; 8]].concat();
    assert!(matches!(
        decode_request(&text),
        Err(DecodeError::Malformed(_))
    ));
    let long = vec![0; MESSAGE_BYTES_MAX + 1];
    assert!(matches!(
        decode_request(&long),
        Err(DecodeError::TooLarge { .. })
    ));
}

#[test]
fn every_byte_of_a_message_counts() {
    assert!(matches!(
        decode_request(&[1, 0]),
        Err(DecodeError::Trailing { bytes: 1 })
    ));
    assert!(matches!(
        decode_request(&[]),
        Err(DecodeError::Malformed(_))
    ));
    let frame = encode_to_cloud(&CloudRequest::Fetch(fetch(PromptRef::Id(PromptId::new(
        [2; 32],
    )))));
    let frame = frame.unwrap();
    for end in 4..frame.len() {
        assert!(decode_request(&frame[4..end]).is_err(), "cut at {end}");
    }
}

#[test]
fn names_are_checked_on_arrival() {
    let body = [&[0, 7][..], &[0x11; 32], &[0, 3], b"a/b", &[0, 1]].concat();
    assert!(matches!(
        decode_request(&body),
        Err(DecodeError::Malformed(_))
    ));
}

#[test]
fn a_number_format_that_nobody_knows_is_refused() {
    let body = |dtype| [&[0, 7][..], &[0x11; 32], &[0, 1], b"a", &[0, dtype]].concat();
    assert!(decode_request(&body(4)).is_ok());
    assert!(matches!(
        decode_request(&body(5)),
        Err(DecodeError::Malformed(_))
    ));
    let mut header = LayerHeader::of(&manifest(vec![TokenId(1)]), LayerIndex(0)).encode();
    for code in 1..=5 {
        header[6] = code;
        assert!(LayerHeader::decode(&header).is_ok());
    }
    header[6] = 6;
    assert_eq!(
        LayerHeader::decode(&header),
        Err(HeaderError::Dtype { code: 6 })
    );
}

#[test]
fn a_parity_header_must_be_one_of_its_manifest() {
    let manifest = manifest(vec![TokenId(1), TokenId(2)]);
    let good = ParityHeader {
        fetch: manifest.fetch,
        layer: LayerIndex(3),
        strides: [12, 300],
    };
    // 256 bytes of payload and 56 of trailer are protected.
    assert_eq!(good.check_against(&manifest), Ok([12, 300]));
    let refused = |header: ParityHeader| header.check_against(&manifest).unwrap_err();
    for strides in [[0, 4], [4, 0], [13, 300], [u32::MAX, u32::MAX]] {
        let expected = ParityMismatch::Strides {
            strides,
            protected_bytes: 312,
        };
        assert_eq!(refused(ParityHeader { strides, ..good }), expected);
    }
    let layer = LayerIndex(4);
    assert_eq!(
        refused(ParityHeader { layer, ..good }),
        ParityMismatch::Layer { layer }
    );
    let fetch = FetchId(8);
    assert_eq!(
        refused(ParityHeader { fetch, ..good }),
        ParityMismatch::Fetch { fetch }
    );
    let changed = |at: usize| {
        let mut bytes = good.encode();
        bytes[at] ^= 1;
        ParityHeader::decode(&bytes).map(|_| ())
    };
    assert_eq!(changed(0), Err(ParityHeaderError::Magic));
    assert_eq!(changed(4), Err(ParityHeaderError::Version { version: 3 }));
    for reserved in [6, 7, 28, 31] {
        assert_eq!(changed(reserved), Err(ParityHeaderError::Reserved));
    }
}

#[test]
fn a_header_must_be_one_of_its_manifest() {
    let manifest = manifest(vec![TokenId(1), TokenId(2)]);
    let good = LayerHeader::of(&manifest, LayerIndex(3));
    assert_eq!(good.check_against(&manifest), Ok(2 * 2 * 8 * 2 * 4));
    let refused = |header: LayerHeader| header.check_against(&manifest).unwrap_err();
    let huge = LayerHeader {
        payload_bytes: u64::MAX,
        ..good
    };
    assert_eq!(
        refused(huge),
        HeaderMismatch::PayloadBytes {
            expected: 256,
            claimed: u64::MAX
        }
    );
    let layer = LayerIndex(4);
    assert_eq!(
        refused(LayerHeader { layer, ..good }),
        HeaderMismatch::Layer { layer }
    );
    let fetch = FetchId(8);
    assert_eq!(
        refused(LayerHeader { fetch, ..good }),
        HeaderMismatch::Fetch { fetch }
    );
    let dtype = KvDtype::F16;
    assert!(matches!(
        refused(LayerHeader { dtype, ..good }),
        HeaderMismatch::Dtype { .. }
    ));
}

#[test]
fn headers_and_trailers_of_other_shapes_are_refused() {
    let good = LayerHeader::of(&manifest(vec![TokenId(1)]), LayerIndex(0)).encode();
    let with = |at: usize, byte: u8| {
        let mut bytes = good;
        bytes[at] = byte;
        LayerHeader::decode(&bytes).unwrap_err()
    };
    assert_eq!(with(0, b'X'), HeaderError::Magic);
    assert_eq!(with(4, 1), HeaderError::Version { version: 1 });
    assert_eq!(with(6, 0), HeaderError::Dtype { code: 0 });
    assert_eq!(with(7, 1), HeaderError::Reserved);
    assert_eq!(with(23, 1), HeaderError::Reserved);

    let timings = LayerTimings {
        compute_start_us: 2,
        compute_end_us: 1,
        send_start_us: 0,
    };
    let trailer = LayerTrailer {
        digest: LayerDigest::new([0; 32]),
        timings,
    };
    let reversed = TrailerError::Reversed {
        start_us: 2,
        end_us: 1,
    };
    assert_eq!(LayerTrailer::decode(&trailer.encode()), Err(reversed));
}

fn any_prompt_ref() -> impl Strategy<Value = PromptRef> {
    prop_oneof![
        "[A-Za-z0-9_-][A-Za-z0-9._-]{0,127}".prop_map(|name| {
            PromptRef::Named(name.parse().expect("the pattern is that of a name"))
        }),
        any::<[u8; 32]>().prop_map(|id| PromptRef::Id(PromptId::new(id))),
        ".{1,200}".prop_map(|text| PromptRef::Public(PublicPrompt::Text(text))),
        any_tokens().prop_map(|tokens| PromptRef::Public(PublicPrompt::Tokens(tokens))),
    ]
}

fn any_tokens() -> impl Strategy<Value = Vec<TokenId>> {
    proptest::collection::vec(any::<u32>().prop_map(TokenId), 1..200)
}

fn any_dtype() -> impl Strategy<Value = KvDtype> {
    prop::sample::select(&KvDtype::ALL[..])
}

proptest! {
    #[test]
    fn fetches_survive_the_wire(
        fetch: u64,
        model: [u8; 32],
        prompt in any_prompt_ref(),
        layers in proptest::option::of((0u32..512, 1u32..512)),
        dtype in any_dtype(),
    ) {
        let layers = layers.map(|(start, len)| LayerRange::new(start, start + len).unwrap());
        let (fetch, model) = (FetchId(fetch), ModelDigest::new(model));
        let request = CloudRequest::Fetch(Fetch { fetch, model, prompt, layers, dtype });
        let frame = encode_to_cloud(&request).unwrap();
        prop_assert_eq!(decode_request(&frame[4..]).unwrap(), request);
    }

    #[test]
    fn manifests_survive_the_wire(
        tokens in any_tokens(),
        text in proptest::option::of(".{1,200}"),
        dtype in any_dtype(),
    ) {
        let reply = CloudReply::Manifest(Manifest { text, dtype, ..manifest(tokens) });
        let frame = encode_to_edge(&reply).unwrap();
        prop_assert_eq!(decode_reply(&frame[4..]).unwrap(), reply);
    }

    #[test]
    fn headers_and_trailers_survive_the_wire(
        ids: (u64, u32, u64), dtype in any_dtype(), digest: [u8; 32], times: (u64, u32, u64),
    ) {
        let (fetch, layer, payload_bytes) = (FetchId(ids.0), LayerIndex(ids.1), ids.2);
        let header = LayerHeader { fetch, layer, dtype, payload_bytes };
        prop_assert_eq!(LayerHeader::decode(&header.encode()), Ok(header));
        let compute_end_us = times.0.saturating_add(times.1.into());
        let timings =
            LayerTimings { compute_start_us: times.0, compute_end_us, send_start_us: times.2 };
        let trailer = LayerTrailer { digest: LayerDigest::new(digest), timings };
        prop_assert_eq!(LayerTrailer::decode(&trailer.encode()), Ok(trailer));
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes: Vec<u8>, header: [u8; 32], tail: [u8; 24]) {
        let _ = decode_request(&bytes);
        let _ = decode_reply(&bytes);
        let _ = LayerHeader::decode(&header);
        let mut trailer = [0; 56];
        trailer[..32].copy_from_slice(&header);
        trailer[32..].copy_from_slice(&tail);
        let _ = LayerTrailer::decode(&trailer);
    }

    #[test]
    fn damaged_messages_never_panic(at in 0usize..100, byte: u8) {
        let frame = encode_to_edge(&CloudReply::Manifest(manifest(vec![TokenId(1); 9]))).unwrap();
        let mut body = frame[4..].to_vec();
        let at = at % body.len();
        body[at] = byte;
        if let Ok(CloudReply::Manifest(manifest)) = decode_reply(&body) {
            let layer_count = manifest.geometry.layer_count();
            prop_assert!(manifest.layers.bounds().end <= layer_count);
        }
    }
}
