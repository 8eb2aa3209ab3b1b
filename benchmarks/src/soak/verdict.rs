//! What a soak must show, and sentences for what it did not. Pure: what was seen in, sentences out.

use serde::Serialize;

use super::schedule::Disturbance;
use super::users::Totals;
use super::watch::{Counters, Sample};
use crate::statistics::Spread;

/// One disturbance as it went.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Disturbed {
    /// What.
    pub(super) what: Disturbance,
    /// More about it.
    pub(super) note: Option<String>,
    /// From when, since the users began.
    pub(super) begin_s: f64,
    /// Until when.
    pub(super) end_s: f64,
    /// Until when it was looked at.
    pub(super) seen_by_s: f64,
    /// What the edge counted meanwhile.
    pub(super) counted: Counters,
    /// Packets that the edge sent towards a cloud which could not get them.
    pub(super) packets_in_vain: u64,
}

/// How memory went.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub(super) struct MemoryTrend {
    /// Median over the second fifth of the time.
    pub(super) early_mib: f64,
    /// Median over the last fifth.
    pub(super) late_mib: f64,
    /// From the second fifth on, of the line with the least squares.
    pub(super) slope_mib_per_minute: f64,
}

/// The edge after its users have left.
#[derive(Clone, Copy, Debug, Serialize)]
pub(super) struct AtRest {
    /// Its last state.
    pub(super) sample: Sample,
    /// Whether it had nothing to do any more.
    pub(super) is_idle: bool,
}

/// Everything that is judged.
pub(super) struct Evidence<'a> {
    pub(super) totals: &'a Totals,
    pub(super) disturbed: &'a [Disturbed],
    pub(super) memory: Option<MemoryTrend>,
    pub(super) memory_growth_percent_max: f64,
    pub(super) at_rest: AtRest,
}

impl MemoryTrend {
    /// Of samples over `length_s`; `None` if a fifth has none.
    pub(super) fn of(samples: &[Sample], length_s: f64) -> Option<Self> {
        let within = |from: f64, until: f64| {
            let range = from * length_s..until * length_s;
            let samples = samples.iter().filter(move |it| range.contains(&it.at_s));
            samples.map(|it| (it.at_s / 60.0, it.resident_mib))
        };
        let median = |from, until| {
            let spread = Spread::of_some(within(from, until).map(|point| Some(point.1)));
            spread.map(|spread| spread.median)
        };
        Some(Self {
            early_mib: median(0.2, 0.4)?,
            late_mib: median(0.8, 1.0)?,
            slope_mib_per_minute: slope(&within(0.2, 1.0).collect::<Vec<_>>()),
        })
    }

    /// Growth from the second fifth to the last.
    pub(super) fn growth_percent(self) -> f64 {
        100.0 * (self.late_mib / self.early_mib - 1.0)
    }
}

/// Of the line through points with the least squares.
fn slope(points: &[(f64, f64)]) -> f64 {
    let mean = |of: fn(&(f64, f64)) -> f64| {
        let sum: f64 = points.iter().map(of).sum();
        sum / count(points.len().max(1))
    };
    let (x, y) = (mean(|point| point.0), mean(|point| point.1));
    let covariance: f64 = points.iter().map(|it| (it.0 - x) * (it.1 - y)).sum();
    let variance: f64 = points.iter().map(|it| (it.0 - x).powi(2)).sum();
    if variance > 0.0 {
        covariance / variance
    } else {
        0.0
    }
}

#[expect(clippy::cast_precision_loss, reason = "a count of seconds")]
fn count(count: usize) -> f64 {
    count as f64
}

impl Disturbed {
    /// Whether the edge met with it.
    const fn is_met(&self) -> bool {
        let count = match self.what {
            Disturbance::DiskCorrupted => self.counted.damaged,
            Disturbance::DiskFull => self.counted.unwritten,
            // That layers are missed depends on whether the edge would have asked for any.
            Disturbance::CloudKilled | Disturbance::LinkCut => self.packets_in_vain,
        };
        count > 0
    }

    /// What the edge met with because of it.
    pub(super) fn effect(&self) -> String {
        let Counters {
            damaged,
            unwritten,
            recomputed_layers,
            ..
        } = self.counted;
        match self.what {
            Disturbance::DiskCorrupted => format!("{damaged} files found damaged"),
            Disturbance::DiskFull => format!("{unwritten} segments not written"),
            Disturbance::CloudKilled | Disturbance::LinkCut => {
                let packets = self.packets_in_vain;
                format!(
                    "{packets} packets in vain, {recomputed_layers} layers computed here instead"
                )
            }
        }
    }
}

/// The kinds of disturbances that had no effect on anybody, however often.
fn unmet(disturbed: &[Disturbed]) -> Vec<Disturbance> {
    let mut unmet = Vec::new();
    for Disturbed { what, .. } in disturbed {
        let mut same = disturbed.iter().filter(|it| it.what == *what);
        if !same.any(Disturbed::is_met) && !unmet.contains(what) {
            unmet.push(*what);
        }
    }
    unmet
}

