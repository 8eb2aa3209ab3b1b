//! From an address and an identity to a cloud, and the exit code of what goes wrong.

use std::path::{Path, PathBuf};

use anyhow::Context;
use clap::Args;
use edgeprompt_launch::{Exit, Failure, identity_dir};
use edgeprompt_protocol::Refusal;
use edgeprompt_transport::{ConnectError, EdgeIdentity, FetchError, LinkConfig};

use crate::cloud_prompt::{CloudPromptError, LossReason};
use crate::uplink::Uplink;

/// What to do where a cloud cannot be asked without an identity.
pub const JOIN_FIRST: &str = "run `edge-node join TOKEN` first";

/// What to do about an identity in `dir` that cannot be used: one that is there is in the way of another.
pub fn join_advice(dir: &Path, where_none_is: &'static str) -> &'static str {
    match EdgeIdentity::file(dir).exists() {
        true => "`edge-node join TOKEN --replace` puts this identity aside and saves another",
        false => where_none_is,
    }
}

/// The cloud that an edge asks, and who the edge is there.
#[derive(Args)]
pub struct CloudArgs {
    /// Address of the cloud node
    #[arg(
        id = "cloud",
        long,
        value_name = "ADDR",
        default_value = "127.0.0.1:4433",
        env = "EDGE_CLOUD"
    )]
    pub addr: String,
    /// Folder of this edge's identity [default: the XDG configuration folder]
    #[arg(long, value_name = "DIR", env = "EDGE_IDENTITY")]
    pub identity: Option<PathBuf>,
}

impl CloudArgs {
    /// The identity in the folder.
    ///
    /// # Errors
    /// [`Failure`] with `advice` if there is none.
    pub fn load_identity(&self, advice: &'static str) -> Result<EdgeIdentity, Failure> {
        load_identity(self.identity.as_ref(), advice)
    }
}

/// The identity in a folder, the usual one if none is given.
///
/// # Errors
/// [`Failure`] with `advice` if there is none.
pub fn load_identity(dir: Option<&PathBuf>, advice: &'static str) -> Result<EdgeIdentity, Failure> {
    let dir = identity_dir(dir, "edge")?;
    EdgeIdentity::load(&dir)
        .with_context(|| join_advice(&dir, advice))
        .map_err(Failure::of(Exit::Usage))
}

/// The way to the cloud at `host`, which is `NAME:PORT` or an address; nothing is dialled yet.
///
/// # Errors
/// [`Failure`] if `host` has no address or this machine no socket.
pub async fn uplink(host: &str, identity: &EdgeIdentity) -> Result<Uplink, Failure> {
    let addrs = tokio::net::lookup_host(host)
        .await
        .with_context(|| format!("{host} is not an address like 127.0.0.1:4433"))
        .map_err(Failure::of(Exit::Usage))?;
    let addrs: Vec<_> = addrs.collect();
    let uplink = Uplink::new(&addrs, identity, LinkConfig::default());
    uplink.map_err(Failure::of(Exit::Usage))
}

/// The exit code of layers that did not come, for who will not compute them here.
pub const fn loss_exit(reason: LossReason) -> Exit {
    match reason {
        LossReason::Unreachable | LossReason::LinkLost | LossReason::Stalled | LossReason::Slow => {
            Exit::PeerUnreachable
        }
        LossReason::OtherModel => Exit::ModelMismatch,
        LossReason::Refused | LossReason::Unreadable => Exit::Usage,
        LossReason::Corrupt => Exit::VerificationFailed,
    }
}

/// A cloud prompt that did not come, with its exit code.
pub fn cloud_failure(error: CloudPromptError) -> Failure {
    let exit = match &error {
        CloudPromptError::Connect(error) => connect_exit(error),
        CloudPromptError::Fetch(error) => fetch_exit(error),
        CloudPromptError::Manifest(_) => Exit::VerificationFailed,
    };
    Failure {
        exit,
        error: error.into(),
    }
}

const fn connect_exit(error: &ConnectError) -> Exit {
    match error {
        ConnectError::Unreachable { .. }
        | ConnectError::Address { .. }
        | ConnectError::Version { .. }
        | ConnectError::Full
        | ConnectError::TooManyLinks
        | ConnectError::Itself { .. }
        | ConnectError::Lost(_) => Exit::PeerUnreachable,
        ConnectError::CloudNotTrusted { .. }
        | ConnectError::EdgeNotTrusted { .. }
        | ConnectError::NotNamed { .. }
        | ConnectError::TokenAlreadyUsed
        | ConnectError::TokenExpired
        | ConnectError::TokenUnknown => Exit::VerificationFailed,
    }
}

const fn fetch_exit(error: &FetchError) -> Exit {
    match error {
        FetchError::Refused(Refusal::ModelMismatch { .. }) | FetchError::DigestMismatch { .. } => {
            Exit::ModelMismatch
        }
        FetchError::Refused(Refusal::Busy { .. } | Refusal::Internal)
        | FetchError::NoAnswer
        | FetchError::TimedOut
        | FetchError::TooMany
        | FetchError::Lost(_) => Exit::PeerUnreachable,
        FetchError::Refused(_)
        | FetchError::TooLarge { .. }
        | FetchError::Encode(_)
        | FetchError::IdInUse { .. } => Exit::Usage,
        FetchError::Manifest(_)
        | FetchError::Decode(_)
        | FetchError::Frame(_)
        | FetchError::WrongKind => Exit::VerificationFailed,
    }
}
