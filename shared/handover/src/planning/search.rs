//! Bisection over whole numbers.

use std::ops::RangeInclusive;

/// The largest number of a range of which something is true that, once false, stays false. The
/// smallest one, if of none. The nearer `hint` is, the sooner it is found.
pub(crate) fn last_true(
    range: RangeInclusive<u32>,
    hint: u32,
    mut is_true: impl FnMut(u32) -> bool,
) -> u32 {
    let (mut low, mut high) = range.into_inner();
    if high <= low || is_true(high) {
        return high.max(low);
    }
    // Between: from the hint in steps that double, to the side where the border is.
    let (mut step, mut at) = (1, hint);
    while low < at && at < high {
        if is_true(at) {
            low = at;
            at = at.saturating_add(step);
        } else {
            high = at;
            at = at.saturating_sub(step);
        }
        step = step.saturating_mul(2);
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
    fn the_border_is_found_wherever_it_is_and_whatever_the_hint() {
        for border in 3..=20 {
            for hint in [0, 3, 4, border, border + 1, 20, u32::MAX] {
                let found = last_true(3..=20, hint, |number| number <= border);
                assert_eq!(found, border, "hint {hint}");
            }
        }
        assert_eq!(last_true(3..=20, 9, |_| false), 3);
        assert_eq!(last_true(5..=5, 5, |_| true), 5);
        assert_eq!(last_true(0..=u32::MAX, 100, |number| number <= 7), 7);
    }

    #[test]
    fn a_good_hint_saves_most_questions() {
        let questions = |hint| {
            let mut count = 0;
            last_true(0..=100_000, hint, |number| {
                count += 1;
                number <= 70_000
            });
            count
        };
        assert!(questions(70_003) <= 6, "{}", questions(70_003));
        assert!(questions(0) <= 20, "{}", questions(0));
    }
}
