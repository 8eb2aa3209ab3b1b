//! The folder of all segments: a folder for each trust domain, one for what was damaged. It lists,
//! bounds and tidies up; what a file holds is for others to say.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use edgeprompt_kv::PromptId;

use crate::files::{UNFINISHED, create_dir};
use crate::reader::{ReadError, SegmentReader};
use crate::store::OpenError;
use crate::{SegmentProblem, SegmentStore};

/// How the name of a segment ends; before it stands the prompt's id.
const SEGMENT: &str = "segment";
/// The folder of damaged files.
const QUARANTINE: &str = "quarantine";

/// Damaged files kept for whoever wants to know what happened to them.
const QUARANTINED_MAX: usize = 4;

/// A file that nobody locks is a crashed writer's, unless it was made this moment.
const UNFINISHED_AGE_MIN: Duration = Duration::from_secs(60);

/// The segments of every trust domain under one root.
#[derive(Clone, Debug)]
pub struct SegmentFolder {
    root: PathBuf,
}

/// A file with the name of a segment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptSegment {
    /// The file.
    pub path: PathBuf,
    /// The trust domain it was got in.
    pub domain: String,
    /// The prompt that it should hold.
    pub id: PromptId,
    /// Its length.
    pub bytes: u64,
    /// When it was last used.
    pub used_at: SystemTime,
}

impl KeptSegment {
    /// Opens the file; its head is verified, its layers not yet.
    ///
    /// # Errors
    /// [`ReadError`].
    pub fn open(&self) -> Result<SegmentReader<File>, ReadError> {
        open(&self.path, &self.id)
    }
}

/// A file that takes room.
struct FileEntry {
    path: PathBuf,
    bytes: u64,
    modified: SystemTime,
    kind: FileKind,
}

/// In the order in which files go when there is no room.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum FileKind {
    Unfinished,
    Quarantined,
    Kept,
}

impl FileEntry {
    /// Whether a crashed writer has left it.
    fn is_left_behind(&self, now: SystemTime) -> bool {
        let age = now.duration_since(self.modified).unwrap_or_default();
        self.kind == FileKind::Unfinished && age >= UNFINISHED_AGE_MIN && !is_locked(&self.path)
    }

    /// Whether it may be removed to make room.
    fn may_go(&self, now: SystemTime) -> bool {
        match self.kind {
            FileKind::Quarantined | FileKind::Kept => true,
            FileKind::Unfinished => self.is_left_behind(now),
        }
    }
}

impl SegmentFolder {
    /// The segments under `root`. Nothing is read or made yet.
    pub fn new(root: impl Into<PathBuf>) -> Self {
        Self { root: root.into() }
    }

    /// The segments of one trust domain, which together with all others take at most `bytes_max`.
    /// A domain's name is a file name.
    pub fn domain(&self, domain: &str, bytes_max: u64) -> SegmentStore {
        SegmentStore::new(self.clone(), self.root.join(domain), bytes_max)
    }

