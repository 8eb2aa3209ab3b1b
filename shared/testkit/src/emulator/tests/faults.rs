//! Faults in virtual time: a clock that stops, a cut, damage.

use std::time::Duration;

use crate::emulator::faults::{Condition, Corruptor};
use crate::emulator::lane::{ClientIndex, HELD_BYTES_MAX, Lane, Packet};
use crate::emulator::{BitRate, Direction, DirectionProfile, EmulatedLink, Probability};

const MS: Duration = Duration::from_millis(1);

fn packet(payload: &[u8]) -> Packet {
    Packet {
        client: ClientIndex(0),
        ecn: None,
        payload: payload.to_vec(),
    }
}

fn lane(profile: DirectionProfile, seed: u64) -> Lane {
    let link = EmulatedLink::symmetric(profile, seed);
    Lane::new(link.down.clone(), link.seed_of(Direction::Down))
}

#[test]
fn a_stalled_link_goes_on_where_it_stood() {
    let mut condition = Condition::RUNNING;
    assert_eq!(condition.link_time(5 * MS), 5 * MS);
    condition.stall(6 * MS);
    // A second stall changes nothing.
    condition.stall(8 * MS);
    assert_eq!(condition.link_time(30 * MS), 6 * MS);
    assert_eq!(condition.wait_for(7 * MS, 30 * MS), None);
    condition.resume(36 * MS);
    assert_eq!(condition.link_time(37 * MS), 7 * MS);
    assert_eq!(condition.wait_for(9 * MS, 37 * MS), Some(2 * MS));
    assert_eq!(condition.wait_for(9 * MS, 50 * MS), Some(Duration::ZERO));
    condition.stall(40 * MS);
    condition.cut(50 * MS);
    assert!(condition.is_cut() && !condition.is_stalled());
    assert_eq!(condition.link_time(60 * MS), 20 * MS);
    condition.resume(60 * MS);
    assert!(!condition.is_cut());
    assert_eq!(condition.link_time(60 * MS), 20 * MS);
}

#[test]
fn a_lane_accounts_for_every_packet() {
    let seed = 11;
    println!("seed {seed}");
    let queue_bytes_max = 100_000;
    let profile = DirectionProfile {
        queue_bytes_max,
        ..DirectionProfile::constant(BitRate::megabits_per_second(10), 5 * MS)
            .with_loss(Probability::per_million(100_000))
    };
    let mut lane = lane(profile, seed);
    for number in 0..200_u8 {
        lane.accept(Duration::ZERO, packet(&[number; 1_250]));
    }
    let mut numbers = Vec::new();
    while let Some(packet) = lane.pop_due(40 * MS + MS / 2) {
        assert!(packet.payload.len() == 1_250);
        numbers.push(packet.payload[0]);
    }
    assert!(numbers.is_sorted() && !numbers.is_empty());
    lane.count_delivered(numbers.len() as u64, 0);
    let before = lane.stats();
    assert!(before.lost_packet_count > 0 && before.queue_full_packet_count > 0);
    assert!(before.held_packet_count > 0 && lane.next_due().is_some());
    lane.cut();
    lane.refuse(&packet(b"late"));
    let stats = lane.stats();
    assert_eq!(stats.cut_packet_count, before.held_packet_count + 1);
    let accounted = stats.delivered_packet_count
        + stats.lost_packet_count
        + stats.queue_full_packet_count
        + stats.cut_packet_count;
    assert_eq!(stats.received_packet_count, accounted);
    assert_eq!((stats.held_packet_count, lane.next_due()), (0, None));
    assert!(stats.lateness_max < 36 * MS && stats.lateness_mean() <= stats.lateness_max);
}

#[test]
fn packets_of_one_moment_keep_their_order() {
    let mut lane = lane(DirectionProfile::constant(BitRate::UNLIMITED, MS), 0);
    for number in 0..100_u8 {
        lane.accept(Duration::ZERO, packet(&[number]));
    }
    assert_eq!(lane.pop_due(MS / 2), None);
    let popped = std::iter::from_fn(|| lane.pop_due(2 * MS));
    let numbers: Vec<u8> = popped.map(|packet| packet.payload[0]).collect();
    assert_eq!(numbers, (0..100).collect::<Vec<_>>());
}

#[test]
fn no_more_is_held_than_the_bound() {
    let mut lane = lane(
        DirectionProfile::constant(BitRate::UNLIMITED, 1_000 * MS),
        0,
    );
    let bytes = 1 << 16;
    let room = HELD_BYTES_MAX / bytes;
    for number in 0..room as u64 + 3 {
        lane.accept(Duration::from_micros(number), packet(&vec![0; bytes]));
    }
    let stats = lane.stats();
    assert_eq!(stats.held_packet_count, room as u64);
    assert_eq!(stats.overrun_packet_count, 3);
    // What has left makes room again.
    while lane.pop_due(2_000 * MS).is_some() {}
    lane.accept(2_000 * MS, packet(b"after"));
    assert_eq!(lane.stats().overrun_packet_count, 3);
}

#[test]
fn damage_changes_some_bytes_of_some_packets() {
    let seed = 5;
    println!("seed {seed}");
    let profile = DirectionProfile::constant(BitRate::UNLIMITED, MS);
    let seeded = EmulatedLink::symmetric(profile, seed).seed_of(Direction::Up);
    let damage = || {
        let mut corruptor = Corruptor::new(seeded);
        corruptor.set(Probability::per_million(250_000));
        let pass = |_| {
            let mut payload = [9; 40];
            let was_damaged = corruptor.pass(&mut payload);
            let changed = payload.iter().filter(|byte| **byte != 9).count();
            assert_eq!(was_damaged, (1..=3).contains(&changed));
            assert_eq!(was_damaged, changed > 0);
            payload
        };
        (0..1_000).map(pass).collect::<Vec<_>>()
    };
    let damaged = damage()
        .iter()
        .filter(|payload| **payload != [9; 40])
        .count();
    // Five standard deviations of the binomial.
    assert!((181..=319).contains(&damaged), "{damaged}");
    assert_eq!(damage(), damage());
    let mut corruptor = Corruptor::new(seeded);
    assert!(!corruptor.pass(&mut [1]));
    corruptor.set(Probability::ALWAYS);
    assert!(!corruptor.pass(&mut []));
    // Often enough that a change by nothing, one in 256, would have come.
    for _ in 0..10_000 {
        let mut payload = [9];
        assert!(corruptor.pass(&mut payload) && payload != [9]);
    }
}
