//! What a worker is still to answer on one stream: nothing else is taken from it, so that what it sends
//! takes no more memory than what it was asked for.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use edgeprompt_engine::{Order, ShardShape, Task};
use edgeprompt_protocol::{WorkerAnswer, WorkerReply};

/// An answer that was not asked for, or is longer or shorter than it must be.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("it answers what it was not asked")]
pub(crate) struct Unasked;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Part,
    Kv,
    Done,
}

struct Expected {
    turn: u64,
    kind: Kind,
    number_count: usize,
}

/// Orders of one stream without an answer, in their order.
pub(crate) struct Awaited {
    /// Numbers of a block of one head, keys and values.
    block_numbers: usize,
    queue: VecDeque<Expected>,
    /// When the worker, or the link to it, was last seen to go on.
    since: Instant,
}

impl Awaited {
    /// Nothing yet, of a worker that computes what is of this shape.
    pub(crate) fn new(shape: &ShardShape, now: Instant) -> Self {
        Self {
            block_numbers: 2 * shape.block_len * shape.head.head_dim,
            queue: VecDeque::new(),
            since: now,
        }
    }

    /// An order goes out; whether it is answered.
    pub(crate) fn note(&mut self, order: &Order, now: Instant) -> bool {
        let (kind, number_count) = match &order.task {
            Task::Heads { input, .. } | Task::FeedForward { input, .. } => {
                (Kind::Part, input.len())
            }
            Task::Take { blocks, .. } => (Kind::Kv, blocks.len() * self.block_numbers),
            Task::Prefix { .. }
            | Task::Weights { .. }
            | Task::Put { .. }
            | Task::Switch { .. }
            | Task::Wipe { .. } => (Kind::Done, 0),
            _ => return false,
        };
        if self.queue.is_empty() {
            self.since = now;
        }
        self.queue.push_back(Expected {
            turn: order.turn,
            kind,
            number_count,
        });
        true
    }

    /// Something went on.
    pub(crate) fn moved(&mut self, now: Instant) {
        self.since = now;
    }

    /// Checks an answer before what belongs to it is read.
    ///
    /// # Errors
    /// [`Unasked`].
    pub(crate) fn check(&self, reply: &WorkerReply) -> Result<(), Unasked> {
        let kind = match reply.answer {
            WorkerAnswer::Part { .. } => Kind::Part,
            WorkerAnswer::Kv => Kind::Kv,
            WorkerAnswer::Done => Kind::Done,
            WorkerAnswer::Leaving | WorkerAnswer::Memory { .. } => return Err(Unasked),
        };
        let expected = self.queue.front().ok_or(Unasked)?;
        let is_it = expected.turn == reply.turn
            && expected.kind == kind
            && expected.number_count == reply.number_count as usize;
        is_it.then_some(()).ok_or(Unasked)
    }

    /// The answer is here.
    pub(crate) fn answered(&mut self, now: Instant) {
        self.queue.pop_front();
        self.since = now;
    }

    /// Whether something is awaited, and nothing has gone on for so long.
    pub(crate) fn is_overdue(&self, now: Instant, patience: Duration) -> bool {
        !self.queue.is_empty() && now.saturating_duration_since(self.since) > patience
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroUsize;

    use burn::tensor::Device;
    use edgeprompt_engine::{Engine, EngineLimits};
    use edgeprompt_model::{Model, ModelShape};

    use super::*;

    fn shape() -> ShardShape {
        let some = |count| NonZeroUsize::new(count).unwrap();
        let limits = EngineLimits {
            max_num_seqs: some(2),
            max_num_batched_tokens: some(16),
            max_num_waiting: 1,
            block_len: some(4),
            block_count: 16,
        };
        let model = Model::dummy(ModelShape::Tiny, &Device::flex());
        Engine::new(std::sync::Arc::new(model), limits)
            .shard_shape()
            .clone()
    }

    fn reply(turn: u64, answer: WorkerAnswer, number_count: u32) -> WorkerReply {
        WorkerReply {
            turn,
            answer,
            number_count,
        }
    }

    #[test]
    fn only_what_was_asked_for_is_taken_and_only_once() {
        let now = Instant::now();
        let shape = shape();
        let kv = u32::try_from(3 * 2 * shape.block_len * shape.head.head_dim).unwrap();
        let mut awaited = Awaited::new(&shape, now);
        let done = reply(1, WorkerAnswer::Done, 0);
        assert_eq!(awaited.check(&done), Err(Unasked), "nothing was asked");
        let take = Task::Take {
            layer: 0,
            head: 0,
            blocks: vec![0, 1, 2],
        };
        let task = |turn, task| Order { turn, task };
        assert!(!awaited.note(&task(6, Task::Unstage), now));
        assert!(awaited.note(&task(7, take), now));
        assert!(awaited.note(&task(8, Task::Switch { layers: Vec::new() }), now));
        for wrong in [
            reply(8, WorkerAnswer::Done, 0),
            reply(7, WorkerAnswer::Done, 0),
            reply(6, WorkerAnswer::Kv, kv),
            reply(7, WorkerAnswer::Kv, kv + 1),
            reply(7, WorkerAnswer::Part { busy_us: 0 }, kv),
            reply(7, WorkerAnswer::Leaving, 0),
        ] {
            assert_eq!(awaited.check(&wrong), Err(Unasked), "{wrong:?}");
        }
        let right = reply(7, WorkerAnswer::Kv, kv);
        assert_eq!(awaited.check(&right), Ok(()));
        awaited.answered(now);
        assert_eq!(awaited.check(&right), Err(Unasked), "it came before");
        assert_eq!(awaited.check(&reply(8, WorkerAnswer::Done, 0)), Ok(()));
    }

    #[test]
    fn a_worker_is_overdue_if_nothing_goes_on_while_it_owes_an_answer() {
        let begun = Instant::now();
        let (patience, step) = (Duration::from_secs(10), Duration::from_secs(6));
        let mut awaited = Awaited::new(&shape(), begun);
        let later = begun + 10 * patience;
        assert!(!awaited.is_overdue(later, patience), "it owes nothing");
        let order = Order {
            turn: 1,
            task: Task::Switch { layers: Vec::new() },
        };
        awaited.note(&order, later);
        assert!(!awaited.is_overdue(later + step, patience));
        awaited.moved(later + step);
        assert!(!awaited.is_overdue(later + 2 * step, patience));
        assert!(awaited.is_overdue(later + 3 * step, patience));
        awaited.answered(later + 3 * step);
        assert!(!awaited.is_overdue(later + 9 * step, patience));
    }
}
