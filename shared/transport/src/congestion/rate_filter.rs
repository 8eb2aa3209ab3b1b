//! The highest of the latest rates. Counts rounds, not time: while nothing is sent, nothing is
//! forgotten.

use std::collections::VecDeque;

use crate::config::BitRate;

/// Rounds that a rate is remembered. Longer than one cycle of [`super::RateController`], so that
/// what its probe found lasts until the next.
pub(super) const ROUNDS_REMEMBERED: u64 = 10;

/// A maximum over the last [`ROUNDS_REMEMBERED`] rounds.
#[derive(Clone, Debug, Default)]
pub(super) struct RateFilter {
    round: u64,
    /// Falling rates with rising rounds, so the first is the maximum; one for each round at most.
    candidates: VecDeque<(u64, BitRate)>,
}

impl RateFilter {
    /// Takes the rate of a further round.
    pub(super) fn push_round(&mut self, rate: BitRate) {
        self.round += 1;
        self.insert(rate);
        let oldest = self.round.saturating_sub(ROUNDS_REMEMBERED);
        while self
            .candidates
            .pop_front_if(|(round, _)| *round <= oldest)
            .is_some()
        {}
    }

    /// Takes a rate that is no less than what the path can do, and says nothing about more: it
    /// counts if it is a new maximum, and makes no other older.
    pub(super) fn raise(&mut self, rate: BitRate) {
        if self.max().is_none_or(|max| rate > max) {
            self.insert(rate);
        }
    }

    /// Forgets all but `rate`.
    pub(super) fn reset(&mut self, rate: BitRate) {
        self.candidates.clear();
        self.insert(rate);
    }

    /// The highest rate remembered.
    pub(super) fn max(&self) -> Option<BitRate> {
        self.candidates.front().map(|(_, rate)| *rate)
    }

    fn insert(&mut self, rate: BitRate) {
        while self
            .candidates
            .pop_back_if(|(_, other)| *other <= rate)
            .is_some()
        {}
        self.candidates.push_back((self.round, rate));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_maximum_lasts_so_many_rounds() {
        let rate = BitRate::megabits_per_second;
        let mut filter = RateFilter::default();
        assert_eq!(filter.max(), None);
        filter.push_round(rate(9));
        for _ in 1..ROUNDS_REMEMBERED {
            filter.push_round(rate(5));
            filter.raise(rate(4));
            assert_eq!(filter.max(), Some(rate(9)));
        }
        filter.push_round(rate(3));
        assert_eq!(filter.max(), Some(rate(5)));
        filter.raise(rate(6));
        assert_eq!(filter.max(), Some(rate(6)));
        filter.reset(rate(1));
        assert_eq!(filter.max(), Some(rate(1)));
        assert_eq!(filter.candidates.len(), 1);
    }
}
