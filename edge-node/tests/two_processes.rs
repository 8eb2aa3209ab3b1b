//! The main job as a user runs it: two programs, real QUIC, the tokens that llama.cpp gives.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

mod support;

use edgeprompt_testkit::fixtures::trained_model;
use serde_json::Value;
use support::{Cluster, edge_node, run, stderr, stdout};

fn joined(ids: &[Value]) -> String {
    ids.iter()
        .map(Value::to_string)
        .collect::<Vec<_>>()
        .join(",")
}

fn golden(folder: &std::path::Path, file: &str) -> Value {
    serde_json::from_slice(&std::fs::read(folder.join(file)).unwrap()).unwrap()
}

const RAW: [&str; 3] = ["--ignore-eos", "--print-token-ids", "--max-tokens"];

/// Split over two processes and alone with `--local`: both give `expected`.
fn check(cluster: &Cluster, cloud: &[Value], private: &[Value], expected: &[Value]) {
    let (cloud, private) = (joined(cloud), joined(private));
    let max = expected.len().to_string();
    let mut args = vec!["--cloud-token-ids", &cloud, "--token-ids", &private];
    args.extend(RAW);
    args.push(&max);
    let split = cluster.ask(&args);
    assert_eq!(
        stdout(&split),
        format!("{}\n", joined(expected)),
        "{}",
        stderr(&split)
    );
    args.push("--local");
    assert_eq!(stdout(&cluster.ask(&args)), stdout(&split));
}

#[test]
fn stories260k_gives_llama_cpp_tokens_over_quic() {
    let Some(folder) = trained_model("stories260K") else {
        return;
    };
    let golden = golden(&folder, "golden_split.json");
    let cases = golden["cases"].as_array().unwrap();
    let prompts: Vec<(String, &str)> = (0..)
        .zip(cases)
        .map(|(i, case)| (format!("case-{i}"), case["cloud_text"].as_str().unwrap()))
        .collect();
    let prompts: Vec<_> = prompts
        .iter()
        .map(|(name, text)| (name.as_str(), *text))
        .collect();
    let cluster = Cluster::start(&["--model", folder.to_str().unwrap()], &prompts);
    for (case, (name, _)) in cases.iter().zip(&prompts) {
        let ids = |key: &str| case[key].as_array().unwrap();
        check(
            &cluster,
            ids("cloud_ids"),
            ids("edge_ids"),
            ids("greedy_ids"),
        );

        let private = case["edge_text"].as_str().unwrap();
        let named = cluster.ask(&[
            "--cloud-prompt",
            name,
            "--max-tokens",
            "96",
            "--ignore-eos",
            private,
        ]);
        let text = stdout(&named);
        assert_eq!(
            text.trim(),
            case["text"].as_str().unwrap().trim(),
            "{}",
            stderr(&named)
        );
    }
}

#[test]
fn tinystories_gives_its_golden_tokens_over_quic() {
    let Some(folder) = trained_model("tinystories-656K") else {
        return;
    };
    let golden = golden(&folder, "golden.json");
    let (prompt, expected) = (&golden["prompt_ids"], &golden["greedy_ids"]);
    let (cloud, private) = prompt.as_array().unwrap().split_at(4);
    let cluster = Cluster::start(&["--model", folder.to_str().unwrap()], &[]);
    check(&cluster, cloud, private, expected.as_array().unwrap());
}

#[test]
fn every_fusion_is_offered_and_the_exact_ones_agree() {
    let Some(folder) = trained_model("stories260K") else {
        return;
    };
    let cluster = Cluster::start(&["--model", folder.to_str().unwrap()], &[]);
    let ids = |fusion: &str| {
        let cloud = "1,403,407,261,378,432,383,286,261,376,298,315";
        let args = [
            "--cloud-token-ids",
            cloud,
            "--token-ids",
            "385,328,432",
            "--print-token-ids",
        ];
        let asked = cluster.ask(&[&args[..], &["--max-tokens", "24", "--fusion", fusion]].concat());
        assert!(asked.status.success(), "{}", stderr(&asked));
        stdout(&asked)
    };
    assert_eq!(ids("exact"), ids("concat"));
    assert_ne!(ids("exact"), ids("fixed:0.5"), "a fixed α is not attention");
}

