//! A configuration file: which flag it sets to what, and on which line. Pure but for the reading.
//!
//! No message repeats a line of the file: what stands beside a misspelt key may be a secret.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{self, Read};
use std::path::{Path, PathBuf};

use clap::builder::ArgAction;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Arg, Command};
use toml::de::{DeTable, DeValue};

use crate::flags::flags;

/// Largest file: every flag of a command fits many times.
const FILE_BYTES_MAX: u64 = 1 << 20;

/// Why a file is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// It cannot be read.
    #[error("the configuration file {} cannot be read", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is longer than configurations are.
    #[error("{} has more than {FILE_BYTES_MAX} bytes: is it a configuration file?", .path.display())]
    TooLarge {
        /// The file.
        path: PathBuf,
    },
    /// A line of it is wrong.
    #[error("{}:{line}: {problem}", .path.display())]
    Line {
        /// The file.
        path: PathBuf,
        /// From 1.
        line: usize,
        /// What is wrong there.
        problem: LineProblem,
    },
}

/// What is wrong with a line of a configuration file.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum LineProblem {
    /// It is not TOML.
    #[error("{0}")]
    Syntax(String),
    /// No flag has the name.
    #[error("there is no key {key:?}{}", .similar.as_ref().map(|key| format!(": is {key:?} meant?")).unwrap_or_default())]
    UnknownKey {
        /// As in the file.
        key: String,
        /// A key that there is.
        similar: Option<String>,
    },
    /// The same flag is set by two spellings of its name.
    #[error("{0:?} is set a second time")]
    Twice(String),
    /// The value is of another kind.
    #[error("{key:?} must be {expected}")]
    Kind {
        /// The key.
        key: String,
        /// What it takes.
        expected: &'static str,
    },
    /// The flag does not take the value.
    #[error("{key:?}: {detail}")]
    Value {
        /// The key.
        key: String,
        /// What is wrong with it.
        detail: String,
    },
}

/// What a file sets.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct ConfigFile {
    pub(crate) path: PathBuf,
    /// By the name of the flag.
    pub(crate) settings: BTreeMap<String, Setting>,
}

/// What a file sets one flag to.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Setting {
    /// From 1.
    pub(crate) line: usize,
    /// As they would be given as arguments; none to leave a list empty.
    pub(crate) values: Vec<String>,
}

impl ConfigFile {
    /// Reads what the file sets of the flags of `command`, which is built.
    pub(crate) fn read(path: &Path, command: &Command) -> Result<Self, ConfigError> {
        let mut text = String::new();
        let file = File::open(path);
        let read = file.and_then(|file| file.take(FILE_BYTES_MAX + 1).read_to_string(&mut text));
        read.map_err(|source| ConfigError::Io {
            path: path.to_owned(),
            source,
        })?;
        if text.len() as u64 > FILE_BYTES_MAX {
            return Err(ConfigError::TooLarge {
                path: path.to_owned(),
            });
        }
        Self::parse(path, &text, command)
    }

    fn parse(path: &Path, text: &str, command: &Command) -> Result<Self, ConfigError> {
        let line_of = |at: usize| 1 + text.bytes().take(at).filter(|byte| *byte == b'\n').count();
        let wrong = |at, problem| ConfigError::Line {
            path: path.to_owned(),
            line: line_of(at),
            problem,
        };
        let table = DeTable::parse(text).map_err(|error| {
            let at = error.span().map_or(0, |span| span.start);
            wrong(at, LineProblem::Syntax(error.message().to_owned()))
        })?;
        let mut settings = BTreeMap::new();
        for (key, value) in table.get_ref() {
            let at = key.span().start;
            // TOML's own habit is the underscore, a flag's is the hyphen.
            let name = key.get_ref().replace('_', "-");
            let values = values(&name, value.get_ref(), command).map_err(|p| wrong(at, p))?;
            let line = line_of(at);
            if settings.insert(name, Setting { line, values }).is_some() {
                let key = key.get_ref().clone().into_owned();
                return Err(wrong(at, LineProblem::Twice(key)));
            }
        }
        let path = path.to_owned();
        Ok(Self { path, settings })
    }

