//! Standard output for programs whose reader may leave.

use std::fmt::Display;
use std::io::Write;

use crate::failure::{Exit, Failure};

/// Writes `text` to standard output at once, as it is; unlike `print!`, it does not panic where
/// nobody reads any more.
///
/// # Errors
/// [`Failure`] if it cannot be written.
pub fn say(text: impl Display) -> Result<(), Failure> {
    let mut out = std::io::stdout().lock();
    let written = write!(out, "{text}").and_then(|()| out.flush());
    written.map_err(Failure::of(Exit::Usage))
}
