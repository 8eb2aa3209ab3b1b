//! What edges say to each other, byte for byte: a change here is a change of [`PEER_ALPN`].

use edgeprompt_handover::session::{Claim, ClaimReply, Epoch, ToSource, ToTarget};
use edgeprompt_kv::{KvDtype, KvGeometry, ModelDigest, PromptId, TokenId};
use edgeprompt_protocol::codec::{ToPeer, decode_from_peer, encode_to_peer};
use edgeprompt_protocol::{
    AnswerToken, LastToken, Move, MoveAnswer, MoveRefusal, PEER_ALPN, PeerRequest, ReaderNews,
    Reading, SessionKey, SessionOffer, SessionTerms, TargetSpeed, Ticket,
};

const EPOCH: Epoch = Epoch { claim: 2, hop: 3 };
const SESSION: SessionKey = SessionKey([0x5e; 16]);
const TICKET: Ticket = Ticket([0x71; 32]);

fn check<M: ToPeer>(message: &M, hex: &str) {
    let frame = encode_to_peer(message).expect("a valid message");
    let found: String = frame[4..]
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    let expected: String = hex.split_whitespace().collect();
    assert_eq!(found, expected);
    // The types cannot be printed or compared: they are private.
    let again: M = decode_from_peer(&frame[4..]).expect("its own bytes");
    assert!(encode_to_peer(&again).expect("valid") == frame);
}

fn token(id: u32) -> AnswerToken {
    AnswerToken {
        token: TokenId(id),
        logprob: Some(-1.0),
        top: vec![(TokenId(id), -1.0)],
    }
}

fn offer() -> SessionOffer {
    SessionOffer {
        session: SESSION,
        ticket: TICKET,
        epoch: EPOCH,
        model: ModelDigest::new([0x11; 32]),
        geometry: KvGeometry::new(4, 2, 8).expect("a shape"),
        cloud_prompt: Some(("faq".parse().expect("a name"), PromptId::new([0x22; 32]))),
        prompt: vec![TokenId(7), TokenId(300)],
        context: vec![TokenId(300)],
        answer: vec![AnswerToken {
            logprob: None,
            top: Vec::new(),
            ..token(9)
        }],
        terms: SessionTerms {
            temperature: 0.5,
            top_p: 1.0,
            top_k: 40,
            min_p: 0.0,
            repetition_penalty: 1.0,
            presence_penalty: 0.0,
            frequency_penalty: 0.0,
            seed: 5,
            max_tokens: 100,
            end_tokens: vec![TokenId(2)],
            stops: vec!["END".to_owned()],
            top_logprobs: None,
        },
        prefill_len: 1,
        dtype: KvDtype::F32,
    }
}

#[test]
fn requests() {
    assert_eq!(PEER_ALPN, b"edgeprompt-handover/2");
    let (session, ticket) = ("5e".repeat(16), "71".repeat(32));
    check(
        &PeerRequest::Kv {
            session: SESSION,
            ticket: TICKET,
            epoch: EPOCH,
        },
        &format!("01 {session} {ticket} 02 03"),
    );
    let reading = Reading {
        session: SESSION,
        ticket: TICKET,
        epoch: EPOCH,
        claim: Claim::Take,
        answer: vec![TokenId(9)],
    };
    check(
        &PeerRequest::Read(reading),
        &format!("02 {session} {ticket} 02 03 01 01 09"),
    );
    let (model, prompt) = ("11".repeat(32), "22".repeat(32));
    check(
        &PeerRequest::Move(Box::new(offer())),
        &format!(
            "00 {session} {ticket} 02 03 {model} 04 02 08 01 03 666171 {prompt} 02 07 fb2c01 \
             01 fb2c01 01 090000 0000003f 0000803f 28 00000000 0000803f 00000000 00000000 05 64 01 02 \
             01 03 454e44 00 01 00"
        ),
    );
}

const SPEED: TargetSpeed = TargetSpeed {
    prefill_token_s: 0.5,
    prefill_pair_s: 0.25,
    receiving_factor: 2.0,
    decode_s: 0.0,
    behind_len_max: 300,
};

