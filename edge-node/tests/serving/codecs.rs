//! Number formats of keys and values: fewer bytes on the wire and on disk, the same answers, and what
//! lost something never where nothing may be lost.

use std::fs;
use std::path::Path;

use edgeprompt_engine::{SegmentPrefill, layer_from_view};
use edgeprompt_kv::KvDtype;
use edgeprompt_model::{ComputeDevice, Model};
use edgeprompt_segment_store::SegmentReader;
use serde_json::{Value, json};

use crate::edge::{Edge, completion, demo_model};
use crate::sources::{asked, kv, only, segment, segment_of};
use crate::support::{Cluster, run, stdout};
use crate::{DESK, cluster};

/// A cloud prompt that is here at once, whatever it comes in.
const BRIEF: &str = "You work at the desk of a shop.\n";

/// What guests ask the shop desk, and it knows.
fn questions() -> Vec<String> {
    let mut questions = Vec::new();
    for name in ["Ada", "Alan", "Grace", "Edsger"] {
        for (plan, question) in [
            ("jade", "How much does it cost?"),
            ("jade", "How long does it last?"),
            ("ruby", "How much does it cost?"),
            ("ruby", "How long does it last?"),
            ("amber", "How much does it cost?"),
        ] {
            let asked = format!("My name is {name}. I have the {plan} plan. {question}\n");
            questions.push(asked);
        }
    }
    questions
}

/// The desk's answers, up to where it ends them.
fn answers(edge: &Edge) -> Vec<String> {
    let whole = json!({"ignore_eos": false, "max_tokens": 32, "stop": ["\n"]});
    let questions = questions();
    let answers = questions.iter().map(|asked| edge.streamed(asked, &whole).1);
    answers.collect()
}

