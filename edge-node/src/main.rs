//! The `edge-node` program: joins a cloud's trust domain, asks, serves, and shows itself off.

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use edge_node::{ask, audit, demo, doctor, handover, kv, prompts, serve, worker};
use edgeprompt_launch::{
    CompletionsArgs, Exit, Failure, LogArgs, ManArgs, Program, identity_dir, say,
};
use edgeprompt_telemetry::tracing_setup::Verbosity;
use edgeprompt_transport::{EdgeIdentity, IdentityError, JoinToken};

/// Its variables are `EDGE_...`, and its configuration file sets what `serve` takes.
const PROGRAM: Program = Program {
    variables: "EDGE",
    configured: "serve",
    defaults: serve::defaults,
};

/// Keeps private prompts private: fuses them with a cloud's public prompt and generates
#[derive(Parser)]
#[command(name = "edge-node", version)]
struct Cli {
    #[command(flatten)]
    log: LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    /// Show both nodes on this machine, with a built-in model and nothing to download
    Demo(demo::DemoArgs),
    /// Join a cloud's trust domain with the token that `cloud-node init` or `invite` printed
    Join(JoinArgs),
    /// Answer one private prompt on top of a cloud prompt
    Ask(Box<ask::AskArgs>),
    /// Serve many private users over HTTP, on top of cloud prompts that they share
    Serve(Box<serve::ServeArgs>),
    /// List the prompts that a cloud serves by name
    Prompts(prompts::PromptsArgs),
    /// Look after the keys and values of cloud prompts in this edge's disk cache
    #[command(subcommand)]
    Kv(kv::KvCommand),
    /// Move users' sessions from one serving edge to another while they are answered, or list them
    Handover(handover::HandoverArgs),
    /// Lend this device to another edge: it computes attention heads for it
    Worker(Box<worker::WorkerArgs>),
    /// Show everything that is sent to a cloud, and check that nothing private is in it
    Audit(Box<audit::AuditArgs>),
    /// Look at everything that an answer with a cloud needs, and say what to put right
    Doctor(Box<doctor::DoctorArgs>),
    /// Print completions for a shell
    Completions(CompletionsArgs),
    /// Print the manual, or write it to a folder
    Man(ManArgs),
}

#[derive(Args)]
struct JoinArgs {
    /// The join token
    // Parsed later: a parse error here would print the token, which holds a key.
    token: String,
    /// Folder of this edge's identity [default: the XDG configuration folder]
    #[arg(long, value_name = "DIR", env = "EDGE_IDENTITY")]
    identity: Option<PathBuf>,
    /// Put an identity that is there already aside, as DIR.old
    #[arg(long)]
    replace: bool,
}

fn main() -> ExitCode {
    PROGRAM.run::<Cli>(run)
}

fn run(cli: Cli) -> Result<(), Failure> {
    let verbosity = match cli.command {
        Command::Serve(_) | Command::Worker(_) => Verbosity::Normal,
        // An answer stands alone on the terminal unless the user asks for more.
        _ => Verbosity::Quiet,
    };
    cli.log.init(verbosity).map_err(Failure::of(Exit::Usage))?;
    match cli.command {
        Command::Demo(args) => demo::run(&args),
        Command::Join(args) => join(&args),
        Command::Ask(args) => ask::run(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Prompts(args) => prompts::run(&args),
        Command::Kv(command) => kv::run(&command),
        Command::Handover(args) => handover::run(&args),
        Command::Worker(args) => worker::run(&args),
        Command::Audit(args) => audit::run(&args),
        Command::Doctor(args) => doctor::run(&args),
        Command::Completions(args) => args.print(PROGRAM.command::<Cli>()),
        Command::Man(args) => args.write(PROGRAM.command::<Cli>()),
    }
}

fn join(args: &JoinArgs) -> Result<(), Failure> {
    let dir = identity_dir(args.identity.as_ref(), "edge")?;
    let token: JoinToken = args.token.parse().map_err(Failure::of(Exit::Usage))?;
    let identity = EdgeIdentity::join(&token).map_err(Failure::of(Exit::VerificationFailed))?;
    if args.replace && dir.exists() {
        let aside = dir.with_extension("old");
        std::fs::rename(&dir, &aside)
            .with_context(|| {
                format!(
                    "{} cannot be put aside as {}",
                    dir.display(),
                    aside.display()
                )
            })
            .map_err(Failure::of(Exit::Usage))?;
    }
    let saved = identity.save(&dir).map_err(|error| {
        let is_there = matches!(error, IdentityError::Exists { .. });
        let error = anyhow::Error::from(error);
        match is_there {
            true => error.context("give --replace to put that identity aside and save this one"),
            false => error,
        }
    });
    saved.map_err(Failure::of(Exit::Usage))?;
    say(format_args!(
        "Identity {} is in {}; the cloud admits it at its first connection, within a day.\n",
        identity.name(),
        dir.display()
    ))
}
