//! An edge that is asked how fast it is, and one whose answer decides what a move sends.

use std::net::SocketAddr;
use std::time::Duration;

use edgeprompt_handover::session::ToSource;
use edgeprompt_protocol::{MoveAnswer, MoveRefusal, PeerRequest, TargetSpeed};
use edgeprompt_transport::{CloudEndpoint, EdgeIdentity, LinkConfig, PeerEndpoint, PeerLink};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio::time::timeout;

use crate::cluster;
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
        receiving: 1.0,
        decode_s: 0.001,
        step_len: 64,
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
    assert!(told.prefill_token_s > 0.0 && told.step_len > 0, "{told:?}");
    // Nothing has come.
    assert_eq!(told.receiving, 1.0);
}

/// Answers as an edge of this speed, takes no session, and tells how many tokens it was to prefill.
async fn refuse_all(
    mut endpoint: CloudEndpoint<PeerLink>,
    speed: TargetSpeed,
    offered: mpsc::UnboundedSender<u32>,
) {
    while let Some(link) = endpoint.accept().await {
        let mut requests = link.requests();
        while let Some(mut incoming) = requests.recv().await {
            match incoming.request {
                PeerRequest::Speed => incoming.sender.send(&speed).await.unwrap(),
                PeerRequest::Move(offer) => {
                    let refusal = MoveAnswer {
                        answer: ToSource::Refused { epoch: offer.epoch },
                        computed_len: 0,
                        refusal: Some(MoveRefusal::NoRoom),
                        url: None,
                    };
                    incoming.sender.send(&refusal).await.unwrap();
                    offered.send(offer.prefill_len).unwrap();
                }
                PeerRequest::Kv { .. } | PeerRequest::Read(_) => {}
            }
        }
    }
}

#[test]
fn a_slow_target_is_sent_what_a_fast_one_computes() {
    let cluster = cluster();
    let edge = &edges(&cluster, 1, &[])[0];
    let runtime = Runtime::new().unwrap();
    let lens = [("slow", 10.0), ("fast", 1e-9)].map(|(name, token_s)| {
        let identity = identity(&cluster, name);
        let (offered, mut lens) = mpsc::unbounded_channel();
        let endpoint = runtime.block_on(async {
            CloudEndpoint::bind_for_sessions(any(), &identity, LinkConfig::default()).unwrap()
        });
        let target = endpoint.local_addr().unwrap().to_string();
        runtime.spawn(refuse_all(endpoint, speed(token_s), offered));
        let (_reading, session, _) = begin(edge, &body(json!({})));
        let path = format!("/v1/sessions/{session}/handover");
        let moving = json!({ "target": target, "strategy": "joint" });
        let answer = edge.post(&path, &moving);
        assert!(answer.body.contains("no room"), "{}", answer.body);
        let len = runtime.block_on(async { timeout(Duration::from_secs(30), lens.recv()).await });
        len.unwrap().unwrap()
    });
    assert!(lens[0] == 0 && lens[1] > 20, "{lens:?}");
}
