//! Promises about a request's times, and which requests keep them.

use std::str::FromStr;

use super::measured::Metric;

/// One promise: a metric and the most milliseconds of it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Slo {
    metric: Metric,
    most_ms: f64,
}

impl FromStr for Slo {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let (name, most) = text
            .split_once(':')
            .ok_or("METRIC:MILLISECONDS is expected")?;
        let metric = name.parse()?;
        if metric == Metric::Itl {
            return Err("ttft, tpot and e2el can be promised".to_owned());
        }
        let most = most.parse().ok().filter(|most| (0.0..=1e12).contains(most));
        let most_ms = most.ok_or("milliseconds of at least 0 are expected")?;
        Ok(Self { metric, most_ms })
    }
}

/// Promises that a good request keeps all of.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Slos(Vec<Slo>);

impl Slos {
    /// Those given; none if there is none.
    pub(crate) fn of(given: &[Slo]) -> Option<Self> {
        (!given.is_empty()).then(|| Self(given.to_vec()))
    }

    /// Whether a request of these milliseconds keeps them.
    pub(crate) fn met(&self, ttft: f64, tpot: f64, e2el: f64) -> bool {
        self.0.iter().all(|slo| {
            let took = match slo.metric {
                Metric::Ttft => ttft,
                Metric::Tpot => tpot,
                Metric::E2el => e2el,
                // Not parsed.
                Metric::Itl => return true,
            };
            took <= slo.most_ms
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_promises_must_be_kept() {
        let slos: Vec<Slo> = ["ttft:200", "tpot:50.5"]
            .map(|it| it.parse().unwrap())
            .into();
        let slos = Slos::of(&slos).unwrap();
        assert!(slos.met(200.0, 50.5, 1e9));
        assert!(!slos.met(200.1, 1.0, 1.0));
        assert!(!slos.met(1.0, 51.0, 1.0));
        assert_eq!(Slos::of(&[]), None);
        for wrong in ["ttft", "ttft:x", "ttft:-1", "itl:3", "speed:1", "ttft:nan"] {
            assert!(wrong.parse::<Slo>().is_err(), "{wrong}");
        }
    }
}
