//! Heads and feed-forward slices on other devices: the tokens are those of one, whatever happens to the
//! workers.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use burn::tensor::Device;
use edge_node::crew::lending::DeviceMemory;
use edge_node::crew::work::{Lent, WorkError, work};
use edgeprompt_engine::Shard;
use edgeprompt_transport::{EdgeIdentity, LinkConfig, PeerEndpoint};
use serde_json::json;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;

use crate::edge::{Edge, demo_model, streaming};
use crate::handover::{body, edges, moved, text};
use crate::http::events;
use crate::support::{Cluster, edge_node, run, stderr};
use crate::{cluster, guest};

/// Tokens of an answer: long enough for something to happen meanwhile.
const LEN: u64 = 300;

struct Worker {
    log: PathBuf,
    process: Child,
}

impl Worker {
    /// Lends a device to `edge`, with an identity that has joined.
    fn start(cluster: &Cluster, identity: &str, (edge, args): (&Edge, &[&str])) -> Self {
        let log = cluster.dir.path().join(format!("{identity}.log"));
        let mut process = Command::new(edge_node())
            .args(["worker", "--leader", edge.worker_addr.as_ref().unwrap()])
            .arg("--identity")
            .arg(cluster.dir.path().join(identity))
            .args(args)
            .env("RUST_LOG", "trace")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(
                File::options()
                    .create(true)
                    .append(true)
                    .open(&log)
                    .unwrap(),
            )
            .spawn()
            .unwrap();
        let mut lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let said = lines.next().map(Result::unwrap);
        let worker = Self { log, process };
        assert!(
            said.is_some_and(|line| line.starts_with("lending this device to ")),
            "{}",
            worker.log()
        );
        worker
    }

    fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    fn signal(&self, signal: &str) {
        let pid = self.process.id().to_string();
        let sent = Command::new("kill").args([signal, &pid]).status();
        assert!(sent.unwrap().success());
    }

