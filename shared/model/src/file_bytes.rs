//! The bytes of a model file: mapped rather than read, or part of the program.
//!
//! Small files are read whole, but never beyond a limit.

use std::fs::File;
use std::io::{self, Read};
use std::ops::{Deref, Range};
use std::path::Path;

use memmap2::Mmap;

/// A file's bytes, with the name errors call it by.
#[derive(Debug)]
pub(crate) struct FileBytes {
    name: String,
    content: Content,
}

#[derive(Debug)]
enum Content {
    Mapped(Mmap),
    Static(&'static [u8]),
}

impl Deref for FileBytes {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        match &self.content {
            Content::Mapped(map) => map,
            Content::Static(bytes) => bytes,
        }
    }
}

impl FileBytes {
    /// Maps a file.
    ///
    /// # Errors
    /// What the system says.
    #[allow(unsafe_code)]
    pub(crate) fn map(path: &Path) -> io::Result<Self> {
        let file = File::open(path)?;
        // SAFETY: the mapping is read-only. A file that another process truncates while it is
        // mapped would fault; model files are not rewritten in place, and every loader of this
        // kind accepts that.
        let map = unsafe { Mmap::map(&file) }?;
        let name = path.display().to_string();
        Ok(Self {
            name,
            content: Content::Mapped(map),
        })
    }

    /// A file that is part of the program.
    pub(crate) fn from_static(name: &str, bytes: &'static [u8]) -> Self {
        Self {
            name: name.to_owned(),
            content: Content::Static(bytes),
        }
    }

    /// What errors call the file.
    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Gives the memory of a mapped range back to the system; the range can still be read.
    ///
    /// Without this, a process that has loaded a model holds the file's pages beside the tensors.
    #[cfg(unix)]
    #[allow(unsafe_code)]
    pub(crate) fn release(&self, range: Range<usize>) {
        let Content::Mapped(map) = &self.content else {
            return;
        };
        if range.end > map.len() || range.is_empty() {
            return;
        }
        let advice = memmap2::UncheckedAdvice::DontNeed;
        // SAFETY: the mapping is of a file and is never written, so the pages that are dropped
        // come back from the file with the same bytes.
        let released = unsafe { map.unchecked_advise_range(advice, range.start, range.len()) };
        // Only memory is at stake: a system that refuses the advice keeps the pages.
        released.ok();
    }

    /// Systems without `madvise` keep the pages until the file is unmapped.
    #[cfg(not(unix))]
    pub(crate) fn release(&self, _range: Range<usize>) {}
}

/// Reads a whole file of at most `bytes_max` bytes.
///
/// # Errors
/// What the system says, or that the file is too large.
pub(crate) fn read_within(path: &Path, bytes_max: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    // One byte more than allowed shows that there is more, whatever the file's length claims.
    let mut limited = File::open(path)?.take(bytes_max + 1);
    limited.read_to_end(&mut bytes)?;
    if bytes.len() as u64 > bytes_max {
        let reason = format!("the file is larger than {bytes_max} bytes");
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, reason));
    }
    Ok(bytes)
}

/// As [`read_within`], or `None` where there is no such file.
///
/// # Errors
/// As [`read_within`].
pub(crate) fn read_if_present(path: &Path, bytes_max: u64) -> io::Result<Option<Vec<u8>>> {
    match read_within(path, bytes_max) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        read => read.map(Some),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_up_to_the_limit_and_not_beyond() {
        let path = std::env::temp_dir().join(format!("edgeprompt-limit-{}", std::process::id()));
        std::fs::write(&path, [7; 10]).unwrap();
        assert_eq!(read_within(&path, 10).unwrap(), [7; 10]);
        let error = read_within(&path, 9).unwrap_err().to_string();
        assert_eq!(error, "the file is larger than 9 bytes");
        std::fs::remove_file(&path).unwrap();
        assert!(read_if_present(&path, 9).unwrap().is_none());
    }

    #[test]
    fn released_pages_come_back_from_the_file() {
        let path = std::env::temp_dir().join(format!("edgeprompt-release-{}", std::process::id()));
        let written: Vec<u8> = (0..=255).cycle().take(100_000).collect();
        std::fs::write(&path, &written).unwrap();
        let file = FileBytes::map(&path).unwrap();
        assert_eq!(*file, written);
        file.release(5000..90_000);
        assert_eq!(*file, written);
        std::fs::remove_file(&path).unwrap();
    }
}
