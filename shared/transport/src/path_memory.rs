//! What links to a peer were found to be, for the next link to the same peer. Kept in memory only.

use std::collections::HashMap;
use std::net::IpAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use crate::config::LinkEstimate;

/// Most paths remembered: as many as there may be links at a time.
const PATHS_MAX: usize = 1024;

/// A peer at a network address: when it moves, its path is another. Only an admitted peer has
/// one, so nobody can make a node forget others by coming under many addresses alone.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PathKey {
    pub(crate) peer_name: String,
    pub(crate) ip: IpAddr,
}

/// The paths remembered. Clones share them.
#[derive(Clone, Debug, Default)]
pub(crate) struct PathMemory {
    paths: Arc<Mutex<Paths>>,
}

#[derive(Debug, Default)]
struct Paths {
    /// With the turn in which each was last written.
    by_key: HashMap<PathKey, (u64, LinkEstimate)>,
    turn: u64,
}

impl PathMemory {
    /// What is known of a path.
    pub(crate) fn recall(&self, key: &PathKey) -> Option<LinkEstimate> {
        self.lock().by_key.get(key).map(|(_, estimate)| *estimate)
    }

    /// Keeps what a link was found to be, in place of the path longest not written if need be.
    pub(crate) fn remember(&self, key: PathKey, estimate: LinkEstimate) {
        let mut paths = self.lock();
        paths.turn += 1;
        let turn = paths.turn;
        if paths.by_key.len() >= PATHS_MAX && !paths.by_key.contains_key(&key) {
            let oldest = paths.by_key.iter().min_by_key(|(_, (turn, _))| *turn);
            if let Some(oldest) = oldest.map(|(key, _)| key.clone()) {
                paths.by_key.remove(&oldest);
            }
        }
        paths.by_key.insert(key, (turn, estimate));
    }

    fn lock(&self) -> MutexGuard<'_, Paths> {
        self.paths.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::config::BitRate;

    #[test]
    fn the_path_longest_not_used_makes_room() {
        let key = |number: usize| PathKey {
            peer_name: number.to_string(),
            ip: IpAddr::from([127, 0, 0, 1]),
        };
        let estimate = |megabits| LinkEstimate {
            rate: BitRate::megabits_per_second(megabits),
            rtt: Duration::from_millis(50),
        };
        let memory = PathMemory::default();
        for number in 0..PATHS_MAX {
            memory.remember(key(number), estimate(1));
        }
        memory.remember(key(0), estimate(2));
        memory.remember(key(PATHS_MAX), estimate(3));
        assert_eq!(memory.recall(&key(0)), Some(estimate(2)));
        assert_eq!(memory.recall(&key(1)), None);
        assert_eq!(memory.recall(&key(PATHS_MAX)), Some(estimate(3)));
        assert_eq!(memory.lock().by_key.len(), PATHS_MAX);
    }
}
