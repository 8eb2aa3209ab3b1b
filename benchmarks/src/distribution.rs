//! Mean, median, standard deviation and percentiles of many measurements, as numpy has them: so that
//! numbers can be compared with those of `vllm bench serve`.

/// Measurements, in order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Distribution {
    sorted: Vec<f64>,
}

impl Distribution {
    /// Of values that are no NaN.
    pub(crate) fn of(values: impl IntoIterator<Item = f64>) -> Self {
        let mut sorted: Vec<_> = values.into_iter().collect();
        sorted.sort_unstable_by(f64::total_cmp);
        Self { sorted }
    }

    /// The mean; 0 of nothing, as vLLM prints it.
    pub(crate) fn mean(&self) -> f64 {
        match self.sorted.len() {
            0 => 0.0,
            _ => self.sorted.iter().sum::<f64>() / self.count(),
        }
    }

    /// The standard deviation of the whole population (numpy's `ddof=0`); 0 of nothing.
    pub(crate) fn population_std(&self) -> f64 {
        if self.sorted.is_empty() {
            return 0.0;
        }
        let mean = self.mean();
        let squares = self.sorted.iter().map(|value| (value - mean).powi(2));
        (squares.sum::<f64>() / self.count()).sqrt()
    }

    /// The median; 0 of nothing.
    pub(crate) fn median(&self) -> f64 {
        self.percentile(50.0)
    }

    /// The value below which so many percent lie, between two values on the line that joins them
    /// (numpy's `linear`, its default); 0 of nothing.
    ///
    /// # Panics
    /// If `percent` is not from 0 to 100.
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_precision_loss,
        clippy::cast_sign_loss,
        reason = "a place among the values"
    )]
    pub(crate) fn percentile(&self, percent: f64) -> f64 {
        assert!(
            (0.0..=100.0).contains(&percent),
            "{percent} is no percentage"
        );
        let Some(last) = self.sorted.len().checked_sub(1) else {
            return 0.0;
        };
        let place = percent / 100.0 * last as f64;
        let below = (place.floor() as usize).min(last);
        let (a, b) = (self.sorted[below], self.sorted[(below + 1).min(last)]);
        let share = place - below as f64;
        // numpy counts from the nearer end, which rounds better.
        match share < 0.5 {
            true => a + (b - a) * share,
            false => b - (b - a) * (1.0 - share),
        }
    }

    #[expect(clippy::cast_precision_loss, reason = "a count of measurements")]
    fn count(&self) -> f64 {
        self.sorted.len() as f64
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    /// Recorded by `tests/numpy_vectors.py`.
    const NUMPY: &str = include_str!("../tests/numpy_vectors.json");

    fn numbers(list: &Value) -> Vec<f64> {
        let list = list.as_array().unwrap().iter();
        list.map(|number| number.as_f64().unwrap()).collect()
    }

    #[test]
    fn a_distribution_is_described_as_numpy_describes_it() {
        let recorded: Value = serde_json::from_str(NUMPY).unwrap();
        for case in recorded["distributions"].as_array().unwrap() {
            let values = numbers(&case["values"]);
            let largest = values
                .iter()
                .fold(0.0f64, |max, value| max.max(value.abs()));
            let distribution = Distribution::of(values);
            // Sums in another order: a few units in the last place of the largest value.
            let is = |ours: f64, key: &str| {
                let numpys = case[key].as_f64().unwrap();
                assert!(
                    (ours - numpys).abs() <= 1e-14 * largest,
                    "{key}: {ours} {numpys}"
                );
            };
            is(distribution.mean(), "mean");
            is(distribution.median(), "median");
            is(distribution.population_std(), "std");
            for pair in case["percentiles"].as_array().unwrap() {
                let (percent, numpys) = (pair[0].as_f64().unwrap(), pair[1].as_f64().unwrap());
                let ours = distribution.percentile(percent);
                assert!(
                    (ours - numpys).abs() <= 1e-15 * largest,
                    "p{percent}: {ours} {numpys}"
                );
            }
        }
    }

    #[test]
    fn nothing_is_zero() {
        let nothing = Distribution::default();
        assert_eq!(
            (
                nothing.mean(),
                nothing.population_std(),
                nothing.percentile(99.0)
            ),
            (0.0, 0.0, 0.0)
        );
    }
}
