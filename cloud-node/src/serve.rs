//! `cloud-node serve`: starts everything, says where it listens, and ends gracefully.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::Args;
use edgeprompt_launch::{ConfigArgs, Exit, Failure, ModelArgs, identity_dir, say};
use edgeprompt_telemetry::exporter::{self, MetricsHandle};
use edgeprompt_transport::{CloudIdentity, LinkConfig};

use crate::compute::PromptComputer;
use crate::library::PromptLibrary;
use crate::metrics_listener::MetricsListener;
use crate::reload::Reloader;
use crate::service::{self, CloudService, PublicPrompts};

/// Between two foldings of histogram samples: they pile up meanwhile, a few bytes each.
const UPKEEP_PERIOD: Duration = Duration::from_secs(5);

/// Where the cloud's identity is.
#[derive(Args)]
pub struct IdentityArgs {
    /// Folder of this cloud's identity [default: the XDG configuration folder]
    #[arg(long, value_name = "DIR", env = "CLOUD_IDENTITY")]
    identity: Option<PathBuf>,
}

/// Arguments of `cloud-node serve`.
#[derive(Args)]
pub struct ServeArgs {
    /// Handled before the arguments are.
    #[command(flatten)]
    _config: ConfigArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    identity: IdentityArgs,
    /// Folder of cloud prompts: every file is one, named by its stem; SIGHUP reads it again
    #[arg(long, value_name = "DIR", env = "CLOUD_PROMPTS")]
    prompts: Option<PathBuf>,
    /// Address to listen on, UDP; port 0 takes a free one
    #[arg(
        long,
        value_name = "ADDR",
        default_value = "127.0.0.1:4433",
        env = "CLOUD_LISTEN"
    )]
    listen: SocketAddr,
    /// Bytes of keys and values to keep, in MiB; the longest prompt must fit
    #[arg(
        long,
        value_name = "MIB",
        default_value_t = 4096,
        value_parser = clap::value_parser!(u32).range(1..),
        env = "CLOUD_STORE_MIB"
    )]
    store_mib: u32,
    /// Serve the folder's prompts only, not ones that edges declare public
    #[arg(long, env = "CLOUD_NO_PUBLIC_PROMPTS")]
    no_public_prompts: bool,
    /// Address to serve Prometheus metrics on, TCP, such as 127.0.0.1:9464; whoever reaches it can
    /// read them [default: not served]
    #[arg(long, value_name = "ADDR", env = "CLOUD_METRICS_LISTEN")]
    metrics_listen: Option<SocketAddr>,
}

impl IdentityArgs {
    /// The folder.
    ///
    /// # Errors
    /// [`Failure`] if none is given and this machine has no default.
    pub fn dir(&self) -> Result<PathBuf, Failure> {
        identity_dir(self.identity.as_ref(), "cloud")
    }
}

/// What flags of `serve` come to here that have no default of their own.
pub fn defaults() -> Vec<(&'static str, String)> {
    let identity = identity_dir(None, "cloud").ok();
    let shown = identity.map(|dir| ("identity", dir.display().to_string()));
    shown.into_iter().collect()
}

/// Serves until the process is told to stop.
///
/// # Errors
/// [`Failure`] with the exit code of what went wrong.
pub fn run(args: &ServeArgs) -> Result<(), Failure> {
    let identity = CloudIdentity::load(&args.identity.dir()?)
        .context("run `cloud-node init` first")
        .map_err(Failure::of(Exit::Usage))?;
    // Installed before anything is counted: what comes earlier is lost.
    let metrics = exporter::install().map_err(Failure::of(Exit::Usage))?;
    service::begin_counters();
    let service = service(args)?;
    let reloader = args.prompts.clone().map(|folder| Reloader {
        folder,
        computer: Arc::clone(&service.computer),
        library: service.library.clone(),
    });
    let runtime = tokio::runtime::Runtime::new().map_err(Failure::of(Exit::Usage))?;
    runtime.block_on(async {
        let cloud = service
            .start(args.listen, &identity, LinkConfig::default())
            .map_err(Failure::of(Exit::Usage))?;
        serve_metrics(args.metrics_listen, &metrics).await?;
        if let Some(reloader) = reloader {
            reload_when_told(reloader).map_err(Failure::of(Exit::Usage))?;
        }
        // The last line before serving: scripts wait for it.
        say(format_args!("listening on {}\n", cloud.addr()))?;
        interrupted().await;
        cloud.stop().await;
        Ok(())
    })
}

fn service(args: &ServeArgs) -> Result<CloudService, Failure> {
    let model = Arc::new(args.model.open()?);
    let store_mib = usize::try_from(args.store_mib).unwrap_or(usize::MAX);
    let computer = PromptComputer::start(Arc::clone(&model), store_mib.saturating_mul(1 << 20));
    let library = match &args.prompts {
        Some(folder) => PromptLibrary::open(folder, &model, &computer.limit())
            .map_err(Failure::of(Exit::Usage))?,
        None => PromptLibrary::default(),
    };
    let layer_count = model.config.layer_count;
    let prompts = match library.len() {
        1 => "1 cloud prompt".to_owned(),
        count => format!("{count} cloud prompts"),
    };
    say(format_args!(
        "model {} with {layer_count} layers, {prompts}\n",
        model.digest.short()
    ))?;
    Ok(CloudService {
        computer,
        library: library.into(),
        public_prompts: match args.no_public_prompts {
            true => PublicPrompts::Refused,
            false => PublicPrompts::Accepted,
        },
    })
}

/// Keeps the metrics small and, where an address is given, serves them until the program ends.
async fn serve_metrics(addr: Option<SocketAddr>, metrics: &MetricsHandle) -> Result<(), Failure> {
    let upkept = metrics.clone();
    tokio::spawn(async move {
        let mut period = tokio::time::interval(UPKEEP_PERIOD);
        loop {
            period.tick().await;
            upkept.run_upkeep();
        }
    });
    let Some(addr) = addr else {
        return Ok(());
    };
    let listener = MetricsListener::bind(addr, metrics.clone()).await;
    let listener = listener.map_err(Failure::of(Exit::Usage))?;
    say(format_args!(
        "metrics on http://{}/metrics\n",
        listener.local_addr()
    ))?;
    tokio::spawn(listener.run());
    Ok(())
}

/// Reads the prompts again on every `SIGHUP`, until the program ends. Without a folder that signal ends
/// the program, as it does usually.
fn reload_when_told(reloader: Reloader) -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut told = signal(SignalKind::hangup())?;
        let reloader = Arc::new(reloader);
        tokio::spawn(async move {
            while told.recv().await.is_some() {
                let reloader = Arc::clone(&reloader);
                // A thread that panicked has said so, and the next one may fare better.
                let _ = tokio::task::spawn_blocking(move || reloader.reload()).await;
            }
        });
    }
    #[cfg(not(unix))]
    drop(reloader);
    Ok(())
}

/// Resolves when the user or the system asks the program to stop.
async fn interrupted() {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        if let Ok(mut terminate) = signal(SignalKind::terminate()) {
            tokio::select! {
                _ = tokio::signal::ctrl_c() => {}
                _ = terminate.recv() => {}
            }
            return;
        }
    }
    // Without a handler the program simply goes on until it is killed.
    if tokio::signal::ctrl_c().await.is_err() {
        std::future::pending().await
    }
}
