//! The cloud prompts that were fetched by name, remembered on disk: tokens and text, which are
//! public, so that an edge whose cloud is down can compute what it cannot fetch.
//!
//! Nothing private and no keys or values are kept here.

use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use clap::Args;
use edgeprompt_kv::{ModelDigest, PromptId, TokenId};
use edgeprompt_launch::xdg_dir;
use edgeprompt_model::Model;
use edgeprompt_protocol::{Manifest, PROMPT_TOKENS_MAX, PUBLIC_TEXT_BYTES_MAX, PromptName};
use edgeprompt_segment_store::files::{create_dir, mark_used, write_whole};
use edgeprompt_transport::EdgeIdentity;
use serde::{Deserialize, Serialize};

/// Bytes of all remembered prompts together; the ones unused for longest go first.
const REMEMBERED_BYTES_MAX: u64 = 64 << 20;

/// Files of remembered prompts, however small they are.
const REMEMBERED_FILES_MAX: usize = 4096;

/// Largest file: every byte of a text may be escaped to six, a token has at most ten digits and a
/// comma.
const ENTRY_BYTES_MAX: usize = 6 * PUBLIC_TEXT_BYTES_MAX + 11 * PROMPT_TOKENS_MAX + 4096;

/// The layout of the files; another one is not read.
const VERSION: u32 = 1;

/// The end of a file's name once it turned out to be damaged.
const DAMAGED: &str = "damaged";

/// Where prompts are remembered, if they are.
#[derive(Args)]
pub struct MemoryArgs {
    /// Folder where the tokens of prompts fetched by name are remembered, for when the cloud is
    /// down [default: the XDG cache folder]
    #[arg(long, value_name = "DIR", env = "EDGE_REMEMBERED")]
    remembered: Option<PathBuf>,
    /// Neither remember prompts fetched by name nor use remembered ones
    #[arg(long, env = "EDGE_NO_REMEMBERED")]
    no_remembered: bool,
}

impl MemoryArgs {
    /// The folder, if there is to be one.
    pub fn folder(&self) -> Option<PathBuf> {
        match self.no_remembered {
            true => None,
            false => self.remembered.clone().or_else(default_dir),
        }
    }

    /// What this edge remembers of its cloud's prompts; `None` if it is to remember nothing, or
    /// has no folder to remember it in.
    pub fn open(&self, identity: &EdgeIdentity, model: &Model) -> Option<RememberedPrompts> {
        let root = self.folder()?;
        let trust_domain = identity.trust_domain();
        Some(RememberedPrompts::new(&root, &trust_domain, model.digest))
    }

    /// Every name that is remembered, whatever cloud and model it is of, and what it means.
    pub(crate) fn names(&self) -> Vec<(PromptName, PromptId)> {
        let root = self.remembered.clone().or_else(default_dir);
        let root = root.filter(|_| !self.no_remembered);
        let files = root.map(|root| files_of(&root)).unwrap_or_default();
        let named = files.into_iter().filter_map(|file| {
            let entry: Entry = serde_json::from_slice(&read(&file.path).ok()?).ok()?;
            let id = PromptId::of(&entry.model.parse().ok()?, &entry.tokens);
            Some((entry.name, id))
        });
        named.collect()
    }
}

/// A prompt could not be remembered.
#[derive(Debug, thiserror::Error)]
#[error("{path}: {source}")]
pub struct RememberError {
    /// The file or folder.
    pub path: PathBuf,
    /// What the system said.
    pub source: io::Error,
}

/// The public part of a prompt, as a cloud once told it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RememberedPrompt {
    /// Its tokens.
    pub tokens: Vec<TokenId>,
    /// Its text, if it was made from one.
    pub text: Option<String>,
}

impl From<&Manifest> for RememberedPrompt {
    fn from(manifest: &Manifest) -> Self {
        Self {
            tokens: manifest.tokens.clone(),
            text: manifest.text.clone(),
        }
    }
}

/// What a file holds.
#[derive(Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    version: u32,
    name: PromptName,
    model: String,
    prompt: String,
    tokens: Vec<TokenId>,
    text: Option<String>,
}

/// Why a file is not what was asked for.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
enum EntryProblem {
    #[error("it is larger than a prompt can be")]
    TooLarge,
    #[error("it is not an entry")]
    Malformed,
    #[error("it is of another version, prompt or model")]
    OtherKey,
    #[error("its tokens do not hash to its identity")]
    PromptId,
    #[error("its text does not tokenise to its tokens")]
    Text,
    #[error("its tokens are not of the model")]
    Tokens,
}

/// The prompts of one cloud and one model, remembered by name.
#[derive(Clone, Debug)]
pub struct RememberedPrompts {
    root: PathBuf,
    folder: PathBuf,
    model: ModelDigest,
}

/// The folder for remembered prompts unless told otherwise: in the XDG cache folder.
pub(crate) fn default_dir() -> Option<PathBuf> {
    xdg_dir("XDG_CACHE_HOME", ".cache").map(|cache| cache.join("prompts"))
}

impl RememberedPrompts {
    /// The prompts under `root` of the cloud that `trust_domain` names and of a model. Nothing is
    /// read or made yet.
    pub fn new(root: &Path, trust_domain: &str, model: ModelDigest) -> Self {
        Self {
            root: root.to_owned(),
            folder: root.join(trust_domain).join(model.to_string()),
            model,
        }
    }

