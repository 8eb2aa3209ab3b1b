//! The controller over a simulated bottleneck: how much of it is used, how long its queue gets,
//! and what becomes of links that share it.

use std::time::Duration;

use edgeprompt_testkit::emulator::{
    BitRate, DirectionProfile, NamedLink, Probability, RateSchedule,
};

use super::simulation::{PACKET_BYTES, Simulation};
use crate::config::LinkEstimate;

const SECOND: Duration = Duration::from_secs(1);

/// One way of the paths here: 50 ms of round trip, as a distant cloud has.
const DELAY: Duration = Duration::from_millis(25);

/// A path of so many megabits each second whose queue holds `queue_quarters` quarters of what is
/// on its way.
fn path(megabits: u64, queue_quarters: u64) -> DirectionProfile {
    let rate = BitRate::megabits_per_second(megabits);
    let in_flight = bytes_of(megabits, DELAY * 2);
    DirectionProfile {
        queue_bytes_max: in_flight * queue_quarters / 4,
        ..DirectionProfile::constant(rate, DELAY)
    }
}

fn bytes_of(megabits: u64, time: Duration) -> u64 {
    crate::BitRate::megabits_per_second(megabits).bytes_in(time)
}

/// What of a path is used in `time`, in percent.
fn used_percent(arrived: &[u64], megabits: u64, time: Duration) -> u64 {
    100 * arrived.iter().sum::<u64>() / bytes_of(megabits, time)
}

#[test]
fn one_link_keeps_the_path_busy_whatever_its_queue() {
    for megabits in [50, 200, 1000] {
        for queue_quarters in [2, 4, 16] {
            for loss in [0, 1_000, 10_000] {
                let profile =
                    path(megabits, queue_quarters).with_loss(Probability::per_million(loss));
                let mut simulation = Simulation::over(profile, 7);
                simulation.add_flow();
                let first = simulation.run(SECOND);
                let start_queue = simulation.queue_bytes_max;
                simulation.run(SECOND);
                let arrived = simulation.run(5 * SECOND);
                let used = used_percent(&arrived, megabits, 5 * SECOND);
                let queue = 100 * simulation.queue_bytes_max / bytes_of(megabits, DELAY * 2);
                let lost = simulation.flow(0).lost_packets;
                println!(
                    "{megabits} Mbit/s, queue {queue_quarters}/4, loss {loss}: {used} % used, \
                     first second {}, start queue {} %, queue {queue} %, {lost} lost",
                    used_percent(&first, megabits, SECOND),
                    100 * start_queue / bytes_of(megabits, DELAY * 2),
                );
                assert!(used >= 95, "{used} % used");
                assert!(queue <= 80, "a queue of {queue} % of what is on its way");
            }
        }
    }
}

#[test]
fn a_path_that_changes_its_rate_is_followed() {
    for (before, after) in [(400, 100), (400, 200), (50, 400), (100, 150)] {
        let mut simulation = Simulation::over(path(before, 4), 3);
        simulation.add_flow();
        simulation.run(5 * SECOND);
        simulation.set_rate(RateSchedule::constant(BitRate::megabits_per_second(after)));
        let first = simulation.run(2 * SECOND);
        let arrived = simulation.run(2 * SECOND);
        let (first, used) = (
            used_percent(&first, after, 2 * SECOND),
            used_percent(&arrived, after, 2 * SECOND),
        );
        let queue = 100 * simulation.queue_bytes_max / bytes_of(after, DELAY * 2);
        println!("{before} to {after} Mbit/s: {first} % used, then {used} %, queue {queue} %");
        assert!(first >= 60 && used >= 95, "{first} % used, then {used} %");
        assert!(queue <= 80, "a queue of {queue} %");
    }
}

#[test]
fn links_share_a_path() {
    for queue_quarters in [2, 4, 16] {
        for loss in [0, 1_000] {
            let profile = path(200, queue_quarters).with_loss(Probability::per_million(loss));
            let mut simulation = Simulation::over(profile, 5);
            simulation.add_flow();
            simulation.run(3 * SECOND);
            simulation.add_flow();
            let mut shares = Vec::new();
            for _ in 0..6 {
                let arrived = simulation.run(5 * SECOND);
                let sum: u64 = arrived.iter().sum();
                shares.push(100 * arrived[1] / sum);
                println!(
                    "  {} % of the path, {:?}",
                    used_percent(&arrived, 200, 5 * SECOND),
                    arrived
                );
            }
            let queue = 100 * simulation.queue_bytes_max / bytes_of(200, DELAY * 2);
            println!("queue {queue_quarters}/4, loss {loss}: shares {shares:?} %, queue {queue} %");
            assert!((30..=70).contains(shares.last().unwrap()), "{shares:?}");
        }
    }
}

#[test]
fn jitter_is_not_taken_for_a_queue() {
    for link in NamedLink::ALL {
        let EmulatedRate { megabits, profile } = down(link);
        let mut simulation = Simulation::over(profile, 2);
        simulation.add_flow();
        simulation.run(3 * SECOND);
        let arrived = simulation.run(5 * SECOND);
        let used = used_percent(&arrived, megabits, 5 * SECOND);
        println!("{link}: {used} % used");
        assert!(used >= 85, "{link}: {used} % used");
    }
}

