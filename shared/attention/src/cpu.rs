//! What is computed on the processor without going through tensor operations: attention, and keys and
//! values written to their blocks.
//!
//! A backend extension of burn for its processor backend. Other devices never come here.
//!
//! What a query gets is, to the last bit, a function of the query and of the keys that it sees: not of
//! the queries beside it, nor of whether keys lie in a segment or in blocks, nor of the threads.

use std::ops::Range;
use std::sync::Arc;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, DispatchDevice, Flex, backend_extension};
use burn::tensor::{DType, Device, Tensor, TensorData};
use edgeprompt_kernels::{self as kernels, Chunk, HeadPart, SPAN_LEN, attend_span, merge_spans};
use rayon::prelude::*;

use crate::blocks::{BlockPlace, BlockRow};
use crate::partial::{KvView, LogSumExp, PartialAttention, score_scale};

/// Queries of a head that read its keys together: with their scores over a stretch of keys they stay
/// in a nearer cache, and a prompt is work for many threads.
const TILE_QUERIES: usize = 64;

/// Products of numbers below which threads are not worth waking.
const PARALLEL_MIN: usize = 1 << 17;

/// Whether `q` and the tensors that go with it can be taken here: f32, on the processor.
pub(crate) fn takes(q: &Tensor<3>) -> bool {
    is_cpu(&q.device()) && q.dtype() == DType::F32
}

/// Whether a device is burn's processor backend.
pub(crate) fn is_cpu(device: &Device) -> bool {
    matches!(device.as_dispatch(), DispatchDevice::Flex(_))
}

/// Attention of queries over a segment, of which each sees the first keys: so many.
pub(crate) fn attend_segment(q: Tensor<3>, segment: &KvView, seen: Vec<usize>) -> PartialAttention {
    let (keys, values) = (segment.keys.clone(), segment.values.clone());
    let (output, lse) = <Dispatch as CpuKernels>::attend_segment(
        q.into_dispatch(),
        keys.into_dispatch(),
        values.into_dispatch(),
        seen,
    );
    PartialAttention {
        output: Tensor::from_dispatch(output),
        lse: LogSumExp::new(Tensor::from_dispatch(lse)),
    }
}

/// Attention of one query for each row over the row's own keys.
pub(crate) fn attend_rows(
    q: Tensor<3>,
    (keys, values): (&Tensor<4>, &Tensor<4>),
    rows: &Arc<[BlockRow]>,
) -> PartialAttention {
    let (output, lse) = <Dispatch as CpuKernels>::attend_rows(
        q.into_dispatch(),
        keys.clone().into_dispatch(),
        values.clone().into_dispatch(),
        Arc::clone(rows),
    );
    PartialAttention {
        output: Tensor::from_dispatch(output),
        lse: LogSumExp::new(Tensor::from_dispatch(lse)),
    }
}

/// The merge of two parts, as [`crate::merge`] defines it, in one pass over their numbers.
pub(crate) fn merge(prefix: PartialAttention, suffix: PartialAttention) -> PartialAttention {
    let (output, lse) = <Dispatch as CpuKernels>::merge(
        prefix.output.into_dispatch(),
        prefix.lse.into_tensor().into_dispatch(),
        suffix.output.into_dispatch(),
        suffix.lse.into_tensor().into_dispatch(),
    );
    PartialAttention {
        output: Tensor::from_dispatch(output),
        lse: LogSumExp::new(Tensor::from_dispatch(lse)),
    }
}

/// Writes tokens to their places: in place if the pool has no other owner.
pub(crate) fn write(pool: Tensor<4>, new: Tensor<3>, places: &Arc<[BlockPlace]>) -> Tensor<4> {
    let written = <Dispatch as CpuKernels>::write(
        pool.into_dispatch(),
        new.into_dispatch(),
        Arc::clone(places),
    );
    Tensor::from_dispatch(written)
}

