//! Reads the parts of a GGUF file in order, never beyond its end.

use super::GgufError;

/// A file and how far it has been read.
#[derive(Debug)]
pub(super) struct Reader<'a> {
    file: &'a [u8],
    position: usize,
}

impl<'a> Reader<'a> {
    pub(super) const fn new(file: &'a [u8]) -> Self {
        Self { file, position: 0 }
    }

    pub(super) const fn position(&self) -> usize {
        self.position
    }

    const fn left(&self) -> usize {
        self.file.len() - self.position
    }

    /// What has not been read.
    pub(super) fn rest(&self) -> &'a [u8] {
        &self.file[self.position..]
    }

    /// The next `count` bytes; `what` they are is for the error.
    pub(super) fn bytes(&mut self, count: u64, what: &'static str) -> Result<&'a [u8], GgufError> {
        let available = usize::try_from(count).ok();
        let available = available.and_then(|count| self.rest().get(..count));
        let bytes = available.ok_or_else(|| GgufError::Truncated {
            what,
            offset: self.position,
            wanted: count,
            left: self.left(),
        })?;
        self.position += bytes.len();
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self, what: &'static str) -> Result<[u8; N], GgufError> {
        let bytes = self.bytes(N as u64, what)?;
        Ok(*bytes.first_chunk().expect("N bytes were asked for"))
    }

    pub(super) fn u32(&mut self, what: &'static str) -> Result<u32, GgufError> {
        self.array(what).map(u32::from_le_bytes)
    }

    pub(super) fn u64(&mut self, what: &'static str) -> Result<u64, GgufError> {
        self.array(what).map(u64::from_le_bytes)
    }

    /// A length, then so many bytes.
    pub(super) fn string(&mut self, what: &'static str) -> Result<&'a [u8], GgufError> {
        let length = self.u64(what)?;
        self.bytes(length, what)
    }

    /// As [`Reader::string`], in UTF-8.
    pub(super) fn text(&mut self, what: &'static str) -> Result<&'a str, GgufError> {
        let offset = self.position;
        let bytes = self.string(what)?;
        std::str::from_utf8(bytes).map_err(|_| GgufError::Utf8 { what, offset })
    }

    /// Checks that so many entries of at least `entry_bytes_min` each can follow.
    pub(super) fn check_count(
        &self,
        declared: u64,
        entry_bytes_min: u64,
        what: &'static str,
    ) -> Result<(), GgufError> {
        let left = self.left();
        match declared.checked_mul(entry_bytes_min) {
            Some(bytes) if bytes <= left as u64 => Ok(()),
            _ => Err(GgufError::Count {
                what,
                declared,
                left,
            }),
        }
    }
}
