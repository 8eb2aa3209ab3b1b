//! The tensors of a model, by the names Hugging Face publishes them under, whatever the files.
//!
//! Nothing is copied until the loader asks for a tensor: files are mapped, not read.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::path::{Component, Path, PathBuf};

use crate::file_bytes::{FileBytes, read_if_present};
use crate::number_format::DeclaredFormat;
use crate::safetensors::{HeaderError, read_header};
use crate::stored_tensor::{DeclaredTensor, StoredTensor};

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
        source: HeaderError,
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
    /// The index names more shards than any model has.
    #[error("{file}: {actual} shards are more than {most}")]
    ShardCount {
        /// The index.
        file: PathBuf,
        /// Shards it names.
        actual: usize,
        /// The most that are opened.
        most: usize,
    },
    /// Two shards have a tensor of the same name.
    #[error("{file}: tensor {name} is in another file too")]
    Duplicate {
        /// The second file.
        file: String,
        /// The tensor.
        name: String,
    },
    /// A tensor the decoder needs is not there.
    #[error("tensor {0} is missing")]
    Missing(String),
    /// A tensor has another shape than the configuration says.
    #[error("{file}: tensor {name} has shape {actual:?}, the configuration asks for {expected:?}")]
    Shape {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
        /// Shape by the configuration.
        expected: Vec<usize>,
        /// Shape in the file.
        actual: Vec<usize>,
    },
    /// A number format that is not read.
    #[error("{file}: tensor {name} is stored as {format}: f32, f16 and bf16 are read")]
    Format {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
        /// Its number format.
        format: String,
    },
    /// A tensor that the configuration has no place for: the model would not be the published one.
    #[error("{file}: tensor {name:?} is no part of the model that the configuration describes")]
    Unused {
        /// The file.
        file: String,
        /// The tensor.
        name: String,
    },
}

/// Largest index of shards read, in bytes; those of published models are below one megabyte.
const INDEX_BYTES_MAX: u64 = 16 << 20;
/// Most files of one model.
const SHARD_COUNT_MAX: usize = 1024;
/// How many bytes of a tensor are hashed before their memory is given back.
const HASH_BYTES: usize = 8 << 20;

/// Every tensor of a model, by name.
#[derive(Debug, Default)]
pub struct Checkpoint {
    files: Vec<FileBytes>,
    tensors: BTreeMap<String, Entry>,
}

#[derive(Debug)]
struct Entry {
    file: usize,
    tensor: DeclaredTensor,
}

impl Checkpoint {
    /// Maps the safetensors of a Hugging Face folder, one file or sharded.
    ///
    /// # Errors
    /// [`CheckpointError`] names the file and, where it can, the tensor.
    pub fn open(folder: &Path) -> Result<Self, CheckpointError> {
        let mut checkpoint = Self::default();
        for shard in shards(folder)? {
            let file = FileBytes::map(&shard).map_err(|source| CheckpointError::Io {
                file: shard,
                source,
            })?;
            checkpoint.add_safetensors(file)?;
        }
        Ok(checkpoint)
    }

    /// Reads safetensors that are part of the program.
    ///
    /// # Errors
    /// As [`Checkpoint::open`].
    pub fn from_static(name: &str, bytes: &'static [u8]) -> Result<Self, CheckpointError> {
        let mut checkpoint = Self::default();
        checkpoint.add_safetensors(FileBytes::from_static(name, bytes))?;
        Ok(checkpoint)
    }

    fn add_safetensors(&mut self, file: FileBytes) -> Result<(), CheckpointError> {
        let tensors = read_header(&file).map_err(|source| CheckpointError::Header {
            file: file.name().to_owned(),
            source,
        })?;
        self.add(file, tensors)
    }

    /// Adds a file and its tensors, named as published.
    ///
    /// # Errors
    /// [`CheckpointError::Duplicate`].
    pub(crate) fn add(
        &mut self,
        file: FileBytes,
        tensors: Vec<DeclaredTensor>,
    ) -> Result<(), CheckpointError> {
        for tensor in tensors {
            if self.tensors.contains_key(&tensor.name) {
                return Err(CheckpointError::Duplicate {
                    file: file.name().to_owned(),
                    name: tensor.name,
                });
            }
            let entry = Entry {
                file: self.files.len(),
                tensor,
            };
            self.tensors.insert(entry.tensor.name.clone(), entry);
        }
        self.files.push(file);
        Ok(())
    }