#[backend_extension(Flex)]
trait CpuKernels: Backend {
    fn attend_segment(
        q: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        seen: Vec<usize>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    fn attend_rows(
        q: FloatTensor<Self>,
        keys: FloatTensor<Self>,
        values: FloatTensor<Self>,
        rows: Arc<[BlockRow]>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    fn merge(
        prefix_output: FloatTensor<Self>,
        prefix_lse: FloatTensor<Self>,
        suffix_output: FloatTensor<Self>,
        suffix_lse: FloatTensor<Self>,
    ) -> (FloatTensor<Self>, FloatTensor<Self>);

    fn write(
        pool: FloatTensor<Self>,
        new: FloatTensor<Self>,
        places: Arc<[BlockPlace]>,
    ) -> FloatTensor<Self>;
}

type CpuTensor = FloatTensor<Flex>;

impl CpuKernels for Flex {
    fn attend_segment(
        q: CpuTensor,
        keys: CpuTensor,
        values: CpuTensor,
        seen: Vec<usize>,
    ) -> (CpuTensor, CpuTensor) {
        let queries = Queries::new(&q, keys.layout().shape()[0]);
        let (keys, values) = (Heads::new(keys), Heads::new(values));
        let tile_len = (TILE_QUERIES / queries.group).max(1);
        let tiles = queries.tokens.div_ceil(tile_len);
        let tile = |task: usize| {
            let (head, first) = (task / tiles, task % tiles * tile_len);
            let tokens = first..queries.tokens.min(first + tile_len);
            let rows = queries.of_head(head, &tokens, &seen[tokens.clone()]);
            let part = rows.attend(|keys_range| {
                vec![Chunk {
                    keys: keys.tokens(head, &keys_range),
                    values: values.tokens(head, &keys_range),
                }]
            });
            (head, tokens, part)
        };
        let work = seen.iter().sum::<usize>() * queries.token_len();
        let parts = in_parallel(queries.kv_heads * tiles, work, tile);
        Answer::of_parts(&queries, parts)
    }

    fn attend_rows(
        q: CpuTensor,
        keys: CpuTensor,
        values: CpuTensor,
        rows: Arc<[BlockRow]>,
    ) -> (CpuTensor, CpuTensor) {
        let shape = keys.layout().shape().clone();
        let (kv_heads, block_len) = (shape[1], shape[2]);
        let queries = Queries::new(&q, kv_heads);
        let (keys, values) = (whole(&keys), whole(&values));
        let dim = queries.head_dim;
        let of_row = |task: usize| {
            let (token, head) = (task / kv_heads, task % kv_heads);
            let row = &rows[token];
            let tokens = token..token + 1;
            let part = queries
                .of_head(head, &tokens, &[row.token_count])
                .attend(|range| {
                    let chunk = |(block, slots): (usize, Range<usize>)| {
                        let start = (block * kv_heads + head) * block_len;
                        let place = (start + slots.start) * dim..(start + slots.end) * dim;
                        Chunk {
                            keys: &keys[place.clone()],
                            values: &values[place],
                        }
                    };
                    row.slots(range, block_len).map(chunk).collect()
                });
            (head, tokens, part)
        };
        let token_count: usize = rows.iter().map(|row| row.token_count).sum();
        let work = token_count * queries.token_len();
        let parts = in_parallel(rows.len() * kv_heads, work, of_row);
        Answer::of_parts(&queries, parts)
    }

    fn merge(
        prefix_output: CpuTensor,
        prefix_lse: CpuTensor,
        suffix_output: CpuTensor,
        suffix_lse: CpuTensor,
    ) -> (CpuTensor, CpuTensor) {
        let shape = prefix_output.layout().shape().clone();
        let dim = shape[2];
        let parts = [prefix_output, prefix_lse, suffix_output, suffix_lse];
        let parts = parts.map(|part| part.to_contiguous());
        let [output, lse, suffix_output, suffix_lse] = parts.each_ref().map(whole);
        let (mut output, mut lse) = (output.to_vec(), lse.to_vec());
        let into = output.par_chunks_mut(dim).zip(&mut lse);
        let from = suffix_output.par_chunks(dim).zip(suffix_lse);
        into.zip(from)
            .with_min_len(PARALLEL_MIN.div_ceil(dim))
            .for_each(|((output, lse), (suffix, suffix_lse))| {
                *lse = kernels::merge_into(output, *lse, (suffix, *suffix_lse))
            });
        let lse = TensorData::new(lse, [shape[0], shape[1]]);
        (
            CpuTensor::from_data(TensorData::new(output, shape)),
            CpuTensor::from_data(lse),
        )
    }

    fn write(mut pool: CpuTensor, new: CpuTensor, places: Arc<[BlockPlace]>) -> CpuTensor {
        let shape = pool.layout().shape().clone();
        let (heads, block_len, dim) = (shape[1], shape[2], shape[3]);
        let new = new.to_contiguous();
        let new: &[f32] = new.as_slice().expect("made contiguous");
        let storage: &mut [f32] = pool.storage_mut();
        for (place, token) in places.iter().zip(new.chunks_exact(heads * dim)) {
            for (head, numbers) in token.chunks_exact(dim).enumerate() {
                let start = ((place.block * heads + head) * block_len + place.slot) * dim;
                storage[start..start + dim].copy_from_slice(numbers);
            }
        }
        pool
    }
}

/// Runs every task, on all threads if that pays; the results in the order of tasks.
fn in_parallel<T: Send>(
    count: usize,
    work: usize,
    task: impl Fn(usize) -> T + Send + Sync,
) -> Vec<T> {
    match work < PARALLEL_MIN {
        true => (0..count).map(task).collect(),
        false => (0..count).into_par_iter().map(task).collect(),
    }
}

/// Numbers of a tensor that is contiguous: a pool of blocks, which is never cut, or one made so.
fn whole(tensor: &CpuTensor) -> &[f32] {
    tensor.as_slice().expect("the tensor is contiguous")
}

/// Queries, scaled: `[token, q_head, head_dim]`.
struct Queries {
    numbers: Vec<f32>,
    tokens: usize,
    kv_heads: usize,
    /// Query heads of one KV head.
    group: usize,
    head_dim: usize,
}

impl Queries {
    fn new(q: &CpuTensor, kv_heads: usize) -> Self {
        let shape = q.layout().shape().clone();
        let (tokens, q_heads, head_dim) = (shape[0], shape[1], shape[2]);
        let scale = score_scale(head_dim);
        let q = q.to_contiguous();
        let q: &[f32] = q.as_slice().expect("made contiguous");
        Self {
            numbers: q.iter().map(|it| it * scale).collect(),
            tokens,
            kv_heads,
            group: q_heads / kv_heads,
            head_dim,
        }
    }

    /// Where the queries of one token that read one KV head begin, in units of heads.
    const fn first_head(&self, head: usize, token: usize) -> usize {
        (token * self.kv_heads + head) * self.group
    }

    /// Numbers of one token.
    const fn token_len(&self) -> usize {
        self.kv_heads * self.group * self.head_dim
    }

    /// Those of some tokens that read one KV head: each token sees the first keys, so many.
    fn of_head(&self, head: usize, tokens: &Range<usize>, seen: &[usize]) -> HeadRows {
        let len = self.group * self.head_dim;
        let queries = tokens.clone().flat_map(|token| {
            let start = self.first_head(head, token) * self.head_dim;
            &self.numbers[start..start + len]
        });
        let seen = seen
            .iter()
            .flat_map(|seen| std::iter::repeat_n(*seen, self.group));
        HeadRows {
            numbers: queries.copied().collect(),
            seen: seen.collect(),
            head_dim: self.head_dim,
        }
    }
}

/// The rows of some tokens that read one KV head, `[token, group]`.
struct HeadRows {
    numbers: Vec<f32>,
    seen: Vec<usize>,
    head_dim: usize,
}

impl HeadRows {
    /// Attention over the keys and values that `chunks` finds for a range of tokens.
    fn attend<'a>(
        &self,
        chunks: impl Fn(Range<usize>) -> Vec<Chunk<'a>> + Send + Sync,
    ) -> HeadPart {
        let queries = kernels::Queries {
            numbers: &self.numbers,
            seen: &self.seen,
            head_dim: self.head_dim,
        };
        let seen_max = queries.seen_max();
        let span = |span: usize| {
            let start = span * SPAN_LEN;
            let chunks = chunks(start..seen_max.min(start + SPAN_LEN));
            attend_span(queries, span, &chunks)
        };
        let work = self.numbers.len() * seen_max;
        merge_spans(queries, in_parallel(queries.span_count(), work, span))
    }
}

/// Output and log-sum-exp of all queries, put together head by head.
struct Answer {
    output: Vec<f32>,
    lse: Vec<f32>,
}

impl Answer {
    /// Of parts, each of a KV head and of some tokens.
    fn of_parts(
        queries: &Queries,
        parts: Vec<(usize, Range<usize>, HeadPart)>,
    ) -> (CpuTensor, CpuTensor) {
        let mut answer = Self::new(queries);
        for (head, tokens, part) in parts {
            answer.put(queries, head, tokens, &part);
        }
        answer.into_tensors(queries)
    }

