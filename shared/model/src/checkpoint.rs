//! The tensors of a safetensors checkpoint, one file or sharded, found by name and read in place.
//!
//! Nothing is copied until the loader asks for a tensor: files are mapped, not read.

use std::collections::HashMap;
use std::fs::{self, File};
use std::ops::{Deref, Range};
use std::path::{Path, PathBuf};

use half::{bf16, f16};
use memmap2::Mmap;
use safetensors::{Dtype, SafeTensors};

/// Why a checkpoint is refused.
#[derive(Debug, thiserror::Error)]
pub enum CheckpointError {
    /// The file cannot be opened or mapped.
    #[error("{file}: {source}")]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// Neither `model.safetensors` nor an index of shards is there.
    #[error("{0} has neither model.safetensors nor model.safetensors.index.json")]
    NoWeights(PathBuf),
    /// The header does not describe the file.
    #[error("{file}: {source}")]
    Header {
        /// The file.
        file: String,
        /// What is wrong with it.
        source: safetensors::SafeTensorError,
    },
    /// The index of shards cannot be read.
    #[error("{file}: {source}")]
    Index {
        /// The file.
        file: PathBuf,
        /// What is wrong with it.
        source: serde_json::Error,
    },
    /// The index names a shard outside the model's folder.
    #[error("{file}: shard {shard:?} is not a plain file name")]
    ShardName {
        /// The index.
        file: PathBuf,
        /// What it names.
        shard: String,
    },
    /// Two shards have a tensor of the same name.
    #[error("tensor {0} is there twice")]
    Duplicate(String),
    /// A tensor the decoder needs is not there.
    #[error("tensor {0} is missing")]
    Missing(String),
    /// A tensor has another shape than the configuration says.
    #[error("tensor {name} has shape {actual:?}, config.json asks for {expected:?}")]
    Shape {
        /// The tensor.
        name: String,
        /// Shape by the configuration.
        expected: Vec<usize>,
        /// Shape in the file.
        actual: Vec<usize>,
    },
    /// A number format that is not read.
    #[error("tensor {name} is stored as {dtype:?}: f32, f16 and bf16 are read")]
    Dtype {
        /// The tensor.
        name: String,
        /// Its number format.
        dtype: Dtype,
    },
}

/// Bytes that outlive the loading: a mapped file, or the model compiled into the program.
#[derive(Debug)]
enum Backing {
    Mapped(Mmap),
    Static(&'static [u8]),
}

impl Deref for Backing {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match self {
            Self::Mapped(map) => map,
            Self::Static(bytes) => bytes,
        }
    }
}

#[derive(Debug)]
struct Entry {
    backing: usize,
    dtype: Dtype,
    shape: Vec<usize>,
    bytes: Range<usize>,
}

/// Every tensor of a checkpoint, by name.
#[derive(Debug, Default)]
pub struct Checkpoint {
    backings: Vec<Backing>,
    tensors: HashMap<String, Entry>,
}

/// One stored tensor.
#[derive(Clone, Copy, Debug)]
pub struct StoredTensor<'a> {
    dtype: Dtype,
    shape: &'a [usize],
    bytes: &'a [u8],
}

