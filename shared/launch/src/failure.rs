//! How a program ends when it cannot do what it was asked.

use std::io;
use std::process::ExitCode;

/// How a program ended, told apart so that scripts can act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Wrong arguments, or something on this machine that the user can put right.
    Usage,
    /// The other node cannot be reached or does not answer.
    PeerUnreachable,
    /// A model is refused, or two nodes hold different ones.
    ModelMismatch,
    /// Something received does not verify.
    VerificationFailed,
}

impl Exit {
    /// As the system is told.
    pub const fn code(self) -> u8 {
        match self {
            Self::Usage => 2,
            Self::PeerUnreachable => 3,
            Self::ModelMismatch => 4,
            Self::VerificationFailed => 5,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit.code())
    }
}

/// An error and the exit code that goes with it.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What happened, where, and what to do next.
    pub error: anyhow::Error,
}

impl Failure {
    /// Pairs an error with its exit code; made for `map_err`.
    pub fn of<E: Into<anyhow::Error>>(exit: Exit) -> impl Fn(E) -> Self {
        move |error| Self {
            exit,
            error: error.into(),
        }
    }

    /// The error and its causes, each said once: many errors already name their cause.
    pub fn message(&self) -> String {
        let mut message = String::new();
        for cause in self.error.chain().map(ToString::to_string) {
            if message.is_empty() {
                message = cause;
            } else if !message.contains(&cause) {
                message = format!("{message}: {cause}");
            }
        }
        message
    }

    /// Whether the reader of a pipe went away: it has read what it wanted.
    fn is_broken_pipe(&self) -> bool {
        self.error.chain().any(|cause| {
            let error = cause.downcast_ref::<io::Error>();
            error.is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
        })
    }

    /// Prints the error for a person and gives its exit code.
    ///
    /// A pipe whose reader left, as in `edge-node demo | head -1`, is no error.
    pub fn report(&self, program: &str) -> ExitCode {
        if self.is_broken_pipe() {
            return ExitCode::SUCCESS;
        }
        eprintln!("{program}: {}", self.message());
        self.exit.into()
    }
}

#[cfg(test)]
mod tests {
    use anyhow::Context as _;

    use super::*;

    #[test]
    fn a_cause_that_its_error_names_is_said_once() {
        let inner = io::Error::other("no such folder");
        let named = Err::<(), _>(inner).context("the prompts: no such folder");
        let failure = Failure::of(Exit::Usage)(named.unwrap_err());
        assert_eq!(failure.message(), "the prompts: no such folder");
        let unnamed = anyhow::Error::from(io::Error::other("no space")).context("saving");
        let failure = Failure::of(Exit::Usage)(unnamed);
        assert_eq!(failure.message(), "saving: no space");
    }

    #[test]
    fn only_a_reader_that_left_is_a_broken_pipe() {
        let failure = |kind| Failure::of(Exit::Usage)(io::Error::from(kind));
        assert!(failure(io::ErrorKind::BrokenPipe).is_broken_pipe());
        assert!(!failure(io::ErrorKind::StorageFull).is_broken_pipe());
    }
}
