//! A server whose cloud is not there, or is another one.

use std::process::Command;

use edgeprompt_model::{Model, ModelShape};
use serde_json::json;

use crate::cluster;
use crate::edge::{Edge, cache, completion, demo_model};
use crate::support::{Cluster, edge_node, run, stderr};
use crate::{guest, nothing};

#[test]
fn a_server_whose_cloud_runs_another_model_does_not_start() {
    let cluster = cluster();
    let mut edge = Command::new(edge_node());
    edge.args(["serve", "--load-format", "dummy", "--model-shape", "tiny"])
        .args(["--port", "0", "--cloud", &cluster.addr, "--identity"])
        .arg(cluster.dir.path().join("edge"))
        .env("EDGE_REMEMBERED", cluster.remembered())
        .env("EDGE_CACHE_DIR", cache(&cluster));
    let ended = run(&mut edge);
    assert_eq!(ended.status.code(), Some(4));
    let device = burn::tensor::Device::flex();
    let ours = Model::dummy(ModelShape::Tiny, &device).digest.short();
    let theirs = Model::open(&demo_model(), &device, |_| {}).unwrap();
    let said = stderr(&ended);
    for part in [
        ours.as_str(),
        &theirs.digest.short(),
        &cluster.addr,
        "--cloud",
    ] {
        assert!(said.contains(part), "{part} in {said}");
    }
}

fn kv_plane(edge: &Edge) -> String {
    let told = edge.get("/readyz").json();
    told["kv_plane"].as_str().unwrap().to_owned()
}

#[test]
fn a_server_says_that_its_cloud_is_gone_and_that_it_is_back() {
    let mut cluster = cluster();
    let first = Edge::start(&cluster, "first", &["--cloud-prompt", "desk"]);
    first.wait_until_ready();
    assert_eq!(kv_plane(&first), "ok");
    let answer = first.streamed(&guest(0), &nothing());
    drop(first);
    cluster.kill_cloud();
    let edge = Edge::start(&cluster, "second", &["--no-disk-cache"]);
    // Before anybody has asked for anything.
    assert_eq!(kv_plane(&edge), "degraded");
    let desk = json!({ "cloud_prompt": "desk" });
    assert_eq!(edge.streamed(&guest(0), &desk), answer);
    cluster.restart_cloud();
    // Nobody asks for anything now either.
    edge.wait_until("a cloud that is back", || kv_plane(&edge) == "ok");
    let failed = edge.metric("edge_cloud_failed_total{reason=\"unreachable\"}")
        + edge.metric("edge_cloud_failed_total{reason=\"slow\"}");
    assert!(failed > 0.0);
}

#[test]
fn a_file_that_was_removed_is_not_said_to_be_on_disk() {
    let cluster: Cluster = cluster();
    let edge = Edge::start(&cluster, "serve", &["--cloud-prompt", "desk"]);
    edge.wait_until_ready();
    edge.wait_until_on_disk();
    let mut rm = Command::new(edge_node());
    rm.args(["kv", "rm", "desk"])
        .env("EDGE_REMEMBERED", cluster.remembered().join("edge"))
        .env("EDGE_CACHE_DIR", cache(&cluster).join("edge"));
    assert!(run(&mut rm).status.success());
    for path in ["/v1/cloud-prompts/desk", "/v1/cloud-prompts"] {
        let told = edge.get(path).json();
        let told = if path.ends_with("desk") {
            &told
        } else {
            &told["data"][0]
        };
        assert_eq!(told["on_disk"], false, "{path}");
    }
}

#[test]
fn a_cloud_reads_its_prompts_again_and_edges_notice_on_the_same_link() {
    let cluster = cluster();
    let args = ["--cloud-prompt", "desk", "--revalidate-s", "1"];
    let edge = Edge::start(&cluster, "serve", &args);
    edge.wait_until_ready();
    let admitted = || cluster.cloud_log().matches("edge admitted").count();
    let before = admitted();
    let changed = "You work at another desk.\n";
    cluster.write_prompt("desk", changed.as_bytes());
    cluster.write_prompt("new", b"A new one.\n");
    cluster.write_prompt("cut", b"\xff");
    cluster.hang_up();
    edge.wait_until("changed prompt", || {
        edge.get("/v1/cloud-prompts/desk").json()["text"] == changed
    });
    assert_eq!(admitted(), before);
    let log = cluster.cloud_log();
    assert_eq!(log.matches("stays as it was").count(), 1, "{log}");
    assert!(log.contains("cut.txt is empty or not UTF-8"), "{log}");
    for (name, text) in [("new", "A new one.\n"), ("cut", "Hel")] {
        let asked = completion("x\n", &json!({ "cloud_prompt": name, "max_tokens": 1 }));
        assert_eq!(edge.post("/v1/completions", &asked).status, 200, "{name}");
        let told = edge.get(&format!("/v1/cloud-prompts/{name}")).json();
        assert_eq!(told["text"], text);
    }
}
