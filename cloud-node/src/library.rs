//! The folder of cloud prompts: every file is one, named by its stem.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use edgeprompt_kv::{PromptId, TokenId};
use edgeprompt_model::{Model, ModelError, TokenizerError};
use edgeprompt_protocol::{PROMPT_ENTRIES_MAX, PUBLIC_TEXT_BYTES_MAX, PromptName, PromptNameError};

use crate::prompt_limit::{PromptLimit, PromptTooLong};

/// Why a folder of prompts is refused.
#[derive(Debug, thiserror::Error)]
pub enum LibraryError {
    /// The folder or a file of it cannot be read.
    #[error("{path}: {source}")]
    Io {
        /// The folder or file.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A file's stem is not a prompt name.
    #[error("{path}: {source}; rename the file")]
    Name {
        /// The file.
        path: PathBuf,
        /// What is wrong with its name.
        source: PromptNameError,
    },
    /// Two files have the same stem.
    #[error("two files in the folder are named {0}: a prompt is named by its file's stem")]
    Duplicate(PromptName),
    /// A file is larger than a prompt may be.
    #[error("{path} has {bytes} bytes; a prompt has at most {PUBLIC_TEXT_BYTES_MAX}")]
    TooLarge {
        /// The file.
        path: PathBuf,
        /// Its size.
        bytes: u64,
    },
    /// A file is empty or not text.
    #[error("{0} is empty or not UTF-8 text")]
    NotText(PathBuf),
    /// A prompt is longer than the cloud takes.
    #[error("{path}: {source}; shorten the prompt, or give the cloud what it lacks")]
    TooLong {
        /// The file.
        path: PathBuf,
        /// What it does not fit.
        source: PromptTooLong,
    },
    /// More files than a list of prompts may name.
    #[error("the folder has more than {PROMPT_ENTRIES_MAX} prompts")]
    TooMany,
    /// The model cannot read text.
    #[error(transparent)]
    Model(#[from] ModelError),
    /// The tokenizer failed on a prompt.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
}

/// One cloud prompt, tokenised.
#[derive(Clone, Debug)]
pub struct LibraryPrompt {
    /// Its identity under the model.
    pub id: PromptId,
    /// Its text.
    pub text: Arc<str>,
    /// Its tokens.
    pub tokens: Arc<[TokenId]>,
}

/// The cloud prompts served by name.
#[derive(Clone, Debug, Default)]
pub struct PromptLibrary {
    prompts: BTreeMap<PromptName, LibraryPrompt>,
}

impl PromptLibrary {
    /// Reads and tokenises every visible file of a folder; each must be within `limit`.
    ///
    /// # Errors
    /// [`LibraryError`] names the file.
    pub fn open(folder: &Path, model: &Model, limit: &PromptLimit) -> Result<Self, LibraryError> {
        let io = |source| LibraryError::Io {
            path: folder.to_owned(),
            source,
        };
        let mut library = Self::default();
        for entry in fs::read_dir(folder).map_err(io)? {
            let path = entry.map_err(io)?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if name.starts_with('.') || !path.is_file() {
                continue;
            }
            let token_count = library.add(name_of(&path)?, &read_text(&path)?, model)?;
            limit
                .check(token_count)
                .map_err(|source| LibraryError::TooLong { path, source })?;
        }
        Ok(library)
    }

    /// Adds one prompt and says how many tokens it has.
    ///
    /// # Errors
    /// [`LibraryError`] if the name is taken, the library is full or the text cannot be tokenised.
    pub fn add(
        &mut self,
        name: PromptName,
        text: &str,
        model: &Model,
    ) -> Result<usize, LibraryError> {
        if self.prompts.contains_key(&name) {
            return Err(LibraryError::Duplicate(name));
        }
        if self.prompts.len() == PROMPT_ENTRIES_MAX {
            return Err(LibraryError::TooMany);
        }
        let tokens = model.tokenizer()?.encode(text)?;
        let token_count = tokens.len();
        let id = PromptId::of(&model.digest, &tokens);
        let prompt = LibraryPrompt {
            id,
            text: text.into(),
            tokens: tokens.into(),
        };
        self.prompts.insert(name, prompt);
        Ok(token_count)
    }

    /// A prompt by name.
    pub fn get(&self, name: &PromptName) -> Option<&LibraryPrompt> {
        self.prompts.get(name)
    }

    /// A prompt by identity.
    pub fn find(&self, id: &PromptId) -> Option<&LibraryPrompt> {
        self.prompts.values().find(|prompt| prompt.id == *id)
    }

    /// Every prompt in the order of names.
    pub fn iter(&self) -> impl Iterator<Item = (&PromptName, &LibraryPrompt)> {
        self.prompts.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.prompts.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.prompts.is_empty()
    }
}

fn name_of(path: &Path) -> Result<PromptName, LibraryError> {
    let stem = path.file_stem().unwrap_or_default().to_string_lossy();
    let name = PromptName::try_from(stem.into_owned());
    name.map_err(|source| LibraryError::Name {
        path: path.to_owned(),
        source,
    })
}

fn read_text(path: &Path) -> Result<String, LibraryError> {
    let io = |source| LibraryError::Io {
        path: path.to_owned(),
        source,
    };
    let bytes = fs::metadata(path).map_err(io)?.len();
    if bytes > PUBLIC_TEXT_BYTES_MAX as u64 {
        let path = path.to_owned();
        return Err(LibraryError::TooLarge { path, bytes });
    }
    let text = String::from_utf8(fs::read(path).map_err(io)?).ok();
    let text = text.filter(|text| !text.is_empty());
    text.ok_or_else(|| LibraryError::NotText(path.to_owned()))
}
