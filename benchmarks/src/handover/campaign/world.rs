//! The nodes of a campaign, the links between them, and when which edge was dead.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use edgeprompt_testkit::emulator::EmulatorHandle;
use edgeprompt_transport::{CloudIdentity, EdgeIdentity};
use serde::Serialize;
use serde_json::Value;

use super::verdict::Dead;
use crate::http::Server;
use crate::serving::{Node, NodeSpec, ServingNode};
use crate::transfer::link_args::LinkSpec;

/// What every session builds on.
const CLOUD_PROMPT: (&str, &str) = (
    "desk",
    include_str!("../../../../edge-node/src/demo/cloud_prompt.txt"),
);
const DEMO_MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/model/demo");

/// Until an edge has its cloud prompt.
const READY_PATIENCE: Duration = Duration::from_secs(60);
/// Until an edge has nothing to do any more once its users have left: longer than it keeps sessions for
/// readers who may come back.
const REST_PATIENCE: Duration = Duration::from_secs(60);
const LOOK_PERIOD: Duration = Duration::from_millis(20);

/// What the nodes are to be.
pub(super) struct Setting<'a> {
    pub(super) edge_count: usize,
    /// Before the cloud, and before each edge where others bring it sessions.
    pub(super) link: LinkSpec,
    pub(super) seed: u64,
    pub(super) log_dir: &'a Path,
}

/// A cloud and edges.
pub(super) struct World {
    edges: Vec<Edge>,
    _cloud: ServingNode,
    _cloud_link: EmulatorHandle,
    began_at: Instant,
    _dir: tempfile::TempDir,
}

struct Edge {
    /// Where users ask it, whenever it lives.
    addr: String,
    /// Where other edges bring it sessions: the link's near end.
    link: EmulatorHandle,
    spec: NodeSpec,
    state: Mutex<State>,
}

struct State {
    node: Option<ServingNode>,
    dead: Vec<Dead>,
}

/// An edge that has had nothing to do for long enough, or ought to.
#[derive(Clone, Debug, Serialize)]
pub(super) struct AtRest {
    pub(super) running: u64,
    pub(super) waiting: u64,
    pub(super) used_blocks: f64,
    pub(super) sessions: usize,
}

impl World {
    pub(super) fn start(setting: &Setting<'_>) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let identity = dir.path().join("cloud");
        let (authority, _) = CloudIdentity::init(&identity)?;
        let prompts = dir.path().join("prompts");
        std::fs::create_dir(&prompts)?;
        let (name, text) = CLOUD_PROMPT;
        std::fs::write(prompts.join(format!("{name}.txt")), text)?;
        let mut args = words(&["--model", DEMO_MODEL, "--listen", "127.0.0.1:0"]);
        args.extend(["--identity".into(), identity.into()]);
        args.extend(["--prompts".into(), prompts.into()]);
        let cloud = ServingNode::start(&NodeSpec {
            node: Node::Cloud,
            args,
            log: Some(new_log(setting.log_dir, "handover-campaign-cloud.log")?),
            threads: None,
        })?;
        let addr: SocketAddr = cloud.addr().parse().context("a cloud says its address")?;
        let cloud_link = setting.link.emulate(addr, setting.seed)?;
        let edges = (0..setting.edge_count).map(|index| {
            let home = dir.path().join(format!("edge-{index}"));
            let token = authority.invite(Duration::from_secs(3600))?;
            EdgeIdentity::join(&token)?.save(&home)?;
            Edge::start(setting, (index, &home), cloud_link.addr())
        });
        let world = Self {
            edges: edges.collect::<Result<_>>()?,
            _cloud: cloud,
            _cloud_link: cloud_link,
            began_at: Instant::now(),
            _dir: dir,
        };
        for edge in &world.edges {
            edge.wait_until_ready()?;
        }
        Ok(world)
    }

    pub(super) fn edge_count(&self) -> usize {
        self.edges.len()
    }

    /// Host and port of an edge's HTTP side.
    pub(super) fn addr(&self, edge: usize) -> &str {
        &self.edges[edge].addr
    }

    pub(super) fn server(&self, edge: usize) -> Server {
        Server::at(self.addr(edge))
    }

    /// The edge that users ask at a host and port.
    pub(super) fn edge_at(&self, addr: &str) -> Option<usize> {
        self.edges.iter().position(|edge| edge.addr == addr)
    }

    /// Where other edges bring an edge sessions.
    pub(super) fn target(&self, edge: usize) -> SocketAddr {
        self.edges[edge].link.addr()
    }

    /// Since the campaign began.
    pub(super) fn now(&self) -> Duration {
        self.began_at.elapsed()
    }

    pub(super) fn is_alive(&self, edge: usize) -> bool {
        self.edges[edge].state().node.is_some()
    }

