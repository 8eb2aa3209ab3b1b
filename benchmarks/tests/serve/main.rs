//! `benchmarks serve` as a user runs it: against a serving edge node in a process of its own, and
//! against servers that answer as others do, or not at all.

#![cfg(test)]

mod edge;
mod other;

use std::path::Path;
use std::process::{Command, Output, Stdio};

use serde_json::{Value, json};

use edge::Edge;
use other::{Answering, Other};

/// Runs the client with a result in `dir`.
fn client(dir: &Path, base_url: &str, arguments: &[&str]) -> Output {
    Command::new(env!("CARGO_BIN_EXE_benchmarks"))
        .args(["serve", "--base-url", base_url, "--result-dir"])
        .arg(dir)
        .args(arguments)
        .env_remove("OPENAI_API_KEY")
        .stdin(Stdio::null())
        .output()
        .unwrap()
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap()
}

fn succeeded(output: &Output) -> &str {
    assert!(output.status.success(), "{}", text(&output.stderr));
    text(&output.stdout)
}

fn result(dir: &Path, name: &str) -> Value {
    let text = std::fs::read_to_string(dir.join(name)).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// The value of a row of the table.
fn row<'a>(table: &'a str, name: &str) -> &'a str {
    let mut rows = table.lines().filter_map(|line| line.strip_prefix(name));
    let row = rows.next();
    row.unwrap_or_else(|| panic!("no {name} in {table}")).trim()
}

const SHORT: [&str; 10] = [
    "--dataset-name",
    "random",
    "--random-input-len",
    "24",
    "--random-output-len",
    "6",
    "--ignore-eos",
    "--num-prompts",
    "12",
    "--save-result",
];

#[test]
fn an_edge_node_is_measured() {
    let edge = Edge::start();
    let dir = tempfile::tempdir().unwrap();
    for (backend, max_concurrency) in [("openai", "3"), ("openai-chat", "12")] {
        let more = [
            "--backend",
            backend,
            "--max-concurrency",
            max_concurrency,
            "--request-rate",
            "400",
            "--save-detailed",
            "--result-filename",
            backend,
            "--num-warmups",
            "2",
            "--goodput",
            "ttft:1e9",
            "e2el:1e9",
        ];
        let output = client(dir.path(), &edge.base_url, &[&SHORT[..], &more].concat());
        let table = succeeded(&output);
        assert_eq!(row(table, "Successful requests:"), "12", "{table}");
        assert_eq!(row(table, "Failed requests:"), "0");
        assert_eq!(row(table, "Total generated tokens:"), "72");
        for block in ["TTFT", "TPOT", "ITL", "E2EL"] {
            let mean: f64 = row(table, &format!("Mean {block} (ms):")).parse().unwrap();
            assert!(mean > 0.0, "{table}");
        }
        let result = result(dir.path(), backend);
        assert_eq!(result["endpoint_type"], backend);
        assert_eq!(result["model_id"], "demo");
        assert_eq!(result["completed"], 12);
        assert_eq!(result["total_output_tokens"], 72);
        assert_eq!(result["output_lens"], json!(vec![6; 12]));
        let goodput = result["request_goodput"].as_f64().unwrap();
        let throughput = result["request_throughput"].as_f64().unwrap();
        assert!((goodput - throughput).abs() < 1e-9);
        let most = result["max_concurrent_requests"].as_u64().unwrap();
        assert!(
            most >= 1 && most <= max_concurrency.parse().unwrap(),
            "{most}"
        );
        let lens = result["input_lens"].as_array().unwrap();
        // What was made up to have 24 tokens has about so many to the server; a chat has more.
        let is_near = |len: &Value| (20..=60).contains(&len.as_u64().unwrap());
        assert!(lens.iter().all(is_near), "{lens:?}");
        assert!(result["itls"][0].as_array().unwrap().len() >= 5, "{result}");
        assert_eq!(result["provenance"]["command_line"][1], "serve");
    }
}

#[test]
fn what_an_edge_node_tells_of_a_cloud_prompt_is_in_the_result() {
    let edge = Edge::with_cloud_prompt("desk", "The shop sells ruby, jade and amber plans.\n");
    let asked = json!({"prompt": "Ada asks.", "cloud_prompt": "desk", "max_tokens": 2});
    let first = edge.complete(&asked);
    let timings = first["timings"].as_object().unwrap();
    // Whatever more an edge tells has to be read too: `serve/own_fields.rs`.
    let told: Vec<_> = timings.keys().filter(|it| it.starts_with("kv_")).collect();
    assert_eq!(
        told,
        [
            "kv_codec",
            "kv_first_layer_ms",
            "kv_last_layer_ms",
            "kv_source",
            "kv_wait_ms"
        ]
    );
    let dir = tempfile::tempdir().unwrap();
    let more = [
        "--cloud-prompt",
        "desk",
        "--save-detailed",
        "--result-filename",
        "r.json",
    ];
    let output = client(dir.path(), &edge.base_url, &[&SHORT[..], &more].concat());
    succeeded(&output);
    let result = result(dir.path(), "r.json");
    assert_eq!(result["kv_source"], json!({"memory": 12}));
    assert_eq!(
        result["kv_codec"],
        json!({ timings["kv_codec"].as_str().unwrap(): 12 })
    );
    assert!(result["kv_wait_ms"].as_f64() >= Some(0.0), "{result}");
    assert_eq!(result["kv_per_request"][0]["kv_source"], "memory");
}

