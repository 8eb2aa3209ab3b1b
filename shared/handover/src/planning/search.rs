//! Bisection over whole numbers.

use std::ops::RangeInclusive;

/// The largest number of a range of which something is true that, once false, stays false. The
/// smallest one, if of none.
pub(crate) fn last_true(range: RangeInclusive<u32>, mut is_true: impl FnMut(u32) -> bool) -> u32 {
    let (mut low, mut high) = range.into_inner();
    if high > low && is_true(high) {
        return high;
    }
    while high - low > 1 {
        let middle = low + (high - low) / 2;
        if is_true(middle) {
            low = middle;
        } else {
            high = middle;
        }
    }
    low
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_border_is_found_wherever_it_is() {
        for border in 3..=20 {
            assert_eq!(last_true(3..=20, |number| number <= border), border);
        }
        assert_eq!(last_true(3..=20, |_| false), 3);
        assert_eq!(last_true(5..=5, |_| true), 5);
        assert_eq!(last_true(0..=u32::MAX, |number| number <= 7), 7);
    }
}
