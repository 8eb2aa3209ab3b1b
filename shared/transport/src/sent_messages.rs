//! A record of the control messages that an edge sent to a cloud, as they were before encryption.
//! It shows a user what the cloud saw; it does not filter anything.

use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Most bytes kept: eight of the largest messages. Later messages are counted and not kept.
const RECORD_BYTES_MAX: usize = 16 << 20;

/// The messages sent over the links it was given to. Clones share the record.
#[derive(Clone, Debug, Default)]
pub struct SentMessages {
    record: Arc<Mutex<Record>>,
}

#[derive(Debug, Default)]
struct Record {
    frames: Vec<Bytes>,
    kept_bytes: usize,
    omitted_count: usize,
}

impl SentMessages {
    /// An empty record.
    pub fn new() -> Self {
        Self::default()
    }

    /// The frames sent so far, in order, each with its length prefix.
    pub fn frames(&self) -> Vec<Bytes> {
        self.lock().frames.clone()
    }

    /// Every byte sent so far, in order.
    pub fn bytes(&self) -> Vec<u8> {
        self.lock().frames.concat()
    }

    /// How many messages were sent after the record was full.
    pub fn omitted_count(&self) -> usize {
        self.lock().omitted_count
    }

    pub(crate) fn record(&self, frame: &Bytes) {
        let mut record = self.lock();
        if record.kept_bytes + frame.len() > RECORD_BYTES_MAX {
            record.omitted_count += 1;
            return;
        }
        record.kept_bytes += frame.len();
        record.frames.push(frame.clone());
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