fn with<'a>(codec: &'a str, more: &[&'a str]) -> Vec<&'a str> {
    [&["--cloud-prompt", "desk", "--wire-codec", codec], more].concat()
}

#[test]
fn each_codec_takes_its_bytes_and_the_desk_answers_the_same() {
    let cluster = cluster();
    let served = |codec: &str| {
        let edge = Edge::start(&cluster, codec, &with(codec, &["--no-disk-cache"]));
        edge.wait_until_ready();
        let listed = &edge.get("/v1/cloud-prompts").json()["data"][0];
        assert_eq!(listed["recomputed_layers"], 0, "{codec}");
        assert_eq!(listed["planner_codec"], codec);
        let bytes = edge.metric("edge_kv_bytes_transferred_total");
        (bytes, answers(&edge))
    };
    let (exact_bytes, exact) = served("f32");
    assert!(
        exact.iter().all(|answer| answer.ends_with('.')),
        "{exact:?}"
    );
    for (codec, ratio_min) in [("f16", 2.0), ("bf16", 2.0), ("int8", 3.6), ("int4", 6.2)] {
        let (bytes, answers) = served(codec);
        let ratio = exact_bytes / bytes;
        assert!(
            ratio >= ratio_min && ratio < 1.1 * ratio_min,
            "{codec}: {ratio}"
        );
        assert_eq!(answers, exact, "{codec}");
    }
    assert_eq!(
        cluster.cloud_log().matches("cloud prompt computed").count(),
        1
    );
}

#[test]
fn auto_asks_an_unknown_link_for_the_smallest_and_a_known_one_for_the_best_and_tells_which() {
    // Long enough that its bytes measure the link.
    let (model, long) = (demo_model(), DESK.repeat(5));
    let cluster = Cluster::start(
        &["--model", model.to_str().unwrap()],
        &[("long", &long), ("short", BRIEF)],
    );
    let args = [
        "--cloud-prompt",
        "long",
        "--wire-codec",
        "auto",
        "--harm-budget",
        "0.3",
    ];
    let edge = Edge::start(&cluster, "auto", &args);
    edge.wait_until_ready();
    assert_eq!(
        edge.metric("edge_kv_plan_codecs_total{codec=\"int8\"}"),
        1.0
    );
    assert_eq!(edge.metric("edge_kv_plan_codecs_total{codec=\"f32\"}"), 0.0);
    let codec = |named: &str| {
        let body = completion(
            "Ada asks what the jade plan costs.\n",
            &json!({"cloud_prompt": named}),
        );
        let answer = edge.post("/v1/completions", &body).json();
        answer["timings"]["kv_codec"].as_str().unwrap().to_owned()
    };
    assert_eq!(codec("long"), "int8");
    // The next one is short, and would be here at once in any format: nothing need be lost.
    assert_eq!(codec("short"), "f32");
    let listed = edge.get("/v1/cloud-prompts/short").json();
    assert_eq!(listed["planner_codec"], "f32", "{listed}");
}

/// Starts an edge with a codec, and says where an answer's keys and values came from, its tokens,
/// and the bytes from the network.
fn once(cluster: &Cluster, name: &str, codec: &str) -> (String, Vec<u64>, f64) {
    let mut edge = Edge::start(cluster, name, &["--wire-codec", codec]);
    let (source, ids) = asked(&edge);
    edge.wait_until_on_disk();
    let bytes = edge.metric("edge_kv_bytes_transferred_total");
    assert!(edge.terminate().success());
    (source, ids, bytes)
}

/// Decoding and encoding again would lose more than the cloud's encoding did.
fn assert_is_as_encoded_once(segment: &Path) {
    let device = ComputeDevice::default().open().unwrap();
    let model = Model::demo(&device).unwrap();
    let mut reader = SegmentReader::open(fs::File::open(segment).unwrap()).unwrap();
    let tokens = reader.info().tokens.clone();
    for (layer, view) in SegmentPrefill::start(&model, &tokens) {
        let encoded = layer_from_view(&view, &model.geometry, KvDtype::Int8).unwrap();
        assert!(reader.layer(layer).unwrap() == encoded, "layer {}", layer.0);
    }
}

#[test]
fn what_came_in_int8_is_kept_in_int8_and_not_used_where_nothing_may_be_lost() {
    let cluster = cluster();
    let (source, ids, small) = once(&cluster, "first", "int8");
    assert_eq!(source, "cloud");
    let kept_bytes = || fs::metadata(segment(&cluster)).unwrap().len();
    let small_file = kept_bytes();
    assert!(kv(&cluster, &["verify"]).status.success());
    assert_is_as_encoded_once(&segment(&cluster));

    let again = once(&cluster, "again", "int8");
    assert_eq!(again, ("disk".to_owned(), ids, 0.0));
    assert_eq!(kept_bytes(), small_file);

    let codec = || {
        let listed = kv(&cluster, &["ls", "--json"]);
        let listed: Value = serde_json::from_str(&stdout(&listed)).unwrap();
        let table = stdout(&kv(&cluster, &["ls"]));
        let codec = listed[0]["codec"].as_str().unwrap().to_owned();
        assert!(table.contains(&format!(" {codec} ")), "{table}");
        codec
    };
    assert_eq!(codec(), "int8");

    let (source, exact_ids, exact) = once(&cluster, "exact", "f32");
    assert_eq!(source, "cloud");
    assert!(exact > 3.6 * small, "{exact} {small}");
    assert!(kept_bytes() > 3 * small_file, "it took the other's place");
    assert_eq!(codec(), "f32");

    // What lost nothing serves who would take less.
    let (source, ids, bytes) = once(&cluster, "last", "int8");
    assert_eq!((source.as_str(), ids, bytes), ("disk", exact_ids, 0.0));
}

#[test]
fn a_neighbour_hands_on_what_came_as_it_came_and_never_as_exact() {
    let cluster = cluster();
    let one = Edge::start(
        &cluster,
        "one",
        &with("int8", &["--peer-listen", "127.0.0.1:0"]),
    );
    one.wait_until_ready();
    one.wait_until_on_disk();
    let (_, ids) = asked(&one);
    let received = one.metric("edge_kv_bytes_transferred_total");
    let near = one.peer_addr.clone().unwrap();
    let bytes = |edge: &Edge| edge.get("/v1/cloud-prompts").json()["data"][0]["bytes"].clone();
    assert!(run(&mut cluster.join("small")).status.success());
    let args = ["--peer", near.as_str(), "--wire-codec", "int8"];
    let small = Edge::start_as(&cluster, "small", ("small", &args));
    assert_eq!(asked(&small), ("peer".to_owned(), ids));
    assert_eq!(only(&bytes(&small)), ("peer", received));
    small.wait_until_on_disk();
    let [first, second] =
        ["edge", "small"].map(|edge| fs::read(segment_of(&cluster, edge)).unwrap());
    assert!(first == second, "the bytes are not those that came");
    for codec in ["f32", "int4"] {
        let args = [
            "--peer",
            near.as_str(),
            "--wire-codec",
            codec,
            "--no-disk-cache",
        ];
        let edge = Edge::start(&cluster, codec, &args);
        assert_eq!(asked(&edge).0, "cloud", "{codec}");
        assert_eq!(bytes(&edge)["peer"], Value::Null, "{codec}");
    }
    assert_eq!(one.metric("edge_kv_bytes_sent_total"), received);
}
