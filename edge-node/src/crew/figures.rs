//! Between what the engine and the planner call things, and what follows from both.

use std::time::Duration;

use edgeprompt_engine::{Job, LayerOwners, Owner, Owners, Patience, ShardShape, WorkerId};
use edgeprompt_placement::{DeviceId, Load, ModelShape, Part, Placement, Stage, Workload, real};

/// However fast a stage is: what a busy device may be away at any time.
const STAGE_PATIENCE_MIN: Duration = Duration::from_secs(1);

/// How many times what it should take a stage may take.
const PATIENCE_FACTOR: f64 = 8.0;

/// What a worker does, as it was measured.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pace {
    pub(crate) flops_per_second: f64,
    pub(crate) one_way_seconds: f64,
    pub(crate) bits_per_second: f64,
}

/// How long answers are waited for: many times what the slowest of the workers needs for all of a stage,
/// with each token seeing so many, but no longer than `max`.
pub(crate) fn patience(
    model: &ModelShape,
    seen: usize,
    workers: impl Iterator<Item = Pace>,
    max: Duration,
) -> Patience {
    let group = model.q_head_count / model.kv_head_count;
    let heads = 2 * model.kv_head_count * model.hidden_dim * model.head_dim * (2 * group + 2)
        + 4 * model.q_head_count * model.head_dim * seen;
    let feed_forward = 2 * 3 * model.hidden_dim * model.mlp_dim;
    let flops = heads.max(feed_forward) as f64;
    let bits = (2 * 8 * model.hidden_bytes * model.hidden_dim) as f64;
    let (mut stage, mut token) = (0.0f64, 0.0f64);
    for worker in workers {
        stage = stage.max(2.0 * worker.one_way_seconds);
        token = token.max(flops / worker.flops_per_second + bits / worker.bits_per_second);
    }
    let long = |seconds: f64| {
        let patience = Duration::try_from_secs_f64(seconds * PATIENCE_FACTOR);
        patience.unwrap_or(max).min(max)
    };
    Patience {
        max,
        stage: long(stage).max(STAGE_PATIENCE_MIN).min(max),
        token: long(token),
    }
}

pub(crate) fn model_shape(shape: &ShardShape, vocab_len: usize) -> ModelShape {
    ModelShape {
        layer_count: shape.layer_count,
        hidden_dim: shape.head.hidden_dim,
        q_head_count: shape.kv_head_count * shape.head.group_len,
        kv_head_count: shape.kv_head_count,
        head_dim: shape.head.head_dim,
        mlp_dim: shape.mlp_dim,
        vocab_len,
        weight_bytes: size_of::<f32>(),
        kv_bytes: size_of::<f32>(),
        hidden_bytes: size_of::<f32>(),
    }
}

/// Bytes of the keys and values of so many tokens of cloud prompts, of one head of one layer.
pub(crate) fn prefix_bytes(shape: &ShardShape, token_count: usize) -> u64 {
    (2 * token_count * shape.head.head_dim * size_of::<f32>()) as u64
}

/// What a step costs, and the memory that devices take for it: with a head its device takes all blocks of
/// its keys and values at once, however few are in use, and its part of cloud prompts of so many tokens that
/// are kept though nobody uses them. Only what is in use travels.
pub(crate) fn workload(
    model: &ModelShape,
    load: &Load,
    (shape, kept_len): (&ShardShape, usize),
) -> Workload {
    let mut workload = real(model, load);
    let of_heads = |stage: &&mut Stage| stage.part == Part::Heads;
    for stage in workload.stages.iter_mut().filter(of_heads) {
        stage.job.scratch_bytes = shape.state_bytes(Job::Head(0)) + prefix_bytes(shape, kept_len);
    }
    workload
}

pub(crate) fn device(owner: Owner) -> DeviceId {
    match owner {
        Owner::Here => DeviceId(0),
        Owner::Worker(id) => DeviceId(id.0 + 1),
    }
}

const fn owner(device: DeviceId) -> Owner {
    match device.0.checked_sub(1) {
        None => Owner::Here,
        Some(id) => Owner::Worker(WorkerId(id)),
    }
}

