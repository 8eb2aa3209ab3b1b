//! Source, target, and a link of each rate between them.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use edgeprompt_handover::planning::strategy::Strategy;
use edgeprompt_testkit::emulator::EmulatorHandle;
use edgeprompt_transport::{CloudIdentity, EdgeIdentity};
use serde_json::{Value, json};

use super::plan::{Asked, Plan, Point, TOKENS_BEFORE};
use super::users::Users;
use crate::http::Server;
use crate::pipeline::plan::model_arguments;
use crate::serving::{Node, NodeSpec, ServingNode};
use crate::transfer::link_args::LinkSpec;

/// Tokens of the session that moves before anything is measured.
const WARM_UP_LEN: usize = 256;
/// How often: a link takes some time to be known.
const WARM_UP_COUNT: usize = 2;
/// Until sessions that nobody reads any more have ended.
const IDLE_PATIENCE: Duration = Duration::from_secs(60);
const LOOK_PERIOD: Duration = Duration::from_millis(5);

/// Two edges.
pub(super) struct Nodes {
    source: ServingNode,
    target: ServingNode,
    links: Vec<(u64, EmulatorHandle)>,
    _dir: tempfile::TempDir,
}

impl Nodes {
    /// Starts both, and lets each link be found out.
    pub(super) fn start(plan: &Plan) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let (cloud, token) = CloudIdentity::init(&dir.path().join("cloud"))?;
        let second = cloud.invite(Duration::from_secs(3600))?;
        let edge = |name: &str, token| -> Result<ServingNode> {
            let identity = dir.path().join(name);
            EdgeIdentity::join(token)?.save(&identity)?;
            ServingNode::start(&NodeSpec {
                node: Node::Edge,
                args: arguments(plan, &identity),
                log: None,
                threads: Some(plan.threads),
            })
        };
        let (source, target) = (edge("source", &token)?, edge("target", &second)?);
        let addr = target.session_addr().context("an edge takes sessions")?;
        let addr: SocketAddr = addr.parse()?;
        let links = plan.rates().into_iter().map(|megabits| {
            let link = LinkSpec {
                megabits,
                rtt: plan.rtt,
                loss_percent: 0.0,
            };
            Ok((megabits, link.emulate(addr, plan.seed)?))
        });
        let nodes = Self {
            links: links.collect::<Result<_>>()?,
            source,
            target,
            _dir: dir,
        };
        for rate in plan.rates() {
            eprintln!("the link of {rate} Mbit/s");
            for _ in 0..WARM_UP_COUNT {
                nodes.warm_up(plan, rate)?;
            }
        }
        Ok(nodes)
    }

    fn warm_up(&self, plan: &Plan, rate: u64) -> Result<()> {
        let point = Point {
            context: WARM_UP_LEN,
            rate,
            users: 1,
        };
        self.wait_until_idle()?;
        let users = Users::begin(&self.source(), plan, &point)?;
        users.wait_until_answered(TOKENS_BEFORE)?;
        let by = Asked::Only(Strategy::Cache);
        self.hand_over(users.sessions(), self.link(rate)?, by)?;
        users.finish(1, IDLE_PATIENCE).map(drop)
    }

    /// The edge that users ask, and that their sessions leave.
    pub(super) fn source(&self) -> Server {
        Server::at(self.source.addr())
    }

    /// Where the target is reached over the link of a rate.
    pub(super) fn link(&self, rate: u64) -> Result<SocketAddr> {
        let link = self.links.iter().find(|(known, _)| *known == rate);
        let (_, link) = link.context("every rate has its link")?;
        Ok(link.addr())
    }

    /// Moves sessions together; what the source says of each.
    pub(super) fn hand_over(
        &self,
        sessions: Vec<String>,
        target: SocketAddr,
        asked: Asked,
    ) -> Result<Vec<Value>> {
        let mut body = json!({ "target": target.to_string(), "sessions": sessions });
        if let Some(strategy) = asked.strategy() {
            body["strategy"] = strategy.name().into();
        }
        let answer = self.source().post_json("/v1/handovers", &body)?;
        let reports = answer["data"].as_array().context("a list is expected")?;
        if let Some(error) = reports.iter().find_map(|it| it["error"].as_str()) {
            bail!("{error}");
        }
        Ok(reports.clone())
    }

    /// Waits until neither edge has anything to do.
    pub(super) fn wait_until_idle(&self) -> Result<()> {
        let give_up = Instant::now() + IDLE_PATIENCE;
        while Instant::now() < give_up {
            let mut busy = 0;
            for node in [&self.source, &self.target] {
                let status = Server::at(node.addr()).get_json("/v1/status")?;
                let requests = &status["requests"];
                for count in [&requests["running"], &requests["waiting"]] {
                    busy += count.as_u64().context("requests are counted")?;
                }
            }
            if busy == 0 {
                return Ok(());
            }
            std::thread::sleep(LOOK_PERIOD);
        }
        bail!("sessions that nobody reads do not end")
    }
}

fn arguments(plan: &Plan, identity: &Path) -> Vec<OsString> {
    let mut args: Vec<OsString> = vec!["-q".into(), "--local".into()];
    args.extend(["--identity".into(), identity.into()]);
    let values = [
        ("--port", "0".to_owned()),
        ("--handover-listen", "127.0.0.1:0".to_owned()),
        ("--handover-target", "*".to_owned()),
        ("--kv-cache-mib", plan.kv_mib().to_string()),
        ("--max-num-batched-tokens", plan.step_len.to_string()),
    ];
    args.extend(
        values
            .into_iter()
            .flat_map(|(flag, value)| [flag.into(), value.into()]),
    );
    args.extend(model_arguments(&plan.model).into_iter().map(Into::into));
    args
}
