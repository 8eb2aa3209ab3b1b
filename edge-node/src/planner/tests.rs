//! What is planned from what was measured, and what it is said to take.

use std::time::Instant;

use edgeprompt_telemetry::flow_shop::{Pipeline, StageTimes};
use edgeprompt_transport::BitRate;
use proptest::prelude::*;

use super::*;
use crate::own_speed::OwnSpeed;

const LAYER_COUNT: u32 = 6;
const TOKEN_COUNT: usize = 125;

fn ms(ms: u64) -> Duration {
    Duration::from_millis(ms)
}

/// A layer has 10,000 bytes.
fn job() -> Job {
    Job::new(KvGeometry::new(LAYER_COUNT, 1, 10).unwrap(), TOKEN_COUNT)
}

/// Computes a layer of the job in so many milliseconds.
fn planner(computing: u64) -> Planner {
    Planner::new(PrefillSpeed::new(ms(computing), TOKEN_COUNT))
}

/// Reads a layer of the job in so many milliseconds.
fn disk(reading: u64) -> OnDisk {
    let (bytes, time) = (40_000, ms(4 * reading));
    OnDisk {
        dtype: KvDtype::F32,
        speed: Known::Measured(ReadSpeed { bytes, time }),
    }
}

/// Computes a layer of the job and sends one in so many milliseconds, over such a round trip.
fn cloud(computing: u64, sending: u64, rtt: u64) -> FromCloud {
    FromCloud {
        codecs: Codecs::default(),
        speed: Known::Measured(estimate(computing, sending, rtt)),
    }
}

const UNMEASURED: FromCloud = FromCloud {
    codecs: Codecs::Only(KvDtype::F32),
    speed: Known::Unmeasured,
};

fn estimate(computing: u64, sending: u64, rtt: u64) -> CloudEstimate {
    CloudEstimate {
        link: LinkEstimate {
            // 80,000 bits each millisecond send one layer in it.
            rate: BitRate::bits_per_second(80_000_000 / sending.max(1)),
            rtt: ms(rtt),
        },
        speed: PrefillSpeed::new(ms(computing), TOKEN_COUNT),
    }
}

fn peer(index: usize, cloud: FromCloud) -> Peer {
    Peer {
        index,
        dtype: KvDtype::F32,
        speed: cloud.speed,
    }
}

fn planned(planner: &Planner, ways: &Ways) -> Source {
    planner.plan(&job(), ways).unwrap().source()
}

/// Within the precision of a rate in bytes each second.
fn close(found: Option<Duration>, expected: Duration) {
    let found = found.unwrap();
    assert!(
        found.abs_diff(expected) < ms(1),
        "{found:?}, not {expected:?}"
    );
}

/// As the formula has it: layers from the cloud alone, or none.
fn flow_shop(stages: [u64; 3], t_prefix: u64) -> Duration {
    let [cloud_compute, transfer, edge_compute] = stages.map(ms);
    let stages = StageTimes {
        cloud_compute,
        transfer,
        edge_compute,
    };
    let layers = vec![stages; LAYER_COUNT as usize];
    let t_prefix = ms(t_prefix);
    Pipeline { t_prefix, layers }.flow_shop()
}

#[test]
fn what_is_asked_for_follows_the_link() {
    let planned = |sending| {
        let ways = Ways {
            cloud: Some(cloud(0, sending, 1)),
            tokens: Tokens::Known,
            ..Ways::default()
        };
        planned(&planner(10), &ways)
    };
    assert_eq!(planned(1), Source::Cloud);
    assert_eq!(planned(10), Source::Hybrid(LayerIndex(2)));
    assert_eq!(planned(1000), Source::Local, "streaming loses");
}

#[test]
fn a_slow_disk_and_a_slow_neighbour_are_declined() {
    let mut ways = Ways {
        disk: Some(disk(5)),
        peers: vec![peer(0, cloud(0, 30, 1)), peer(1, cloud(0, 12, 1))],
        cloud: Some(cloud(20, 5, 40)),
        tokens: Tokens::Known,
        ..Ways::default()
    };
    assert_eq!(planned(&planner(50), &ways), Source::Disk);
    ways.disk = Some(disk(500));
    assert_eq!(planned(&planner(50), &ways), Source::Peer(1));
    ways.peers.clear();
    assert_eq!(planned(&planner(50), &ways), Source::Cloud);
    assert_eq!(planned(&planner(4), &ways), Source::Local);
    ways.tokens = Tokens::Unknown;
    ways.cloud = None;
    assert_eq!(
        planned(&planner(4), &ways),
        Source::Disk,
        "there is no other"
    );
    ways.is_in_memory = true;
    let plan = planner(4).plan(&job(), &ways).unwrap();
    assert_eq!(plan.source(), Source::Memory);
    assert_eq!(plan.until_last_layer(), Some(Duration::ZERO));
    assert_eq!(planner(4).plan(&job(), &Ways::default()), None);
}

