//! The edge as a server, as its users see it: two programs, real QUIC, HTTP.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod codecs;
mod edge;
mod first_token;
mod handover;
mod health;
mod http;
mod leaders;
mod measured_link;
mod page;
mod peers;
mod sessions;
mod sources;
#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod support;
mod target_speed;
mod tls;
mod workers;

use std::path::Path;
use std::process::Command;
use std::thread;

use edge::{Edge, completion, demo_model, streaming};
use edgeprompt_telemetry::names::{METRICS, MetricKind};
use http::{events, send};
use serde_json::{Value, json};
use support::{Cluster, edge_node, run, stderr, stdout};

const DESK: &str = include_str!("../../src/demo/cloud_prompt.txt");

fn cluster() -> Cluster {
    let model = demo_model();
    Cluster::start(
        &["--model", model.to_str().unwrap()],
        &[("desk", DESK), ("cut", "Hel")],
    )
}

fn guest(index: usize) -> String {
    let name = ["Ada", "Alan", "Grace", "Edsger"][index % 4];
    let plan = ["ruby", "jade", "amber"][index % 3];
    format!("{name} asks what the {plan} plan costs, for the {index}th time.\n")
}

fn nothing() -> Value {
    json!({})
}

#[test]
fn many_users_get_the_tokens_that_each_gets_alone() {
    let mut cluster = cluster();
    let edge = Edge::start(&cluster, "serve", &["--cloud-prompt", "desk"]);
    edge.wait_until_ready();
    let received = edge.metric("edge_kv_bytes_transferred_total");
    assert!(received > 0.0);
    let alone: Vec<_> = (0..32)
        .map(|i| edge.streamed(&guest(i), &nothing()))
        .collect();
    for (index, (ids, _)) in alone.iter().enumerate().take(3) {
        let prompt = guest(index);
        let asked = cluster.ask(&[
            "--local",
            "--cloud-text",
            DESK,
            &prompt,
            "--max-tokens",
            "24",
            "--ignore-eos",
            "--print-token-ids",
        ]);
        let ids: Vec<_> = ids.iter().map(u64::to_string).collect();
        assert_eq!(stdout(&asked).trim(), ids.join(","), "{}", stderr(&asked));
    }
    cluster.kill_cloud();
    thread::scope(|scope| {
        let users: Vec<_> = (0..32)
            .map(|index| {
                scope.spawn({
                    let edge = &edge;
                    move || edge.streamed(&guest(index), &nothing())
                })
            })
            .collect();
        for (user, alone) in users.into_iter().zip(&alone) {
            assert_eq!(&user.join().unwrap(), alone);
        }
    });
    assert_eq!(edge.metric("edge_kv_bytes_transferred_total"), received);
    edge.wait_until_idle();
}

#[test]
fn an_answer_says_what_it_was_made_of() {
    let cluster = cluster();
    let edge = Edge::start(&cluster, "serve", &["--cloud-prompt", "desk"]);
    let whole = edge
        .post("/v1/completions", &completion(&guest(1), &nothing()))
        .json();
    let (ids, text) = edge.streamed(&guest(1), &nothing());
    assert_eq!(whole["choices"][0]["text"], text);
    assert_eq!(whole["choices"][0]["token_ids"], json!(ids));
    let usage = &whole["usage"];
    let cached = usage["prompt_tokens_details"]["cached_tokens"]
        .as_u64()
        .unwrap();
    assert!(cached > 0 && cached < usage["prompt_tokens"].as_u64().unwrap());
    assert_eq!(usage["completion_tokens"], 24);
    let listed = edge.get("/v1/cloud-prompts").json();
    assert_eq!(listed["data"][0]["id"], "desk");
    assert_eq!(listed["data"][0]["token_count"], cached);

    // The stop string is cut from the text, wherever tokens cut it.
    let stop: String = text.chars().skip(5).take(4).collect();
    let stopped = edge.streamed(&guest(1), &json!({ "stop": [stop] })).1;
    assert_eq!(Some(stopped.as_str()), text.split(&stop).next());

    let sampled = |seed| edge.streamed(&guest(1), &json!({"temperature": 1.5, "seed": seed}));
    assert_eq!(sampled(7), sampled(7));
    assert_ne!(sampled(7), sampled(8));

    let body = json!({"messages": [{"role": "user", "content": guest(1)}], "stream": true,
        "temperature": 0, "max_tokens": 8, "logprobs": true, "top_logprobs": 2,
        "stream_options": {"include_usage": true}});
    let (chunks, done) = events(&edge.post("/v1/chat/completions", &body).body);
    assert!(done);
    let first = &chunks[0]["choices"][0];
    assert_eq!(first["delta"]["role"], "assistant");
    assert_ne!(first["delta"]["content"], "");
    let logprob = &first["logprobs"]["content"][0];
    assert!(logprob["logprob"].as_f64().unwrap() <= 0.0);
    assert_eq!(logprob["top_logprobs"][0]["logprob"], logprob["logprob"]);
    assert_eq!(
        chunks.last().unwrap()["usage"]["prompt_tokens_details"]["cached_tokens"],
        cached
    );
}

