//! Which flags of a command can be configured, and what their environment variables are called.

use clap::builder::{ArgAction, BoolishValueParser};
use clap::{Arg, Command};

/// Flags that say where the configuration is, or that end the program.
const NO_SETTINGS: [&str; 4] = ["config", "print-config", "help", "version"];

/// The flags of `command` that a configuration file may set.
pub(crate) fn flags(command: &Command) -> impl Iterator<Item = &Arg> {
    let is_setting = |arg: &&Arg| {
        arg.get_long()
            .is_some_and(|long| !NO_SETTINGS.contains(&long))
    };
    command.get_arguments().filter(is_setting)
}

/// Gives every flag of `command` and of its subcommands the variable `PREFIX_ITS_NAME`.
pub(crate) fn with_variables(command: Command, prefix: &str) -> Command {
    command
        .mut_args(|arg| with_variable(arg, prefix))
        .mut_subcommands(|command| with_variables(command, prefix))
}

/// The variable of a flag.
pub(crate) fn variable_of(long: &str, prefix: &str) -> String {
    format!("{prefix}_{}", long.to_uppercase().replace('-', "_"))
}

fn with_variable(arg: Arg, prefix: &str) -> Arg {
    let Some(long) = arg.get_long() else {
        return arg;
    };
    if NO_SETTINGS.contains(&long) && long != "config" {
        return arg;
    }
    let variable = variable_of(long, prefix);
    let arg = match arg.get_action() {
        // A switch has no value on a command line, and 1, 0, yes, no, on and off in a variable too.
        ArgAction::SetTrue => arg.value_parser(BoolishValueParser::new()),
        _ => arg,
    };
    // What a variable holds is nobody's business who reads the help over a shoulder.
    arg.env(variable).hide_env_values(true)
}