    /// Remembers what a cloud answered under a name, and forgets others if there are too many.
    ///
    /// # Errors
    /// [`RememberError`]; what was remembered before stays.
    pub fn keep(&self, name: &PromptName, prompt: &RememberedPrompt) -> Result<(), RememberError> {
        let entry = Entry {
            version: VERSION,
            name: name.clone(),
            model: self.model.to_string(),
            prompt: PromptId::of(&self.model, &prompt.tokens).to_string(),
            tokens: prompt.tokens.clone(),
            text: prompt.text.clone(),
        };
        let path = self.path(name);
        let at = |path: &Path| {
            let path = path.to_owned();
            move |source| RememberError { path, source }
        };
        let bytes = serde_json::to_vec(&entry).map_err(|e| at(&path)(e.into()))?;
        create_dir(&self.folder).map_err(at(&self.folder))?;
        make_room(&self.root, bytes.len() as u64);
        // Two edges of one user may remember the same prompt at the same time.
        write_whole(&path, &bytes).map_err(at(&path))
    }

    /// As [`RememberedPrompts::keep`] for who goes on without: a failure is logged.
    pub(crate) fn keep_or_warn(&self, name: &PromptName, prompt: &RememberedPrompt) {
        if let Err(error) = self.keep(name, prompt) {
            tracing::warn!(%error, "a cloud prompt is not remembered");
        }
    }

    /// What is remembered under a name and fits the model. A damaged file is put aside.
    pub fn recall(&self, name: &PromptName, model: &Model) -> Option<RememberedPrompt> {
        let path = self.path(name);
        let bytes = match read(&path) {
            Ok(bytes) => bytes,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return None,
            Err(error) => {
                tracing::warn!(path = %path.display(), %error, "a remembered prompt was not read");
                return None;
            }
        };
        match self.check(&bytes, name, model) {
            Ok(prompt) => {
                mark_used(&path, SystemTime::now());
                Some(prompt)
            }
            Err(problem) => {
                tracing::warn!(path = %path.display(), %problem, "a remembered prompt was put aside");
                // Best effort: the next prompt of the name replaces it.
                let _ = fs::rename(&path, path.with_extension(DAMAGED));
                None
            }
        }
    }

    /// Forgets what a name meant. Best effort: what stays is revalidated again.
    pub fn forget(&self, name: &PromptName) {
        let _ = fs::remove_file(self.path(name));
    }

    fn check(
        &self,
        bytes: &[u8],
        name: &PromptName,
        model: &Model,
    ) -> Result<RememberedPrompt, EntryProblem> {
        if bytes.len() > ENTRY_BYTES_MAX {
            return Err(EntryProblem::TooLarge);
        }
        let entry: Entry = serde_json::from_slice(bytes).map_err(|_| EntryProblem::Malformed)?;
        let key = (entry.version, &entry.name, entry.model.parse());
        if key != (VERSION, name, Ok(self.model)) {
            return Err(EntryProblem::OtherKey);
        }
        if entry.prompt.parse() != Ok(PromptId::of(&self.model, &entry.tokens)) {
            return Err(EntryProblem::PromptId);
        }
        let vocab_size = model.config.vocab_size;
        let is_known = |token: &TokenId| (token.0 as usize) < vocab_size;
        let len = entry.tokens.len();
        let fits = len > 0 && len < model.config.context_len_max;
        if !fits || !entry.tokens.iter().all(is_known) {
            return Err(EntryProblem::Tokens);
        }
        if let (Some(text), Ok(tokenizer)) = (&entry.text, model.tokenizer()) {
            let tokens = tokenizer.encode(text).map_err(|_| EntryProblem::Text)?;
            if tokens != entry.tokens {
                return Err(EntryProblem::Text);
            }
        }
        Ok(RememberedPrompt {
            tokens: entry.tokens,
            text: entry.text,
        })
    }

    /// Names are safe as file names; see [`PromptName`].
    fn path(&self, name: &PromptName) -> PathBuf {
        // Appended, not set: a name may have dots.
        self.folder.join(format!("{name}.json"))
    }
}

fn read(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more, so that what is too long shows.
    let limit = ENTRY_BYTES_MAX as u64 + 1;
    File::open(path)?.take(limit).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// Removes the files unused for longest until `bytes` more fit. What cannot be listed or removed
/// stays: whoever changed the folder's rights knows better.
fn make_room(root: &Path, bytes: u64) {
    let mut files = files_of(root);
    files.sort_by_key(|file| file.modified);
    let mut total: u64 = files.iter().map(|file| file.bytes).sum();
    let mut count = files.len();
    for file in files {
        if total + bytes <= REMEMBERED_BYTES_MAX && count < REMEMBERED_FILES_MAX {
            return;
        }
        if fs::remove_file(&file.path).is_ok() {
            total -= file.bytes;
            count -= 1;
        }
    }
}

struct KeptFile {
    path: PathBuf,
    bytes: u64,
    modified: SystemTime,
}

/// The files below `root`: a folder for each cloud, in it one for each model.
fn files_of(root: &Path) -> Vec<KeptFile> {
    let list = |folder: &Path| -> Vec<PathBuf> {
        let entries = fs::read_dir(folder).into_iter().flatten();
        entries
            .filter_map(|entry| Some(entry.ok()?.path()))
            .collect()
    };
    let models = list(root).into_iter().flat_map(|cloud| list(&cloud));
    let paths = models.flat_map(|model| list(&model));
    let kept = paths.filter_map(|path| {
        let metadata = fs::symlink_metadata(&path).ok()?;
        let (bytes, modified) = (metadata.len(), metadata.modified().ok()?);
        metadata.is_file().then_some(KeptFile {
            path,
            bytes,
            modified,
        })
    });
    kept.collect()
}

#[cfg(test)]
mod tests;
