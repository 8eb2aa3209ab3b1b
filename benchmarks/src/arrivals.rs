//! When requests come: all at once, or at random at a rate, as `vllm bench serve` spaces them.

use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use rand_distr::Gamma;

/// Slowest rate: a request in eleven days.
const RATE_MIN: f64 = 1e-6;
/// Fastest rate below "all at once".
const RATE_MAX: f64 = 1e9;

/// Requests per second.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum RequestRate {
    /// All come at once.
    Unlimited,
    /// So many come on average.
    PerSecond(f64),
}

impl RequestRate {
    /// As a number: of all at once, infinity.
    pub(crate) const fn value(self) -> f64 {
        match self {
            Self::Unlimited => f64::INFINITY,
            Self::PerSecond(rate) => rate,
        }
    }
}

impl FromStr for RequestRate {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<f64>() {
            Ok(rate) if rate == f64::INFINITY => Ok(Self::Unlimited),
            Ok(rate) if (RATE_MIN..=RATE_MAX).contains(&rate) => Ok(Self::PerSecond(rate)),
            Ok(_) | Err(_) => Err(format!(
                "requests per second from {RATE_MIN} to {RATE_MAX}, or inf for all at once"
            )),
        }
    }
}

/// As Python prints it.
impl fmt::Display for RequestRate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.value())
    }
}

/// How unevenly requests come at a rate: the shape of the gamma distribution of the gaps.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Burstiness {
    /// Gaps of this shape: 1 is a Poisson process, less comes in bursts, more is more even.
    Gamma(f64),
    /// All gaps are equal.
    Even,
}

impl Burstiness {
    /// As a number: of an even spacing, infinity.
    pub(crate) const fn value(self) -> f64 {
        match self {
            Self::Gamma(shape) => shape,
            Self::Even => f64::INFINITY,
        }
    }
}

impl FromStr for Burstiness {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.parse::<f64>() {
            Ok(shape) if shape == f64::INFINITY => Ok(Self::Even),
            Ok(shape) if (0.01..=1e6).contains(&shape) => Ok(Self::Gamma(shape)),
            Ok(_) | Err(_) => Err(
                "a number from 0.01 to 1000000 (1: Poisson), or inf for an even spacing".to_owned(),
            ),
        }
    }
}

impl fmt::Display for Burstiness {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.value())
    }
}

/// When each of `count` requests comes, after the beginning, in order; the last at `count / rate`.
///
/// The gaps have the density of gamma(shape = burstiness, scale = 1/(rate · burstiness)).
#[expect(clippy::cast_precision_loss, reason = "a count of requests")]
pub(crate) fn arrivals(
    count: usize,
    rate: RequestRate,
    burstiness: Burstiness,
    seed: u64,
) -> Vec<Duration> {
    let RequestRate::PerSecond(rate) = rate else {
        return vec![Duration::ZERO; count];
    };
    let gaps = gaps(burstiness, seed).take(count);
    let seconds = rescaled(gaps, count as f64 / rate);
    seconds.into_iter().map(Duration::from_secs_f64).collect()
}

/// Gaps of mean 1; their unit is left to [`rescaled`], which makes the rate.
fn gaps(burstiness: Burstiness, seed: u64) -> Box<dyn Iterator<Item = f64>> {
    let Burstiness::Gamma(shape) = burstiness else {
        return Box::new(std::iter::repeat(1.0));
    };
    let gamma = Gamma::new(shape, 1.0 / shape).expect("a shape that was parsed is positive");
    let mut rng = ChaCha8Rng::seed_from_u64(seed);
    Box::new(std::iter::repeat_with(move || rng.sample(gamma)))
}

