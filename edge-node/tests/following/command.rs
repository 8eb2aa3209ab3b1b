//! `edge-node handover`, as an operator types it.

use std::process::{Command, Output};

use edgeprompt_ue_client::FinishReason;
use serde_json::json;

use crate::support::{edge_node, run, stderr, stdout};
use crate::world::{World, attempts};
use crate::{A_WHILE, PROMPT, completion, seeded};

fn handover(args: &[&str]) -> Output {
    run(Command::new(edge_node())
        .arg("handover")
        .args(args)
        .env("EDGEPROMPT_TEST_KEY", "alpha"))
}

fn code(args: &[&str]) -> (Option<i32>, String) {
    let output = handover(args);
    (output.status.code(), stderr(&output))
}

#[test]
fn an_operator_lists_and_moves_sessions() {
    let world = World::start(2);
    let (url, target) = (world.url(0).to_string(), world.target(1));
    let expected = world.unmoved("/v1/completions", &json!({ "prompt": PROMPT }), &seeded());
    for which in ["--session", "--all"] {
        let page = attempts(|| {
            let mut user = world.user(&completion(&seeded()), &[0]);
            user.read_more(A_WHILE);
            let id = user.session.id().to_string();
            let listed = stdout(&handover(&["--url", &url, "--list"]));
            let row = listed.lines().find(|line| line.starts_with(&id));
            assert!(row.is_some(), "{listed}");
            let mut args = vec!["--url", &url, "--target", &target, which];
            args.extend((which == "--session").then_some(id.as_str()));
            let output = handover(&args);
            user.read_to_the_end();
            assert_eq!(user.text, expected);
            assert_eq!(user.end, Some(FinishReason::Length));
            let has_moved = user.moves.len() == 1;
            has_moved.then(|| {
                assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
                (id, stdout(&output))
            })
        });
        let (id, page) = page;
        let row = page.lines().find(|line| line.starts_with(&id)).unwrap();
        let words: Vec<_> = row.split_whitespace().collect();
        assert_eq!(words.len(), 9, "{page}");
        let known = ["token", "cache", "joint", "stream", "precopy"];
        assert!(known.contains(&words[1]), "{page}");
        assert!(
            words[2..5].iter().all(|word| word.parse::<f64>().is_ok()),
            "{page}"
        );
        assert_eq!(words[8], target);
    }
}

#[test]
fn what_cannot_be_is_said_with_an_exit_code() {
    let keys = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(keys.path(), "# staff\nalpha\nbeta\n").unwrap();
    let keys = keys.path().to_str().unwrap().to_owned();
    let world = World::start_with(1, &["--api-key-file", &keys]);
    let (url, target) = (world.url(0).to_string(), world.target(0));
    let (refused, said) = code(&["--url", &url, "--list"]);
    assert_eq!(refused, Some(2));
    assert!(said.contains("--api-key-file"), "{said}");
    for key in [
        ["--api-key-file", &keys],
        ["--api-key-env", "EDGEPROMPT_TEST_KEY"],
    ] {
        let (listed, said) = code(&[&["--url", &url, "--list"], &key[..]].concat());
        assert_eq!(listed, Some(0), "{said}");
    }
    let with_key =
        |args: &[&str]| code(&[&["--url", &url, "--api-key-file", &keys], args].concat());
    let nobody = "0".repeat(32);
    let (unknown, said) = with_key(&["--target", &target, "--session", &nobody]);
    assert_eq!(unknown, Some(2));
    assert!(said.contains("session_not_found"), "{said}");
    let (strange, _) = with_key(&["--target", &target, "--session", "../v1/status"]);
    assert_eq!(strange, Some(2));
    let (none, said) = with_key(&["--target", &target, "--all"]);
    assert_eq!(none, Some(0), "{said}");
    assert_eq!(with_key(&["--all"]).0, Some(2));
    assert_eq!(with_key(&["--target", &target]).0, Some(2));
    assert_eq!(with_key(&[]).0, Some(2));
    let (unreachable, said) = code(&["--url", "http://127.0.0.1:1", "--list"]);
    assert_eq!(unreachable, Some(3));
    assert!(said.contains("cannot be reached"), "{said}");
}
