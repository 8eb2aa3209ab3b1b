//! `edge-node doctor`: looks at everything that an answer with a cloud needs, one thing after the
//! other, and says what to put right. It sends a cloud what `ask` and `prompts` send, and nothing else.

mod findings;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError};
use std::time::{Duration, Instant, SystemTime};

use anyhow::anyhow;
use clap::Args;
use edgeprompt_kv::KvDtype;
use edgeprompt_launch::{
    ConfigFileArgs, Exit, Failure, ModelArgs, OpenModelError, identity_dir, say,
};
use edgeprompt_model::Model;
use edgeprompt_protocol::{PromptName, PromptRef};
use edgeprompt_segment_store::SegmentFolder;
use edgeprompt_segment_store::files::create_dir;
use edgeprompt_transport::{CloudLink, ConnectError, EdgeIdentity};
use serde_json::{Value, json};
use tokio::runtime::Runtime;

use crate::cloud_prompt::{Arrival, CloudPrompt, CloudPromptError, Loss, LossReason};
use crate::disk_cache::CacheArgs;
use crate::link::{self, CloudArgs};
use crate::prefill_speed::PrefillSpeed;
use crate::remembered::MemoryArgs;
use crate::serve::neighbours::NeighbourArgs;
use crate::uplink::Uplink;

use findings::{Check, Fetched, Finding, worst};

/// How far ahead certificates are looked at.
const MONTH: Duration = Duration::from_hours(24 * 30);

/// Free space below which the folder of what is remembered is about to be full.
const REMEMBERED_FREE_BYTES: u64 = 1 << 30;

/// How long a prompt may take to come.
const FETCH_PATIENCE: Duration = Duration::from_secs(60);

/// Arguments of `edge-node doctor`.
#[derive(Args)]
pub struct DoctorArgs {
    #[command(flatten)]
    config: ConfigFileArgs,
    #[command(flatten)]
    cloud: CloudArgs,
    #[command(flatten)]
    memory: MemoryArgs,
    #[command(flatten)]
    cache: CacheArgs,
    #[command(flatten)]
    neighbours: NeighbourArgs,
    /// The cloud prompt to fetch and measure with [default: the first that the cloud lists]
    #[arg(long, value_name = "NAME", num_args = 1.., value_delimiter = ',')]
    cloud_prompt: Vec<PromptName>,
    #[command(flatten)]
    model: ModelArgs,
    /// Report as one JSON object
    #[arg(long)]
    json: bool,
}

/// Looks, and prints what was found.
///
/// # Errors
/// [`Failure`] with the exit code of the worst that was found.
pub fn run(args: &DoctorArgs) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .map_err(Failure::of(Exit::Usage))?;
    let doctor = Doctor {
        args,
        runtime: &runtime,
    };
    let found = doctor.look()?;
    say(report(args, &found))?;
    let Some(exit) = worst(&found) else {
        return Ok(());
    };
    let error = anyhow!("something has to be put right: see the lines with FAIL");
    Err(Failure { exit, error })
}

fn report(args: &DoctorArgs, found: &[Finding]) -> String {
    if args.json {
        let checks: Vec<Value> = found.iter().map(Finding::json).collect();
        let page = json!({ "ok": worst(found).is_none(), "checks": checks });
        return format!("{page:#}\n");
    }
    found.iter().map(|finding| format!("{finding}\n")).collect()
}

struct Doctor<'a> {
    args: &'a DoctorArgs,
    runtime: &'a Runtime,
}