#[test]
fn counters_begin_at_zero_and_an_end_token_is_no_gap() {
    let cluster = cluster();
    let edge = Edge::start(&cluster, "serve", &[]);
    let text = edge.get("/metrics").body;
    let of_edges = METRICS.iter().filter(|metric| {
        metric.name.starts_with("edge_") && matches!(metric.kind, MetricKind::Counter)
    });
    for metric in of_edges {
        let samples = text.lines().filter(|line| line.starts_with(metric.name));
        let samples: Vec<_> = samples.collect();
        assert!(!samples.is_empty(), "{} in {text}", metric.name);
        assert!(
            samples.iter().all(|line| line.ends_with(" 0")),
            "{samples:?}"
        );
    }
    let asked = completion(
        "Ada asks what the ruby plan costs.\n",
        &json!({
            "cloud_prompt": "desk", "ignore_eos": false, "max_tokens": 200,
        }),
    );
    let answer = edge.post("/v1/completions", &asked).json();
    assert_eq!(answer["choices"][0]["finish_reason"], "stop", "{answer}");
    let count = answer["usage"]["completion_tokens"].as_u64().unwrap();
    assert!(count > 1, "{answer}");
    let gaps = edge.metric("edge_inter_token_latency_seconds_count");
    assert_eq!(gaps, (count - 1) as f64);
    assert_eq!(edge.metric("edge_time_to_first_token_seconds_count"), 1.0);
}

#[test]
fn a_client_that_leaves_gives_its_blocks_back() {
    let cluster = cluster();
    let edge = Edge::start(&cluster, "serve", &["--cloud-prompt", "desk"]);
    edge.wait_until_ready();
    let endless = json!({ "max_tokens": 400 });
    let mut begun: Vec<_> = (0..8)
        .map(|index| edge.begin("/v1/completions", &streaming(&guest(index), &endless)))
        .collect();
    for reading in &mut begun {
        assert!(reading.chunk().is_some());
    }
    drop(begun);
    edge.wait_until_idle();
    // Not one of them came to its end.
    for reason in ["stop", "length"] {
        let name = format!("edge_request_success_total{{finished_reason=\"{reason}\"}}");
        assert_eq!(edge.metric(&name), 0.0);
    }
    assert_eq!(edge.streamed(&guest(0), &nothing()).0.len(), 24);
}