#[test]
fn what_was_not_measured_is_tried_unless_something_nearer_is_known_to_be_best() {
    let unmeasured = Ways {
        cloud: Some(UNMEASURED),
        tokens: Tokens::Known,
        ..Ways::default()
    };
    let plan = planner(10).plan(&job(), &unmeasured).unwrap();
    assert_eq!(
        (plan.source(), plan.until_last_layer()),
        (Source::Cloud, None)
    );
    // Computing here would have taken 60 ms.
    assert_eq!(plan.regret(ms(90)), Some(ms(30)));
    assert_eq!(plan.regret(ms(50)), Some(Duration::ZERO));
    let mut ways = Ways {
        disk: Some(disk(1)),
        peers: vec![peer(0, UNMEASURED)],
        ..unmeasured
    };
    assert_eq!(planned(&planner(10), &ways), Source::Disk);
    ways.disk = Some(disk(100));
    assert_eq!(planned(&planner(10), &ways), Source::Peer(0));
    ways.disk = Some(OnDisk {
        dtype: KvDtype::F32,
        speed: Known::Unmeasured,
    });
    assert_eq!(planned(&planner(10), &ways), Source::Disk);
}

#[test]
fn differences_that_nobody_notices_send_nobody_farther() {
    let ways = Ways {
        disk: Some(disk(2)),
        peers: vec![peer(0, cloud(0, 1, 0))],
        tokens: Tokens::Known,
        ..Ways::default()
    };
    assert_eq!(planned(&planner(0), &ways), Source::Disk);
}

#[test]
fn smaller_numbers_come_sooner() {
    let of = |dtype| {
        let codecs = Codecs::Only(dtype);
        let cloud = Some(FromCloud {
            codecs,
            ..cloud(0, 40, 0)
        });
        let ways = Ways {
            cloud,
            ..Ways::default()
        };
        let plan = planner(0).plan(&job(), &ways).unwrap();
        let disk = Some(OnDisk { dtype, ..disk(40) });
        let ways = Ways {
            disk,
            ..Ways::default()
        };
        let from_disk = planner(0).plan(&job(), &ways).unwrap();
        let by_disk = from_disk.until_last_layer();
        // A disk has it encoded.
        close(plan.until_last_layer(), by_disk.unwrap());
        assert_eq!(
            (plan.codec(), from_disk.codec()),
            (Some(dtype), Some(dtype))
        );
        by_disk
    };
    close(of(KvDtype::F32), ms(240));
    close(of(KvDtype::F16), ms(120));
}

#[test]
fn predictions_are_the_flow_shops() {
    let planner = planner(40);
    let mut ways = Ways {
        cloud: Some(cloud(7, 9, 11)),
        ..Ways::default()
    };
    let plan = planner.plan(&job(), &ways).unwrap();
    close(plan.until_last_layer(), flow_shop([7, 9, 0], 11));
    close(plan.until_done(ms(13)), flow_shop([7, 9, 13], 11));
    ways.tokens = Tokens::Known;
    ways.cloud = Some(cloud(100, 90, 11));
    let plan = planner.plan(&job(), &ways).unwrap();
    assert_eq!(plan.source(), Source::Local);
    close(plan.until_done(ms(13)), flow_shop([0, 0, 40 + 13], 0));
    assert_eq!(plan.first_to_fetch(), LayerIndex(LAYER_COUNT));
    ways.cloud = Some(cloud(0, 40, 5));
    let plan = planner.plan(&job(), &ways).unwrap();
    assert_eq!(plan.source(), Source::Hybrid(LayerIndex(2)));
    // Two here while four come: 5 + 4 × 40.
    close(plan.until_last_layer(), ms(165));
    // Computing all of them would have taken 240, streaming them 245.
    close(plan.regret(ms(250)), ms(10));
    let labels = [Source::Memory, Source::Disk, Source::Peer(3), Source::Cloud];
    assert_eq!(labels.map(Source::label), Source::LABELS[..4]);
    assert_eq!(plan.source().label(), "hybrid");
}

#[test]
fn what_an_edge_has_seen_of_itself_is_in_what_it_foretells() {
    let ways = Ways {
        cloud: Some(cloud(0, 40, 5)),
        tokens: Tokens::Known,
        ..Ways::default()
    };
    let (measured, now) = (PrefillSpeed::new(ms(40), TOKEN_COUNT), Instant::now());
    let own = OwnSpeed::new(measured);
    let plan = |at| Planner::new(own.at(at)).plan(&job(), &ways).unwrap();
    assert_eq!(plan(now).source(), Source::Hybrid(LayerIndex(2)));
    // Beside layers that arrive, computing takes longer.
    own.note(PrefillSpeed::new(ms(160), TOKEN_COUNT), now);
    let later = plan(now);
    assert_eq!(
        later.source(),
        Source::Cloud,
        "computing any here would delay all"
    );
    close(later.until_last_layer(), ms(245));
    let others = plan(now).best_other;
    assert_eq!(others, Some(ms(6 * 160)));
}

