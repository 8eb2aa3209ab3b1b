//! `benchmarks pipeline` as a user runs it: real processes, real QUIC, the demo model, a tiny sweep.

#![cfg(test)]

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

/// Runs a sweep on the demo model that writes to `dir`.
fn pipeline(dir: &Path, arguments: &[&str]) -> Output {
    let model = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../shared/model/demo");
    Command::new(env!("CARGO_BIN_EXE_benchmarks"))
        .args(["pipeline", "--model"])
        .arg(model)
        .arg("--result-dir")
        .arg(dir)
        .args(arguments)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn succeeded(output: &Output) -> String {
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{stderr}");
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn result(dir: &Path) -> Value {
    let text = std::fs::read_to_string(dir.join("pipeline.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

fn keys(value: &Value) -> Vec<&str> {
    value
        .as_object()
        .unwrap()
        .keys()
        .map(String::as_str)
        .collect()
}

const TINY: [&str; 10] = [
    "--rates",
    "100,400",
    "--rtts",
    "2",
    "--cloud-lens",
    "24",
    "--edge-len",
    "6",
    "--rounds",
    "2",
];

fn has_the_keys_that_readers_rely_on(result: &Value) {
    assert_eq!(
        keys(result),
        [
            "benchmark",
            "cloud_busy_threads",
            "device",
            "dtype",
            "model",
            "model_digest",
            "planner_regret_mean",
            "points",
            "provenance",
            "settings"
        ]
    );
    assert_eq!(
        keys(&result["provenance"]),
        [
            "burn",
            "command_line",
            "commit",
            "cpu",
            "date",
            "gpu",
            "load_average",
            "logical_cpu_count",
            "rustc",
            "stolen_percent"
        ]
    );
    assert_eq!(
        keys(&result["settings"]),
        [
            "cloud_store",
            "cloud_threads",
            "edge_len",
            "edge_threads",
            "link_profile",
            "rounds",
            "scale",
            "seed"
        ]
    );
}

#[test]
fn a_cold_sweep_measures_every_point_and_says_where_it_comes_from() {
    let dir = tempfile::tempdir().unwrap();
    let stdout = succeeded(&pipeline(dir.path(), &TINY));
    let result = result(dir.path());
    has_the_keys_that_readers_rely_on(&result);
    let points = result["points"].as_array().unwrap();
    assert_eq!(points.len(), 2);
    for point in points {
        let layers = point["layers"].as_array().unwrap();
        assert!(
            layers
                .iter()
                .all(|layer| layer["t_cc_ms"].as_f64() > Some(0.0))
        );
        assert!(
            layers
                .iter()
                .all(|layer| layer["t_ec_ms"].as_f64() > Some(0.0))
        );
        assert_eq!(point["same_first_token_count"], 2, "fusion is exact");
        assert_eq!(point["emulator_down"]["overrun_packet_count"], 0);
        assert!(point["kv_bytes_wire"].as_u64() > Some(0));
        assert_eq!(point["kv_bytes_wire"], point["kv_bytes_logical"], "f32");
        for layer in point["median_timeline"]["layers"].as_array().unwrap() {
            // What came becomes a tensor, and the pass goes through the layer: in two steps if it
            // had to wait.
            let steps = if layer["edge_wait"].is_null() { 1 } else { 2 };
            assert_eq!(layer["edge_compute"].as_array().unwrap().len(), 1 + steps);
        }
    }
    assert!(stdout.contains("same token in 4 of 4 rounds"), "{stdout}");
    let table = std::fs::read_to_string(dir.path().join("pipeline.md")).unwrap();
    let rows = table.lines().filter(|line| line.starts_with("| "));
    assert_eq!(rows.count(), 2 + 2);
    for plot in ["model", "speedup", "regime"] {
        let plot = format!("pipeline-{plot}-24.svg");
        assert!(dir.path().join(&plot).is_file(), "{plot}");
    }
}

#[test]
fn a_sweep_over_number_formats_has_fewer_bytes_and_a_map_for_each() {
    let dir = tempfile::tempdir().unwrap();
    let sweep = ["--cloud-store", "warm", "--codecs", "f32,int8"];
    succeeded(&pipeline(dir.path(), &[&TINY[..], &sweep[..]].concat()));
    let result = result(dir.path());
    assert_eq!(result["dtype"], "f32,int8");
    let points = result["points"].as_array().unwrap();
    let codecs: Vec<_> = points.iter().map(|it| &it["point"]["codec"]).collect();
    assert_eq!(codecs, ["f32", "f32", "int8", "int8"]);
    let bytes = |index: usize| points[index]["kv_bytes_wire"].as_f64().unwrap();
    // Scales take their part of so few tokens.
    assert!(bytes(0) > 3.3 * bytes(2), "{} {}", bytes(0), bytes(2));
    assert_eq!(points[2]["kv_bytes_logical"], points[0]["kv_bytes_wire"]);
    for plot in ["pipeline-regime-24.svg", "pipeline-regime-24-int8.svg"] {
        let map = std::fs::read_to_string(dir.path().join(plot)).unwrap();
        assert!(map.contains(" %</text>"), "{map}");
    }
}

#[test]
fn a_warm_cloud_computes_nothing_for_a_request() {
    let dir = tempfile::tempdir().unwrap();
    let warm = ["--cloud-store", "warm", "--scale", "0.5"];
    let stdout = succeeded(&pipeline(dir.path(), &[&TINY[..], &warm[..]].concat()));
    assert!(
        stdout.starts_with("scaled by 0.5: cloud prompts 24 -> 12"),
        "{stdout}"
    );
    let result = result(dir.path());
    for point in result["points"].as_array().unwrap() {
        assert_eq!(point["point"]["cloud_len"], 12);
        assert_eq!(point["rounds"].as_array().unwrap().len(), 1);
        let layers = point["layers"].as_array().unwrap();
        assert!(layers.iter().all(|layer| layer["t_cc_ms"] == 0.0));
    }
}

#[test]
fn a_link_that_is_known_to_be_slow_is_not_asked() {
    let dir = tempfile::tempdir().unwrap();
    // 192 KiB at 1 Mbit/s take a second and a half, and 96 tokens some milliseconds.
    let sweep = [
        "--rates",
        "1",
        "--rtts",
        "2",
        "--cloud-lens",
        "96",
        "--edge-len",
        "6",
        "--rounds",
        "1",
        "--cloud-store",
        "warm",
    ];
    succeeded(&pipeline(dir.path(), &sweep));
    let result = result(dir.path());
    let [point] = &result["points"].as_array().unwrap()[..] else {
        panic!("{result}")
    };
    // By choice: layers that are late are computed here too.
    assert_eq!(point["declined_round_count"], 1, "{point}");
    assert!(point["planned_predicted_ms"].is_object(), "{point}");
    // What is no number has none in JSON.
    let regret = point["planner_regret"].as_f64().unwrap();
    assert!(regret >= 0.0, "{regret}");
    assert_eq!(result["planner_regret_mean"], regret);
}

#[test]
fn a_prompt_that_does_not_fit_is_refused_before_anything_is_measured() {
    let dir = tempfile::tempdir().unwrap();
    let output = pipeline(dir.path(), &["--cloud-lens", "100000"]);
    let stderr = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success());
    assert!(
        stderr.contains("do not fit the model's context"),
        "{stderr}"
    );
    assert!(!dir.path().join("pipeline.json").exists());
}
