//! Costs, delays and migrations against numbers worked out by hand.

#![cfg(test)]

use edgeprompt_placement::{
    Counts, Dataflow, Device, DeviceId, Instance, JobCost, Link, Load, ModelShape, PaperShape,
    Part, Placement, Stage, WeightCopy, Workload, migration_seconds, moves, paper, real,
    step_seconds,
};

const LLAMA_2_7B: ModelShape = ModelShape {
    layer_count: 32,
    hidden_dim: 4096,
    q_head_count: 32,
    kv_head_count: 32,
    head_dim: 128,
    mlp_dim: 11008,
    vocab_len: 32000,
    weight_bytes: 2,
    kv_bytes: 2,
    hidden_bytes: 4,
};

/// 6.74 billion parameters; 512 KiB of keys and values a token; two operations a weight.
#[test]
fn a_decode_step_of_llama_2_7b_costs_what_its_sizes_say() {
    let load = Load {
        sequence_count: 1,
        context_len: 1000,
        headroom_len: 24,
        ffn_slice_count: 32,
    };
    let workload = real(&LLAMA_2_7B, &load);
    let stages = workload.stages.iter();
    let weights: u64 = stages
        .clone()
        .map(|it| it.job_count as u64 * it.job.weight_bytes)
        .sum();
    let norms = (2 * 32 + 1) * 4096;
    assert_eq!((weights + workload.leader_bytes) / 2 + norms, 6_738_415_616);
    let state: u64 = stages
        .clone()
        .map(|it| it.job_count as u64 * it.job.state_bytes)
        .sum();
    assert_eq!(state, 1024 * 512 * 1024);
    let flops: f64 = stages.map(|it| it.job_count as f64 * it.job.flops).sum();
    // Scores and values of 1000 tokens: four operations for each number of a query.
    let attention = 4.0 * 1000.0 * 4096.0 * 32.0;
    let vocabulary = 2.0 * 32000.0 * 4096.0;
    assert_eq!(workload.leader_flops, vocabulary);
    assert_eq!(flops, weights as f64 + attention);
}

/// Two query heads for each KV head: its slice of the output projection is as wide as its queries.
#[test]
fn grouped_heads_bring_all_their_queries() {
    let shape = ModelShape {
        kv_head_count: 16,
        ..LLAMA_2_7B
    };
    let load = Load {
        sequence_count: 3,
        context_len: 10,
        headroom_len: 0,
        ffn_slice_count: 1,
    };
    let head = real(&shape, &load).stages[0].job;
    assert_eq!(head.weight_bytes, 2 * 4096 * 128 * (2 + 1 + 1 + 2));
    assert_eq!(head.state_bytes, 2 * 10 * 128 * 2);
    assert_eq!(
        head.flops,
        3.0 * 2.0 * 4096.0 * 128.0 * 6.0 + 4.0 * 10.0 * 256.0
    );
}

#[test]
fn the_papers_table_is_as_published() {
    let shape = PaperShape {
        head_count: 8,
        hidden_dim: 512,
        ffn_factor: 8.0,
    };
    let stages = paper(&shape, 64, 36).stages;
    let [head, projection, ffn] = [0, 1, 2].map(|index: usize| stages[index].job);
    assert_eq!(
        head.flops,
        3.0 * 100.0 * 512.0 * 64.0 + 100.0 * 100.0 * 64.0
    );
    assert_eq!(
        head.memory_bytes(),
        4 * (3 * 100 * 64 + 3 * 512 * 64) + 4 * 36 * 512
    );
    assert_eq!(projection.flops, 100.0 * 512.0 * 512.0);
    assert_eq!(ffn.flops, 8.0 * 100.0 * 512.0 * 512.0);
    assert_eq!(projection.memory_bytes() * 4, ffn.memory_bytes());
}

fn device(id: u32, flops: f64, rate: f64, delay: f64) -> Device {
    Device {
        id: DeviceId(id),
        flops_per_second: flops,
        memory_bytes: 100,
        link: Link {
            bits_per_second: rate,
            one_way_seconds: delay,
        },
        weights: WeightCopy::OfItsJobs,
    }
}

fn stage(part: Part, job_count: usize) -> Stage {
    Stage {
        layer: 0,
        part,
        job_count,
        job: JobCost {
            flops: 10.0,
            weight_bytes: 30,
            state_bytes: 10,
            scratch_bytes: 0,
        },
        scatter_bytes: 100,
        gather_bytes: 50,
    }
}

/// A leader with 800 bit/s and 10 operations a second; a job takes it 1 s.
fn devices() -> Vec<Device> {
    vec![
        device(0, 10.0, 800.0, 9.0),
        device(1, 20.0, 8000.0, 0.25),
        device(2, 5.0, 400.0, 0.5),
    ]
}

fn star(counts: Vec<usize>) -> f64 {
    let workload = Workload {
        stages: vec![stage(Part::Heads, counts.iter().sum())],
        dataflow: Dataflow::Star,
        leader_flops: 5.0,
        leader_bytes: 0,
    };
    let instance = Instance::new(devices(), workload, None, 1).unwrap();
    step_seconds(&instance, &Counts::new(vec![counts]), Dataflow::Star).unwrap()
}