#[test]
fn a_prompt_that_begins_inside_a_token_is_answered_here_or_refused() {
    let cluster = cluster();
    let edge = Edge::start(&cluster, "serve", &[]);
    let body = completion("lo, shop.", &json!({ "cloud_prompt": "cut" }));
    let answer = edge.post("/v1/completions", &body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    assert!(answer.header("x-edgeprompt-warning").is_some());
    let usage = &answer.json()["usage"];
    assert_eq!(usage["prompt_tokens_details"]["cached_tokens"], 0);
    let whole = completion("Hello, shop.", &nothing());
    let whole = edge.post("/v1/completions", &whole).json();
    assert_eq!(answer.json()["choices"], whole["choices"]);
    let strict = Edge::start(&cluster, "strict", &["--strict-seam"]);
    let refused = strict.post("/v1/completions", &body);
    assert_eq!(
        (refused.status, error(&refused.json())),
        (400, "prompt cut_inside_token".to_owned())
    );
}

/// The parameter and the code of an error.
fn error(body: &Value) -> String {
    let error = &body["error"];
    assert!(
        error["message"].is_string() && error["type"].is_string(),
        "{body}"
    );
    let word = |name: &str| error[name].as_str().unwrap_or("-").to_owned();
    format!("{} {}", word("param"), word("code"))
}

#[test]
fn errors_have_openais_bodies() {
    let cluster = cluster();
    let edge = Edge::start(
        &cluster,
        "serve",
        &["--cloud-prompt", "desk", "--kv-cache-mib", "1"],
    );
    edge.wait_until_ready();
    let text = "/v1/completions";
    let check = |path: &str, more: Value, status: u16, expected: &str| {
        let answer = edge.post(path, &completion("x\n", &more));
        assert_eq!(
            (answer.status, error(&answer.json())),
            (status, expected.to_owned())
        );
        assert!(answer.header("x-request-id").is_some());
    };
    check(text, json!({"temperature": "hot"}), 400, "temperature -");
    check(
        text,
        json!({"model": "other"}),
        404,
        "model model_not_found",
    );
    check(
        text,
        json!({"cloud_prompt": "none"}),
        404,
        "cloud_prompt cloud_prompt_not_found",
    );
    check(
        text,
        json!({"prompt": "x ".repeat(600)}),
        400,
        "- context_length_exceeded",
    );
    check(text, json!({"prompt": [1, 9999]}), 400, "prompt -");
    check(text, json!({"prompt": []}), 400, "prompt -");
    check("/v1/chat/completions", nothing(), 400, "messages -");
    check("/v1/embeddings", nothing(), 404, "- -");
    let answer = edge.get(text);
    assert_eq!(
        (answer.status, error(&answer.json())),
        (405, "- -".to_owned())
    );
    let form = send(&edge.addr, &format!("POST {text} HTTP/1.1"), "{}").whole();
    assert_eq!((form.status, error(&form.json())), (415, "- -".to_owned()));
    let head =
        format!("POST {text} HTTP/1.1\r\ncontent-type: application/json\r\nx-request-id: my-1");
    let broken = send(&edge.addr, &head, "{\"prompt\": my secret").whole();
    assert_eq!(
        (broken.status, error(&broken.json())),
        (400, "- -".to_owned())
    );
    assert_eq!(broken.header("x-request-id"), Some("my-1"));
    assert!(!broken.body.contains("secret"));
    let model = &edge.get("/v1/models").json()["data"][0];
    assert_eq!(
        (&model["id"], &model["max_model_len"]),
        (&json!("demo"), &json!(512))
    );
    let tokens = edge.post("/tokenize", &json!({"prompt": "Hello\n"})).json();
    let text = edge
        .post("/detokenize", &json!({"tokens": tokens["tokens"]}))
        .json();
    assert_eq!(text["prompt"], "Hello\n");
    assert_eq!(edge.get("/health").json(), json!({"status": "ok"}));
    assert!(edge.get("/version").json()["version"].is_string());
}

#[test]
fn keys_open_the_server_and_other_hosts_need_them() {
    let cluster = cluster();
    let keys = cluster.dir.path().join("keys");
    std::fs::write(&keys, "alpha\n").unwrap();
    let args = ["--api-key-file", keys.to_str().unwrap()];
    let edge = Edge::start(&cluster, "serve", &args);
    let ask = |key: &str| {
        let head = format!("GET /v1/models HTTP/1.1\r\nauthorization: Bearer {key}");
        send(&edge.addr, &head, "").whole().status
    };
    assert_eq!((ask("alpha"), ask("beta")), (200, 401));
    assert_eq!(edge.get("/health").status, 200);
    let open = run(Command::new(edge_node())
        .args(["serve", "--host", "0.0.0.0", "--port", "0", "--model"])
        .arg(demo_model()));
    assert_eq!(open.status.code(), Some(2));
    assert!(
        stderr(&open).contains("--api-key-file"),
        "{}",
        stderr(&open)
    );
}

#[test]
fn nothing_private_is_logged_and_answers_under_way_end_before_the_process() {
    let cluster = cluster();
    let mut edge = Edge::start(&cluster, "serve", &["--cloud-prompt", "desk"]);
    edge.wait_until_ready();
    let chat = json!({"messages": [
        {"role": "system", "content": "The zebracanary is systematic."},
        {"role": "user", "content": "I am the zebracanary."}], "max_tokens": 4});
    assert_eq!(edge.post("/v1/chat/completions", &chat).status, 200);
    let mut long = edge.begin(
        "/v1/completions",
        &streaming("zebracanary\n", &json!({"max_tokens": 100})),
    );
    let mut body = long.chunk().unwrap();
    assert!(edge.terminate().success());
    body.extend(std::iter::from_fn(|| long.chunk()));
    let (events, done) = events(&body);
    assert!(done, "{body}");
    assert_eq!(
        events.last().unwrap()["choices"][0]["finish_reason"],
        "length"
    );
    let (here, there) = (edge.log(), cluster.cloud_log());
    assert!(here.contains("request") && !here.contains("zebracanary"));
    assert!(!there.contains("zebracanary"));
}

/// Whether there is a file of this name in a folder or in those in it.
fn is_below(folder: &Path, name: &str) -> bool {
    let entries = std::fs::read_dir(folder).into_iter().flatten().flatten();
    let mut paths = entries.map(|entry| entry.path());
    paths.any(|path| path.ends_with(name) || is_below(&path, name))
}

#[test]
fn what_is_remembered_is_served_without_a_cloud() {
    let mut cluster = cluster();
    let first = Edge::start(&cluster, "first", &["--cloud-prompt", "desk"]);
    first.wait_until_ready();
    let answer = first.streamed(&guest(0), &nothing());
    // It is written beside the answer.
    let remembered = cluster.remembered().join("edge");
    first.wait_until("remembered prompt", || {
        first.get("/health").status == 200 && is_below(&remembered, "desk.json")
    });
    drop(first);
    cluster.kill_cloud();
    for (name, args) in [("orphan", vec![]), ("local", vec!["--local"])] {
        let more = ["--cloud-prompt", "desk", "--no-disk-cache"];
        let edge = Edge::start(&cluster, name, &[&args[..], &more].concat());
        assert_eq!(edge.streamed(&guest(0), &nothing()), answer, "{name}");
        assert_eq!(edge.metric("edge_kv_bytes_transferred_total"), 0.0);
    }
}
