//! The segments of one trust domain: got by identity, put whole or not at all.

use std::fs::File;
use std::io::{self, BufWriter, ErrorKind};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use edgeprompt_kv::{LayerKv, PromptId};

use crate::files::{NewFile, create_dir, mark_used};
use crate::folder::{self, SegmentFolder, path_of};
use crate::format::{SegmentInfo, SegmentProblem};
use crate::reader::SegmentReader;
use crate::writer::{EncodeError, SegmentWriter};

/// Bytes written at a time.
const WRITE_BYTES: usize = 1 << 20;

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
}

impl SegmentStore {
    pub(crate) const fn new(all: SegmentFolder, folder: PathBuf, bytes_max: u64) -> Self {
        Self {
            all,
            folder,
            bytes_max,
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
        let (new, file) = NewFile::create(&path).map_err(WriteError::at(&path))?;
        let sink = BufWriter::with_capacity(WRITE_BYTES, file);
        let writer = SegmentWriter::begin(sink, info);
        Ok(NewSegment {
            writer: writer.map_err(WriteError::encoding(&path))?,
            new,
            path,
            all: self.all.clone(),
            bytes_max,
        })
    }
}

/// A segment that is being put. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct NewSegment {
    writer: SegmentWriter<BufWriter<File>>,
    new: NewFile,
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
            self.new.finish(&file)
        });
        written.map_err(WriteError::at(&self.path))?;
        // Others may have written at the same time.
        self.all.make_room(0, self.bytes_max, now);
        Ok(())
    }
}
