//! Random instances: small enough to enumerate, with memory that binds in about half of them.

use edgeprompt_placement::{
    Dataflow, Device, DeviceId, Instance, JobCost, Link, PaperShape, Part, Placement, Stage,
    WeightCopy, Workload, paper,
};
use proptest::prelude::*;

/// What a case is made of; `Instance` keeps no loose ends to shrink.
#[derive(Clone, Debug)]
pub(crate) struct Case {
    pub(crate) devices: Vec<Device>,
    pub(crate) workload: Workload,
    pub(crate) previous: Option<Placement>,
    pub(crate) remaining_len: usize,
}

impl Case {
    pub(crate) fn instance(&self) -> Instance {
        let Self {
            devices,
            workload,
            previous,
            remaining_len,
        } = self.clone();
        Instance::new(devices, workload, previous, remaining_len).expect("a sound case")
    }
}

fn device(bytes_max: u64) -> impl Strategy<Value = Device> {
    (
        prop_oneof![Just(1e10), 5e9..5e10],
        bytes_max / 8..=bytes_max,
        prop_oneof![Just(1e9), 1e6..1e10],
        prop_oneof![Just(0.0), 0.0..2e-3],
        any::<bool>(),
    )
        .prop_map(
            |(flops_per_second, memory_bytes, rate, delay, whole)| Device {
                id: DeviceId(0),
                flops_per_second,
                memory_bytes,
                link: Link {
                    bits_per_second: rate,
                    one_way_seconds: delay,
                },
                weights: match whole {
                    true => WeightCopy::Whole,
                    false => WeightCopy::OfItsJobs,
                },
            },
        )
}

fn devices(
    counts: std::ops::RangeInclusive<usize>,
    bytes_max: u64,
) -> impl Strategy<Value = Vec<Device>> {
    prop::collection::vec(device(bytes_max), counts).prop_map(|mut devices| {
        for (index, device) in devices.iter_mut().enumerate() {
            device.id = DeviceId(10 + u32::try_from(index).expect("few devices"));
        }
        devices
    })
}

fn job() -> impl Strategy<Value = JobCost> {
    (1e5..1e8, 1..2000_u64, 0..2000_u64).prop_map(|(flops, weight_bytes, state_bytes)| JobCost {
        flops,
        weight_bytes,
        state_bytes,
        scratch_bytes: 0,
    })
}

/// Layers of heads and slices for the star.
pub(crate) fn star_workload(
    layers: std::ops::RangeInclusive<usize>,
    jobs: std::ops::RangeInclusive<usize>,
) -> impl Strategy<Value = Workload> {
    let sizes = (layers, jobs.clone(), jobs);
    (sizes, job(), job(), 1..20_000_u64, 0..1000_u64).prop_map(
        |((layers, heads, slices), head, slice, message_bytes, leader_bytes)| {
            let stage = |layer, part, job_count, job| Stage {
                layer,
                part,
                job_count,
                job,
                scatter_bytes: message_bytes,
                gather_bytes: message_bytes,
            };
            let slice = JobCost {
                state_bytes: 0,
                ..slice
            };
            let layer = |layer| {
                [
                    stage(layer, Part::Heads, heads, head),
                    stage(layer, Part::FeedForward, slices, slice),
                ]
            };
            Workload {
                stages: (0..layers).flat_map(layer).collect(),
                dataflow: Dataflow::Star,
                leader_flops: 1e6,
                leader_bytes,
            }
        },
    )
}

fn needed(workload: &Workload) -> u64 {
    let stages = workload.stages.iter();
    stages
        .map(|it| it.job_count as u64 * it.job.memory_bytes())
        .sum()
}

fn placements(devices: usize, workload: &Workload) -> u64 {
    let ways = |jobs: usize| (1..devices as u64).fold(1, |n, i| n * (jobs as u64 + i) / i);
    workload
        .stages
        .iter()
        .map(|stage| ways(stage.job_count))
        .product()
}

/// Whether a placement was in use, and where each job was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Before {
    Nothing,
    Something,
}

fn previous(
    before: Before,
    devices: usize,
    workload: &Workload,
) -> impl Strategy<Value = Option<Placement>> + use<> {
    // One more than there are devices: some jobs were on a device that is gone.
    let owner = || {
        (0..=u32::try_from(devices).expect("few devices")).prop_map(|index| DeviceId(10 + index))
    };
    let rows = workload
        .stages
        .iter()
        .map(|it| prop::collection::vec(owner(), it.job_count));
    let rows: Vec<_> = rows.collect();
    rows.prop_map(move |rows| (before == Before::Something).then(|| Placement::new(rows)))
}

/// An instance with at most `placements_max` placements.
pub(crate) fn star(before: Before, placements_max: u64) -> impl Strategy<Value = Case> {
    let parts = star_workload(1..=3, 1..=4).prop_flat_map(|workload| {
        let bytes_max = needed(&workload);
        (devices(1..=5, bytes_max), Just(workload), 1..2000_usize)
    });
    parts
        .prop_filter("few placements", move |(devices, workload, _)| {
            placements(devices.len(), workload) <= placements_max
        })
        .prop_flat_map(move |(devices, workload, remaining_len)| {
            let previous = previous(before, devices.len(), &workload);
            (Just(devices), Just(workload), previous, Just(remaining_len))
        })
        .prop_map(|(devices, workload, previous, remaining_len)| Case {
            devices,
            workload,
            previous,
            remaining_len,
        })
}

/// The paper's layer on 2 to 4 devices.
pub(crate) fn papers(before: Before) -> impl Strategy<Value = Case> {
    let shape = (1..=8_usize, 0..400_usize).prop_map(|(head_count, generated)| {
        let shape = PaperShape {
            head_count,
            hidden_dim: 64 * head_count,
            ffn_factor: 8.0,
        };
        paper(&shape, 32, generated)
    });
    let parts = shape.prop_flat_map(|workload| {
        (
            devices(1..=4, needed(&workload)),
            Just(workload),
            1..200_usize,
        )
    });
    parts
        .prop_flat_map(move |(devices, workload, remaining_len)| {
            let previous = previous(before, devices.len(), &workload);
            (Just(devices), Just(workload), previous, Just(remaining_len))
        })
        .prop_map(|(devices, workload, previous, remaining_len)| Case {
            devices,
            workload,
            previous,
            remaining_len,
        })
}
