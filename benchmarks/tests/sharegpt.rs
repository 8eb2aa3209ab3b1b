//! `benchmarks sharegpt` as a user runs it, on a model that is computed at once: two processes over
//! the emulated link, every mode, files that agree with each other.

#![cfg(test)]

use std::path::Path;
use std::process::{Command, Output, Stdio};

use edgeprompt_model::{ComputeDevice, Model};
use serde_json::{Value, json};

const MODES: [&str; 5] = ["paged", "paged-pc", "relay", "edgeprompt", "concat"];

fn sharegpt(dir: &Path, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_benchmarks"))
        .args([
            "sharegpt",
            "--load-format",
            "dummy",
            "--model-shape",
            "tiny",
        ])
        .args(["--edge-len", "20"])
        .args(arguments)
        .arg("--result-dir")
        .arg(dir)
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn result(output: &Output, dir: &Path, name: &str) -> Value {
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{errors}");
    let text = std::fs::read_to_string(dir.join(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

#[test]
fn every_mode_gives_the_same_answers_and_the_wire_carries_what_it_should() {
    let dir = tempfile::tempdir().unwrap();
    let arguments = [
        "--num-prompts",
        "6",
        "--num-groups",
        "2",
        "--cloud-lens",
        "24,48",
        "--sharegpt-output-len",
        "6",
    ];
    let found = result(
        &sharegpt(dir.path(), &arguments),
        dir.path(),
        "sharegpt.json",
    );
    let rows = found["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2 * MODES.len());
    // Keys and values of 2 heads of 8 numbers of 4 bytes in 6 layers.
    let bytes_per_token = 2 * 2 * 8 * 4 * 6;
    for (index, row) in rows.iter().enumerate() {
        let (mode, cloud_len) = (MODES[index % MODES.len()], [24, 48][index / MODES.len()]);
        assert_eq!(
            (&row["mode"], &row["cloud_len"]),
            (&mode.into(), &cloud_len.into())
        );
        let groups = row["groups"].as_array().unwrap();
        assert_eq!(groups.len(), 2);
        let tokens: u64 = groups
            .iter()
            .map(|it| it["output_tokens"].as_u64().unwrap())
            .sum();
        assert_eq!(tokens, 6 * 6);
        // Only modes that stream have anything on the wire, and that once.
        let streamed = ["edgeprompt", "concat"].contains(&mode);
        let wire: Vec<_> = groups
            .iter()
            .map(|it| it["kv_bytes_wire"].as_u64().unwrap())
            .collect();
        let expected = if streamed {
            cloud_len * bytes_per_token
        } else {
            0
        };
        assert_eq!(wire, [expected, 0], "{mode}");
        if mode != "concat" {
            assert_eq!(row["same_answers_as_paged"], "6/6", "{mode}");
        }
        assert_eq!(row["fill_s"].as_f64().unwrap() > 0.0, mode == "relay");
    }
    // Beside each of four others at two lengths, and what remains at the longer one.
    let claims = found["claims"].as_array().unwrap();
    assert_eq!(claims.len(), 2 * 4 + 1);
    let table = std::fs::read_to_string(dir.path().join("sharegpt.md")).unwrap();
    for claim in claims {
        assert!(claim["ratio"]["median"].as_f64().unwrap() > 0.0);
        assert!(table.contains(claim["what"].as_str().unwrap()), "{table}");
    }
    let figure = std::fs::read_to_string(dir.path().join("sharegpt-fig3.svg")).unwrap();
    for mode in MODES {
        assert!(figure.contains(&format!(">{mode}<")), "{mode}");
    }
}

#[test]
fn requests_that_come_as_they_please_are_all_answered() {
    let dir = tempfile::tempdir().unwrap();
    let arguments = [
        "--num-prompts",
        "5",
        "--num-groups",
        "1",
        "--cloud-lens",
        "24",
        "--request-rates",
        "50,200",
        "--modes",
        "paged,relay,edgeprompt",
        "--rounds",
        "2",
        "--sharegpt-output-len",
        "6",
    ];
    let name = "sharegpt-interactive.json";
    let found = result(&sharegpt(dir.path(), &arguments), dir.path(), name);
    let rows = found["rows"].as_array().unwrap();
    assert_eq!(rows.len(), 2 * 3);
    for row in rows {
        // Both rounds, on cloud prompts of their own that all modes share.
        assert_eq!(row["same_answers_as_paged"], "10/10");
        let digests = [0, 1].map(|round| &row["groups"][round]["digests"]);
        assert_ne!(digests[0], digests[1]);
        for round in row["groups"].as_array().unwrap() {
            assert_eq!(round["output_tokens"], 5 * 6);
            let (first, all) = (&round["ttft_s"], &round["e2e_s"]);
            for (first, all) in first
                .as_array()
                .unwrap()
                .iter()
                .zip(all.as_array().unwrap())
            {
                assert!(first.as_f64() <= all.as_f64());
            }
        }
    }
    // Two times at two rates.
    assert_eq!(found["claims"].as_array().unwrap().len(), 4);
    for figure in [
        "sharegpt-fig4.svg",
        "sharegpt-fig5.svg",
        "sharegpt-ttft.svg",
    ] {
        assert!(dir.path().join(figure).exists(), "{figure}");
    }
}

#[test]
fn answers_are_as_long_as_the_models_tokenizer_says() {
    let dir = tempfile::tempdir().unwrap();
    let demo = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/model/demo");
    let [question, answer] = [
        "How much does the jade plan cost?",
        "It costs three coins, Ada.",
    ];
    let conversation = json!([{"id": "a", "conversations": [
        {"from": "human", "value": question}, {"from": "gpt", "value": answer},
    ]}]);
    let dataset = dir.path().join("conversations.json");
    std::fs::write(&dataset, conversation.to_string()).unwrap();
    let output = Command::new(env!("CARGO_BIN_EXE_benchmarks"))
        .args([
            "sharegpt",
            "--num-prompts",
            "2",
            "--num-groups",
            "1",
            "--cloud-lens",
            "24",
        ])
        .args(["--edge-len", "20", "--modes", "relay", "--model"])
        .arg(&demo)
        .arg("--dataset-path")
        .arg(&dataset)
        .arg("--result-dir")
        .arg(dir.path())
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let found = result(&output, dir.path(), "sharegpt.json");
    let model = Model::demo(&ComputeDevice::default().open().unwrap()).unwrap();
    let len = model.tokenizer().unwrap().encode(answer).unwrap().len();
    assert_ne!(
        len,
        answer.len().div_ceil(4),
        "it would not tell one from the other"
    );
    assert_eq!(found["output_lens"]["of_answers"], json!([len, len]));
    let origin = found["output_lens"]["origin"].as_str().unwrap();
    assert!(
        origin.contains("counted with the model's tokenizer"),
        "{origin}"
    );
    let digest = blake3::hash(conversation.to_string().as_bytes());
    let dataset = &found["output_lens"]["dataset"];
    assert_eq!(dataset["blake3"], digest.to_hex().as_str());
}

#[test]
fn arguments_that_make_no_sense_are_refused_in_words() {
    let dir = tempfile::tempdir().unwrap();
    for (arguments, words) in [
        (["--scale", "0"], "not above 0"),
        (["--request-rates", "-1"], "--request-rates are above 0"),
        (["--edge-device", "abacus"], "abacus"),
        (["--cloud-device", "cuda"], "cuda"),
        (["--link-profile", "avian"], "lan, wifi, 5g, lte, 6g"),
        (["--cloud-lens", "500"], "context"),
        (["--dataset-path", "no-such-file"], "no-such-file"),
    ] {
        let output = sharegpt(dir.path(), &arguments);
        let errors = String::from_utf8_lossy(&output.stderr);
        assert!(
            !output.status.success() && errors.contains(words),
            "{arguments:?}: {errors}"
        );
    }
}
