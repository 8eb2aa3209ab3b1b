//! A worker's side: orders in, answers out. Everything in an order is checked here; what is behind it
//! may then rely on that.

use std::sync::Arc;
use std::time::Duration;

use burn::tensor::{Tensor, TensorData};
use edgeprompt_attention::KvView;
use edgeprompt_kv::LayerIndex;
use edgeprompt_model::FeedForward;

use super::{Answer, Job, LayerJobs, OrderError, RowShape, Shard, SharedPrefix, Task};
use crate::pass_plan::{PassPlan, RowPlan};

/// Most cloud prompts that a worker holds parts of: more than sequences compute at a time.
const PREFIXES_MAX: usize = 1024;

impl Shard {
    /// Does what an order asks for; how long that took is for the caller to say.
    ///
    /// # Errors
    /// [`OrderError`]; nothing is to be obeyed after that.
    pub fn obey(&mut self, task: Task) -> Result<Option<Answer>, OrderError> {
        match task {
            Task::Begin { rows } => self.begin(rows).map(|()| None),
            Task::Heads { layer, input } => self.obey_heads(layer, input).map(Some),
            Task::FeedForward { layer, input } => self.obey_feed_forward(layer, input).map(Some),
            Task::Prefix {
                prefix,
                layer,
                heads,
                numbers,
            } => {
                let layer = self.layer(layer)?;
                self.take_prefix(prefix, layer, &heads, numbers)?;
                Ok(Some(Answer::Done))
            }
            Task::Forget { key } => {
                self.forget(key);
                Ok(None)
            }
            Task::Weights {
                layer,
                job,
                numbers,
            } => {
                let layer = self.layer(layer)?;
                self.check_job(job)?;
                let wanted = self.weight_count(job);
                if numbers.as_ref().is_some_and(|it| it.len() != wanted) {
                    return Err(OrderError::Length);
                }
                self.check_room(self.job_bytes(job))?;
                self.stage(layer, job, numbers)?;
                Ok(Some(Answer::Done))
            }
            Task::Take {
                layer,
                head,
                blocks,
            } => {
                let layer = self.layer(layer)?;
                self.check_blocks(&blocks)?;
                let numbers = self.take(layer, head, &blocks)?;
                Ok(Some(Answer::Kv(numbers)))
            }
            Task::Put {
                layer,
                head,
                blocks,
                numbers,
            } => {
                let layer = self.layer(layer)?;
                self.check_blocks(&blocks)?;
                self.put(layer, head, &blocks, &numbers)?;
                Ok(Some(Answer::Done))
            }
            Task::Switch { layers } => {
                self.switch_all(&layers)?;
                Ok(Some(Answer::Done))
            }
            Task::Unstage => {
                self.unstage();
                Ok(None)
            }
            Task::Wipe { blocks } => {
                self.check_blocks(&blocks)?;
                self.wipe(&blocks);
                Ok(Some(Answer::Done))
            }
        }
    }

    fn obey_heads(&mut self, layer: usize, input: Arc<Vec<f32>>) -> Result<Answer, OrderError> {
        let layer = self.layer(layer)?;
        let plan = self.plan.take().ok_or(OrderError::NoPass)?;
        let input = self.hidden(input, plan.token_count())?;
        let part = self.heads(layer, input, &plan, |prefix| Some(prefix.key))?;
        self.plan = Some(plan);
        part.map(answer).ok_or(OrderError::NotHere)
    }

    fn obey_feed_forward(&self, layer: usize, input: Arc<Vec<f32>>) -> Result<Answer, OrderError> {
        let layer = self.layer(layer)?;
        let plan = self.plan.as_ref().ok_or(OrderError::NoPass)?;
        let input = self.hidden(input, plan.token_count())?;
        let part = self.feed_forward(layer, input);
        part.map(answer).ok_or(OrderError::NotHere)
    }

    fn begin(&mut self, rows: Vec<RowShape>) -> Result<(), OrderError> {
        let block_len = self.shape().block_len;
        let token_count = rows
            .iter()
            .fold(0usize, |sum, row| sum.saturating_add(row.len));
        if rows.is_empty() || token_count > self.shape().tokens_max {
            return Err(OrderError::Length);
        }
        for row in &rows {
            self.check_blocks(&row.blocks)?;
            let end = row.start.checked_add(row.len);
            let prefix_len = row.prefix.map_or(0, |prefix| u64::from(prefix.token_count));
            let fits = end.is_some_and(|end| {
                end <= row.blocks.len() * block_len
                    && prefix_len + end as u64 <= u64::from(u32::MAX)
            });
            if row.len == 0 || !fits {
                return Err(OrderError::OutOfRange);
            }
        }
        let rows = rows.into_iter().map(|row| RowPlan {
            len: row.len,
            start: row.start,
            prefix: row.prefix,
            blocks: row.blocks,
        });
        let plan = PassPlan::new(&self.rope, rows.collect(), block_len, &self.device);
        self.plan = Some(plan);
        Ok(())
    }