/// What was not as it must be, a sentence each.
pub(super) fn complaints(evidence: &Evidence<'_>) -> Vec<String> {
    let Evidence {
        totals,
        disturbed,
        memory,
        memory_growth_percent_max: growth_max,
        at_rest,
    } = evidence;
    let mut complaints = Vec::new();
    let mut complain = |is_wrong: bool, sentence: String| {
        if is_wrong {
            complaints.push(sentence);
        }
    };
    let (failed, different) = (totals.failed_count, totals.different_count);
    complain(failed > 0, format!("{failed} requests failed"));
    complain(
        different > 0,
        format!("{different} answers had other tokens than alone"),
    );
    let none = totals.greedy_count == 0 || totals.seeded_count == 0 || totals.left_count == 0;
    complain(
        none,
        "not every kind of request was made: let it run longer".to_owned(),
    );
    let AtRest { sample, is_idle } = at_rest;
    let (running, waiting) = (sample.running, sample.waiting);
    complain(
        !is_idle,
        format!(
            "without users the edge still has {running} requests running and {waiting} waiting"
        ),
    );
    let leaked = sample.used_blocks;
    complain(
        leaked > 0,
        format!("{leaked} private blocks are in use by nobody"),
    );
    for what in unmet(disturbed) {
        let what = what.words();
        complain(
            true,
            format!("nobody met with \"{what}\", so it shows nothing: let it run longer"),
        );
    }
    match memory {
        None => complain(true, "memory was not seen: let it run longer".to_owned()),
        Some(memory) => complain(
            memory.growth_percent() > *growth_max,
            format!(
                "memory grew by {:.1} % from the second fifth to the last, and {growth_max} % is allowed",
                memory.growth_percent()
            ),
        ),
    }
    complaints
}

#[cfg(test)]
mod tests {
    use super::*;

    fn samples(mib: impl Fn(f64) -> f64) -> Vec<Sample> {
        let at = |second: u32| Sample {
            at_s: f64::from(second),
            resident_mib: mib(f64::from(second)),
            ..Sample::default()
        };
        (0..100).map(at).collect()
    }

    fn totals() -> Totals {
        Totals {
            greedy_count: 5,
            seeded_count: 2,
            left_count: 1,
            ..Totals::default()
        }
    }

    fn disturbed(what: Disturbance, counted: Counters) -> Disturbed {
        Disturbed {
            what,
            note: None,
            begin_s: 1.0,
            end_s: 2.0,
            seen_by_s: 3.0,
            counted,
            packets_in_vain: 0,
        }
    }

    fn told(change: impl FnOnce(&mut Totals, &mut Vec<Disturbed>, &mut AtRest)) -> Vec<String> {
        let damaged = Counters {
            damaged: 1,
            ..Counters::default()
        };
        let mut disturbances = vec![disturbed(Disturbance::DiskCorrupted, damaged)];
        let (mut totals, mut at_rest) = (
            totals(),
            AtRest {
                sample: Sample::default(),
                is_idle: true,
            },
        );
        change(&mut totals, &mut disturbances, &mut at_rest);
        complaints(&Evidence {
            totals: &totals,
            disturbed: &disturbances,
            memory: MemoryTrend::of(&samples(|_| 50.0), 100.0),
            memory_growth_percent_max: 10.0,
            at_rest,
        })
    }

    #[test]
    fn a_soak_without_a_fault_has_no_complaint() {
        assert_eq!(told(|_, _, _| {}), [""; 0]);
    }

    #[test]
    fn every_fault_is_one_complaint() {
        let faults: [fn(&mut Totals, &mut Vec<Disturbed>, &mut AtRest); 6] = [
            |totals, _, _| totals.failed_count = 1,
            |totals, _, _| totals.different_count = 1,
            |totals, _, _| totals.left_count = 0,
            |_, disturbed, _| disturbed[0].counted.damaged = 0,
            |_, _, at_rest| at_rest.is_idle = false,
            |_, _, at_rest| at_rest.sample.used_blocks = 1,
        ];
        for fault in faults {
            assert_eq!(told(fault).len(), 1, "{:?}", told(fault));
        }
    }

    #[test]
    fn every_kind_of_disturbance_must_be_met_with_once() {
        let cut = |packets_in_vain| Disturbed {
            packets_in_vain,
            ..disturbed(Disturbance::LinkCut, Counters::default())
        };
        assert_eq!(unmet(&[cut(0), cut(3)]), []);
        assert_eq!(unmet(&[cut(0), cut(0)]), [Disturbance::LinkCut]);
    }

    #[test]
    fn a_disturbance_is_seen_by_its_own_effect_only() {
        let damaged = Counters {
            damaged: 9,
            ..Counters::default()
        };
        for what in [
            Disturbance::CloudKilled,
            Disturbance::LinkCut,
            Disturbance::DiskFull,
        ] {
            assert!(!disturbed(what, damaged.clone()).is_met());
        }
    }

    #[test]
    fn growth_is_from_the_second_fifth_to_the_last() {
        // What a program takes in the beginning is no growth.
        let warm = MemoryTrend::of(&samples(|at| if at < 20.0 { 10.0 } else { 50.0 }), 100.0);
        assert_eq!(warm.unwrap().growth_percent(), 0.0);
        let trend = MemoryTrend::of(&samples(|at| 100.0 + at / 6.0), 100.0).unwrap();
        assert!((trend.slope_mib_per_minute - 10.0).abs() < 1e-9);
        assert!((trend.late_mib - trend.early_mib - 10.0).abs() < 1e-9);
        assert_eq!(MemoryTrend::of(&samples(|_| 1.0)[..50], 100.0), None);
    }
}
