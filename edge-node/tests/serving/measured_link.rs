//! An edge that has measured its link to the cloud, and asks for the next cloud prompt or does not.
//! Two links that are orders of magnitude apart, so that how fast the machine is does not matter.

use std::net::SocketAddr;
use std::time::Duration;

use edgeprompt_testkit::emulator::{BitRate, DirectionProfile, EmulatedLink, LinkEmulator};
use serde_json::{Value, json};

use crate::DESK;
use crate::edge::{Edge, completion, demo_model};
use crate::support::{Cluster, stderr};

/// Computed within a few milliseconds. Its keys and values take a good part of a second on the slow
/// link, and no time that anybody sees on loopback.
const BRIEF: &str = "You work at the desk of a shop.\n";

/// What the edge planned for a prompt whose tokens it remembers, once it had measured such a link by
/// another: what is told of the prompt, and the answer.
fn planned_over(link: EmulatedLink) -> (Value, Value) {
    let (model, long) = (demo_model(), DESK.repeat(2));
    let mut cluster = Cluster::start(
        &["--model", model.to_str().unwrap()],
        &[("long", &long), ("brief", BRIEF)],
    );
    remember(&cluster, "brief");
    let addr: SocketAddr = cluster.addr.parse().unwrap();
    let emulator = LinkEmulator::start(addr, link).unwrap();
    cluster.addr = emulator.addr().to_string();
    let args = ["--cloud-prompt", "long", "--no-disk-cache"];
    let edge = Edge::start(&cluster, "measuring", &args);
    edge.wait_until_ready();
    edge.wait_until("measured link to a cloud that answers", || {
        let cloud = &edge.get("/v1/status").json()["cloud"];
        cloud["kv_plane"] == "ok" && cloud["rate_bits_per_second"].is_u64()
    });
    let body = completion("Ada asks.\n", &json!({"cloud_prompt": "brief"}));
    let answer = edge.post("/v1/completions", &body).json();
    edge.wait_until("complete cloud prompt", || {
        edge.get("/v1/cloud-prompts/brief").json()["state"] == "filled"
    });
    let listed = edge.get("/v1/cloud-prompts").json();
    let mut listed = listed["data"].as_array().unwrap().iter();
    let mut brief = listed
        .find(|prompt| prompt["id"] == "brief")
        .unwrap()
        .clone();
    brief["rtt_ms"] = edge.get("/v1/status").json()["cloud"]["rtt_ms"].clone();
    (brief, answer)
}

/// The edge learns the tokens of a cloud prompt, and the cloud keeps its layers.
fn remember(cluster: &Cluster, name: &str) {
    let folder = cluster.remembered().join("edge");
    let folder = folder.to_str().unwrap();
    let asked = cluster.ask(&[
        "--cloud-prompt",
        name,
        "--remembered",
        folder,
        "--max-tokens",
        "1",
        "Ada asks.\n",
    ]);
    assert!(asked.status.success(), "{}", stderr(&asked));
}

#[test]
fn a_link_that_was_measured_to_be_slow_is_not_asked_for_what_can_be_computed() {
    let direction =
        DirectionProfile::constant(BitRate::megabits_per_second(1), Duration::from_millis(1));
    let (slow, slow_answer) = planned_over(EmulatedLink::symmetric(direction, 1));
    let choice = slow["planner_choice"].as_str().unwrap();
    assert!(["local", "hybrid"].contains(&choice), "{slow}");
    assert!(slow["chosen_layers"].as_u64() > Some(0), "{slow}");
    // Only a way that was measured can have been better.
    assert!(slow["planner_regret_ms"].is_f64(), "{slow}");
    let told = slow["planner_predicted_ms"].as_f64().unwrap();
    let predicted = slow_answer["timings"]["ttft_predicted_ms"].as_f64();
    assert!(predicted >= Some(told), "{slow_answer} {slow}");

    let (fast, fast_answer) = planned_over(EmulatedLink::unlimited(1));
    // It was foretold, and not tried because nothing was known.
    assert!(fast["planner_predicted_ms"].is_f64(), "{fast}");
    let choice = fast["planner_choice"].as_str().unwrap();
    // On a machine that is so busy that a packet takes that long, computing is right.
    let is_busy = fast["rtt_ms"].as_f64() > Some(15.0);
    if !is_busy {
        assert!(["cloud", "hybrid"].contains(&choice), "{fast}");
        assert!(fast["bytes"]["cloud"].as_u64() > Some(0), "{fast}");
    }
    let tokens = |answer: &Value| answer["choices"][0]["token_ids"].clone();
    assert_eq!(tokens(&slow_answer), tokens(&fast_answer));
}
