//! A GGUF file (version 2 or 3, little-endian): metadata, then tensors, all read in place.
//!
//! Only the layout of the file is here. `gguf::config` and `gguf::tokenizer` say what the metadata
//! means, `gguf::tensors` what the tensors are called elsewhere.

mod config;
mod metadata;
mod reader;
mod tensors;
mod tokenizer;
mod vocabulary;

use crate::config::{ConfigError, ModelConfig};
use crate::gguf::metadata::Metadata;
use crate::gguf::reader::Reader;
use crate::gguf::tensors::ALIGNMENT_DEFAULT;
use crate::gguf::vocabulary::Vocabulary;
use crate::stored_tensor::{DeclaredTensor, FaultyTensor};

/// Why a GGUF file is refused.
#[derive(Debug, thiserror::Error)]
pub enum GgufError {
    /// The file does not begin as GGUF files do.
    #[error("this is neither a model's folder nor a GGUF file")]
    NotGguf,
    /// A version that is not read.
    #[error("GGUF version {0} is not read: versions 2 and 3 are, little-endian")]
    Version(u32),
    /// The file ends too early, or a length in it is wrong.
    #[error("{what} at byte {offset} needs {wanted} bytes, {left} are left")]
    Truncated {
        /// What was being read.
        what: &'static str,
        /// Where.
        offset: usize,
        /// Bytes it has by the file.
        wanted: u64,
        /// Bytes to the end of the file.
        left: usize,
    },
    /// More entries than fit into the rest of the file.
    #[error("{declared} {what} do not fit into the {left} bytes that are left")]
    Count {
        /// What is counted.
        what: &'static str,
        /// How many the file says.
        declared: u64,
        /// Bytes to the end of the file.
        left: usize,
    },
    /// Text that is not UTF-8.
    #[error("{what} at byte {offset} is not UTF-8")]
    Utf8 {
        /// What was being read.
        what: &'static str,
        /// Where.
        offset: usize,
    },
    /// A key longer than the format allows.
    #[error("the key at byte {offset} has {actual} bytes, more than {most}")]
    KeyLength {
        /// Where.
        offset: usize,
        /// Bytes it has.
        actual: usize,
        /// The most it may have.
        most: usize,
    },
    /// A key that is there twice.
    #[error("key {0:?} is there twice")]
    DuplicateKey(String),
    /// A value of a type that GGUF does not have, or that is not read.
    #[error("key {key:?} has a value of the unread type {value_type}")]
    ValueType {
        /// The key.
        key: String,
        /// Number of the type.
        value_type: u32,
    },
    /// A key that must be there is not.
    #[error("key {0:?} is missing")]
    MissingKey(String),
    /// A value of another type than its key asks for.
    #[error("key {key:?} is not {expected}")]
    WrongType {
        /// The key.
        key: String,
        /// What it should be.
        expected: &'static str,
    },
    /// A value that cannot be served.
    #[error("{key} = {value} is not supported")]
    Unsupported {
        /// The key.
        key: String,
        /// What it says.
        value: String,
    },
    /// Lists of the vocabulary that do not belong together.
    #[error("{key:?} has {actual} entries, the vocabulary has {expected} tokens")]
    Entries {
        /// The key.
        key: &'static str,
        /// Entries it has.
        actual: usize,
        /// Tokens of the vocabulary.
        expected: usize,
    },
    /// A token that is there twice.
    #[error("token {token} has the text of an earlier one")]
    DuplicateToken {
        /// Number of the second.
        token: usize,
    },
    /// A token of text that is longer than any that merging gives.
    #[error("token {token} has {bytes} bytes, more than {most}")]
    Piece {
        /// Number of the token.
        token: usize,
        /// Bytes it has.
        bytes: usize,
        /// The most that are derived.
        most: usize,
    },
    /// The vocabulary allows more merges than that of any language model.
    #[error("the vocabulary of {tokens} tokens has more than {most} merges")]
    Merges {
        /// Tokens of the vocabulary.
        tokens: usize,
        /// The most that are derived.
        most: usize,
    },
    /// The tokenizer library refuses what the metadata says.
    #[error("the tokenizer cannot be built: {0}")]
    Tokenizer(String),
    /// The frequencies of RoPE are stretched in a way that is not known.
    #[error("tensor \"rope_freqs.weight\" is not the Llama 3 scaling of any known factor")]
    RopeFactors,
    /// A tensor does not fit the file.
    #[error(transparent)]
    Tensor(#[from] FaultyTensor),
    /// The model is refused.
    #[error(transparent)]
    Config(#[from] ConfigError),
}

/// What a GGUF file says, every length checked against the file.
#[derive(Debug)]
pub(crate) struct Gguf<'a> {
    file: &'a [u8],
    metadata: Metadata<'a>,
    vocabulary: Vocabulary<'a>,
    /// By their names in the file.
    tensors: Vec<DeclaredTensor>,
}

/// First and second version that is read.
const VERSIONS: [u32; 2] = [2, 3];

impl<'a> Gguf<'a> {
    /// Reads metadata and the places of the tensors.
    ///
    /// # Errors
    /// [`GgufError`] names the key or tensor.
    pub(crate) fn parse(file: &'a [u8]) -> Result<Self, GgufError> {
        let mut reader = Reader::new(file);
        if !file.starts_with(b"GGUF") {
            return Err(GgufError::NotGguf);
        }
        reader.bytes(4, "the magic number")?;
        let version = reader.u32("the version")?;
        if !VERSIONS.contains(&version) {
            return Err(GgufError::Version(version));
        }
        let tensor_count = reader.u64("the number of tensors")?;
        let key_count = reader.u64("the number of keys")?;
        let metadata = Metadata::read(&mut reader, key_count)?;
        let alignment = metadata.u64("general.alignment")?;
        let alignment = alignment.unwrap_or(ALIGNMENT_DEFAULT);
        let tensors = tensors::read(&mut reader, tensor_count, alignment)?;
        Ok(Self {
            file,
            vocabulary: Vocabulary::read(&metadata)?,
            metadata,
            tensors,
        })
    }

