#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

use std::num::NonZeroUsize;
use std::sync::Arc;

use burn::tensor::Device;
use edgeprompt_model::{Model, ModelShape};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::*;
use crate::shard::{PrefixKey, ShardShape};

fn shape(model: &Model) -> ShardShape {
    let some = |count| NonZeroUsize::new(count).unwrap();
    let limits = crate::EngineLimits {
        max_num_seqs: some(2),
        max_num_batched_tokens: some(8),
        max_num_waiting: 1,
        block_len: some(4),
        block_count: 4,
    };
    ShardShape::of(model, 2, &limits)
}

/// Draws what a leader could send, and much that none would.
struct Draw(StdRng);

impl Draw {
    /// Mostly small.
    fn size(&mut self, end: usize) -> usize {
        match self.0.random_bool(0.02) {
            true => usize::MAX,
            false => self.0.random_range(0..end),
        }
    }

    fn sizes(&mut self, end: usize) -> Vec<usize> {
        (0..self.0.random_range(0..4))
            .map(|_| self.size(end))
            .collect()
    }

    /// As many as there must be, most of the time.
    fn numbers(&mut self, right: usize) -> Vec<f32> {
        let count = match self.0.random_bool(0.7) {
            true => right,
            false => self.0.random_range(0..700),
        };
        vec![0.5; count]
    }

    fn prefix(&mut self) -> SharedPrefix {
        SharedPrefix {
            key: PrefixKey(self.0.random_range(0..3)),
            token_count: self.0.random_range(0..6),
        }
    }

    fn row(&mut self) -> RowShape {
        RowShape {
            len: self.size(5),
            start: self.size(8),
            prefix: self.0.random_bool(0.3).then(|| self.prefix()),
            blocks: self.sizes(5),
        }
    }

    fn job(&mut self) -> Job {
        match self.0.random_bool(0.6) {
            true => Job::Head(self.size(3)),
            false => Job::Slice(self.size(3)),
        }
    }

    fn task(&mut self, shape: &ShardShape) -> Task {
        let layer = self.size(7);
        let head = self.size(3);
        match self.0.random_range(0..11) {
            0 => Task::Begin {
                rows: (0..self.0.random_range(0..3)).map(|_| self.row()).collect(),
            },
            1 => Task::Heads {
                layer,
                input: self.numbers(32).into(),
            },
            2 => Task::FeedForward {
                layer,
                input: self.numbers(32).into(),
            },
            3 => {
                let (prefix, heads) = (self.prefix(), self.sizes(3));
                let count = heads.len() * prefix.token_count as usize * 16;
                Task::Prefix {
                    prefix,
                    layer,
                    heads,
                    numbers: self.numbers(count),
                }
            }
            4 => Task::Forget {
                key: self.prefix().key,
            },
            5 => {
                let job = self.job();
                let count = match job {
                    Job::Head(_) => shape.head.number_count(),
                    Job::Slice(_) => FeedForward::number_count(32, 32),
                };
                let is_sent = self.0.random_bool(0.5);
                Task::Weights {
                    layer,
                    job,
                    numbers: is_sent.then(|| self.numbers(count)),
                }
            }
            6 => Task::Take {
                layer,
                head,
                blocks: self.sizes(5),
            },
            7 => {
                let blocks = self.sizes(5);
                let count = blocks.len() * 4 * 8 * 2;
                Task::Put {
                    layer,
                    head,
                    blocks,
                    numbers: self.numbers(count),
                }
            }
            8 => Task::Switch {
                layers: vec![LayerJobs {
                    layer,
                    heads: self.sizes(3),
                    slices: self.sizes(3),
                }],
            },
            9 => Task::Wipe {
                blocks: self.sizes(5),
            },
            _ => Task::Unstage,
        }
    }
}

#[test]
fn whatever_a_leader_orders_is_obeyed_or_refused() {
    let device = Device::flex();
    let model = Arc::new(Model::dummy(ModelShape::Tiny, &device));
    let shape = shape(&model);
    let (mut obeyed, mut refused) = (0, 0);
    for seed in 0..400 {
        let mut draw = Draw(StdRng::seed_from_u64(seed));
        let mut shard = Shard::empty(shape.clone(), Some(Arc::clone(&model)), &device);
        // A worker would hang up at the first refusal; here the next order comes all the same.
        for _ in 0..80 {
            match shard.obey(draw.task(&shape)) {
                Ok(_) => obeyed += 1,
                Err(_) => refused += 1,
            }
        }
    }
    assert!(obeyed > 1000 && refused > 1000, "{obeyed} and {refused}");
}

