//! Products of hidden states with weights. On the processor, those of a few tokens, as when many
//! sequences generate, go to a kernel of our own; all others are burn's.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, DispatchDevice, Flex, backend_extension};
use burn::nn::Linear;
use burn::tensor::{DType, Tensor, TensorData};
use edgeprompt_kernels::{Matrix, PackedRows, columns};
use rayon::prelude::*;

/// Tokens for which the kernel is faster than burn's product, measured on two cores with AVX-512:
/// one token is bound by memory either way.
const FEW: std::ops::RangeInclusive<usize> = 1..=64;

/// Fewest columns that a thread takes at a time.
const TASK_COLUMNS_MIN: usize = 128;

/// Tasks for each thread, so that none waits long for another.
const TASKS_PER_THREAD: usize = 4;

/// `hidden · weight + bias`.
///
/// # Shapes
/// `hidden`: `[token, in]`; the result: `[token, out]`.
pub(crate) fn linear(layer: &Linear, hidden: Tensor<2>) -> Tensor<2> {
    if !is_for_kernel(&hidden) {
        return layer.forward(hidden);
    }
    let product = times(hidden, layer.weight.val());
    match &layer.bias {
        Some(bias) => product + bias.val().unsqueeze(),
        None => product,
    }
}

/// `hidden · weight`.
///
/// # Shapes
/// `hidden`: `[token, in]`, `weight`: `[in, out]`; the result: `[token, out]`.
pub(crate) fn product(hidden: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    match is_for_kernel(&hidden) {
        true => times(hidden, weight),
        false => hidden.matmul(weight),
    }
}

fn is_for_kernel(hidden: &Tensor<2>) -> bool {
    FEW.contains(&hidden.dims()[0])
        && hidden.dtype() == DType::F32
        && matches!(hidden.device().as_dispatch(), DispatchDevice::Flex(_))
}

fn times(hidden: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    let product = <Dispatch as FewRows>::times(hidden.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(product)
}

#[backend_extension(Flex)]
trait FewRows: Backend {
    fn times(rows: FloatTensor<Self>, matrix: FloatTensor<Self>) -> FloatTensor<Self>;
}

type CpuTensor = FloatTensor<Flex>;

impl FewRows for Flex {
    fn times(rows: CpuTensor, matrix: CpuTensor) -> CpuTensor {
        let (rows, matrix) = (rows.to_contiguous(), matrix.to_contiguous());
        let (depth, width) = (matrix.layout().shape()[0], matrix.layout().shape()[1]);
        let row_count = rows.layout().shape()[0];
        let packed = PackedRows::new(rows.as_slice().expect("made contiguous"), depth);
        let matrix = Matrix {
            numbers: matrix.as_slice().expect("made contiguous"),
            width,
        };
        let tasks = TASKS_PER_THREAD * rayon::current_num_threads();
        let task_columns = width.div_ceil(tasks).next_multiple_of(TASK_COLUMNS_MIN);
        let starts: Vec<_> = (0..width).step_by(task_columns).collect();
        let task = |first: &usize| {
            let count = task_columns.min(width - first);
            columns(&packed, matrix, (*first, count))
        };
        let parts: Vec<_> = starts.par_iter().map(task).collect();
        let mut out = Vec::with_capacity(row_count * width);
        for row in 0..row_count {
            for part in &parts {
                let count = part.len() / row_count;
                out.extend_from_slice(&part[row * count..][..count]);
            }
        }
        CpuTensor::from_data(TensorData::new(out, [row_count, width]))
    }
}
