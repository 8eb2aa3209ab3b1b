//! A program's command line with everything that stands behind it: a flag that is not given is
//! looked up in the environment, then in a configuration file, then it has its default.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::error::{ContextKind, ContextValue};
use clap::{ArgMatches, Command, CommandFactory, FromArgMatches};

use crate::config_file::{ConfigError, ConfigFile};
use crate::failure::{Exit, Failure};
use crate::flags::{variable_of, with_variables};
use crate::printed_config::printed;
use crate::stdout::say;

/// One of the programs.
#[derive(Clone, Copy, Debug)]
pub struct Program {
    /// What its environment variables begin with, without the underscore.
    pub variables: &'static str,
    /// The subcommand whose flags are the keys of its configuration file.
    pub configured: &'static str,
    /// What flags without a default of their own come to on this machine, as far as that can be known
    /// without the model: shown with the configuration.
    pub defaults: fn() -> Vec<(&'static str, String)>,
}

/// What a command line comes to.
enum Parsed {
    Arguments(ArgMatches),
    /// The page that was asked for in place of a run.
    Config(String),
}

/// Why a command line comes to nothing.
#[derive(Debug)]
enum ParseError {
    /// Wrong arguments, or help.
    Clap(clap::Error),
    Config(ConfigError),
}

impl Program {
    /// The command line `C` with a variable for each flag.
    pub fn command<C: CommandFactory>(&self) -> Command {
        with_variables(C::command(), self.variables)
    }

    /// The whole program: `run` with the arguments of this process, and what fails on standard error.
    pub fn run<C: CommandFactory + FromArgMatches>(
        &self,
        run: impl FnOnce(C) -> Result<(), Failure>,
    ) -> ExitCode {
        let done = match self.arguments() {
            Ok(Some(arguments)) => run(arguments),
            Ok(None) => Ok(()),
            Err(failure) => Err(failure),
        };
        match done {
            Ok(()) => ExitCode::SUCCESS,
            Err(failure) => failure.report(C::command().get_name()),
        }
    }

    /// The arguments of this process; `None` where they only asked for the configuration, which is
    /// printed. Ends the process as clap does where they are wrong or ask for help.
    ///
    /// # Errors
    /// [`Failure`] if the configuration file is wrong.
    fn arguments<C: CommandFactory + FromArgMatches>(&self) -> Result<Option<C>, Failure> {
        let line: Vec<_> = std::env::args_os().collect();
        match self.parse(&self.command::<C>(), line.clone()) {
            Ok(Parsed::Arguments(matches)) => match C::from_arg_matches(&matches) {
                Ok(arguments) => Ok(Some(arguments)),
                Err(error) => error.format(&mut self.command::<C>()).exit(),
            },
            Ok(Parsed::Config(page)) => say(page).map(|()| None),
            Err(ParseError::Clap(error)) => {
                let is_set = |variable: &str| std::env::var_os(variable).is_some();
                naming_variable(error, (self.variables, &line), is_set).exit()
            }
            Err(ParseError::Config(error)) => Err(Failure::of(Exit::Usage)(error)),
        }
    }

    fn parse(&self, command: &Command, line: Vec<OsString>) -> Result<Parsed, ParseError> {
        let first = command.clone().try_get_matches_from(&line);
        let mut matches = first.map_err(ParseError::Clap)?;
        let mut file = None;
        if let Some((names, path)) = config_path(&matches) {
            let read = ConfigFile::read(&path, &self.configured(command));
            let read = read.map_err(ParseError::Config)?;
            let command = read.make_default(command.clone(), &names);
            let second = command.try_get_matches_from(&line);
            matches = second.map_err(ParseError::Clap)?;
            file = Some(read);
        }
        match matches.subcommand() {
            Some((name, given)) if name == self.configured && wants_config(given) => {
                let found = (file.as_ref(), &(self.defaults)()[..]);
                let page = printed(&self.configured(command), given, found);
                Ok(Parsed::Config(page))
            }
            _ => Ok(Parsed::Arguments(matches)),
        }
    }

    /// The configured subcommand, with the flags that every command has.
    fn configured(&self, command: &Command) -> Command {
        let mut command = command.clone();
        command.build();
        let found = command.find_subcommand(self.configured).cloned();
        found.unwrap_or(command)
    }
}

/// The error with the variable that a wrong value is from, where it is from one: otherwise it would name
/// a flag that nobody gave. A flag that is given wins over its variable.
fn naming_variable(
    mut error: clap::Error,
    (prefix, line): (&str, &[OsString]),
    is_set: impl Fn(&str) -> bool,
) -> clap::Error {
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else {
        return error;
    };
    let is_of_name = |char: char| char.is_ascii_alphanumeric() || char == '-';
    let name = flag.split(|char| !is_of_name(char)).next();
    let Some(long) = name.and_then(|name| name.strip_prefix("--")) else {
        return error;
    };
    let is_given = line.iter().filter_map(|arg| arg.to_str()).any(|arg| {
        let rest = arg.strip_prefix("--").and_then(|it| it.strip_prefix(long));
        rest.is_some_and(|rest| rest.is_empty() || rest.starts_with('='))
    });
    let variable = variable_of(long, prefix);
    if !is_given && is_set(&variable) {
        let named = format!("{variable}, the variable of {flag}");
        error.insert(ContextKind::InvalidArg, ContextValue::String(named));
    }
    error
}

/// The subcommand that was given, below which others, and the configuration file that it names.
fn config_path(matches: &ArgMatches) -> Option<(Vec<String>, PathBuf)> {
    let (mut matches, mut names) = (matches, Vec::new());
    while let Some((name, given)) = matches.subcommand() {
        names.push(name.to_owned());
        if let Ok(Some(path)) = given.try_get_one::<PathBuf>("config") {
            return Some((names, path.clone()));
        }
        matches = given;
    }
    None
}

fn wants_config(given: &ArgMatches) -> bool {
    let wanted = given.try_get_one::<bool>("print_config");
    wanted.ok().flatten().copied().unwrap_or_default()
}
