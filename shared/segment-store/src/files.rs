//! Files that are there whole or not at all, in folders of their owner alone: what the disk cache and
//! everything else that an edge keeps need. It knows nothing of what they hold.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// The end of a file's name while it is written.
pub(crate) const UNFINISHED: &str = "unfinished";

/// Names tried for one file. Processes in containers often have one number, and may have crashed.
const ATTEMPTS_MAX: u32 = 100;

/// A file that is being written beside the one whose place it takes. Dropped, it leaves nothing behind.
#[derive(Debug)]
pub struct NewFile {
    /// `None` once it is at its place: its name may be another writer's then.
    at: Option<PathBuf>,
    place: PathBuf,
}

impl NewFile {
    /// Begins a file that will be at `place`. It is locked for as long as it is open, which tells it
    /// from a crashed writer's.
    ///
    /// # Errors
    /// What the system says.
    pub fn create(place: &Path) -> io::Result<(Self, File)> {
        let process = std::process::id();
        let mut attempts = 0..ATTEMPTS_MAX;
        loop {
            let number = attempts.next();
            let ending = format!("{process}-{}.{UNFINISHED}", number.unwrap_or(ATTEMPTS_MAX));
            let at = place.with_extension(ending);
            match create_alone(&at) {
                Ok(file) => {
                    let place = place.to_owned();
                    return Ok((
                        Self {
                            at: Some(at),
                            place,
                        },
                        file,
                    ));
                }
                Err(error) if error.kind() == ErrorKind::AlreadyExists && number.is_some() => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Puts the file at its place, on the disk. Whoever was there before is gone.
    ///
    /// # Errors
    /// What the system says; what was at the place stays then.
    pub fn finish(mut self, written: &File) -> io::Result<()> {
        written.sync_all()?;
        let at = self.at.as_deref().unwrap_or(&self.place);
        fs::rename(at, &self.place)?;
        self.at = None;
        // Best effort: without it a crash of the machine may forget the file, not damage it.
        let folder = self.place.parent().map(File::open);
        let _ = folder.map(|folder| folder.and_then(|folder| folder.sync_all()));
        Ok(())
    }
}

impl Drop for NewFile {
    fn drop(&mut self) {
        if let Some(at) = &self.at {
            // Fails only where nothing can be removed.
            let _ = fs::remove_file(at);
        }
    }
}

/// Puts `bytes` into a file at `place`, whole or not at all.
///
/// # Errors
/// What the system says; what was at the place stays then.
pub fn write_whole(place: &Path, bytes: &[u8]) -> io::Result<()> {
    let (new, mut file) = NewFile::create(place)?;
    file.write_all(bytes)?;
    new.finish(&file)
}

/// Makes a folder of its owner alone, and those above it: which prompts are used is nobody else's
/// business.
///
/// # Errors
/// What the system says.
pub fn create_dir(dir: &Path) -> io::Result<()> {
    let mut builder = DirBuilder::new();
    builder.recursive(true);
    #[cfg(unix)]
    std::os::unix::fs::DirBuilderExt::mode(&mut builder, 0o700);
    builder.create(dir)
}

/// Makes a file the last one to go, if it is there. Best effort: the order is a convenience, and the
/// folder may be read-only.
pub fn mark_used(path: &Path, now: SystemTime) {
    let opened = OpenOptions::new().append(true).open(path);
    let _ = opened.and_then(|file| file.set_modified(now));
}

/// A new file of its owner alone.
fn create_alone(path: &Path) -> io::Result<File> {
    let mut options = OpenOptions::new();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let file = options.open(path)?;
    // Where files cannot be locked they are not taken for a crashed writer's either.
    let _ = file.try_lock();
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_there_whole_or_what_was_there_before() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("shop.desk.json");
        write_whole(&place, b"first").unwrap();
        let (new, mut file) = NewFile::create(&place).unwrap();
        file.write_all(b"sec").unwrap();
        assert_eq!(fs::read(&place).unwrap(), b"first");
        let beside = fs::read_dir(dir.path()).unwrap().count();
        assert_eq!(beside, 2);
        drop(new);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
        write_whole(&place, b"second").unwrap();
        assert_eq!(fs::read(&place).unwrap(), b"second");
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_place_whose_every_name_is_taken_is_an_error_and_not_a_loop() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("a");
        let held: Vec<_> = (0..=ATTEMPTS_MAX)
            .map(|_| NewFile::create(&place).unwrap())
            .collect();
        let refused = NewFile::create(&place).unwrap_err();
        assert_eq!(refused.kind(), ErrorKind::AlreadyExists);
        drop(held);
        assert!(NewFile::create(&place).is_ok());
    }
}
