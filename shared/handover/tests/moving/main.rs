//! Sessions that move between nodes while messages are lost, late, repeated and reordered, links are
//! cut and nodes die: no token is lost, repeated or out of order, there are never two owners, and
//! every session ends somewhere.
//!
//! The world is simulated from a seed: the same seed is the same run.

mod faults;
mod message;
mod world;

use faults::Faults;
use world::{Ending, World};

/// Sessions, each from a seed of its own.
fn run(seeds: std::ops::Range<u64>, faults: Faults) -> (u64, u64, u64) {
    let (mut moves, mut ended, mut failed) = (0, 0, 0);
    for seed in seeds {
        let mut world = World::new(seed, faults);
        match world.run() {
            Ending::Whole => ended += 1,
            Ending::Failed => failed += 1,
        }
        moves += world.moves;
    }
    (moves, ended, failed)
}

#[test]
fn without_faults_every_session_moves_and_ends_whole() {
    let (moves, ended, failed) = run(0..500, Faults::NONE);
    println!("{moves} moves, {ended} sessions whole, {failed} lost");
    assert_eq!((ended, failed), (500, 0));
    assert!(moves >= 1500, "{moves}");
}

#[test]
fn loss_and_disorder_cost_time_and_nothing_else() {
    let faults = Faults {
        lost: 0.2,
        repeated: 0.2,
        delay_ms_max: 60,
        ..Faults::NONE
    };
    let (moves, ended, failed) = run(1000..3000, faults);
    println!("{moves} moves, {ended} sessions whole, {failed} lost");
    assert_eq!((ended, failed), (2000, 0));
}

/// 100,000 handovers and more.
#[test]
fn whatever_happens_no_token_is_lost_and_nobody_is_owner_twice() {
    let (mut moves, mut ended, mut failed) = (0, 0, 0);
    let mut seed = 1 << 20;
    while moves < 100_000 {
        let faults = Faults {
            lost: 0.05,
            repeated: 0.05,
            delay_ms_max: 40,
            crashes_per_second: 0.3,
            cuts_per_second: 0.5,
        };
        let (more, whole, lost) = run(seed..seed + 500, faults);
        (moves, ended, failed) = (moves + more, ended + whole, failed + lost);
        seed += 500;
    }
    println!(
        "{moves} moves, {ended} sessions whole, {failed} lost, seeds {}..{seed}",
        1 << 20
    );
    // A session is lost only if no node can be reached for as long as its reader tries.
    assert!(failed * 20 < ended, "{failed} lost, {ended} whole");
}
