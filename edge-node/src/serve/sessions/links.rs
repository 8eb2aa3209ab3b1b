//! Links to other edges, one for each, made when they are first needed.

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
        if let Some(link) = self.known(addr).await {
            return Ok(link);
        }
        let link = self.endpoint.connect(addr).await?;
        let mut open = self.open.lock().await;
        open.retain(|_, link| link.is_open());
        // Of two that were dialled at once all use one: priorities mean nothing between links.
        Ok(open.entry(addr).or_insert(link).clone())
    }

    async fn known(&self, addr: SocketAddr) -> Option<PeerLink> {
        let open = self.open.lock().await;
        open.get(&addr).filter(|link| link.is_open()).cloned()
    }
}
