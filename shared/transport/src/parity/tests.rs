//! The algebra, against what two planes can and cannot solve.

use std::collections::BTreeSet;
use std::ops::Range;

use proptest::prelude::*;

use super::{Gaps, LossMeter, PacketCounts, Repair, Strides, planes_of, strides_for};

const PACKET_BYTES: usize = 1452;

fn bytes_of(seed: u64, count: usize) -> Vec<u8> {
    let mut state = seed | 1;
    let mut next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()[3]
    };
    (0..count).map(|_| next()).collect()
}

/// What stays unknown however long one goes on: the definition, byte by byte.
fn unsolvable(
    missing: &BTreeSet<usize>,
    lost_parity: &BTreeSet<usize>,
    strides: Strides,
) -> BTreeSet<usize> {
    let mut unknown = missing.clone();
    loop {
        let before = unknown.len();
        let mut base = 0;
        for stride in strides {
            let alone = |at: &usize| {
                let others = unknown
                    .iter()
                    .filter(|other| *other % stride == at % stride);
                others.count() == 1 && !lost_parity.contains(&(base + at % stride))
            };
            let solved: Vec<_> = unknown.iter().copied().filter(alone).collect();
            for at in solved {
                unknown.remove(&at);
            }
            base += stride;
        }
        if unknown.len() == before {
            return unknown;
        }
    }
}

fn cut(ranges: &[Range<usize>], end: usize) -> BTreeSet<usize> {
    let within = ranges.iter().flat_map(|range| range.clone());
    within.filter(|at| *at < end).collect()
}

/// Gaps that are exactly `missing` of the bytes before `end`.
fn gaps_of(missing: &BTreeSet<usize>, end: usize) -> Gaps {
    let mut gaps = Gaps::of(0..end);
    for at in (0..end).filter(|at| !missing.contains(at)) {
        gaps.fill(at..at + 1);
    }
    gaps
}

fn ranges(end: usize) -> impl Strategy<Value = Vec<Range<usize>>> {
    let range = (0..end, 1_usize..12).prop_map(|(start, len)| start..start + len);
    prop::collection::vec(range, 0..6)
}

proptest! {
    #[test]
    fn what_two_planes_determine_is_rebuilt_and_nothing_else_changes(
        seed: u64,
        lost in ranges(300),
        lost_parity in ranges(80),
        count in 1_usize..300,
        strides in [1_usize..40, 1_usize..40],
    ) {
        let honest = bytes_of(seed, count);
        let (start, end) = honest.split_at(count / 3);
        let planes = planes_of(&[start, end], strides);
        let missing = cut(&lost, count);
        let lost_parity = cut(&lost_parity, planes.len());

        let mut repair = Repair::new(strides);
        for (at, byte) in planes.iter().enumerate().filter(|(at, _)| !lost_parity.contains(at)) {
            repair.receive(at, &[*byte]).unwrap();
        }
        let mut gaps = gaps_of(&missing, count);
        let mut received = honest.clone();
        for at in &missing {
            received[*at] = 0xaa;
        }
        let mut rebuilt = 0;
        // Turns are bounded in one call, not in all.
        loop {
            let now = repair.rebuild(&mut received, &mut gaps);
            rebuilt += now;
            if now == 0 {
                break;
            }
        }
        let unknown = unsolvable(&missing, &lost_parity, strides);
        prop_assert_eq!(&gaps, &gaps_of(&unknown, count));
        prop_assert_eq!(rebuilt, missing.len() - unknown.len());
        for at in 0..count {
            let expected = if unknown.contains(&at) { 0xaa } else { honest[at] };
            prop_assert_eq!(received[at], expected, "byte {}", at);
        }
    }

    #[test]
    fn planes_that_lie_or_do_not_fit_do_no_harm(
        seed: u64,
        lost in ranges(300),
        strides in [1_usize..40, 1_usize..40],
        pieces in prop::collection::vec((0_usize..100, 0_usize..50), 0..8),
    ) {
        let mut repair = Repair::new(strides);
        let sum: usize = strides.iter().sum();
        for (offset, count) in pieces {
            let fits = offset + count <= sum;
            prop_assert_eq!(repair.receive(offset, &bytes_of(seed, count)).is_ok(), fits);
        }
        prop_assert!(repair.receive(usize::MAX, &[0]).is_err());
        let missing = cut(&lost, 300);
        let honest = bytes_of(seed, 300);
        let (mut received, mut gaps) = (honest.clone(), gaps_of(&missing, 300));
        repair.rebuild(&mut received, &mut gaps);
        for at in (0..300).filter(|at| !missing.contains(at)) {
            prop_assert_eq!(received[at], honest[at]);
        }
    }

    #[test]
    fn gaps_are_what_was_not_filled(
        fills in prop::collection::vec((0_usize..200, 0_usize..40), 0..20),
        seen in (0_usize..200, 0_usize..60),
    ) {
        let mut missing: BTreeSet<_> = (0..200).collect();
        let mut gaps = Gaps::of(0..200);
        for (start, len) in fills {
            let range = start..start + len;
            let count = range.clone().filter(|at| missing.remove(at)).count();
            prop_assert_eq!(gaps.fill(range), count);
        }
        let seen = seen.0..seen.0 + seen.1;
        let within: BTreeSet<_> = gaps.within(seen.clone()).flatten().collect();
        let expected: BTreeSet<_> = missing.iter().copied().filter(|at| seen.contains(at)).collect();
        prop_assert_eq!(within, expected);
        prop_assert_eq!(gaps.is_empty(), missing.is_empty());
    }
}

