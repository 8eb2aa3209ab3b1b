//! TLS of links: version 1.3, both sides authenticated, no resumption. Who is let in beyond that
//! is the enrolment registry's to say.

use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, RootCertStore, ServerConfig,
    SignatureScheme,
};

use crate::certificates::{NodeCredentials, edge_name_of};

/// Why credentials make no TLS configuration.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// The library refused the certificates or the key.
    #[error("the certificates or the key are unusable")]
    Rustls(#[from] rustls::Error),
    /// The root is no anchor to verify peers by.
    #[error("the root certificate is unusable")]
    Verifier(#[from] rustls::server::VerifierBuilderError),
    /// The crypto provider lacks what QUIC needs; the one compiled in does not.
    #[error("the crypto provider lacks QUIC's initial cipher suite")]
    CipherSuite(#[from] quinn::crypto::rustls::NoInitialCipherSuite),
}

/// How certificates stand at a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Validity {
    /// They are accepted.
    Valid,
    /// One of them is of a later time.
    NotYet,
    /// The time of one of them is over.
    Expired,
    /// They would not be accepted at any time.
    Unusable(String),
}

impl From<TlsError> for Validity {
    fn from(error: TlsError) -> Self {
        use rustls::CertificateError as Problem;
        match error {
            TlsError::Rustls(rustls::Error::InvalidCertificate(
                Problem::Expired | Problem::ExpiredContext { .. },
            )) => Self::Expired,
            TlsError::Rustls(rustls::Error::InvalidCertificate(
                Problem::NotValidYet | Problem::NotValidYetContext { .. },
            )) => Self::NotYet,
            TlsError::Rustls(error) => Self::Unusable(error.to_string()),
            TlsError::Verifier(_) | TlsError::CipherSuite(_) => Self::Unusable(error.to_string()),
        }
    }
}

/// What a node that accepts links shows and demands.
pub(crate) fn server_crypto(
    credentials: &NodeCredentials,
    alpn: &[u8],
) -> Result<QuicServerConfig, TlsError> {
    let mut config = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(client_verifier(&credentials.root)?)
        .with_single_cert(
            credentials.chain.clone(),
            credentials.key.clone_key().into(),
        )?;
    config.alpn_protocols = vec![alpn.to_vec()];
    // A resumed session would skip the look at the peer's certificate.
    config.session_storage = Arc::new(NoServerSessionStorage {});
    config.send_tls13_tickets = 0;
    Ok(QuicServerConfig::try_from(config)?)
}

/// What a node that makes links shows and demands.
pub(crate) fn client_crypto(
    credentials: &NodeCredentials,
    alpn: &[u8],
) -> Result<QuicClientConfig, TlsError> {
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .with_root_certificates(roots(&credentials.root)?)
        .with_client_auth_cert(
            credentials.chain.clone(),
            credentials.key.clone_key().into(),
        )?;
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(QuicClientConfig::try_from(config)?)
}

/// What an edge that makes links to its neighbours shows and demands: any edge of its trust domain
/// will do, for an edge knows where its neighbours are and not what their keys are.
pub(crate) fn neighbour_crypto(
    credentials: &NodeCredentials,
    alpn: &[u8],
) -> Result<QuicClientConfig, TlsError> {
    let roots = Arc::new(roots(&credentials.root)?);
    let chain = WebPkiServerVerifier::builder_with_provider(roots, provider()).build()?;
    let mut config = ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&TLS13])?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(AnyEdge { chain }))
        .with_client_auth_cert(
            credentials.chain.clone(),
            credentials.key.clone_key().into(),
        )?;
    config.alpn_protocols = vec![alpn.to_vec()];
    config.resumption = Resumption::disabled();
    Ok(QuicClientConfig::try_from(config)?)
}

/// Accepts whoever shows an edge's certificate: a chain up to the root, for use as a server, whose
/// name is the hash of its own key. A cloud's certificate has no such name.
#[derive(Debug)]
struct AnyEdge {
    chain: Arc<WebPkiServerVerifier>,
}

impl ServerCertVerifier for AnyEdge {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _dialled: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let not_an_edge = rustls::Error::InvalidCertificate(CertificateError::NotValidForName);
        let name = edge_name_of(end_entity).map_err(|_| not_an_edge.clone())?;
        let name = ServerName::try_from(name).map_err(|_| not_an_edge)?;
        self.chain
            .verify_server_cert(end_entity, intermediates, &name, ocsp_response, now)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain
            .verify_tls12_signature(message, certificate, signature)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chain
            .verify_tls13_signature(message, certificate, signature)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

/// Checks an edge's chain as a cloud would.
pub(crate) fn verify_edge_chain(
    credentials: &NodeCredentials,
    at: UnixTime,
) -> Result<(), TlsError> {
    let Some((leaf, intermediates)) = credentials.chain.split_first() else {
        return Err(rustls::Error::NoCertificatesPresented.into());
    };
    let verifier = client_verifier(&credentials.root)?;
    verifier.verify_client_cert(leaf, intermediates, at)?;
    Ok(())
}

fn client_verifier(
    root: &CertificateDer<'static>,
) -> Result<Arc<dyn ClientCertVerifier>, TlsError> {
    let roots = Arc::new(roots(root)?);
    Ok(WebPkiClientVerifier::builder_with_provider(roots, provider()).build()?)
}

fn roots(root: &CertificateDer<'static>) -> Result<RootCertStore, rustls::Error> {
    let mut roots = RootCertStore::empty();
    roots.add(root.clone())?;
    Ok(roots)
}

pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
