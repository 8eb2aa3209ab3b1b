//! A serving edge node, as a process.

use std::fs::File;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};

use serde_json::{Value, json};

use crate::http::{Answer, Reading, events, send};
use crate::support::{Cluster, edge_node};

/// Looks at a server before a test gives up on it.
const ATTEMPTS_MAX: usize = 100_000;

/// The shop desk that is built into the programs, as a folder.
pub(crate) fn demo_model() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/model/demo")
}

/// Where the edges of a cluster keep the keys and values of cloud prompts.
pub(crate) fn cache(cluster: &Cluster) -> PathBuf {
    cluster.dir.path().join("cache")
}

pub(crate) struct Edge {
    pub(crate) addr: String,
    /// Where neighbours may ask, if they may.
    pub(crate) peer_addr: Option<String>,
    /// Where other edges may bring sessions, if they may.
    pub(crate) session_addr: Option<String>,
    /// Where other edges may lend their devices, if they may.
    #[allow(dead_code, reason = "not every test program has workers")]
    pub(crate) worker_addr: Option<String>,
    log: PathBuf,
    process: Child,
}

impl Edge {
    /// Serves on the cloud of `cluster`; logs everything.
    pub(crate) fn start(cluster: &Cluster, name: &str, args: &[&str]) -> Self {
        Self::start_as(cluster, "edge", (name, args))
    }

    /// As another edge that has joined.
    pub(crate) fn start_as(
        cluster: &Cluster,
        identity: &str,
        (name, args): (&str, &[&str]),
    ) -> Self {
        let log = cluster.dir.path().join(format!("{name}.log"));
        let mut process = Command::new(edge_node())
            .arg("serve")
            .arg("--model")
            .arg(demo_model())
            .args(["--port", "0", "--cloud", &cluster.addr, "--identity"])
            .arg(cluster.dir.path().join(identity))
            .args(args)
            .env("EDGE_REMEMBERED", cluster.remembered().join(identity))
            .env("EDGE_CACHE_DIR", cache(cluster).join(identity))
            .env("RUST_LOG", "trace")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let lines = BufReader::new(process.stdout.take().unwrap()).lines();
        let (mut addr, mut peer_addr) = (None, None);
        let (mut session_addr, mut worker_addr) = (None, None);
        for line in lines.map(Result::unwrap) {
            let after = |prefix: &str| line.strip_prefix(prefix).map(str::to_owned);
            peer_addr = peer_addr.or_else(|| after("listening for neighbours on "));
            session_addr = session_addr.or_else(|| after("listening for sessions on "));
            worker_addr = worker_addr.or_else(|| after("listening for workers on "));
            addr = after("listening on ");
            if addr.is_some() {
                break;
            }
        }
        let addr = addr.unwrap_or_else(|| panic!("{}", std::fs::read_to_string(&log).unwrap()));
        let (_, addr) = addr.split_once("://").unwrap();
        Self {
            addr: addr.to_owned(),
            peer_addr,
            session_addr,
            worker_addr,
            log,
            process,
        }
    }

    pub(crate) fn get(&self, path: &str) -> Answer {
        send(&self.addr, &format!("GET {path} HTTP/1.1"), "").whole()
    }

    pub(crate) fn post(&self, path: &str, body: &Value) -> Answer {
        self.begin(path, body).whole()
    }

    pub(crate) fn begin(&self, path: &str, body: &Value) -> Reading {
        let head = format!("POST {path} HTTP/1.1\r\ncontent-type: application/json");
        send(&self.addr, &head, &body.to_string())
    }

    /// The token ids and the text of a streamed answer to `prompt`.
    pub(crate) fn streamed(&self, prompt: &str, more: &Value) -> (Vec<u64>, String) {
        let body = self.post("/v1/completions", &streaming(prompt, more)).body;
        let (events, done) = events(&body);
        assert!(done, "{body}");
        let choices: Vec<_> = events.iter().map(|event| &event["choices"][0]).collect();
        let ids = choices
            .iter()
            .filter_map(|choice| choice["token_ids"].as_array());
        let ids = ids.flatten().map(|id| id.as_u64().unwrap());
        let text = choices.iter().filter_map(|choice| choice["text"].as_str());
        (ids.collect(), text.collect())
    }

    /// A metric without labels, or with those that are given; 0 if it was never recorded.
    pub(crate) fn metric(&self, name: &str) -> f64 {
        let text = self.get("/metrics").body;
        let mut values = text
            .lines()
            .filter_map(|line| line.strip_prefix(&format!("{name} ")));
        values.next().map_or(0.0, |value| value.parse().unwrap())
    }

    /// Waits until the prompts to be there from the start are there.
    pub(crate) fn wait_until_ready(&self) {
        self.wait_until("a complete cloud prompt", || {
            self.get("/readyz").status == 200
        });
    }

    /// Waits until the cloud has said that it runs the same model.
    pub(crate) fn wait_until_heard(&self) {
        self.wait_until("cloud that answers", || {
            self.get("/readyz").json()["kv_plane"] == "ok"
        });
    }

    /// Waits until the cloud prompts in memory are on disk as well.
    pub(crate) fn wait_until_on_disk(&self) {
        self.wait_until("cloud prompt on disk", || {
            let listed = self.get("/v1/cloud-prompts").json();
            let listed = listed["data"].as_array().unwrap();
            !listed.is_empty() && listed.iter().all(|prompt| prompt["on_disk"] == true)
        });
    }

    /// Waits until nothing is computed any more and all blocks are free.
    pub(crate) fn wait_until_idle(&self) {
        self.wait_until("an idle engine", || {
            let metrics = ["edge_num_requests_running", "edge_kv_cache_usage_perc"];
            metrics.iter().all(|name| self.metric(name) == 0.0)
        });
    }

    pub(crate) fn wait_until(&self, what: &str, mut is_so: impl FnMut() -> bool) {
        // Each try is a request, so this is a long time and not for ever.
        let waited = (0..ATTEMPTS_MAX).any(|_| is_so());
        assert!(
            waited,
            "no {what} after {ATTEMPTS_MAX} looks: {}",
            self.log()
        );
    }

    /// Tells the process to stop and waits until it has.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        let pid = self.process.id().to_string();
        assert!(Command::new("kill").arg(pid).status().unwrap().success());
        self.process.wait().unwrap()
    }

    /// Ends the process without a word.
    #[allow(dead_code, reason = "not every test program kills edges")]
    pub(crate) fn kill(&mut self) {
        self.process.kill().unwrap();
        self.process.wait().unwrap();
    }

    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

/// A greedy request for token ids, to be streamed.
pub(crate) fn streaming(prompt: &str, more: &Value) -> Value {
    let mut body = completion(prompt, more);
    body["stream"] = true.into();
    body
}

/// A greedy request for token ids.
pub(crate) fn completion(prompt: &str, more: &Value) -> Value {
    let mut body = json!({
        "prompt": prompt, "temperature": 0, "max_tokens": 24, "ignore_eos": true,
        "return_token_ids": true,
    });
    let fields = body.as_object_mut().unwrap();
    fields.extend(more.as_object().unwrap().clone());
    body
}

/// A request with a key and an id.
pub(crate) fn asking(edge: &Edge, head: &str, (key, id): (&str, &str), body: &Value) -> Answer {
    let head = format!(
        "{head} HTTP/1.1\r\ncontent-type: application/json\r\nauthorization: Bearer {key}\r\nx-request-id: {id}"
    );
    let body = match body {
        Value::Null => String::new(),
        body => body.to_string(),
    };
    send(&edge.addr, &head, &body).whole()
}
