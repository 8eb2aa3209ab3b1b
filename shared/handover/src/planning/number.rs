//! Numbers from outside: each is checked once, where it enters.

use thiserror::Error;

/// A number that cannot be what it is given for.
#[derive(Clone, Copy, Debug, PartialEq, Error)]
#[error("{what} is {value}, and must be {must_be}")]
pub struct InvalidNumber {
    /// What it is given for, with its unit.
    pub what: &'static str,
    /// The number.
    pub value: f64,
    /// What it should have been.
    pub must_be: &'static str,
}

/// Above this nothing is meant: more seconds than the sun has left, or more bits than are stored.
const LARGEST: f64 = 1e18;

/// A number above 0.
pub(crate) fn positive(what: &'static str, value: f64) -> Result<f64, InvalidNumber> {
    if value > 0.0 && value <= LARGEST {
        return Ok(value);
    }
    Err(InvalidNumber {
        what,
        value,
        must_be: "above 0 and at most 1e18",
    })
}

/// A number that is not below 0.
pub(crate) fn not_negative(what: &'static str, value: f64) -> Result<f64, InvalidNumber> {
    if (0.0..=LARGEST).contains(&value) {
        return Ok(value);
    }
    Err(InvalidNumber {
        what,
        value,
        must_be: "from 0 to 1e18",
    })
}
