//! D_tx*: the least time in which the link can send everybody's keys and values, counted from each
//! one's leaving, the worst user's.
//!
//! ```text
//! W_1 = n_1/R,  W_k = max(0, W_{k−1} − (τ_k − τ_{k−1})) + n_k/R,  D_tx* = max_k W_k      (Lindley)
//! ctHO, Prop. 2:  D_tx* = max_k [S_k/R − (τ_k − τ_1)]^+,  S_k = n_1 + … + n_k
//! ```
//!
//! The published formula takes the link to be busy from τ_1 on. A link that has nothing to send
//! meanwhile loses that time, so what it says is only a lower bound. On a link whose rate varies, n/R
//! becomes the time in which n passes.

use super::link_rate::LinkRate;

/// What one user has to send, and from when on.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sending {
    /// τ.
    pub leaves_at_s: f64,
    /// Bits.
    pub bits: f64,
}

/// Which formula.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Formula {
    /// As the paper has it: a lower bound.
    Published,
    /// Lindley's recursion: what the link does.
    Corrected,
}

/// D_tx* in seconds, of users in the order in which they leave; 0 if nobody sends.
pub fn worst_delay_s(
    users: impl IntoIterator<Item = Sending>,
    link: &LinkRate,
    formula: Formula,
) -> f64 {
    let (mut sent_until, mut worst_s) = (None, 0.0_f64);
    for user in users {
        let there = link.bits_until(user.leaves_at_s);
        let begins: f64 = match (formula, sent_until) {
            (_, None) => there,
            (Formula::Published, Some(until)) => until,
            (Formula::Corrected, Some(until)) => there.max(until),
        };
        let ends = begins + user.bits;
        sent_until = Some(ends);
        // The paper's sums count also for those who send nothing.
        if ends > there {
            let arrives_s = link.time_of(ends) + link.delay_s();
            worst_s = worst_s.max(arrives_s - user.leaves_at_s);
        }
    }
    worst_s
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_published_formula_forgets_that_the_link_stood_still() {
        let link = LinkRate::constant(1000.0).unwrap();
        let users = [(0.0, 0.0), (10.0, 1000.0)];
        let users = users.map(|(leaves_at_s, bits)| Sending { leaves_at_s, bits });
        assert_eq!(worst_delay_s(users, &link, Formula::Published), 0.0);
        assert_eq!(worst_delay_s(users, &link, Formula::Corrected), 1.0);
    }
}
