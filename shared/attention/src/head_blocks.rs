//! Blocks cut by head and put together again: heads change their device.

use std::sync::Arc;

use burn::tensor::{Tensor, TensorData};

use crate::blocks::{BlockPlace, KvBlocks, block_indices};
use crate::cpu;

/// Blocks that are overwritten in one go: their zeros are in memory.
const WIPED_AT_A_TIME: usize = 64;

/// Keys and values are as private as the text: they are not left behind in memory that is given back.
impl Drop for KvBlocks {
    fn drop(&mut self) {
        // Elsewhere the memory is the driver's.
        if cpu::is_cpu(&self.keys.device()) {
            let blocks: Vec<_> = (0..self.keys.dims()[0]).collect();
            self.wipe(&blocks);
        }
    }
}

fn places_of(blocks: &[usize], block_len: usize) -> Arc<[BlockPlace]> {
    let places = blocks.iter().flat_map(|block| {
        let block = *block;
        (0..block_len).map(move |slot| BlockPlace { block, slot })
    });
    places.collect()
}

impl KvBlocks {
    /// How many KV heads these blocks are of.
    pub fn head_count(&self) -> usize {
        self.keys.dims()[1]
    }

    /// Numbers of so many blocks of one head, as [`KvBlocks::take`] gives them.
    pub fn number_count(&self, block_count: usize) -> usize {
        let [_, _, block_len, dim] = self.keys.dims();
        2 * block_count * block_len * dim
    }

    /// One head of each pair's blocks, in this order.
    ///
    /// # Panics
    /// If there are none, or they are of other shapes.
    #[must_use]
    pub fn gather_heads(picked: &[(&Self, usize)]) -> Self {
        let of_heads = |pool: fn(&Self) -> &Tensor<4>| {
            if let [(from, head)] = picked {
                // A copy: a pool is never a view of another.
                let pool = pool(from).clone();
                let index = block_indices(vec![*head], &pool.device());
                return pool.select(1, index);
            }
            let heads = picked.iter().map(|(from, head)| {
                let pool = pool(from).clone();
                pool.narrow(1, *head, 1)
            });
            Tensor::cat(heads.collect(), 1)
        };
        Self {
            keys: of_heads(|it| &it.keys),
            values: of_heads(|it| &it.values),
        }
    }

    /// Overwrites blocks with zeros, in place where the memory is the processor's.
    ///
    /// # Panics
    /// If there is no such block.
    pub fn wipe(&mut self, blocks: &[usize]) {
        let [_, heads, block_len, dim] = self.keys.dims();
        for blocks in blocks.chunks(WIPED_AT_A_TIME) {
            let places = places_of(blocks, block_len);
            let zeros = Tensor::zeros([places.len(), heads, dim], &self.keys.device());
            self.write(&places, &zeros, &zeros);
        }
    }

    /// Keys and then values of some blocks of one head, `[block, slot, head_dim]` each.
    ///
    /// # Panics
    /// If there is no such head or block.
    pub fn take(&self, head: usize, blocks: &[usize]) -> Vec<f32> {
        let indices = block_indices(blocks.to_vec(), &self.keys.device());
        let mut numbers = Vec::with_capacity(self.number_count(blocks.len()));
        for pool in [&self.keys, &self.values] {
            let of_head = pool.clone().narrow(1, head, 1);
            let taken = of_head.select(0, indices.clone()).into_data();
            numbers.extend(taken.iter::<f32>());
        }
        numbers
    }

    /// Puts what [`KvBlocks::take`] gave into blocks of the only head.
    ///
    /// # Panics
    /// If there are more heads, or the numbers are not those of so many blocks.
    pub fn put(&mut self, blocks: &[usize], numbers: &[f32]) {
        let [_, heads, block_len, dim] = self.keys.dims();
        assert_eq!(heads, 1, "heads arrive one by one");
        assert_eq!(numbers.len(), self.number_count(blocks.len()));
        let places = places_of(blocks, block_len);
        let device = self.keys.device();
        let half = |numbers: &[f32]| {
            let data = TensorData::new(numbers.to_vec(), [places.len(), 1, dim]);
            Tensor::from_data(data, &device)
        };
        let (keys, values) = numbers.split_at(numbers.len() / 2);
        self.write(&places, &half(keys), &half(values));
    }
}

#[cfg(test)]
mod tests {
    use burn::tensor::Device;

    use super::*;

    #[test]
    fn blocks_of_a_head_travel_and_arrive() {
        let device = Device::flex();
        let pool = |start: f32, heads: usize| {
            let count = 5 * heads * 4 * 3;
            let mut next = start;
            let mut numbers = || {
                let numbers = (0..count).map(|_| {
                    next += 1.0;
                    next
                });
                TensorData::new(numbers.collect::<Vec<_>>(), [5, heads, 4, 3])
            };
            KvBlocks {
                keys: Tensor::from_data(numbers(), &device),
                values: Tensor::from_data(numbers(), &device),
            }
        };
        let from = pool(0.0, 3);
        let mut to = pool(5000.0, 1);
        let before = to.take(0, &[0, 1, 2, 3, 4]);
        to.put(&[4, 1], &from.take(2, &[4, 1]));
        assert_eq!(to.take(0, &[1, 4]), from.take(2, &[1, 4]));
        let block = 4 * 3;
        assert_eq!(to.take(0, &[0])[..block], before[..block], "others stay");
        let together = KvBlocks::gather_heads(&[(&from, 2), (&from, 0), (&to, 0)]);
        assert_eq!(together.head_count(), 3);
        assert_eq!(together.take(0, &[3]), from.take(2, &[3]));
        assert_eq!(together.take(1, &[3]), from.take(0, &[3]));
        assert_eq!(together.take(2, &[1]), from.take(2, &[1]));
        let mut alone = KvBlocks::gather_heads(&[(&from, 1)]);
        assert_eq!(alone.take(0, &[4]), from.take(1, &[4]));
        alone.wipe(&[4, 0]);
        assert!(alone.take(0, &[0, 4]).iter().all(|it| *it == 0.0));
        assert_eq!(alone.take(0, &[1]), from.take(1, &[1]), "others stay");
    }
}