fn done(shard: &mut Shard, task: Task) {
    assert!(matches!(shard.obey(task), Ok(Some(Answer::Done))));
}

fn staged(shard: &mut Shard, blocks: &[usize]) {
    let job = Job::Head(0);
    let weights = Task::Weights {
        layer: 0,
        job,
        numbers: None,
    };
    done(shard, weights);
    let numbers = vec![0.5; blocks.len() * 4 * 8 * 2];
    let put = Task::Put {
        layer: 0,
        head: 0,
        blocks: blocks.to_vec(),
        numbers,
    };
    done(shard, put);
}

fn switched(shard: &mut Shard) {
    let jobs = LayerJobs {
        layer: 0,
        heads: vec![0],
        slices: Vec::new(),
    };
    done(shard, Task::Switch { layers: vec![jobs] });
}

fn taken(shard: &mut Shard, block: usize) -> Vec<f32> {
    let take = Task::Take {
        layer: 0,
        head: 0,
        blocks: vec![block],
    };
    match shard.obey(take) {
        Ok(Some(Answer::Kv(numbers))) => numbers,
        _ => panic!("keys and values are shown"),
    }
}

#[test]
fn what_is_wiped_is_overwritten_wherever_the_head_is() {
    let device = Device::flex();
    let model = Arc::new(Model::dummy(ModelShape::Tiny, &device));
    for is_on_its_way in [true, false] {
        let mut shard = Shard::empty(shape(&model), Some(Arc::clone(&model)), &device);
        staged(&mut shard, &[1, 2]);
        if !is_on_its_way {
            switched(&mut shard);
        }
        done(&mut shard, Task::Wipe { blocks: vec![1] });
        if is_on_its_way {
            switched(&mut shard);
        }
        assert!(taken(&mut shard, 1).iter().all(|it| *it == 0.0));
        assert!(taken(&mut shard, 2).iter().all(|it| *it == 0.5));
    }
}

#[test]
fn more_than_is_lent_is_not_taken() {
    let device = Device::flex();
    let model = Arc::new(Model::dummy(ModelShape::Tiny, &device));
    let shape = shape(&model);
    let head = shape.weight_bytes(Job::Head(0)) + shape.state_bytes(Job::Head(0));
    // Two heads, and a head of a prompt of one token.
    let prompt = 2 * 8 * 4;
    let empty = Shard::empty(shape, Some(model), &device);
    let mut shard = empty.with_bytes_max(2 * head + prompt);
    let weights = |layer| Task::Weights {
        layer,
        job: Job::Head(0),
        numbers: None,
    };
    let prefix = |layer| Task::Prefix {
        prefix: SharedPrefix {
            key: PrefixKey(1),
            token_count: 1,
        },
        layer,
        heads: vec![0],
        numbers: vec![0.5; 16],
    };
    let refused = |shard: &mut Shard, task| {
        let refused = shard.obey(task).err();
        assert!(matches!(refused, Some(OrderError::Memory { .. })));
    };
    done(&mut shard, weights(0));
    done(&mut shard, prefix(0));
    done(&mut shard, weights(1));
    assert_eq!(shard.bytes(), 2 * head + prompt);
    refused(&mut shard, weights(2));
    refused(&mut shard, prefix(1));
    assert_eq!(shard.bytes(), 2 * head + prompt, "nothing was taken");
    shard.unstage();
    assert_eq!(shard.bytes(), 0, "all of it was on its way");
}

#[test]
fn a_row_has_each_block_once() {
    let device = Device::flex();
    let model = Arc::new(Model::dummy(ModelShape::Tiny, &device));
    let mut shard = Shard::empty(shape(&model), Some(model), &device);
    let mut begin = |blocks| {
        let row = RowShape {
            len: 1,
            start: 4,
            prefix: None,
            blocks,
        };
        shard.obey(Task::Begin { rows: vec![row] }).err()
    };
    assert_eq!(begin(vec![1, 2]), None);
    assert_eq!(begin(vec![1, 1]), Some(OrderError::OutOfRange));
}
