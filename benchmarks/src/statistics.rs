//! Few measurements of one thing: their median and how far they lie apart.

use serde::Serialize;

/// A median and its spread. With the handful of rounds that a benchmark affords, the extremes say
/// more than a standard deviation.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(crate) struct Spread {
    /// Half of the values are not larger, half not smaller.
    pub(crate) median: f64,
    /// The smallest.
    pub(crate) min: f64,
    /// The largest.
    pub(crate) max: f64,
}

impl Spread {
    /// Of at least one value, none of them NaN.
    ///
    /// # Panics
    /// If there is no value.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut values: Vec<_> = values.into_iter().collect();
        assert!(!values.is_empty(), "a spread is of at least one value");
        values.sort_unstable_by(f64::total_cmp);
        let (below, above) = (values[(values.len() - 1) / 2], values[values.len() / 2]);
        Self {
            median: f64::midpoint(below, above),
            min: values[0],
            max: values[values.len() - 1],
        }
    }

    /// Of some values; nothing if there are none.
    pub(crate) fn of_some(values: impl IntoIterator<Item = Option<f64>>) -> Option<Self> {
        let values: Vec<_> = values.into_iter().flatten().collect();
        (!values.is_empty()).then(|| Self::of(values))
    }
}

/// The index of the item with the median key; of two in the middle, the smaller.
///
/// # Panics
/// If there is no item.
pub(crate) fn median_index(keys: impl IntoIterator<Item = f64>) -> usize {
    let mut keys: Vec<_> = keys.into_iter().enumerate().collect();
    assert!(!keys.is_empty(), "a median is of at least one value");
    keys.sort_by(|a, b| a.1.total_cmp(&b.1));
    keys[(keys.len() - 1) / 2].0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spread(median: f64, min: f64, max: f64) -> Spread {
        Spread { median, min, max }
    }

    #[test]
    fn the_median_is_in_the_middle_whatever_the_order() {
        assert_eq!(Spread::of([5.0, 1.0, 2.0]), spread(2.0, 1.0, 5.0));
        assert_eq!(Spread::of([4.0, 1.0, 2.0, 9.0]), spread(3.0, 1.0, 9.0));
        assert_eq!(Spread::of([7.0]), spread(7.0, 7.0, 7.0));
    }

    #[test]
    fn what_is_absent_does_not_count() {
        assert_eq!(
            Spread::of_some([None, Some(2.0)]),
            Some(spread(2.0, 2.0, 2.0))
        );
        assert_eq!(Spread::of_some([None, None]), None);
    }

    #[test]
    fn the_median_round_is_one_of_them() {
        assert_eq!(median_index([30.0, 10.0, 20.0]), 2);
        assert_eq!(median_index([30.0, 10.0, 20.0, 40.0]), 2);
        assert_eq!(median_index([1.0]), 0);
    }
}
