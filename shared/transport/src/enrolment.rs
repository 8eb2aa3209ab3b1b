//! The enrolment registry: which invitations a cloud gave out and which node used each.
//!
//! Certificates say that a node was invited; only this says that it came in time and came first.

use std::collections::BTreeMap;
use std::fs::OpenOptions;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::certificates::EdgePeer;
use crate::identity_file::{self, IdentityError};

/// How long an invitation may be used for the first time, unless told otherwise.
pub const INVITATION_LIFETIME: Duration = Duration::from_hours(24);

/// Most invitations a cloud keeps: every joined edge holds one, open ones expire.
pub const INVITATIONS_MAX: usize = 10_000;

/// Why a node with a valid certificate is not admitted.
#[derive(Debug, thiserror::Error)]
pub enum EnrolmentError {
    /// Another node joined with the same token.
    #[error("join token already used by another node")]
    AlreadyUsed,
    /// The token was not used in time.
    #[error("join token expired")]
    Expired,
    /// The cloud did not give out this invitation, or revoked it.
    #[error("join token unknown")]
    Unknown,
    /// The registry cannot be read or written.
    #[error("the enrolment registry failed")]
    Registry(#[from] IdentityError),
}

/// Invitations by the hash of their certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(transparent)]
struct Registry {
    invitations: BTreeMap<String, Invitation>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "snake_case")]
enum Invitation {
    /// Nobody came yet.
    Open { deadline_unix_seconds: u64 },
    /// One node came in time; the invitation is its own for good.
    Bound { leaf: String },
}

impl Registry {
    fn invite(&mut self, invitation: blake3::Hash, deadline: u64, now: u64) -> Result<(), usize> {
        self.invitations
            .retain(|_, invitation| !invitation.is_expired(now));
        if self.invitations.len() >= INVITATIONS_MAX {
            return Err(self.invitations.len());
        }
        let open = Invitation::Open {
            deadline_unix_seconds: deadline,
        };
        self.invitations
            .insert(invitation.to_hex().to_string(), open);
        Ok(())
    }

    fn admit(&mut self, peer: &EdgePeer, now: u64) -> Result<(), EnrolmentError> {
        let leaf = peer.leaf.to_hex().to_string();
        let invitation = self
            .invitations
            .get_mut(peer.invitation.to_hex().as_str())
            .ok_or(EnrolmentError::Unknown)?;
        match invitation {
            Invitation::Bound { leaf: bound } if *bound == leaf => Ok(()),
            Invitation::Bound { .. } => Err(EnrolmentError::AlreadyUsed),
            Invitation::Open { .. } if invitation.is_expired(now) => Err(EnrolmentError::Expired),
            Invitation::Open { .. } => {
                *invitation = Invitation::Bound { leaf };
                Ok(())
            }
        }
    }
}

impl Invitation {
    const fn is_expired(&self, now: u64) -> bool {
        matches!(self, Self::Open { deadline_unix_seconds } if *deadline_unix_seconds <= now)
    }
}

/// A registry and where it lives.
#[derive(Debug)]
pub(crate) enum Enrolment {
    /// Gone with the process.
    Memory(MemoryEnrolment),
    /// A file that `serve` and `invite` share, also when they run at the same time.
    File(PathBuf),
}

/// A registry that no file backs.
#[derive(Debug, Default)]
pub(crate) struct MemoryEnrolment(Mutex<Registry>);

impl Enrolment {
    /// Opens an invitation until `lifetime` from `now`.
    pub(crate) fn invite(
        &self,
        invitation: blake3::Hash,
        lifetime: Duration,
        now: SystemTime,
    ) -> Result<(), IdentityError> {
        let (deadline, now) = (unix_seconds(now + lifetime), unix_seconds(now));
        self.update(|registry| registry.invite(invitation, deadline, now))?
            .map_err(|count| IdentityError::TooManyInvitations { count })
    }