    /// Whether a tensor is there.
    pub fn contains(&self, name: &str) -> bool {
        self.tensors.contains_key(name)
    }

    /// Bytes of all files.
    pub fn file_bytes(&self) -> usize {
        self.files.iter().map(|file| file.len()).sum()
    }

    /// A tensor that must have a given shape.
    ///
    /// # Errors
    /// [`CheckpointError::Missing`], [`CheckpointError::Shape`] or [`CheckpointError::Format`].
    pub(crate) fn tensor(
        &self,
        name: &str,
        expected: &[usize],
    ) -> Result<StoredTensor<'_>, CheckpointError> {
        let missing = || CheckpointError::Missing(name.to_owned());
        let Entry { file, tensor } = self.tensors.get(name).ok_or_else(missing)?;
        let file = &self.files[*file];
        if tensor.shape != expected {
            return Err(CheckpointError::Shape {
                file: file.name().to_owned(),
                name: name.to_owned(),
                expected: expected.to_vec(),
                actual: tensor.shape.clone(),
            });
        }
        match &tensor.format {
            DeclaredFormat::Read(format) => Ok(StoredTensor {
                file,
                format: *format,
                shape: &tensor.shape,
                bytes: tensor.bytes.clone(),
                rows: tensor.rows,
            }),
            DeclaredFormat::Unread(format) => Err(CheckpointError::Format {
                file: file.name().to_owned(),
                name: name.to_owned(),
                format: format.clone(),
            }),
        }
    }

    /// Checks that every tensor is used or harmless.
    ///
    /// # Errors
    /// [`CheckpointError::Unused`].
    pub(crate) fn check_all_used(&self, used: &HashSet<String>) -> Result<(), CheckpointError> {
        // The inverse frequencies follow from the configuration, and a tied matrix may be stored
        // under both of its names.
        let harmless = |name: &str| {
            name.ends_with(".rotary_emb.inv_freq")
                || ["lm_head.weight", "model.embed_tokens.weight"].contains(&name)
        };
        let mut entries = self.tensors.iter();
        let unused = entries.find(|(name, _)| !used.contains(*name) && !harmless(name));
        unused.map_or(Ok(()), |(name, entry)| {
            Err(CheckpointError::Unused {
                file: self.files[entry.file].name().to_owned(),
                name: name.clone(),
            })
        })
    }

    /// Hashes every tensor, in the order of their names: name, number format, shape and bytes.
    pub fn hash_into(&self, hasher: &mut blake3::Hasher) {
        for (name, Entry { file, tensor }) in &self.tensors {
            let shape: Vec<u64> = tensor.shape.iter().map(|dim| *dim as u64).collect();
            hasher.update(format!("{name} {} {shape:?}\n", tensor.format).as_bytes());
            let file = &self.files[*file];
            for start in tensor.bytes.clone().step_by(HASH_BYTES) {
                let part = start..tensor.bytes.end.min(start + HASH_BYTES);
                hasher.update_rayon(&file[part.clone()]);
                file.release(part);
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
    let read = read_if_present(&index, INDEX_BYTES_MAX);
    let text = read.map_err(|source| CheckpointError::Io {
        file: index.clone(),
        source,
    })?;
    let text = text.ok_or_else(|| CheckpointError::NoWeights(folder.to_owned()))?;
    #[derive(serde::Deserialize)]
    struct Index {
        weight_map: HashMap<String, String>,
    }
    let parsed: Index = serde_json::from_slice(&text).map_err(|source| CheckpointError::Index {
        file: index.clone(),
        source,
    })?;
    let mut names: Vec<_> = parsed.weight_map.into_values().collect();
    names.sort_unstable();
    names.dedup();
    if names.len() > SHARD_COUNT_MAX {
        return Err(CheckpointError::ShardCount {
            file: index,
            actual: names.len(),
            most: SHARD_COUNT_MAX,
        });
    }
    if let Some(shard) = names.iter().find(|name| !is_plain(name)) {
        return Err(CheckpointError::ShardName {
            file: index,
            shard: shard.clone(),
        });
    }
    Ok(names.into_iter().map(|name| folder.join(name)).collect())
}

/// Whether a name stays within its folder.
fn is_plain(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!(components.next(), Some(Component::Normal(_))) && components.next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn shards_stay_within_the_folder() {
        assert!(is_plain("model-00001-of-00002.safetensors"));
        for name in ["", "..", "../x", "/x", "a/b", "."] {
            assert!(!is_plain(name), "{name}");
        }
    }
}