/// As the planner has it: by stage, heads before slices in each layer.
pub(crate) fn placement(owners: &Owners) -> Placement {
    let stages = owners.layers().iter().flat_map(|layer| {
        [&layer.heads, &layer.slices]
            .map(|owners| owners.iter().map(|owner| device(*owner)).collect())
    });
    Placement::new(stages.collect())
}

/// As the engine has it.
pub(crate) fn owners(placement: &Placement) -> Owners {
    let stages = placement.owners().as_chunks::<2>().0.iter();
    let of = |devices: &[DeviceId]| devices.iter().map(|device| owner(*device)).collect();
    let layers = stages.map(|[heads, slices]| LayerOwners {
        heads: of(heads),
        slices: of(slices),
    });
    Owners::new(layers.collect())
}

#[cfg(test)]
mod tests {
    use edgeprompt_model::{HeadShape, QkNorm, QkvBias};

    use super::*;

    #[test]
    fn placements_and_owners_are_the_same_thing() {
        let some = |seed: u32| (0..4).map(|it| owner(DeviceId((it * seed) % 3))).collect();
        let layer = |seed| LayerOwners {
            heads: some(seed),
            slices: some(seed + 1),
        };
        let before = Owners::new((0..5).map(layer).collect());
        assert_eq!(owners(&placement(&before)), before);
    }

    fn model() -> ModelShape {
        ModelShape {
            layer_count: 2,
            hidden_dim: 1000,
            q_head_count: 4,
            kv_head_count: 2,
            head_dim: 250,
            mlp_dim: 4000,
            vocab_len: 100,
            weight_bytes: 4,
            kv_bytes: 4,
            hidden_bytes: 4,
        }
    }

    #[test]
    fn patience_follows_the_slowest_worker_within_bounds() {
        let max = Duration::from_secs(10);
        let worker = |flops_per_second| Pace {
            flops_per_second,
            one_way_seconds: 1e-3,
            bits_per_second: 1e9,
        };
        let fast = patience(&model(), 100, [worker(1e12)].into_iter(), max);
        assert_eq!(fast.stage, STAGE_PATIENCE_MIN);
        assert!(fast.token < Duration::from_millis(1));
        let workers = [worker(1e12), worker(1e9)].into_iter();
        let slow = patience(&model(), 100, workers, max);
        // 24 million operations a token, eight times.
        let expected = Duration::from_millis(192);
        assert!(slow.token > expected && slow.token < expected * 2);
        assert_eq!(slow.with(1000), max);
        let little = patience(&model(), 100, [worker(1.0)].into_iter(), max / 100);
        assert_eq!(little.with(1), max / 100);
    }

    #[test]
    fn a_head_takes_the_memory_of_all_its_blocks() {
        let model = model();
        let shape = ShardShape {
            layer_count: model.layer_count,
            kv_head_count: model.kv_head_count,
            head: HeadShape {
                hidden_dim: model.hidden_dim,
                head_dim: model.head_dim,
                group_len: 2,
                qkv_bias: QkvBias::Absent,
                qk_norm: QkNorm::Absent,
                norm_epsilon: 1e-5,
            },
            mlp_dim: model.mlp_dim,
            slice_count: 4,
            inverse_frequencies: vec![1.0; model.head_dim / 2],
            attention_factor: 1.0,
            block_len: 16,
            block_count: 1000,
            tokens_max: 512,
        };
        let load = Load {
            sequence_count: 1,
            context_len: 100,
            headroom_len: 32,
            ffn_slice_count: 4,
        };
        let kept_len = 3000;
        let found = workload(&model, &load, (&shape, kept_len));
        let bare = real(&model, &load);
        for (found, bare) in found.stages.iter().zip(&bare.stages) {
            let more = found.job.memory_bytes() - bare.job.memory_bytes();
            // Keys and values of 16,000 tokens and 3,000 of cloud prompts, 250 numbers of 4 bytes each.
            let blocks = if found.part == Part::Heads {
                2 * 19_000 * 250 * 4
            } else {
                0
            };
            assert_eq!(more, blocks);
            assert_eq!(found.job.state_bytes, bare.job.state_bytes);
        }
    }
}
