//! A share of a whole run, for a quick look. Pure.

use std::str::FromStr;

use serde::Serialize;

/// A share of the whole thing, above 0 and up to 1.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Scale(f64);

/// A number is no share.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not above 0 and up to 1")]
pub(crate) struct NoShare;

impl FromStr for Scale {
    type Err = NoShare;

    fn from_str(text: &str) -> Result<Self, NoShare> {
        let scale = text
            .parse()
            .ok()
            .filter(|value| *value > 0.0 && *value <= 1.0);
        scale.map(Self).ok_or(NoShare)
    }
}

impl Scale {
    /// What is left of a count or a length: at least 1.
    pub(crate) fn of(self, whole: usize) -> usize {
        #[expect(
            clippy::cast_possible_truncation,
            clippy::cast_sign_loss,
            clippy::cast_precision_loss,
            reason = "at most the whole"
        )]
        let part = (whole as f64 * self.0).round() as usize;
        part.max(1)
    }

    /// The share.
    pub(crate) const fn value(self) -> f64 {
        self.0
    }

    /// Whether anything is left out.
    pub(crate) fn is_part(self) -> bool {
        self.0 < 1.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_leaves_something() {
        let of = |scale: &str, whole| scale.parse::<Scale>().unwrap().of(whole);
        assert_eq!((of("1", 7), of("0.5", 7), of("0.001", 7)), (7, 4, 1));
        assert!("1".parse().is_ok_and(|scale: Scale| !scale.is_part()));
        for text in ["0", "-1", "1.5", "nan", "half"] {
            assert_eq!(text.parse::<Scale>(), Err(NoShare), "{text}");
        }
    }
}
