//! What goes wrong during a soak, and when. Pure: a length of time in, moments out.

use std::time::Duration;

use serde::Serialize;

/// What can go wrong.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Disturbance {
    /// The cloud's process is killed, and started again at the end.
    CloudKilled,
    /// The link swallows everything until the end.
    LinkCut,
    /// Bytes of every file in the disk cache are changed, again and again until the end.
    DiskCorrupted,
    /// The disk of the cache is full until the end.
    DiskFull,
}

/// One disturbance.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Planned {
    /// What.
    pub(super) what: Disturbance,
    /// From when, since the users began.
    pub(super) begin: Duration,
    /// Until when.
    pub(super) end: Duration,
    /// Until when somebody must have met with it.
    pub(super) seen_by: Duration,
}

/// What happens to a disturbance at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Moment {
    /// It begins.
    Begin,
    /// It ends.
    End,
    /// What it did is counted.
    Count,
}

/// Shares of the time, of 100: each kind by itself, then two kinds at a time. The link goes before the
/// cloud, for a cloud that was started anew has to compute everything again, which an edge as fast does
/// itself. The last shares are calm.
const PLAN: [(Disturbance, u32, u32); 7] = [
    (Disturbance::DiskCorrupted, 10, 16),
    (Disturbance::LinkCut, 20, 29),
    (Disturbance::CloudKilled, 34, 43),
    (Disturbance::DiskFull, 48, 57),
    (Disturbance::LinkCut, 62, 73),
    (Disturbance::DiskCorrupted, 64, 73),
    (Disturbance::CloudKilled, 78, 87),
];

/// After its end a fetch that had begun may still fail.
const AFTERMATH: u32 = 4;

impl Disturbance {
    /// In the words of a table.
    pub(super) const fn words(self) -> &'static str {
        match self {
            Self::CloudKilled => "cloud killed",
            Self::LinkCut => "link cut",
            Self::DiskCorrupted => "disk corrupted",
            Self::DiskFull => "disk full",
        }
    }
}

/// The disturbances of a soak of a length.
pub(super) fn plan(length: Duration) -> Vec<Planned> {
    let at = |share: u32| length * share / 100;
    let planned = PLAN.map(|(what, begin, end)| Planned {
        what,
        begin: at(begin),
        end: at(end),
        seen_by: at(end + AFTERMATH),
    });
    planned.to_vec()
}

/// Everything that is to be done, in order, with the index of the disturbance.
pub(super) fn moments(plan: &[Planned]) -> Vec<(Duration, Moment, usize)> {
    let mut moments = Vec::new();
    for (index, planned) in plan.iter().enumerate() {
        moments.push((planned.begin, Moment::Begin, index));
        moments.push((planned.end, Moment::End, index));
        moments.push((planned.seen_by, Moment::Count, index));
    }
    // What is at the same time stays in the order of a disturbance's life.
    moments.sort_by_key(|moment| moment.0);
    moments
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_disturbance_is_over_before_the_next_of_its_kind() {
        let plan = plan(Duration::from_secs(300));
        for (index, early) in plan.iter().enumerate() {
            assert!(early.begin < early.end && early.end < early.seen_by);
            let same = |late: &&Planned| late.what == early.what;
            for late in plan[index + 1..].iter().filter(same) {
                assert!(early.seen_by <= late.begin, "{early:?} {late:?}");
            }
        }
        assert!(plan.iter().all(|it| it.seen_by <= Duration::from_secs(300)));
    }

    #[test]
    fn the_cloud_and_the_link_do_not_hide_each_other() {
        let plan = plan(Duration::from_secs(100));
        let far =
            |it: &&Planned| matches!(it.what, Disturbance::CloudKilled | Disturbance::LinkCut);
        let far: Vec<_> = plan.iter().filter(far).collect();
        assert!(far.windows(2).all(|two| two[0].seen_by <= two[1].begin));
    }

    #[test]
    fn moments_come_in_order() {
        let plan = plan(Duration::from_secs(20));
        let moments = moments(&plan);
        assert_eq!(moments.len(), 3 * plan.len());
        assert!(moments.is_sorted_by_key(|moment| moment.0));
    }
}
