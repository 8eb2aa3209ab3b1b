//! Sessions that move between edges while they are generated: the user's text is the one that it would
//! have been without.

use serde_json::{Value, json};

use crate::cluster;
use crate::edge::{Edge, completion, streaming};
use crate::http::{Reading, events};
use crate::support::Cluster;

const PROMPT: &str = "A guest asks:\nWhat does the ruby plan cost?\n";

/// Long enough that there is time to move.
const LEN: u64 = 400;

fn edges(cluster: &Cluster, count: usize, more: &[&str]) -> Vec<Edge> {
    let names: Vec<String> = (0..count).map(|index| format!("edge-{index}")).collect();
    let start = |name: &String| {
        cluster.invite(name);
        let mut args = vec![
            "--handover-listen",
            "127.0.0.1:0",
            "--handover-target",
            "*",
            "--cloud-prompt",
            "desk",
        ];
        args.extend(more);
        let edge = Edge::start_as(cluster, name, (name, &args));
        edge.wait_until_ready();
        edge
    };
    names.iter().map(start).collect()
}

fn body(more: Value) -> Value {
    let mut body = streaming(PROMPT, &json!({ "max_tokens": LEN }));
    let fields = body.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    body
}

/// What is answered by an edge that nobody leaves.
fn unmoved(edge: &Edge, more: &Value) -> String {
    let mut body = completion(PROMPT, &json!({ "max_tokens": LEN }));
    body.as_object_mut()
        .unwrap()
        .extend(more.as_object().unwrap().clone());
    let answer = edge.post("/v1/completions", &body).json();
    answer["choices"][0]["text"].as_str().unwrap().to_owned()
}

/// Tokens that an edge has generated.
fn generated(edge: &Edge) -> u64 {
    let status = edge.get("/v1/status").json();
    status["generation_tokens_total"].as_u64().unwrap()
}

fn text(body: &str) -> String {
    let (events, done) = events(body);
    assert!(done, "{body}");
    let texts = events
        .iter()
        .filter_map(|event| event["choices"][0]["text"].as_str());
    texts.collect()
}

/// Moves a session, which goes on at the target; `None` if it has ended before.
fn hand_over(from: &Edge, session: &str, to: &Edge) -> Option<Value> {
    let target = to.session_addr.clone().unwrap();
    let path = format!("/v1/sessions/{session}/handover");
    let answer = from.post(&path, &json!({ "target": target }));
    if answer.json()["error"]["code"] == "session_ended" {
        return None;
    }
    assert_eq!(answer.status, 200, "{}", answer.body);
    Some(answer.json())
}

/// Begins answers until one is moved before it ends: the model is small, and the machine may be busy.
fn moved(from: &Edge, body: &Value, to: &Edge) -> (Reading, String, Value) {
    for _ in 0..50 {
        let (reading, session, first) = begin(from, body);
        if let Some(report) = hand_over(from, &session, to) {
            return (reading, first, report);
        }
    }
    panic!("50 answers ended before they moved");
}

/// Waits for the first words of an answer.
fn begin(edge: &Edge, body: &Value) -> (Reading, String, String) {
    let mut reading = edge.begin("/v1/completions", body);
    let session = reading.header("x-edgeprompt-session").unwrap().to_owned();
    let first = reading.chunk().unwrap();
    (reading, session, first)
}

#[test]
fn a_user_who_stays_reads_on_when_the_target_dies() {
    let cluster = cluster();
    let mut edges = edges(&cluster, 2, &[]);
    let expected = unmoved(&edges[0], &json!({}));
    let (mut reading, first, _) = moved(&edges[0], &body(json!({})), &edges[1]);
    let next = reading.chunk().unwrap();
    drop(edges.pop());
    assert_eq!(text(&(first + &next + &reading.whole().body)), expected);
}

#[test]
fn a_move_that_cannot_be_leaves_the_session_where_it_is() {
    let cluster = cluster();
    let edges = edges(&cluster, 1, &[]);
    let expected = unmoved(&edges[0], &json!({}));
    let (reading, session, first) = begin(&edges[0], &body(json!({})));
    let path = format!("/v1/sessions/{session}/handover");
    let nothing = edges[0].post(&path, &json!({ "target": "nowhere" }));
    assert_eq!(nothing.status, 502, "{}", nothing.body);
    assert_eq!(nothing.json()["error"]["code"], "handover_failed");
    // A cloud is no edge, and speaks nothing of sessions.
    let refused = edges[0].post(&path, &json!({ "target": cluster.addr }));
    assert_eq!(refused.status, 502, "{}", refused.body);
    let unknown = format!("/v1/sessions/{}/handover", "0".repeat(32));
    let unknown = edges[0].post(&unknown, &json!({ "target": cluster.addr }));
    assert_eq!(unknown.json()["error"]["code"], "session_not_found");
    assert_eq!(text(&(first + &reading.whole().body)), expected);
}

#[test]
fn a_user_who_knows_nothing_of_it_reads_on() {
    for strategy in ["token", "cache", "joint", "precopy"] {
        let cluster = cluster();
        let edges = edges(&cluster, 2, &["--handover-strategy", strategy]);
        for more in [
            json!({ "temperature": 0 }),
            json!({ "temperature": 0.8, "seed": 7, "frequency_penalty": 0.2 }),
        ] {
            let expected = unmoved(&edges[0], &more);
            let before = generated(&edges[1]);
            let (reading, first, report) = moved(&edges[0], &body(more), &edges[1]);
            assert_eq!(report["strategy"], strategy);
            assert_eq!(report["epoch"], json!([0, 1]));
            assert_eq!(text(&(first + &reading.whole().body)), expected);
            let there = generated(&edges[1]) - before;
            assert!(there > 0, "the target generated");
            let sent = report["handover_bytes"].as_f64().unwrap();
            // Those that weigh computing against sending may leave nothing to send.
            match strategy {
                "token" => assert!(sent == 0.0, "{report}"),
                "cache" => assert!(sent > 0.0, "{report}"),
                _ => {}
            }
        }
        let count = format!("edge_handover_total{{kind=\"{strategy}\",result=\"moved\"}}");
        assert_eq!(edges[0].metric(&count), 2.0);
    }
}
