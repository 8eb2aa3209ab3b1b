//! A worker in this process, as slow in the background as the seed will have it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use burn::tensor::Device;
use edgeprompt_engine::{Gone, Order, Reply, Shard, ShardShape, WorkerPort};
use edgeprompt_model::Model;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

pub(crate) struct InProcess {
    shard: Shard,
    has_model: bool,
    lives: Arc<AtomicBool>,
    rng: StdRng,
    replies: VecDeque<Reply>,
    aside: VecDeque<Order>,
    aside_replies: VecDeque<Reply>,
}

impl InProcess {
    pub(crate) fn new(
        (shape, own): (ShardShape, Option<Arc<Model>>),
        lives: Arc<AtomicBool>,
        seed: u64,
    ) -> Self {
        Self {
            has_model: own.is_some(),
            shard: Shard::empty(shape, own, &Device::flex()),
            lives,
            rng: StdRng::seed_from_u64(seed),
            replies: VecDeque::new(),
            aside: VecDeque::new(),
            aside_replies: VecDeque::new(),
        }
    }

    fn obey(&mut self, order: Order) -> Option<Reply> {
        let obeyed = self.shard.obey(order.task);
        let answer = obeyed.expect("a leader makes no mistakes")?;
        let turn = order.turn;
        Some(Reply { turn, answer })
    }

    fn check(&self) -> Result<(), Gone> {
        match self.lives.load(Ordering::Relaxed) {
            true => Ok(()),
            false => Err(Gone {
                reason: "killed".into(),
            }),
        }
    }
}

impl WorkerPort for InProcess {
    fn has_model(&self) -> bool {
        self.has_model
    }

    fn send(&mut self, order: Order) {
        if self.check().is_ok() {
            let reply = self.obey(order);
            self.replies.extend(reply);
        }
    }

    fn receive(&mut self, _patience: Duration) -> Result<Reply, Gone> {
        self.check()?;
        Ok(self.replies.pop_front().expect("it was asked"))
    }

    fn send_aside(&mut self, order: Order) {
        self.aside.push_back(order);
    }

    fn poll_aside(&mut self) -> Result<Option<Reply>, Gone> {
        self.check()?;
        // Whatever is behind waits, and may be overtaken by steps.
        while self.rng.random_bool(0.8) {
            let Some(order) = self.aside.pop_front() else {
                break;
            };
            let reply = self.obey(order);
            self.aside_replies.extend(reply);
        }
        Ok(self.aside_replies.pop_front())
    }
}
