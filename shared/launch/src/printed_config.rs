//! The effective configuration as TOML that can be given back, with the source of each value. Pure.

use std::fmt::Write;

use clap::builder::ArgAction;
use clap::parser::ValueSource;
use clap::{Arg, ArgMatches, Command};

use crate::config_file::{ConfigFile, takes_many};
use crate::flags::flags;

/// The page for `command`, which is built, as it was `given`, with the file that was read and what
/// flags without a default come to here.
pub(crate) fn printed(
    command: &Command,
    given: &ArgMatches,
    (file, defaults): (Option<&ConfigFile>, &[(&'static str, String)]),
) -> String {
    let mut page = String::new();
    for arg in flags(command) {
        let (key, source) = (name(arg), source(arg, given, file));
        let default = defaults.iter().find(|(name, _)| *name == key);
        let default = default.map(|(_, value)| scalar(value));
        // Writing to a string cannot fail.
        let _ = match value(arg, given).or(default) {
            Some(value) => writeln!(page, "{key} = {value}  # {source}"),
            None => writeln!(page, "# {key} is not set"),
        };
    }
    page
}

fn name(arg: &Arg) -> &str {
    arg.get_long().unwrap_or_default()
}

fn source(arg: &Arg, given: &ArgMatches, file: Option<&ConfigFile>) -> String {
    let set = file.and_then(|file| Some((file, file.settings.get(name(arg))?)));
    match (given.value_source(arg.get_id().as_str()), set) {
        (Some(ValueSource::CommandLine), _) => "command line".to_owned(),
        (Some(ValueSource::EnvVariable), _) => {
            let variable = arg.get_env().unwrap_or_default().to_string_lossy();
            format!("environment {variable}")
        }
        // A path may have line breaks, a comment may not.
        (_, Some((file, setting))) => format!("{:?} line {}", file.path, setting.line),
        _ => "default".to_owned(),
    }
}

/// What the flag was given, in TOML; `None` if nothing.
fn value(arg: &Arg, given: &ArgMatches) -> Option<String> {
    let id = arg.get_id().as_str();
    match arg.get_action() {
        ArgAction::SetTrue => Some(given.get_flag(id).to_string()),
        ArgAction::Count => Some(given.get_count(id).to_string()),
        _ => {
            let values = given.get_raw(id).into_iter().flatten();
            // TOML is Unicode; who has other file names sees where they differ.
            let mut values = values.map(|value| scalar(&value.to_string_lossy()));
            match takes_many(arg) {
                true => Some(format!("[{}]", values.collect::<Vec<_>>().join(", "))),
                false => values.next(),
            }
        }
    }
}

/// A number if that means the same, else a string.
fn scalar(text: &str) -> String {
    let number = text.parse::<i64>().map(|number| number.to_string());
    if number.as_deref() == Ok(text) {
        return text.to_owned();
    }
    let mut quoted = String::from("\"");
    for char in text.chars() {
        match char {
            '"' | '\\' => quoted.extend(['\\', char]),
            char if char.is_control() => {
                let _ = write!(quoted, "\\u{:04X}", u32::from(char));
            }
            char => quoted.push(char),
        }
    }
    quoted.push('"');
    quoted
}