    /// Admits a node, binding its invitation to it the first time. Reads and writes files.
    pub(crate) fn admit(&self, peer: &EdgePeer, now: SystemTime) -> Result<(), EnrolmentError> {
        self.update(|registry| registry.admit(peer, unix_seconds(now)))?
    }

    fn update<T>(&self, change: impl FnOnce(&mut Registry) -> T) -> Result<T, IdentityError> {
        match self {
            Self::Memory(memory) => Ok(change(
                &mut memory.0.lock().unwrap_or_else(PoisonError::into_inner),
            )),
            Self::File(path) => update_file(path, change),
        }
    }
}

fn update_file<T>(
    path: &Path,
    change: impl FnOnce(&mut Registry) -> T,
) -> Result<T, IdentityError> {
    // Held until the file is replaced: two processes must not both bind one invitation.
    let lock_path = path.with_extension("lock");
    let lock = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .open(&lock_path)
        .and_then(|file| file.lock().map(|()| file))
        .map_err(|source| identity_file::io_error(&lock_path, source))?;
    let before = read_registry(path)?;
    let mut after = before.clone();
    let result = change(&mut after);
    if after != before {
        let json = serde_json::to_vec_pretty(&after)
            .map_err(|error| identity_file::io_error(path, error.into()))?;
        identity_file::replace(path, &json)?;
    }
    drop(lock);
    Ok(result)
}

fn read_registry(path: &Path) -> Result<Registry, IdentityError> {
    match identity_file::read(path) {
        Ok(content) => serde_json::from_slice(&content)
            .map_err(|_| identity_file::damaged(path, "it is not an enrolment registry")),
        Err(IdentityError::Missing { .. }) => Ok(Registry::default()),
        Err(error) => Err(error),
    }
}

fn unix_seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .unwrap_or_default()
        .as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(leaf: &[u8], invitation: &[u8]) -> EdgePeer {
        let (leaf, invitation) = (blake3::hash(leaf), blake3::hash(invitation));
        EdgePeer {
            name: "test".into(),
            leaf,
            invitation,
        }
    }

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn the_first_node_in_time_takes_an_invitation_for_good() {
        let dir = tempfile::tempdir().unwrap();
        let file = Enrolment::File(dir.path().join("enrolment.json"));
        for enrolment in [Enrolment::Memory(MemoryEnrolment::default()), file] {
            let admit = |peer: &EdgePeer, seconds| enrolment.admit(peer, at(seconds));
            let (first, second) = (peer(b"first", b"one"), peer(b"second", b"one"));
            let late = peer(b"late", b"two");
            for invitation in [b"one", b"two"] {
                let lifetime = Duration::from_secs(10);
                enrolment
                    .invite(blake3::hash(invitation), lifetime, at(100))
                    .unwrap();
            }
            assert!(admit(&first, 109).is_ok());
            assert!(
                admit(&first, 1_000_000).is_ok(),
                "a joined node stays joined"
            );
            assert!(matches!(
                admit(&second, 109),
                Err(EnrolmentError::AlreadyUsed)
            ));
            assert!(matches!(admit(&late, 110), Err(EnrolmentError::Expired)));
            let stranger = peer(b"first", b"three");
            assert!(matches!(
                admit(&stranger, 109),
                Err(EnrolmentError::Unknown)
            ));
        }
    }

    #[test]
    fn expired_invitations_make_room() {
        let mut registry = Registry::default();
        for number in 0..INVITATIONS_MAX {
            registry
                .invite(blake3::hash(&number.to_le_bytes()), 10, 0)
                .unwrap();
        }
        assert_eq!(
            registry.invite(blake3::hash(b"more"), 20, 9),
            Err(INVITATIONS_MAX)
        );
        assert_eq!(registry.invite(blake3::hash(b"more"), 20, 10), Ok(()));
        assert_eq!(registry.invitations.len(), 1);
    }
}
