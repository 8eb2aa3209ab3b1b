//! The main job as a user runs it: two programs, real QUIC, the tokens that llama.cpp gives.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[allow(dead_code, reason = "other tests use more of it")]
mod support;

use std::path::{Path, PathBuf};

use burn::tensor::Device;
use edge_node::audit::prompts::made_up;
use edgeprompt_kv::PromptId;
use edgeprompt_model::Model;
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
    let unreadable = ["--cloud-text", "Once", "--token-ids", "5,canary"];
    refused(&cluster.ask(&unreadable), 2, "private token id 2");
    refused(&cluster.ask_as("nobody", &inside), 2, "edge-node join");
    refused(
        &cluster.ask_elsewhere("127.0.0.1:1", &missing),
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

const STORY: &str = "Once upon a time";

#[test]
fn a_prompt_that_was_fetched_once_is_remembered_when_the_cloud_is_down() {
    let Some(folder) = trained_model("stories260K") else {
        return;
    };
    let mut cluster = Cluster::start(&["--model", folder.to_str().unwrap()], &[("tale", STORY)]);
    let args = ["--max-tokens", "24", "--cloud-prompt", "tale", ", a canary"];
    let forgetful = [&["--no-remembered"], &args[..]].concat();
    assert!(cluster.ask(&forgetful).status.success());
    assert!(!cluster.remembered().exists(), "nothing is kept unasked");
    let with = cluster.ask(&args);
    assert!(with.status.success(), "{}", stderr(&with));
    cluster.kill_cloud();

    let demanding = [&["--require-cloud"], &args[..]].concat();
    let unknown = ["--cloud-prompt", "other", SECRET];
    // Each of them dials for some seconds.
    let dialling = [&args[..], &demanding, &forgetful, &unknown];
    let [without, demanding, forgetful, unknown] = std::thread::scope(|scope| {
        dialling
            .map(|args| scope.spawn(|| cluster.ask(args)))
            .map(|asking| asking.join().unwrap())
    });
    assert_eq!(stdout(&without), stdout(&with), "{}", stderr(&without));
    let said = stderr(&without);
    let told = said.matches("5 layers were computed here").count();
    assert_eq!(told, 1, "{said}");
    assert!(said.contains("as this edge remembers it"), "{said}");
    for refusal in [&demanding, &forgetful, &unknown] {
        refused(refusal, 3, "no cloud answers");
    }
    let local = [&["--local"], &args[..]].concat();
    assert_eq!(stdout(&cluster.ask(&local)), stdout(&with));

    for file in files_below(&cluster.remembered()) {
        assert!(!std::fs::read_to_string(&file).unwrap().contains("canary"));
        std::fs::write(file, "{}").unwrap();
    }
    refused(&cluster.ask(&args), 3, "no cloud answers");
    let [aside] = files_below(&cluster.remembered()).try_into().unwrap();
    assert!(aside.to_str().unwrap().ends_with("tale.damaged"));
}

/// The token ids of an answer, and how many bytes of keys and values came for it.
fn asked_in(cluster: &Cluster, codec: &str) -> (String, f64) {
    let question = "My name is Ada. I have the jade plan. How much does it cost?
";
    let asked = cluster.ask(&[
        "--cloud-prompt",
        "desk",
        question,
        "--wire-codec",
        codec,
        "--print-token-ids",
        "-v",
    ]);
    let log = stderr(&asked);
    assert!(asked.status.success(), "{log}");
    let received = log
        .lines()
        .find(|line| line.contains("keys and values received"));
    let (_, bytes) = received.unwrap().rsplit_once("bytes=").unwrap();
    (stdout(&asked), bytes.trim().parse().unwrap())
}

#[test]
fn a_question_is_answered_in_every_number_format() {
    let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/model/demo");
    let desk = include_str!("../src/demo/cloud_prompt.txt");
    let cluster = Cluster::start(&["--model", model.to_str().unwrap()], &[("desk", desk)]);
    let (exact, exact_bytes) = asked_in(&cluster, "f32");
    assert!(exact.contains(','), "an answer has several tokens");
    for (codec, ratio_min) in [("f16", 2.0), ("bf16", 2.0), ("int8", 3.6), ("int4", 6.2)] {
        let (answer, bytes) = asked_in(&cluster, codec);
        let ratio = exact_bytes / bytes;
        assert!(
            (ratio_min..1.1 * ratio_min).contains(&ratio),
            "{codec}: {ratio}"
        );
        assert_eq!(answer, exact, "{codec}");
    }
}

fn files_below(folder: &Path) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap();
    let paths = entries.map(|entry| entry.unwrap().path());
    paths
        .flat_map(|path| match path.is_dir() {
            true => files_below(&path),
            false => vec![path],
        })
        .collect()
}

#[test]
fn an_edge_lists_what_its_cloud_serves() {
    let Some(folder) = trained_model("stories260K") else {
        return;
    };
    let prompts = [("tale", STORY), ("a-fable", "Once there was a fox")];
    let mut cluster = Cluster::start(&["--model", folder.to_str().unwrap()], &prompts);
    let listed = cluster.prompts();
    let text = stdout(&listed);
    assert!(listed.status.success(), "{}", stderr(&listed));
    let lines: Vec<Vec<_>> = text
        .lines()
        .map(|line| line.split_whitespace().collect())
        .collect();
    assert_eq!(lines.len(), 3, "{text}");
    assert_eq!((lines[1][0], lines[2][0]), ("a-fable", "tale"));
    let model = Model::open(&folder, &Device::flex(), |_| {}).unwrap();
    let tokens = model.tokenizer().unwrap().encode(STORY).unwrap();
    let id = PromptId::of(&model.digest, &tokens).to_string();
    assert_eq!(lines[2][1..], [tokens.len().to_string(), id]);
    cluster.kill_cloud();
    refused(&cluster.prompts(), 3, "no cloud answers");
}

#[test]
fn an_audit_of_a_live_cloud_shows_what_is_sent_and_finds_it_clean() {
    let Some(folder) = trained_model("stories260K") else {
        return;
    };
    let mut cluster = Cluster::start(&["--model", folder.to_str().unwrap()], &[("tale", STORY)]);
    let args = ["--cloud-prompt", "tale", "--cases", "12"];
    let audited = cluster.audit(&args);
    let (page, log) = (stdout(&audited), stderr(&audited));
    assert_eq!(audited.status.code(), Some(0), "{page}");
    for part in [
        "CLEAN. All 12 sessions sent the same bytes",
        "the prompt that you call tale",
        "74 61 6c 65",
    ] {
        assert!(page.contains(part), "{part} in {page}");
    }
    let same = page.lines().filter(|line| line.contains(" yes "));
    assert_eq!(same.count(), 12, "{page}");

    let cloud_log = cluster.cloud_log();
    assert!(cloud_log.contains("TRACE quinn") && log.contains("TRACE quinn"));
    let model = Model::open(&folder, &Device::flex(), |_| {}).unwrap();
    for index in 0..12 {
        let canary = made_up(&model, index, 256).unwrap().canary;
        for text in [&cloud_log, &log, &page] {
            assert_eq!(canary.found_in_text(text), None, "case {index}");
        }
    }
    let unknown = ["--cloud-prompt", "other"];
    refused(&cluster.audit(&unknown), 2, "no prompt named other");
    cluster.kill_cloud();
    refused(&cluster.audit(&args), 3, "no cloud answers");
}
