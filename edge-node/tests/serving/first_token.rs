//! When the first token of an answer came, beside when it should have come.

use serde_json::{Value, json};

use crate::edge::{Edge, completion};
use crate::{cluster, guest};

/// The answer to a prompt, and the request's id.
fn answered(edge: &Edge, prompt: &str, more: &Value) -> (Value, String) {
    let answer = edge
        .post("/v1/completions", &completion(prompt, more))
        .json();
    let id = answer["id"].as_str().unwrap().strip_prefix("cmpl-");
    (answer["timings"].clone(), id.unwrap().to_owned())
}

fn wait_until_filled(edge: &Edge) {
    edge.wait_until("complete cloud prompt", || {
        edge.get("/v1/cloud-prompts/desk").json()["state"] == "filled"
    });
}

#[test]
fn an_answer_tells_when_its_first_token_came_and_should_have_come() {
    let cluster = cluster();
    let edge = Edge::start(&cluster, "foretelling", &[]);
    let desk = json!({"cloud_prompt": "desk"});
    let (unknown, _) = answered(&edge, &guest(0), &desk);
    assert!(unknown["ttft_ms"].as_f64() > Some(0.0), "{unknown}");
    assert_eq!(unknown["ttft_ms"], unknown["prompt_ms"]);
    assert_eq!(unknown["kv_source"], "cloud");
    // How fast the cloud is was not known then.
    assert!(unknown.get("ttft_predicted_ms").is_none(), "{unknown}");
    assert_eq!(edge.metric("edge_ttft_predicted_seconds_count"), 0.0);

    wait_until_filled(&edge);
    let session = json!({"cloud_prompt": "desk", "prompt_cache_key": "one"});
    let long = [guest(1), guest(2), guest(3)].concat();
    let asked = [
        (guest(1), desk, "memory"),
        (long.clone(), session.clone(), "memory"),
        // What the session left is not computed again.
        (long + &guest(4), session, "memory"),
        (guest(1), json!({"cloud_prompt": false}), "nowhere"),
    ];
    let mut counts = Vec::new();
    let (mut rates, mut sum) = (Vec::new(), 0.0);
    for (prompt, more, plan) in &asked {
        let (timings, id) = answered(&edge, prompt, more);
        let predicted = timings["ttft_predicted_ms"].as_f64().unwrap();
        assert!(predicted > 0.0, "{timings}");
        assert!(timings["ttft_ms"].as_f64() > Some(0.0), "{timings}");
        counts.push(timings["prompt_n"].as_u64().unwrap());
        rates.push(predicted / timings["prompt_n"].as_f64().unwrap());
        sum += predicted / 1e3;
        let log = edge.log();
        let told = "the first token of an answer came";
        let mut lines = log.lines().filter(|line| line.contains(told));
        let line = lines.find(|line| line.contains(&id)).unwrap();
        assert_eq!(line.contains("plan=\"memory\""), *plan == "memory");
    }
    assert!(counts[2] < counts[1], "{counts:?}");
    // Nothing is waited for: computing a token takes what it takes, to a nanosecond each layer.
    let is_same = |rate: &f64| (rate / rates[0] - 1.0).abs() < 1e-3;
    assert!(rates.iter().all(is_same), "{rates:?}");
    assert_eq!(edge.metric("edge_ttft_predicted_seconds_count"), 4.0);
    let told = edge.metric("edge_ttft_predicted_seconds_sum");
    assert!((told - sum).abs() < 1e-6, "{told} {sum}");
    assert_eq!(edge.metric("edge_time_to_first_token_seconds_count"), 5.0);
}