    /// Makes what the file sets the defaults of the program's command with these `names`, the
    /// outermost first, so that arguments and variables win.
    pub(crate) fn make_default(&self, program: Command, names: &[String]) -> Command {
        let has = |command: &Command, flag: &str| flags(command).any(|arg| is(arg, flag));
        let mut program = program;
        for (flag, setting) in &self.settings {
            let set = |arg: Arg| match is(&arg, flag) {
                true => arg.default_values(setting.values.clone()),
                false => arg,
            };
            // A flag of every command is defined once.
            program = match has(&program, flag) {
                true => program.mut_args(set),
                false => below(program, names, &|command| command.mut_args(set)),
            };
        }
        program
    }
}

/// Changes the command that has these names below another, the outermost first.
fn below(command: Command, names: &[String], change: &dyn Fn(Command) -> Command) -> Command {
    match names.split_first() {
        Some((name, rest)) => command.mut_subcommand(name, |inner| below(inner, rest, change)),
        None => change(command),
    }
}

fn is(arg: &Arg, flag: &str) -> bool {
    arg.get_long() == Some(flag)
}

/// Whether a flag is a list.
pub(crate) fn takes_many(arg: &Arg) -> bool {
    matches!(arg.get_action(), ArgAction::Append)
}

/// The arguments that say what the file says of the flag `name`.
fn values(name: &str, value: &DeValue<'_>, command: &Command) -> Result<Vec<String>, LineProblem> {
    let Some(arg) = flags(command).find(|arg| is(arg, name)) else {
        return Err(LineProblem::UnknownKey {
            key: name.to_owned(),
            similar: similar(name, command),
        });
    };
    let kind = |expected| LineProblem::Kind {
        key: name.to_owned(),
        expected,
    };
    let is_switch = matches!(arg.get_action(), ArgAction::SetTrue);
    let values = match (value, is_switch) {
        (DeValue::Boolean(on), true) => return Ok(vec![on.to_string()]),
        (_, true) => return Err(kind("true or false")),
        (DeValue::Array(array), false) if takes_many(arg) => array
            .iter()
            .map(|value| scalar(value.get_ref()))
            .collect::<Option<Vec<_>>>()
            .ok_or_else(|| kind("a list of strings or numbers"))?,
        (value, false) => vec![scalar(value).ok_or_else(|| kind("a string or a number"))?],
    };
    accepted(name, &values, command)?;
    Ok(values)
}

fn scalar(value: &DeValue<'_>) -> Option<String> {
    match value {
        DeValue::String(text) => Some(text.clone().into_owned()),
        DeValue::Integer(number) => i128::from_str_radix(number.as_str(), number.radix())
            .ok()
            .map(|number| number.to_string()),
        DeValue::Float(number) => Some(number.as_str().to_owned()),
        DeValue::Boolean(_) | DeValue::Datetime(_) | DeValue::Array(_) | DeValue::Table(_) => None,
    }
}

/// What clap says to one flag with these values, whatever else the command needs.
fn tried(name: &str, values: &[String], command: &Command) -> Result<(), clap::Error> {
    let arguments = values.iter().map(|value| format!("--{name}={value}"));
    let line = std::iter::once("command".to_owned()).chain(arguments);
    command.clone().try_get_matches_from(line).map(|_| ())
}

fn accepted(name: &str, values: &[String], command: &Command) -> Result<(), LineProblem> {
    let is_counter = |arg: &Arg| is(arg, name) && matches!(arg.get_action(), ArgAction::Count);
    if flags(command).any(is_counter) {
        // It takes no value on a command line.
        return match values.iter().all(|value| value.parse::<u8>().is_ok()) {
            true => Ok(()),
            false => Err(LineProblem::Kind {
                key: name.to_owned(),
                expected: "a number from 0 to 255",
            }),
        };
    }
    let Err(error) = tried(name, values, command) else {
        return Ok(());
    };
    match error.kind() {
        ErrorKind::InvalidValue | ErrorKind::ValueValidation | ErrorKind::InvalidUtf8 => {
            let text = error.render().to_string();
            let first = text.lines().next().unwrap_or_default();
            let detail = first.strip_prefix("error: ").unwrap_or(first).to_owned();
            let key = name.to_owned();
            Err(LineProblem::Value { key, detail })
        }
        // Something else than this value, which shows when the program has all its arguments.
        _ => Ok(()),
    }
}

