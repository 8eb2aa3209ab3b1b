//! Products of hidden states with weights, and the gates between them. On the processor they go to
//! kernels of our own, for which weights are laid out in panels; elsewhere they are burn's.

use std::ops::Range;

use burn::backend::tensor::FloatTensor;
use burn::backend::{Backend, Dispatch, DispatchDevice, Flex, backend_extension};
use burn::module::{Module, Param};
use burn::tensor::activation::silu;
use burn::tensor::{DType, Device, Int, Tensor, TensorData};
use edgeprompt_kernels::{self as kernels, PANEL_WIDTH, PackedRows, Panels, columns};
use rayon::prelude::*;

use crate::layout::{Layout, Order};

/// Tasks for each thread, so that none waits long for another.
const TASKS_PER_THREAD: usize = 4;

/// Fewest panels that a thread takes at a time.
const TASK_PANELS_MIN: usize = 2;

/// Rows that a task takes at a time: with the columns of a panel they stay in its cache.
const TASK_ROWS: usize = 96;

/// Numbers below which threads are not worth waking for the gates.
const PARALLEL_MIN: usize = 1 << 15;

/// What hidden states are multiplied with, and perhaps what is added then.
#[derive(Module, Debug)]
pub(crate) struct Linear {
    /// `[in, out]`, in its layout.
    pub(crate) weight: Param<Tensor<2>>,
    /// `[out]`
    pub(crate) bias: Option<Param<Tensor<1>>>,
    #[module(skip)]
    pub(crate) layout: Layout,
}

impl Linear {
    /// `hidden · weight + bias`.
    ///
    /// # Shapes
    /// `hidden`: `[token, in]`; the result: `[token, out]`.
    pub(crate) fn forward(&self, hidden: Tensor<2>) -> Tensor<2> {
        let weight = self.weight.val();
        let product = match self.layout.order {
            Order::Lines => hidden.matmul(weight),
            Order::Panels => Tensor::from_dispatch(<Dispatch as Kernels>::times(
                hidden.into_dispatch(),
                weight.into_dispatch(),
                self.layout.width,
            )),
        };
        match &self.bias {
            Some(bias) => product + bias.val().unsqueeze(),
            None => product,
        }
    }

    /// Columns of the weight as rows.
    ///
    /// # Shapes
    /// `columns`: `[column]`; the result: `[column, in]`.
    pub(crate) fn columns(&self, columns: Tensor<1, Int>) -> Tensor<2> {
        let weight = self.weight.val();
        match self.layout.order {
            Order::Lines => weight.select(1, columns).transpose(),
            Order::Panels => {
                let columns = columns.into_data();
                let columns = columns.iter::<u32>().map(|it| it as usize).collect();
                let depth = self.layout.depth;
                let found = <Dispatch as Kernels>::select(weight.into_dispatch(), depth, columns);
                Tensor::from_dispatch(found)
            }
        }
    }

    /// The same, laid out as the device multiplies fastest.
    pub(crate) fn laid_out(self) -> Self {
        let Layout { depth, width, .. } = self.layout;
        let device = self.weight.val().device();
        if Layout::fastest(&device, [depth, width]) == self.layout {
            return self;
        }
        let lines = self.to_lines();
        Self {
            bias: self.bias,
            ..Self::from_lines(lines, [depth, width], &device)
        }
    }

    /// A matrix `[depth, width]` from its lines, laid out as the device multiplies fastest.
    ///
    /// # Panics
    /// If there are more or fewer numbers.
    pub(crate) fn from_lines(
        numbers: Vec<f32>,
        [depth, width]: [usize; 2],
        device: &Device,
    ) -> Self {
        assert_eq!(numbers.len(), depth * width, "the numbers are a matrix");
        let layout = Layout::fastest(device, [depth, width]);
        let numbers = match layout.order {
            Order::Lines => numbers,
            Order::Panels => {
                let [lines, columns] = layout.tensor_shape();
                let mut placed = vec![0.0; lines * columns];
                for (line, from) in numbers.chunks_exact(width).enumerate() {
                    layout.put(&mut placed, (line, 0), from.iter().copied());
                }
                placed
            }
        };
        let data = TensorData::new(numbers, layout.tensor_shape());
        Self {
            weight: Param::from_tensor(Tensor::from_data(data, device)),
            bias: None,
            layout,
        }
    }

    /// The matrix, line by line.
    pub(crate) fn to_lines(&self) -> Vec<f32> {
        let Layout { depth, width, .. } = self.layout;
        self.cut(0..depth, 0..width)
    }

    /// Columns of matrices of one depth side by side, with their biases.
    ///
    /// # Panics
    /// If there are none, or their depths differ.
    pub(crate) fn of_columns(parts: &[(&Self, Range<usize>)]) -> Self {
        let (first, _) = parts.first().expect("there are columns to take");
        let depth = first.layout.depth;
        let width = parts.iter().map(|(_, columns)| columns.len()).sum();
        let mut numbers = vec![0.0; depth * width];
        let mut start = 0;
        for (from, columns) in parts {
            assert_eq!(from.layout.depth, depth, "matrices of one depth");
            let taken = from.cut(0..depth, columns.clone());
            let lines = numbers.chunks_exact_mut(width);
            for (line, taken) in lines.zip(taken.chunks_exact(columns.len().max(1))) {
                line[start..start + columns.len()].copy_from_slice(taken);
            }
            start += columns.len();
        }
        let biases = parts.iter().filter_map(|(from, columns)| {
            let bias = from.bias.as_ref()?.val();
            Some(bias.narrow(0, columns.start, columns.len()))
        });
        let biases: Vec<_> = biases.collect();
        let bias =
            (biases.len() == parts.len()).then(|| Param::from_tensor(Tensor::cat(biases, 0)));
        Self {
            bias,
            ..Self::from_lines(numbers, [depth, width], &first.weight.val().device())
        }
    }

