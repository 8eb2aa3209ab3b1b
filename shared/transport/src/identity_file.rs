//! Identities on disk: files only their owner reads, PEM blocks in them, writes that happen whole
//! or not at all. What the blocks mean is the identities' business.

use std::fs::{DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivatePkcs8KeyDer};

/// Largest file read back: the enrolment registry with [`INVITATIONS_MAX`](crate::INVITATIONS_MAX)
/// entries of under 300 bytes.
const IDENTITY_FILE_BYTES_MAX: u64 = 4 << 20;

/// Characters of a PEM line.
const PEM_LINE_LEN: usize = 64;

/// Why an identity could not be made, kept or read.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// There is one already, and overwriting it would cut off every node that trusts it.
    #[error("{} holds an identity already: use it, or choose another directory", .path.display())]
    Exists {
        /// The file in the way.
        path: PathBuf,
    },
    /// There is none.
    #[error("{} holds no identity: run `cloud-node init` or `edge-node join` first", .path.display())]
    Missing {
        /// The file looked for.
        path: PathBuf,
    },
    /// The file is not what this crate wrote.
    #[error("{} is damaged: {detail}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        detail: &'static str,
    },
    /// The file system refused.
    #[error("{} cannot be read or written", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A key or certificate could not be made.
    #[error("a key or certificate could not be made")]
    Certificate(#[from] rcgen::Error),
    /// Too many invitations are open.
    #[error("{count} invitations are in use: that is the most a cloud keeps")]
    TooManyInvitations {
        /// Invitations kept.
        count: usize,
    },
}

/// Creates the directory of an identity, for its owner alone, if there is none.
pub(crate) fn create_dir(dir: &Path) -> Result<(), IdentityError> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir).map_err(|source| io_error(dir, source))
}

/// Writes a file that must not exist yet.
pub(crate) fn write_new(path: &Path, content: &[u8]) -> Result<(), IdentityError> {
    write_private(OpenOptions::new().create_new(true), path, content).map_err(|source| match source
        .kind()
    {
        io::ErrorKind::AlreadyExists => IdentityError::Exists {
            path: path.to_owned(),
        },
        _ => io_error(path, source),
    })
}

/// Replaces a file: a reader sees the old content or the new, also after a crash.
pub(crate) fn replace(path: &Path, content: &[u8]) -> Result<(), IdentityError> {
    let temporary = path.with_extension("new");
    write_private(
        OpenOptions::new().create(true).truncate(true),
        &temporary,
        content,
    )
    .and_then(|()| std::fs::rename(&temporary, path))
    .map_err(|source| io_error(path, source))
}

/// Reads a file of bounded size.
pub(crate) fn read(path: &Path) -> Result<Vec<u8>, IdentityError> {
    let file = File::open(path).map_err(|source| match source.kind() {
        io::ErrorKind::NotFound => IdentityError::Missing {
            path: path.to_owned(),
        },
        _ => io_error(path, source),
    })?;
    let mut content = Vec::new();
    let limited = &mut file.take(IDENTITY_FILE_BYTES_MAX + 1);
    let read = limited
        .read_to_end(&mut content)
        .map_err(|source| io_error(path, source))?;
    if read as u64 > IDENTITY_FILE_BYTES_MAX {
        return Err(damaged(path, "it is too large"));
    }
    Ok(content)
}

/// The certificates and keys of a PEM file, each kind in order.
pub(crate) struct PemBlocks {
    pub(crate) certificates: Vec<CertificateDer<'static>>,
    pub(crate) keys: Vec<PrivatePkcs8KeyDer<'static>>,
}

impl PemBlocks {
    pub(crate) fn read(path: &Path) -> Result<Self, IdentityError> {
        let content = read(path)?;
        let not_pem = |_| damaged(path, "it is not PEM");
        let certificates = CertificateDer::pem_slice_iter(&content).collect::<Result<_, _>>();
        let keys = PrivatePkcs8KeyDer::pem_slice_iter(&content).collect::<Result<_, _>>();
        Ok(Self {
            certificates: certificates.map_err(not_pem)?,
            keys: keys.map_err(not_pem)?,
        })
    }

    /// The file's text; whoever holds it holds the keys.
    pub(crate) fn to_pem(certificates: &[CertificateDer<'_>], keys: &[&[u8]]) -> String {
        let certificates = certificates.iter().map(|der| pem_block("CERTIFICATE", der));
        let keys = keys.iter().map(|der| pem_block("PRIVATE KEY", der));
        certificates.chain(keys).collect()
    }
}

pub(crate) fn damaged(path: &Path, detail: &'static str) -> IdentityError {
    IdentityError::Damaged {
        path: path.to_owned(),
        detail,
    }
}

pub(crate) fn io_error(path: &Path, source: io::Error) -> IdentityError {
    IdentityError::Io {
        path: path.to_owned(),
        source,
    }
}

fn write_private(options: &mut OpenOptions, path: &Path, content: &[u8]) -> io::Result<()> {
    options.write(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(options, 0o600);
    let mut file = options.open(path)?;
    file.write_all(content)?;
    file.sync_all()
}

fn pem_block(label: &str, der: &[u8]) -> String {
    let encoded = STANDARD.encode(der);
    let mut block = format!("-----BEGIN {label}-----\n");
    let mut rest = encoded.as_str();
    while !rest.is_empty() {
        let (line, after) = rest.split_at(rest.len().min(PEM_LINE_LEN));
        block.extend([line, "\n"]);
        rest = after;
    }
    block.push_str(&format!("-----END {label}-----\n"));
    block
}
