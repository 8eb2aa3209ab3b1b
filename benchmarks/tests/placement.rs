//! `benchmarks placement` as a user runs it, on a small model: every contender, files that the report
//! page takes, and the figures that must hold whatever the devices.

#![cfg(test)]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn benchmarks(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_benchmarks"))
        .args(arguments)
        .arg("--result-dir")
        .arg(dir)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn simulate(dir: &Path, cost: &str) -> Value {
    let arguments = [
        "placement",
        "--cost",
        cost,
        "--devices",
        "3,8",
        "--draws",
        "2",
    ];
    let more = ["--model-shape", "tiny", "--tokens", "96"];
    let output = benchmarks(dir, &[&arguments[..], &more].concat());
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let name = format!("placement-simulation-{cost}.json");
    let text = std::fs::read_to_string(dir.join(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn ours_is_the_optimum_within_memory_and_everybody_is_compared() {
    let dir = tempfile::tempdir().unwrap();
    for cost in ["real", "paper"] {
        let found = simulate(dir.path(), cost);
        let summaries = found["summaries"].as_array().unwrap();
        assert_eq!(summaries.len(), 2 * 8);
        let ours = summaries.iter().filter(|it| it["contender"] == "ours");
        for ours in ours {
            assert_eq!(ours["over_memory_count"], 0);
            assert!(ours["interval_count"].as_u64().unwrap() > 0);
            if ours["device_count"] == 3 {
                assert!(ours["over_optimum_max"].as_f64().unwrap() <= 1.0 + 1e-9);
            }
        }
        let optima = summaries
            .iter()
            .filter_map(|it| it["over_optimum_max"].as_f64());
        assert!(optima.clone().all(|ratio| ratio > 1.0 - 1e-9) || cost == "real");
        assert!(optima.count() > 2);
        assert!(found["provenance"]["commit"].is_string());
    }
    let report = benchmarks(dir.path(), &["report"]);
    assert!(report.status.success());
    let page = std::fs::read_to_string(dir.path().join("report.html")).unwrap();
    for plot in ["real-latency-3", "real-memory-8", "paper-latency-8"] {
        assert!(page.contains(plot), "{plot}");
    }
}

#[test]
fn what_cannot_be_planned_for_is_refused() {
    let dir = tempfile::tempdir().unwrap();
    for (flag, value) in [
        ("--devices", "0"),
        ("--devices", "257"),
        ("--delay-us", "9,1"),
    ] {
        let output = benchmarks(dir.path(), &["placement", flag, value]);
        assert!(!output.status.success(), "{flag} {value}");
    }
}
