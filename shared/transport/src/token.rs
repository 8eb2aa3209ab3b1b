//! Join tokens: one word that carries an invitation from a cloud to the edge node that joins.
//!
//! A token is made and read without any node running. It holds a private key, so whoever reads it
//! first can join; until when, and that only one can, the cloud's enrolment registry decides.

use std::fmt;
use std::str::FromStr;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rcgen::KeyPair;
use rustls::pki_types::CertificateDer;

use crate::certificates::Authority;

/// What every token starts with: it tells people what the word is and programs its layout.
const PREFIX: &str = "epjoin1.";

/// Longest token read; those made here have about 1 300 characters.
const TOKEN_BYTES_MAX: usize = 8192;

const CHECKSUM_BYTES: usize = 8;

/// Why a word is not a join token.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParseTokenError {
    /// The word does not start as tokens do.
    #[error("a join token starts with `{PREFIX}`")]
    Prefix,
    /// Longer than any token.
    #[error("a join token of {bytes} bytes exceeds {TOKEN_BYTES_MAX}")]
    TooLong {
        /// Bytes of the word.
        bytes: usize,
    },
    /// Characters are missing, added or changed.
    #[error("the join token is incomplete or mistyped: copy it again as one word")]
    Damaged,
    /// The token is whole and what it holds is not an invitation.
    #[error("the join token holds no valid invitation: ask for a new one with `cloud-node invite`")]
    Invitation,
}

/// An invitation for one edge node. Printing it reveals it, debugging does not.
#[derive(Clone, PartialEq, Eq)]
pub struct JoinToken {
    root: CertificateDer<'static>,
    invitation: CertificateDer<'static>,
    key: Vec<u8>,
}

impl JoinToken {
    pub(crate) fn new(root: CertificateDer<'static>, invitation: &Authority) -> Self {
        let key = invitation.key_der().to_vec();
        Self {
            root,
            invitation: invitation.certificate.clone(),
            key,
        }
    }

    pub(crate) const fn root(&self) -> &CertificateDer<'static> {
        &self.root
    }

    /// The authority to sign one leaf with.
    pub(crate) fn authority(&self) -> Result<Authority, ParseTokenError> {
        let key = KeyPair::try_from(&self.key[..]).map_err(|_| ParseTokenError::Invitation)?;
        Ok(Authority::restored_invitation(self.invitation.clone(), key))
    }
}

impl fmt::Debug for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("JoinToken([redacted])")
    }
}

impl fmt::Display for JoinToken {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut bytes = Vec::new();
        for part in [&self.root[..], &self.invitation, &self.key] {
            let part_bytes = u16::try_from(part.len()).map_err(|_| fmt::Error)?;
            bytes.extend(part_bytes.to_le_bytes());
            bytes.extend(part);
        }
        bytes.extend(checksum(&bytes));
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }
}

impl FromStr for JoinToken {
    type Err = ParseTokenError;

    fn from_str(word: &str) -> Result<Self, ParseTokenError> {
        let word = word.trim();
        if word.len() > TOKEN_BYTES_MAX {
            return Err(ParseTokenError::TooLong { bytes: word.len() });
        }
        let encoded = word.strip_prefix(PREFIX).ok_or(ParseTokenError::Prefix)?;
        let bytes = URL_SAFE_NO_PAD
            .decode(encoded)
            .map_err(|_| ParseTokenError::Damaged)?;
        let (parts, sum) = bytes
            .split_last_chunk::<CHECKSUM_BYTES>()
            .ok_or(ParseTokenError::Damaged)?;
        if checksum(parts) != *sum {
            return Err(ParseTokenError::Damaged);
        }
        let (root, rest) = take_part(parts)?;
        let (invitation, rest) = take_part(rest)?;
        let (key, rest) = take_part(rest)?;
        if !rest.is_empty() {
            return Err(ParseTokenError::Damaged);
        }
        let owned = |der: &[u8]| CertificateDer::from(der.to_vec());
        let token = Self {
            root: owned(root),
            invitation: owned(invitation),
            key: key.to_vec(),
        };
        token.authority()?;
        Ok(token)
    }
}

fn take_part(bytes: &[u8]) -> Result<(&[u8], &[u8]), ParseTokenError> {
    let (length, rest) = bytes.split_first_chunk().ok_or(ParseTokenError::Damaged)?;
    let length = usize::from(u16::from_le_bytes(*length));
    rest.split_at_checked(length)
        .ok_or(ParseTokenError::Damaged)
}

/// Finds copying mistakes; it protects nothing against an attacker and need not.
fn checksum(bytes: &[u8]) -> [u8; CHECKSUM_BYTES] {
    let hash = blake3::hash(bytes);
    let mut sum = [0; CHECKSUM_BYTES];
    sum.copy_from_slice(&hash.as_bytes()[..CHECKSUM_BYTES]);
    sum
}
