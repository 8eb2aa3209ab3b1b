//! What a file says about one tensor, checked against the file, and its numbers as f32.

use std::collections::HashSet;
use std::ops::Range;

use crate::file_bytes::FileBytes;
use crate::layout::Layout;
use crate::number_format::{DeclaredFormat, NumberFormat};

/// What a file's header says about one tensor.
#[derive(Clone, Debug)]
pub(crate) struct DeclaredTensor {
    pub(crate) name: String,
    pub(crate) format: DeclaredFormat,
    pub(crate) shape: Vec<usize>,
    /// Where its numbers are in the file.
    pub(crate) bytes: Range<usize>,
    pub(crate) rows: RowOrder,
}

/// How the rows of a stored matrix are ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum RowOrder {
    /// As Hugging Face publishes them.
    Published,
    /// The two halves of every head interleaved, as RoPE over neighbouring pairs wants them: row
    /// `2i + j` of a head is its published row `j·head_dim/2 + i`.
    Interleaved {
        /// Rows of one head.
        head_dim: usize,
    },
}

/// What is wrong with a tensor's place or shape.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TensorFault {
    /// Another tensor has this name.
    #[error("is there twice")]
    Duplicate,
    /// The name is too long.
    #[error("has a name of {0} bytes")]
    Name(usize),
    /// More dimensions than any tensor of a model has, or none.
    #[error("has {0} dimensions")]
    Dimensions(usize),
    /// The numbers of the shape cannot be counted, or rows do not fill the format's blocks.
    #[error("has the impossible shape {0:?}")]
    Shape(Vec<u64>),
    /// Its bytes lie outside the file.
    #[error("lies at bytes {start}..{end} of {len} bytes of tensors")]
    Outside {
        /// First byte, from the beginning of the tensors.
        start: u64,
        /// Byte after the last.
        end: u64,
        /// Bytes of all tensors.
        len: usize,
    },
    /// Its place has not the size of its shape.
    #[error("has {actual} bytes, its shape asks for {expected}")]
    Size {
        /// Bytes of its place.
        actual: usize,
        /// Bytes by shape and format.
        expected: usize,
    },
    /// Its bytes begin within another tensor's.
    #[error("begins inside another tensor, at byte {0}")]
    Overlap(usize),
    /// Bytes of no tensor lie before it.
    #[error("begins at byte {start}, the one before ends at byte {end}")]
    Gap {
        /// First byte.
        start: usize,
        /// End of the tensor before.
        end: usize,
    },
    /// Its first byte is not a multiple of the file's alignment.
    #[error("begins at byte {start}, which is not a multiple of {alignment}")]
    Misaligned {
        /// First byte.
        start: u64,
        /// The file's alignment.
        alignment: u64,
    },
    /// A number format that is not read.
    #[error("is stored as {0}: f32, f16, bf16 and, in GGUF, Q8_0 are read")]
    Format(String),
    /// Not a tensor of the models that are read.
    #[error("is not a tensor of a Llama, Mistral, Qwen 2 or Qwen 3 model")]
    Unknown,
}

/// A fault and the tensor that has it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("tensor {name:?} {fault}")]
pub struct FaultyTensor {
    /// The tensor, by its name in the file.
    pub name: String,
    /// What is wrong with it.
    pub fault: TensorFault,
}

/// Whether bytes between tensors are accepted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Gaps {
    Refused,
    Accepted,
}

/// Longest name of a tensor, in bytes.
const NAME_BYTES_MAX: usize = 256;
/// Most dimensions of a tensor.
const DIMENSION_COUNT_MAX: usize = 4;

/// A shape whose numbers can be counted, as this machine counts.
///
/// # Errors
/// [`TensorFault::Dimensions`] or [`TensorFault::Shape`].
pub(crate) fn countable(shape: &[u64]) -> Result<Vec<usize>, TensorFault> {
    if shape.len() > DIMENSION_COUNT_MAX {
        return Err(TensorFault::Dimensions(shape.len()));
    }
    let impossible = || TensorFault::Shape(shape.to_vec());
    let dims: Result<Vec<usize>, _> = shape.iter().map(|dim| usize::try_from(*dim)).collect();
    let dims = dims.map_err(|_| impossible())?;
    let mut count = 1usize;
    for dim in &dims {
        count = count.checked_mul(*dim).ok_or_else(impossible)?;
    }
    Ok(dims)
}

