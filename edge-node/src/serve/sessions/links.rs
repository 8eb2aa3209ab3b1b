//! The links to other edges, one for each, made when they are first needed.

use std::collections::HashMap;
use std::net::SocketAddr;

use edgeprompt_transport::{ConnectError, PeerEndpoint, PeerLink};
use tokio::sync::Mutex;

/// Links by address.
pub(crate) struct Links {
    endpoint: PeerEndpoint,
    open: Mutex<HashMap<SocketAddr, PeerLink>>,
}

impl Links {
    pub(crate) fn new(endpoint: PeerEndpoint) -> Self {
        Self {
            endpoint,
            open: Mutex::default(),
        }
    }

    /// A link to the edge at `addr`, which may be one that others use.
    ///
    /// # Errors
    /// [`ConnectError`].
    pub(crate) async fn to(&self, addr: SocketAddr) -> Result<PeerLink, ConnectError> {
        let known = self.open.lock().await.get(&addr).cloned();
        if let Some(link) = known.filter(PeerLink::is_open) {
            return Ok(link);
        }
        let link = self.endpoint.connect(addr).await?;
        self.open.lock().await.insert(addr, link.clone());
        Ok(link)
    }
}