impl Doctor<'_> {
    fn look(&self) -> Result<Vec<Finding>, Failure> {
        let mut found = Vec::new();
        let dir = identity_dir(self.args.cloud.identity.as_ref(), "edge")?;
        let identity = look_at_identity(&dir, &mut found);
        found.push(findings::buffers(limit("rmem_max"), limit("wmem_max")));
        found.extend(self.look_at_folders());
        let model = self.look_at_model(&mut found);
        if let Some(identity) = identity {
            self.look_at_cloud(&identity, model.as_ref(), &mut found);
            found.extend(self.look_at_neighbours(&identity)?);
        }
        Ok(found)
    }

    /// The folders of what is remembered and of keys and values, where there are to be any.
    fn look_at_folders(&self) -> impl Iterator<Item = Finding> {
        let remembered = self.args.memory.folder().map(|path| Folder {
            path,
            bytes_wanted: REMEMBERED_FREE_BYTES,
            advice: "give --remembered DIR, or --no-remembered",
        });
        let kept = self.args.cache.folder().map(|(folder, bytes_max)| Folder {
            path: folder.root().to_owned(),
            bytes_wanted: bytes_max.saturating_sub(bytes_of(&folder)),
            advice: "give --cache-dir DIR, or --no-disk-cache",
        });
        remembered.into_iter().chain(kept).map(look_at_folder)
    }

    /// Whether the neighbours let this edge in. One that does not is a pity and no failure: there is
    /// the cloud.
    fn look_at_neighbours(&self, identity: &EdgeIdentity) -> Result<Vec<Finding>, Failure> {
        let opening = self.args.neighbours.open(identity);
        let neighbours = match self.runtime.block_on(opening) {
            Ok(neighbours) => neighbours,
            Err(failure) => {
                let advice = "give --peer HOST:PORT, and look at the name service";
                return Ok(vec![Finding::fail(
                    Check::Neighbour,
                    failure.message(),
                    advice,
                )]);
            }
        };
        let found = neighbours.hosts().map(|(host, uplink)| {
            let linked = self.runtime.block_on(uplink.link());
            self.runtime.block_on(uplink.clone().close(Duration::ZERO));
            match linked {
                Ok(_) => Finding::ok(Check::Neighbour, format!("{host} has admitted this edge")),
                Err(error) => {
                    let advice = "look at its --peer-listen address, at firewalls, and whether both edges joined the same cloud";
                    let said = Failure::of(Exit::PeerUnreachable)(error).message();
                    Finding::warn(Check::Neighbour, format!("{host}: {said}"), advice)
                }
            }
        });
        Ok(found.collect())
    }

    /// The model, if one was named and can be opened.
    fn look_at_model(&self, found: &mut Vec<Finding>) -> Option<Arc<Model>> {
        match self.args.model.open().map(Arc::new) {
            Ok(model) => {
                let said = format!("{} can be opened", model.digest.short());
                found.push(Finding::ok(Check::Model, said));
                Some(model)
            }
            Err(OpenModelError::NotNamed) => {
                found.push(Finding::warn(
                    Check::Model,
                    "none was named, so nothing was compared or measured",
                    "give --model PATH",
                ));
                None
            }
            Err(error) => {
                let texts = (
                    error.to_string(),
                    "give the files that the cloud has".to_owned(),
                );
                found.push(Finding::fail_with(error.exit(), Check::Model, texts));
                None
            }
        }
    }

    fn look_at_cloud(
        &self,
        identity: &EdgeIdentity,
        model: Option<&Arc<Model>>,
        found: &mut Vec<Finding>,
    ) {
        let addr = &self.args.cloud.addr;
        let uplink = match self.runtime.block_on(link::uplink(addr, identity)) {
            Ok(uplink) => uplink,
            Err(failure) => {
                let advice = "give --cloud HOST:PORT, and look at the name service";
                found.push(Finding::fail(Check::Address, failure.message(), advice));
                return;
            }
        };
        match self.runtime.block_on(uplink.link()) {
            Ok(cloud) => {
                let said = format!("{addr} has admitted this edge");
                found.push(Finding::ok(Check::Cloud, said));
                if let Some(model) = model {
                    found.extend(self.look_at_prompt(&uplink, &cloud, model));
                }
            }
            Err(error) => found.push(not_linked(addr, error)),
        }
        self.runtime.block_on(uplink.close(Duration::ZERO));
    }

    /// Compares the model with the cloud's and measures the link, by fetching a prompt.
    fn look_at_prompt(
        &self,
        uplink: &Uplink,
        cloud: &CloudLink,
        model: &Arc<Model>,
    ) -> Vec<Finding> {
        let named = self.args.cloud_prompt.first().cloned();
        let name = match named {
            Some(name) => Ok(Some(name)),
            None => self.runtime.block_on(first_listed(cloud)),
        };
        let name = match name {
            Ok(Some(name)) => name,
            Ok(None) => {
                let said = "the cloud serves no prompt by name, so nothing was measured";
                let advice = "start it with `cloud-node serve --prompts DIR`";
                return vec![Finding::warn(Check::Link, said, advice)];
            }
            Err(error) => return vec![not_fetched(error)],
        };
        let prompt = PromptRef::Named(name.clone());
        match self
            .runtime
            .block_on(CloudPrompt::fetch(uplink, model, prompt))
        {
            Ok(prompt) => {
                let same = Finding::ok(Check::Model, "the cloud has the same");
                let layer_count = prompt.manifest.layers.len();
                let link = match received(&prompt.arrivals, layer_count, FETCH_PATIENCE) {
                    Ok(bytes_and_time) => {
                        let rtt = cloud.stats().rtt;
                        findings::link(name.as_str(), fetched(model, &prompt, bytes_and_time, rtt))
                    }
                    Err(loss) => {
                        let advice = "look at the cloud's log, and at the path between the nodes";
                        let texts = (loss.detail, advice.to_owned());
                        Finding::fail_with(link::loss_exit(loss.reason), Check::Link, texts)
                    }
                };
                vec![same, link]
            }
            Err(error) => vec![not_fetched(error)],
        }
    }
}

