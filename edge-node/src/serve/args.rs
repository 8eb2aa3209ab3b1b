//! Arguments of `edge-node serve`.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use edgeprompt_launch::{ConfigArgs, Exit, Failure, ModelArgs, identity_dir};
use edgeprompt_protocol::PromptName;
use edgeprompt_transport::{EdgeIdentity, TlsAcceptor};

use crate::disk_cache::{self, CacheArgs};
use crate::link::CloudArgs;
use crate::remembered::{self, MemoryArgs};
use crate::serve::access::Callers;
use crate::serve::listening::Security;
use crate::serve::neighbours::NeighbourArgs;
use crate::serve::origins::{AllowedOrigin, Origins};
use crate::serve::prompting::Seam;
use crate::serve::server::CapacityConfig;
use crate::serve::sessions::args::HandoverArgs;
use crate::serve::workers::WorkersArgs;
use crate::wire_codec::WireArgs;

/// Arguments of `edge-node serve`.
#[derive(Args)]
pub struct ServeArgs {
    /// Handled before the arguments are.
    #[command(flatten)]
    pub(crate) _config: ConfigArgs,
    #[command(flatten)]
    pub(crate) model: ModelArgs,
    #[command(flatten)]
    pub(crate) cloud: CloudArgs,
    /// Use no cloud: compute cloud prompts here, as this edge remembers them
    #[arg(long, env = "EDGE_LOCAL")]
    pub(crate) local: bool,
    #[command(flatten)]
    pub(crate) memory: MemoryArgs,
    #[command(flatten)]
    pub(crate) cache: CacheArgs,
    #[command(flatten)]
    pub(crate) neighbours: NeighbourArgs,
    #[command(flatten)]
    pub(crate) handover: HandoverArgs,
    #[command(flatten)]
    pub(crate) workers: WorkersArgs,
    #[command(flatten)]
    pub(crate) wire: WireArgs,
    /// Ask the cloud every so many seconds what the names of cloud prompts mean now; 0 never asks
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 60,
        env = "EDGE_REVALIDATE_S"
    )]
    revalidate_s: u32,
    /// Cloud prompts to fetch at the start, so that fetching tells nothing about a user; the first
    /// is what requests build on unless they name another
    #[arg(
        long = "cloud-prompt",
        value_name = "NAME",
        num_args = 1..,
        value_delimiter = ',',
        env = "EDGE_CLOUD_PROMPT"
    )]
    pub(crate) cloud_prompts: Vec<PromptName>,
    /// Memory for the keys and values of cloud prompts, in MiB
    #[arg(
        long,
        value_name = "MIB",
        default_value_t = 1024,
        value_parser = clap::value_parser!(u32).range(1..),
        env = "EDGE_CLOUD_KV_MIB"
    )]
    pub(crate) cloud_kv_mib: u32,
    /// Address to listen on, TCP; others than loopback need --api-key-file
    #[arg(
        long,
        value_name = "HOST",
        default_value = "127.0.0.1",
        env = "EDGE_HOST"
    )]
    pub(crate) host: String,
    /// An origin whose pages may use this server from a browser, such as `https://example.org`, or `*` for
    /// all; may be given several times
    #[arg(
        long = "allowed-origin",
        visible_alias = "allowed-origins",
        value_name = "ORIGIN",
        value_delimiter = ',',
        env = "EDGE_ALLOWED_ORIGIN"
    )]
    allowed_origins: Vec<AllowedOrigin>,
    /// Port to listen on; 0 takes a free one
    #[arg(long, value_name = "PORT", default_value_t = 8000, env = "EDGE_PORT")]
    pub(crate) port: u16,
    /// Most sequences that compute at a time
    #[arg(
        long,
        value_name = "N",
        default_value = "64",
        env = "EDGE_MAX_NUM_SEQS"
    )]
    max_num_seqs: NonZeroUsize,
    /// Most tokens of one step; long prompts are computed in pieces of so many
    #[arg(
        long,
        value_name = "N",
        default_value = "512",
        env = "EDGE_MAX_NUM_BATCHED_TOKENS"
    )]
    pub(crate) max_num_batched_tokens: NonZeroUsize,
    /// Memory for the keys and values of private prompts, in MiB; taken at the start
    #[arg(
        long,
        value_name = "MIB",
        default_value_t = 512,
        value_parser = clap::value_parser!(u32).range(1..),
        env = "EDGE_KV_CACHE_MIB"
    )]
    kv_cache_mib: u32,
    /// Most tokens of one request, cloud prompt and answer included [default: the model's context]
    #[arg(long, value_name = "N", env = "EDGE_MAX_MODEL_LEN")]
    max_model_len: Option<NonZeroUsize>,
    /// File of the API keys that open this server, one on each line
    #[arg(long, value_name = "FILE", env = "EDGE_API_KEY_FILE")]
    api_key_file: Option<PathBuf>,
    /// File of more keys, of those who may list and move everybody's sessions, also those that other
    /// edges brought
    #[arg(
        long,
        value_name = "FILE",
        env = "EDGE_OPERATOR_KEY_FILE",
        requires = "api_key_file"
    )]
    operator_key_file: Option<PathBuf>,
    /// Speak TLS with this certificate, a PEM file: the server's own first, then those that signed it
    #[arg(long, value_name = "FILE", env = "EDGE_TLS_CERT")]
    tls_cert: Option<PathBuf>,
    /// The private key of --tls-cert, a PEM file
    #[arg(long, value_name = "FILE", env = "EDGE_TLS_KEY")]
    tls_key: Option<PathBuf>,
    /// Most requests of one key that are answered at a time, or of everybody without keys
    #[arg(
        long,
        value_name = "N",
        default_value = "256",
        env = "EDGE_MAX_CONCURRENCY_PER_KEY"
    )]
    max_concurrency_per_key: NonZeroUsize,
    /// Refuse a request whose private prompt would begin inside a token, rather than compute all of
    /// it here
    #[arg(long, env = "EDGE_STRICT_SEAM")]
    strict_seam: bool,
    /// The model's name for clients [default: the name of its folder or shape]
    #[arg(long, value_name = "NAME", env = "EDGE_SERVED_MODEL_NAME")]
    served_model_name: Option<String>,
}