/// The sums of the gaps, stretched so that the last is `total`.
fn rescaled(gaps: impl Iterator<Item = f64>, total: f64) -> Vec<f64> {
    let sums = gaps.scan(0.0, |sum: &mut f64, gap| {
        *sum += gap;
        Some(*sum)
    });
    let sums: Vec<f64> = sums.collect();
    match sums.last() {
        Some(last) if *last > 0.0 => sums.iter().map(|sum| sum * (total / last)).collect(),
        Some(_) | None => sums,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;
    use crate::distribution::Distribution;

    /// Recorded by `tests/numpy_vectors.py`.
    const NUMPY: &str = include_str!("../tests/numpy_vectors.json");

    fn numpys(key: &str) -> Vec<Value> {
        let recorded: Value = serde_json::from_str(NUMPY).unwrap();
        recorded[key].as_array().unwrap().clone()
    }

    fn numbers(list: &Value) -> Vec<f64> {
        let list = list.as_array().unwrap().iter();
        list.map(|number| number.as_f64().unwrap()).collect()
    }

    #[test]
    fn gaps_become_the_arrivals_that_numpy_makes_of_them() {
        for case in numpys("arrivals") {
            let (gaps, expected) = (numbers(&case["gaps"]), numbers(&case["arrivals"]));
            let total = 12.0 / case["rate"].as_f64().unwrap();
            let ours = rescaled(gaps.into_iter(), total);
            assert_eq!(ours.len(), expected.len());
            for (ours, numpys) in ours.iter().zip(&expected) {
                assert!((ours - numpys).abs() <= 1e-14 * total, "{ours} {numpys}");
            }
        }
    }

    #[test]
    fn gaps_are_distributed_as_numpys() {
        let seed = 11;
        println!("seed {seed}");
        for case in numpys("gaps") {
            let burstiness = case["burstiness"].as_f64().unwrap();
            let gaps = gaps(Burstiness::Gamma(burstiness), seed).take(200_000);
            let gaps = Distribution::of(gaps);
            // Of 200,000 gaps the mean has a standard error of at most 0.0045, the quantiles one
            // of at most 0.033 (the 99th percentile at 0.25): five times that.
            let near = |ours: f64, numpys: f64, tolerance: f64| {
                assert!(
                    (ours - numpys).abs() < tolerance,
                    "{burstiness}: {ours} {numpys}"
                );
            };
            near(gaps.mean(), case["mean"].as_f64().unwrap(), 0.025);
            near(gaps.population_std(), case["std"].as_f64().unwrap(), 0.06);
            for pair in case["quantiles"].as_array().unwrap() {
                let (percent, numpys) = (pair[0].as_f64().unwrap(), pair[1].as_f64().unwrap());
                let tolerance = if percent > 90.0 { 0.17 } else { 0.03 };
                near(gaps.percentile(percent), numpys, tolerance);
            }
        }
    }

    #[test]
    fn the_last_request_comes_when_the_rate_says() {
        for burstiness in [
            Burstiness::Gamma(0.3),
            Burstiness::Gamma(1.0),
            Burstiness::Even,
        ] {
            let arrivals = arrivals(50, RequestRate::PerSecond(4.0), burstiness, 1);
            assert!(arrivals.is_sorted());
            assert_eq!(arrivals[49], Duration::from_secs_f64(12.5), "{burstiness}");
        }
        let even = arrivals(4, RequestRate::PerSecond(2.0), Burstiness::Even, 1);
        assert_eq!(even, [500, 1000, 1500, 2000].map(Duration::from_millis));
        let poisson = |seed| arrivals(9, RequestRate::PerSecond(2.0), Burstiness::Gamma(1.0), seed);
        assert_eq!(poisson(1), poisson(1));
        assert_ne!(poisson(1), poisson(2));
        assert_eq!(
            arrivals(2, RequestRate::Unlimited, Burstiness::Even, 1),
            [Duration::ZERO; 2]
        );
        let none = arrivals(0, RequestRate::PerSecond(2.0), Burstiness::Even, 1);
        assert!(none.is_empty());
    }

    #[test]
    fn rates_are_read_and_printed_as_pythons() {
        for (given, printed) in [("inf", "inf"), ("2", "2.0"), ("0.5", "0.5")] {
            assert_eq!(given.parse::<RequestRate>().unwrap().to_string(), printed);
        }
        for wrong in ["0", "-1", "nan", "-inf", "fast", "1e300"] {
            assert!(wrong.parse::<RequestRate>().is_err(), "{wrong}");
            assert!(wrong.parse::<Burstiness>().is_err(), "{wrong}");
        }
        assert_eq!("inf".parse(), Ok(Burstiness::Even));
        assert_eq!("1".parse::<Burstiness>().unwrap().to_string(), "1.0");
    }
}
