//! The certificates of a trust domain: how each kind is made and how a peer's chain is read.
//!
//! ```text
//! root CA (its key stays with the cloud)
//! ├── cloud leaf        cloud.edgeprompt.internal, server only
//! └── invitation CA     path length 0, names under edge.edgeprompt.internal only
//!     └── edge leaf     <hash of its key>.edge.edgeprompt.internal, client and server
//! ```
//! Nothing here stores a key or knows who is admitted.

use std::time::{Duration, SystemTime};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose, NameConstraints, PKCS_ED25519,
    PublicKeyData, SigningKey,
};
use rustls::client::verify_server_name;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer, ServerName};
use rustls::server::ParsedCertificate;

/// The name in every cloud's certificate; edges dial it whatever the address.
pub(crate) const CLOUD_NAME: &str = "cloud.edgeprompt.internal";

/// The domain of every edge's name; an invitation cannot sign outside it.
pub(crate) const EDGE_DOMAIN: &str = "edge.edgeprompt.internal";

/// Certificates start to be valid this long ago: clocks of nodes differ.
const CLOCK_SKEW_MAX: Duration = Duration::from_hours(24);

const DAY: Duration = Duration::from_hours(24);
const ROOT_LIFETIME: Duration = DAY.saturating_mul(3650);
const EDGE_LIFETIME: Duration = DAY.saturating_mul(365);

/// Every handshake checks the whole chain, so an invitation's certificate outlives the leaf it
/// signs; until when it may be *used* is the enrolment registry's to say.
const INVITATION_CERTIFICATE_LIFETIME: Duration = DAY.saturating_mul(2 * 365);

/// What a node proves itself with. Without `Debug`, so that no log can hold the key.
pub(crate) struct NodeCredentials {
    pub(crate) root: CertificateDer<'static>,
    /// The leaf first; the root is not part of it.
    pub(crate) chain: Vec<CertificateDer<'static>>,
    pub(crate) key: PrivatePkcs8KeyDer<'static>,
}

/// A certificate authority: its certificate and what signs with it.
pub(crate) struct Authority {
    pub(crate) certificate: CertificateDer<'static>,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// A new root.
    pub(crate) fn root(now: SystemTime) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let params = ca_params("trust domain", &key);
        let certificate = valid_for(params, now, ROOT_LIFETIME)
            .self_signed(&key)?
            .der()
            .clone();
        Ok(Self::restored_root(certificate, key))
    }

    /// A root whose certificate and key were stored.
    pub(crate) fn restored_root(certificate: CertificateDer<'static>, key: KeyPair) -> Self {
        let issuer = Issuer::new(ca_params("trust domain", &key), key);
        Self {
            certificate,
            issuer,
        }
    }

    /// The root's or invitation's private key, as it is stored.
    pub(crate) fn key_der(&self) -> &[u8] {
        self.issuer.key().serialized_der()
    }

    /// The credentials of this domain's cloud.
    pub(crate) fn cloud(&self, now: SystemTime) -> Result<NodeCredentials, rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let mut params = leaf_params(CLOUD_NAME)?;
        params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ServerAuth);
        let leaf = valid_for(params, now, ROOT_LIFETIME).signed_by(&key, &self.issuer)?;
        Ok(NodeCredentials {
            root: self.certificate.clone(),
            chain: vec![leaf.der().clone()],
            key: key.serialize_der().into(),
        })
    }

    /// A new invitation: an authority over edge names that can sign leaves only.
    pub(crate) fn invitation(&self, now: SystemTime) -> Result<Self, rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        let mut params = ca_params("invitation", &key);
        params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
        params.name_constraints = Some(NameConstraints {
            permitted_subtrees: vec![GeneralSubtree::DnsName(EDGE_DOMAIN.to_owned())],
            excluded_subtrees: Vec::new(),
        });
        let params = valid_for(params, now, INVITATION_CERTIFICATE_LIFETIME);
        let certificate = params.signed_by(&key, &self.issuer)?.der().clone();
        Ok(Self::restored_invitation(certificate, key))
    }

    /// An invitation that came in a join token.
    pub(crate) fn restored_invitation(certificate: CertificateDer<'static>, key: KeyPair) -> Self {
        let issuer = Issuer::new(ca_params("invitation", &key), key);
        Self {
            certificate,
            issuer,
        }
    }

    /// The credentials of an edge that joins `root`'s domain with this invitation.
    pub(crate) fn edge(
        &self,
        root: CertificateDer<'static>,
        now: SystemTime,
    ) -> Result<NodeCredentials, rcgen::Error> {
        let key = KeyPair::generate_for(&PKCS_ED25519)?;
        self.edge_named(&edge_name(&key.subject_public_key_info()), key, root, now)
    }

    /// As [`Authority::edge`], under a name of the caller's choice.
    pub(crate) fn edge_named(
        &self,
        name: &str,
        key: KeyPair,
        root: CertificateDer<'static>,
        now: SystemTime,
    ) -> Result<NodeCredentials, rcgen::Error> {
        let mut params = leaf_params(name)?;
        params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ClientAuth);
        params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ServerAuth);
        let leaf = valid_for(params, now, EDGE_LIFETIME).signed_by(&key, &self.issuer)?;
        Ok(NodeCredentials {
            root,
            chain: vec![leaf.der().clone(), self.certificate.clone()],
            key: key.serialize_der().into(),
        })
    }
}

