//! `benchmarks handover simulate` and `campaign` as a user runs them, with few draws and moves.

#![cfg(test)]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::Value;

fn simulate(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_benchmarks"))
        .args([
            "handover",
            "simulate",
            "--draws",
            "20",
            "--optimum-draws",
            "1",
        ])
        .args([
            "--planner-runs",
            "1",
            "--planner-users-max",
            "100",
            "--seed",
            "7",
        ])
        .arg("--result-dir")
        .arg(dir)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

#[test]
fn every_claim_holds_and_results_say_where_they_come_from() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace");
    std::fs::write(&trace, "0 100\n1 900\n2 0\n3 400\n").unwrap();
    let output = simulate(dir.path(), &["--link-trace", trace.to_str().unwrap()]);
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert!(
        text.contains("seed 7") && text.contains("best/optimum"),
        "{text}"
    );

    let json = std::fs::read_to_string(dir.path().join("handover-simulation.json")).unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert!(json["provenance"]["commit"].is_string());
    assert_eq!(json["draws"]["seed"], 7);
    let claims = json["claims"].as_array().unwrap();
    assert!(claims.len() >= 10 && claims.iter().all(|claim| claim["verdict"] != "fails"));
    assert_eq!(json["sweeps"].as_array().unwrap().len(), 6);
    // Its rate when it begins to be needed is seldom what follows.
    let on_trace = &json["traces"][0];
    assert_eq!(on_trace["mean_mbit_s"], 350.0);
    let stream = &on_trace["strategies"][4];
    assert_eq!(stream["strategy"], "stream");
    assert!(stream["seen_s"].as_f64().unwrap() > stream["known_s"].as_f64().unwrap());
    let files = std::fs::read_dir(dir.path()).unwrap();
    let plots = files.filter(|file| {
        let path = file.as_ref().unwrap().path();
        path.extension().is_some_and(|it| it == "svg")
    });
    assert_eq!(plots.count(), 8);
}

#[test]
fn a_trace_that_is_none_is_refused_before_anything_is_computed() {
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("broken");
    std::fs::write(&trace, "0 100\nsoon 5\n").unwrap();
    for path in [trace.to_str().unwrap(), "no-such-trace"] {
        let output = simulate(dir.path(), &["--link-trace", path]);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && errors.contains(path),
            "{errors}"
        );
        assert!(output.stdout.is_empty());
    }
}

#[test]
fn moves_beside_the_radios_own_are_told_with_what_was_measured() {
    let dir = tempfile::tempdir().unwrap();
    let (file, trace) = (dir.path().join("radio.csv"), dir.path().join("trace"));
    let rows = "HO,MR,RCH,Type,Tech\n0.02,0.05,0.01,PCell,LTE\n0.02,,0.01,PCell,LTE\n\
        0.03,0.06,0.02,SCG Rel.,NSA\n0.03,0.06,0.02,SCG Add.,NSA\n0.05,0.07,0.01,MCG,SA\n";
    std::fs::write(&file, rows).unwrap();
    std::fs::write(&trace, "0 300\n1 900\n").unwrap();
    let (file, trace) = (file.to_str().unwrap(), trace.to_str().unwrap());
    let output = simulate(
        dir.path(),
        &["--radio-handovers", file, "--link-trace", trace],
    );
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    assert!(
        errors.contains("4 procedures of the radio; 1 rows lack a time"),
        "{errors}"
    );
    let text = String::from_utf8(output.stdout).unwrap();
    assert!(
        text.contains("radio alone") && text.contains("5G NSA"),
        "{text}"
    );
    let json = std::fs::read_to_string(dir.path().join("handover-simulation.json")).unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    let found = json["beside_radio"].as_array().unwrap();
    assert_eq!(
        found.len(),
        6,
        "three kinds, over the paper's backhaul and the trace"
    );
    assert_eq!(found[2]["change"], "5G NSA");
    assert!((found[2]["radio_s"].as_f64().unwrap() - 0.1).abs() < 1e-9);
    assert!(dir.path().join("handover-simulation-radio.svg").exists());

    let output = simulate(dir.path(), &["--radio-handovers", trace]);
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(
        !output.status.success() && errors.contains("no column is named"),
        "{errors}"
    );
}

/// Real nodes, links that lose packets, and edges that are killed. Which moves and kills meet is up to
/// the machine; what may come of them is not.
#[test]
fn texts_are_those_without_moves_whoever_is_killed() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_benchmarks"))
        .args(["handover", "campaign", "--handovers", "40", "--kills", "8"])
        .args(["--seed", "7", "--result-dir"])
        .arg(dir.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{text}{errors}");
    assert!(text.contains("seed 7"), "{text}");
    let json = std::fs::read_to_string(dir.path().join("handover-campaign.json")).unwrap();
    let json: Value = serde_json::from_str(&json).unwrap();
    assert!(json["provenance"]["commit"].is_string());
    assert!(json["moves"]["moved"].as_u64().unwrap() >= 40);
    assert!(json["moves"]["kills"].as_u64().unwrap() >= 8);
    assert_eq!(json["violations"], serde_json::json!([]));
    let answers = json["users"]["answers"].as_array().unwrap();
    let is_whole = |it: &&Value| it["outcome"] == "same";
    let clients: Vec<_> = answers
        .iter()
        .filter(is_whole)
        .map(|it| &it["client"])
        .collect();
    for client in ["follows", "plain"] {
        assert!(clients.iter().any(|it| *it == client), "{json}");
    }
}
