//! TLS for a TCP listener whose clients are programs and not nodes, such as an HTTP server's: a
//! certificate from files, version 1.3, and no certificate of the client.

use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::version::TLS13;
use tokio::io::{AsyncRead, AsyncWrite};
pub use tokio_rustls::server::TlsStream;

use crate::tls::provider;

/// Largest file of certificates or keys: the longest chains have some ten thousand bytes.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// The protocol that clients may ask for by name.
const HTTP: &[u8] = b"http/1.1";

/// Why files make no TLS.
#[derive(Debug, thiserror::Error)]
pub enum TlsFileError {
    /// The file cannot be read.
    #[error("{} cannot be read", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file holds something else.
    #[error("{} {problem}: it must be a PEM file", .path.display())]
    Content {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: &'static str,
    },
    /// The files do not belong together, or what they hold is refused.
    #[error("{} and {} cannot be used together: {detail}", .certificate.display(), .key.display())]
    Unusable {
        /// The file of the certificate.
        certificate: PathBuf,
        /// The file of the key.
        key: PathBuf,
        /// What the TLS library says.
        detail: String,
    },
}

/// Accepts TLS on connections. Clones share the certificate.
#[derive(Clone)]
pub struct TlsAcceptor(tokio_rustls::TlsAcceptor);

impl TlsAcceptor {
    /// Reads a certificate chain, the server's own first, and its private key.
    ///
    /// # Errors
    /// [`TlsFileError`], which names the file.
    pub fn from_files(certificate: &Path, key: &Path) -> Result<Self, TlsFileError> {
        let content = |path: &Path, problem| TlsFileError::Content {
            path: path.to_owned(),
            problem,
        };
        let pem = read(certificate)?;
        let chain: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(&pem).collect();
        let chain = chain.map_err(|_| content(certificate, "is damaged"))?;
        if chain.is_empty() {
            return Err(content(certificate, "holds no certificate"));
        }
        let private = PrivateKeyDer::from_pem_slice(&read(key)?)
            .map_err(|_| content(key, "holds no private key"))?;
        let unusable = |error: rustls::Error| TlsFileError::Unusable {
            certificate: certificate.to_owned(),
            key: key.to_owned(),
            detail: error.to_string(),
        };
        let mut config = ServerConfig::builder_with_provider(provider())
            .with_protocol_versions(&[&TLS13])
            .and_then(|config| {
                config
                    .with_no_client_auth()
                    .with_single_cert(chain, private)
            })
            .map_err(unusable)?;
        config.alpn_protocols = vec![HTTP.to_vec()];
        Ok(Self(Arc::new(config).into()))
    }

    /// Makes `stream` one of TLS; how long that may take is the caller's to limit.
    ///
    /// # Errors
    /// What the client did, or what it did not accept.
    pub async fn accept<S>(&self, stream: S) -> io::Result<TlsStream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        self.0.accept(stream).await
    }
}

fn read(path: &Path) -> Result<Vec<u8>, TlsFileError> {
    let mut content = Vec::new();
    let file = File::open(path);
    let read = file.and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_end(&mut content));
    read.map_err(|source| TlsFileError::Io {
        path: path.to_owned(),
        source,
    })?;
    if content.len() as u64 > FILE_BYTES_MAX {
        return Err(TlsFileError::Content {
            path: path.to_owned(),
            problem: "is too large",
        });
    }
    Ok(content)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A certificate and its key in files of their own.
    fn made(dir: &Path, name: &str) -> (PathBuf, PathBuf) {
        let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
        let path = |end: &str| dir.join(format!("{name}.{end}"));
        std::fs::write(path("pem"), made.cert.pem()).unwrap();
        std::fs::write(path("key"), made.signing_key.serialize_pem()).unwrap();
        (path("pem"), path("key"))
    }

    #[test]
    fn files_that_cannot_be_used_are_named() {
        let dir = tempfile::tempdir().unwrap();
        let (certificate, key) = made(dir.path(), "one.internal");
        let (_, other_key) = made(dir.path(), "other.internal");
        assert!(TlsAcceptor::from_files(&certificate, &key).is_ok());
        let refused = |certificate: &Path, key: &Path| {
            let refused = TlsAcceptor::from_files(certificate, key).err().unwrap();
            refused.to_string()
        };
        let absent = dir.path().join("absent");
        assert!(refused(&absent, &key).contains("absent cannot be read"));
        assert!(refused(&key, &key).contains("one.internal.key holds no certificate"));
        assert!(refused(&certificate, &certificate).contains("pem holds no private key"));
        let two = refused(&certificate, &other_key);
        assert!(
            two.contains("one.internal.pem") && two.contains("other.internal.key"),
            "{two}"
        );
    }
}
