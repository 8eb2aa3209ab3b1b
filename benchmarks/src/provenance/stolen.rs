//! What a host takes of a virtual machine's processors while something is measured: times of such a run
//! are the host's as much as the program's.

use serde::{Serialize, Serializer};

/// Processor time since the system began, in its ticks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Ticks {
    stolen: u64,
    all: u64,
}

impl Ticks {
    /// Of the text of `/proc/stat`.
    fn of(stat: &str) -> Option<Self> {
        let all = stat.lines().find_map(|line| line.strip_prefix("cpu "))?;
        // User, nice, system, idle, waiting, two kinds of interrupts, stolen; guests are in the first two.
        let ticks: Vec<u64> = all
            .split_whitespace()
            .map_while(|it| it.parse().ok())
            .collect();
        let ticks = ticks.get(..8)?;
        Some(Self {
            stolen: ticks[7],
            all: ticks.iter().sum(),
        })
    }

    fn now() -> Option<Self> {
        Self::of(&super::file("/proc/stat"))
    }
}

/// Since a run began. Written as percent of all processor time until it is written; absent where the
/// system does not tell.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Stolen(Option<Ticks>);

impl Stolen {
    /// From now on.
    pub(super) fn from_now() -> Self {
        Self(Ticks::now())
    }

    /// Until now.
    pub(crate) fn percent(self) -> Option<f64> {
        percent(self.0?, Ticks::now()?)
    }
}

fn percent(from: Ticks, until: Ticks) -> Option<f64> {
    let all = until.all.checked_sub(from.all).filter(|all| *all > 0)?;
    let stolen = until.stolen.checked_sub(from.stolen)?;
    Some(100.0 * stolen as f64 / all as f64)
}

impl Serialize for Stolen {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        self.percent().serialize(serializer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_that_of_the_time_between() {
        let of = |text: &str| Ticks::of(text);
        let before = of("cpu  10 1 5 70 2 1 1 10 3 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n").unwrap();
        assert_eq!((before.stolen, before.all), (10, 100));
        let after = of("cpu  60 1 5 90 2 1 1 40 3 0\n").unwrap();
        assert_eq!(percent(before, after), Some(30.0));
        assert_eq!(percent(before, before), None);
        assert_eq!(percent(after, before), None);
        // An old system, or another one.
        assert_eq!(of("cpu  10 1 5 70\n"), None);
        assert_eq!(of(""), None);
    }
}