#[test]
fn a_trace_is_replayed_and_its_bad_lines_are_named() {
    let edge = Edge::start();
    let dir = tempfile::tempdir().unwrap();
    let trace = dir.path().join("trace.csv");
    let lines = "TIMESTAMP,ContextTokens,GeneratedTokens\n\
        2023-11-16 18:00:00.0000000,20,3\nnonsense\n2023-11-16 18:00:40.0000000,30,4\n";
    std::fs::write(&trace, lines).unwrap();
    let arguments = [
        "--trace",
        trace.to_str().unwrap(),
        "--trace-speed",
        "200",
        "--ignore-eos",
        "--save-result",
        "--result-filename",
        "trace.json",
    ];
    let output = client(dir.path(), &edge.base_url, &arguments);
    let table = succeeded(&output);
    assert!(table.contains("2 requests, 1 malformed: line 3"), "{table}");
    let result = result(dir.path(), "trace.json");
    assert_eq!(result["total_output_tokens"], 7);
    assert_eq!(result["dataset"]["file"], "trace.csv");
    // 40 seconds, 200 times as fast.
    assert!(result["duration"].as_f64().unwrap() >= 0.2, "{result}");
}

#[test]
fn conversations_are_asked_as_the_tokenizer_of_the_server_counts_them() {
    let other = Other::start(Answering::Well);
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("sharegpt.json");
    let turns = |prompt: &str, answer: &str| json!({"conversations": [{"value": prompt}, {"value": answer}]});
    let file_content = json!([
        turns("one two three four five", "a b c d"),
        7,
        turns("too short", "a b c d"),
    ]);
    std::fs::write(&file, file_content.to_string()).unwrap();
    let arguments = [
        "--dataset-path",
        file.to_str().unwrap(),
        "--num-prompts",
        "3",
        "--cloud-prompt",
        "desk",
        "--api-key",
        "sesame",
        "--save-result",
        "--result-filename",
        "r.json",
    ];
    let output = client(dir.path(), &other.base_url, &arguments);
    let table = succeeded(&output);
    assert!(
        table.contains("1 malformed: record 1 is not an object"),
        "{table}"
    );
    let result = result(dir.path(), "r.json");
    assert_eq!(result["dataset"]["tally"]["rejected_count"], 1);
    assert_eq!(result["dataset"]["tally"]["repeated_count"], 2);
    assert_eq!(result["kv_source"], json!({"memory": 3}));
    assert_eq!(result["kv_codec"], json!({"int8": 3}));
    assert_eq!(result["kv_wait_ms"], 1.5);
    assert!(!result.to_string().contains("sesame"));
    let asked = other.asked();
    // The test request is the first.
    assert_eq!(asked.len(), 4);
    for (head, body) in asked {
        assert_eq!(body["prompt"], "one two three four five");
        assert_eq!(
            (&body["max_tokens"], &body["cloud_prompt"]),
            (&json!(4), &json!("desk"))
        );
        assert!(
            head.to_lowercase().contains("authorization: bearer sesame"),
            "{head}"
        );
    }
}

#[test]
fn runs_are_appended_and_named_as_vllms_client_does() {
    let other = Other::start(Answering::Well);
    let dir = tempfile::tempdir().unwrap();
    let more = [
        "--append-result",
        "--result-filename",
        "runs.json",
        "--model",
        "org/tiny",
        "--served-model-name",
        "served",
        "--request-id-prefix",
        "run7-",
        "--input-len",
        "5",
        "--output-len",
        "3",
    ];
    let arguments = [&SHORT[..SHORT.len() - 1], &more].concat();
    for label in ["one", "two"] {
        let arguments = [&arguments[..], &["--label", label]].concat();
        succeeded(&client(dir.path(), &other.base_url, &arguments));
    }
    let lines = std::fs::read_to_string(dir.path().join("runs.json")).unwrap();
    let runs: Vec<Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    let labels: Vec<_> = runs.iter().map(|run| &run["label"]).collect();
    assert_eq!(labels, ["one", "two"]);
    assert!(runs.iter().all(|run| run["model_id"] == "org/tiny"));
    let asked = other.asked();
    let mut names = Vec::new();
    for (head, body) in &asked {
        assert_eq!(
            (&body["model"], &body["max_tokens"]),
            (&json!("served"), &json!(3))
        );
        // What was made up to have 5 tokens: the default is 1,024.
        assert!(body["prompt"].as_str().unwrap().len() < 100, "{body}");
        let lines = head.lines();
        names.extend(lines.filter_map(|line| line.strip_prefix("x-request-id: ")));
    }
    names.sort_unstable();
    names.dedup();
    // The test request has no name.
    assert_eq!((asked.len(), names.len()), (26, 12), "{names:?}");
    assert!(names.contains(&"run7-0") && names.contains(&"run7-11"));
}

