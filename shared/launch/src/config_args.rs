//! The flags that name a configuration file and show what came of it.

use std::path::PathBuf;

use clap::Args;

/// Where a command that serves finds what neither its arguments nor the environment say.
#[derive(Args, Clone, Debug)]
pub struct ConfigArgs {
    /// The file.
    #[command(flatten)]
    pub file: ConfigFileArgs,
    /// Print the configuration that would be used, with the source of each value, and end
    #[arg(long)]
    pub print_config: bool,
}

/// The configuration file alone, for commands that use a part of it.
#[derive(Args, Clone, Debug)]
pub struct ConfigFileArgs {
    /// TOML file for what neither arguments nor environment say; its keys are the long flags
    #[arg(long, value_name = "FILE")]
    pub config: Option<PathBuf>,
}
