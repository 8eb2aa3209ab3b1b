//! TLS of links: version 1.3, both sides authenticated, no resumption. Who is let in beyond that
//! is the enrolment registry's to say.

use std::sync::Arc;

use quinn::crypto::rustls::{QuicClientConfig, QuicServerConfig};
use rustls::client::Resumption;
use rustls::crypto::CryptoProvider;
use rustls::pki_types::{CertificateDer, UnixTime};
use rustls::server::danger::ClientCertVerifier;
use rustls::server::{NoServerSessionStorage, WebPkiClientVerifier};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore, ServerConfig};

use crate::certificates::NodeCredentials;

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

/// Checks an edge's chain as a cloud would.
pub(crate) fn verify_edge_chain(credentials: &NodeCredentials) -> Result<(), TlsError> {
    let Some((leaf, intermediates)) = credentials.chain.split_first() else {
        return Err(rustls::Error::NoCertificatesPresented.into());
    };
    let verifier = client_verifier(&credentials.root)?;
    verifier.verify_client_cert(leaf, intermediates, UnixTime::now())?;
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

fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::ring::default_provider())
}
