//! Arguments about moving sessions between edges.

use std::net::{Ipv4Addr, SocketAddr};

use anyhow::{Context, anyhow};
use clap::Args;
use edgeprompt_handover::planning::strategy::Strategy;
use edgeprompt_kv::KvDtype;
use edgeprompt_launch::{Exit, Failure, say};
use edgeprompt_transport::{CloudEndpoint, EdgeIdentity, LinkConfig, PeerEndpoint, PeerLink};
use tokio::runtime::Runtime;

use super::{Node, Sessions, SessionsConfig, Targets};

/// Most edges that sessions may be moved to.
const TARGETS_MAX: usize = 64;

/// Where sessions go, and where they come from.
#[derive(Args)]
pub(crate) struct HandoverArgs {
    /// Address where other edges of the same trust domain may bring users' sessions, and read those
    /// that they brought; UDP, port 0 takes a free one. They bring private text: the default is nobody
    #[arg(long, value_name = "ADDR", env = "EDGE_HANDOVER_LISTEN")]
    handover_listen: Option<SocketAddr>,
    /// Another edge's --handover-listen, to which sessions may be moved; may be given several times; `*`
    /// for every edge of the trust domain
    #[arg(
        long = "handover-target",
        value_name = "ADDR",
        value_delimiter = ',',
        env = "EDGE_HANDOVER_TARGET"
    )]
    handover_targets: Vec<String>,
    /// How sessions are moved: token, cache, joint, stream or precopy [default: what is predicted to
    /// interrupt least]
    #[arg(long, value_name = "STRATEGY", env = "EDGE_HANDOVER_STRATEGY")]
    handover_strategy: Option<Strategy>,
    /// Where users reach this edge, for those who follow their session here [default: --host and
    /// --port]
    #[arg(long, value_name = "URL", env = "EDGE_PUBLIC_URL")]
    public_url: Option<String>,
}

impl HandoverArgs {
    /// Whether this edge has anything to do with it.
    pub(crate) const fn is_used(&self) -> bool {
        self.handover_listen.is_some() || !self.handover_targets.is_empty()
    }

    /// Where users reach this edge, which others tell those who follow their session here.
    ///
    /// # Errors
    /// [`Failure`] if nobody outside could reach what is known.
    pub(crate) fn url(&self, scheme: &str, addr: SocketAddr) -> Result<String, Failure> {
        match &self.public_url {
            Some(url) => Ok(url.clone()),
            None if self.handover_listen.is_some() && addr.ip().is_unspecified() => Err(Failure {
                exit: Exit::Usage,
                error: anyhow!(
                    "users who follow their session here are to be told where, and {} is no address that they reach: give --public-url {scheme}://NAME:{}",
                    addr.ip(),
                    addr.port()
                ),
            }),
            None => Ok(format!("{scheme}://{addr}")),
        }
    }

    /// The sessions of this node, if they may move.
    ///
    /// # Errors
    /// [`Failure`] if a target has no address or this machine no socket.
    pub(crate) fn open(
        &self,
        runtime: &Runtime,
        identity: impl FnOnce() -> Result<EdgeIdentity, Failure>,
        (node, url): (Node, String),
    ) -> Result<Option<Sessions>, Failure> {
        if !self.is_used() {
            return Ok(None);
        }
        let identity = identity()?;
        let _in_runtime = runtime.enter();
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let endpoint = PeerEndpoint::bind(any, &identity, LinkConfig::default());
        let endpoint = endpoint.map_err(Failure::of(Exit::Usage))?;
        let listener = self.listener(&identity)?;
        let addr = match &listener {
            Some(listener) => Some(listener.local_addr().map_err(Failure::of(Exit::Usage))?),
            None => None,
        };
        let config = SessionsConfig {
            targets: runtime.block_on(self.targets())?,
            url,
            dtype: KvDtype::F32,
            strategy: self.handover_strategy,
        };
        let sessions = Sessions::new(node, config, endpoint);
        if let Some(listener) = listener {
            sessions.begin_to_listen(runtime, listener);
        }
        if let Some(addr) = addr {
            say(format_args!("listening for sessions on {addr}\n"))?;
        }
        Ok(Some(sessions))
    }

    fn listener(
        &self,
        identity: &EdgeIdentity,
    ) -> Result<Option<CloudEndpoint<PeerLink>>, Failure> {
        let Some(addr) = self.handover_listen else {
            return Ok(None);
        };
        CloudEndpoint::bind_for_sessions(addr, identity, LinkConfig::default())
            .with_context(|| format!("--handover-listen {addr}"))
            .map_err(Failure::of(Exit::Usage))
            .map(Some)
    }

    async fn targets(&self) -> Result<Targets, Failure> {
        if self.handover_targets.iter().any(|host| host == "*") {
            return Ok(Targets::Any);
        }
        if self.handover_targets.len() > TARGETS_MAX {
            return Err(Failure {
                exit: Exit::Usage,
                error: anyhow!("--handover-target can be given {TARGETS_MAX} times"),
            });
        }
        let mut targets = Vec::new();
        for host in &self.handover_targets {
            let mut addrs = tokio::net::lookup_host(host)
                .await
                .with_context(|| {
                    format!("--handover-target {host} is not an address like 10.0.0.7:4435")
                })
                .map_err(Failure::of(Exit::Usage))?;
            let addr = addrs.next().ok_or_else(|| Failure {
                exit: Exit::Usage,
                error: anyhow!("--handover-target {host} has no address"),
            })?;
            targets.push((host.clone(), addr));
        }
        Ok(Targets::Named(targets))
    }
}
