//! An edge of the trust domain that says what no edge says: it is refused, and harms nobody.

use std::net::SocketAddr;

use burn::tensor::Device;
use edgeprompt_handover::session::{Claim, Epoch, ToTarget};
use edgeprompt_kv::{KvDtype, TokenId};
use edgeprompt_model::Model;
use edgeprompt_protocol::{
    AnswerToken, Move, MoveAnswer, MoveRefusal, PeerRequest, ReaderNews, Reading, SessionKey,
    SessionOffer, SessionTerms, Ticket,
};
use edgeprompt_transport::{
    EdgeIdentity, LinkConfig, PeerEndpoint, PeerLink, PeerReceiver, PeerSender,
};
use serde_json::json;
use tokio::runtime::Runtime;

use crate::cluster;
use crate::edge::Edge;
use crate::handover::{begin, body, edges, text};
use crate::support::Cluster;

const EPOCH: Epoch = Epoch { claim: 0, hop: 1 };
/// Of no model.
const NO_TOKEN: TokenId = TokenId(4_000_000_000);
const MAX_TOKENS: u32 = 40;

struct Hostile {
    runtime: Runtime,
    link: PeerLink,
    model: Model,
    session_count: u8,
}

impl Hostile {
    fn begin(cluster: &Cluster, edge: &Edge) -> Self {
        cluster.invite("hostile");
        let identity = EdgeIdentity::load(&cluster.dir.path().join("hostile")).unwrap();
        let runtime = Runtime::new().unwrap();
        let addr: SocketAddr = edge.session_addr.as_deref().unwrap().parse().unwrap();
        let link = runtime.block_on(async {
            let any = SocketAddr::from(([127, 0, 0, 1], 0));
            let endpoint = PeerEndpoint::bind(any, &identity, LinkConfig::default()).unwrap();
            endpoint.connect(addr).await.unwrap()
        });
        Self {
            runtime,
            link,
            model: Model::demo(&Device::flex()).unwrap(),
            session_count: 0,
        }
    }

    /// Of a new session, as an honest edge offers it.
    fn offer(&mut self) -> SessionOffer {
        self.session_count += 1;
        SessionOffer {
            session: SessionKey([self.session_count; 16]),
            ticket: Ticket([7; 32]),
            epoch: EPOCH,
            model: self.model.digest,
            geometry: self.model.geometry,
            cloud_prompt: None,
            prompt: vec![TokenId(5), TokenId(6)],
            context: vec![TokenId(6)],
            answer: vec![token(TokenId(9))],
            terms: SessionTerms {
                temperature: 0.0,
                top_p: 1.0,
                top_k: 0,
                min_p: 0.0,
                repetition_penalty: 1.0,
                presence_penalty: 0.0,
                frequency_penalty: 0.0,
                seed: 5,
                max_tokens: MAX_TOKENS,
                end_tokens: Vec::new(),
                stops: Vec::new(),
                top_logprobs: None,
            },
            prefill_len: u32::MAX,
            dtype: KvDtype::F32,
        }
    }

    fn bring(&self, offer: SessionOffer) -> (PeerSender, PeerReceiver, MoveAnswer) {
        let offer = PeerRequest::Move(Box::new(offer));
        self.runtime.block_on(async {
            let (sender, mut receiver) = self.link.open(&offer, 1).await.unwrap();
            let answer = receiver.receive().await.unwrap();
            (sender, receiver, answer)
        })
    }

    fn refusal(&self, offer: SessionOffer) -> Option<MoveRefusal> {
        self.bring(offer).2.refusal
    }

    /// What the edge says to a move after the offer.
    fn refusal_of_move(&mut self, order: Move) -> Option<MoveRefusal> {
        let offer = self.offer();
        let (mut sender, mut receiver, accepted) = self.bring(offer);
        assert_eq!(accepted.refusal, None);
        self.runtime.block_on(async {
            sender.send(&order).await.unwrap();
            loop {
                let answer: MoveAnswer = receiver.receive().await.unwrap();
                if answer.refusal.is_some() {
                    return answer.refusal;
                }
            }
        })
    }

    fn declines(&self, reading: Reading) -> bool {
        self.runtime.block_on(async {
            let reading = PeerRequest::Read(reading);
            let (_sender, mut receiver) = self.link.open(&reading, 1).await.unwrap();
            matches!(receiver.receive().await.unwrap(), ReaderNews::Declined)
        })
    }
}

fn token(token: TokenId) -> AnswerToken {
    AnswerToken {
        token,
        logprob: None,
        top: Vec::new(),
    }
}

