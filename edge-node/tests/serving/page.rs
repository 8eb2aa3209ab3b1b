//! The page and what it asks: who may see what, and that nothing private is in it.

use serde_json::{Value, json};

use crate::edge::{Edge, asking, completion};
use crate::http::Answer;
use crate::{cluster, guest, nothing};

#[test]
fn the_page_may_talk_to_its_own_server_only() {
    let cluster = cluster();
    let edge = Edge::start(&cluster, "serve", &[]);
    let page = edge.get("/");
    assert_eq!(page.status, 200);
    assert_eq!(
        page.header("content-type"),
        Some("text/html; charset=utf-8")
    );
    for path in ["/", "/page/main.js", "/page/style.css", "/page/icon.svg"] {
        let file = edge.get(path);
        let policy = file.header("content-security-policy").unwrap_or_default();
        for rule in [
            "default-src 'none'",
            "script-src 'self'",
            "connect-src 'self'",
            "form-action 'none'",
            "frame-ancestors 'none'",
            "base-uri 'none'",
        ] {
            assert!(policy.contains(rule), "{path}: {policy}");
        }
        assert!(!policy.contains("unsafe"), "{path}: {policy}");
        assert_eq!(file.header("x-content-type-options"), Some("nosniff"));
        assert_eq!(file.header("referrer-policy"), Some("no-referrer"));
    }
    assert_eq!(edge.get("/page/other.js").status, 404);
    assert_eq!(edge.post("/", &nothing()).status, 405);
}

#[test]
fn only_the_key_that_sent_a_request_sees_its_timeline() {
    let cluster = cluster();
    let keys = cluster.dir.path().join("keys");
    std::fs::write(&keys, "alpha\nbeta\n").unwrap();
    let args = [
        "--api-key-file",
        keys.to_str().unwrap(),
        "--cloud-prompt",
        "desk",
    ];
    let edge = Edge::start(&cluster, "serve", &args);
    // Open to nobody without a key, the page itself apart.
    for path in [
        "/v1/status",
        "/v1/requests/my-1/timeline",
        "/v1/cloud-prompts/desk",
    ] {
        assert_eq!(edge.get(path).status, 401, "{path}");
    }
    assert_eq!(edge.get("/").status, 200);
    let ask = completion("The zebracanary asks.\n", &nothing());
    let asked = asking(&edge, "POST /v1/completions", ("alpha", "my-1"), &ask);
    assert_eq!(asked.status, 200, "{}", asked.body);
    let timeline = |key| {
        let head = "GET /v1/requests/my-1/timeline";
        asking(&edge, head, (key, "looking"), &Value::Null)
    };
    assert_eq!(timeline("beta").status, 404);
    assert_eq!(timeline("gamma").status, 401);
    let seen = timeline("alpha");
    assert_eq!(seen.status, 200, "{}", seen.body);
    let layers = seen.json()["timeline"]["layers"].clone();
    let layers = layers.as_array().unwrap();
    assert_eq!(layers.len(), 4, "those of the demo model");
    for layer in layers {
        assert!(!layer["edge_compute"].as_array().unwrap().is_empty());
    }
    let told = seen.json();
    assert!(told["timeline"]["ttft_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(told["cloud_prompt"]["id"], "desk");
    assert_eq!(told["cloud_prompt"]["state"], "filled");
    let status = asking(&edge, "GET /v1/status", ("beta", "s"), &Value::Null);
    for text in [&seen.body, &status.body] {
        assert!(!text.contains("zebracanary"), "{text}");
        assert!(!text.contains("token_ids"), "{text}");
    }
}

#[test]
fn a_prompt_that_comes_with_a_request_is_in_its_timeline() {
    let cluster = cluster();
    let edge = Edge::start(&cluster, "serve", &[]);
    edge.wait_until_heard();
    let told_before = edge.get("/v1/status").json();
    // Which model it runs is all that the cloud was asked, over a link whose round trip shows in that.
    assert_eq!(told_before["cloud"]["sent_messages"], 1);
    let words = told_before["cloud"]["last_messages"][0].as_str().unwrap();
    assert!(words.contains("do you run model"), "{words}");
    assert!(told_before["cloud"]["rtt_ms"].as_f64().unwrap() > 0.0);
    assert_eq!(told_before["cloud"]["rate_bits_per_second"], Value::Null);
    let desk = json!({ "cloud_prompt": "desk" });
    let first = edge.post("/v1/completions", &completion(&guest(0), &desk));
    let second = edge.post("/v1/completions", &completion(&guest(1), &desk));
    let cloud = |answer: &Answer| {
        let id = answer.header("x-request-id").unwrap();
        let told = edge.get(&format!("/v1/requests/{id}/timeline")).json();
        told["cloud_prompt"].clone()
    };
    let (first, second) = (cloud(&first), cloud(&second));
    assert!(first["began_ms"].as_f64().unwrap() > 0.0, "{first}");
    assert_eq!(second["began_ms"], Value::Null, "it was there already");
    let layers = first["timeline"]["layers"].as_array().unwrap();
    assert!(
        layers.iter().any(|layer| !layer["wire"].is_null()),
        "{first}"
    );
    assert_eq!(first["timeline"], second["timeline"]);
    let listed = edge.get("/v1/cloud-prompts/desk").json();
    assert_eq!(listed["text"], crate::DESK);
    assert_eq!(listed["received_bytes"], first["received_bytes"]);
    assert_eq!(
        edge.get("/v1/cloud-prompts/cut").status,
        404,
        "it is not here"
    );
    let told = edge.get("/v1/status").json();
    assert_eq!(
        told["cloud"]["sent_messages"], 3,
        "what the name means, and its layers"
    );
    let words = told["cloud"]["last_messages"][2].as_str().unwrap();
    assert!(words.contains("desk"), "{words}");
    assert_eq!(told["cloud_kv"]["used_bytes"], first["received_bytes"]);
    edge.wait_until_idle();
    let idle = edge.get("/v1/status").json();
    assert_eq!(idle["generation_tokens_total"], 48);
    assert_eq!(idle["private_kv"]["used_bytes"], 0);
    assert!(idle["private_kv"]["bytes"].as_u64().unwrap() > 0);
}
