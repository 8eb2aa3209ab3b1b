//! Records that could not be read: how many, and what was wrong with the first few.

use std::fmt;

use serde::Serialize;

/// How many are told by name: enough to see a pattern.
const NAMED_MAX: usize = 5;

/// Records that were left out because they are not what they should be.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Malformed {
    /// How many.
    pub(crate) count: usize,
    /// Where the first few are and what is wrong with them; never what is in them.
    pub(crate) first: Vec<String>,
}

impl Malformed {
    /// Counts one more.
    pub(crate) fn add(&mut self, what: impl FnOnce() -> String) {
        self.count += 1;
        if self.first.len() < NAMED_MAX {
            self.first.push(what());
        }
    }
}

impl fmt::Display for Malformed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} malformed", self.count)?;
        if self.first.is_empty() {
            return Ok(());
        }
        write!(f, ": {}", self.first.join("; "))?;
        match self.count - self.first.len() {
            0 => Ok(()),
            more => write!(f, "; and {more} more"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_counted_and_the_first_few_are_named() {
        let mut malformed = Malformed::default();
        assert_eq!(malformed.to_string(), "0 malformed");
        for line in 1..=7 {
            malformed.add(|| format!("line {line}"));
        }
        assert_eq!(
            malformed.to_string(),
            "7 malformed: line 1; line 2; line 3; line 4; line 5; and 2 more"
        );
    }
}
