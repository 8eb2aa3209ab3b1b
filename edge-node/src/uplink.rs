//! This edge's way to its cloud, or to a neighbour edge: one link at a time, made again when it is gone, closed when no
//! fetch needs it.

use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use crate::kv_origin::KvOrigin;
use crate::planner::CloudEstimate;
use crate::prefill_speed::PrefillSpeed;
use edgeprompt_kv::KvDtype;
use edgeprompt_transport::{
    BindError, BitRate, Callee, CloudLink, ConnectError, EdgeEndpoint, EdgeIdentity, LinkConfig,
    LinkEstimate, SentMessages,
};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::timeout;

/// How long what was measured decides what is asked for. Measuring takes asking: an edge that once found
/// its cloud slow would never ask again, and never see that it is not.
const ESTIMATE_LASTS: Duration = Duration::from_secs(30);

/// Links to one cloud, or to one neighbour, which is asked as if it were a cloud. Clones share the
/// link.
#[derive(Clone, Debug)]
pub struct Uplink {
    origin: KvOrigin,
    /// The number format asked for.
    dtype: KvDtype,
    /// Ways to reach the cloud, tried in turn.
    routes: Arc<[Route]>,
    sent: SentMessages,
    /// One dials at a time: others take the link that comes of it.
    dialling: Arc<Semaphore>,
    state: Arc<Mutex<State>>,
}

#[derive(Debug)]
struct Route {
    endpoint: EdgeEndpoint,
    addr: SocketAddr,
}

#[derive(Debug, Default)]
struct State {
    link: Option<CloudLink>,
    /// The path as it was last seen, by whichever link.
    path: Path,
    /// How fast the cloud computed the layer that came last, and when that was.
    cloud_speed: Option<(PrefillSpeed, Instant)>,
    /// Fetches that still take layers in.
    fetching: Vec<JoinHandle<()>>,
}

/// What is known of a path.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Path {
    /// How long a packet and the answer to it take; `None` before there was a link.
    pub rtt: Option<Duration>,
    /// How fast layers have come; `None` before one has.
    pub rate: Option<BitRate>,
}

impl State {
    /// Looks at the path once more.
    fn path(&mut self) -> Path {
        if let Some(link) = &self.link {
            self.path.rtt = Some(link.stats().rtt);
            let estimate = link.estimate();
            self.path.rate = estimate.map(|it| it.rate).or(self.path.rate);
        }
        self.path
    }

    /// Gives the link up and keeps what it saw.
    fn let_go(&mut self) {
        self.path();
        self.link = None;
    }
}

