//! Where the usable conversations of a file are: found in one pass that keeps one record at a time.

use std::cell::Cell;
use std::io::{self, Read, Seek, SeekFrom};

use anyhow::{Context, Result, ensure};
use serde::de::{SeqAccess, Visitor};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use serde_json::error::Category;

use super::{Tally, Turns};

/// Most bytes of one record: the longest conversations of ShareGPT have a few million.
const RECORD_BYTES_MAX: u64 = 64 << 20;

/// Most characters of a record's own name in a message.
const ID_LEN_MAX: usize = 40;

/// The usable conversations of a file.
pub(super) struct Index {
    /// A byte of each: at most white space, a bracket and a comma lie between it and the record.
    pub(super) places: Vec<u64>,
    /// What the others are.
    pub(super) tally: Tally,
}

impl Index {
    /// Reads a whole file. What is no JSON ends it there: that is a malformed record too.
    ///
    /// # Errors
    /// Those of reading.
    pub(super) fn of(reader: &mut (impl Read + Seek)) -> Result<Self> {
        reader.rewind()?;
        let progress = Progress::default();
        let mut index = Self {
            places: Vec::new(),
            tally: Tally::default(),
        };
        let metered = Metered {
            reader,
            progress: &progress,
        };
        let mut json = serde_json::Deserializer::from_reader(metered);
        let records = Records {
            index: &mut index,
            progress: &progress,
        };
        let read = json.deserialize_any(records).and_then(|()| json.end());
        let Err(error) = read else {
            return Ok(index);
        };
        if progress.read.get() - progress.record.get() >= RECORD_BYTES_MAX {
            index.end_at(&error, "is longer than 64 MiB");
            return Ok(index);
        }
        match error.classify() {
            Category::Io => return Err(io::Error::from(error).into()),
            Category::Syntax => index.end_at(&error, "is not JSON"),
            Category::Eof => index.end_at(&error, "breaks off"),
            Category::Data => index.end_at(&error, "is not part of a list"),
        }
        Ok(index)
    }

    fn end_at(&mut self, error: &serde_json::Error, problem: &str) {
        let (number, line, column) = (self.tally.record_count, error.line(), error.column());
        self.tally.malformed.add(|| {
            format!("record {number} {problem} at line {line}, column {column}, and nothing behind it is read")
        });
    }

    fn add(&mut self, record: &Value, place: u64) {
        let number = self.tally.record_count;
        self.tally.record_count += 1;
        match turns(record) {
            Ok(Some(_)) => self.places.push(place),
            Ok(None) => self.tally.short_count += 1,
            Err(problem) => self.tally.malformed.add(|| {
                let id = record["id"].as_str().map(|id| {
                    let id: String = id.chars().take(ID_LEN_MAX).collect();
                    format!(" (id {id:?})")
                });
                format!("record {number}{} {problem}", id.unwrap_or_default())
            }),
        }
    }
}

/// The first two turns; nothing if there are fewer.
fn turns(record: &Value) -> Result<Option<[&str; 2]>, &'static str> {
    let record = record.as_object().ok_or("is not an object")?;
    let turns = record.get("conversations").ok_or("has no conversations")?;
    let turns = turns
        .as_array()
        .ok_or("has conversations that are no list")?;
    let [first, second, ..] = turns.as_slice() else {
        return Ok(None);
    };
    let first = first["value"].as_str().ok_or("has no text in turn 0")?;
    let second = second["value"].as_str().ok_or("has no text in turn 1")?;
    Ok(Some([first, second]))
}

/// The first two turns of the conversation at a place of the index.
///
/// # Errors
/// Those of reading, and if the file has changed since it was indexed.
pub(super) fn read_turns(reader: &mut (impl Read + Seek), place: u64) -> Result<Turns> {
    reader.seek(SeekFrom::Start(place))?;
    let mut before = [0];
    while before != *b"{" {
        reader.read_exact(&mut before)?;
        let is_between = before[0].is_ascii_whitespace() || b"[,{".contains(&before[0]);
        ensure!(is_between, CHANGED);
    }
    let record = before.as_slice().chain(reader.take(RECORD_BYTES_MAX));
    let record = Value::deserialize(&mut serde_json::Deserializer::from_reader(record));
    // The library's sentence may quote the conversation.
    let record = record.ok().context(CHANGED)?;
    let [prompt, answer] = turns(&record).ok().flatten().context(CHANGED)?;
    Ok(Turns {
        prompt: prompt.to_owned(),
        answer: answer.to_owned(),
    })
}

const CHANGED: &str = "the file of conversations has changed while it was read";

/// Bytes of the file.
#[derive(Default)]
struct Progress {
    /// Taken by the parser.
    read: Cell<u64>,
    /// Of these, before the record that is being read.
    record: Cell<u64>,
}

/// Counts what the parser takes, and stops it where a record has no end.
struct Metered<'a, R> {
    reader: R,
    progress: &'a Progress,
}

impl<R: Read> Read for Metered<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let Progress { read, record } = self.progress;
        if read.get() - record.get() >= RECORD_BYTES_MAX {
            return Err(io::Error::other("a record is too long"));
        }
        let count = self.reader.read(buffer)?;
        read.set(read.get() + count as u64);
        Ok(count)
    }
}

/// Takes the records one after the other.
struct Records<'a> {
    index: &'a mut Index,
    progress: &'a Progress,
}

impl<'de> Visitor<'de> for Records<'_> {
    type Value = ();

    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("a list of conversations")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut records: A) -> Result<(), A::Error> {
        let Progress { read, record } = self.progress;
        record.set(read.get());
        while let Some(value) = records.next_element::<Value>()? {
            self.index.add(&value, record.get());
            record.set(read.get());
        }
        Ok(())
    }
}