    /// Where it is.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Every segment, the one used last first.
    ///
    /// # Errors
    /// What the system says if the root cannot be listed; a root that is not there is empty.
    pub fn list(&self) -> io::Result<Vec<KeptSegment>> {
        match fs::read_dir(&self.root) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(_) | Err(_) => {}
        }
        let kept = self.files().into_iter().filter_map(|file| {
            let domain = file.path.parent()?.file_name()?.to_str()?.to_owned();
            let id = file.path.file_stem()?.to_str()?.parse().ok()?;
            (file.kind == FileKind::Kept).then_some(KeptSegment {
                path: file.path,
                domain,
                id,
                bytes: file.bytes,
                used_at: file.modified,
            })
        });
        let mut kept: Vec<_> = kept.collect();
        kept.sort_by_key(|kept| std::cmp::Reverse(kept.used_at));
        Ok(kept)
    }

    /// Removes what crashed writers left. Best effort: it is bounded like everything here.
    pub fn tidy_up(&self, now: SystemTime) {
        for file in self.files() {
            if file.is_left_behind(now) {
                let _ = fs::remove_file(&file.path);
            }
        }
    }

    /// Puts a damaged file aside, and forgets the damaged ones before it if they are many. Best
    /// effort: a file that stays is refused again.
    pub(crate) fn quarantine(&self, path: &Path) {
        let folder = self.root.join(QUARANTINE);
        let moved = create_dir(&folder).and_then(|()| {
            let name = path.file_name().unwrap_or_default();
            fs::rename(path, folder.join(name))
        });
        if moved.is_err() {
            // A folder that cannot be written to keeps it; otherwise it is in the way.
            let _ = fs::remove_file(path);
        }
        let mut aside = self.files();
        aside.retain(|file| file.kind == FileKind::Quarantined);
        aside.sort_by_key(|file| file.modified);
        for file in aside.iter().rev().skip(QUARANTINED_MAX) {
            let _ = fs::remove_file(&file.path);
        }
    }

    /// Removes what crashed writers left, then damaged files, then the segments unused for longest,
    /// until all files and `bytes` more take at most `bytes_max`. Nothing goes if that would not be
    /// enough; what cannot be removed stays. Says whether there is room.
    pub(crate) fn make_room(&self, bytes: u64, bytes_max: u64, now: SystemTime) -> bool {
        let files = self.files();
        let taken: u64 = files.iter().map(|file| file.bytes).sum();
        let mut total = taken.saturating_add(bytes);
        if total <= bytes_max {
            return true;
        }
        let mut files: Vec<_> = files.into_iter().filter(|file| file.may_go(now)).collect();
        let removable: u64 = files.iter().map(|file| file.bytes).sum();
        if total - removable > bytes_max {
            return false;
        }
        files.sort_by_key(|file| (file.kind, file.modified));
        for file in files {
            if total <= bytes_max {
                return true;
            }
            if fs::remove_file(&file.path).is_ok() {
                total -= file.bytes;
            }
        }
        total <= bytes_max
    }

    fn files(&self) -> Vec<FileEntry> {
        let folders = list(&self.root).into_iter().flat_map(|folder| {
            let is_aside = folder.file_name().is_some_and(|name| name == QUARANTINE);
            list(&folder).into_iter().map(move |path| (path, is_aside))
        });
        let files = folders.filter_map(|(path, is_aside)| {
            let metadata = fs::symlink_metadata(&path).ok()?;
            let ending = path.extension()?.to_str()?;
            let kind = match (is_aside, ending) {
                (true, _) => FileKind::Quarantined,
                (false, SEGMENT) => FileKind::Kept,
                (false, UNFINISHED) => FileKind::Unfinished,
                // Nothing of ours.
                (false, _) => return None,
            };
            metadata.is_file().then_some(FileEntry {
                bytes: metadata.len(),
                modified: metadata.modified().ok()?,
                path,
                kind,
            })
        });
        files.collect()
    }
}

/// The file of a prompt in the folder of a domain.
pub(crate) fn path_of(folder: &Path, id: &PromptId) -> PathBuf {
    folder.join(format!("{id}.{SEGMENT}"))
}

/// Opens a file that should hold a prompt.
pub(crate) fn open(path: &Path, id: &PromptId) -> Result<SegmentReader<File>, ReadError> {
    let reader = SegmentReader::open(File::open(path)?)?;
    match reader.info().id() == *id {
        true => Ok(reader),
        false => Err(SegmentProblem::OtherPrompt.into()),
    }
}

impl OpenError {
    pub(crate) fn of(path: &Path, error: ReadError) -> Self {
        let path = path.to_owned();
        match error {
            ReadError::Damaged(problem) => Self::Damaged { path, problem },
            ReadError::Io(source) => Self::Io { path, source },
        }
    }
}

fn list(folder: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(folder).into_iter().flatten();
    let paths = entries.filter_map(|entry| Some(entry.ok()?.path()));
    paths.collect()
}

/// Whether a writer holds on to a file. Where that cannot be known, one may.
fn is_locked(path: &Path) -> bool {
    let opened = OpenOptions::new().append(true).open(path);
    match opened.map(|file| file.try_lock()) {
        Ok(Ok(())) => false,
        Ok(Err(TryLockError::WouldBlock | TryLockError::Error(_))) | Err(_) => true,
    }
}
