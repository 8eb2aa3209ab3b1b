//! Pages about a program that follow from its command line: completions for shells, and manuals.

use std::path::PathBuf;

use anyhow::Context;
use clap::{Args, Command};
use clap_complete::Shell;
use clap_mangen::Man;

use crate::failure::{Exit, Failure};
use crate::stdout::say;

/// Arguments of `completions`.
#[derive(Args, Clone, Copy, Debug)]
pub struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    shell: Shell,
}

/// Arguments of `man`.
#[derive(Args, Clone, Debug)]
pub struct ManArgs {
    /// Folder for a page of the program and one of each command [default: the program's page goes
    /// to standard output]
    #[arg(value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl CompletionsArgs {
    /// Prints what the shell reads to complete the command lines of `program`.
    ///
    /// # Errors
    /// [`Failure`] if it cannot be written.
    pub fn print(&self, mut program: Command) -> Result<(), Failure> {
        let mut script = Vec::new();
        let name = program.get_name().to_owned();
        clap_complete::generate(self.shell, &mut program, name, &mut script);
        say(String::from_utf8_lossy(&script))
    }
}

impl ManArgs {
    /// Writes the manual of `program`.
    ///
    /// # Errors
    /// [`Failure`] if it cannot be written.
    pub fn write(&self, program: Command) -> Result<(), Failure> {
        let Some(dir) = &self.dir else {
            let mut page = Vec::new();
            // Not a command that has a page.
            let rendered = Man::new(program.disable_help_subcommand(true)).render(&mut page);
            rendered.map_err(Failure::of(Exit::Usage))?;
            return say(String::from_utf8_lossy(&page));
        };
        std::fs::create_dir_all(dir)
            .and_then(|()| clap_mangen::generate_to(program, dir))
            .with_context(|| format!("manual pages cannot be written to {}", dir.display()))
            .map_err(Failure::of(Exit::Usage))
    }
}
