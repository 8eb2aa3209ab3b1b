//! The cloud prompts a node keeps, content-addressed and bounded in bytes.

use std::collections::HashMap;
use std::sync::Arc;

use crate::{KvDtype, KvGeometry, LayerKv, PromptId, SegmentSlots, TokenId};

/// One cloud prompt: its public tokens and a slot for each layer's keys and values.
#[derive(Debug)]
pub struct PromptKv {
    /// Its identity.
    pub id: PromptId,
    /// Its public tokens.
    pub tokens: Arc<[TokenId]>,
    /// The shape of its KV.
    pub geometry: KvGeometry,
    /// The number format of its KV.
    pub dtype: KvDtype,
    /// The layers computed or received so far.
    pub layers: SegmentSlots<LayerKv>,
}

impl PromptKv {
    /// Bytes of all layers once they are there.
    pub fn bytes(&self) -> usize {
        self.geometry.layer_bytes(self.tokens.len(), self.dtype) * self.layers.layer_count()
    }
}

/// Prompts by identity and number format. When full, the one unused for longest goes first; one that is in use
/// (somebody holds its `Arc`) never does.
#[derive(Debug)]
pub struct PromptStore {
    bytes_max: usize,
    bytes: usize,
    uses: u64,
    entries: HashMap<Key, Entry>,
}

type Key = (PromptId, KvDtype);

#[derive(Debug)]
struct Entry {
    prompt: Arc<PromptKv>,
    last_use: u64,
}

impl PromptStore {
    /// An empty store for up to `bytes_max` bytes of KV.
    pub fn new(bytes_max: usize) -> Self {
        Self {
            bytes_max,
            bytes: 0,
            uses: 0,
            entries: HashMap::new(),
        }
    }

    /// The prompt in a number format, if it is kept, marked as used now.
    pub fn get(&mut self, id: &PromptId, dtype: KvDtype) -> Option<Arc<PromptKv>> {
        self.uses += 1;
        let entry = self.entries.get_mut(&(*id, dtype))?;
        entry.last_use = self.uses;
        Some(Arc::clone(&entry.prompt))
    }

    /// Keeps a prompt and evicts others as needed. A prompt larger than the whole store, or one
    /// that does not fit beside those in use, is not kept.
    pub fn insert(&mut self, prompt: Arc<PromptKv>) {
        let (key, bytes) = ((prompt.id, prompt.dtype), prompt.bytes());
        self.remove(&key);
        self.make_room(bytes);
        if self.bytes + bytes <= self.bytes_max {
            self.uses += 1;
            self.bytes += bytes;
            let last_use = self.uses;
            self.entries.insert(key, Entry { prompt, last_use });
        }
    }

    /// Evicts until `bytes` more fit, so that what is about to be computed and what is kept take
    /// no more than the store may. Where that cannot be done, nothing is evicted in vain.
    pub fn make_room(&mut self, bytes: usize) {
        let in_use = self.entries.values().filter(|entry| entry.is_in_use());
        let in_use_bytes: usize = in_use.map(|entry| entry.prompt.bytes()).sum();
        if in_use_bytes + bytes > self.bytes_max {
            return;
        }
        while self.bytes + bytes > self.bytes_max && self.evict_one() {}
    }

    /// Bytes kept.
    pub const fn bytes(&self) -> usize {
        self.bytes
    }

    /// Prompts kept, one in two formats counted twice.
    pub fn prompt_count(&self) -> usize {
        self.entries.len()
    }

    fn evict_one(&mut self) -> bool {
        let unused = self.entries.iter().filter(|(_, entry)| !entry.is_in_use());
        let oldest = unused
            .min_by_key(|(_, entry)| entry.last_use)
            .map(|(key, _)| *key);
        if let Some(key) = oldest {
            self.remove(&key);
        }
        oldest.is_some()
    }

    fn remove(&mut self, key: &Key) {
        if let Some(entry) = self.entries.remove(key) {
            self.bytes -= entry.prompt.bytes();
        }
    }
}

impl Entry {
    /// Whether somebody besides the store holds the prompt.
    fn is_in_use(&self) -> bool {
        Arc::strong_count(&self.prompt) > 1
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ModelDigest;

    fn prompt(token: u32) -> Arc<PromptKv> {
        let tokens: Arc<[TokenId]> = vec![TokenId(token); 10].into();
        let geometry = KvGeometry::new(2, 1, 8).unwrap();
        Arc::new(PromptKv {
            id: PromptId::of(&ModelDigest::new([0; 32]), &tokens),
            tokens,
            geometry,
            dtype: KvDtype::F32,
            layers: SegmentSlots::empty(2),
        })
    }

    #[test]
    fn the_least_recently_used_goes_first_and_those_in_use_stay() {
        let bytes = prompt(0).bytes();
        assert_eq!(bytes, 2 * 2 * 8 * 10 * 4);
        let mut store = PromptStore::new(2 * bytes);
        let (a, b, c) = (prompt(1).id, prompt(2).id, prompt(3).id);
        store.insert(prompt(1));
        let held = prompt(2);
        store.insert(Arc::clone(&held));
        store.get(&b, KvDtype::F32);
        store.get(&a, KvDtype::F32);
        store.insert(prompt(3));
        assert!(
            store.get(&a, KvDtype::F32).is_none(),
            "a was unused, b is held though used earlier"
        );
        assert!(store.get(&b, KvDtype::F32).is_some() && store.get(&c, KvDtype::F32).is_some());
        drop(held);
        assert_eq!((store.bytes(), store.prompt_count()), (2 * bytes, 2));
    }

    #[test]
    fn a_prompt_is_kept_in_each_format_for_itself() {
        let exact = prompt(1);
        let small = Arc::new(PromptKv {
            id: exact.id,
            tokens: Arc::clone(&exact.tokens),
            geometry: exact.geometry,
            dtype: KvDtype::Int8,
            layers: SegmentSlots::empty(2),
        });
        let (id, bytes) = (exact.id, [exact.bytes(), small.bytes()]);
        let mut store = PromptStore::new(bytes[0] + bytes[1]);
        store.insert(exact);
        store.insert(small);
        assert_eq!(store.bytes(), bytes[0] + bytes[1]);
        for dtype in [KvDtype::F32, KvDtype::Int8] {
            assert_eq!(store.get(&id, dtype).unwrap().dtype, dtype);
        }
        assert!(store.get(&id, KvDtype::Int4).is_none());
    }

    #[test]
    fn what_does_not_fit_is_not_kept_and_evicts_nothing() {
        let bytes = prompt(1).bytes();
        let mut store = PromptStore::new(bytes - 1);
        store.insert(prompt(1));
        assert_eq!((store.bytes(), store.prompt_count()), (0, 0));

        let mut store = PromptStore::new(2 * bytes);
        let held = prompt(1);
        store.insert(Arc::clone(&held));
        store.insert(prompt(2));
        store.make_room(2 * bytes);
        assert_eq!(store.prompt_count(), 2, "the held one leaves too little");
        store.make_room(bytes);
        assert_eq!((store.bytes(), store.prompt_count()), (bytes, 1));
    }
}
