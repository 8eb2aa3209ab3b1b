//! What holds for every planner, and what a leader gets to hear.

mod instances;

use edgeprompt_placement::{
    Dataflow, Decision, Device, DeviceId, Instance, InstanceError, JobCost, Link, Load, ModelShape,
    Part, Placement, PlanError, Planner, Policy, Stage, WeightCopy, Workload, baseline, decide,
    exact, is_feasible, memory_bytes, real,
};
use instances::{Before, papers, star};
use proptest::prelude::*;

const PLANNERS: [(&str, Planner); 8] = [
    ("ours", exact::plan),
    ("paper", baseline::papers),
    ("first fit", baseline::first_fit),
    ("round robin", baseline::round_robin),
    ("unchanged", baseline::unchanged),
    ("edgeshard", baseline::edgeshard),
    ("tensor split", baseline::tensor_split),
    ("leader", baseline::leader_only),
];

/// Whatever a planner answers fits, and says of itself what an independent look finds.
fn check_all(instance: &Instance) -> Result<(), TestCaseError> {
    let ours = exact::plan(instance);
    for (name, planner) in PLANNERS {
        let Ok(plan) = planner(instance) else {
            continue;
        };
        prop_assert!(is_feasible(instance, &plan.counts), "{name}");
        prop_assert!(plan.placement.fits(instance.workload()), "{name}");
        prop_assert_eq!(
            &plan.placement.counts(instance.devices()),
            &plan.counts,
            "{}",
            name
        );
        let used = memory_bytes(instance, &plan.counts);
        for (index, used) in used.into_iter().enumerate() {
            let own = if index == 0 {
                instance.workload().leader_bytes
            } else {
                0
            };
            prop_assert!(
                own + used <= instance.devices()[index].memory_bytes,
                "{name}"
            );
        }
        let Ok(ours) = &ours else {
            return Err(TestCaseError::fail(format!(
                "{name} has a placement, ours has none"
            )));
        };
        if plan.dataflow == instance.workload().dataflow {
            let (ours, other) = (
                ours.objective_seconds(instance),
                plan.objective_seconds(instance),
            );
            prop_assert!(ours <= other * (1.0 + 1e-9), "{name} {other}, ours {ours}");
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn every_answer_fits(case in star(Before::Nothing, 20_000)) {
        check_all(&case.instance())?;
    }

    #[test]
    fn every_answer_fits_after_another(case in star(Before::Something, 20_000)) {
        check_all(&case.instance())?;
    }

    #[test]
    fn every_answer_fits_in_the_papers_dataflow(case in papers(Before::Something)) {
        check_all(&case.instance())?;
    }

    /// Staying is only for placements that fit; moving goes by the list of moves to the placement.
    #[test]
    fn a_decision_is_sound(case in star(Before::Something, 20_000)) {
        let instance = case.instance();
        let Ok(decision) = decide(&instance, exact::plan, &Policy::default()) else {
            return Ok(());
        };
        let previous = instance.previous().unwrap();
        match decision {
            Decision::Stay { .. } => {
                prop_assert!(is_feasible(&instance, instance.previous_counts().unwrap()));
            }
            Decision::Move(change) => {
                let mut owners = previous.owners().to_vec();
                for step in &change.moves {
                    let mut stages = instance.workload().stages.iter();
                    let at = stages.position(|it| (it.layer, it.part) == (step.layer, step.part));
                    let owner = &mut owners[at.unwrap()][step.job_index];
                    prop_assert!(step.from.is_none_or(|from| from == *owner));
                    *owner = step.to;
                }
                prop_assert_eq!(owners, change.placement.owners());
            }
        }
    }
}

const MODEL: ModelShape = ModelShape {
    layer_count: 4,
    hidden_dim: 512,
    q_head_count: 8,
    kv_head_count: 4,
    head_dim: 64,
    mlp_dim: 1024,
    vocab_len: 1000,
    weight_bytes: 4,
    kv_bytes: 4,
    hidden_bytes: 4,
};

const LOAD: Load = Load {
    sequence_count: 1,
    context_len: 256,
    headroom_len: 32,
    ffn_slice_count: 8,
};

fn device(id: u32, flops_per_second: f64) -> Device {
    Device {
        id: DeviceId(id),
        flops_per_second,
        memory_bytes: 1 << 30,
        link: Link {
            bits_per_second: 1e9,
            one_way_seconds: 1e-5,
        },
        weights: WeightCopy::Whole,
    }
}

fn planned(devices: Vec<Device>, previous: Option<Placement>, remaining_len: usize) -> Decision {
    let instance = Instance::new(devices, real(&MODEL, &LOAD), previous, remaining_len)
        .expect("sound devices");
    decide(&instance, exact::plan, &Policy::default()).expect("enough memory")
}

fn moved(decision: Decision) -> Placement {
    match decision {
        Decision::Move(change) => change.placement,
        Decision::Stay { .. } => panic!("stayed"),
    }
}

#[test]
fn far_workers_are_left_alone_and_near_ones_share_the_work() {
    let mut far = device(2, 1e9);
    far.link.one_way_seconds = 0.05;
    let alone = moved(planned(vec![device(1, 1e9), far], None, 100));
    assert!(alone.owners().iter().flatten().all(|id| *id == DeviceId(1)));
    let both = moved(planned(vec![device(1, 1e9), device(2, 1e9)], None, 100));
    for row in both.owners() {
        let on_leader = row.iter().filter(|id| **id == DeviceId(1)).count();
        assert_eq!(on_leader * 2, row.len());
    }
}

/// A worker slows down: heads leave it, with their keys and values, if enough tokens follow. Slices whose
/// weights are already there cost nothing to move.
#[test]
fn a_migration_has_to_pay() {
    let before = moved(planned(vec![device(1, 1e9), device(2, 1e9)], None, 100));
    let mut slow = device(2, 5e8);
    slow.link.bits_per_second = 1e8;
    let devices = vec![device(1, 1e9), slow];
    let moves_of_heads = |remaining_len| {
        let decision = planned(devices.clone(), Some(before.clone()), remaining_len);
        let Decision::Move(change) = decision else {
            panic!("slices should move");
        };
        assert!(
            change
                .moves
                .iter()
                .any(|step| step.part == Part::FeedForward)
        );
        let heads = change.moves.iter().filter(|step| step.part == Part::Heads);
        heads.count()
    };
    assert_eq!(moves_of_heads(1), 0);
    assert!(moves_of_heads(1000) > 0);
}

/// Speeds that scatter by a little move nothing, though a little would be gained.
#[test]
fn small_changes_move_nothing() {
    let load = Load {
        ffn_slice_count: 64,
        ..LOAD
    };
    let decided = |flops, previous, policy: &Policy| {
        let devices = vec![device(1, 1e9), device(2, flops)];
        let instance = Instance::new(devices, real(&MODEL, &load), previous, 1_000_000);
        decide(&instance.unwrap(), exact::plan, policy).unwrap()
    };
    let before = moved(decided(1e9, None, &Policy::default()));
    let decision = decided(0.94e9, Some(before.clone()), &Policy::default());
    assert!(matches!(decision, Decision::Stay { .. }), "{decision:?}");
    let eager = Policy {
        gain_share_min: 0.0,
    };
    moved(decided(0.94e9, Some(before), &eager));
}

#[test]
fn a_lost_worker_is_replaced_and_a_full_one_relieved() {
    let three = vec![device(1, 1e9), device(2, 1e9), device(3, 1e9)];
    let before = moved(planned(three.clone(), None, 100));
    let Decision::Move(change) = planned(three[..2].to_vec(), Some(before.clone()), 1) else {
        panic!("the third is gone");
    };
    let lost = before
        .owners()
        .iter()
        .flatten()
        .filter(|id| **id == DeviceId(3))
        .count();
    let rebuilt = change
        .moves
        .iter()
        .filter(|step| step.from.is_none())
        .count();
    assert!(
        lost > 0 && rebuilt == lost,
        "{lost} lost, {rebuilt} rebuilt"
    );

    let mut full = three;
    full[1].memory_bytes = 1 << 20;
    let after = planned(full.clone(), Some(before), 1);
    let instance = Instance::new(full, real(&MODEL, &LOAD), None, 1).unwrap();
    let counts = moved(after).counts(instance.devices());
    assert!(is_feasible(&instance, &counts));
}

#[test]
fn what_does_not_fit_is_said() {
    let mut small = device(1, 1e9);
    small.memory_bytes = 1 << 20;
    let workload = real(&MODEL, &LOAD);
    let instance = Instance::new(vec![small, device(2, 1e9)], workload.clone(), None, 1).unwrap();
    let error = exact::plan(&instance).unwrap_err();
    assert!(matches!(error, PlanError::LeaderTooSmall { .. }), "{error}");

    let mut tight = device(1, 1e9);
    tight.memory_bytes = workload.leader_bytes + 1000;
    let instance = Instance::new(vec![tight], workload, None, 1).unwrap();
    let error = exact::plan(&instance).unwrap_err();
    assert!(matches!(error, PlanError::MemoryTooSmall { .. }), "{error}");

    // Two jobs of 6 bytes and devices of 8, 4 and 4: enough in sum only.
    let job = JobCost {
        flops: 1.0,
        weight_bytes: 6,
        state_bytes: 0,
        scratch_bytes: 0,
    };
    let stage = Stage {
        layer: 0,
        part: Part::Heads,
        job_count: 2,
        job,
        scatter_bytes: 1,
        gather_bytes: 1,
    };
    let pieces = Workload {
        stages: vec![stage],
        dataflow: Dataflow::Star,
        leader_flops: 0.0,
        leader_bytes: 0,
    };
    let devices = [(1, 8), (2, 4), (3, 4)].map(|(id, memory_bytes)| Device {
        memory_bytes,
        ..device(id, 1e9)
    });
    let instance = Instance::new(devices.to_vec(), pieces, None, 1).unwrap();
    assert_eq!(exact::plan(&instance), Err(PlanError::Fragmented));
}

#[test]
fn nonsense_is_refused() {
    let new = |devices, workload| Instance::new(devices, workload, None, 1);
    let error = |result: Result<Instance, InstanceError>| result.unwrap_err();
    let workload = real(&MODEL, &LOAD);
    let count = error(new(Vec::new(), workload.clone()));
    assert!(matches!(count, InstanceError::DeviceCount { count: 0 }));
    let twice = error(new(vec![device(1, 1e9), device(1, 1e9)], workload.clone()));
    assert_eq!(twice, InstanceError::DeviceTwice(DeviceId(1)));
    for flops in [0.0, -1.0, f64::NAN, f64::INFINITY] {
        let numbers = error(new(vec![device(1, flops)], workload.clone()));
        assert_eq!(numbers, InstanceError::DeviceNumbers(DeviceId(1)));
    }
    let huge = ModelShape {
        hidden_dim: usize::MAX / 4096,
        ..MODEL
    };
    let numbers = std::panic::catch_unwind(|| error(new(vec![device(1, 1e9)], real(&huge, &LOAD))));
    assert!(matches!(numbers, Ok(InstanceError::StageNumbers { .. })));
    let gathered = Workload {
        dataflow: Dataflow::Gathered,
        ..workload.clone()
    };
    assert_eq!(
        error(new(vec![device(1, 1e9)], gathered)),
        InstanceError::NotThePapers
    );
    let other = Placement::new(vec![vec![DeviceId(1)]]);
    let other = Instance::new(vec![device(1, 1e9)], workload, Some(other), 1);
    assert_eq!(error(other), InstanceError::OtherJobs);
}
