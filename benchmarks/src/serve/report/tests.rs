//! The keys of a result, and that nobody else may have them.

use std::time::Duration;

use clap::Parser;

use super::*;
use crate::serve::own_fields::OwnFields;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    report: ReportArgs,
}

fn report(args: &[&str]) -> ReportArgs {
    Line::try_parse_from(["x"].iter().chain(args))
        .unwrap()
        .report
}

fn setup() -> Setup {
    Setup {
        date: "20261121-101112".to_owned(),
        backend: "openai",
        model: "some/tiny".to_owned(),
        tokenizer: "tokenizer.json",
        num_prompts: 3,
        request_rate: RequestRate::Unlimited,
        burstiness: Burstiness::Gamma(1.0),
        max_concurrency: None,
        seed: 0,
        dataset: json!({"name": "random"}),
        provenance: Provenance::gather().unwrap(),
    }
}

fn run() -> Run {
    let timings = json!({"kv_source": "disk", "kv_codec": "int8", "kv_wait_ms": 2.5});
    let answer = Answer {
        ttft: Duration::from_millis(20),
        itls: vec![Duration::from_millis(5)],
        latency: Duration::from_millis(25),
        prompt_len: Some(9),
        output_len: 2,
        cached_len: Some(4),
        own: OwnFields::read(timings.as_object().unwrap()),
    };
    let outcome = |index, answer| Outcome {
        start: Duration::from_millis(1),
        index,
        answer,
    };
    Run {
        outcomes: vec![
            outcome(0, Ok(answer)),
            outcome(1, Err("HTTP 500".to_owned())),
        ],
        duration: Duration::from_secs(1),
        ending: Ending::Complete,
    }
}

fn result_of(args: &[&str]) -> Map<String, Value> {
    let run = run();
    let measured = Measured::of(&run.outcomes, run.duration, &[7, 7], None);
    result(&measured, &run, &[7, 7], &setup(), &report(args))
}

#[test]
fn a_result_has_vllms_keys_and_ours() {
    let result = result_of(&[
        "--metadata",
        "mode=relay",
        "--metric-percentiles",
        "50,99.9",
    ]);
    for key in [
        "date",
        "endpoint_type",
        "label",
        "model_id",
        "num_prompts",
        "request_rate",
        "burstiness",
        "max_concurrency",
        "duration",
        "completed",
        "failed",
        "total_input_tokens",
        "total_output_tokens",
        "request_throughput",
        "request_goodput",
        "output_throughput",
        "total_token_throughput",
        "max_output_tokens_per_s",
        "max_concurrent_requests",
        "mean_ttft_ms",
        "median_tpot_ms",
        "std_itl_ms",
        "p50_e2el_ms",
        "p99.9_ttft_ms",
        "kv_source",
        "kv_codec",
        "kv_wait_ms",
        "provenance",
        "dataset",
        "interrupted",
    ] {
        assert!(result.contains_key(key), "{key} is missing");
    }
    assert_eq!(result["request_rate"], "inf");
    assert_eq!(result["mode"], "relay");
    assert_eq!(
        (&result["completed"], &result["failed"]),
        (&json!(1), &json!(1))
    );
    assert_eq!(result["failures"], json!({"HTTP 500": 1}));
    assert_eq!(result["kv_source"], json!({"disk": 1}));
    assert_eq!(result["kv_codec"], json!({"int8": 1}));
    assert_eq!(result.get("ttfts"), None);
}

#[test]
fn details_have_an_entry_for_each_request_and_no_text() {
    let result = result_of(&["--save-result", "--save-detailed"]);
    assert_eq!(result["input_lens"], json!([9, 7]));
    assert_eq!(result["output_lens"], json!([2, 0]));
    assert_eq!(result["ttfts"], json!([0.02, 0.0]));
    assert_eq!(result["itls"], json!([[0.005], []]));
    assert_eq!(result["errors"], json!(["", "HTTP 500"]));
    assert_eq!(
        result["kv_per_request"],
        json!([{"kv_source": "disk", "kv_codec": "int8", "kv_wait_ms": 2.5}, null])
    );
    assert_eq!(result.get("generated_texts"), None);
}

#[test]
fn details_need_a_file_to_be_in() {
    let is_taken = |args: &[&str]| Line::try_parse_from(["x"].iter().chain(args)).is_ok();
    assert!(!is_taken(&["--save-detailed"]));
    assert!(is_taken(&["--save-detailed", "--save-result"]));
    assert!(is_taken(&["--save-detailed", "--append-result"]));
    assert!(is_taken(&["--save-result", "--append-result"]));
}

#[test]
fn metadata_takes_no_key_of_the_result() {
    for (key, _) in result_of(&["--save-result", "--save-detailed"]) {
        assert!(
            metadata(&format!("{key}=x")).is_err(),
            "{key} would collide"
        );
    }
    assert_eq!(
        metadata("link=5g=x"),
        Ok(("link".to_owned(), "5g=x".to_owned()))
    );
    assert!(metadata("nothing").is_err());
}

#[test]
fn a_file_is_called_as_vllm_calls_it() {
    let mut setup = setup();
    assert_eq!(
        file_name(&setup, &report(&[])),
        "openai-infqps-tiny-20261121-101112.json"
    );
    setup.request_rate = RequestRate::PerSecond(2.0);
    setup.max_concurrency = Some(4);
    let label = report(&["--label", "ours"]);
    assert_eq!(
        file_name(&setup, &label),
        "ours-2.0qps-concurrency4-tiny-20261121-101112.json"
    );
    assert_eq!(
        file_name(&setup, &report(&["--result-filename", "x.json"])),
        "x.json"
    );
    assert!(Line::try_parse_from(["x", "--label", "../x"]).is_err());
}