fn look_at_identity(dir: &Path, found: &mut Vec<Finding>) -> Option<EdgeIdentity> {
    let identity = match EdgeIdentity::load(dir) {
        Ok(identity) => identity,
        Err(error) => {
            let message = Failure::of(Exit::Usage)(error).message();
            let none = "run `edge-node join TOKEN` with a token from `cloud-node invite`";
            let advice = link::join_advice(dir, none);
            found.push(Finding::fail(Check::Identity, message, advice));
            return None;
        }
    };
    let file = EdgeIdentity::file(dir);
    found.push(findings::identity(identity.name(), &file, mode(&file)));
    let now = SystemTime::now();
    let (valid, still_valid) = (identity.validity(now), identity.validity(now + MONTH));
    found.push(findings::clock(&valid, &still_valid));
    Some(identity)
}

/// Who may do what with a file, where the system knows that.
fn mode(file: &Path) -> Option<u32> {
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        Some(std::fs::metadata(file).ok()?.permissions().mode())
    }
    #[cfg(not(unix))]
    {
        let _ = file;
        None
    }
}

/// The largest buffer that the kernel grants.
fn limit(name: &str) -> Option<u64> {
    let text = std::fs::read_to_string(format!("/proc/sys/net/core/{name}"));
    text.ok()?.trim().parse().ok()
}

/// A folder that this edge writes to.
struct Folder {
    path: PathBuf,
    /// What may still be written there.
    bytes_wanted: u64,
    /// If it cannot be.
    advice: &'static str,
}

/// Whether files can be made in a folder, which is made if it is not there.
fn look_at_folder(folder: Folder) -> Finding {
    let Folder {
        path,
        bytes_wanted,
        advice,
    } = folder;
    let probe = path.join(format!(".doctor-{}", std::process::id()));
    let written = create_dir(&path)
        .and_then(|()| std::fs::write(&probe, b"doctor"))
        .and_then(|()| std::fs::remove_file(&probe));
    match written {
        Ok(()) => findings::cache(&path, free_bytes(&path), bytes_wanted),
        Err(error) => {
            let said = format!("{} cannot be written: {error}", path.display());
            Finding::fail(Check::Cache, said, advice)
        }
    }
}

/// Bytes of the segments in a folder; what cannot be listed has none.
fn bytes_of(folder: &SegmentFolder) -> u64 {
    let kept = folder.list().unwrap_or_default();
    kept.iter().map(|kept| kept.bytes).sum()
}

fn free_bytes(folder: &Path) -> Option<u64> {
    let stat = rustix::fs::statvfs(folder).ok()?;
    stat.f_bavail.checked_mul(stat.f_frsize)
}