#[test]
fn round_trips_that_vary_by_chance_do_not_end_the_growth() {
    for megabits in [50, 200] {
        let profile = path(megabits, 4).with_jitter(Duration::from_millis(20));
        let mut simulation = Simulation::over(profile, 2);
        simulation.add_flow();
        simulation.run(5 * SECOND);
        let arrived = simulation.run(5 * SECOND);
        let used = used_percent(&arrived, megabits, 5 * SECOND);
        println!("{megabits} Mbit/s: {used} % used");
        assert!(used >= 90, "{used} % used");
    }
}

struct EmulatedRate {
    megabits: u64,
    profile: DirectionProfile,
}

fn down(link: NamedLink) -> EmulatedRate {
    let profile = link.link(1).down;
    let megabits = profile.rate.mean().bytes_in(SECOND) * 8 / 1_000_000;
    EmulatedRate { megabits, profile }
}

#[test]
fn pauses_are_no_reason_to_forget() {
    let mut simulation = Simulation::over(path(400, 4), 1);
    let flow = simulation.add_flow();
    simulation.run(2 * SECOND);
    let learnt = simulation.flow(flow).controller.estimate().unwrap();
    for _ in 0..20 {
        // A small layer now and then: the cloud computes more slowly than the link sends.
        simulation.supply(flow, 300 << 10);
        let arrived = simulation.run(Duration::from_millis(200));
        assert!(arrived[0] > 300_000, "{arrived:?}");
    }
    let kept = simulation.flow(flow).controller.estimate().unwrap();
    println!("{learnt:?}, later {kept:?}");
    assert!(kept.rate >= learnt.rate.part(9, 10), "{kept:?}");
}

#[test]
fn heavy_loss_is_given_way_to() {
    let profile = path(200, 4).with_loss(Probability::per_million(100_000));
    let mut simulation = Simulation::over(profile, 4);
    simulation.add_flow();
    simulation.run(5 * SECOND);
    let arrived = simulation.run(5 * SECOND);
    let used = used_percent(&arrived, 200, 5 * SECOND);
    println!("{used} % used");
    assert!(used <= 50, "{used} % used");
}

#[test]
fn a_remembered_path_is_half_believed() {
    let rate = crate::BitRate::megabits_per_second(400);
    let hint = LinkEstimate {
        rate,
        rtt: DELAY * 2,
    };
    let early = |hint: Option<LinkEstimate>, megabits| {
        let mut simulation = Simulation::over(path(megabits, 4), 6);
        let flow = simulation.add_flow();
        if let Some(hint) = hint {
            simulation.flow(flow).controller.set_hint(hint);
        }
        let arrived = simulation.run(Duration::from_millis(400));
        let lost = simulation.flow(flow).lost_packets;
        println!("{megabits} Mbit/s: {arrived:?}, {lost} lost");
        (arrived[0], lost)
    };
    let (blind, _) = early(None, 400);
    let (resumed, lost) = early(Some(hint), 400);
    assert!(resumed > 2 * blind, "{resumed} bytes against {blind}");
    let packets = resumed / u64::from(PACKET_BYTES);
    assert!(lost < packets / 20, "{lost} of {packets} lost");
    // The path has become a quarter as fast: no collapse, and no more than the half sent blindly.
    let (slower, _) = early(Some(hint), 100);
    assert!(
        slower > bytes_of(100, Duration::from_millis(200)),
        "{slower}"
    );
    // Another round trip is another path.
    let elsewhere = LinkEstimate {
        rtt: DELAY * 10,
        ..hint
    };
    assert_eq!(early(Some(elsewhere), 400).0, blind);
}

#[test]
fn a_sender_that_stands_still_now_and_then_uses_the_rest() {
    for (stall_ms, period_ms) in [(30, 97), (40, 200), (200, 1000)] {
        for (delay_ms, queue_quarters) in [(1, 4), (5, 2), (5, 16), (25, 4)] {
            let delay = Duration::from_millis(delay_ms);
            let profile = DirectionProfile {
                queue_bytes_max: bytes_of(200, delay * 2) * queue_quarters / 4,
                ..DirectionProfile::constant(BitRate::megabits_per_second(200), delay)
            };
            let mut simulation = Simulation::over(profile, 7);
            simulation.add_flow();
            simulation.run(2 * SECOND);
            let [stall, period] = [stall_ms, period_ms].map(Duration::from_millis);
            simulation.stall(stall, period);
            let arrived = simulation.run(5 * SECOND);
            let used = used_percent(&arrived, 200, 5 * SECOND);
            let rest = 100 - 100 * stall_ms / period_ms;
            println!(
                "{stall_ms} of {period_ms} ms, delay {delay_ms} ms, queue {queue_quarters}/4: \
                 {used} % used of {rest} %"
            );
            assert!(used >= rest * 9 / 10, "{used} % used of {rest} %");
        }
    }
}
