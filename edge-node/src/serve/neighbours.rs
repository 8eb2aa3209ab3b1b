//! The neighbour edges that are asked before the cloud: briefly, and not again for a while if they do
//! not answer.

use std::net::SocketAddr;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use clap::Args;
use edgeprompt_kv::KvDtype;
use edgeprompt_launch::{Exit, Failure};
use edgeprompt_model::Model;
use edgeprompt_protocol::PromptRef;
use edgeprompt_transport::{BindError, EdgeIdentity, LinkConfig, Timeouts};
use tokio::time::{Instant as Deadline, timeout_at};

use crate::cloud_prompt::{LossReason, Offer};
use crate::planner::Peer;
use crate::uplink::Uplink;

/// Most neighbours: each is asked in turn.
const NEIGHBOURS_MAX: usize = 16;

/// How long all neighbours together may take to say what they have.
const PATIENCE: Duration = Duration::from_secs(1);
/// How long one of them may.
const PATIENCE_EACH: Duration = Duration::from_millis(500);
/// How long one that sends may take for a layer.
const LAYER_PATIENCE: Duration = Duration::from_secs(2);

/// How long one that did not answer is left alone.
const SILENCE: Duration = Duration::from_secs(30);

/// Who is near.
#[derive(Args)]
pub struct NeighbourArgs {
    /// A neighbour edge to ask for a cloud prompt before the cloud; may be given several times
    #[arg(
        long = "peer",
        value_name = "ADDR",
        value_delimiter = ',',
        env = "EDGE_PEER"
    )]
    peers: Vec<String>,
    /// Address where neighbour edges of the same trust domain may fetch cloud prompts, UDP; port 0
    /// takes a free one
    #[arg(long, value_name = "ADDR", env = "EDGE_PEER_LISTEN")]
    pub(crate) peer_listen: Option<SocketAddr>,
}

impl NeighbourArgs {
    /// Whether this edge has anything to do with neighbours.
    pub(crate) const fn is_used(&self) -> bool {
        !self.peers.is_empty() || self.peer_listen.is_some()
    }

    /// The neighbours; nothing is dialled yet.
    ///
    /// # Errors
    /// [`Failure`] if one has no address or this machine no socket.
    pub(crate) async fn open(&self, identity: &EdgeIdentity) -> Result<Neighbours, Failure> {
        if self.peers.len() > NEIGHBOURS_MAX {
            return Err(Failure {
                exit: Exit::Usage,
                error: anyhow!("--peer can be given {NEIGHBOURS_MAX} times: each is asked in turn"),
            });
        }
        let mut neighbours = Neighbours::default();
        for host in &self.peers {
            let addrs = tokio::net::lookup_host(host)
                .await
                .with_context(|| format!("--peer {host} is not an address like 10.0.0.7:4434"))
                .map_err(Failure::of(Exit::Usage))?;
            let addrs: Vec<_> = addrs.collect();
            let added = neighbours.add(host, &addrs, identity);
            added.map_err(Failure::of(Exit::Usage))?;
        }
        Ok(neighbours)
    }
}

/// Edges of the same trust domain, in the order in which they are asked.
#[derive(Debug, Default)]
pub struct Neighbours {
    neighbours: Vec<Neighbour>,
}

#[derive(Debug)]
struct Neighbour {
    /// As its operator calls it.
    host: String,
    uplink: Uplink,
    silent_until: Mutex<Option<Instant>>,
}