async fn first_listed(cloud: &CloudLink) -> Result<Option<PromptName>, CloudPromptError> {
    let listed = cloud.list_prompts().await?;
    Ok(listed.into_iter().next().map(|entry| entry.name))
}

/// No link, by the step that failed.
fn not_linked(addr: &str, error: ConnectError) -> Finding {
    let advice = match &error {
        ConnectError::Unreachable { .. }
        | ConnectError::Address { .. }
        | ConnectError::Itself { .. } => {
            "look whether UDP passes: the cloud's --listen address, firewalls, NAT"
        }
        ConnectError::CloudNotTrusted { .. } | ConnectError::EdgeNotTrusted { .. } => {
            "the TLS handshake found no common trust: both nodes must be of one domain, with clocks that are right"
        }
        ConnectError::TokenAlreadyUsed
        | ConnectError::TokenExpired
        | ConnectError::TokenUnknown => {
            "run `edge-node join TOKEN --replace` with a token from `cloud-node invite`"
        }
        ConnectError::Version { .. } => {
            "look whether that is a cloud's --listen address, and update both nodes to the same release"
        }
        ConnectError::Full
        | ConnectError::TooManyLinks
        | ConnectError::NotNamed { .. }
        | ConnectError::Lost(_) => "try again; if it stays so, look at the cloud's log",
    };
    let failure = link::cloud_failure(error.into());
    let said = format!("{addr}: {}", failure.message());
    Finding::fail_with(failure.exit, Check::Cloud, (said, advice.to_owned()))
}

/// No prompt, by what that says of the model.
fn not_fetched(error: CloudPromptError) -> Finding {
    let failure = link::cloud_failure(error);
    let (check, advice) = match failure.exit {
        Exit::ModelMismatch => (
            Check::Model,
            "both nodes need the same model files: copy the cloud's",
        ),
        Exit::Usage | Exit::PeerUnreachable | Exit::VerificationFailed => (
            Check::Link,
            "`edge-node prompts` lists what the cloud serves; its log says more",
        ),
    };
    let texts = (failure.message(), advice.to_owned());
    Finding::fail_with(failure.exit, check, texts)
}

/// The bytes of all `layer_count` layers, and how long they took from first to last.
fn received(
    arrivals: &Receiver<Arrival>,
    layer_count: usize,
    patience: Duration,
) -> Result<(u64, Duration), Loss> {
    let until = Instant::now() + patience;
    let (mut bytes, mut span) = (0, None::<(Instant, Instant)>);
    let mut here = 0;
    while here < layer_count {
        let left = until.saturating_duration_since(Instant::now());
        match arrivals.recv_timeout(left) {
            Ok(Arrival::Begun(_)) => {}
            Ok(Arrival::Layer { received, .. }) => {
                here += 1;
                bytes += received.kv.payload().len() as u64;
                let (first, last) = span.unwrap_or((received.first_byte_at, received.last_byte_at));
                span = Some((
                    first.min(received.first_byte_at),
                    last.max(received.last_byte_at),
                ));
            }
            Ok(Arrival::Lost(loss)) => return Err(loss),
            Err(ended) => {
                let reason = match ended {
                    RecvTimeoutError::Timeout => LossReason::Slow,
                    RecvTimeoutError::Disconnected => LossReason::LinkLost,
                };
                let seconds = patience.as_secs();
                let detail =
                    format!("{here} of {layer_count} layers came within {seconds} seconds");
                return Err(Loss { reason, detail });
            }
        }
    }
    Ok((
        bytes,
        span.map_or(Duration::ZERO, |(first, last)| last - first),
    ))
}

fn fetched(
    model: &Model,
    prompt: &CloudPrompt,
    (bytes, time): (u64, Duration),
    rtt: Duration,
) -> Fetched {
    let token_count = prompt.manifest.tokens.len();
    Fetched {
        bytes,
        time,
        rtt,
        layer_bytes: model.geometry.layer_bytes(token_count, KvDtype::F32) as u64,
        layer_compute: PrefillSpeed::measure(model).layer(token_count),
    }
}

#[cfg(test)]
mod tests;
