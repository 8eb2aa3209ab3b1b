//! Logs: one subscriber, on stderr, as text or as JSON. Stdout belongs to a program's results.
//!
//! Nothing here decides what is logged. No log line carries prompt text.

use std::fmt;
use std::io::IsTerminal as _;
use std::str::FromStr;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

/// How a log line looks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LogFormat {
    /// For people.
    #[default]
    Text,
    /// One JSON object per line.
    Json,
}

/// A word that is no log format.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a log format: text or json")]
pub struct ParseLogFormatError(String);

impl FromStr for LogFormat {
    type Err = ParseLogFormatError;

    fn from_str(word: &str) -> Result<Self, Self::Err> {
        match word {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err(ParseLogFormatError(word.to_owned())),
        }
    }
}

impl fmt::Display for LogFormat {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Text => "text",
            Self::Json => "json",
        })
    }
}

/// How much is logged when `RUST_LOG` is not set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Verbosity {
    /// Errors.
    ErrorsOnly,
    /// Warnings too: what a program for one answer says without being asked.
    Quiet,
    /// What an operator wants to see.
    #[default]
    Normal,
    /// How our own crates decide.
    Verbose,
    /// Everything of ours, and how the libraries decide.
    Trace,
}

impl Verbosity {
    /// After `-v` and `-q` were given so often. They cancel out; there is nothing beyond either end.
    pub fn shifted(self, verbose_count: u8, quiet_count: u8) -> Self {
        let usual: i16 = match self {
            Self::ErrorsOnly => -2,
            Self::Quiet => -1,
            Self::Normal => 0,
            Self::Verbose => 1,
            Self::Trace => 2,
        };
        match usual + i16::from(verbose_count) - i16::from(quiet_count) {
            ..=-2 => Self::ErrorsOnly,
            -1 => Self::Quiet,
            0 => Self::Normal,
            1 => Self::Verbose,
            2.. => Self::Trace,
        }
    }

    /// The filter directives it stands for. `edgeprompt` is the prefix of all shared crates.
    const fn directives(self) -> &'static str {
        match self {
            Self::ErrorsOnly => "error",
            Self::Quiet => "warn",
            Self::Normal => "info",
            Self::Verbose => "info,cloud_node=debug,edge_node=debug,edgeprompt=debug",
            Self::Trace => "debug,cloud_node=trace,edge_node=trace,edgeprompt=trace",
        }
    }
}

/// Logging was not set up.
#[derive(Debug, thiserror::Error)]
pub enum InitError {
    /// The person who started the program must correct the variable.
    #[error("RUST_LOG is not a log filter: {0}")]
    RustLog(#[from] ParseError),
    /// A process has one subscriber: [`init`] was called twice.
    #[error("this process already has a log subscriber")]
    AlreadyInitialised,
}

/// Starts logging to stderr. `RUST_LOG`, when set and not empty, wins over `verbosity`.
///
/// Text is coloured when stderr is a terminal and `NO_COLOR` is not set.
///
/// # Errors
/// If `RUST_LOG` cannot be parsed, or the process already logs.
pub fn init(format: LogFormat, verbosity: Verbosity) -> Result<(), InitError> {
    let filter = filter(std::env::var("RUST_LOG").ok().as_deref(), verbosity)?;
    let no_colour = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_ansi(std::io::stderr().is_terminal() && !no_colour)
        .with_writer(std::io::stderr);
    match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    }
    .map_err(|_| InitError::AlreadyInitialised)
}

fn filter(rust_log: Option<&str>, verbosity: Verbosity) -> Result<EnvFilter, ParseError> {
    let directives = match rust_log {
        Some(directives) if !directives.trim().is_empty() => directives,
        _ => verbosity.directives(),
    };
    EnvFilter::builder().parse(directives)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(rust_log: Option<&str>, verbosity: Verbosity, expected: &[&str]) {
        let filter = filter(rust_log, verbosity)
            .expect("a valid filter")
            .to_string();
        let mut directives: Vec<_> = filter.split(',').collect();
        directives.sort_unstable();
        assert_eq!(directives, expected);
    }

    #[test]
    fn the_variable_wins_over_the_flags() {
        check(Some("quinn=trace"), Verbosity::Quiet, &["quinn=trace"]);
    }

    #[test]
    fn without_the_variable_the_flags_decide() {
        check(None, Verbosity::Quiet, &["warn"]);
        check(Some(" "), Verbosity::Normal, &["info"]);
        check(
            None,
            Verbosity::Verbose,
            &[
                "cloud_node=debug",
                "edge_node=debug",
                "edgeprompt=debug",
                "info",
            ],
        );
    }

    #[test]
    fn every_verbosity_is_a_valid_filter() {
        for verbosity in [
            Verbosity::ErrorsOnly,
            Verbosity::Quiet,
            Verbosity::Normal,
            Verbosity::Verbose,
            Verbosity::Trace,
        ] {
            assert!(filter(None, verbosity).is_ok(), "{verbosity:?}");
        }
    }

    #[test]
    fn a_variable_that_is_no_filter_is_reported() {
        let error = filter(Some("edge_node=loud"), Verbosity::Normal);
        assert!(error.is_err());
    }

    #[test]
    fn flags_cancel_out_and_saturate() {
        let normal = Verbosity::Normal;
        assert_eq!(normal.shifted(0, 0), Verbosity::Normal);
        assert_eq!(normal.shifted(1, 1), Verbosity::Normal);
        assert_eq!(normal.shifted(1, 0), Verbosity::Verbose);
        assert_eq!(normal.shifted(u8::MAX, 0), Verbosity::Trace);
        assert_eq!(normal.shifted(0, 1), Verbosity::Quiet);
        assert_eq!(normal.shifted(0, u8::MAX), Verbosity::ErrorsOnly);
        assert_eq!(Verbosity::Quiet.shifted(1, 0), Verbosity::Normal);
        assert_eq!(Verbosity::Quiet.shifted(0, 1), Verbosity::ErrorsOnly);
    }

    #[test]
    fn formats_are_read_as_they_are_written() {
        for format in [LogFormat::Text, LogFormat::Json] {
            assert_eq!(format.to_string().parse(), Ok(format));
        }
        assert_eq!(
            "xml"
                .parse::<LogFormat>()
                .map_err(|error| error.to_string()),
            Err("\"xml\" is not a log format: text or json".to_owned())
        );
    }
}
