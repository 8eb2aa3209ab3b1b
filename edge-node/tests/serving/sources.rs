//! Where a server's cloud prompts come from: memory, the disk after a restart, the cloud when the disk
//! fails.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde_json::{Value, json};

use crate::cluster;
use crate::edge::{Edge, cache, completion};
use crate::support::{Cluster, edge_node, run, stderr, stdout};
use crate::{guest, nothing};

/// The files of a folder below a cache.
fn files(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    entries.map(|entry| entry.unwrap().path()).collect()
}

/// The one segment that the edge of a cluster keeps.
pub(crate) fn segment(cluster: &Cluster) -> PathBuf {
    segment_of(cluster, "edge")
}

/// The same of another edge.
pub(crate) fn segment_of(cluster: &Cluster, identity: &str) -> PathBuf {
    let segments = cache(cluster).join(identity).join("segments");
    let domains = files(&segments).into_iter();
    let domains = domains.filter(|path| path.file_name().unwrap() != "quarantine");
    let kept: Vec<_> = domains.flat_map(|domain| files(&domain)).collect();
    let [file] = &kept[..] else {
        panic!("{kept:?}")
    };
    file.clone()
}

/// A cluster whose edge has answered, kept the prompt and gone; and the answer.
fn restarted() -> (Cluster, (Vec<u64>, String)) {
    let cluster = cluster();
    let mut edge = Edge::start(&cluster, "first", &["--cloud-prompt", "desk"]);
    let answer = edge.streamed(&guest(0), &nothing());
    edge.wait_until_on_disk();
    assert!(edge.terminate().success());
    (cluster, answer)
}

/// Where an answer's keys and values came from, and its token ids.
pub(crate) fn asked(edge: &Edge) -> (String, Vec<u64>) {
    let body = completion(&guest(0), &json!({"cloud_prompt": "desk"}));
    let answer = edge.post("/v1/completions", &body).json();
    let timings = &answer["timings"];
    let source = timings["kv_source"].as_str().unwrap().to_owned();
    let waited = timings["kv_wait_ms"].as_f64().unwrap();
    assert!(waited <= timings["prompt_ms"].as_f64().unwrap());
    let ids = answer["choices"][0]["token_ids"].as_array().unwrap();
    (source, ids.iter().map(|id| id.as_u64().unwrap()).collect())
}

/// The one source of a prompt's bytes, and how many.
pub(crate) fn only(bytes: &Value) -> (&str, f64) {
    let sources: Vec<_> = bytes.as_object().unwrap().iter().collect();
    let [(source, count)] = sources[..] else {
        panic!("{bytes}")
    };
    (source, count.as_f64().unwrap())
}

fn disk_failures(edge: &Edge, reason: &str) -> f64 {
    edge.metric(&format!("edge_kv_disk_failed_total{{reason=\"{reason}\"}}"))
}

#[test]
fn after_a_restart_the_cloud_is_asked_for_nothing() {
    let (cluster, answer) = restarted();
    let edge = Edge::start(&cluster, "second", &[]);
    assert_eq!(asked(&edge), ("disk".to_owned(), answer.0.clone()));
    assert_eq!(asked(&edge), ("memory".to_owned(), answer.0));
    assert_eq!(edge.metric("edge_kv_bytes_transferred_total"), 0.0);
    // Not even by its name: which model it runs is asked at every start.
    edge.wait_until_heard();
    let told = edge.get("/v1/status").json();
    let told = told["cloud"]["last_messages"].as_array().unwrap();
    let [words] = &told[..] else {
        panic!("{told:?}")
    };
    assert!(words.as_str().unwrap().contains("do you run model"));
    let listed = &edge.get("/v1/cloud-prompts").json()["data"][0];
    assert_eq!(
        (&listed["source"], &listed["on_disk"]),
        (&json!("disk"), &json!(true))
    );
    let bytes = edge.metric("edge_kv_source_bytes_total{source=\"disk\"}");
    assert_eq!(only(&listed["bytes"]), ("disk", bytes));
    for source in ["disk", "memory"] {
        let name = format!("edge_kv_source_answers_total{{source=\"{source}\"}}");
        assert_eq!(edge.metric(&name), 1.0);
        let name = format!("edge_kv_plans_total{{source=\"{source}\"}}");
        assert_eq!(edge.metric(&name), 1.0);
    }
    assert_eq!(listed["planner_choice"], "disk");
    assert!(listed["planner_actual_ms"].as_f64().unwrap() > 0.0);
}