/// Why a chain that TLS accepted is not an edge node's.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ChainError {
    /// The chain is not a leaf and its invitation.
    #[error("the peer's certificate chain is not that of an edge node")]
    Shape,
    /// The leaf's name is not the hash of its key.
    #[error("the peer's certificate carries a name that is not its key's")]
    Name,
}

/// What a cloud knows of an edge from its certificates.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct EdgePeer {
    pub(crate) name: String,
    pub(crate) leaf: blake3::Hash,
    pub(crate) invitation: blake3::Hash,
}

impl EdgePeer {
    /// Reads a chain that TLS has verified up to the root.
    pub(crate) fn of_chain(chain: &[CertificateDer<'_>]) -> Result<Self, ChainError> {
        let [leaf, invitation] = chain else {
            return Err(ChainError::Shape);
        };
        Ok(Self {
            name: edge_name_of(leaf)?,
            leaf: blake3::hash(leaf),
            invitation: blake3::hash(invitation),
        })
    }
}

/// The name of the edge whose leaf this is.
///
/// Names are hashes of keys, so an edge cannot take another's.
pub(crate) fn edge_name_of(leaf: &CertificateDer<'_>) -> Result<String, ChainError> {
    let parsed = ParsedCertificate::try_from(leaf).map_err(|_| ChainError::Shape)?;
    let name = edge_name(parsed.subject_public_key_info().as_ref());
    let server_name = ServerName::try_from(name.as_str()).map_err(|_| ChainError::Name)?;
    verify_server_name(&parsed, &server_name).map_err(|_| ChainError::Name)?;
    Ok(name)
}

/// Hexadecimal digits of a key's hash in an edge's name.
const HASH_LEN: usize = 16;

fn edge_name(public_key_info: &[u8]) -> String {
    let hash = blake3::hash(public_key_info).to_hex();
    format!("{}.{EDGE_DOMAIN}", &hash[..HASH_LEN])
}

/// Whether an edge may be called so.
pub(crate) fn is_edge_name(name: &str) -> bool {
    let hash = name.strip_suffix(EDGE_DOMAIN);
    let hash = hash.and_then(|rest| rest.strip_suffix('.'));
    let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
    hash.is_some_and(|hash| hash.len() == HASH_LEN && hash.bytes().all(is_digit))
}

fn leaf_params(name: &str) -> Result<CertificateParams, rcgen::Error> {
    let mut params = CertificateParams::new([name.to_owned()])?;
    params.distinguished_name = common_name(name.to_owned());
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.use_authority_key_identifier_extension = true;
    Ok(params)
}

/// The name of an authority contains its key's hash: two domains never look alike, and the
/// parameters can be rebuilt from the key alone.
fn ca_params(kind: &str, key: &impl SigningKey) -> CertificateParams {
    let mut params = CertificateParams::default();
    let hash = blake3::hash(&key.subject_public_key_info()).to_hex();
    params.distinguished_name = common_name(format!("edgeprompt {kind} {}", &hash[..16]));
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params
}

fn common_name(name: String) -> DistinguishedName {
    let mut distinguished_name = DistinguishedName::new();
    distinguished_name.push(DnType::CommonName, name);
    distinguished_name
}

fn valid_for(
    mut params: CertificateParams,
    now: SystemTime,
    lifetime: Duration,
) -> CertificateParams {
    params.not_before = (now - CLOCK_SKEW_MAX).into();
    params.not_after = (now + lifetime).into();
    params
}
