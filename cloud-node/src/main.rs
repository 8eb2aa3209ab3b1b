//! The `cloud-node` program: makes a trust domain, serves cloud prompts, lists them.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use cloud_node::compute::PromptComputer;
use cloud_node::library::PromptLibrary;
use cloud_node::metrics_listener::MetricsListener;
use cloud_node::prompt_limit::PromptLimit;
use cloud_node::service::{CloudService, PublicPrompts};
use edgeprompt_launch::{
    CompletionsArgs, ConfigArgs, Exit, Failure, LogArgs, ManArgs, ModelArgs, Program, identity_dir,
    say,
};
use edgeprompt_telemetry::exporter::{self, MetricsHandle};
use edgeprompt_telemetry::tracing_setup::Verbosity;
use edgeprompt_transport::{CloudIdentity, INVITATION_LIFETIME, LinkConfig};

/// Its variables are `CLOUD_...`, and its configuration file sets what `serve` takes.
const PROGRAM: Program = Program {
    variables: "CLOUD",
    configured: "serve",
};

/// Computes the keys and values of public prompts and pipelines them to edge nodes
#[derive(Parser)]
#[command(name = "cloud-node", version)]
struct Cli {
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Make a private certificate authority; the last word printed is a join token for one edge
    Init(IdentityArgs),
    /// Print a join token for one more edge
    Invite(IdentityArgs),
    /// Serve cloud prompts to the edges that joined
    Serve(ServeArgs),
    /// List the cloud prompts of a folder with their token counts and identities
    Prompts(PromptsArgs),
    /// Print completions for a shell
    Completions(CompletionsArgs),
    /// Print the manual, or write it to a folder
    Man(ManArgs),
}

#[derive(Args)]
struct IdentityArgs {
    /// Folder of this cloud's identity [default: the XDG configuration folder]
    #[arg(long, value_name = "DIR", env = "CLOUD_IDENTITY")]
    identity: Option<PathBuf>,
}

#[derive(Args)]
struct ServeArgs {
    /// Handled before the arguments are.
    #[command(flatten)]
    _config: ConfigArgs,
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    identity: IdentityArgs,
    /// Folder of cloud prompts: every file is one, named by its stem
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

#[derive(Args)]
struct PromptsArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Folder of cloud prompts
    #[arg(long, value_name = "DIR", env = "CLOUD_PROMPTS")]
    prompts: PathBuf,
}

/// Between two foldings of histogram samples: they pile up meanwhile, a few bytes each.
const UPKEEP_PERIOD: Duration = Duration::from_secs(5);

fn main() -> ExitCode {
    let done = match PROGRAM.arguments::<Cli>() {
        Ok(Some(cli)) => run(cli),
        Ok(None) => Ok(()),
        Err(failure) => Err(failure),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report("cloud-node"),
    }
}

fn run(cli: Cli) -> Result<(), Failure> {
    cli.log
        .init(Verbosity::Normal)
        .map_err(Failure::of(Exit::Usage))?;
    match cli.command {
        Command::Init(args) => init(&args),
        Command::Invite(args) => invite(&args),
        Command::Serve(args) => serve(&args),
        Command::Prompts(args) => prompts(&args),
        Command::Completions(args) => args.print(PROGRAM.command::<Cli>()),
        Command::Man(args) => args.write(PROGRAM.command::<Cli>()),
    }
}

impl IdentityArgs {
    fn dir(&self) -> Result<PathBuf, Failure> {
        identity_dir(self.identity.as_ref(), "cloud")
    }
}

fn init(args: &IdentityArgs) -> Result<(), Failure> {
    let dir = args.dir()?;
    let (_, token) = CloudIdentity::init(&dir).map_err(Failure::of(Exit::Usage))?;
    say(format_args!(
        "Identity made in {}.\nOne edge joins within 24 hours with: edge-node join {token}\n",
        dir.display()
    ))
}

fn invite(args: &IdentityArgs) -> Result<(), Failure> {
    let identity = CloudIdentity::load(&args.dir()?).map_err(Failure::of(Exit::Usage))?;
    let token = identity
        .invite(INVITATION_LIFETIME)
        .map_err(Failure::of(Exit::Usage))?;
    say(format_args!(
        "One edge joins within 24 hours with: edge-node join {token}\n"
    ))
}

fn prompts(args: &PromptsArgs) -> Result<(), Failure> {
    let model = args.model.open()?;
    let limit = PromptLimit::of_model(&model);
    let library = PromptLibrary::open(&args.prompts, &model, &limit);
    let library = library.map_err(Failure::of(Exit::Usage))?;
    say(format_args!("{:<24} {:>8}  PROMPT ID\n", "NAME", "TOKENS"))?;
    for (name, prompt) in library.iter() {
        let (name, len, id) = (name.as_str(), prompt.tokens.len(), prompt.id);
        say(format_args!("{name:<24} {len:>8}  {id}\n"))?;
    }
    Ok(())
}

fn serve(args: &ServeArgs) -> Result<(), Failure> {
    let identity = CloudIdentity::load(&args.identity.dir()?)
        .context("run `cloud-node init` first")
        .map_err(Failure::of(Exit::Usage))?;
    // Installed before anything is counted: what comes earlier is lost.
    let metrics = exporter::install().map_err(Failure::of(Exit::Usage))?;
    let service = service(args)?;
    let runtime = tokio::runtime::Runtime::new().map_err(Failure::of(Exit::Usage))?;
    runtime.block_on(async {
        let cloud = service
            .start(args.listen, &identity, LinkConfig::default())
            .map_err(Failure::of(Exit::Usage))?;
        serve_metrics(args.metrics_listen, &metrics).await?;
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
        library,
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