    fn new(queries: &Queries) -> Self {
        let heads = queries.tokens * queries.kv_heads * queries.group;
        Self {
            output: vec![0.0; heads * queries.head_dim],
            lse: vec![0.0; heads],
        }
    }

    fn put(&mut self, queries: &Queries, head: usize, tokens: Range<usize>, part: &HeadPart) {
        let (group, dim) = (queries.group, queries.head_dim);
        let outputs = part.output.chunks_exact(group * dim);
        let lses = part.lse.chunks_exact(group);
        for ((token, output), lse) in tokens.zip(outputs).zip(lses) {
            let start = queries.first_head(head, token);
            self.output[start * dim..(start + group) * dim].copy_from_slice(output);
            self.lse[start..start + group].copy_from_slice(lse);
        }
    }

    fn into_tensors(self, queries: &Queries) -> (CpuTensor, CpuTensor) {
        let q_heads = queries.kv_heads * queries.group;
        let shape = [queries.tokens, q_heads, queries.head_dim];
        (
            CpuTensor::from_data(TensorData::new(self.output, shape)),
            CpuTensor::from_data(TensorData::new(self.lse, [queries.tokens, q_heads])),
        )
    }
}

/// Keys or values of a segment: `[kv_head, token, head_dim]`, the tokens of a head side by side.
struct Heads {
    tensor: CpuTensor,
    /// Of the first number.
    start: usize,
    /// Numbers from one head to the next.
    stride: usize,
    dim: usize,
}

impl Heads {
    fn new(tensor: CpuTensor) -> Self {
        let layout = tensor.layout();
        let (dim, strides) = (layout.shape()[2], layout.strides());
        let dense = strides[2] == 1 && usize::try_from(strides[1]) == Ok(dim);
        let (tensor, stride) = match usize::try_from(strides[0]) {
            Ok(stride) if dense => (tensor, stride),
            _ => {
                let stride = layout.shape()[1] * dim;
                (tensor.to_contiguous(), stride)
            }
        };
        Self {
            start: tensor.layout().start_offset(),
            tensor,
            stride,
            dim,
        }
    }

    fn tokens(&self, head: usize, tokens: &Range<usize>) -> &[f32] {
        let start = self.start + head * self.stride + tokens.start * self.dim;
        &self.tensor.storage()[start..start + tokens.len() * self.dim]
    }
}