#[test]
fn a_damaged_file_is_put_aside_and_fetched_again() {
    let (cluster, answer) = restarted();
    let file = segment(&cluster);
    let mut bytes = fs::read(&file).unwrap();
    // In the last layer: the ones before it are used.
    let at = bytes.len() - 40;
    bytes[at] ^= 1;
    fs::write(&file, &bytes).unwrap();
    let edge = Edge::start(&cluster, "second", &[]);
    assert_eq!(asked(&edge).1, answer.0);
    assert_eq!(disk_failures(&edge, "damaged"), 1.0);
    assert_eq!(edge.log().matches("was put aside").count(), 1);
    let listed = &edge.get("/v1/cloud-prompts").json()["data"][0];
    assert!(listed["bytes"]["cloud"].as_u64().unwrap() > 0, "{listed}");
    assert_eq!(listed["recomputed_layers"], 0);
    edge.wait_until_on_disk();
    let quarantine = cache(&cluster).join("edge/segments/quarantine");
    assert_eq!(files(&quarantine).len(), 1);
    drop(edge);
    let edge = Edge::start(&cluster, "third", &[]);
    assert_eq!(asked(&edge), ("disk".to_owned(), answer.0));
}

#[test]
fn a_cut_file_and_no_cloud_are_no_failure() {
    let (mut cluster, answer) = restarted();
    cluster.kill_cloud();
    let file = segment(&cluster);
    let half = fs::metadata(&file).unwrap().len() / 2;
    fs::File::options()
        .write(true)
        .open(&file)
        .unwrap()
        .set_len(half)
        .unwrap();
    let edge = Edge::start(&cluster, "second", &[]);
    assert_eq!(asked(&edge), ("local".to_owned(), answer.0));
    assert_eq!(disk_failures(&edge, "damaged"), 1.0);
}

#[test]
fn a_cache_that_cannot_be_written_costs_one_warning() {
    let (cluster, answer) = restarted();
    let in_the_way = cluster.dir.path().join("file");
    fs::write(&in_the_way, "").unwrap();
    let edge = Edge::start(
        &cluster,
        "unwritable",
        &["--cache-dir", in_the_way.to_str().unwrap()],
    );
    assert_eq!(asked(&edge).1, answer.0);
    // The edge is at work on the next one when the first has failed to be kept.
    let other = completion("lo", &json!({"cloud_prompt": "cut"}));
    assert_eq!(edge.post("/v1/completions", &other).status, 200);
    assert_eq!(edge.log().matches("the disk cache fails;").count(), 1);
    assert!(disk_failures(&edge, "unreadable") > 0.0);
}

#[test]
fn a_server_told_to_keep_nothing_keeps_nothing() {
    let (cluster, answer) = restarted();
    fs::remove_dir_all(cache(&cluster)).unwrap();
    for (name, args) in [
        ("no", vec!["--no-disk-cache"]),
        ("zero", vec!["--cache-mib", "0"]),
    ] {
        let edge = Edge::start(&cluster, name, &args);
        assert_eq!(asked(&edge).1, answer.0);
        assert!(!cache(&cluster).exists());
    }
}

#[test]
fn a_neighbour_has_what_a_dead_cloud_had() {
    let mut cluster = cluster();
    let one = Edge::start(
        &cluster,
        "one",
        &["--cloud-prompt", "desk", "--peer-listen", "127.0.0.1:0"],
    );
    one.wait_until_ready();
    let answer = asked(&one).1;
    cluster.kill_cloud();
    assert!(run(&mut cluster.join("edge2")).status.success());
    let near = one.peer_addr.clone().unwrap();
    let two = Edge::start_as(&cluster, "edge2", ("two", &["--peer", &near]));
    assert_eq!(asked(&two), ("peer".to_owned(), answer));
    let listed = &two.get("/v1/cloud-prompts").json()["data"][0];
    assert_eq!(listed["source"], "peer");
    let sent = one.metric("edge_kv_bytes_sent_total");
    assert_eq!(only(&listed["bytes"]), ("peer", sent));
}

/// `edge-node kv` on the cache of the cluster's edge.
pub(crate) fn kv(cluster: &Cluster, args: &[&str]) -> Output {
    kv_as(cluster, "edge", args)
}

fn kv_as(cluster: &Cluster, identity: &str, args: &[&str]) -> Output {
    let mut command = Command::new(edge_node());
    command
        .arg("kv")
        .args(args)
        .env("EDGE_REMEMBERED", cluster.remembered().join(identity))
        .env("EDGE_CACHE_DIR", cache(cluster).join(identity))
        .env("EDGE_IDENTITY", cluster.dir.path().join(identity));
    run(&mut command)
}

