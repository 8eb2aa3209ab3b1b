//! What requests of one session share, and that nobody else has any of it.

use serde_json::{Value, json};

use crate::edge::{Edge, asking, completion};
use crate::{cluster, guest};

/// A private prompt of many blocks.
fn conversation() -> String {
    (0..8).map(guest).collect()
}

/// Private tokens that were there, and the answer's token ids.
fn cached(edge: &Edge, key: &str, more: &Value) -> (u64, Value) {
    let body = completion(&conversation(), more);
    let answer = asking(edge, "POST /v1/completions", (key, "s"), &body);
    assert_eq!(answer.status, 200, "{}", answer.body);
    let answer = answer.json();
    let usage = &answer["usage"];
    let cached = usage["prompt_tokens_details"]["cached_tokens"].as_u64();
    let timings = &answer["timings"];
    assert_eq!(timings["cache_n"].as_u64(), cached);
    let all = timings["cache_n"].as_u64().unwrap() + timings["prompt_n"].as_u64().unwrap();
    assert_eq!(usage["prompt_tokens"].as_u64(), Some(all));
    (cached.unwrap(), answer["choices"][0]["token_ids"].clone())
}

#[test]
fn a_session_shares_what_it_computed_with_itself_alone() {
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
    let mine = json!({ "prompt_cache_key": "mine" });
    let (cloud, first) = cached(&edge, "alpha", &mine);
    let hits = edge.metric("edge_prefix_cache_hits_total");
    let (again, second) = cached(&edge, "alpha", &mine);
    let shared = again - cloud;
    assert!(shared >= 16 && shared.is_multiple_of(16), "{shared}");
    assert_eq!(first, second);
    assert_eq!(
        edge.metric("edge_prefix_cache_hits_total") - hits,
        f64::from(u32::try_from(again).unwrap())
    );
    let others = [
        ("alpha", json!({})),
        ("alpha", json!({ "prompt_cache_key": "another" })),
        ("beta", mine.clone()),
    ];
    for (key, more) in others {
        assert_eq!(cached(&edge, key, &more), (cloud, first.clone()), "{more}");
    }
    // On another cloud prompt the same private tokens have other keys and values.
    let elsewhere = json!({ "prompt_cache_key": "mine", "cloud_prompt": false });
    assert_eq!(cached(&edge, "alpha", &elsewhere).0, 0);
    edge.wait_until_idle();
    let refused = json!({ "prompt_cache_key": 7, "prompt": "x" });
    let refused = asking(&edge, "POST /v1/completions", ("beta", "s"), &refused);
    assert_eq!(refused.status, 400);
    assert_eq!(refused.json()["error"]["param"], "prompt_cache_key");
}
