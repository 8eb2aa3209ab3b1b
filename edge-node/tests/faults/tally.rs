//! What the cases came to: a fault that misses its mark proves nothing, so every kind is counted.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use edge_node::answer::Recomputed;
use edge_node::cloud_prompt::LossReason;
use edgeprompt_testkit::emulator::{EmulatorStats, LinkModel, Verdict};

use crate::case::{Fault, When, WrongManifest, link_of};
use crate::cloud::HostileCloud;

/// What became of one case.
pub(crate) struct Outcome {
    seed: u64,
    kind: &'static str,
    effect: Effect,
    recomputed: Option<LossReason>,
}

/// Whether a fault did something, as far as can be told from the outside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Effect {
    Took,
    /// Chance, of packets, of the moment or of a busy machine, can spare a case.
    Missed,
    /// It had to have an effect and had none, or another than it must have.
    Wrong,
    /// It changed bytes that nobody reads.
    Harmless,
}

impl Outcome {
    pub(crate) fn of(cloud: &HostileCloud, recomputed: Option<Recomputed>) -> Self {
        let emulator = cloud.emulator.get();
        let stats = emulator.map_or_else(EmulatorStats::default, |emulator| emulator.stats());
        Self {
            seed: cloud.case.seed,
            kind: cloud.case.fault.kind(),
            effect: effect(
                &evidence(cloud, recomputed.as_ref(), &stats),
                recomputed.as_ref(),
            ),
            recomputed: recomputed.map(|recomputed| recomputed.loss.reason),
        }
    }
}

/// How it shows that a fault has happened.
enum Evidence<'a> {
    /// So many layers, or more, were computed for one of these reasons.
    Recomputed(usize, &'a [LossReason]),
    /// This number is not zero.
    Counted(u64),
    /// This number is not zero, unless chance spared the case.
    ByChance(u64),
    /// None: the fault changes bytes that nobody reads.
    Nothing,
}

fn evidence<'a>(
    cloud: &HostileCloud,
    recomputed: Option<&Recomputed>,
    stats: &EmulatorStats,
) -> Evidence<'a> {
    use LossReason::{Corrupt, LinkLost, OtherModel, Refused, Slow, Stalled, Unreachable};
    let layer_count = cloud.layers.len();
    let asked_again = cloud.fetch_count.load(Ordering::SeqCst).saturating_sub(1) as u64;
    let struck = cloud.struck_count.load(Ordering::SeqCst) as u64;
    let recomputed_count = recomputed.map_or(0, |recomputed| recomputed.layer_count as u64);
    // The engine may lose patience before the network gives up.
    const GONE: &[LossReason] = &[LinkLost, Unreachable, Stalled, Slow];
    match &cloud.case.fault {
        Fault::Unreachable => Evidence::Recomputed(layer_count, &[Unreachable]),
        Fault::Refuse(_) => Evidence::Recomputed(layer_count, &[Refused]),
        Fault::Manifest(WrongManifest::Model) => Evidence::Recomputed(layer_count, &[OtherModel]),
        Fault::NoAnswer => Evidence::Recomputed(layer_count, &[Stalled]),
        Fault::Manifest(_) => Evidence::Recomputed(layer_count, &[Corrupt]),
        // The cloud of another case may have the port by the time this edge dials it again.
        Fault::Die { after } => Evidence::Recomputed(layer_count - after, &LossReason::ALL),
        Fault::Cut { after } => Evidence::Recomputed(layer_count - after, GONE),
        Fault::Stream { .. } if cloud.is_harmless() => Evidence::Nothing,
        Fault::Stream { when, .. } if *when == When::Always => {
            Evidence::Recomputed(1, &[Corrupt, Stalled, Slow])
        }
        Fault::CloseLink { .. }
        | Fault::Abandon { .. }
        // Each fetch may bring some of the layers that were missing, until there are none.
        | Fault::Silence { .. }
        | Fault::Stream { .. } => Evidence::Counted(asked_again + recomputed_count),
        Fault::Shuffled { .. } | Fault::StallAndResume { .. } => Evidence::Counted(struck),
        Fault::CutAndResume { .. } => Evidence::ByChance(struck * stats.down.cut_packet_count),
        Fault::CutAt(_) => Evidence::ByChance(recomputed_count * stats.down.cut_packet_count),
        Fault::Corrupt(_) => Evidence::ByChance(stats.down.corrupted_packet_count),
        Fault::Loss(_) => Evidence::ByChance(stats.down.lost_packet_count),
        Fault::Reorder(_) => Evidence::ByChance(overtaken_count(cloud, stats)),
    }
}

