//! The segments of one trust domain: got by identity, put whole or not at all.

use std::fs::{self, File, OpenOptions};
use std::io::{self, BufWriter, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::SystemTime;

use edgeprompt_kv::{LayerKv, PromptId};

use crate::folder::{self, SegmentFolder, UNFINISHED, create_dir, path_of};
use crate::format::{SegmentInfo, SegmentProblem};
use crate::reader::SegmentReader;
use crate::writer::{EncodeError, SegmentWriter};

/// Bytes written at a time.
const WRITE_BYTES: usize = 1 << 20;

/// Names tried for one file. Processes in containers often have one number, and may have crashed.
const ATTEMPTS_MAX: u32 = 100;

/// Why a segment that is kept is not to be had.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// It is not what its name says. Put it aside with [`SegmentStore::quarantine`].
    #[error("{}: {problem}", .path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: SegmentProblem,
    },
    /// The system refused.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

/// Why a segment was not put.
#[derive(Debug, thiserror::Error)]
pub enum WriteError {
    /// It is larger than everything may be, or others that are being written take the room.
    #[error("the segment has {bytes} bytes, which do not fit in the {bytes_max} of the disk cache")]
    NoRoom {
        /// Bytes of the file.
        bytes: u64,
        /// Bytes of all files.
        bytes_max: u64,
    },
    /// It is no whole segment.
    #[error(transparent)]
    Encode(EncodeError),
    /// The system refused.
    #[error("{}: {source}", .path.display())]
    Io {
        /// The file or folder.
        path: PathBuf,
        /// What it said.
        source: io::Error,
    },
}

impl WriteError {
    fn at(path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Io {
            path: path.to_owned(),
            source,
        }
    }

    fn encoding(path: &Path) -> impl Fn(EncodeError) -> Self {
        move |error| match error {
            EncodeError::Io(source) => Self::at(path)(source),
            EncodeError::Info(_) | EncodeError::Layer(_) | EncodeError::Incomplete { .. } => {
                Self::Encode(error)
            }
        }
    }
}

/// The segments of one trust domain. Several processes may use one folder.
#[derive(Debug)]
pub struct SegmentStore {
    all: SegmentFolder,
    folder: PathBuf,
    bytes_max: u64,
    /// Tells the unfinished files of one process apart.
    written: AtomicU64,
}

impl SegmentStore {
    pub(crate) const fn new(all: SegmentFolder, folder: PathBuf, bytes_max: u64) -> Self {
        Self {
            all,
            folder,
            bytes_max,
            written: AtomicU64::new(0),
        }
    }

