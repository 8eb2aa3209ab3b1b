//! How many links each edge has: one that opens ever more must not take the places of others.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

/// Most links of one edge at a time. One carries everything, or two between edges that move sessions; more
/// are old ones that nobody here knows to be gone yet.
pub(crate) const LINKS_PER_EDGE_MAX: usize = 12;

/// The links of every edge. Clones share the count.
#[derive(Clone, Debug, Default)]
pub(crate) struct EdgeCount {
    /// Only edges that have a link, so no more than there are links.
    links: Arc<Mutex<HashMap<String, usize>>>,
}

/// One link of an edge; dropping it ends it.
#[derive(Debug)]
pub(crate) struct EdgeSeat {
    count: EdgeCount,
    peer_name: String,
}

impl EdgeCount {
    /// Counts one more link of an edge, unless it has as many as it may.
    pub(crate) fn take_seat(&self, peer_name: &str) -> Option<EdgeSeat> {
        let mut links = self.lock();
        let link_count = links.get(peer_name).copied().unwrap_or(0);
        if link_count >= LINKS_PER_EDGE_MAX {
            return None;
        }
        links.insert(peer_name.to_owned(), link_count + 1);
        let (count, peer_name) = (self.clone(), peer_name.to_owned());
        Some(EdgeSeat { count, peer_name })
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<String, usize>> {
        self.links.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for EdgeSeat {
    fn drop(&mut self) {
        let mut links = self.count.lock();
        if let Some(link_count) = links.get_mut(&self.peer_name) {
            *link_count -= 1;
            if *link_count == 0 {
                links.remove(&self.peer_name);
            }
        }
    }
}