#[test]
fn a_star_waits_for_the_slowest_with_the_leaders_link_shared() {
    // 0.5 s of vocabulary, and four jobs of 1 s.
    assert_eq!(star(vec![4, 0, 0]), 0.5 + 4.0);
    // One worker: the leader's link is the slower one, 1 s there and 0.5 s back; 0.5 s of delays, three
    // jobs of 0.5 s.
    assert_eq!(star(vec![1, 3, 0]), 0.5 + (1.0 + 0.5 + 0.5 + 1.5));
    // Its own link, 2 s and 1 s, 1 s of delays, a job of 2 s.
    assert_eq!(star(vec![1, 0, 1]), 0.5 + (2.0 + 1.0 + 1.0 + 2.0));
    // Two workers share the leader's link: 2 s and 1 s for either.
    assert_eq!(star(vec![0, 8, 0]), 0.5 + (1.0 + 0.5 + 0.5 + 4.0));
    assert_eq!(star(vec![0, 8, 1]), 0.5 + (2.0 + 1.0 + 0.5 + 4.0));
    // The leader's own jobs can be the slowest.
    assert_eq!(star(vec![9, 1, 0]), 0.5 + 9.0);
}

#[test]
fn a_migration_crosses_both_links_and_weights_go_where_they_lack() {
    let ids = |ids: [u32; 3]| Placement::new(vec![ids.map(DeviceId).to_vec()]);
    let seconds = |before, after, weights| {
        let mut devices = devices();
        devices[2].weights = weights;
        let workload = Workload {
            stages: vec![stage(Part::Heads, 3)],
            dataflow: Dataflow::Star,
            leader_flops: 0.0,
            leader_bytes: 0,
        };
        let instance = Instance::new(devices, workload, Some(ids(before)), 1).unwrap();
        let counts = ids(after).counts(instance.devices());
        let bytes: u64 = moves(&instance, &ids(after))
            .iter()
            .map(|it| it.weight_bytes)
            .sum();
        (migration_seconds(&instance, &counts), bytes)
    };
    let lacking = WeightCopy::OfItsJobs;
    // 80 bit of state out at 800 bit/s, the leader's rate, and 320 bit in at 400 bit/s.
    assert_eq!(seconds([1, 1, 0], [1, 2, 0], lacking), (0.1 + 0.8, 30));
    assert_eq!(
        seconds([1, 1, 0], [1, 2, 0], WeightCopy::Whole),
        (0.1 + 0.2, 0)
    );
    // To the leader only the way out counts.
    assert_eq!(seconds([2, 2, 2], [2, 2, 0], lacking), (0.2, 0));
    // What a lost device had comes from the leader.
    assert_eq!(seconds([7, 0, 0], [2, 0, 0], lacking), (0.8, 30));
    assert_eq!(seconds([1, 2, 0], [1, 2, 0], lacking), (0.0, 0));
}

#[test]
fn a_job_moves_when_there_is_room_for_it() {
    // Two jobs of 40 bytes fit on a device; the two devices swap one, the second of them is full.
    let mut devices = devices();
    devices[1].memory_bytes = 120;
    devices[2].memory_bytes = 80;
    let workload = Workload {
        stages: vec![stage(Part::Heads, 4)],
        dataflow: Dataflow::Star,
        leader_flops: 0.0,
        leader_bytes: 0,
    };
    let place = |ids: [u32; 4]| Placement::new(vec![ids.map(DeviceId).to_vec()]);
    let instance = Instance::new(devices, workload, Some(place([1, 1, 2, 2])), 1).unwrap();
    let order = moves(&instance, &place([1, 2, 1, 2]));
    let to: Vec<_> = order.iter().map(|it| it.to.0).collect();
    assert_eq!(to, [1, 2]);
}

#[test]
fn layers_in_a_chain_send_where_the_device_changes() {
    let workload = Workload {
        stages: vec![
            stage(Part::Heads, 2),
            Stage {
                layer: 1,
                ..stage(Part::Heads, 2)
            },
        ],
        dataflow: Dataflow::Star,
        leader_flops: 0.0,
        leader_bytes: 0,
    };
    let instance = Instance::new(devices(), workload, None, 1).unwrap();
    let seconds = |rows: [[usize; 3]; 2]| {
        let rows = rows.map(|row| row.to_vec()).to_vec();
        step_seconds(&instance, &Counts::new(rows), Dataflow::Chain)
    };
    assert_eq!(seconds([[2, 0, 0], [2, 0, 0]]), Some(4.0));
    // There and back at the leader's rate, 1 s and 0.25 s each, and four jobs of 0.5 s.
    assert_eq!(seconds([[0, 2, 0], [0, 2, 0]]), Some(2.5 + 2.0));
    assert_eq!(seconds([[1, 1, 0], [0, 2, 0]]), None);
}
