//! TLS to servers that are no nodes, such as the HTTP servers that a benchmark measures: version
//! 1.3, the server's certificate verified, none of the client's.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;

use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::version::TLS13;
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
pub use tokio_rustls::client::TlsStream as TlsClientStream;

use crate::tls::provider;

/// Largest file of certificates.
const FILE_BYTES_MAX: u64 = 4 << 20;

/// Whose word a server's certificate is taken on.
#[derive(Clone, Copy, Debug)]
pub enum Trust<'a> {
    /// The authorities that Mozilla's browser trusts.
    Browsers,
    /// Those in a PEM file, and no other.
    File(&'a Path),
}

/// Speaks TLS on connections. Clones share what they trust.
#[derive(Clone)]
pub struct TlsConnector(tokio_rustls::TlsConnector);

impl TlsConnector {
    /// A connector that trusts as told.
    ///
    /// # Errors
    /// If the file cannot be read or holds no certificate, with its name.
    pub fn new(trust: Trust<'_>) -> io::Result<Self> {
        let mut roots = RootCertStore::empty();
        match trust {
            Trust::Browsers => roots.extend(webpki_roots::TLS_SERVER_ROOTS.iter().cloned()),
            Trust::File(path) => add_file(&mut roots, path)
                .map_err(|e| io::Error::new(e.kind(), format!("{}: {e}", path.display())))?,
        }
        let mut config = ClientConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .map_err(io::Error::other)?
            .with_root_certificates(roots)
            .with_no_client_auth();
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        Ok(Self(Arc::new(config).into()))
    }

    /// Makes `stream`, which leads to `host`, one of TLS.
    ///
    /// # Errors
    /// If `host` is no name, or what the server did that is not accepted.
    pub async fn connect<S>(&self, host: &str, stream: S) -> io::Result<TlsClientStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        // An IPv6 address has brackets in a URL.
        let name = host.trim_start_matches('[').trim_end_matches(']');
        let name = ServerName::try_from(name.to_owned());
        let name = name.map_err(|e| io::Error::new(io::ErrorKind::InvalidInput, e))?;
        self.0.connect(name, stream).await
    }
}

fn add_file(roots: &mut RootCertStore, path: &Path) -> io::Result<()> {
    let invalid = |problem| io::Error::new(io::ErrorKind::InvalidData, problem);
    let mut pem = Vec::new();
    File::open(path)?
        .take(FILE_BYTES_MAX)
        .read_to_end(&mut pem)?;
    for certificate in CertificateDer::pem_slice_iter(&pem) {
        let certificate = certificate.map_err(|_| invalid("the PEM file is damaged"))?;
        let added = roots.add(certificate);
        added.map_err(|_| invalid("a certificate is unusable"))?;
    }
    match roots.is_empty() {
        true => Err(invalid("there is no certificate in PEM form")),
        false => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;
    use crate::TlsAcceptor;

    /// What a client that trusts `trust` hears from a server with a certificate for `localhost`.
    async fn heard(dir: &Path, trust: Trust<'_>, host: &str) -> io::Result<String> {
        let acceptor = TlsAcceptor::from_files(&dir.join("cert.pem"), &dir.join("key.pem"));
        let acceptor = acceptor.unwrap();
        let (ours, theirs) = tokio::io::duplex(16 << 10);
        let server = tokio::spawn(async move {
            let mut stream = acceptor.accept(theirs).await?;
            stream.write_all(b"hello").await?;
            stream.shutdown().await
        });
        let mut stream = TlsConnector::new(trust)?.connect(host, ours).await?;
        let mut text = String::new();
        stream.read_to_string(&mut text).await?;
        server.await.unwrap()?;
        Ok(text)
    }

    #[tokio::test]
    async fn only_servers_that_are_vouched_for_are_spoken_to() {
        let dir = tempfile::tempdir().unwrap();
        let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
        let (file, key) = (dir.path().join("cert.pem"), dir.path().join("key.pem"));
        std::fs::write(&file, made.cert.pem()).unwrap();
        std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
        let trusted = heard(dir.path(), Trust::File(&file), "localhost").await;
        assert_eq!(trusted.unwrap(), "hello");
        let refused = heard(dir.path(), Trust::File(&file), "other.example").await;
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::InvalidData);
        let refused = heard(dir.path(), Trust::Browsers, "localhost").await;
        assert_eq!(refused.unwrap_err().kind(), io::ErrorKind::InvalidData);
        let wrong = TlsConnector::new(Trust::File(&key)).err().unwrap();
        assert!(wrong.to_string().contains("key.pem"), "{wrong}");
    }
}
