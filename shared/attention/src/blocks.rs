//! Keys and values of many sequences in one pool of fixed blocks (PagedAttention, arXiv 2309.06180).

use std::ops::Range;
use std::sync::Arc;

use burn::tensor::{Bool, Device, Int, Tensor, TensorData};

use crate::partial::{attend_scores, score_scale};
use crate::{KvView, LogSumExp, PartialAttention, cpu};

/// Where one token's keys and values lie.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BlockPlace {
    /// The block.
    pub block: usize,
    /// The slot in it.
    pub slot: usize,
}

/// Where the tokens lie that one query sees.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BlockRow {
    /// The blocks, in the order of tokens.
    pub blocks: Vec<usize>,
    /// How many tokens, at least one.
    pub token_count: usize,
}

impl BlockRow {
    /// The blocks of some tokens, and which slots of each.
    pub(crate) fn slots(
        &self,
        tokens: Range<usize>,
        block_len: usize,
    ) -> impl Iterator<Item = (usize, Range<usize>)> {
        let blocks = tokens.start / block_len..tokens.end.div_ceil(block_len);
        blocks.map(move |index| {
            let first = index * block_len;
            let start = tokens.start.max(first) - first;
            (self.blocks[index], start..block_len.min(tokens.end - first))
        })
    }
}

/// The blocks of one layer. Deliberately not `Debug`: private KV counts as private text.
pub struct KvBlocks {
    /// `[block, kv_head, slot, head_dim]`
    pub(crate) keys: Tensor<4>,
    pub(crate) values: Tensor<4>,
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
    pub fn write(&mut self, places: &Arc<[BlockPlace]>, keys: &Tensor<3>, values: &Tensor<3>) {
        let [_, heads, _, dim] = self.keys.dims();
        assert_eq!(keys.dims(), [places.len(), heads, dim]);
        assert_eq!(values.dims(), [places.len(), heads, dim]);
        if cpu::is_cpu(&self.keys.device()) {
            for (pool, new) in [(&mut self.keys, keys), (&mut self.values, values)] {
                // Taken out so that the pool is the only owner and is written in place.
                pool.inplace(|pool| cpu::write(pool, new.clone(), places));
            }
            return;
        }
        self.write_runs(places, keys, values);
    }

    /// The same by tensor operations, one for each run of neighbours.
    fn write_runs(&mut self, places: &[BlockPlace], keys: &Tensor<3>, values: &Tensor<3>) {
        let [_, heads, _, dim] = self.keys.dims();
        for run in runs(places) {
            let BlockPlace { block, slot } = places[run.start];
            let target = [block..block + 1, 0..heads, slot..slot + run.len(), 0..dim];
            for (pool, new) in [(&mut self.keys, keys), (&mut self.values, values)] {
                let new = new.clone().narrow(0, run.start, run.len());
                let new = new.swap_dims(0, 1).unsqueeze::<4>();
                pool.inplace(|pool| pool.slice_assign(target.clone(), new));
            }
        }
    }

    /// Attention of one query for each row over the tokens of that row, all of them visible.
    ///
    /// # Shapes
    /// `q`: `[row, q_head, head_dim]`, post-RoPE.
    ///
    /// # Panics
    /// If shapes, rows and blocks do not fit each other.
    pub fn attend(&self, q: &Tensor<3>, rows: &Arc<[BlockRow]>) -> PartialAttention {
        assert_eq!(q.dims()[0], rows.len(), "a query for each row");
        if cpu::is_cpu(&q.device()) {
            return cpu::attend_rows(q.clone(), (&self.keys, &self.values), rows);
        }
        self.attend_padded(q, rows)
    }

    /// The same by tensor operations, every row as long as the longest.
    fn attend_padded(&self, q: &Tensor<3>, rows: &[BlockRow]) -> PartialAttention {
        let [count, q_heads, dim] = q.dims();
        let [_, heads, block_len, _] = self.keys.dims();
        let widths = rows.iter().map(|row| row.token_count.div_ceil(block_len));
        let width = widths.max().unwrap_or(0);
        let padded = rows.iter().flat_map(|row| {
            let blocks = row.blocks[..row.token_count.div_ceil(block_len)]
                .iter()
                .copied();
            blocks.chain(std::iter::repeat(0)).take(width)
        });
        let indices = block_indices(padded.collect(), &self.keys.device());
        let gathered = |pool: &Tensor<4>| {
            let blocks = pool.clone().select(0, indices.clone());
            let blocks = blocks.reshape([count, width, heads, block_len, dim]);
            blocks
                .swap_dims(1, 2)
                .reshape([count, heads, width * block_len, dim])
        };
        let hidden = rows
            .iter()
            .flat_map(|row| (0..width * block_len).map(|token| token >= row.token_count));
        let hidden = TensorData::new(hidden.collect::<Vec<_>>(), [count, 1, 1, width * block_len]);
        let hidden: Tensor<4, Bool> = Tensor::from_data(hidden, &self.keys.device());
        let group = q_heads / heads;
        let scores = q
            .clone()
            .mul_scalar(score_scale(dim))
            .reshape([count, heads, group, dim])
            .matmul(gathered(&self.keys).transpose());
        let hidden = hidden.expand(scores.dims());
        let scores = scores.mask_fill(hidden, f32::NEG_INFINITY);
        let (output, lse) = attend_scores(scores, gathered(&self.values));
        PartialAttention {
            output: output.reshape([count, q_heads, dim]),
            lse: LogSumExp::new(lse.reshape([count, q_heads])),
        }
    }