const SECRET: &str = "me canaryword";

/// A failed run: its exit code, words of its message, and nothing of the private text, however much
/// it logs.
fn refused(output: &std::process::Output, exit: i32, words: &str) {
    let said = stderr(output);
    assert_eq!(output.status.code(), Some(exit), "{said}");
    assert!(said.contains(words), "{said}");
    assert!(!said.contains("canary"), "{said}");
}

#[test]
fn failures_have_their_exit_codes_and_keep_the_private_text_to_themselves() {
    let Some(folder) = trained_model("stories260K") else {
        return;
    };
    let model = folder.to_str().unwrap();
    let cluster = Cluster::start(&["--model", model], &[("inside", "Once upon a ti")]);
    let inside = ["--cloud-prompt", "inside", SECRET];
    let missing = ["--cloud-prompt", "missing", SECRET];
    refused(&cluster.ask(&missing), 2, "no prompt named missing");
    refused(&cluster.ask(&inside), 2, "not at a token boundary");
    let outside = ["--cloud-text", "Once", "--token-ids", "99999"];
    refused(&cluster.ask(&outside), 2, "vocabulary of 512");
    refused(&cluster.ask_as("nobody", &inside), 2, "edge-node join");
    refused(
        &cluster.ask_elsewhere("127.0.0.1:1", &inside),
        3,
        "no cloud answers",
    );

    let identity = cluster.dir.path().join("edge");
    let mut other = std::process::Command::new(edge_node());
    other.args([
        "ask",
        "--load-format",
        "dummy",
        "--model-shape",
        "110m",
        "--token-ids",
        "5",
    ]);
    other.args([
        "--cloud",
        &cluster.addr,
        "--cloud-prompt",
        "inside",
        "--identity",
    ]);
    refused(&run(other.arg(&identity)), 4, "same model files");
}

#[test]
fn a_copied_token_is_of_no_use_once_its_owner_has_connected() {
    let Some(folder) = trained_model("stories260K") else {
        return;
    };
    let cluster = Cluster::start(&["--model", folder.to_str().unwrap()], &[]);
    let copied = run(&mut cluster.join("thief"));
    assert!(
        copied.status.success(),
        "joining is offline, so a copy is noticed later"
    );
    let args = [
        "--require-cloud",
        "--cloud-text",
        "Once",
        "--max-tokens",
        "1",
        " upon",
    ];
    let owner = cluster.ask(&args);
    assert!(owner.status.success(), "{}", stderr(&owner));
    refused(&cluster.ask_as("thief", &args), 5, "already used");
    assert!(cluster.ask(&args).status.success(), "the owner goes on");

    let again = run(&mut cluster.join("edge"));
    refused(&again, 2, "--replace");
    assert!(run(cluster.join("edge").arg("--replace")).status.success());
}

#[test]
fn a_public_part_that_is_known_needs_no_cloud() {
    let Some(folder) = trained_model("stories260K") else {
        return;
    };
    let cluster = Cluster::start(&["--model", folder.to_str().unwrap()], &[]);
    let args = [
        "--cloud-text",
        "Once upon a time",
        "--max-tokens",
        "24",
        ", there was a dog.",
    ];
    let with = cluster.ask(&args);
    let without = cluster.ask_elsewhere("127.0.0.1:1", &args);
    assert!(
        with.status.success() && without.status.success(),
        "{}",
        stderr(&without)
    );
    assert_eq!(stdout(&without), stdout(&with));
    assert!(
        stderr(&without).contains("5 layers were computed here"),
        "{}",
        stderr(&without)
    );
    assert!(stderr(&with).is_empty(), "{}", stderr(&with));
}

#[test]
fn an_inexact_cut_is_accepted_when_told_to() {
    let Some(folder) = trained_model("stories260K") else {
        return;
    };
    let cluster = Cluster::start(&["--model", folder.to_str().unwrap()], &[]);
    let args = [
        "--cloud-text",
        "Once upon a ti",
        "--max-tokens",
        "4",
        "--allow-inexact-cut",
        "me",
    ];
    let asked = cluster.ask(&args);
    assert!(asked.status.success(), "{}", stderr(&asked));
    assert!(!stdout(&asked).trim().is_empty());
}
