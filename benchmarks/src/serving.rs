//! The nodes' `serve` in processes of their own: this program started again, with every argument that
//! `cloud-node serve` and `edge-node serve` take.
//!
//! A node ends when its input does, so none outlives the harness, however that ends.

use std::ffi::OsString;
use std::fs::File;
use std::io::{BufRead, BufReader};
use std::num::NonZeroU32;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};

use anyhow::{Context, Result, bail};
use clap::Args;
use edgeprompt_launch::LogArgs;
use edgeprompt_telemetry::tracing_setup::Verbosity;

/// Arguments of the edge's process.
#[derive(Args)]
pub(crate) struct EdgeNodeArgs {
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    serve: edge_node::serve::ServeArgs,
}

/// Arguments of the cloud's process.
#[derive(Args)]
pub(crate) struct CloudNodeArgs {
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    serve: cloud_node::serve::ServeArgs,
}

/// Arguments of a worker's process.
#[derive(Args)]
pub(crate) struct WorkerNodeArgs {
    #[command(flatten)]
    log: LogArgs,
    #[command(flatten)]
    worker: edge_node::worker::WorkerArgs,
}

/// Which node to start.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Node {
    /// `edge-node serve`.
    Edge,
    /// `cloud-node serve`.
    Cloud,
    /// `edge-node worker`.
    Worker,
}

/// What to start.
pub(crate) struct NodeSpec {
    /// Which node.
    pub(crate) node: Node,
    /// What it is told.
    pub(crate) args: Vec<OsString>,
    /// Where its log goes; to the harness's own otherwise.
    pub(crate) log: Option<PathBuf>,
    /// Threads that compute in it, if not as many as it likes.
    pub(crate) threads: Option<NonZeroU32>,
}

/// A serving node; dropping it ends it as a crash would.
pub(crate) struct ServingNode {
    child: Child,
    addr: String,
    session_addr: Option<String>,
    worker_addr: Option<String>,
}

/// The edge process: serves until it is killed.
pub(crate) fn edge(args: &EdgeNodeArgs) -> Result<()> {
    args.log.init(Verbosity::Normal)?;
    end_with_the_input();
    #[cfg(target_os = "linux")]
    let _handled = fail_writes_past_a_limit()?;
    edge_node::serve::run(&args.serve).map_err(|failure| failure.error)
}

/// The cloud process: serves until it is killed.
pub(crate) fn cloud(args: &CloudNodeArgs) -> Result<()> {
    args.log.init(Verbosity::Normal)?;
    end_with_the_input();
    cloud_node::serve::run(&args.serve).map_err(|failure| failure.error)
}

/// A worker's process: lends until it is killed.
pub(crate) fn worker(args: &WorkerNodeArgs) -> Result<()> {
    args.log.init(Verbosity::Normal)?;
    end_with_the_input();
    edge_node::worker::run(&args.worker).map_err(|failure| failure.error)
}

fn end_with_the_input() {
    std::thread::spawn(|| {
        // However it ends, whoever wrote it is gone.
        let _ = std::io::copy(&mut std::io::stdin().lock(), &mut std::io::sink());
        std::process::exit(0);
    });
}

/// A write past a limit of a file's size fails as on a full disk, where a signal would end the
/// process: a soak that may not make a small disk limits files instead.
#[cfg(target_os = "linux")]
fn fail_writes_past_a_limit() -> Result<(tokio::runtime::Runtime, tokio::signal::unix::Signal)> {
    use tokio::signal::unix::{SignalKind, signal};

    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_io()
        .build()?;
    let handled = {
        let _inside = runtime.enter();
        signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw()))?
    };
    Ok((runtime, handled))
}

impl Node {
    /// The hidden subcommand that is this node.
    const fn subcommand(self) -> &'static str {
        match self {
            Self::Edge => "edge-node-serve",
            Self::Cloud => "cloud-node-serve",
            Self::Worker => "edge-node-worker",
        }
    }
}

impl ServingNode {
    /// Starts a node and waits until it listens.
    pub(crate) fn start(spec: &NodeSpec) -> Result<Self> {
        let name = spec.node.subcommand();
        let program = std::env::current_exe().context("this program's own path is not known")?;
        let mut command = Command::new(program);
        if let Some(threads) = spec.threads {
            // Tensor operations run on rayon's global pool, which asks for this once.
            command.env("RAYON_NUM_THREADS", threads.to_string());
        }
        let mut child = command
            .arg(name)
            .args(&spec.args)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(match spec.log {
                Some(_) => Stdio::piped(),
                None => Stdio::inherit(),
            })
            .spawn()
            .with_context(|| format!("{name} does not start"))?;
        let out = child.stdout.take().context("a child's output is piped")?;
        let log = child.stderr.take();
        let mut node = Self {
            child,
            addr: String::new(),
            session_addr: None,
            worker_addr: None,
        };
        if let (Some(mut log), Some(path)) = (log, &spec.log) {
            let mut file = File::options().create(true).append(true).open(path)?;
            // Through the harness, whose files nobody limits. Ends with the child.
            std::thread::spawn(move || std::io::copy(&mut log, &mut file));
        }
        for line in BufReader::new(out).lines() {
            let line = line?;
            if let Some(addr) = line.strip_prefix("listening for sessions on ") {
                node.session_addr = Some(addr.to_owned());
            }
            if let Some(addr) = line.strip_prefix("listening for workers on ") {
                node.worker_addr = Some(addr.to_owned());
            }
            let ready = ["listening on ", "lending this device to "];
            if let Some(addr) = ready.iter().find_map(|words| line.strip_prefix(words)) {
                node.addr = addr.trim_start_matches("http://").to_owned();
                return Ok(node);
            }
        }
        match &spec.log {
            Some(path) => bail!("{name} has ended: its log is {}", path.display()),
            None => bail!("{name} has ended: its log is above"),
        }
    }

    /// Where it listens.
    pub(crate) fn addr(&self) -> &str {
        &self.addr
    }

    /// Where other edges bring it sessions, if it takes any.
    pub(crate) fn session_addr(&self) -> Option<&str> {
        self.session_addr.as_deref()
    }

    /// Where others lend it their devices, if they may.
    pub(crate) fn worker_addr(&self) -> Option<&str> {
        self.worker_addr.as_deref()
    }

    /// The number of its process.
    pub(crate) fn process_id(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for ServingNode {
    fn drop(&mut self) {
        // Fails if it has ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