impl DeclaredTensor {
    /// This tensor, if its name and the size of its place are possible.
    ///
    /// # Errors
    /// [`FaultyTensor`].
    pub(crate) fn checked(self) -> Result<Self, FaultyTensor> {
        if self.name.len() > NAME_BYTES_MAX {
            let fault = TensorFault::Name(self.name.len());
            let shown: String = self.name.chars().take(32).collect();
            return Err(FaultyTensor { name: shown, fault });
        }
        let DeclaredFormat::Read(format) = &self.format else {
            return Ok(self);
        };
        let actual = self.bytes.len();
        match byte_len(*format, &self.shape) {
            Some(expected) if expected == actual => Ok(self),
            Some(expected) => Err(self.faulty(TensorFault::Size { actual, expected })),
            None => {
                let shape = self.shape.iter().map(|dim| *dim as u64).collect();
                Err(self.faulty(TensorFault::Shape(shape)))
            }
        }
    }

    pub(crate) fn faulty(&self, fault: TensorFault) -> FaultyTensor {
        FaultyTensor {
            name: self.name.clone(),
            fault,
        }
    }
}

/// Bytes of a tensor; `None` if they cannot be counted.
pub(crate) fn byte_len(format: NumberFormat, shape: &[usize]) -> Option<usize> {
    let row_len = shape.last().copied().unwrap_or(1);
    let rows = &shape[..shape.len().saturating_sub(1)];
    let rows = rows
        .iter()
        .try_fold(1usize, |rows, dim| rows.checked_mul(*dim))?;
    format.row_bytes(row_len)?.checked_mul(rows)
}

/// Checks that every name is there once and that no two tensors share bytes.
///
/// # Errors
/// [`FaultyTensor`] names one that does not fit.
pub(crate) fn check_places(
    tensors: &[DeclaredTensor],
    data: Range<usize>,
    gaps: Gaps,
) -> Result<(), FaultyTensor> {
    let mut names = HashSet::new();
    if let Some(tensor) = tensors.iter().find(|t| !names.insert(t.name.as_str())) {
        return Err(tensor.faulty(TensorFault::Duplicate));
    }
    let mut places: Vec<&DeclaredTensor> = tensors.iter().collect();
    places.sort_unstable_by_key(|tensor| (tensor.bytes.start, tensor.bytes.end));
    let mut end = data.start;
    for tensor in &places {
        let start = tensor.bytes.start;
        if start < end {
            return Err(tensor.faulty(TensorFault::Overlap(start)));
        }
        if start > end && gaps == Gaps::Refused {
            return Err(tensor.faulty(TensorFault::Gap { start, end }));
        }
        end = tensor.bytes.end;
    }
    match places.last() {
        Some(last) if gaps == Gaps::Refused && end < data.end => {
            let actual = last.bytes.len() + data.end - end;
            let expected = last.bytes.len();
            Err(last.faulty(TensorFault::Size { actual, expected }))
        }
        _ => Ok(()),
    }
}

/// One tensor of a checkpoint whose format is read.
#[derive(Clone, Debug)]
pub(crate) struct StoredTensor<'a> {
    pub(crate) file: &'a FileBytes,
    pub(crate) format: NumberFormat,
    pub(crate) shape: &'a [usize],
    pub(crate) bytes: Range<usize>,
    pub(crate) rows: RowOrder,
}

/// Side of the square tiles a transposition goes by: a tile of f32 fits the first-level cache.
const TILE: usize = 32;
/// How many bytes of a file are read before their memory is given back.
const RELEASE_BYTES: usize = 4 << 20;

impl StoredTensor<'_> {
    /// Appends the numbers, in published order, as f32.
    pub(crate) fn append_to(&self, numbers: &mut Vec<f32>) {
        let row_len = self.row_len();
        let mut read = Release::of(self);
        for row in 0..self.row_count() {
            let start = numbers.len();
            numbers.resize(start + row_len, 0.0);
            read.count(self.widen_row(row, &mut numbers[start..]));
        }
    }

    /// Writes an `[out, in]` matrix transposed into columns `column..column + out` of a matrix that
    /// is laid out in some way.
    ///
    /// # Panics
    /// If the matrix does not fit.
    pub(crate) fn transpose_into(&self, target: &mut [f32], layout: &Layout, column: usize) {
        let (out_dim, in_dim) = (self.row_count(), self.row_len());
        let mut read = Release::of(self);
        let mut rows = vec![0.0; TILE.min(out_dim) * in_dim];
        for out_tile in (0..out_dim).step_by(TILE) {
            let tile_len = TILE.min(out_dim - out_tile);
            for (out, row) in rows.chunks_exact_mut(in_dim).take(tile_len).enumerate() {
                read.count(self.widen_row(out_tile + out, row));
            }
            for in_tile in (0..in_dim).step_by(TILE) {
                for row in in_tile..in_dim.min(in_tile + TILE) {
                    let numbers = (0..tile_len).map(|out| rows[out * in_dim + row]);
                    layout.put(target, (row, column + out_tile), numbers);
                }
            }
        }
    }

    fn row_len(&self) -> usize {
        self.shape.last().copied().unwrap_or(1)
    }

    fn row_count(&self) -> usize {
        self.shape.iter().rev().skip(1).product()
    }

    /// Widens a row in published order and gives back how many bytes were read.
    fn widen_row(&self, row: usize, numbers: &mut [f32]) -> usize {
        let row_bytes = self.bytes.len() / self.row_count();
        let stored = match self.rows {
            RowOrder::Published => row,
            RowOrder::Interleaved { head_dim } => {
                let (head, within) = (row / head_dim, row % head_dim);
                let (half, i) = (within / (head_dim / 2), within % (head_dim / 2));
                head * head_dim + 2 * i + half
            }
        };
        let start = self.bytes.start + stored * row_bytes;
        let bytes = &self.file[start..start + row_bytes];
        self.format.widen(bytes, numbers);
        row_bytes
    }
}

