//! A record of the control messages that an edge sent to a cloud, as they were before encryption.
//! It shows a user what the cloud saw; it does not filter anything.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

/// Most bytes kept: eight of the largest messages. The oldest go first.
const RECORD_BYTES_MAX: usize = 16 << 20;

/// Most messages kept: a small one takes more memory than its bytes.
const RECORD_FRAMES_MAX: usize = 4096;

/// The messages sent over the links it was given to. Clones share the record.
#[derive(Clone, Debug, Default)]
pub struct SentMessages {
    record: Arc<Mutex<Record>>,
}

#[derive(Debug, Default)]
struct Record {
    frames: VecDeque<Bytes>,
    kept_bytes: usize,
    count: SentCount,
}

/// Everything that was sent, kept or not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SentCount {
    /// Messages.
    pub messages: u64,
    /// Their bytes, with length prefixes.
    pub bytes: u64,
}

impl SentMessages {
    /// An empty record.
    pub fn new() -> Self {
        Self::default()
    }

    /// The frames that are kept, in order, each with its length prefix.
    pub fn frames(&self) -> Vec<Bytes> {
        self.lock().frames.iter().cloned().collect()
    }

    /// The last `count` of them.
    pub fn last(&self, count: usize) -> Vec<Bytes> {
        let record = self.lock();
        let skipped = record.frames.len().saturating_sub(count);
        record.frames.iter().skip(skipped).cloned().collect()
    }

    /// Every byte that is kept, in order.
    pub fn bytes(&self) -> Vec<u8> {
        self.frames().concat()
    }

    /// How much was sent.
    pub fn count(&self) -> SentCount {
        self.lock().count
    }

    /// How many messages are not kept any more.
    pub fn omitted_count(&self) -> usize {
        let record = self.lock();
        let sent = usize::try_from(record.count.messages).unwrap_or(usize::MAX);
        sent.saturating_sub(record.frames.len())
    }

    pub(crate) fn record(&self, frame: &Bytes) {
        let mut record = self.lock();
        record.count.messages += 1;
        record.count.bytes += frame.len() as u64;
        record.kept_bytes += frame.len();
        record.frames.push_back(frame.clone());
        while record.kept_bytes > RECORD_BYTES_MAX || record.frames.len() > RECORD_FRAMES_MAX {
            let Some(oldest) = record.frames.pop_front() else {
                return;
            };
            record.kept_bytes -= oldest.len();
        }
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Record> {
        self.record.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_messages_are_kept_and_all_are_counted() {
        let sent = SentMessages::new();
        let number = |index: usize| Bytes::copy_from_slice(&index.to_le_bytes());
        let all = RECORD_FRAMES_MAX + 10;
        (0..all).for_each(|index| sent.record(&number(index)));
        assert_eq!(sent.frames().len(), RECORD_FRAMES_MAX);
        assert_eq!(sent.omitted_count(), 10);
        assert_eq!(sent.last(2), [number(all - 2), number(all - 1)]);
        let (messages, bytes) = (all as u64, 8 * all as u64);
        assert_eq!(sent.count(), SentCount { messages, bytes });

        let large = Bytes::from(vec![0; RECORD_BYTES_MAX / 2]);
        (0..3).for_each(|_| sent.record(&large));
        assert_eq!(sent.frames().len(), 2, "no more bytes than that");
        sent.record(&Bytes::from(vec![0; RECORD_BYTES_MAX + 1]));
        assert!(sent.frames().is_empty());
    }
}