    /// Opens the segment of a prompt and marks it as used `now`; its head is verified, its layers
    /// as they are read. `None` if none is kept.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(
        &self,
        id: &PromptId,
        now: SystemTime,
    ) -> Result<Option<SegmentReader<File>>, OpenError> {
        let path = path_of(&self.folder, id);
        match folder::open(&path, id) {
            Ok(reader) => {
                mark_used(&path, now);
                Ok(Some(reader))
            }
            Err(crate::ReadError::Io(error)) if error.kind() == ErrorKind::NotFound => Ok(None),
            Err(error) => Err(OpenError::of(&path, error)),
        }
    }

    /// Whether a file of a prompt is there, whatever is in it.
    pub fn has(&self, id: &PromptId) -> bool {
        path_of(&self.folder, id).is_file()
    }

    /// Makes the segment of a prompt the last one to go, if it is kept.
    pub fn mark_used(&self, id: &PromptId, now: SystemTime) {
        mark_used(&path_of(&self.folder, id), now);
    }

    /// Puts the damaged file of a prompt aside, so that the next one takes its place.
    pub fn quarantine(&self, id: &PromptId) {
        self.all.quarantine(&path_of(&self.folder, id));
    }

    /// Begins to put a segment, for which others go if there is no room `now`. Nobody sees it before [`NewSegment::commit`].
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn begin(&self, info: SegmentInfo, now: SystemTime) -> Result<NewSegment, WriteError> {
        let (bytes, bytes_max) = (info.file_bytes(), self.bytes_max);
        if bytes > bytes_max || !self.all.make_room(bytes, bytes_max, now) {
            return Err(WriteError::NoRoom { bytes, bytes_max });
        }
        create_dir(&self.folder).map_err(WriteError::at(&self.folder))?;
        let id = info.id();
        let path = path_of(&self.folder, &id);
        let (unfinished, file) = self.create_beside(&path)?;
        let sink = BufWriter::with_capacity(WRITE_BYTES, file);
        let writer = SegmentWriter::begin(sink, info);
        Ok(NewSegment {
            writer: writer.map_err(WriteError::encoding(&path))?,
            unfinished,
            path,
            all: self.all.clone(),
            bytes_max,
        })
    }

    fn create_beside(&self, path: &Path) -> Result<(Unfinished, File), WriteError> {
        let process = std::process::id();
        let mut attempts = 0..ATTEMPTS_MAX;
        loop {
            let number = self.written.fetch_add(1, Ordering::Relaxed);
            let unfinished = path.with_extension(format!("{process}-{number}.{UNFINISHED}"));
            match create(&unfinished) {
                Ok(file) => return Ok((Unfinished(Some(unfinished)), file)),
                Err(error) if error.kind() == ErrorKind::AlreadyExists => {
                    if attempts.next().is_none() {
                        return Err(WriteError::at(&unfinished)(error));
                    }
                }
                Err(error) => return Err(WriteError::at(&unfinished)(error)),
            }
        }
    }
}

/// A segment that is being put. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct NewSegment {
    writer: SegmentWriter<BufWriter<File>>,
    unfinished: Unfinished,
    path: PathBuf,
    all: SegmentFolder,
    bytes_max: u64,
}

impl NewSegment {
    /// Writes the next layer; the first one first.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn layer(&mut self, kv: &LayerKv) -> Result<(), WriteError> {
        self.writer
            .layer(kv)
            .map_err(WriteError::encoding(&self.path))
    }

    /// Makes the segment visible, whole and on the disk, as used `now`.
    ///
    /// # Errors
    /// [`WriteError`].
    pub fn commit(self, now: SystemTime) -> Result<(), WriteError> {
        let sink = self
            .writer
            .finish()
            .map_err(WriteError::encoding(&self.path))?;
        let file = sink.into_inner().map_err(io::IntoInnerError::into_error);
        let written = file.and_then(|file| {
            file.set_modified(now)?;
            file.sync_all()?;
            self.unfinished.rename(&self.path)
        });
        written.map_err(WriteError::at(&self.path))?;
        // Best effort: without it a crash of the machine may forget the file, not damage it.
        let folder = self.path.parent().map(File::open);
        let _ = folder.map(|folder| folder.and_then(|folder| folder.sync_all()));
        // Others may have written at the same time.
        self.all.make_room(0, self.bytes_max, now);
        Ok(())
    }
}

/// A file that goes unless it is renamed. Once it is, its name may be another writer's.
#[derive(Debug)]
struct Unfinished(Option<PathBuf>);

impl Unfinished {
    fn rename(mut self, to: &Path) -> io::Result<()> {
        let path = self.0.as_deref().unwrap_or(to);
        fs::rename(path, to)?;
        self.0 = None;
        Ok(())
    }
}

impl Drop for Unfinished {
    fn drop(&mut self) {
        if let Some(path) = &self.0 {
            // Fails only where nothing can be removed.
            let _ = fs::remove_file(path);
        }
    }
}

/// A new file that is locked for as long as it is open, which tells it from a crashed writer's.
fn create(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path)?;
    // Where files cannot be locked they are not taken for a crashed writer's either.
    let _ = file.try_lock();
    Ok(file)
}

/// Best effort: the order is a convenience, and the folder may be read-only.
fn mark_used(path: &Path, now: SystemTime) {
    let opened = OpenOptions::new().append(true).open(path);
    let _ = opened.and_then(|file| file.set_modified(now));
}
