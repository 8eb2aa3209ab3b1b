//! An edge that is asked how fast it is, and one whose answer decides what a move sends.

use std::net::SocketAddr;
use std::time::Duration;

use bytes::Bytes;
use edgeprompt_handover::session::ToSource;
use edgeprompt_protocol::{MoveAnswer, MoveRefusal, PeerRequest, TargetSpeed};
use edgeprompt_transport::{CloudEndpoint, EdgeIdentity, LinkConfig, PeerEndpoint, PeerLink};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::cluster;
use crate::edge::Edge;
use crate::handover::{begin, body, edges};
use crate::support::Cluster;

fn any() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn identity(cluster: &Cluster, name: &str) -> EdgeIdentity {
    cluster.invite(name);
    EdgeIdentity::load(&cluster.dir.path().join(name)).unwrap()
}

const fn speed(prefill_token_s: f64) -> TargetSpeed {
    TargetSpeed {
        prefill_token_s,
        prefill_pair_s: 0.0,
        receiving_factor: 1.0,
        decode_s: 0.001,
        behind_len_max: 64,
    }
}

#[test]
fn an_edge_tells_how_fast_it_is() {
    let cluster = cluster();
    let edge = &edges(&cluster, 1, &[])[0];
    let identity = identity(&cluster, "asking");
    let addr: SocketAddr = edge.session_addr.as_deref().unwrap().parse().unwrap();
    let told: TargetSpeed = Runtime::new().unwrap().block_on(async {
        let endpoint = PeerEndpoint::bind(any(), &identity, LinkConfig::default()).unwrap();
        let link = endpoint.connect(addr).await.unwrap();
        let (_sender, mut receiver) = link.open(&PeerRequest::Speed, 1).await.unwrap();
        receiver.receive().await.unwrap()
    });
    assert!(
        told.prefill_token_s > 0.0 && told.behind_len_max > 0,
        "{told:?}"
    );
    // Nothing has come.
    assert_eq!(told.receiving_factor, 1.0);
}

/// What a target says when it is asked how fast it is.
#[derive(Clone, Copy)]
enum Answer {
    Speed(TargetSpeed),
    /// As an edge of a release that does not know the question.
    Reset,
    /// What no edge has measured.
    Nonsense,
}

/// Answers so, takes no session, and tells how many tokens it was to prefill.
async fn refuse_all(
    mut endpoint: CloudEndpoint<PeerLink>,
    answer: Answer,
    offered: mpsc::UnboundedSender<u32>,
) {
    while let Some(link) = endpoint.accept().await {
        tokio::spawn(refuse(link, answer, offered.clone()));
    }
}

async fn refuse(link: PeerLink, answer: Answer, offered: mpsc::UnboundedSender<u32>) {
    let mut requests = link.requests();
    while let Some(mut incoming) = requests.recv().await {
        match (incoming.request, answer) {
            (PeerRequest::Speed, Answer::Speed(speed)) => {
                incoming.sender.send(&speed).await.unwrap();
            }
            (PeerRequest::Speed, Answer::Reset) => {}
            (PeerRequest::Speed, Answer::Nonsense) => {
                let noise = Bytes::from(vec![0xff; 37]);
                incoming.sender.send_bytes(noise).await.unwrap();
            }
            (PeerRequest::Move(offer), _) => {
                let refusal = MoveAnswer {
                    answer: ToSource::Refused { epoch: offer.epoch },
                    computed_len: 0,
                    refusal: Some(MoveRefusal::NoRoom),
                    url: None,
                };
                incoming.sender.send(&refusal).await.unwrap();
                offered.send(offer.prefill_len).unwrap();
            }
            (PeerRequest::Kv { .. } | PeerRequest::Read(_), _) => {}
        }
    }
}

/// How many tokens a target is to prefill that says this of its speed.
fn to_be_prefilled(
    (cluster, edge): (&Cluster, &Edge),
    runtime: &Runtime,
    (name, answer): (&str, Answer),
) -> u32 {
    let identity = identity(cluster, name);
    let (offered, mut lens) = mpsc::unbounded_channel();
    let endpoint = runtime.block_on(async {
        CloudEndpoint::bind_for_sessions(any(), &identity, LinkConfig::default()).unwrap()
    });
    let target = endpoint.local_addr().unwrap().to_string();
    runtime.spawn(refuse_all(endpoint, answer, offered));
    let moving = json!({ "target": target, "strategy": "joint" });
    for _ in 0..50 {
        let (_reading, session, _) = begin(edge, &body(json!({})));
        let path = format!("/v1/sessions/{session}/handover");
        let said = edge.post(&path, &moving);
        // The model is small, and the machine may be busy.
        if said.json()["error"]["code"] != "session_ended" {
            assert!(said.body.contains("no room"), "{}", said.body);
            let len = async { timeout(Duration::from_secs(30), lens.recv()).await };
            return runtime.block_on(len).unwrap().unwrap();
        }
    }
    panic!("every session ended before it could be moved");
}

#[test]
fn a_slow_target_is_sent_what_a_fast_one_computes() {
    let cluster = cluster();
    let edge = &edges(&cluster, 1, &[])[0];
    let runtime = Runtime::new().unwrap();
    let [slow, fast, old, odd] = [
        ("slow", Answer::Speed(speed(10.0))),
        ("fast", Answer::Speed(speed(1e-9))),
        ("old", Answer::Reset),
        ("odd", Answer::Nonsense),
    ]
    .map(|target| to_be_prefilled((&cluster, edge), &runtime, target));
    assert!(slow == 0 && fast > 20, "{slow} {fast}");
    // Those are taken to be like the source, which does compute a little faster than once in 10 s.
    assert!(old > 0 && odd > 0, "{old} {odd}");
}