impl ServeArgs {
    /// Who may use the server at `addr`.
    pub(crate) fn callers(&self, addr: SocketAddr) -> Result<Callers, Failure> {
        let place_count = self.max_concurrency_per_key.get();
        let callers = match &self.api_key_file {
            Some(file) => Callers::of_file(file, place_count)
                .with_context(|| format!("--api-key-file {}", file.display()))
                .map_err(Failure::of(Exit::Usage)),
            None if addr.ip().is_loopback() => Ok(Callers::anybody(place_count)),
            None => Err(Failure {
                exit: Exit::Usage,
                error: anyhow!(
                    "whoever reaches {} could use this server: give --api-key-file, or listen on 127.0.0.1",
                    addr.ip()
                ),
            }),
        }?;
        match &self.operator_key_file {
            Some(file) => callers
                .and_operators(file)
                .with_context(|| format!("--operator-key-file {}", file.display()))
                .map_err(Failure::of(Exit::Usage)),
            None => Ok(callers),
        }
    }

    /// Whose pages may use the server.
    pub(crate) fn origins(&self) -> Origins {
        let origins = Origins::new(self.allowed_origins.clone());
        if origins.are_all() && self.api_key_file.is_none() {
            tracing::warn!(
                "--allowed-origin '*' without --api-key-file: the pages of every site can use this server, in the browsers of those who reach it"
            );
        }
        origins
    }

    /// Between two looks at what the names of cloud prompts mean, if there are any.
    pub(crate) fn revalidation_period(&self) -> Option<Duration> {
        let seconds = u64::from(self.revalidate_s);
        (seconds > 0 && !self.local).then(|| Duration::from_secs(seconds))
    }

    /// How the bytes of the HTTP side are protected.
    pub(crate) fn security(&self) -> Result<Security, Failure> {
        match (&self.tls_cert, &self.tls_key) {
            (Some(certificate), Some(key)) => TlsAcceptor::from_files(certificate, key)
                .map(Security::Tls)
                .map_err(Failure::of(Exit::Usage)),
            (None, None) => Ok(Security::Clear),
            (Some(_), None) | (None, Some(_)) => Err(Failure {
                exit: Exit::Usage,
                error: anyhow!("--tls-cert and --tls-key belong together: give both or neither"),
            }),
        }
    }

    pub(crate) fn identity(&self) -> Result<EdgeIdentity, Failure> {
        self.cloud
            .load_identity("run `edge-node join TOKEN` first, or give --local")
    }

    pub(crate) const fn max_num_seqs(&self) -> NonZeroUsize {
        self.max_num_seqs
    }

    pub(crate) fn capacity(&self) -> CapacityConfig {
        CapacityConfig {
            kv_cache_bytes: mib(self.kv_cache_mib),
            max_num_seqs: self.max_num_seqs,
            max_model_len: self.max_model_len,
        }
    }

    pub(crate) const fn seam(&self) -> Seam {
        match self.strict_seam {
            true => Seam::Strict,
            false => Seam::ComputeHere,
        }
    }

    /// Where the model comes from, and what clients call it.
    pub(crate) fn root_and_name(&self) -> (String, String) {
        let shape = self.model.model_shape.map(|shape| shape.to_string());
        let (root, default) = match &self.model.model {
            Some(path) => {
                let name = path.canonicalize().unwrap_or_else(|_| path.clone());
                let name = name
                    .file_stem()
                    .map(|name| name.to_string_lossy().into_owned());
                (path.display().to_string(), name)
            }
            None => (shape.clone().unwrap_or_default(), shape),
        };
        let name = self.served_model_name.clone().or(default);
        (root, name.unwrap_or_else(|| "model".to_owned()))
    }
}

/// What flags of `serve` come to here that have no default of their own, and do not follow from the
/// model.
pub fn defaults() -> Vec<(&'static str, String)> {
    let folders = [
        ("identity", identity_dir(None, "edge").ok()),
        ("cache-dir", disk_cache::default_dir()),
        ("remembered", remembered::default_dir()),
    ];
    let shown = |(flag, dir): (_, Option<PathBuf>)| Some((flag, dir?.display().to_string()));
    folders.into_iter().filter_map(shown).collect()
}

pub(crate) fn mib(count: u32) -> u64 {
    u64::from(count) << 20
}
