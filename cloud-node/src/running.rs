//! A cloud that serves in the background of the program that started it.

use std::net::SocketAddr;
use std::sync::Arc;

use edgeprompt_telemetry::names;
use edgeprompt_transport::{BindError, CloudEndpoint, CloudIdentity, LinkConfig};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::service::CloudService;

/// A cloud that accepts edges until it is stopped or dropped.
#[derive(Debug)]
pub struct RunningCloud {
    addr: SocketAddr,
    stop: watch::Sender<bool>,
    served: JoinHandle<()>,
}

impl CloudService {
    /// Serves on `listen` in a task of its own; port 0 takes a free one. Needs a running tokio
    /// runtime.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn start(
        self,
        listen: SocketAddr,
        identity: &CloudIdentity,
        config: LinkConfig,
    ) -> Result<RunningCloud, BindError> {
        let endpoint = CloudEndpoint::bind(listen, identity, config)?;
        let addr = endpoint.local_addr()?;
        // Scraped before the first edge comes, the gauge says zero instead of nothing: set before
        // anybody learns the address, which a task may not have come to.
        metrics::gauge!(names::CLOUD_EDGES_CONNECTED).increment(0.0);
        let (stop, stopping) = watch::channel(false);
        let served = tokio::spawn(Arc::new(self).run(endpoint, stopping));
        Ok(RunningCloud { addr, stop, served })
    }
}

impl RunningCloud {
    /// The address it listens on.
    pub const fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Lets what is under way end, within the patience of its links, then returns.
    pub async fn stop(self) {
        self.stop.send_replace(true);
        // A panic in the service was logged where it happened; there is nothing left to stop.
        let _ = self.served.await;
    }
}