    /// The first `token_count` tokens of a table of blocks, copied to be contiguous.
    ///
    /// # Panics
    /// If the blocks hold fewer tokens.
    pub fn gather(&self, blocks: &[usize], token_count: usize) -> KvView {
        let [_, heads, block_len, dim] = self.keys.dims();
        let count = token_count.div_ceil(block_len);
        let indices = block_indices(blocks[..count].to_vec(), &self.keys.device());
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

pub(crate) fn block_indices(blocks: Vec<usize>, device: &Device) -> Tensor<1, Int> {
    let indices = blocks.into_iter().map(|block| {
        // A pool fits in memory.
        i64::try_from(block).expect("blocks are those of a pool in memory")
    });
    let indices: Vec<i64> = indices.collect();
    let len = indices.len();
    Tensor::from_data(TensorData::new(indices, [len]), device)
}

/// Tokens that lie side by side, as ranges of `places`.
fn runs(places: &[BlockPlace]) -> impl Iterator<Item = Range<usize>> + '_ {
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
            blocks.write(
                &places[part.clone()].into(),
                &narrow(&keys),
                &narrow(&values),
            );
        }
        let view = blocks.gather(&table, token_count);
        let by_head = |t: Tensor<3>| t.swap_dims(0, 1).into_data();
        view.keys.into_data().assert_eq(&by_head(keys), true);
        view.values.into_data().assert_eq(&by_head(values), true);
    }

    /// Numbers between -1 and 1 that no two indices share.
    fn numbers(count: usize, seed: usize) -> Vec<f32> {
        (0..count)
            .map(|index| ((index + seed) as f32 * 0.618_034).fract() * 2.0 - 1.0)
            .collect()
    }

    fn tensor<const D: usize>(shape: [usize; D], seed: usize) -> Tensor<D> {
        let numbers = numbers(shape.iter().product(), seed);
        Tensor::from_data(TensorData::new(numbers, shape), &Device::flex())
    }

    #[test]
    fn the_processor_attends_and_writes_as_tensor_operations_do() {
        let (kv_heads, group, dim, block_len) = (2, 3, 20, 4);
        let pool = [40, kv_heads, block_len, dim];
        let mut blocks = KvBlocks {
            keys: tensor(pool, 1),
            values: tensor(pool, 2),
        };
        let mut by_operations = KvBlocks {
            keys: tensor(pool, 1),
            values: tensor(pool, 2),
        };
        let places: Arc<[_]> = [place(7, 1), place(7, 2), place(0, 3), place(39, 0)].into();
        let (keys, values) = (tensor([4, kv_heads, dim], 3), tensor([4, kv_heads, dim], 4));
        blocks.write(&places, &keys, &values);
        by_operations.write_runs(&places, &keys, &values);
        for (a, b) in [
            (&blocks.keys, &by_operations.keys),
            (&blocks.values, &by_operations.values),
        ] {
            a.to_data().assert_eq(&b.to_data(), true);
        }

        let row = |blocks: Vec<usize>, token_count| BlockRow {
            blocks,
            token_count,
        };
        let rows: Arc<[_]> = [
            row(vec![7, 0, 39], 11),
            row(vec![5], 1),
            row((0..40).rev().collect(), 160),
        ]
        .into();
        let q = tensor([rows.len(), kv_heads * group, dim], 5);
        let (found, expected) = (blocks.attend(&q, &rows), blocks.attend_padded(&q, &rows));
        let tolerance = burn::tensor::Tolerance::<f32>::absolute(1e-5);
        let lse = |it: LogSumExp| it.into_tensor().into_data();
        found
            .output
            .into_data()
            .assert_approx_eq(&expected.output.into_data(), tolerance);
        lse(found.lse).assert_approx_eq(&lse(expected.lse), tolerance);
    }
}
