//! The leader, its workers, and a link to each.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use edgeprompt_testkit::emulator::EmulatorHandle;
use edgeprompt_transport::{CloudIdentity, EdgeIdentity};
use serde_json::json;

use super::ExecutionArgs;
use crate::http::Server;
use crate::serving::{Node, NodeSpec, ServingNode};
use crate::transfer::link_args::LinkSpec;

/// Until all workers are there and what they are to do has come.
const PATIENCE: Duration = Duration::from_secs(120);
/// What clients call the model.
const MODEL_NAME: &str = "placed";

/// Tokens that every model has.
const VOCABULARY_MIN: usize = 256;

const LOOK_PERIOD: Duration = Duration::from_millis(100);

/// One leader and its workers; dropping it ends them.
pub(super) struct Nodes {
    leader: ServingNode,
    _workers: Vec<ServingNode>,
    _links: Vec<EmulatorHandle>,
    _dir: tempfile::TempDir,
}

/// What a user hears.
pub(super) struct Answered {
    pub(super) tokens: Vec<u64>,
    pub(super) token_ms: f64,
}

impl Nodes {
    pub(super) fn start(args: &ExecutionArgs, (count, policy): (usize, &str)) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let (cloud, token) = CloudIdentity::init(&dir.path().join("cloud"))?;
        let identity = dir.path().join("leader");
        EdgeIdentity::join(&token)?.save(&identity)?;
        let words = leader_words(args, policy, &identity);
        let leader = ServingNode::start(&NodeSpec {
            node: Node::Edge,
            args: words,
            log: None,
            threads: Some(args.threads),
        })?;
        let addr = leader.worker_addr().context("a leader takes workers")?;
        let addr: SocketAddr = addr.parse()?;
        let link = LinkSpec {
            megabits: args.rate,
            rtt: args.rtt()?,
            loss_percent: 0.0,
        };
        let mut links = Vec::new();
        let mut workers = Vec::new();
        for index in 0..count {
            let identity = dir.path().join(format!("worker-{index}"));
            let token = cloud.invite(Duration::from_secs(3600))?;
            EdgeIdentity::join(&token)?.save(&identity)?;
            let link = link.emulate(addr, args.seed + index as u64)?;
            let words: Vec<OsString> = vec![
                "-q".into(),
                "--leader".into(),
                link.addr().to_string().into(),
                "--identity".into(),
                identity.into(),
                "--share".into(),
                args.share.to_string().into(),
            ];
            workers.push(ServingNode::start(&NodeSpec {
                node: Node::Worker,
                args: words,
                log: None,
                threads: Some(args.threads),
            })?);
            links.push(link);
        }
        let nodes = Self {
            leader,
            _workers: workers,
            _links: links,
            _dir: dir,
        };
        nodes.wait_until_there(count)?;
        Ok(nodes)
    }

    fn wait_until_there(&self, count: usize) -> Result<()> {
        let give_up = Instant::now() + PATIENCE;
        let (mut before, mut still) = (-1.0, 0);
        while Instant::now() < give_up {
            let there = self.metric("edge_workers")?;
            let moved = self.metric("edge_placement_migrations_total")?;
            still = match there == count as f64 && moved == before {
                true => still + 1,
                false => 0,
            };
            before = moved;
            // Nothing has moved for two seconds: what was planned at first is done.
            if still >= 20 {
                return Ok(());
            }
            std::thread::sleep(LOOK_PERIOD);
        }
        bail!("not all workers have come to the leader")
    }

    /// One answer to the same question.
    pub(super) fn answer(&self, args: &ExecutionArgs) -> Result<Answered> {
        let vocabulary = match &args.model {
            Some(_) => VOCABULARY_MIN,
            None => args.model_shape.config().vocab_size,
        };
        let prompt: Vec<_> = (0..args.prompt_len)
            .map(|index| 3 + index * 37 % (vocabulary - 3))
            .collect();
        let body = json!({
            "model": MODEL_NAME,
            "prompt": prompt,
            "max_tokens": args.tokens,
            "temperature": 0,
            "ignore_eos": true,
            "return_token_ids": true,
        });
        let answer = self.server().post_json("/v1/completions", &body)?;
        let tokens = answer["choices"][0]["token_ids"].as_array();
        let tokens = tokens.context("token ids are expected")?.iter();
        let ms = answer["timings"]["predicted_per_token_ms"].as_f64();
        Ok(Answered {
            tokens: tokens.filter_map(serde_json::Value::as_u64).collect(),
            token_ms: ms.context("timings are expected")?,
        })
    }

    /// What the planner said at all plans so far: the sum in milliseconds, and how many.
    pub(super) fn predictions(&self) -> Result<(f64, f64)> {
        let sum = self.metric("edge_placement_step_predicted_seconds_sum")?;
        let count = self.metric("edge_placement_step_predicted_seconds_count")?;
        Ok((sum * 1e3, count))
    }

    /// What the planner said of this placement before anything moved, in milliseconds; nothing if
    /// nothing has.
    pub(super) fn forecast(&self) -> Result<Option<f64>> {
        let milliseconds = self.metric("edge_placement_forecast_milliseconds")?;
        Ok((milliseconds > 0.0).then_some(milliseconds))
    }

    pub(super) fn migrations(&self) -> Result<f64> {
        self.metric("edge_placement_migrations_total")
    }

    fn server(&self) -> Server {
        Server::at(self.leader.addr())
    }

    fn metric(&self, name: &str) -> Result<f64> {
        let page = self.server().get("/metrics")?;
        let mut values = page
            .lines()
            .filter_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        Ok(values.next().map_or(Ok(0.0), str::parse)?)
    }
}

/// The arguments of the leader, which places as `policy` has it.
fn leader_words(args: &ExecutionArgs, policy: &str, identity: &Path) -> Vec<OsString> {
    let share = args.share.to_string();
    let plan_every = args.plan_every.to_string();
    let mut words: Vec<OsString> = vec!["-q".into(), "--local".into(), "--workers-any".into()];
    words.extend(["--identity".into(), identity.as_os_str().into()]);
    let values = [
        ("--port", "0"),
        ("--worker-listen", "127.0.0.1:0"),
        ("--placement", policy),
        ("--plan-every", &plan_every),
        ("--own-share", &share),
        ("--served-model-name", MODEL_NAME),
        ("--kv-cache-mib", "64"),
    ];
    words.extend(
        values
            .iter()
            .flat_map(|(flag, value)| [flag, value])
            .map(Into::into),
    );
    match &args.model {
        Some(path) => words.extend(["--model".into(), path.into()]),
        None => {
            words.extend(["--load-format", "dummy", "--model-shape"].map(Into::into));
            words.push(args.model_shape.to_string().into());
        }
    }
    words
}