#[test]
fn the_fastest_number_format_within_the_budget_is_asked_for() {
    // 8.4 million numbers a layer, 34 MB of them exactly.
    let job = Job::new(KvGeometry::new(32, 8, 128).unwrap(), 4096);
    let codec = |codecs, megabits: u64| {
        let estimate = CloudEstimate {
            link: LinkEstimate {
                rate: BitRate::bits_per_second(megabits * 1_000_000),
                rtt: ms(1),
            },
            ..estimate(0, 0, 1)
        };
        let speed = Known::Measured(estimate);
        let ways = Ways {
            cloud: Some(FromCloud { codecs, speed }),
            ..Ways::default()
        };
        planner(0).plan(&job, &ways).unwrap().codec().unwrap()
    };
    let any = Codecs::UpTo(KvDtype::Int4);
    assert_eq!(codec(any, 100), KvDtype::Int4);
    // Encoding in int8 takes 22 ns a number, as long as sending one at 390 Mbit/s; in bf16 1.5 ns.
    assert_eq!(codec(any, 390), KvDtype::Int8);
    assert_eq!(codec(any, 2_000), KvDtype::Bf16);
    assert_eq!(codec(any, 40_000), KvDtype::F32);
    for megabits in [100, 2_000] {
        assert_eq!(codec(Codecs::UpTo(KvDtype::Bf16), megabits), KvDtype::Bf16);
        assert_eq!(codec(Codecs::UpTo(KvDtype::F32), megabits), KvDtype::F32);
        assert_eq!(codec(Codecs::Only(KvDtype::Int8), megabits), KvDtype::Int8);
    }
}

#[test]
fn of_formats_that_are_as_fast_the_one_that_loses_least_is_asked_for() {
    let plan = |here, sending, tokens| {
        let ways = Ways {
            cloud: Some(FromCloud {
                codecs: Codecs::UpTo(KvDtype::Int4),
                ..cloud(0, sending, 1)
            }),
            tokens,
            ..Ways::default()
        };
        planner(here).plan(&job(), &ways).unwrap()
    };
    // Whatever takes less than 20 ms is as good.
    assert_eq!(plan(0, 3, Tokens::Unknown).codec(), Some(KvDtype::F32));
    assert_eq!(plan(0, 30, Tokens::Unknown).codec(), Some(KvDtype::Int4));
    let slow = plan(100, 600, Tokens::Known);
    assert!(matches!(slow.source(), Source::Hybrid(_)), "{slow:?}");
    assert_eq!(slow.codec(), Some(KvDtype::Int4));
    let local = plan(100, 100_000, Tokens::Known);
    assert_eq!((local.source(), local.codec()), (Source::Local, None));
}

#[test]
fn a_link_that_was_not_measured_is_asked_for_as_little_as_may_be() {
    let ways = Ways {
        cloud: Some(FromCloud {
            codecs: Codecs::UpTo(KvDtype::Int8),
            speed: Known::Unmeasured,
        }),
        ..Ways::default()
    };
    let plan = planner(10).plan(&job(), &ways).unwrap();
    assert_eq!(
        (plan.source(), plan.codec()),
        (Source::Cloud, Some(KvDtype::Int8))
    );
}

/// Up to some milliseconds for each stage.
fn times() -> impl Strategy<Value = [u64; 3]> {
    [0..300_u64, 1..300_u64, 0..300_u64]
}

proptest! {
    #[test]
    fn no_plan_is_worse_than_any_single_source(
        here in 0..300_u64, read in 0..300_u64, near in times(), far in times(),
    ) {
        let stream = |[computing, sending, rtt]: [u64; 3]| cloud(computing, sending, rtt);
        let (disk, peers) = (Some(disk(read)), vec![peer(0, stream(near))]);
        let (cloud, tokens) = (Some(stream(far)), Tokens::Known);
        let ways = Ways { disk, peers: peers.clone(), cloud, tokens, ..Ways::default() };
        let planner = planner(here);
        let time = |ways: &Ways| {
            let plan = planner.plan(&job(), ways).unwrap();
            felt(plan.course.time().unwrap())
        };
        let chosen = time(&ways);
        let only = [
            Ways { disk, ..Ways::default() },
            Ways { peers, ..Ways::default() },
            Ways { cloud, ..Ways::default() },
            Ways { tokens, ..Ways::default() },
        ];
        for single in only {
            prop_assert!(chosen <= time(&single), "{single:?}");
        }
    }
}
