//! Where one user's prefill meets its transfer when neither machine serves anybody else: a formula.
//!
//! x tokens are prefilled in b + x/P and C − x sent in (C − x)/R. They end together at
//! x = (C/R − b) / (1/P + 1/R), which is between 0 and C or at an end.

use super::number::{InvalidNumber, not_negative, positive};

/// How fast both machines are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct MeetingPoint {
    fixed_s: f64,
    prefill_tokens_per_s: f64,
    link_tokens_per_s: f64,
}

/// Speeds as measured.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Speeds {
    /// b: seconds before the first token is prefilled.
    pub fixed_s: f64,
    /// P.
    pub prefill_tokens_per_s: f64,
    /// R.
    pub link_tokens_per_s: f64,
}

impl MeetingPoint {
    /// Of speeds.
    ///
    /// # Errors
    /// If a speed is not above 0, or b is below it.
    pub fn of(speeds: Speeds) -> Result<Self, InvalidNumber> {
        Ok(Self {
            fixed_s: not_negative("fixed prefill time in s", speeds.fixed_s)?,
            prefill_tokens_per_s: positive("prefilled tokens per s", speeds.prefill_tokens_per_s)?,
            link_tokens_per_s: positive("sent tokens per s", speeds.link_tokens_per_s)?,
        })
    }

    /// x: so many of a context's tokens are prefilled.
    pub fn prefill_len(self, context_len: u32) -> f64 {
        let context_len = f64::from(context_len);
        let both = 1.0 / self.prefill_tokens_per_s + 1.0 / self.link_tokens_per_s;
        let x = (context_len / self.link_tokens_per_s - self.fixed_s) / both;
        x.clamp(0.0, context_len)
    }

    /// How long that takes.
    pub fn delay_s(self, context_len: u32) -> f64 {
        let x = self.prefill_len(context_len);
        let sent = (f64::from(context_len) - x) / self.link_tokens_per_s;
        if x <= 0.0 {
            return sent;
        }
        sent.max(self.fixed_s + x / self.prefill_tokens_per_s)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_machines_end_together_or_one_does_it_alone() {
        let speeds = Speeds {
            fixed_s: 0.1,
            prefill_tokens_per_s: 1000.0,
            link_tokens_per_s: 250.0,
        };
        let point = MeetingPoint::of(speeds).unwrap();
        // 1000 tokens: (4 − 0.1) / (0.001 + 0.004) = 780, and 220 take the link 0.88 s.
        assert_eq!(point.prefill_len(1000), 780.0);
        assert!((point.delay_s(1000) - 0.88).abs() < 1e-12);
        // 20 tokens are sent in less than the prefill needs to begin.
        assert_eq!(point.prefill_len(20), 0.0);
        assert!((point.delay_s(20) - 0.08).abs() < 1e-12);
        let still = Speeds {
            link_tokens_per_s: 0.0,
            ..speeds
        };
        assert!(MeetingPoint::of(still).is_err());
    }
}