#[test]
fn a_made_up_cloud_prompt_stands_before_every_prompt() {
    let other = Other::start(Answering::Well);
    let dir = tempfile::tempdir().unwrap();
    let arguments = [&SHORT[..], &["--cloud-prompt-text", "50"]].concat();
    let output = client(dir.path(), &other.base_url, &arguments);
    let table = succeeded(&output);
    let written = std::fs::read_to_string(dir.path().join("cloud-prompt-50.txt")).unwrap();
    assert!(table.contains("cloud-prompt-50.txt"), "{table}");
    assert!(written.split_whitespace().count() >= 48, "{written}");
    for (_, body) in other.asked() {
        assert!(body["prompt"].as_str().unwrap().starts_with(&written));
    }
}

#[test]
fn failures_are_counted_by_their_reason_and_the_others_are_measured() {
    let other = Other::start(Answering::SometimesNot);
    let dir = tempfile::tempdir().unwrap();
    let arguments = [
        &SHORT[..],
        &["--result-filename", "r.json", "--save-detailed"],
    ]
    .concat();
    let output = client(dir.path(), &other.base_url, &arguments);
    let table = succeeded(&output);
    let result = result(dir.path(), "r.json");
    assert_eq!(
        (&result["completed"], &result["failed"]),
        (&json!(3), &json!(9)),
        "{table}"
    );
    let failures = result["failures"].as_object().unwrap();
    assert_eq!(
        failures["HTTP 503 Service Unavailable: busy"], 3,
        "{failures:?}"
    );
    assert_eq!(
        failures["the server failed: out of blocks"], 3,
        "{failures:?}"
    );
    let broken = failures
        .iter()
        .filter(|(reason, _)| reason.contains("broke off"));
    assert_eq!(
        broken
            .map(|(_, count)| count.as_u64().unwrap())
            .sum::<u64>(),
        3
    );
    assert!(table.contains("failed 3 times: "), "{table}");
    let errors = result["errors"].as_array().unwrap();
    assert_eq!(errors.iter().filter(|error| **error == "").count(), 3);
}

#[test]
fn exit_codes_tell_what_went_wrong() {
    let dir = tempfile::tempdir().unwrap();
    let code = |base_url: &str, arguments: &[&str]| {
        let output = client(dir.path(), base_url, arguments);
        (output.status.code(), text(&output.stderr).to_owned())
    };
    let other = Other::start(Answering::Once);
    let (status, said) = code(&other.base_url, &SHORT);
    assert_eq!(status, Some(3), "{said}");
    assert!(said.contains("no request was answered"), "{said}");
    let other = Other::start(Answering::Never);
    let (status, said) = code(&other.base_url, &SHORT);
    assert_eq!(status, Some(3), "{said}");
    assert!(
        said.contains("test request") && said.contains("HTTP 503"),
        "{said}"
    );
    let (status, said) = code("http://127.0.0.1:1", &SHORT);
    assert_eq!(status, Some(3), "{said}");
    assert!(said.contains("is it running there?"), "{said}");
    let (status, said) = code("ftp://127.0.0.1", &SHORT);
    assert_eq!(status, Some(2), "{said}");
    let nothing = ["--dataset-path", "/no/such/file.json"];
    let other = Other::start(Answering::Well);
    let (status, said) = code(&other.base_url, &nothing);
    assert_eq!(status, Some(2), "{said}");
    assert!(said.contains("/no/such/file.json"), "{said}");
}

#[test]
fn a_server_that_is_loading_is_waited_for() {
    let dir = tempfile::tempdir().unwrap();
    let patient = [&SHORT[..], &["--ready-check-timeout-sec", "600"]].concat();
    let other = Other::start(Answering::AfterLoading);
    assert_eq!(
        row(
            succeeded(&client(dir.path(), &other.base_url, &patient)),
            "Successful requests:"
        ),
        "12"
    );
    let other = Other::start(Answering::AfterLoading);
    let output = client(dir.path(), &other.base_url, &SHORT);
    assert_eq!(output.status.code(), Some(3));
}

#[test]
fn ctrl_c_prints_what_there_is() {
    let other = Other::start(Answering::ThreeTimesThenHang);
    let dir = tempfile::tempdir().unwrap();
    let child = Command::new(env!("CARGO_BIN_EXE_benchmarks"))
        .args(["serve", "--base-url", &other.base_url, "--result-dir"])
        .arg(dir.path())
        .args(SHORT)
        .args(["--max-concurrency", "1", "--result-filename", "r.json"])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    other.wait_until_it_hangs();
    let interrupted = Command::new("kill")
        .args(["-INT", &child.id().to_string()])
        .status();
    assert!(interrupted.unwrap().success());
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(130));
    let table = text(&output.stdout);
    assert!(
        table.contains("interrupted: 2 of 12 requests have ended"),
        "{table}"
    );
    assert_eq!(row(table, "Successful requests:"), "2");
    assert_eq!(result(dir.path(), "r.json")["interrupted"], true);
}