impl Checkpoint {
    /// Maps the checkpoint of a Hugging Face folder.
    ///
    /// # Errors
    /// [`CheckpointError`] names the file and, where it can, the tensor.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        let mut checkpoint = Self::default();
        for shard in shards(folder)? {
            let map = map(&shard).map_err(|source| CheckpointError::Io {
                file: shard.clone(),
                source,
            })?;
            checkpoint.add(&shard.display().to_string(), Backing::Mapped(map))?;
        }
        Ok(checkpoint)
    }

    /// Reads a checkpoint that is part of the program.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_static(name: &str, bytes: &'static [u8]) -> Result<Self, CheckpointError> {
        let mut checkpoint = Self::default();
        checkpoint.add(name, Backing::Static(bytes))?;
        Ok(checkpoint)
    }

    fn add(&mut self, file: &str, backing: Backing) -> Result<(), CheckpointError> {
        let header = |source| CheckpointError::Header {
            file: file.to_owned(),
            source,
        };
        // `deserialize` also checks that the tensors fill the file exactly.
        SafeTensors::deserialize(&backing).map_err(header)?;
        let (header_len, metadata) = SafeTensors::read_metadata(&backing).map_err(header)?;
        let data_start = header_len + 8;
        for (name, info) in metadata.tensors() {
            let bytes = data_start + info.data_offsets.0..data_start + info.data_offsets.1;
            let entry = Entry {
                backing: self.backings.len(),
                dtype: info.dtype,
                shape: info.shape.clone(),
                bytes,
            };
            if self.tensors.insert(name.clone(), entry).is_some() {
                return Err(CheckpointError::Duplicate(name));
            }
        }
        self.backings.push(backing);
        Ok(())
    }

    /// Whether a tensor is there.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// A tensor that must have a given shape.
    ///
    /// # Errors
    /// [`CheckpointError::Missing`], [`CheckpointError::Shape`] or [`CheckpointError::Dtype`].
    pub fn tensor(
        &self,
        name: &str,
        expected: &[usize],
    ) -> Result<StoredTensor<'_>, CheckpointError> {
        let stored = self.stored(name)?;
        if stored.shape != expected {
            return Err(CheckpointError::Shape {
                name: name.to_owned(),
                expected: expected.to_vec(),
                actual: stored.shape.to_vec(),
            });
        }
        match stored.dtype {
            Dtype::F32 | Dtype::F16 | Dtype::BF16 => Ok(stored),
            dtype => Err(CheckpointError::Dtype {
                name: name.to_owned(),
                dtype,
            }),
        }
    }

    fn stored(&self, name: &str) -> Result<StoredTensor<'_>, CheckpointError> {
        let entry = self
            .tensors
            .get(name)
            .ok_or_else(|| CheckpointError::Missing(name.to_owned()))?;
        let bytes = &self.backings[entry.backing][entry.bytes.clone()];
        Ok(StoredTensor {
            dtype: entry.dtype,
            shape: &entry.shape,
            bytes,
        })
    }

    /// Hashes every tensor, in the order of their names: name, number format, shape and bytes.
    pub fn hash_into(&self, hasher: &mut blake3::Hasher) {
        let mut names: Vec<_> = self.tensors.keys().collect();
        names.sort_unstable();
        for name in names {
            let Ok(stored) = self.stored(name) else {
                continue;
            };
            let shape: Vec<u64> = stored.shape.iter().map(|dim| *dim as u64).collect();
            let line = format!("{name} {:?} {shape:?}\n", stored.dtype);
            hasher.update(line.as_bytes());
            hasher.update_rayon(stored.bytes);
        }
    }
}

impl StoredTensor<'_> {
    /// Bytes in the file.
    pub const fn byte_len(&self) -> usize {
        self.bytes.len()
    }

    /// Appends the numbers in stored order as f32.
    pub fn append_to(&self, numbers: &mut Vec<f32>) {
        match self.dtype {
            Dtype::F32 => numbers.extend(
                self.bytes
                    .as_chunks()
                    .0
                    .iter()
                    .map(|b| f32::from_le_bytes(*b)),
            ),
            Dtype::F16 => {
                numbers.extend(
                    self.bytes
                        .as_chunks()
                        .0
                        .iter()
                        .map(|b| f16::from_le_bytes(*b).to_f32()),
                );
            }
            _ => {
                numbers.extend(
                    self.bytes
                        .as_chunks()
                        .0
                        .iter()
                        .map(|b| bf16::from_le_bytes(*b).to_f32()),
                );
            }
        }
    }

    /// Writes a stored `[out, in]` matrix transposed into columns `column..column + out` of a
    /// row-major `[in, width]` matrix.
    ///
    /// # Panics
    /// If the tensor is not a matrix or does not fit.
    pub fn transpose_into(&self, target: &mut [f32], width: usize, column: usize) {
        match self.dtype {
            Dtype::F32 => transpose(self, target, (width, column), f32::from_le_bytes),
            Dtype::F16 => transpose(self, target, (width, column), |b| {
                f16::from_le_bytes(b).to_f32()
            }),
            _ => transpose(self, target, (width, column), |b| {
                bf16::from_le_bytes(b).to_f32()
            }),
        }
    }
}