    /// Kills an edge as a crash would.
    pub(super) fn kill(&self, edge: usize) {
        let since = self.now();
        let mut state = self.edges[edge].state();
        if let Some(node) = state.node.take() {
            state.dead.push(Dead { since, until: None });
            drop(node);
        }
    }

    /// Starts an edge again that was killed, where it was.
    pub(super) fn start_again(&self, edge: usize) -> Result<()> {
        let edge = &self.edges[edge];
        let node = ServingNode::start(&edge.spec)?;
        ensure!(node.addr() == edge.addr, "an edge comes back where it was");
        edge.state().node = Some(node);
        edge.wait_until_ready()?;
        let now = self.now();
        if let Some(dead) = edge.state().dead.last_mut() {
            dead.until = Some(now);
        }
        Ok(())
    }

    /// When an edge was dead.
    pub(super) fn dead(&self, edge: usize) -> Vec<Dead> {
        self.edges[edge].state().dead.clone()
    }

    /// Every edge once it has noticed that its users have left.
    pub(super) fn rest(&self) -> Vec<Option<AtRest>> {
        let give_up = Instant::now() + REST_PATIENCE;
        let edges = self.edges.iter().map(|edge| {
            loop {
                let found = edge.at_rest().ok();
                if found.as_ref().is_some_and(AtRest::is_idle) || Instant::now() > give_up {
                    return found;
                }
                std::thread::sleep(LOOK_PERIOD);
            }
        });
        edges.collect()
    }
}

impl AtRest {
    pub(super) fn is_idle(&self) -> bool {
        self.running == 0 && self.waiting == 0 && self.used_blocks == 0.0 && self.sessions == 0
    }
}

impl Edge {
    fn start(
        setting: &Setting<'_>,
        (index, home): (usize, &Path),
        cloud: SocketAddr,
    ) -> Result<Self> {
        let mut args = words(&["--model", DEMO_MODEL, "--handover-target", "*"]);
        args.extend(words(&[
            "--cloud-prompt",
            CLOUD_PROMPT.0,
            "--cloud",
            &cloud.to_string(),
        ]));
        args.extend(["--identity".into(), home.into()]);
        args.extend(["--cache-dir".into(), home.join("cache").into()]);
        args.extend(["--remembered".into(), home.join("remembered").into()]);
        let log = new_log(
            setting.log_dir,
            &format!("handover-campaign-edge-{index}.log"),
        )?;
        let at = |port: &str, sessions: &str| {
            let mut args = args.clone();
            args.extend(words(&["--port", port, "--handover-listen", sessions]));
            NodeSpec {
                node: Node::Edge,
                args,
                log: Some(log.clone()),
                threads: None,
            }
        };
        let node = ServingNode::start(&at("0", "127.0.0.1:0"))?;
        let addr = node.addr().to_owned();
        let (_, port) = addr.rsplit_once(':').context("an edge says its port")?;
        let sessions = node.session_addr().context("an edge takes sessions")?;
        let link = setting
            .link
            .emulate(sessions.parse()?, setting.seed + 1 + index as u64)?;
        Ok(Self {
            spec: at(port, sessions),
            link,
            addr,
            state: Mutex::new(State {
                node: Some(node),
                dead: Vec::new(),
            }),
        })
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn wait_until_ready(&self) -> Result<()> {
        let (server, give_up) = (Server::at(&self.addr), Instant::now() + READY_PATIENCE);
        while server.get("/readyz").is_err() {
            ensure!(Instant::now() < give_up, "an edge does not get ready");
            std::thread::sleep(LOOK_PERIOD);
        }
        Ok(())
    }

    fn at_rest(&self) -> Result<AtRest> {
        let server = Server::at(&self.addr);
        let status = server.get_json("/v1/status")?;
        let requests = &status["requests"];
        let count = |value: &Value| value.as_u64().context("requests are counted");
        let listed = server.get_json("/v1/sessions")?;
        let metrics = server.get("/metrics")?;
        let used = metrics
            .lines()
            .find_map(|line| line.strip_prefix("edge_kv_cache_usage_perc "));
        Ok(AtRest {
            running: count(&requests["running"])?,
            waiting: count(&requests["waiting"])?,
            used_blocks: used.context("blocks are counted")?.parse()?,
            sessions: listed["data"].as_array().context("a list")?.len(),
        })
    }
}

fn words(words: &[&str]) -> Vec<OsString> {
    words.iter().map(Into::into).collect()
}

/// A log of this campaign alone.
fn new_log(dir: &Path, name: &str) -> Result<PathBuf> {
    let path = dir.join(name);
    std::fs::write(&path, "").with_context(|| format!("{} cannot be written", path.display()))?;
    Ok(path)
}
