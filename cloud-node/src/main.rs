//! The `cloud-node` program: makes a trust domain, serves cloud prompts, lists them.

use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, Parser, Subcommand};
use cloud_node::library::PromptLibrary;
use cloud_node::prompt_limit::PromptLimit;
use cloud_node::serve::{self, IdentityArgs, ServeArgs};
use edgeprompt_launch::{
    CompletionsArgs, Exit, Failure, LogArgs, ManArgs, ModelArgs, Program, say,
};
use edgeprompt_telemetry::tracing_setup::Verbosity;
use edgeprompt_transport::{CloudIdentity, INVITATION_LIFETIME};

/// Its variables are `CLOUD_...`, and its configuration file sets what `serve` takes.
const PROGRAM: Program = Program {
    variables: "CLOUD",
    configured: "serve",
    defaults: serve::defaults,
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
struct PromptsArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Folder of cloud prompts
    #[arg(long, value_name = "DIR", env = "CLOUD_PROMPTS")]
    prompts: PathBuf,
}

fn main() -> ExitCode {
    PROGRAM.run::<Cli>(run)
}

fn run(cli: Cli) -> Result<(), Failure> {
    cli.log
        .init(Verbosity::Normal)
        .map_err(Failure::of(Exit::Usage))?;
    match cli.command {
        Command::Init(args) => init(&args),
        Command::Invite(args) => invite(&args),
        Command::Serve(args) => serve::run(&args),
        Command::Prompts(args) => prompts(&args),
        Command::Completions(args) => args.print(PROGRAM.command::<Cli>()),
        Command::Man(args) => args.write(PROGRAM.command::<Cli>()),
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