    /// Tells it to leave, and waits until it has.
    fn leave(&mut self) -> ExitStatus {
        self.signal("-TERM");
        self.process.wait().unwrap()
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A leader that takes these workers, which are invited.
fn leader(cluster: &Cluster, workers: &[&str]) -> Edge {
    leader_with(cluster, (workers, &[]))
}

fn leader_with(cluster: &Cluster, (workers, more): (&[&str], &[&str])) -> Edge {
    let names = workers.iter().map(|worker| {
        cluster.invite(worker);
        name(cluster, worker)
    });
    let names = names.collect::<Vec<_>>().join(",");
    let args = [
        "--worker",
        &names,
        "--cloud-prompt",
        "desk",
        "--worker-listen",
        "127.0.0.1:0",
        "--placement",
        "even",
        "--plan-every",
        "8",
    ];
    let edge = Edge::start(cluster, "leader", &[&args, more].concat());
    edge.wait_until_ready();
    edge
}

/// What an edge that has joined is called.
fn name(cluster: &Cluster, identity: &str) -> String {
    let identity = EdgeIdentity::load(&cluster.dir.path().join(identity));
    identity.unwrap().name().to_owned()
}

fn more() -> serde_json::Value {
    json!({ "max_tokens": LEN })
}

/// Waits until so many workers are there, each with heads.
fn wait_until_spread(edge: &Edge, workers: u32) {
    let migrations = edge.metric("edge_placement_migrations_total");
    let is_so = || {
        edge.metric("edge_workers") == f64::from(workers)
            && edge.metric("edge_placement_migrations_total") > migrations
    };
    edge.wait_until("placement on all workers", is_so);
}

/// The tokens of users who ask at the same time, and what happens meanwhile.
fn asked_together(edge: &Edge, meanwhile: impl FnOnce()) -> Vec<Vec<u64>> {
    thread::scope(|scope| {
        let first = edge.begin("/v1/completions", &streaming(&guest(0), &more()));
        let others: Vec<_> = (1..4)
            .map(|index| scope.spawn(move || edge.streamed(&guest(index), &more()).0))
            .collect();
        let mut first = first;
        let begun = first.chunk().unwrap();
        meanwhile();
        let body = begun + &first.whole().body;
        let (events, done) = events(&body);
        assert!(done, "{body}");
        let ids = events.iter().flat_map(|event| {
            let ids = event["choices"][0]["token_ids"].as_array();
            let ids = ids.into_iter().flatten();
            ids.map(|id| id.as_u64().unwrap()).collect::<Vec<_>>()
        });
        let first: Vec<u64> = ids.collect();
        let others = others.into_iter().map(|user| user.join().unwrap());
        [first].into_iter().chain(others).collect()
    })
}

#[test]
fn heads_on_other_devices_change_no_token_whatever_happens_to_them() {
    let cluster = cluster();
    let edge = leader(&cluster, &["worker-0", "worker-1"]);
    let expected = asked_together(&edge, || {});

    let mut first = Worker::start(&cluster, "worker-0", (&edge, &[]));
    wait_until_spread(&edge, 1);
    let model = demo_model();
    let own = ["--model", model.to_str().unwrap()];
    let mut second = Worker::start(&cluster, "worker-1", (&edge, &own));
    assert_eq!(asked_together(&edge, || {}), expected, "while one joins");
    wait_until_spread_over(&edge, 2);
    assert_eq!(asked_together(&edge, || {}), expected, "on three devices");
    let placement = placement(&edge);
    let of = |which: &str| placement[which].as_array().unwrap().clone();
    let (first_seen, second_seen) = (&of("workers")[0], &of("workers")[1]);
    assert_eq!(first_seen["name"], name(&cluster, "worker-0"));
    assert_eq!(first_seen["has_model"], false);
    assert_eq!(second_seen["has_model"], true);
    for jobs in [
        &placement["own_jobs"],
        &first_seen["jobs"],
        &second_seen["jobs"],
    ] {
        assert!(jobs["heads"].as_u64() > Some(0), "{placement}");
        assert!(jobs["slices"].as_u64() > Some(0), "{placement}");
    }
    assert_eq!(second_seen["state"], "working");
    assert!(placement["step_predicted_ms"].as_f64() > Some(0.0));

    assert_eq!(
        asked_together(&edge, || first.kill()),
        expected,
        "one is killed"
    );
    edge.wait_until("lost worker", || {
        edge.metric("edge_workers_lost_total") == 1.0
    });
    let third = Worker::start(&cluster, "worker-0", (&edge, &[]));
    wait_until_spread_over(&edge, 2);
    assert_eq!(asked_together(&edge, || {}), expected, "it is back");

    let mut status = None;
    let found = asked_together(&edge, || status = Some(second.leave()));
    assert_eq!(found, expected, "one leaves");
    assert!(status.unwrap().success(), "{}", second.log());
    assert_eq!(edge.metric("edge_workers_lost_total"), 1.0, "it was let go");

    for log in [first.log(), second.log(), third.log(), edge.log()] {
        for private in ["Ada", "Alan", "Grace", "plan costs"] {
            assert!(!log.contains(private), "private text in a log");
        }
    }
}

#[test]
fn a_worker_that_stands_still_is_not_waited_for_and_comes_back() {
    let cluster = cluster();
    let edge = leader(&cluster, &["worker-0"]);
    let expected = asked_together(&edge, || {});
    let worker = Worker::start(&cluster, "worker-0", (&edge, &[]));
    wait_until_spread(&edge, 1);
    // Its link stays up for a while: nothing says that it is gone.
    let found = asked_together(&edge, || worker.signal("-STOP"));
    assert_eq!(found, expected, "one stands still");
    assert_eq!(edge.metric("edge_workers_lost_total"), 1.0);
    worker.signal("-CONT");
    wait_until_spread(&edge, 1);
    assert_eq!(asked_together(&edge, || {}), expected, "it is back");
}

#[test]
fn a_session_whose_heads_are_on_other_devices_moves_by_its_tokens() {
    let cluster = cluster();
    let more = [
        "--handover-listen",
        "127.0.0.1:0",
        "--handover-target",
        "*",
        "--handover-strategy",
        "precopy",
    ];
    let edge = leader_with(&cluster, (&["worker-0"], &more));
    let target = &edges(&cluster, 1, &[])[0];
    let asked = body(json!({}));
    let whole = text(&edge.post("/v1/completions", &asked).body);
    let _worker = Worker::start(&cluster, "worker-0", (&edge, &[]));
    wait_until_spread(&edge, 1);
    for _ in 0..3 {
        let (reading, first, report) = moved(&edge, &asked, target);
        assert_eq!(report["strategy"], "precopy");
        assert_eq!(report["handover_tokens_sent"], 0, "{report}");
        assert_eq!(text(&(first + &reading.whole().body)), whole);
    }
}

/// What a device has of memory beside what it lends, in bytes.
static AVAILABLE: AtomicU64 = AtomicU64::new(10 << 30);

fn device_memory() -> Option<DeviceMemory> {
    Some(DeviceMemory {
        total: 20 << 30,
        available: AVAILABLE.load(Ordering::Relaxed),
    })
}

#[test]
fn a_worker_whose_memory_others_take_gives_its_heads_back() {
    let cluster = cluster();
    let edge = leader(&cluster, &["worker-0"]);
    let expected = asked_together(&edge, || {});
    let lent = Lent {
        flops_per_second: 1e9,
        memory_bytes: 1 << 30,
        percent: 100,
        model: None,
        device_memory,
    };
    let runtime = Runtime::new().unwrap();
    let identity = EdgeIdentity::load(&cluster.dir.path().join("worker-0")).unwrap();
    let (leave, left) = oneshot::channel();
    let leader = edge.worker_addr.as_ref().unwrap().parse().unwrap();
    let worker = runtime.spawn(async move {
        let any = SocketAddr::from(([127, 0, 0, 1], 0));
        let endpoint = PeerEndpoint::bind_for_work(any, &identity, LinkConfig::default());
        let link = endpoint.unwrap().connect(leader).await.unwrap();
        let empty = |shape, model| Shard::empty(shape, model, &Device::flex());
        work(link, lent, empty, left).await
    });
    let heads = || placement(&edge)["workers"][0]["jobs"]["heads"].as_u64();
    edge.wait_until("heads on the worker", || heads() > Some(0));
    assert_eq!(asked_together(&edge, || {}), expected, "on two devices");
    let found = asked_together(&edge, || AVAILABLE.store(0, Ordering::Relaxed));
    assert_eq!(found, expected, "while its memory goes");
    edge.wait_until("nothing on the worker", || heads() == Some(0));
    assert_eq!(placement(&edge)["workers"][0]["memory_bytes"], 0);
    AVAILABLE.store(10 << 30, Ordering::Relaxed);
    edge.wait_until("heads on the worker again", || {
        assert_eq!(
            asked_together(&edge, || {}),
            expected,
            "it has memory again"
        );
        heads() > Some(0)
    });
    leave.send(()).unwrap();
    match runtime.block_on(worker).unwrap() {
        // However it hears that it is needed no more.
        Ok(()) | Err(WorkError::Link(_)) => {}
        Err(error) => panic!("{error}"),
    }
}

/// Waits until so many workers are there and nothing is on its way.
fn wait_until_spread_over(edge: &Edge, workers: u32) {
    let mut before = -1.0;
    edge.wait_until("placement that stays", || {
        let now = edge.metric("edge_placement_migrations_total");
        let is_so = edge.metric("edge_workers") == f64::from(workers) && now == before;
        before = now;
        is_so
    });
}

/// What the leader says of its workers.
fn placement(edge: &Edge) -> serde_json::Value {
    edge.get("/v1/status").json()["placement"].clone()
}

#[test]
fn a_leader_that_is_fastest_alone_says_so() {
    let cluster = cluster();
    cluster.invite("worker-0");
    let name = name(&cluster, "worker-0");
    let args = ["--local", "--worker-listen", "127.0.0.1:0", "--worker"];
    let edge = Edge::start(&cluster, "leader", &[&args[..], &[&name]].concat());
    edge.wait_until_ready();
    let _worker = Worker::start(&cluster, "worker-0", (&edge, &[]));
    // A token of the small model takes less than a message to another process.
    edge.wait_until("a word about it", || {
        edge.log().contains("workers have nothing to do")
    });
    let placement = placement(&edge);
    assert_eq!(placement["workers"][0]["state"], "idle", "{placement}");
    assert_eq!(placement["workers"][0]["jobs"]["heads"], 0, "{placement}");
    assert_eq!(edge.metric("edge_placement_migrations_total"), 0.0);
}

#[test]
fn a_worker_says_why_nobody_takes_its_device() {
    let cluster = cluster();
    let edge = Edge::start(&cluster, "serve", &["--local"]);
    let identity = cluster.dir.path().join("edge");
    let mut command = Command::new(edge_node());
    command.args(["worker", "--leader", &edge.addr, "--identity"]);
    let refused = run(command.arg(identity));
    assert_eq!(refused.status.code(), Some(3), "{}", stderr(&refused));
    assert!(
        stderr(&refused).contains("--worker-listen"),
        "{}",
        stderr(&refused)
    );
    let mut command = Command::new(edge_node());
    command.args(["worker", "--leader", &edge.addr, "--identity"]);
    let stranger = run(command.arg(cluster.dir.path().join("nobody")));
    assert_eq!(stranger.status.code(), Some(2), "{}", stderr(&stranger));
    assert!(
        stderr(&stranger).contains("--join TOKEN"),
        "{}",
        stderr(&stranger)
    );
}

#[test]
fn only_those_that_are_named_may_lend_a_device() {
    let cluster = cluster();
    let edge = leader(&cluster, &["worker-0"]);
    cluster.invite("worker-1");
    let mut command = Command::new(edge_node());
    command.args(["worker", "--leader", edge.worker_addr.as_ref().unwrap()]);
    command.arg("--identity");
    let refused = run(command.arg(cluster.dir.path().join("worker-1")));
    assert_eq!(refused.status.code(), Some(3), "{}", stderr(&refused));
    let advice = format!("--worker {}", name(&cluster, "worker-1"));
    assert!(stderr(&refused).contains(&advice), "{}", stderr(&refused));
    assert!(edge.log().contains(&advice), "{}", edge.log());
    assert_eq!(edge.metric("edge_workers"), 0.0);
    let _named = Worker::start(&cluster, "worker-0", (&edge, &[]));
    wait_until_spread(&edge, 1);
}

#[test]
fn a_leader_that_names_nobody_is_told_how() {
    let cluster = cluster();
    let refused = |args: &[&str]| {
        let mut command = Command::new(edge_node());
        command.args(["serve", "--local", "--port", "0", "--model"]);
        command.arg(demo_model()).arg("--identity");
        command.arg(cluster.dir.path().join("edge"));
        let refused = run(command.args(args));
        assert_eq!(refused.status.code(), Some(2), "{}", stderr(&refused));
        stderr(&refused)
    };
    let nobody = refused(&["--worker-listen", "127.0.0.1:0"]);
    for way in ["--worker NAME", "--workers-any"] {
        assert!(nobody.contains(way), "{nobody}");
    }
    let bogus: [&[&str]; 2] = [
        &[
            "--worker-listen",
            "127.0.0.1:0",
            "--worker",
            "the-other-one",
        ],
        &["--worker", &name(&cluster, "edge")],
    ];
    for (args, said) in bogus
        .into_iter()
        .zip(["the-other-one", "--worker-listen ADDR"])
    {
        let found = refused(args);
        assert!(found.contains(said), "{found}");
    }
}
