//! The bytes of every kind of message: a change here is a change of the protocol's version.

use edgeprompt_kv::{
    KvDtype, KvGeometry, LayerDigest, LayerIndex, LayerRange, ModelDigest, PromptId, TokenId,
};
use edgeprompt_protocol::codec::{decode_reply, decode_request, encode_to_cloud, encode_to_edge};
use edgeprompt_protocol::{
    CloudReply, CloudRequest, Fetch, FetchId, KvSource, LayerHeader, LayerTimings, LayerTrailer,
    Manifest, ParityHeader, PromptEntry, PromptRef, PublicPrompt, PublicPromptProblem, Refusal,
};

const MODEL: ModelDigest = ModelDigest::new([0x11; 32]);

/// Encodes, compares with `hex` (spaces are for the reader), decodes, compares again.
fn check_request(request: &CloudRequest, hex: &str) {
    let frame = encode_to_cloud(request).expect("a valid request");
    assert_eq!(to_hex(&frame), strip(hex));
    assert_eq!(
        &decode_request(&frame[4..]).expect("its own bytes"),
        request
    );
}

fn check_reply(reply: &CloudReply, hex: &str) {
    let frame = encode_to_edge(reply).expect("a valid reply");
    assert_eq!(to_hex(&frame), strip(hex));
    assert_eq!(&decode_reply(&frame[4..]).expect("its own bytes"), reply);
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn strip(hex: &str) -> String {
    hex.split_whitespace().collect()
}

fn fetch(prompt: PromptRef, layers: Option<LayerRange>) -> CloudRequest {
    let dtype = KvDtype::F16;
    CloudRequest::Fetch(Fetch {
        fetch: FetchId(7),
        model: MODEL,
        prompt,
        layers,
        dtype,
    })
}

fn tokens(ids: &[u32]) -> Vec<TokenId> {
    ids.iter().copied().map(TokenId).collect()
}

#[test]
fn requests() {
    let (model, id) = ("11".repeat(32), "22".repeat(32));
    check_request(&CloudRequest::ListPrompts, "01000000 01");
    check_request(
        &fetch(PromptRef::Named("faq".parse().unwrap()), None),
        &format!("29000000 00 07 {model} 00 03666171 00 01"),
    );
    check_request(
        &fetch(
            PromptRef::Id(PromptId::new([0x22; 32])),
            LayerRange::new(2, 5),
        ),
        &format!("47000000 00 07 {model} 01 {id} 01 02 05 01"),
    );
    check_request(
        &fetch(PromptRef::Public(PublicPrompt::Text("hé".into())), None),
        &format!("2a000000 00 07 {model} 02 00 0368c3a9 00 01"),
    );
    check_request(
        &fetch(
            PromptRef::Public(PublicPrompt::Tokens(tokens(&[1, 32000]))),
            None,
        ),
        &format!("2b000000 00 07 {model} 02 01 02 01 fb007d 00 01"),
    );
}

#[test]
fn a_manifest() {
    let tokens = tokens(&[1, 300]);
    let manifest = Manifest {
        fetch: FetchId(7),
        prompt: PromptId::of(&MODEL, &tokens),
        model: MODEL,
        geometry: KvGeometry::new(4, 2, 8).unwrap(),
        dtype: KvDtype::F32,
        layers: LayerRange::first(4),
        tokens,
        text: Some("hi".into()),
        source: KvSource::Computing,
    };
    let (prompt, model) = (manifest.prompt.to_string(), "11".repeat(32));
    check_reply(
        &CloudReply::Manifest(manifest),
        &format!("52000000 00 07 {prompt} {model} 04 02 08 00 00 04 02 01 fb2c01 01 026869 01"),
    );
}

#[test]
fn a_list_of_prompts() {
    let prompt = PromptId::new([0x22; 32]);
    let entry = PromptEntry {
        name: "faq".parse().unwrap(),
        prompt,
        token_count: 9,
    };
    let id = "22".repeat(32);
    check_reply(
        &CloudReply::Prompts(vec![entry]),
        &format!("27000000 01 01 03666171 {id} 09"),
    );
    check_reply(&CloudReply::Prompts(Vec::new()), "02000000 01 00");
}

#[test]
fn refusals() {
    let refused = |refusal, hex: &str| check_reply(&CloudReply::Refused(refusal), hex);
    let model = "11".repeat(32);
    refused(
        Refusal::UnknownPrompt {
            name: "faq".parse().unwrap(),
        },
        "06000000 02 00 03666171",
    );
    refused(Refusal::UnknownPromptId, "02000000 02 01");
    refused(
        Refusal::ModelMismatch { cloud: MODEL },
        &format!("22000000 02 02 {model}"),
    );
    refused(
        Refusal::PromptTooLong {
            token_count: 9,
            token_count_max: 8,
        },
        "04000000 02 03 09 08",
    );
    refused(Refusal::PromptEmpty, "02000000 02 04");
    let problem = |problem| Refusal::PublicPromptRefused(problem);
    refused(
        problem(PublicPromptProblem::NotOffered),
        "03000000 02 05 00",
    );
    refused(
        problem(PublicPromptProblem::OutsideVocabulary {
            token: TokenId(9),
            vocabulary_len: 8,
        }),
        "05000000 02 05 01 09 08",
    );
    refused(
        problem(PublicPromptProblem::NotTokenisable),
        "03000000 02 05 02",
    );
    refused(
        Refusal::UnsupportedDtype {
            dtype: KvDtype::F16,
        },
        "03000000 02 06 01",
    );
    refused(
        Refusal::LayersOutOfRange { layer_count: 22 },
        "03000000 02 07 16",
    );
    refused(
        Refusal::Busy {
            waiting_count_max: 4,
        },
        "03000000 02 08 04",
    );
    refused(Refusal::Internal, "02000000 02 09");
}

#[test]
fn a_layer_header_and_trailer() {
    let header = LayerHeader {
        fetch: FetchId(7),
        layer: LayerIndex(3),
        dtype: KvDtype::F16,
        payload_bytes: 4096,
    };
    let hex = "45504b56 0200 02 00 0700000000000000 03000000 00000000 0010000000000000";
    assert_eq!(to_hex(&header.encode()), strip(hex));
    assert_eq!(LayerHeader::decode(&header.encode()), Ok(header));

    let timings = LayerTimings {
        compute_start_us: 1,
        compute_end_us: 258,
        send_start_us: 3,
    };
    let trailer = LayerTrailer {
        digest: LayerDigest::new([0x33; 32]),
        timings,
    };
    let digest = "33".repeat(32);
    let hex = format!("{digest} 0100000000000000 0201000000000000 0300000000000000");
    assert_eq!(to_hex(&trailer.encode()), strip(&hex));
    assert_eq!(LayerTrailer::decode(&trailer.encode()), Ok(trailer));
}

#[test]
fn a_parity_header() {
    let header = ParityHeader {
        fetch: FetchId(7),
        layer: LayerIndex(3),
        strides: [258, 4096],
    };
    let hex = "45504b58 0200 0000 0700000000000000 03000000 02010000 00100000 00000000";
    assert_eq!(to_hex(&header.encode()), strip(hex));
    assert_eq!(ParityHeader::decode(&header.encode()), Ok(header));
}
