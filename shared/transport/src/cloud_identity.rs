//! A cloud's identity: the root of a trust domain, the cloud's own certificate and the registry of
//! whom it invited.

use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use rcgen::KeyPair;

use crate::certificates::{Authority, NodeCredentials};
use crate::enrolment::{Enrolment, INVITATION_LIFETIME, MemoryEnrolment};
use crate::identity_file::{self, IdentityError, PemBlocks};
use crate::token::JoinToken;

const IDENTITY_FILE: &str = "cloud-identity.pem";
const ENROLMENT_FILE: &str = "enrolment.json";

/// The identity of a cloud node, and with it of a trust domain.
///
/// The root's private key never leaves the directory it was made in.
pub struct CloudIdentity {
    root: Authority,
    credentials: NodeCredentials,
    enrolment: Arc<Enrolment>,
}

impl std::fmt::Debug for CloudIdentity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("CloudIdentity").finish_non_exhaustive()
    }
}

impl CloudIdentity {
    /// Starts a trust domain in `dir` and invites its first edge. Nothing needs to listen.
    ///
    /// # Errors
    /// [`IdentityError::Exists`] if `dir` holds one: it is never overwritten.
    pub fn init(dir: &Path) -> Result<(Self, JoinToken), IdentityError> {
        identity_file::create_dir(dir)?;
        let identity = Self::generate(Enrolment::File(dir.join(ENROLMENT_FILE)))?;
        let certificates = [identity.root.certificate.clone(), identity.leaf().clone()];
        let keys = [
            identity.root.key_der(),
            identity.credentials.key.secret_pkcs8_der(),
        ];
        let pem = PemBlocks::to_pem(&certificates, &keys);
        identity_file::write_new(&dir.join(IDENTITY_FILE), pem.as_bytes())?;
        let token = identity.invite(INVITATION_LIFETIME)?;
        Ok((identity, token))
    }

    /// Reads the identity that [`CloudIdentity::init`] left in `dir`.
    ///
    /// # Errors
    /// [`IdentityError`], [`IdentityError::Missing`] if there is none.
    pub fn load(dir: &Path) -> Result<Self, IdentityError> {
        let path = dir.join(IDENTITY_FILE);
        let blocks = PemBlocks::read(&path)?;
        let incomplete = || identity_file::damaged(&path, "blocks are missing");
        let [root, leaf] = <[_; 2]>::try_from(blocks.certificates).map_err(|_| incomplete())?;
        let [root_key, key] = <[_; 2]>::try_from(blocks.keys).map_err(|_| incomplete())?;
        let root_key = KeyPair::try_from(root_key.secret_pkcs8_der())
            .map_err(|_| identity_file::damaged(&path, "the root key is unreadable"))?;
        Ok(Self {
            root: Authority::restored_root(root.clone(), root_key),
            credentials: NodeCredentials {
                root,
                chain: vec![leaf],
                key,
            },
            enrolment: Arc::new(Enrolment::File(dir.join(ENROLMENT_FILE))),
        })
    }

    /// An identity that lives as long as the process: for tests and demonstrations.
    ///
    /// # Errors
    /// [`IdentityError::Certificate`].
    pub fn in_memory() -> Result<Self, IdentityError> {
        Self::generate(Enrolment::Memory(MemoryEnrolment::default()))
    }

    /// Invites one edge node, which must connect for the first time within `lifetime`
    /// (usually [`INVITATION_LIFETIME`]).
    ///
    /// # Errors
    /// [`IdentityError`].
    pub fn invite(&self, lifetime: Duration) -> Result<JoinToken, IdentityError> {
        let now = SystemTime::now();
        let invitation = self.root.invitation(now)?;
        self.enrolment
            .invite(blake3::hash(&invitation.certificate), lifetime, now)?;
        Ok(JoinToken::new(self.root.certificate.clone(), &invitation))
    }

    pub(crate) const fn credentials(&self) -> &NodeCredentials {
        &self.credentials
    }

    pub(crate) const fn enrolment(&self) -> &Arc<Enrolment> {
        &self.enrolment
    }

    fn generate(enrolment: Enrolment) -> Result<Self, IdentityError> {
        let now = SystemTime::now();
        let root = Authority::root(now)?;
        let credentials = root.cloud(now)?;
        Ok(Self {
            root,
            credentials,
            enrolment: Arc::new(enrolment),
        })
    }

    fn leaf(&self) -> &rustls::pki_types::CertificateDer<'static> {
        &self.credentials.chain[0]
    }
}