    /// The configuration.
    ///
    /// # Errors
    /// [`GgufError`] names the key that is missing, out of range or unsupported.
    pub(crate) fn config(&self) -> Result<ModelConfig, GgufError> {
        config::config(self)
    }

    /// The tokenizer, as the `tokenizer.json` that Hugging Face would publish.
    ///
    /// # Errors
    /// [`GgufError`] names the key.
    pub(crate) fn tokenizer_json(&self) -> Result<String, GgufError> {
        tokenizer::tokenizer_json(&self.vocabulary)
    }

    /// The source of the chat template, if there is one.
    ///
    /// # Errors
    /// [`GgufError::WrongType`].
    pub(crate) fn chat_template(&self) -> Result<Option<&'a str>, GgufError> {
        self.metadata.text("tokenizer.chat_template")
    }

    /// The texts of the tokens that begin and end a sequence, empty where there is none.
    pub(crate) fn special_texts(&self) -> [&'a str; 2] {
        let text = |token: Option<usize>| token.map_or("", |id| self.vocabulary.tokens[id]);
        [text(self.vocabulary.bos), text(self.vocabulary.eos)]
    }

    /// The tensors under the names Hugging Face publishes them by.
    ///
    /// # Errors
    /// [`GgufError::Tensor`] names one that no model that is read has.
    pub(crate) fn into_published_tensors(
        self,
        config: &ModelConfig,
    ) -> Result<Vec<DeclaredTensor>, GgufError> {
        let architecture = self.metadata.required_text("general.architecture")?;
        tensors::published(self.tensors, architecture, config)
    }

    /// A tensor by its name in the file.
    fn tensor(&self, name: &str) -> Option<&DeclaredTensor> {
        self.tensors.iter().find(|tensor| tensor.name == name)
    }
}