/// The flag that clap would suggest for a word that is none.
fn similar(name: &str, command: &Command) -> Option<String> {
    let error = tried(name, &["x".to_owned()], command).err()?;
    match error.get(ContextKind::SuggestedArg)? {
        ContextValue::String(flag) => {
            let name = flag.strip_prefix("--")?;
            flags(command)
                .any(|arg| is(arg, name))
                .then(|| name.to_owned())
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command() -> Command {
        let number = clap::value_parser!(u16);
        let mut command = Command::new("serve")
            .arg(Arg::new("port").long("port").value_parser(number))
            .arg(Arg::new("tls-cert").long("tls-cert").requires("tls-key"))
            .arg(Arg::new("tls-key").long("tls-key"))
            .arg(
                Arg::new("local")
                    .long("local")
                    .action(ArgAction::SetTrue)
                    .conflicts_with("tls-key"),
            )
            .arg(Arg::new("verbose").long("verbose").action(ArgAction::Count))
            .arg(Arg::new("names").long("name").action(ArgAction::Append))
            .arg(Arg::new("word").required(true));
        command.build();
        command
    }

    fn parsed(text: &str) -> Result<ConfigFile, ConfigError> {
        ConfigFile::parse(Path::new("edge.toml"), text, &command())
    }

    fn refused(text: &str) -> String {
        parsed(text).unwrap_err().to_string()
    }

    #[test]
    fn every_kind_of_flag_has_a_kind_of_value() {
        let text = "# a comment\nport = 8_000\ntls_cert = \"a b\"\n\nlocal = true\n\
                    verbose = 2\nname = [\"a\", 'b']\n";
        let file = parsed(text).unwrap();
        let setting = |name: &str| {
            let setting = &file.settings[name];
            (setting.line, setting.values.join("|"))
        };
        assert_eq!(setting("port"), (2, "8000".to_owned()));
        assert_eq!(setting("tls-cert"), (3, "a b".to_owned()));
        assert_eq!(setting("local"), (5, "true".to_owned()));
        assert_eq!(setting("verbose"), (6, "2".to_owned()));
        assert_eq!(setting("name"), (7, "a|b".to_owned()));
        assert_eq!(file.settings.len(), 5);
        assert_eq!(
            parsed("name = []").unwrap().settings["name"].values.len(),
            0
        );
    }

    #[test]
    fn what_is_wrong_is_named_with_its_line_and_never_repeated() {
        let cases = [
            (
                "\nprot = 1",
                "edge.toml:2: there is no key \"prot\": is \"port\" meant?",
            ),
            (
                "[serve]\nport = 1",
                "edge.toml:1: there is no key \"serve\"",
            ),
            ("help = true", "edge.toml:1: there is no key \"help\""),
            (
                "local = \"yes\"",
                "edge.toml:1: \"local\" must be true or false",
            ),
            (
                "port = true",
                "edge.toml:1: \"port\" must be a string or a number",
            ),
            (
                "port = [1]",
                "edge.toml:1: \"port\" must be a string or a number",
            ),
            (
                "name = [[]]",
                "edge.toml:1: \"name\" must be a list of strings or numbers",
            ),
            (
                "verbose = -1",
                "edge.toml:1: \"verbose\" must be a number from 0 to 255",
            ),
            ("tls-key = \"a\"\ntls_key = \"b\"", "is set a second time"),
        ];
        for (text, expected) in cases {
            let refusal = refused(text);
            assert!(
                refusal.starts_with(expected) || refusal.ends_with(expected),
                "{refusal}"
            );
        }
        let value = refused("port = 70000");
        assert!(
            value.starts_with("edge.toml:1: \"port\": invalid value"),
            "{value}"
        );
        let syntax = refused("local = true\nsecret = sk-123\n");
        assert!(syntax.starts_with("edge.toml:2: "), "{syntax}");
        assert!(!syntax.contains("sk-123"), "{syntax}");
        assert!(!refused("secret = 'sk-123'").contains("sk-123"));
    }
}