fn effect(evidence: &Evidence<'_>, recomputed: Option<&Recomputed>) -> Effect {
    let took = match evidence {
        Evidence::Nothing => return Effect::Harmless,
        Evidence::ByChance(0) => return Effect::Missed,
        Evidence::Counted(count) | Evidence::ByChance(count) => *count > 0,
        Evidence::Recomputed(layer_count_min, reasons) => recomputed.is_some_and(|recomputed| {
            recomputed.layer_count >= *layer_count_min && reasons.contains(&recomputed.loss.reason)
        }),
    };
    match (took, recomputed.map(|recomputed| recomputed.loss.reason)) {
        (true, _) => Effect::Took,
        // Handshakes have little time here, and the machine may be busy.
        (false, Some(LossReason::Unreachable)) => Effect::Missed,
        (false, _) => Effect::Wrong,
    }
}

/// How many packets from the cloud were late and had others behind them: the luck of the n-th
/// packet follows from the seed alone.
fn overtaken_count(cloud: &HostileCloud, stats: &EmulatorStats) -> u64 {
    let link = link_of(&cloud.case);
    let (late_by, delay) = (link.down.reordering.late_by, link.down.delay);
    let mut model = LinkModel::new(link.down, link.seed);
    let count = u32::try_from(stats.down.received_packet_count).unwrap_or(u32::MAX);
    let is_late = (0..count.saturating_sub(1)).filter(|packet| {
        let now = std::time::Duration::from_secs(1) * *packet;
        let verdict = model.offer(now, 1_200);
        matches!(verdict, Verdict::Deliver { at } if at - now > delay + late_by)
    });
    is_late.count() as u64
}

/// What the cases of one kind came to.
#[derive(Default)]
struct Counts {
    cases: u64,
    took: u64,
    harmless: u64,
    recomputed: BTreeMap<&'static str, u64>,
}

/// What all cases came to, by kind.
#[derive(Default)]
pub(crate) struct Tally {
    counts: BTreeMap<&'static str, Counts>,
    wrong: Vec<u64>,
}

impl Tally {
    pub(crate) fn add(&mut self, outcome: Outcome) {
        let counts = self.counts.entry(outcome.kind).or_default();
        counts.cases += 1;
        match outcome.effect {
            Effect::Took => counts.took += 1,
            Effect::Harmless => counts.harmless += 1,
            Effect::Missed => {}
            Effect::Wrong => self.wrong.push(outcome.seed),
        }
        let reason = outcome.recomputed.map_or("nothing", LossReason::label);
        *counts.recomputed.entry(reason).or_default() += 1;
    }

    /// Prints the table, and fails if a kind of fault did not do what it is for.
    pub(crate) fn check(&self, cases: u64) {
        println!(
            "{:<18} {:>5} {:>7}  recomputed because",
            "fault", "cases", "took"
        );
        for (kind, counts) in &self.counts {
            let Counts {
                cases,
                took,
                recomputed,
                ..
            } = counts;
            let reasons: Vec<_> = recomputed.iter().map(|(r, n)| format!("{r} {n}")).collect();
            println!("{kind:<18} {cases:>5} {took:>7}  {}", reasons.join(", "));
        }
        let total: u64 = self.counts.values().map(|counts| counts.cases).sum();
        assert_eq!(total, cases);
        assert!(
            self.wrong.is_empty(),
            "faults without their effect, by seed: {:?}",
            self.wrong
        );
        for (kind, counts) in &self.counts {
            let effective = counts.cases - counts.harmless;
            // A handful of cases may all be spared.
            assert!(
                effective < 8 || 2 * counts.took >= effective,
                "{kind}: {} of {effective} cases took effect",
                counts.took
            );
        }
    }
}