/// Side of the square tiles a transposition goes by: a tile of f32 fits the first-level cache.
const TILE: usize = 32;

fn transpose<const N: usize>(
    stored: &StoredTensor<'_>,
    target: &mut [f32],
    (width, column): (usize, usize),
    number: impl Fn([u8; N]) -> f32,
) {
    let &[out_dim, in_dim] = stored.shape else {
        panic!("a matrix is transposed")
    };
    let source = stored.bytes.as_chunks::<N>().0;
    assert!(
        column + out_dim <= width && target.len() == in_dim * width,
        "the matrix fits"
    );
    for out_tile in (0..out_dim).step_by(TILE) {
        for in_tile in (0..in_dim).step_by(TILE) {
            for row in in_tile..in_dim.min(in_tile + TILE) {
                for out in out_tile..out_dim.min(out_tile + TILE) {
                    target[row * width + column + out] = number(source[out * in_dim + row]);
                }
            }
        }
    }
}

/// The files of a checkpoint.
fn shards(folder: &Path) -> Result<Vec<PathBuf>, CheckpointError> {
    let single = folder.join("model.safetensors");
    if single.is_file() {
        return Ok(vec![single]);
    }
    let index = folder.join("model.safetensors.index.json");
    if !index.is_file() {
        return Err(CheckpointError::NoWeights(folder.to_owned()));
    }
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    let text = fs::read(&index).map_err(|source| CheckpointError::Io {
        file: index.clone(),
        source,
    })?;
    let parsed: Index = serde_json::from_slice(&text).map_err(|source| CheckpointError::Index {
        file: index.clone(),
        source,
    })?;
    let mut names: Vec<_> = parsed.weight_map.into_values().collect();
    names.sort_unstable();
    names.dedup();
    if let Some(shard) = names
        .iter()
        .find(|name| Path::new(name).components().count() != 1)
    {
        return Err(CheckpointError::ShardName {
            file: index,
            shard: shard.clone(),
        });
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

#[allow(unsafe_code)]
fn map(file: &Path) -> std::io::Result<Mmap> {
    let file = File::open(file)?;
    // SAFETY: the mapping is read-only and private to this process. A file that another process
    // truncates while it is mapped would fault; model files are not rewritten in place, and every
    // loader of this kind accepts that.
    unsafe { Mmap::map(&file) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stored(shape: &[usize], numbers: &[f32]) -> (Vec<usize>, Vec<u8>) {
        (
            shape.to_vec(),
            numbers.iter().flat_map(|n| n.to_le_bytes()).collect(),
        )
    }

    #[test]
    fn a_matrix_is_transposed_into_its_columns() {
        let numbers: Vec<f32> = (0..70u8 * 2).map(f32::from).collect();
        let (shape, bytes) = stored(&[2, 70], &numbers);
        let tensor = StoredTensor {
            dtype: Dtype::F32,
            shape: &shape,
            bytes: &bytes,
        };
        let mut target = vec![-1.0; 70 * 3];
        tensor.transpose_into(&mut target, 3, 1);
        for row in 0..70 {
            assert_eq!(
                target[row * 3..][..3],
                [-1.0, numbers[row], numbers[70 + row]]
            );
        }
    }

    #[test]
    fn half_formats_are_widened() {
        let shape = [2];
        let halves: Vec<u8> = [1.5f32, -2.0]
            .iter()
            .flat_map(|n| f16::from_f32(*n).to_le_bytes())
            .collect();
        let brains: Vec<u8> = [1.5f32, -2.0]
            .iter()
            .flat_map(|n| bf16::from_f32(*n).to_le_bytes())
            .collect();
        for (dtype, bytes) in [(Dtype::F16, halves), (Dtype::BF16, brains)] {
            let mut numbers = Vec::new();
            StoredTensor {
                dtype,
                shape: &shape,
                bytes: &bytes,
            }
            .append_to(&mut numbers);
            assert_eq!(numbers, [1.5, -2.0]);
        }
    }
}
