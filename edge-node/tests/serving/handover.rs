//! Sessions that move between edges while they are generated: the user's text is the one that it would
//! have been without.

use std::process::Command;

use serde_json::{Value, json};

use crate::cluster;
use crate::edge::{Edge, asking, completion, streaming};
use crate::http::{Reading, events, send};
use crate::support::{Cluster, edge_node, run, stderr};

const PROMPT: &str = "A guest asks:\nWhat does the ruby plan cost?\n";

/// Long enough that there is time to move.
const LEN: u64 = 400;

/// Tries to move a session that is not ready to.
const LOOKS_MAX: usize = 10_000;

pub(crate) fn edges(cluster: &Cluster, count: usize, more: &[&str]) -> Vec<Edge> {
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

pub(crate) fn body(more: Value) -> Value {
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

pub(crate) fn text(body: &str) -> String {
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
    // One that has just come may still wait for keys and values.
    for _ in 0..LOOKS_MAX {
        let answer = from.post(&path, &json!({ "target": target }));
        match answer.json()["error"]["code"].as_str() {
            Some("session_ended") => return None,
            Some("session_busy") => {}
            _ => {
                assert_eq!(answer.status, 200, "{}", answer.body);
                return Some(answer.json());
            }
        }
    }
    panic!("a session stays busy");
}

/// Begins answers until one is moved before it ends: the model is small, and the machine may be busy.
pub(crate) fn moved(from: &Edge, body: &Value, to: &Edge) -> (Reading, String, Value) {
    for _ in 0..50 {
        let (reading, session, first) = begin(from, body);
        if let Some(report) = hand_over(from, &session, to) {
            return (reading, first, report);
        }
    }
    panic!("50 answers ended before they moved");
}

/// Waits for the first words of an answer.
pub(crate) fn begin(edge: &Edge, body: &Value) -> (Reading, String, String) {
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
    assert_eq!(nothing.status, 400, "{}", nothing.body);
    assert_eq!(nothing.json()["error"]["code"], "target_unknown");
    // A cloud is no edge, and speaks nothing of sessions.
    let refused = edges[0].post(&path, &json!({ "target": cluster.addr }));
    assert_eq!(refused.status, 502, "{}", refused.body);
    assert_eq!(refused.json()["error"]["code"], "handover_failed");
    let unknown = format!("/v1/sessions/{}/handover", "0".repeat(32));
    let unknown = edges[0].post(&unknown, &json!({ "target": cluster.addr }));
    assert_eq!(unknown.json()["error"]["code"], "session_not_found");
    assert_eq!(text(&(first + &reading.whole().body)), expected);
}

#[test]
fn the_command_says_why_a_session_stays() {
    let cluster = cluster();
    let edges = edges(&cluster, 1, &[]);
    let url = format!("http://{}", edges[0].addr);
    let refused = || {
        let (reading, session, _) = begin(&edges[0], &body(json!({})));
        let mut command = Command::new(edge_node());
        command.args(["handover", "--url", &url, "--session", &session]);
        // A cloud, which speaks nothing of sessions.
        let said = run(command.args(["--target", &cluster.addr]));
        reading.whole();
        // The answer may have been complete before.
        (!stderr(&said).contains("session_")).then_some(said)
    };
    let said = (0..LOOKS_MAX).find_map(|_| refused()).unwrap();
    assert_eq!(said.status.code(), Some(3), "{}", stderr(&said));
    for reason in ["`edge-node serve --handover-listen`", "stays where it is"] {
        assert!(stderr(&said).contains(reason), "{}", stderr(&said));
    }
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

#[test]
fn a_user_who_stays_reads_on_when_the_session_comes_back_and_goes_again() {
    let cluster = cluster();
    let edges = edges(&cluster, 3, &[]);
    for more in [
        json!({ "temperature": 0 }),
        json!({ "temperature": 0.8, "seed": 7, "frequency_penalty": 0.2 }),
    ] {
        let expected = unmoved(&edges[0], &more);
        let there_and_back = || {
            let (reading, session, first) = begin(&edges[0], &body(more.clone()));
            for (from, to) in [(0, 1), (1, 0), (0, 2), (2, 1), (1, 0)] {
                hand_over(&edges[from], &session, &edges[to])?;
            }
            Some((reading, first))
        };
        let (reading, first) = (0..50)
            .find_map(|_| there_and_back())
            .expect("an answer that is still there after five moves");
        assert_eq!(text(&(first + &reading.whole().body)), expected);
    }
}

#[test]
fn a_session_cannot_move_to_where_it_is() {
    let cluster = cluster();
    let edges = edges(&cluster, 1, &[]);
    let expected = unmoved(&edges[0], &json!({}));
    for handover in ["forward", "follow"] {
        let asked = body(json!({ "handover": handover }));
        let (reading, session, first) = begin(&edges[0], &asked);
        let path = format!("/v1/sessions/{session}/handover");
        let target = json!({ "target": edges[0].session_addr });
        let refused = edges[0].post(&path, &target);
        assert_eq!(refused.status, 400, "{}", refused.body);
        assert_eq!(refused.json()["error"]["code"], "target_is_source");
        assert_eq!(text(&(first + &reading.whole().body)), expected);
    }
}

#[test]
fn an_edge_can_be_emptied_of_what_others_brought() {
    let cluster = cluster();
    let edges = edges(&cluster, 2, &[]);
    let expected = unmoved(&edges[0], &json!({}));
    let emptied = || {
        let (reading, session, first) = begin(&edges[0], &body(json!({})));
        hand_over(&edges[0], &session, &edges[1])?;
        let here = |edge: &Edge| {
            let listed = edge.get("/v1/sessions").json();
            let mut sessions = listed["data"].as_array().unwrap().clone().into_iter();
            sessions.find(|it| it["id"] == *session && it["state"] == "here")
        };
        let listed = here(&edges[1]);
        let target = json!({ "target": edges[0].session_addr });
        let moved = edges[1].post("/v1/handovers", &target).json();
        assert_eq!(text(&(first + &reading.whole().body)), expected);
        let moved = moved["data"].as_array().unwrap().iter();
        let is_moved = moved
            .clone()
            .any(|it| it["id"] == *session && it["epoch"].is_array());
        (listed.is_some() && is_moved).then_some(())
    };
    (0..50)
        .find_map(|_| emptied())
        .expect("a session that is moved before it ends");
}

#[test]
fn only_an_operator_sees_what_others_ask() {
    let cluster = cluster();
    let file = |name: &str, keys: &str| {
        let path = cluster.dir.path().join(name);
        std::fs::write(&path, keys).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (users, operators) = (file("users", "alpha\nbeta\n"), file("operators", "root\n"));
    let keys = ["--api-key-file", &users, "--operator-key-file", &operators];
    let edge = &edges(&cluster, 1, &keys)[0];
    let seen = |key: &str| {
        let answer = asking(edge, "GET /v1/sessions", (key, "s"), &Value::Null).json();
        answer["data"].as_array().unwrap().len()
    };
    let asked = body(json!({})).to_string();
    let head = "POST /v1/completions HTTP/1.1\r\ncontent-type: application/json\r\nauthorization: Bearer alpha";
    let mut reading = send(&edge.addr, head, &asked);
    reading.chunk().unwrap();
    assert_eq!((seen("root"), seen("alpha"), seen("beta")), (1, 1, 0));
}

#[test]
fn what_a_token_was_told_with_moves_with_it() {
    let cluster = cluster();
    let edges = edges(&cluster, 2, &[]);
    let more = json!({ "logprobs": 2, "handover": "follow" });
    let moved = || {
        let mut reading = edges[0].begin("/v1/completions", &body(more.clone()));
        let header = |name: &str| reading.header(name).unwrap().to_owned();
        let (session, ticket) = (
            header("x-edgeprompt-session"),
            header("x-edgeprompt-ticket"),
        );
        reading.chunk().unwrap();
        hand_over(&edges[0], &session, &edges[1])?;
        let asked = json!({ "ticket": ticket, "epoch": [0, 1], "claim": "attach", "token_ids": [],
            "endpoint": "/v1/completions", "request": body(more.clone()) });
        let path = format!("/v1/sessions/{session}/read");
        let (events, done) = events(&edges[1].post(&path, &asked).body);
        done.then_some(events)
    };
    let events = (0..50).find_map(|_| moved()).expect("an answer that moves");
    let told = |event: &Value| event["choices"][0]["logprobs"]["token_logprobs"].clone();
    let told: Vec<Value> = events
        .iter()
        .filter_map(|event| told(event).as_array().cloned())
        .flatten()
        .collect();
    assert_eq!(told.len() as u64, LEN);
    let known = |logprob: &Value| logprob.as_f64().is_some_and(|logprob| logprob < 0.0);
    assert!(told.iter().all(known), "{told:?}");
}

#[test]
fn an_edge_that_users_cannot_be_sent_to_does_not_take_sessions() {
    let cluster = cluster();
    let keys = cluster.dir.path().join("keys");
    std::fs::write(&keys, "alpha\n").unwrap();
    let started = run(Command::new(edge_node())
        .args(["serve", "--host", "0.0.0.0", "--port", "0", "--cloud"])
        .arg(&cluster.addr)
        // Where there is none, so that a server that would start ends.
        .args(["--handover-listen", "127.0.0.1:0", "--model", "nowhere"])
        .arg("--api-key-file")
        .arg(&keys)
        .arg("--identity")
        .arg(cluster.dir.path().join("edge")));
    assert_eq!(started.status.code(), Some(2));
    let said = stderr(&started);
    assert!(said.contains("--public-url http://NAME:"), "{said}");
}

#[test]
fn a_session_keeps_the_place_of_a_user_who_only_closes_the_connection() {
    let cluster = cluster();
    let edge = &edges(&cluster, 1, &["--max-concurrency-per-key", "1"])[0];
    let follows = body(json!({ "handover": "follow" }));
    let ask = |body: &Value| edge.post("/v1/completions", body).status;
    assert_eq!(ask(&follows), 200);
    let whole = generated(edge);
    drop(begin(edge, &follows));
    // It is generated on, for whoever comes back to it, and nothing else until it has ended.
    let short = body(json!({ "handover": "follow", "max_tokens": 1 }));
    let is_free = (0..LOOKS_MAX).any(|_| ask(&short) == 200);
    assert!(is_free, "a place is never free again");
    assert_eq!(generated(edge), 2 * whole + 1);
}

#[test]
fn who_comes_back_to_a_session_needs_no_other_place() {
    let cluster = cluster();
    let edge = &edges(&cluster, 1, &["--max-concurrency-per-key", "1"])[0];
    let asked = body(json!({ "handover": "follow" }));
    let whole = text(&edge.post("/v1/completions", &asked).body);
    let (reading, session, first) = begin(edge, &asked);
    let ticket = reading.header("x-edgeprompt-ticket").unwrap().to_owned();
    drop((reading, first));
    let taking = json!({ "ticket": ticket, "epoch": [0, 0], "claim": "attach",
        "token_ids": [], "endpoint": "/v1/completions", "request": asked });
    let again = edge.post(&format!("/v1/sessions/{session}/read"), &taking);
    assert_eq!(again.status, 200, "{}", again.body);
    assert_eq!(text(&again.body), whole);
}

#[test]
fn a_target_that_ends_says_so_to_those_who_have_a_link() {
    let cluster = cluster();
    let mut edges = edges(&cluster, 2, &[]);
    let (reading, first, _) = moved(&edges[0], &body(json!({})), &edges[1]);
    drop((reading, first));
    let target = edges[1].session_addr.clone().unwrap();
    assert!(edges[1].terminate().success());
    let says_nobody_answers = || {
        let (_reading, session, _) = begin(&edges[0], &body(json!({})));
        let path = format!("/v1/sessions/{session}/handover");
        let answer = edges[0].post(&path, &json!({ "target": target }));
        // The answer may end before it is known.
        answer.json()["error"]["code"] != "session_ended" && answer.body.contains("no edge answers")
    };
    assert!((0..50).any(|_| says_nobody_answers()));
}
