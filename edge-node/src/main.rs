//! The `edge-node` program: joins a cloud's trust domain, asks, and shows itself off.

#![allow(clippy::print_stdout, reason = "a program speaks to its user")]

use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use clap::{ArgAction, Args, Parser, Subcommand};
use cloud_node::launch::{Exit, Failure};
use edge_node::{ask, demo, link};
use edgeprompt_telemetry::tracing_setup::{self, LogFormat, Verbosity};
use edgeprompt_transport::{EdgeIdentity, JoinToken};

/// Keeps private prompts private: fuses them with a cloud's public prompt and generates
#[derive(Parser)]
#[command(name = "edge-node", version)]
struct Cli {
    /// Say more (-v: what happens, -vv: in detail)
    #[arg(short, long, action = ArgAction::Count, global = true)]
    verbose: u8,
    /// Say less (-q: errors only)
    #[arg(short, long, action = ArgAction::Count, global = true)]
    quiet: u8,
    /// Log lines as text or JSON
    #[arg(
        long,
        default_value_t,
        global = true,
        value_name = "FORMAT",
        env = "EDGE_LOG_FORMAT"
    )]
    log_format: LogFormat,
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
    let cli = Cli::parse();
    // An answer stands alone on the terminal unless the user asks for more.
    let verbosity = Verbosity::from_counts(cli.verbose, cli.quiet.saturating_add(1));
    if let Err(error) = tracing_setup::init(cli.log_format, verbosity) {
        eprintln!("edge-node: {error}");
        return Exit::Usage.into();
    }
    let done = match cli.command {
        Command::Demo(args) => demo::run(&args),
        Command::Join(args) => join(&args),
        Command::Ask(args) => ask::run(&args),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report("edge-node"),
    }
}

fn join(args: &JoinArgs) -> Result<(), Failure> {
    let dir = link::identity_dir(args.identity.as_ref())?;
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
    identity
        .save(&dir)
        .context("use --replace to put an earlier identity aside")
        .map_err(Failure::of(Exit::Usage))?;
    println!(
        "Joined as {}; identity in {}.",
        identity.name(),
        dir.display()
    );
    Ok(())
}
