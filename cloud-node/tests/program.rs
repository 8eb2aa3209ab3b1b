//! The `cloud-node` program from the shell: identities, tokens, lists, exit codes.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
// All of it is test code, so a panic is a failed test.
#![cfg(test)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Output, Stdio};

use edgeprompt_testkit::fixtures::trained_model;

fn cloud_node(args: &[&str], identity: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cloud-node"));
    command
        .args(args)
        .env("CLOUD_IDENTITY", identity)
        .output()
        .unwrap()
}

fn last_word(output: &Output) -> String {
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    text.split_whitespace()
        .last()
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn init_and_invite_print_tokens_as_their_last_words() {
    let dir = tempfile::tempdir().unwrap();
    let identity = dir.path().join("cloud");
    let (first, second) = (
        cloud_node(&["init"], &identity),
        cloud_node(&["invite"], &identity),
    );
    assert!(first.status.success() && second.status.success());
    assert!(last_word(&first).starts_with("epjoin1."));
    assert!(last_word(&second).starts_with("epjoin1."));
    assert_ne!(last_word(&first), last_word(&second));

    let again = cloud_node(&["init"], &identity);
    assert_eq!(
        again.status.code(),
        Some(2),
        "an identity is never overwritten"
    );
    let missing = cloud_node(&["invite"], &dir.path().join("elsewhere"));
    assert_eq!(missing.status.code(), Some(2));
}

#[test]
fn a_missing_model_has_exit_code_4_and_names_the_file() {
    let dir = tempfile::tempdir().unwrap();
    cloud_node(&["init"], dir.path().join("cloud").as_path());
    let serve = [
        "serve",
        "--model",
        "/nonexistent",
        "--listen",
        "127.0.0.1:0",
    ];
    let output = cloud_node(&serve, &dir.path().join("cloud"));
    assert_eq!(output.status.code(), Some(4));
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("--model /nonexistent: "), "{said}");
}

#[test]
fn prompts_are_listed_by_their_stems() {
    let Some(folder) = trained_model("stories260K") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("park.txt"), "Tom and Sam like the park.").unwrap();
    std::fs::write(dir.path().join(".hidden"), "not a prompt").unwrap();
    let prompts = dir.path().to_str().unwrap();
    let args = [
        "prompts",
        "--model",
        folder.to_str().unwrap(),
        "--prompts",
        prompts,
    ];
    let listed = cloud_node(&args, dir.path());
    let text = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(text.lines().count(), 2, "a header and one prompt: {text}");
    assert!(text.lines().last().unwrap().starts_with("park "), "{text}");

    std::fs::write(dir.path().join("park.md"), "Another.").unwrap();
    let twice = cloud_node(&args, dir.path());
    assert_eq!(twice.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&twice.stderr).contains("two files"));
}

/// The model that comes with the repository.
const DEMO_MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/model/demo");

#[test]
fn a_prompt_beyond_the_limit_is_refused_at_the_start_by_its_file() {
    let dir = tempfile::tempdir().unwrap();
    let identity = dir.path().join("cloud");
    cloud_node(&["init"], &identity);
    let prompts = dir.path().join("prompts");
    std::fs::create_dir(&prompts).unwrap();
    std::fs::write(prompts.join("endless.txt"), "The plan. ".repeat(600)).unwrap();
    let prompts = prompts.to_str().unwrap();
    let refused = |args: &[&str]| {
        let common = ["--model", DEMO_MODEL, "--prompts", prompts];
        let output = cloud_node(&[args, &common[..]].concat(), &identity);
        assert_eq!(output.status.code(), Some(2));
        String::from_utf8(output.stderr).unwrap()
    };
    let listed = refused(&["prompts"]);
    assert!(
        listed.contains("endless.txt: ") && listed.contains("the model's context, which takes 511"),
        "{listed}"
    );
    let served = refused(&["serve", "--listen", "127.0.0.1:0"]);
    assert!(served.contains("endless.txt: "), "{served}");
}

#[test]
fn a_cloud_serves_its_metrics_where_it_is_told_to() {
    let dir = tempfile::tempdir().unwrap();
    let identity = dir.path().join("cloud");
    cloud_node(&["init"], &identity);
    let mut cloud = Command::new(env!("CARGO_BIN_EXE_cloud-node"))
        .args(["serve", "--model", DEMO_MODEL, "--listen", "127.0.0.1:0"])
        .env("CLOUD_IDENTITY", &identity)
        .env("CLOUD_METRICS_LISTEN", "127.0.0.1:0")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(cloud.stdout.take().unwrap()).lines();
    let mut starts_with = |start: &str| {
        let mut rest = lines.by_ref().map_while(Result::ok);
        rest.find_map(|line| Some(line.strip_prefix(start)?.to_owned()))
    };
    let url = starts_with("metrics on http://").unwrap();
    starts_with("listening on ").unwrap();
    let mut stream = TcpStream::connect(url.strip_suffix("/metrics").unwrap()).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\n\r\n").unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    cloud.kill().unwrap();
    cloud.wait().unwrap();
    assert!(text.contains("\ncloud_edges_connected 0\n"), "{text}");
    let busy = "cloud_refusals_total{reason=\"busy\"} 0";
    for line in [
        busy,
        "cloud_prompts_computed_total 0",
        "cloud_layers_sent_total 0",
    ] {
        assert!(text.contains(&format!("\n{line}\n")), "{line} in {text}");
    }
}
