//! An edge's identity: its own key, the leaf it signed with an invitation, and the root it trusts.

use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::pki_types::UnixTime;

use crate::certificates::{NodeCredentials, edge_name_of};
use crate::identity_file::{self, IdentityError, PemBlocks};
use crate::tls::{self, Validity};
use crate::token::{JoinToken, ParseTokenError};

const IDENTITY_FILE: &str = "edge-identity.pem";

/// Why a token does not make an identity.
#[derive(Debug, thiserror::Error)]
pub enum JoinError {
    /// The token's parts do not belong together, or it is out of date.
    #[error("the join token is not a valid invitation: ask for a new one with `cloud-node invite`")]
    Token(#[from] ParseTokenError),
    /// The chain that the token gives does not verify.
    #[error("the join token's invitation does not verify: {detail}")]
    Invitation {
        /// What the verifier said.
        detail: String,
    },
    /// A key or certificate could not be made.
    #[error("a key or certificate could not be made")]
    Certificate(#[from] rcgen::Error),
}

/// The identity of an edge node within one cloud's trust domain.
pub struct EdgeIdentity {
    credentials: NodeCredentials,
    name: String,
}

impl std::fmt::Debug for EdgeIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EdgeIdentity")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

impl EdgeIdentity {
    /// Joins the trust domain that `token` invites to. No node needs to run.
    ///
    /// The edge's key is made here and never leaves; the token's key signs one certificate and is
    /// dropped. The cloud takes the first node that connects with a token, so connect soon.
    ///
    /// # Errors
    /// [`JoinError`] if the token is not an invitation of its own root.
    pub fn join(token: &JoinToken) -> Result<Self, JoinError> {
        let authority = token.authority()?;
        let credentials = authority.edge(token.root().clone(), SystemTime::now())?;
        tls::verify_edge_chain(&credentials, UnixTime::now()).map_err(|error| {
            JoinError::Invitation {
                detail: error.to_string(),
            }
        })?;
        let name = edge_name_of(&credentials.chain[0]).map_err(|_| ParseTokenError::Invitation)?;
        Ok(Self { credentials, name })
    }

    /// Keeps the identity in `dir`.
    ///
    /// # Errors
    /// [`IdentityError::Exists`] if `dir` holds one: it is never overwritten.
    pub fn save(&self, dir: &Path) -> Result<(), IdentityError> {
        identity_file::create_dir(dir)?;
        let root = [self.credentials.root.clone()];
        let certificates = [&root[..], &self.credentials.chain].concat();
        let keys = [self.credentials.key.secret_pkcs8_der()];
        let pem = PemBlocks::to_pem(&certificates, &keys);
        identity_file::write_new(&dir.join(IDENTITY_FILE), pem.as_bytes())
    }

    /// Reads the identity that [`EdgeIdentity::save`] left in `dir`.
    ///
    /// # Errors
    /// [`IdentityError`], [`IdentityError::Missing`] if there is none.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let path = Self::file(dir);
        let blocks = PemBlocks::read(&path)?;
        let incomplete = || identity_file::damaged(&path, "blocks are missing");
        let [root, leaf, invitation] =
            <[_; 3]>::try_from(blocks.certificates).map_err(|_| incomplete())?;
        let [key] = <[_; 1]>::try_from(blocks.keys).map_err(|_| incomplete())?;
        let name = edge_name_of(&leaf)
            .map_err(|_| identity_file::damaged(&path, "the certificate is not an edge's"))?;
        let credentials = NodeCredentials {
            root,
            chain: vec![leaf, invitation],
            key,
        };
        Ok(Self { credentials, name })
    }

    /// The name in the certificate: the hash of the edge's key, under the edges' domain.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What tells this edge's trust domain, and so its cloud, from others: the hash of the root
    /// certificate, in hexadecimal digits.
    pub fn trust_domain(&self) -> String {
        blake3::hash(&self.credentials.root).to_hex().to_string()
    }

    /// The file in `dir` that [`EdgeIdentity::save`] writes.
    pub fn file(dir: &Path) -> PathBuf {
        dir.join(IDENTITY_FILE)
    }

    /// Whether the certificates are valid at a time.
    pub fn validity(&self, at: SystemTime) -> Validity {
        let since = at.duration_since(UNIX_EPOCH).unwrap_or_default();
        let at = UnixTime::since_unix_epoch(since);
        tls::verify_edge_chain(&self.credentials, at)
            .map_or_else(|error| error.into(), |()| Validity::Valid)
    }

    pub(crate) const fn credentials(&self) -> &NodeCredentials {
        &self.credentials
    }
}
