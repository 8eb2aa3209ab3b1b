//! `edge-node doctor` over real QUIC: what is well, and each thing that is not.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[path = "support/mod.rs"]
#[allow(dead_code, reason = "other tests use more of it")]
mod support;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::Value;
use support::{Cluster, edge_node, run, stderr, stdout};

fn demo_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/model/demo")
}

fn cluster() -> Cluster {
    let model = demo_model();
    let model = ["--model", model.to_str().unwrap()];
    Cluster::start(&model, &[("desk", "Good day, and welcome to the shop.\n")])
}

/// A doctor for the edge that joined, with a model.
fn doctor(cluster: &Cluster, model: &[&str]) -> Command {
    doctor_of(cluster, &cluster.addr, model)
}

/// As [`doctor`], for the cloud at another address.
fn doctor_of(cluster: &Cluster, addr: &str, model: &[&str]) -> Command {
    let mut command = Command::new(edge_node());
    command
        .args(["doctor", "--json", "--cloud", addr, "--identity"])
        .arg(cluster.dir.path().join("edge"))
        .arg("--remembered")
        .arg(cluster.remembered())
        .args(["--cache-mib", "1", "--cache-dir"])
        .arg(cluster.dir.path().join("cache"))
        .args(model);
    command
}

/// The level and the words of every line about `check`.
fn about(output: &Output, check: &str) -> Vec<(String, String)> {
    let page: Value = serde_json::from_str(&stdout(output))
        .unwrap_or_else(|error| panic!("{error}: {} {}", stdout(output), stderr(output)));
    let word = |finding: &Value, name: &str| finding[name].as_str().unwrap_or("").to_owned();
    let checks = page["checks"].as_array().unwrap().iter();
    checks
        .filter(|finding| finding["check"] == check)
        .map(|finding| (word(finding, "level"), word(finding, "said")))
        .collect()
}

fn level(output: &Output, check: &str) -> String {
    let found = about(output, check);
    let (level, _) = found
        .last()
        .unwrap_or_else(|| panic!("{check}: {}", stdout(output)));
    level.clone()
}

#[test]
fn a_well_edge_is_told_so_and_what_is_wrong_is_named() {
    let mut cluster = cluster();
    let model = demo_model();
    let same = ["--model", model.to_str().unwrap()];
    let well = run(&mut doctor(&cluster, &same));
    assert!(well.status.success(), "{}{}", stdout(&well), stderr(&well));
    for check in ["identity", "clock", "cloud", "cache", "model"] {
        assert_eq!(level(&well, check), "ok", "{}", stdout(&well));
    }
    let (_, measured) = about(&well, "link").pop().unwrap();
    assert!(
        measured.starts_with("desk: ") && measured.contains("Mbit/s"),
        "{measured}"
    );

    let other = ["--load-format", "dummy", "--model-shape", "tiny"];
    let mismatch = run(&mut doctor(&cluster, &other));
    assert_eq!(mismatch.status.code(), Some(4));
    assert_eq!(level(&mismatch, "model"), "fail", "{}", stdout(&mismatch));

    let unnamed = run(&mut doctor(&cluster, &[]));
    assert!(unnamed.status.success(), "{}", stderr(&unnamed));
    assert_eq!(level(&unnamed, "model"), "warn");

    let unknown = run(doctor(&cluster, &same).args(["--cloud-prompt", "none"]));
    assert_eq!(unknown.status.code(), Some(2));
    assert_eq!(level(&unknown, "link"), "fail");

    let lonely = run(doctor(&cluster, &[]).args(["--peer", "127.0.0.1:1"]));
    assert_eq!(level(&lonely, "peer"), "warn", "{}", stdout(&lonely));
    assert!(lonely.status.success(), "a pity, and no failure");

    let stranger = run(&mut doctor_of(&cluster, "not an address", &same));
    assert_eq!(stranger.status.code(), Some(2));
    assert_eq!(level(&stranger, "address"), "fail");

    cluster.kill_cloud();
    let alone = run(&mut doctor(&cluster, &same));
    assert_eq!(alone.status.code(), Some(3));
    assert_eq!(level(&alone, "cloud"), "fail");
    assert_eq!(level(&alone, "identity"), "ok");
}

#[test]
fn without_an_identity_or_a_folder_the_rest_is_looked_at() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("file"), "").unwrap();
    let dir_of = |flag: &str, other: &str| {
        run(Command::new(edge_node())
            .args(["doctor", "--json", "--identity"])
            .arg(dir.path().join("absent"))
            .arg(flag)
            .arg(dir.path().join("file"))
            .arg(other))
    };
    for (flag, other) in [
        ("--remembered", "--no-disk-cache"),
        ("--cache-dir", "--no-remembered"),
    ] {
        let output = dir_of(flag, other);
        assert_eq!(output.status.code(), Some(2));
        assert_eq!(level(&output, "identity"), "fail");
        assert_eq!(level(&output, "cache"), "fail", "{flag}");
        assert!(stdout(&output).contains(&format!("give {flag} DIR")));
        assert_eq!(level(&output, "model"), "warn");
    }
    let page = run(Command::new(edge_node())
        .args(["doctor", "--no-remembered", "--no-disk-cache", "--identity"])
        .arg(dir.path().join("absent")));
    assert!(
        stdout(&page).starts_with("FAIL  identity  "),
        "{}",
        stdout(&page)
    );
    assert!(
        stdout(&page).contains("edge-node join"),
        "{}",
        stdout(&page)
    );
}