#[test]
fn speeds() {
    check(&PeerRequest::Speed, "03");
    check(
        &SPEED,
        "000000000000e03f 000000000000d03f 0000000000000040 0000000000000000 fb2c01",
    );
    for wrong in [f64::NAN, f64::INFINITY, -1.0, 1e9] {
        let token = TargetSpeed {
            prefill_token_s: wrong,
            ..SPEED
        };
        let pair = TargetSpeed {
            prefill_pair_s: wrong,
            ..SPEED
        };
        let receiving = TargetSpeed {
            receiving_factor: wrong,
            ..SPEED
        };
        let decode = TargetSpeed {
            decode_s: wrong,
            ..SPEED
        };
        for speed in [token, pair, receiving, decode] {
            assert!(encode_to_peer(&speed).is_err(), "{speed:?}");
        }
    }
}

#[test]
fn moves_and_answers() {
    check(
        &Move {
            order: ToTarget::Tokens {
                epoch: EPOCH,
                start: 4,
                end: 5,
            },
            tokens: vec![token(9)],
        },
        "01 02 03 04 05 01 09 01000080bf 01 09 000080bf",
    );
    check(
        &Move {
            order: ToTarget::Commit {
                epoch: EPOCH,
                len: 5,
            },
            tokens: Vec::new(),
        },
        "02 02 03 05 00",
    );
    check(
        &MoveAnswer {
            answer: ToSource::Refused { epoch: EPOCH },
            computed_len: 0,
            refusal: Some(MoveRefusal::NoRoom),
            url: Some("u".to_owned()),
        },
        "01 02 03 00 01 01 01 01 75",
    );
}

#[test]
fn news_for_readers() {
    check(
        &ReaderNews::Claim(ClaimReply::Moved(EPOCH), Some("a".to_owned())),
        "00 01 02 03 01 01 61",
    );
    check(
        &ReaderNews::Token {
            epoch: EPOCH,
            index: 4,
            token: token(9),
            last: Some(LastToken::Length),
        },
        "02 02 03 04 09 01000080bf 01 09 000080bf 01 01",
    );
    check(
        &ReaderNews::Moved {
            epoch: EPOCH,
            addr: "a".to_owned(),
        },
        "04 02 03 01 61",
    );
}

#[test]
fn what_contradicts_itself_is_refused() {
    let mut empty = offer();
    empty.prompt.clear();
    assert!(encode_to_peer(&PeerRequest::Move(Box::new(empty))).is_err());
    let mut endless = offer();
    endless.terms.max_tokens = 0;
    assert!(encode_to_peer(&PeerRequest::Move(Box::new(endless))).is_err());
    let mut hot = offer();
    hot.terms.temperature = f32::NAN;
    assert!(encode_to_peer(&PeerRequest::Move(Box::new(hot))).is_err());
    let short = Move {
        order: ToTarget::Tokens {
            epoch: EPOCH,
            start: 4,
            end: 9,
        },
        tokens: vec![token(9)],
    };
    assert!(encode_to_peer(&short).is_err());
}

proptest::proptest! {
    /// Whatever an edge sends: a message that is valid, or an error.
    #[test]
    fn arbitrary_bytes_are_read_or_refused(bytes: Vec<u8>, flips in proptest::collection::vec((0..300usize, 1..=255u8), 0..4)) {
        let _ = decode_from_peer::<PeerRequest>(&bytes);
        let _ = decode_from_peer::<ReaderNews>(&bytes);
        let _ = decode_from_peer::<MoveAnswer>(&bytes);
        let _ = decode_from_peer::<TargetSpeed>(&bytes);
        let frame = encode_to_peer(&PeerRequest::Move(Box::new(offer()))).expect("valid");
        let mut body = frame[4..].to_vec();
        for (at, bits) in flips {
            let at = at % body.len();
            body[at] ^= bits;
        }
        if let Ok(message) = decode_from_peer::<PeerRequest>(&body) {
            proptest::prop_assert!(encode_to_peer(&message).is_ok());
        }
    }
}