impl Uplink {
    /// A way to the cloud at any of `addrs`; nothing is dialled yet.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn new(
        addrs: &[SocketAddr],
        identity: &EdgeIdentity,
        config: LinkConfig,
    ) -> Result<Self, BindError> {
        let bind = |addr| EdgeEndpoint::bind(addr, identity, config);
        Self::over(KvOrigin::Cloud, addrs, bind)
    }

    /// A way to the neighbour edge at any of `addrs`; nothing is dialled yet.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn to_neighbour(
        addrs: &[SocketAddr],
        identity: &EdgeIdentity,
        config: LinkConfig,
    ) -> Result<Self, BindError> {
        let bind = |addr| EdgeEndpoint::bind_for_neighbours(addr, identity, config);
        Self::over(KvOrigin::Peer, addrs, bind)
    }

    /// The same way, on which keys and values are asked for in another number format than f32.
    #[must_use]
    pub fn asking_for(self, dtype: KvDtype) -> Self {
        Self { dtype, ..self }
    }

    /// The number format in which keys and values are asked for.
    pub const fn dtype(&self) -> KvDtype {
        self.dtype
    }

    fn over(
        origin: KvOrigin,
        addrs: &[SocketAddr],
        bind: impl Fn(SocketAddr) -> Result<EdgeEndpoint, BindError>,
    ) -> Result<Self, BindError> {
        let route = |addr: &SocketAddr| -> Result<Route, BindError> {
            Ok(Route {
                endpoint: bind(any_port(*addr))?,
                addr: *addr,
            })
        };
        let routes = addrs.iter().map(route).collect::<Result<Vec<_>, _>>()?;
        Ok(Self {
            origin,
            dtype: KvDtype::F32,
            routes: routes.into(),
            sent: SentMessages::new(),
            dialling: Arc::new(Semaphore::new(1)),
            state: Arc::default(),
        })
    }

    /// The link, dialled if there is none or the last one is lost.
    ///
    /// # Errors
    /// [`ConnectError`] of the last address tried.
    pub async fn link(&self) -> Result<CloudLink, ConnectError> {
        if let Some(link) = self.current() {
            return Ok(link);
        }
        // Nothing closes it; dialling twice would do no harm.
        let _turn = self.dialling.acquire().await;
        if let Some(link) = self.current() {
            return Ok(link);
        }
        let mut failed = None;
        for route in self.routes.iter() {
            match route
                .endpoint
                .connect_recorded(route.addr, self.sent.clone())
                .await
            {
                Ok(link) => {
                    let mut state = self.state();
                    state.let_go();
                    state.link = Some(link.clone());
                    return Ok(link);
                }
                Err(error) => failed = Some(error),
            }
        }
        let nowhere = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        Err(failed.unwrap_or(ConnectError::Unreachable {
            addr: nowhere,
            callee: Callee::Cloud,
        }))
    }

    fn current(&self) -> Option<CloudLink> {
        let link = self.state().link.clone();
        link.filter(|link| link.lost().is_none())
    }

    /// How fast layers have come from this cloud lately, how far it is and how fast it computes;
    /// `None` until some have come. Links that follow each other take one path.
    pub fn estimate(&self) -> Option<CloudEstimate> {
        let mut state = self.state();
        let Path { rtt, rate } = state.path();
        let link = LinkEstimate {
            rate: rate?,
            rtt: rtt?,
        };
        let (speed, _) = state.cloud_speed?;
        Some(CloudEstimate { link, speed })
    }

    /// What is known of the way to the cloud, by this link and those before it.
    pub fn path(&self) -> Path {
        self.state().path()
    }

    /// The same if a layer has come lately: what is older is to be measured again.
    pub fn fresh_estimate(&self) -> Option<CloudEstimate> {
        let (_, noted_at) = self.state().cloud_speed?;
        self.estimate().filter(|_| is_fresh(noted_at.elapsed()))
    }

    /// Notes how fast the cloud computed a layer.
    pub(crate) fn note_speed(&self, speed: PrefillSpeed) {
        self.state().cloud_speed = Some((speed, Instant::now()));
    }

    /// Gives the link up, so that the next one is new.
    pub(crate) fn forget(&self) {
        self.state().let_go();
    }

    /// What layers that come this way are said to come from.
    pub(crate) const fn origin(&self) -> KvOrigin {
        self.origin
    }

    /// What was sent to the cloud, in plaintext.
    pub const fn sent(&self) -> &SentMessages {
        &self.sent
    }

    /// Waits until the fetches under way have ended: nothing more is on its way on the link then.
    pub async fn settle(&self) {
        let fetching = std::mem::take(&mut self.state().fetching);
        for fetch in fetching {
            // A fetch that panicked is over too.
            let _ = fetch.await;
        }
    }

    /// Lets the fetches under way end, within `patience`, then closes the link and waits until the
    /// cloud knows.
    ///
    /// A fetch runs to its end whatever became of the prompt it was for, so that how it ends does
    /// not depend on that prompt.
    pub async fn close(self, patience: Duration) {
        let _ = timeout(patience, self.settle()).await;
        self.forget();
        for route in self.routes.iter() {
            route.endpoint.clone().close().await;
        }
    }

    /// Keeps track of a fetch.
    pub(crate) fn track(&self, fetch: JoinHandle<()>) {
        let mut state = self.state();
        state.fetching.retain(|fetch| !fetch.is_finished());
        state.fetching.push(fetch);
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A free port on the interface that reaches `peer`; a loopback peer needs no other interface.
fn any_port(peer: SocketAddr) -> SocketAddr {
    match (peer, peer.ip().is_loopback()) {
        (SocketAddr::V4(_), true) => (Ipv4Addr::LOCALHOST, 0).into(),
        (SocketAddr::V4(_), false) => (Ipv4Addr::UNSPECIFIED, 0).into(),
        (SocketAddr::V6(_), true) => (Ipv6Addr::LOCALHOST, 0).into(),
        (SocketAddr::V6(_), false) => (Ipv6Addr::UNSPECIFIED, 0).into(),
    }
}

/// Whether what was measured so long ago still decides anything.
pub(crate) const fn is_fresh(age: Duration) -> bool {
    age.as_millis() < ESTIMATE_LASTS.as_millis()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_measured_long_ago_decides_nothing() {
        assert!(is_fresh(ESTIMATE_LASTS / 2));
        assert!(!is_fresh(ESTIMATE_LASTS));
    }
}
