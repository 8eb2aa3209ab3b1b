//! The folder of cloud prompts: every file is one, named by its stem.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, PoisonError, RwLock};

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

/// What reading a folder came to.
#[derive(Debug)]
pub struct Read {
    /// The prompts that there are then.
    pub library: PromptLibrary,
    /// What is wrong with the others.
    pub problems: Vec<LibraryError>,
}

/// The library that a cloud serves now. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct ServedLibrary(Arc<RwLock<Arc<PromptLibrary>>>);

impl From<PromptLibrary> for ServedLibrary {
    fn from(library: PromptLibrary) -> Self {
        Self(Arc::new(RwLock::new(Arc::new(library))))
    }
}

impl ServedLibrary {
    /// The library at this moment: who asks once sees one library.
    pub fn now(&self) -> Arc<PromptLibrary> {
        Arc::clone(&self.0.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Serves another library from now on; what is being sent of the earlier one goes on.
    pub fn replace(&self, library: PromptLibrary) {
        *self.0.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(library);
    }
}

impl LibraryPrompt {
    fn of(text: &str, model: &Model) -> Result<Self, LibraryError> {
        let tokens = model.tokenizer()?.encode(text)?;
        Ok(Self {
            id: PromptId::of(&model.digest, &tokens),
            text: text.into(),
            tokens: tokens.into(),
        })
    }
}

impl PromptLibrary {
    /// Reads and tokenises every visible file of a folder; each must be within `limit`.
    ///
    /// # Errors
    /// [`LibraryError`] names the file.
    pub fn open(folder: &Path, model: &Model, limit: &PromptLimit) -> Result<Self, LibraryError> {
        let Read { library, problems } = Self::default().read_again(folder, model, limit);
        match problems.into_iter().next() {
            Some(problem) => Err(problem),
            None => Ok(library),
        }
    }

    /// The folder as it is now. A prompt whose file is refused stays as it was here, as all of them do
    /// if the folder cannot be listed; what has no file any more is gone.
    pub fn read_again(&self, folder: &Path, model: &Model, limit: &PromptLimit) -> Read {
        let mut read = Read {
            library: Self::default(),
            problems: Vec::new(),
        };
        let files = match files_of(folder, &mut read.problems) {
            Ok(files) => files,
            Err(problem) => {
                read.library = self.clone();
                read.problems.push(problem);
                return read;
            }
        };
        for (name, paths) in files {
            let one = match &paths[..] {
                [path] => self.read_one((&name, path), model, limit),
                _ => Err(LibraryError::Duplicate(name.clone())),
            };
            let prompt = match one {
                Ok(prompt) => Some(prompt),
                Err(problem) => {
                    read.problems.push(problem);
                    self.get(&name).cloned()
                }
            };
            let Some(prompt) = prompt else { continue };
            if read.library.len() == PROMPT_ENTRIES_MAX {
                read.problems.push(LibraryError::TooMany);
                break;
            }
            read.library.prompts.insert(name, prompt);
        }
        read
    }

    fn read_one(
        &self,
        (name, path): (&PromptName, &Path),
        model: &Model,
        limit: &PromptLimit,
    ) -> Result<LibraryPrompt, LibraryError> {
        let text = read_text(path)?;
        if let Some(same) = self.get(name).filter(|prompt| *prompt.text == *text) {
            return Ok(same.clone());
        }
        let prompt = LibraryPrompt::of(&text, model)?;
        let fits = limit.check(prompt.tokens.len());
        let path = path.to_owned();
        fits.map_err(|source| LibraryError::TooLong { path, source })?;
        Ok(prompt)
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
        let prompt = LibraryPrompt::of(text, model)?;
        let token_count = prompt.tokens.len();
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

/// The visible files of a folder by the names of their prompts; files whose name is none are problems.
fn files_of(
    folder: &Path,
    problems: &mut Vec<LibraryError>,
) -> Result<BTreeMap<PromptName, Vec<PathBuf>>, LibraryError> {
    let io = |source| LibraryError::Io {
        path: folder.to_owned(),
        source,
    };
    let mut files: BTreeMap<PromptName, Vec<PathBuf>> = BTreeMap::new();
    for entry in fs::read_dir(folder).map_err(io)? {
        let path = entry.map_err(io)?.path();
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        if name.starts_with('.') || !path.is_file() {
            continue;
        }
        match name_of(&path) {
            Ok(name) => files.entry(name).or_default().push(path),
            Err(problem) => problems.push(problem),
        }
    }
    Ok(files)
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
