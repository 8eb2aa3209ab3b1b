//! Keys and values of many sequences in one pool of fixed blocks (PagedAttention, arXiv 2309.06180).

use burn::tensor::{Device, Int, Tensor, TensorData};

use crate::KvView;

/// Where one token's keys and values lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockPlace {
    /// The block.
    pub block: usize,
    /// The slot in it.
    pub slot: usize,
}

/// The blocks of one layer. Deliberately not `Debug`: private KV counts as private text.
pub struct KvBlocks {
    /// `[block, kv_head, slot, head_dim]`
    keys: Tensor<4>,
    values: Tensor<4>,
}

impl KvBlocks {
    /// Blocks of zeros.
    ///
    /// # Shapes
    /// `[block, kv_head, slot, head_dim]`
    pub fn zeros(shape: [usize; 4], device: &Device) -> Self {
        Self {
            keys: Tensor::zeros(shape, device),
            values: Tensor::zeros(shape, device),
        }
    }

    /// Writes the keys and values of new tokens, each to its place.
    ///
    /// # Shapes
    /// `keys`, `values`: `[token, kv_head, head_dim]`, one token for each place.
    ///
    /// # Panics
    /// If shapes and places do not fit each other.
    pub fn write(&mut self, places: &[BlockPlace], keys: &Tensor<3>, values: &Tensor<3>) {
        let [_, heads, _, dim] = self.keys.dims();
        assert_eq!(keys.dims(), [places.len(), heads, dim]);
        for run in runs(places) {
            let BlockPlace { block, slot } = places[run.start];
            let target = [block..block + 1, 0..heads, slot..slot + run.len(), 0..dim];
            for (pool, new) in [(&mut self.keys, keys), (&mut self.values, values)] {
                let new = new.clone().narrow(0, run.start, run.len());
                let new = new.swap_dims(0, 1).unsqueeze::<4>();
                // Taken out so that the pool is the only owner and is written in place.
                pool.inplace(|pool| pool.slice_assign(target.clone(), new));
            }
        }
    }

    /// The first `token_count` tokens of a table of blocks, copied to be contiguous.
    ///
    /// # Panics
    /// If the blocks hold fewer tokens.
    pub fn gather(&self, blocks: &[usize], token_count: usize) -> KvView {
        let [_, heads, block_len, dim] = self.keys.dims();
        let count = token_count.div_ceil(block_len);
        let indices: Vec<i64> = blocks[..count]
            .iter()
            .map(|block| i64::try_from(*block).expect("blocks are those of a pool in memory"))
            .collect();
        let indices = TensorData::new(indices, [count]);
        let indices: Tensor<1, Int> = Tensor::from_data(indices, &self.keys.device());
        let gathered = |pool: &Tensor<4>| {
            let blocks = pool.clone().select(0, indices.clone()).swap_dims(0, 1);
            blocks
                .reshape([heads, count * block_len, dim])
                .narrow(1, 0, token_count)
        };
        KvView {
            keys: gathered(&self.keys),
            values: gathered(&self.values),
        }
    }
}

/// Tokens that lie side by side, as ranges of `places`.
fn runs(places: &[BlockPlace]) -> impl Iterator<Item = std::ops::Range<usize>> + '_ {
    let mut start = 0;
    std::iter::from_fn(move || {
        let first = places.get(start)?;
        let follows = |(offset, place): &(usize, &BlockPlace)| {
            place.block == first.block && place.slot == first.slot + offset
        };
        let len = places[start..]
            .iter()
            .enumerate()
            .take_while(follows)
            .count();
        let run = start..start + len;
        start = run.end;
        Some(run)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn place(block: usize, slot: usize) -> BlockPlace {
        BlockPlace { block, slot }
    }

    #[test]
    fn neighbours_are_written_together() {
        let places = [
            place(3, 2),
            place(3, 3),
            place(1, 0),
            place(1, 1),
            place(1, 3),
            place(1, 2),
        ];
        let runs: Vec<_> = runs(&places).collect();
        assert_eq!(runs, [0..2, 2..4, 4..5, 5..6]);
    }

    #[test]
    fn what_is_written_is_gathered_in_the_order_of_tokens() {
        let device = Device::flex();
        let mut blocks = KvBlocks::zeros([4, 2, 4, 3], &device);
        let table = [2, 0, 3];
        let token_count = 10;
        let numbers = |offset: f32| -> Vec<f32> {
            let mut next = offset;
            std::iter::repeat_with(|| {
                next += 1.0;
                next
            })
            .take(token_count * 2 * 3)
            .collect()
        };
        let tensor = |numbers: Vec<f32>| {
            Tensor::<3>::from_data(TensorData::new(numbers, [token_count, 2, 3]), &device)
        };
        let (keys, values) = (tensor(numbers(0.0)), tensor(numbers(1000.0)));
        let places: Vec<_> = (0..token_count)
            .map(|token| place(table[token / 4], token % 4))
            .collect();
        // In two parts that meet inside a block, as chunks of a prefill do.
        for part in [0..6, 6..10] {
            let narrow = |t: &Tensor<3>| t.clone().narrow(0, part.start, part.len());
            blocks.write(&places[part.clone()], &narrow(&keys), &narrow(&values));
        }
        let view = blocks.gather(&table, token_count);
        let by_head = |t: Tensor<3>| t.swap_dims(0, 1).into_data();
        view.keys.into_data().assert_eq(&by_head(keys), true);
        view.values.into_data().assert_eq(&by_head(values), true);
    }
}
