//! p: how long the target needs to prefill, as a function that is fitted to measurements.
//!
//! ```text
//! p = fixed + per_position · longest + per_token · Σ x_i + per_pair · Σ x_i (s_i + x_i/2)
//! ```
//!
//! x_i tokens are prefilled for user i on top of s_i tokens that the target holds already. The paper's
//! p(L) = aL + b is `per_position` and `fixed` alone: it does not grow with the number of users, as if a
//! batch cost no more than its longest member. Where a processor is busy with one sequence already, the
//! work grows with the tokens of all users together: `per_token`; and attention grows with the pairs of
//! tokens that see each other: `per_pair`. Sequences of different length are not padded.

use super::number::{InvalidNumber, not_negative};

/// What a prefill is made of.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PrefillWork {
    /// Tokens of the longest member.
    pub longest_len: f64,
    /// Tokens of all members.
    pub token_count: f64,
    /// Pairs of a token and one that it attends to, over all members.
    pub pair_count: f64,
}

impl PrefillWork {
    /// Of one user: `len` tokens on top of `past_len` that are there.
    pub fn of_one(len: u32, past_len: u32) -> Self {
        let (len, past_len) = (f64::from(len), f64::from(past_len));
        Self {
            longest_len: len,
            token_count: len,
            pair_count: len * (past_len + len / 2.0),
        }
    }

    /// Of several users, in one batch.
    pub fn of_batch(members: impl IntoIterator<Item = Self>) -> Self {
        let sum = |sum: Self, member: Self| Self {
            longest_len: sum.longest_len.max(member.longest_len),
            token_count: sum.token_count + member.token_count,
            pair_count: sum.pair_count + member.pair_count,
        };
        members.into_iter().fold(Self::default(), sum)
    }
}

/// The coefficients of p.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct PrefillCoefficients {
    /// b: seconds whatever the work.
    pub fixed_s: f64,
    /// a: seconds for each token of the longest member.
    pub per_position_s: f64,
    /// Seconds for each token of all members.
    pub per_token_s: f64,
    /// Seconds for each pair of tokens that see each other.
    pub per_pair_s: f64,
}

/// What happens to a prefill that begins while another one runs.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Joining {
    /// It joins: what grows with positions runs side by side, what grows with tokens in turn
    /// (continuous batching).
    #[default]
    Joins,
    /// It waits until the other one is done.
    Waits,
}

/// p: how long a prefill takes. Never falls when work is added.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PrefillModel {
    coefficients: PrefillCoefficients,
    joining: Joining,
}

impl PrefillModel {
    /// Of coefficients, with prefills that join.
    ///
    /// # Errors
    /// If one is below 0 or no number.
    pub fn new(coefficients: PrefillCoefficients) -> Result<Self, InvalidNumber> {
        not_negative("fixed prefill time in s", coefficients.fixed_s)?;
        not_negative(
            "prefill time of a position in s",
            coefficients.per_position_s,
        )?;
        not_negative("prefill time of a token in s", coefficients.per_token_s)?;
        not_negative("prefill time of a pair in s", coefficients.per_pair_s)?;
        Ok(Self {
            coefficients,
            joining: Joining::default(),
        })
    }

    /// The same with another way to deal with prefills that overlap.
    #[must_use]
    pub const fn with_joining(self, joining: Joining) -> Self {
        Self { joining, ..self }
    }

    /// What happens to a prefill that begins while another one runs.
    pub const fn joining(&self) -> Joining {
        self.joining
    }

    /// The coefficients.
    pub const fn coefficients(&self) -> PrefillCoefficients {
        self.coefficients
    }

    /// The same where everything takes so many times as long.
    ///
    /// # Errors
    /// If that is below 0 or no number.
    pub fn slowed(self, times: f64) -> Result<Self, InvalidNumber> {
        let PrefillCoefficients {
            fixed_s,
            per_position_s,
            per_token_s,
            per_pair_s,
        } = self.coefficients;
        let slowed = Self::new(PrefillCoefficients {
            fixed_s: fixed_s * times,
            per_position_s: per_position_s * times,
            per_token_s: per_token_s * times,
            per_pair_s: per_pair_s * times,
        })?;
        Ok(slowed.with_joining(self.joining))
    }

    /// p in seconds; nothing for no tokens.
    pub fn seconds(&self, work: PrefillWork) -> f64 {
        if work.token_count <= 0.0 {
            return 0.0;
        }
        self.coefficients.fixed_s + self.growing_seconds(work)
    }

    /// The part that grows: also for no tokens it is continuous, as the paper's p(0) = b is.
    fn growing_seconds(&self, work: PrefillWork) -> f64 {
        let c = &self.coefficients;
        c.per_position_s * work.longest_len
            + c.per_token_s * work.token_count
            + c.per_pair_s * work.pair_count
    }

    /// p as the paper has it also for no tokens: b.
    pub(crate) fn published_seconds(&self, work: PrefillWork) -> f64 {
        self.coefficients.fixed_s + self.growing_seconds(work)
    }

    /// Seconds for which one user's prefill keeps everybody else's from running.
    pub(crate) fn exclusive_seconds(&self, work: PrefillWork) -> f64 {
        match self.joining {
            Joining::Waits => self.seconds(work),
            Joining::Joins => {
                let c = &self.coefficients;
                c.per_token_s * work.token_count + c.per_pair_s * work.pair_count
            }
        }
    }

    /// Seconds that pass beside those, while others run.
    pub(crate) fn side_seconds(&self, work: PrefillWork) -> f64 {
        match self.joining {
            Joining::Waits => 0.0,
            Joining::Joins if work.token_count <= 0.0 => 0.0,
            Joining::Joins => {
                self.coefficients.fixed_s + self.coefficients.per_position_s * work.longest_len
            }
        }
    }

    /// Whether prefills of several users never keep each other from running.
    pub(crate) fn runs_side_by_side(&self) -> bool {
        let c = &self.coefficients;
        self.joining == Joining::Joins && c.per_token_s <= 0.0 && c.per_pair_s <= 0.0
    }
}