    fn take_prefix(
        &mut self,
        prefix: SharedPrefix,
        layer: LayerIndex,
        heads: &[usize],
        numbers: Vec<f32>,
    ) -> Result<(), OrderError> {
        let shape = self.shape();
        let (dim, tokens) = (shape.head.head_dim, prefix.token_count as usize);
        let there_is = |head: &usize| *head < shape.kv_head_count;
        let count = [heads.len(), tokens, dim, 2]
            .iter()
            .try_fold(1usize, |product, it| product.checked_mul(*it));
        if heads.is_empty() || !heads.iter().all(there_is) || has_twins(heads) {
            return Err(OrderError::OutOfRange);
        }
        let here = self.prefixes.iter().map(|(place, it)| (place.0, &it.view));
        let ahead = self.prefixes_ahead.iter();
        let ahead = ahead.map(|(place, view)| (place.0, view));
        let mut known = here.chain(ahead).filter(|(key, _)| *key == prefix.key);
        if known.any(|(_, view)| view.token_count() != tokens) {
            return Err(OrderError::Length);
        }
        if count != Some(numbers.len()) || self.prefix_count_with(prefix) > PREFIXES_MAX {
            return Err(OrderError::Length);
        }
        self.check_room(size_of_val(numbers.as_slice()) as u64)?;
        let (keys, values) = numbers.split_at(numbers.len() / 2);
        let tensor = |numbers: &[f32]| {
            let data = TensorData::new(numbers.to_vec(), [heads.len(), tokens, dim]);
            Tensor::from_data(data, &self.device)
        };
        let view = KvView {
            keys: tensor(keys),
            values: tensor(values),
        };
        self.add_prefix((prefix.key, layer), heads, view);
        Ok(())
    }

    /// Cloud prompts here, and this one.
    fn prefix_count_with(&self, prefix: SharedPrefix) -> usize {
        let here = self.prefixes.keys().map(|(key, _)| *key);
        let ahead = self.prefixes_ahead.keys().map(|(key, ..)| *key);
        let mut keys: Vec<_> = here.chain(ahead).collect();
        keys.push(prefix.key);
        keys.sort_unstable();
        keys.dedup();
        keys.len()
    }

    fn switch_all(&mut self, layers: &[LayerJobs]) -> Result<(), OrderError> {
        for jobs in layers {
            self.layer(jobs.layer)?;
            let named = jobs.heads.iter().map(|head| Job::Head(*head));
            let named = named.chain(jobs.slices.iter().map(|slice| Job::Slice(*slice)));
            for job in named {
                self.check_job(job)?;
            }
            if has_twins(&jobs.heads) || has_twins(&jobs.slices) {
                return Err(OrderError::OutOfRange);
            }
            self.switch(jobs)?;
        }
        Ok(())
    }

    fn layer(&self, layer: usize) -> Result<LayerIndex, OrderError> {
        let index = u32::try_from(layer).map_err(|_| OrderError::OutOfRange)?;
        match layer < self.shape().layer_count {
            true => Ok(LayerIndex(index)),
            false => Err(OrderError::OutOfRange),
        }
    }

    fn hidden(&self, numbers: Arc<Vec<f32>>, token_count: usize) -> Result<Tensor<2>, OrderError> {
        let width = self.shape().head.hidden_dim;
        if numbers.len() != token_count * width {
            return Err(OrderError::Length);
        }
        let numbers = Arc::unwrap_or_clone(numbers);
        let data = TensorData::new(numbers, [token_count, width]);
        Ok(Tensor::from_data(data, &self.device))
    }

    fn check_job(&self, job: Job) -> Result<(), OrderError> {
        let shape = self.shape();
        let there_is = match job {
            Job::Head(head) => head < shape.kv_head_count,
            Job::Slice(slice) => slice < shape.slice_count,
        };
        there_is.then_some(()).ok_or(OrderError::OutOfRange)
    }

    fn weight_count(&self, job: Job) -> usize {
        let shape = self.shape();
        match job {
            Job::Head(_) => shape.head.number_count(),
            Job::Slice(index) => {
                FeedForward::number_count(shape.head.hidden_dim, shape.slice(index).len())
            }
        }
    }

    /// Blocks that there are, each once: what is made of them is no larger than the pool.
    fn check_blocks(&self, blocks: &[usize]) -> Result<(), OrderError> {
        let block_count = self.shape().block_count;
        let there_are = blocks.len() <= block_count && blocks.iter().all(|it| *it < block_count);
        (there_are && !has_twins(blocks))
            .then_some(())
            .ok_or(OrderError::OutOfRange)
    }
}

fn has_twins(numbers: &[usize]) -> bool {
    let mut sorted = numbers.to_vec();
    sorted.sort_unstable();
    sorted.windows(2).any(|pair| pair[0] == pair[1])
}

/// The numbers of a tensor, without a copy where that can be.
pub(crate) fn numbers<const D: usize>(tensor: Tensor<D>) -> Vec<f32> {
    let numbers = tensor.into_data().try_to_vec();
    numbers.expect("layers are computed in f32")
}

fn answer(part: Tensor<2>) -> Answer {
    Answer::Part {
        numbers: numbers(part),
        busy: Duration::ZERO,
    }
}

#[cfg(test)]
mod tests;