/// Gives the memory of a tensor's file back while the tensor is read.
struct Release<'a> {
    file: &'a FileBytes,
    bytes: Range<usize>,
    held: usize,
}

impl<'a> Release<'a> {
    fn of(tensor: &StoredTensor<'a>) -> Self {
        Self {
            file: tensor.file,
            bytes: tensor.bytes.clone(),
            held: 0,
        }
    }

    fn count(&mut self, read: usize) {
        self.held += read;
        if self.held >= RELEASE_BYTES {
            self.file.release(self.bytes.clone());
            self.held = 0;
        }
    }
}

impl Drop for Release<'_> {
    fn drop(&mut self) {
        self.file.release(self.bytes.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored<'a>(file: &'a FileBytes, shape: &'a [usize], rows: RowOrder) -> StoredTensor<'a> {
        StoredTensor {
            file,
            format: NumberFormat::F32,
            shape,
            bytes: 0..file.len(),
            rows,
        }
    }

    fn file(numbers: impl IntoIterator<Item = f32>) -> FileBytes {
        let bytes: Vec<u8> = numbers.into_iter().flat_map(f32::to_le_bytes).collect();
        FileBytes::from_static("test", bytes.leak())
    }

    #[test]
    fn a_matrix_is_transposed_into_its_columns() {
        let numbers: Vec<f32> = (0..70u8 * 2).map(f32::from).collect();
        let file = file(numbers.iter().copied());
        let mut target = vec![-1.0; 70 * 3];
        stored(&file, &[2, 70], RowOrder::Published).transpose_into(
            &mut target,
            &Layout::lines([70, 3]),
            1,
        );
        for row in 0..70 {
            let expected = [-1.0, numbers[row], numbers[70 + row]];
            assert_eq!(target[row * 3..][..3], expected);
        }
    }

    #[test]
    fn a_matrix_of_more_rows_than_a_tile_is_transposed() {
        let file = file((0..100u8).map(f32::from));
        let mut target = vec![0.0; 100];
        stored(&file, &[50, 2], RowOrder::Published).transpose_into(
            &mut target,
            &Layout::lines([2, 50]),
            0,
        );
        assert_eq!(target[..3], [0.0, 2.0, 4.0]);
        assert_eq!(target[50..53], [1.0, 3.0, 5.0]);
        assert_eq!(target[99], 99.0);
    }

    #[test]
    fn interleaved_heads_are_put_back_in_halves() {
        // Two heads of four rows of one number: published rows 0 1 2 3 are stored as 0 2 1 3.
        let file = file([0.0, 2.0, 1.0, 3.0, 4.0, 6.0, 5.0, 7.0]);
        let mut numbers = Vec::new();
        stored(&file, &[8, 1], RowOrder::Interleaved { head_dim: 4 }).append_to(&mut numbers);
        assert_eq!(numbers, [0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]);
    }

    #[test]
    fn shapes_that_cannot_be_counted_are_refused() {
        assert_eq!(countable(&[2, 3]), Ok(vec![2, 3]));
        assert_eq!(countable(&[1; 5]), Err(TensorFault::Dimensions(5)));
        let huge = [1 << 40, 1 << 40];
        assert_eq!(countable(&huge), Err(TensorFault::Shape(huge.to_vec())));
        assert_eq!(byte_len(NumberFormat::F32, &[1 << 31, 1 << 31]), None);
        assert_eq!(byte_len(NumberFormat::Q8_0, &[2, 64]), Some(2 * 68));
    }
}