impl Neighbours {
    /// One more neighbour, which is called `host` in the log.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn add(
        &mut self,
        host: &str,
        addrs: &[SocketAddr],
        identity: &EdgeIdentity,
    ) -> Result<(), BindError> {
        self.neighbours.push(Neighbour {
            host: host.to_owned(),
            uplink: Uplink::to_neighbour(addrs, identity, link_config())?,
            silent_until: Mutex::default(),
        });
        Ok(())
    }

    /// The same neighbours, asked for keys and values in another number format than f32.
    #[must_use]
    pub(crate) fn asking_for(self, dtype: KvDtype) -> Self {
        let neighbours = self.neighbours.into_iter().map(|neighbour| Neighbour {
            uplink: neighbour.uplink.asking_for(dtype),
            ..neighbour
        });
        Self {
            neighbours: neighbours.collect(),
        }
    }

    /// Whether there are none.
    pub(crate) const fn is_empty(&self) -> bool {
        self.neighbours.is_empty()
    }

    /// The ways to them.
    pub(crate) fn uplinks(&self) -> impl Iterator<Item = &Uplink> {
        self.neighbours.iter().map(|neighbour| &neighbour.uplink)
    }

    /// What their operator calls them, and the ways to them.
    pub(crate) fn hosts(&self) -> impl Iterator<Item = (&str, &Uplink)> {
        let neighbours = self.neighbours.iter();
        neighbours.map(|neighbour| (neighbour.host.as_str(), &neighbour.uplink))
    }

    /// What the first of them that has the prompt would send. Layers that do not come from there after
    /// all come from the `cloud`.
    pub(crate) async fn offer(
        &self,
        model: &Arc<Model>,
        prompt: &PromptRef,
        cloud: &[Uplink],
    ) -> Option<Offer> {
        let mut round = self.round();
        for index in 0..self.neighbours.len() {
            let offer = round.offer_of(index, model, prompt, cloud).await;
            if offer.is_some() {
                return offer;
            }
        }
        None
    }

    /// Begins to ask some of them for one prompt: the time for all of them runs.
    pub(crate) fn round(&self) -> Round<'_> {
        Round {
            neighbours: &self.neighbours,
            give_up: Deadline::now() + PATIENCE,
        }
    }

    /// Those that are not left alone now, in order, and what is known of them.
    pub(crate) fn peers(&self) -> Vec<Peer> {
        let now = Instant::now();
        let neighbours = self.neighbours.iter().enumerate();
        let heard = neighbours.filter(|(_, neighbour)| !neighbour.is_silent(now));
        let peer = |(index, neighbour): (usize, &Neighbour)| Peer {
            index,
            dtype: neighbour.uplink.dtype(),
            speed: neighbour.uplink.fresh_estimate().into(),
        };
        heard.map(peer).collect()
    }
}

/// Asking for one prompt.
#[derive(Debug)]
pub(crate) struct Round<'a> {
    neighbours: &'a [Neighbour],
    give_up: Deadline,
}

impl Round<'_> {
    /// What the neighbour with this index would send; nothing if it is left alone now.
    pub(crate) async fn offer_of(
        &mut self,
        index: usize,
        model: &Arc<Model>,
        prompt: &PromptRef,
        cloud: &[Uplink],
    ) -> Option<Offer> {
        let neighbour = self.neighbours.get(index)?;
        if neighbour.is_silent(Instant::now()) {
            return None;
        }
        let deadline = self.give_up.min(Deadline::now() + PATIENCE_EACH);
        let uplink = &neighbour.uplink;
        let fetching = Offer::of_neighbour(uplink, model, prompt.clone(), cloud);
        let (peer, reason) = match timeout_at(deadline, fetching).await {
            Ok(Ok(offer)) => return Some(offer),
            Ok(Err(error)) => (&neighbour.host, error.loss().reason),
            Err(_) => (&neighbour.host, LossReason::Slow),
        };
        tracing::info!(peer, reason = reason.label(), "a neighbour sent nothing");
        // One that answers may have another prompt.
        if !matches!(reason, LossReason::Refused | LossReason::OtherModel) {
            neighbour.leave_alone(Instant::now() + SILENCE);
        }
        None
    }
}

impl Neighbour {
    fn is_silent(&self, now: Instant) -> bool {
        let until = self.silent_until.lock();
        let until = until.unwrap_or_else(PoisonError::into_inner);
        until.is_some_and(|until| now < until)
    }

    fn leave_alone(&self, until: Instant) {
        let silent_until = self.silent_until.lock();
        *silent_until.unwrap_or_else(PoisonError::into_inner) = Some(until);
    }
}

/// Neighbours are near, and there is the cloud if they are slow.
fn link_config() -> LinkConfig {
    LinkConfig {
        timeouts: Timeouts {
            connect: PATIENCE_EACH,
            message: PATIENCE_EACH,
            reply: PATIENCE_EACH,
            layer: LAYER_PATIENCE,
            ..Timeouts::default()
        },
        ..LinkConfig::default()
    }
}