#[test]
fn what_is_imported_is_verified_before_anything_makes_room_for_it() {
    let (cluster, _) = restarted();
    let carried = cluster.dir.path().join("carried");
    let carried = carried.to_str().unwrap();
    assert!(kv(&cluster, &["export", "desk", carried]).status.success());
    let whole = fs::read(carried).unwrap();
    // Somebody else's segment, with which the cache is as full as it may be.
    let domain = segment(&cluster).parent().unwrap().to_owned();
    let other = domain.join(format!("{}.segment", "ab".repeat(32)));
    fs::remove_file(segment(&cluster)).unwrap();
    fs::File::create(&other).unwrap().set_len(64 << 20).unwrap();
    let import = ["import", carried, "--cache-mib", "64"];
    let mut damaged = whole.clone();
    *damaged.last_mut().unwrap() ^= 1;
    fs::write(carried, damaged).unwrap();
    assert_eq!(kv(&cluster, &import).status.code(), Some(5));
    assert!(other.exists(), "it went for nothing");
    fs::write(carried, whole).unwrap();
    assert!(kv(&cluster, &import).status.success());
    assert!(!other.exists(), "there was no room for both");
}

#[test]
fn the_cache_is_listed_verified_carried_and_cleared() {
    let (cluster, answer) = restarted();
    let listed = kv(&cluster, &["ls", "--json"]);
    let listed: Value = serde_json::from_str(&stdout(&listed)).unwrap();
    let id = listed[0]["prompt_id"].as_str().unwrap().to_owned();
    assert_eq!(listed[0]["names"], json!(["desk"]));
    let file = segment(&cluster);
    assert_eq!(listed[0]["path"], file.to_str().unwrap());
    let table = stdout(&kv(&cluster, &["ls"]));
    let model = listed[0]["model"].as_str().unwrap();
    let row: Vec<_> = table.lines().nth(1).unwrap().split_whitespace().collect();
    assert_eq!((row[0], row[1]), ("desk", &model[..8]), "{table}");
    assert_eq!(row.last(), Some(&id.as_str()), "{table}");
    assert!(kv(&cluster, &["verify"]).status.success());
    let begun = kv(&cluster, &["verify", &id[..6]]);
    assert_eq!(stdout(&begun), format!("{id}  ok\n"));
    assert_eq!(kv(&cluster, &["verify", "0000"]).status.code(), Some(2));

    let carried = cluster.dir.path().join("carried");
    let carried = carried.to_str().unwrap();
    assert!(kv(&cluster, &["export", "desk", carried]).status.success());
    let again = kv(&cluster, &["export", &id, carried]);
    assert_eq!(again.status.code(), Some(2), "it exists");
    assert!(stderr(&again).contains("--replace"), "{}", stderr(&again));
    fs::write(carried, "something else").unwrap();
    let replaced = kv(&cluster, &["export", &id[..6], carried, "--replace"]);
    assert!(replaced.status.success(), "{}", stderr(&replaced));
    assert!(run(&mut cluster.join("edge2")).status.success());
    let imported = kv_as(&cluster, "edge2", &["import", carried]);
    assert!(imported.status.success(), "{}", stderr(&imported));
    let verified = stdout(&kv_as(&cluster, "edge2", &["verify"]));
    assert_eq!(verified, format!("{id}  ok\n"));

    let mut bytes = fs::read(carried).unwrap();
    let last = bytes.len() - 1;
    bytes[last] ^= 1;
    fs::write(carried, &bytes).unwrap();
    fs::write(&file, &bytes).unwrap();
    let refused = kv_as(&cluster, "edge2", &["import", carried]);
    assert_eq!(refused.status.code(), Some(5));
    let verified = kv(&cluster, &["verify"]);
    assert_eq!(verified.status.code(), Some(5));
    assert!(stderr(&verified).contains(file.to_str().unwrap()));
    assert_eq!(
        kv(&cluster, &["export", "desk", "other"]).status.code(),
        Some(5)
    );
    assert!(!Path::new("other").exists());
    let replacing = ["export", "desk", carried, "--replace"];
    assert_eq!(kv(&cluster, &replacing).status.code(), Some(5));
    assert_eq!(fs::read(carried).unwrap(), bytes, "it stays as it was");

    assert!(kv(&cluster, &["rm", &id[..6]]).status.success());
    assert!(!file.exists());
    assert_eq!(kv(&cluster, &["rm", &id]).status.code(), Some(2));
    // The name is remembered, and the cloud has the rest.
    let edge = Edge::start(&cluster, "after", &[]);
    assert_eq!(asked(&edge).1, answer.0);
}
