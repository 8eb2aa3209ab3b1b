//! Ours against every placement there is, and against itself with more resources.

mod instances;

use edgeprompt_placement::{
    Dataflow, Device, DeviceId, Instance, JobCost, Link, Part, Placement, PlanError, Proof, Stage,
    WeightCopy, Workload, baseline,
    exact::{self, Effort},
    is_feasible, step_seconds,
};
use instances::{Before, Case, papers, star};
use proptest::prelude::*;

/// Both compute in doubles, in another order.
const ROUNDING: f64 = 1e-9;

/// Ours and the oracle agree on whether there is a placement and on how good the best one is.
fn check(case: &Case) -> Result<(), TestCaseError> {
    let instance = case.instance();
    let ours = exact::plan(&instance);
    match baseline::exhaustive(&instance) {
        Ok(best) => {
            let ours = ours.expect("the oracle has a placement");
            let (ours_s, best_s) = (
                ours.objective_seconds(&instance),
                best.objective_seconds(&instance),
            );
            prop_assert!(
                (ours_s - best_s).abs() <= ROUNDING * best_s,
                "ours {ours_s} at {:?}, best {best_s} at {:?}",
                ours.counts,
                best.counts
            );
            prop_assert_eq!(ours.proof, Proof::Optimal);
        }
        Err(_) => prop_assert!(
            !matches!(ours, Ok(_) | Err(PlanError::NotFound)),
            "{ours:?} where there is nothing"
        ),
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1200))]

    #[test]
    fn ours_is_the_best_of_all_placements(case in star(Before::Nothing, 4000)) {
        check(&case)?;
    }

    #[test]
    fn ours_is_the_best_of_all_placements_after_another(case in star(Before::Something, 4000)) {
        check(&case)?;
    }

    #[test]
    fn ours_is_the_best_in_the_papers_dataflow(case in papers(Before::Nothing)) {
        check(&case)?;
    }

    #[test]
    fn ours_is_the_best_in_the_papers_dataflow_after_another(case in papers(Before::Something)) {
        check(&case)?;
    }
}

/// One more of something.
#[derive(Clone, Copy, Debug)]
enum More {
    Compute,
    Memory,
    Rate,
    LessDelay,
    Weights,
    Device,
}

fn more() -> impl Strategy<Value = More> {
    prop_oneof![
        Just(More::Compute),
        Just(More::Memory),
        Just(More::Rate),
        Just(More::LessDelay),
        Just(More::Weights),
        Just(More::Device),
    ]
}

fn improved(case: &Case, which: usize, more: More) -> Instance {
    let mut case = case.clone();
    let at = which % case.devices.len();
    let device = &mut case.devices[at];
    match more {
        More::Compute => device.flops_per_second *= 1.5,
        More::Memory => device.memory_bytes += device.memory_bytes / 2,
        More::Rate => device.link.bits_per_second *= 2.0,
        More::LessDelay => device.link.one_way_seconds /= 2.0,
        More::Weights => device.weights = WeightCopy::Whole,
        More::Device => case.devices.push(Device {
            id: DeviceId(1000),
            flops_per_second: 2e10,
            memory_bytes: 10_000,
            link: Link {
                bits_per_second: 1e9,
                one_way_seconds: 1e-4,
            },
            weights: WeightCopy::OfItsJobs,
        }),
    }
    case.instance()
}

fn check_more(case: &Case, which: usize, more: More) -> Result<(), TestCaseError> {
    let before = case.instance();
    let Ok(plan) = exact::plan(&before) else {
        return Ok(());
    };
    prop_assert_eq!(plan.proof, Proof::Optimal);
    let after = improved(case, which, more);
    let better = exact::plan(&after).expect("what fitted still fits");
    // With one device more there may be too many placements to try them all between two tokens.
    let better = match better.proof {
        Proof::Optimal => better,
        Proof::AtLeast(_) | Proof::Heuristic => {
            exact::plan_within(&after, Effort::THOROUGH).expect("there is one")
        }
    };
    prop_assert_eq!(better.proof, Proof::Optimal);
    let (old, new) = (
        plan.objective_seconds(&before),
        better.objective_seconds(&after),
    );
    prop_assert!(
        new <= old * (1.0 + ROUNDING),
        "{old} became {new} with more {more:?}"
    );
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(600))]

    #[test]
    fn more_resources_never_make_it_slower(
        case in star(Before::Nothing, 100_000), which in 0..5_usize, more in more()
    ) {
        check_more(&case, which, more)?;
    }

    #[test]
    fn more_resources_never_make_moving_worse(
        case in star(Before::Something, 100_000), which in 0..5_usize, more in more()
    ) {
        check_more(&case, which, more)?;
    }
}

/// Two layers of four heads on three devices, the first of which is the leader.
fn three_devices() -> (Vec<Device>, Workload) {
    let device = |id, flops_per_second, rate| Device {
        id: DeviceId(id),
        flops_per_second,
        memory_bytes: 20,
        link: Link {
            bits_per_second: rate,
            one_way_seconds: 1e-4,
        },
        weights: WeightCopy::OfItsJobs,
    };
    let job = JobCost {
        flops: 1e6,
        weight_bytes: 3,
        state_bytes: 2,
        scratch_bytes: 0,
    };
    let stage = |layer| Stage {
        layer,
        part: Part::Heads,
        job_count: 4,
        job,
        scatter_bytes: 100,
        gather_bytes: 100,
    };
    let workload = Workload {
        stages: vec![stage(0), stage(1)],
        dataflow: Dataflow::Star,
        leader_flops: 0.0,
        leader_bytes: 0,
    };
    let devices = vec![
        device(0, 1e9, 1e9),
        device(1, 3e9, 4e8),
        device(2, 2e9, 2e6),
    ];
    (devices, workload)
}

/// Owners job by job instead of counts: nothing is better than the best counts.
#[test]
fn counts_are_enough() {
    let (devices, workload) = three_devices();
    let rates = [1e9, 4e8, 2e6];
    let placement = |code: u32| {
        let owner = |job: u32| DeviceId(code / 3_u32.pow(job) % 3);
        Placement::new(vec![
            (0..4).map(owner).collect(),
            (4..8).map(owner).collect(),
        ])
    };
    let previous = placement(4711);
    let instance = Instance::new(devices, workload, Some(previous.clone()), 10).unwrap();
    // A job that has another owner leaves over one link and arrives over another.
    let seconds = |id: &DeviceId, bytes: f64| match id.0 {
        0 => 0.0,
        index => bytes * 8.0 / rates[index as usize],
    };
    let mut best = f64::INFINITY;
    for code in 0..3_u32.pow(8) {
        let candidate = placement(code);
        let counts = candidate.counts(instance.devices());
        if !is_feasible(&instance, &counts) {
            continue;
        }
        let step = step_seconds(&instance, &counts, Dataflow::Star).unwrap();
        let owners = candidate.owners().iter().flatten();
        let pairs = owners.zip(previous.owners().iter().flatten());
        let moved = pairs.filter(|(to, from)| to != from);
        let moving = moved.map(|(to, from)| seconds(from, 2.0) + seconds(to, 5.0));
        best = best.min(step + moving.sum::<f64>() / 10.0);
    }
    let ours = exact::plan(&instance).unwrap();
    let ours = ours.objective_seconds(&instance);
    assert!(
        (ours - best).abs() <= ROUNDING * best,
        "ours {ours}, best {best}"
    );
}