fn tokens(start: usize, tokens: Vec<AnswerToken>) -> Move {
    Move {
        order: ToTarget::Tokens {
            epoch: EPOCH,
            start,
            end: start + tokens.len(),
        },
        tokens,
    }
}

#[test]
fn tokens_that_the_model_does_not_have_are_refused_wherever_they_come_in() {
    let cluster = cluster();
    let edge = &edges(&cluster, 1, &[])[0];
    let mut hostile = Hostile::begin(&cluster, edge);
    let spoil: [fn(&mut SessionOffer); 5] = [
        |offer| offer.prompt.push(NO_TOKEN),
        |offer| offer.context.push(NO_TOKEN),
        |offer| offer.answer.push(token(NO_TOKEN)),
        |offer| offer.answer[0].top.push((NO_TOKEN, 0.0)),
        |offer| offer.terms.end_tokens.push(NO_TOKEN),
    ];
    for spoil in spoil {
        let mut offer = hostile.offer();
        spoil(&mut offer);
        assert_eq!(hostile.refusal(offer), Some(MoveRefusal::Vocabulary));
    }
    let order = tokens(1, vec![token(NO_TOKEN)]);
    let refusal = hostile.refusal_of_move(order);
    assert_eq!(refusal, Some(MoveRefusal::Vocabulary));
    assert!(!text(&edge.post("/v1/completions", &body(json!({}))).body).is_empty());
}

#[test]
fn more_tokens_than_there_is_room_for_are_refused() {
    let cluster = cluster();
    let edge = &edges(&cluster, 1, &[])[0];
    let mut hostile = Hostile::begin(&cluster, edge);
    let spoil: [fn(&mut SessionOffer); 3] = [
        |offer| offer.terms.max_tokens = 131_072,
        |offer| offer.prompt = vec![TokenId(5); 100_000],
        |offer| offer.answer = vec![token(TokenId(5)); MAX_TOKENS as usize],
    ];
    for spoil in spoil {
        let mut offer = hostile.offer();
        spoil(&mut offer);
        assert_eq!(hostile.refusal(offer), Some(MoveRefusal::TooLong));
    }
    let too_many = tokens(1, vec![token(TokenId(5)); 100_000]);
    let refusal = hostile.refusal_of_move(too_many);
    assert_eq!(refusal, Some(MoveRefusal::TooLong));
    let mut cold = hostile.offer();
    cold.terms.temperature = -1.0;
    assert_eq!(hostile.refusal(cold), Some(MoveRefusal::Invalid));
    let mut other = hostile.offer();
    other.dtype = KvDtype::F16;
    assert_eq!(hostile.refusal(other), Some(MoveRefusal::OtherFormat));
}

#[test]
fn a_session_is_opened_by_its_ticket_alone_and_not_taken_by_its_name() {
    let cluster = cluster();
    let edge = &edges(&cluster, 1, &[])[0];
    let mut hostile = Hostile::begin(&cluster, edge);
    let whole = text(&edge.post("/v1/completions", &body(json!({}))).body);
    let asked = body(json!({ "handover": "follow" }));
    let (reading, session, first) = begin(edge, &asked);
    let ticket = reading.header("x-edgeprompt-ticket").unwrap().to_owned();
    let (key, ticket) = (SessionKey(bytes(&session)), Ticket(bytes(&ticket)));
    let claim = |ticket, epoch, answer| Reading {
        session: key,
        ticket,
        epoch,
        claim: Claim::Take,
        answer,
    };
    let next = Epoch::FIRST.next_claim();
    assert!(hostile.declines(claim(Ticket([1; 32]), next, Vec::new())));
    assert!(hostile.declines(claim(ticket, next, vec![NO_TOKEN])));
    // Under the running right the answer is what is generated.
    assert!(hostile.declines(claim(ticket, Epoch::FIRST, vec![TokenId(5); 399])));
    let mut offer = hostile.offer();
    offer.session = key;
    let refusal = hostile.refusal(offer.clone());
    assert_eq!(refusal, Some(MoveRefusal::Unknown));
    offer.ticket = ticket;
    assert_eq!(hostile.refusal(offer), Some(MoveRefusal::Here));
    let taking = json!({ "ticket": "01".repeat(32), "epoch": [1, 0], "claim": "take",
        "token_ids": [], "endpoint": "/v1/completions", "request": asked });
    let taken = edge.post(&format!("/v1/sessions/{session}/read"), &taking);
    assert_eq!(taken.status, 404, "{}", taken.body);
    assert_eq!(text(&(first + &reading.whole().body)), whole);
}

fn bytes<const N: usize>(hex: &str) -> [u8; N] {
    std::array::from_fn(|at| u8::from_str_radix(&hex[2 * at..2 * at + 2], 16).unwrap())
}