    /// Lines of matrices of one width one below the other, without biases.
    ///
    /// # Panics
    /// If there are none, or their widths differ.
    pub(crate) fn of_lines(parts: &[(&Self, Range<usize>)]) -> Self {
        let (first, _) = parts.first().expect("there are lines to take");
        let width = first.layout.width;
        let mut numbers = Vec::new();
        for (from, lines) in parts {
            assert_eq!(from.layout.width, width, "matrices of one width");
            numbers.extend(from.cut(lines.clone(), 0..width));
        }
        let depth = parts.iter().map(|(_, lines)| lines.len()).sum();
        Self::from_lines(numbers, [depth, width], &first.weight.val().device())
    }

    /// `[line, column]` of some lines and columns.
    fn cut(&self, lines: Range<usize>, columns: Range<usize>) -> Vec<f32> {
        let from = self.weight.val().into_data();
        let from: &[f32] = from.as_slice().expect("weights are f32");
        let mut numbers = Vec::with_capacity(lines.len() * columns.len());
        for line in lines {
            let mut column = columns.start;
            while column < columns.end {
                let (place, side_by_side) = self.layout.place(line, column);
                let count = side_by_side.min(columns.end - column);
                numbers.extend_from_slice(&from[place..place + count]);
                column += count;
            }
        }
        numbers
    }
}

/// `silu(gate)·up`.
///
/// # Shapes
/// `gate_up`: `[token, 2·mlp]`, gates first; the result: `[token, mlp]`.
pub(crate) fn gated(gate_up: Tensor<2>) -> Tensor<2> {
    if gate_up.dtype() == DType::F32 && is_cpu(&gate_up.device()) {
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

#[backend_extension(Flex)]
trait Kernels: Backend {
    fn times(rows: FloatTensor<Self>, panels: FloatTensor<Self>, width: usize)
    -> FloatTensor<Self>;

    fn select(panels: FloatTensor<Self>, depth: usize, columns: Vec<usize>) -> FloatTensor<Self>;

    fn gated(gate_up: FloatTensor<Self>) -> FloatTensor<Self>;
}

type CpuTensor = FloatTensor<Flex>;

impl Kernels for Flex {
    fn times(rows: CpuTensor, panels: CpuTensor, width: usize) -> CpuTensor {
        let rows = rows.to_contiguous();
        let (row_count, depth) = (rows.layout().shape()[0], rows.layout().shape()[1]);
        let numbers: &[f32] = rows.as_slice().expect("made contiguous");
        let packed: Vec<_> = numbers
            .par_chunks(TASK_ROWS * depth)
            .map(|rows| PackedRows::new(rows, depth))
            .collect();
        let panels = Panels {
            numbers: panels.as_slice().expect("weights are contiguous"),
            depth,
        };
        let mut out = vec![0.0; row_count * width];
        let task_count = TASKS_PER_THREAD * rayon::current_num_threads();
        let panels_of_task = width
            .div_ceil(PANEL_WIDTH)
            .div_ceil(task_count)
            .max(TASK_PANELS_MIN);
        let tasks = tasks(&mut out, width, panels_of_task * PANEL_WIDTH);
        tasks.into_par_iter().for_each(|mut task| {
            let panel = task.range * panels_of_task;
            columns(&packed[task.block], panels, panel, &mut task.out);
        });
        CpuTensor::from_data(TensorData::new(out, [row_count, width]))
    }

    fn select(panels: CpuTensor, depth: usize, columns: Vec<usize>) -> CpuTensor {
        let panels = Panels {
            numbers: panels.as_slice().expect("weights are contiguous"),
            depth,
        };
        let mut out = Vec::with_capacity(columns.len() * depth);
        for column in &columns {
            out.extend(panels.column(*column));
        }
        CpuTensor::from_data(TensorData::new(out, [columns.len(), depth]))
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

/// A part of a product: some rows, some columns.
struct Task<'a> {
    /// Which [`TASK_ROWS`] rows.
    block: usize,
    /// Which columns, counted in ranges of one task's.
    range: usize,
    /// Those columns of each of the rows.
    out: Vec<&'a mut [f32]>,
}

/// Cuts `[row, width]` into tasks, those of the same columns one after another: these stay in a
/// thread's cache.
fn tasks(out: &mut [f32], width: usize, range_width: usize) -> Vec<Task<'_>> {
    let range_count = width.div_ceil(range_width);
    let mut of_ranges: Vec<Vec<Task<'_>>> = (0..range_count).map(|_| Vec::new()).collect();
    for (block, rows) in out.chunks_mut(TASK_ROWS * width).enumerate() {
        for (range, tasks) in of_ranges.iter_mut().enumerate() {
            let out = Vec::with_capacity(rows.len() / width);
            tasks.push(Task { block, range, out });
        }
        for row in rows.chunks_exact_mut(width) {
            for (tasks, part) in of_ranges.iter_mut().zip(row.chunks_mut(range_width)) {
                tasks[block].out.push(part);
            }
        }
    }
    of_ranges.into_iter().flatten().collect()
}