/// The share of layers that some lost packets make incomplete and parity does not complete, of many
/// of so many packets on a path that loses one in `one_in`.
fn lost_share(packet_count: usize, one_in: u64) -> f64 {
    const LAYERS: u64 = 300;
    let recent = PacketCounts {
        sent: one_in * 100,
        lost: 100,
    };
    let count = packet_count * PACKET_BYTES;
    let strides = strides_for(count, PACKET_BYTES, recent).expect("losses call for parity");
    let parity: usize = strides.iter().sum();
    println!("{} of {packet_count} packets", parity / PACKET_BYTES);
    assert!(parity * 6 <= count, "{parity} bytes protect {count}");
    let mut incomplete = 0.0;
    let mut chance = bytes_of(11, 8 * usize::try_from(LAYERS).unwrap() * packet_count * 2)
        .chunks_exact(8)
        .map(|draw| u64::from_le_bytes(draw.try_into().unwrap()) % one_in == 0)
        .collect::<Vec<_>>()
        .into_iter();
    for _ in 0..LAYERS {
        let mut gaps = Gaps::of(0..count);
        for packet in (0..packet_count).filter(|_| !chance.next().unwrap()) {
            gaps.fill(packet * PACKET_BYTES..(packet + 1) * PACKET_BYTES);
        }
        let mut repair = Repair::new(strides);
        let zeros = [0; PACKET_BYTES];
        for packet in (0..parity / PACKET_BYTES).filter(|_| !chance.next().unwrap()) {
            repair.receive(packet * PACKET_BYTES, &zeros).unwrap();
        }
        repair.rebuild(&mut vec![0; count], &mut gaps);
        incomplete += f64::from(u8::from(!gaps.is_empty()));
    }
    incomplete / LAYERS as f64
}

#[test]
fn planes_are_long_enough_for_the_loss_they_are_for() {
    // Without parity, nine layers in ten of 3 MiB miss something at one lost in a thousand.
    for (packet_count, one_in) in [(2200, 1000), (2200, 200), (260, 1000), (700, 10_000)] {
        let share = lost_share(packet_count, one_in);
        println!("{packet_count} packets, one lost in {one_in}: {share}");
        assert!(share <= 0.04, "{share} of the layers stay incomplete");
    }
}

#[test]
fn parity_is_for_paths_that_lose_some_packets() {
    let strides =
        |bytes, lost| strides_for(bytes, PACKET_BYTES, PacketCounts { sent: 10_000, lost });
    assert_eq!(strides(3 << 20, 0), None, "nothing is lost");
    assert_eq!(strides(10_000, 10), None, "a layer of few packets");
    assert_eq!(strides(3 << 20, 1_000), None, "far too much is lost");
    let least = [4 * PACKET_BYTES, 6 * PACKET_BYTES];
    assert_eq!(strides(3 << 20, 1), Some(least));
    let none = PacketCounts::default();
    assert_eq!(strides_for(0, 0, none), None);
    let absurd = PacketCounts {
        sent: 0,
        lost: u64::MAX,
    };
    assert_eq!(strides_for(usize::MAX, 1, absurd), None);
}

#[test]
fn old_losses_are_forgotten_and_another_path_begins_anew() {
    let mut meter = LossMeter::default();
    let counts = |sent, lost| PacketCounts { sent, lost };
    assert_eq!(meter.recent(counts(20_000, 20)), counts(20_000, 20));
    assert_eq!(meter.recent(counts(30_000, 21)), counts(30_000, 21));
    assert_eq!(meter.recent(counts(40_000, 21)), counts(40_000, 21));
    assert_eq!(meter.recent(counts(60_000, 21)), counts(40_000, 1));
    assert_eq!(meter.recent(counts(61_000, 21)), counts(21_000, 0));
    assert_eq!(meter.recent(counts(10, 1)), counts(10, 1));
    assert_eq!(meter.recent(counts(20, 1)), counts(20, 1));
}
