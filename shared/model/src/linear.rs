//! Products of hidden states with weights, and the gates between them. On the processor, products of a
//! few tokens, as when many sequences generate, and gates go to kernels of our own; all others are
//! burn's.

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, DispatchDevice, Flex, backend_extension};
use burn::nn::Linear;
use burn::tensor::activation::silu;
use burn::tensor::{DType, Device, Tensor, TensorData};
use edgeprompt_kernels::{self as kernels, Matrix, PackedRows, columns};
use rayon::prelude::*;

/// Tokens for which the kernel is faster than burn's product, measured on two cores with AVX-512:
/// one token is bound by memory either way.
const FEW: std::ops::RangeInclusive<usize> = 1..=64;

/// Fewest columns that a thread takes at a time.
const TASK_COLUMNS_MIN: usize = 128;

/// Numbers below which threads are not worth waking for the gates.
const PARALLEL_MIN: usize = 1 << 15;

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

/// `silu(gate)·up`.
///
/// # Shapes
/// `gate_up`: `[token, 2·mlp]`, gates first; the result: `[token, mlp]`.
pub(crate) fn gated(gate_up: Tensor<2>) -> Tensor<2> {
    if is_f32_on_cpu(&gate_up) {
        return Tensor::from_dispatch(<Dispatch as Kernels>::gated(gate_up.into_dispatch()));
    }
    let width = gate_up.dims()[1] / 2;
    let gate = silu(gate_up.clone().narrow(1, 0, width));
    gate * gate_up.narrow(1, width, width)
}

/// Whether a device is burn's processor backend.
pub(crate) fn is_cpu(device: &Device) -> bool {
    matches!(device.as_dispatch(), DispatchDevice::Flex(_))
}

fn is_for_kernel(hidden: &Tensor<2>) -> bool {
    FEW.contains(&hidden.dims()[0]) && is_f32_on_cpu(hidden)
}

fn is_f32_on_cpu(tensor: &Tensor<2>) -> bool {
    tensor.dtype() == DType::F32 && is_cpu(&tensor.device())
}

fn times(hidden: Tensor<2>, weight: Tensor<2>) -> Tensor<2> {
    let product = <Dispatch as Kernels>::times(hidden.into_dispatch(), weight.into_dispatch());
    Tensor::from_dispatch(product)
}

#[backend_extension(Flex)]
trait Kernels: Backend {
    fn times(rows: FloatTensor<Self>, matrix: FloatTensor<Self>) -> FloatTensor<Self>;

    fn gated(gate_up: FloatTensor<Self>) -> FloatTensor<Self>;
}

type CpuTensor = FloatTensor<Flex>;

impl Kernels for Flex {
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

    fn gated(gate_up: CpuTensor) -> CpuTensor {
        let gate_up = gate_up.to_contiguous();
        let (tokens, both) = (gate_up.layout().shape()[0], gate_up.layout().shape()[1]);
        let numbers: &[f32] = gate_up.as_slice().expect("made contiguous");
        let width = both / 2;
        let out = match tokens * width < PARALLEL_MIN {
            true => kernels::gated(numbers, width),
            false => numbers
                .par_chunks(tokens.div_ceil(rayon::current_num_threads()) * both)
                .flat_map_iter(|rows| kernels::gated(rows, width))
                .collect(),
        };
        CpuTensor::from_data(TensorData::new(out, [tokens, width]))
    }
}
