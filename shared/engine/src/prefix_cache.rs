//! Private blocks that later requests of the same session begin with. Pure.
//!
//! Only within a session: whether a block is there shows in how fast an answer begins, and nobody
//! may learn that way what somebody else has asked.

use std::collections::HashMap;

use edgeprompt_kv::{BlockId, BlockPool, TokenId};

/// Names a session: requests that may share private keys and values, all on one cloud prompt.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(pub [u8; 32]);

/// Full blocks by what is in them. The cache holds each of them once, besides the sequences.
///
/// Deliberately not `Debug`: it holds private tokens.
pub(crate) struct PrefixCache {
    by_content: HashMap<Content, BlockId>,
    entries: HashMap<BlockId, Entry>,
    /// Counts uses.
    now: u64,
}

/// What identifies a block's keys and values: its tokens, and everything before them.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Content {
    session: SessionId,
    /// The block before it, which stays as long as this one does.
    parent: Option<BlockId>,
    tokens: Box<[TokenId]>,
}

struct Entry {
    content: Content,
    child_count: usize,
    used: u64,
}

impl PrefixCache {
    pub(crate) fn new() -> Self {
        Self {
            by_content: HashMap::new(),
            entries: HashMap::new(),
            now: 0,
        }
    }

    /// The blocks that hold the first of `tokens`, as many as are there and full. That is a use.
    pub(crate) fn find(
        &mut self,
        session: SessionId,
        tokens: &[TokenId],
        block_len: usize,
    ) -> Vec<BlockId> {
        self.now += 1;
        let mut found: Vec<BlockId> = Vec::new();
        for tokens in tokens.chunks_exact(block_len) {
            let content = Content {
                session,
                parent: found.last().copied(),
                tokens: tokens.into(),
            };
            let Some(block) = self.by_content.get(&content) else {
                break;
            };
            if let Some(entry) = self.entries.get_mut(block) {
                entry.used = self.now;
            }
            found.push(*block);
        }
        found
    }

    /// Keeps a full block that follows `parent`, which is here too; `false` if another block with
    /// the same content is here already.
    ///
    /// `parent` must be held by whoever keeps this block, so that its number means the same block.
    pub(crate) fn keep(
        &mut self,
        pool: &mut BlockPool,
        (session, parent): (SessionId, Option<BlockId>),
        tokens: &[TokenId],
        block: BlockId,
    ) -> bool {
        let content = Content {
            session,
            parent,
            tokens: tokens.into(),
        };
        if self.by_content.contains_key(&content) {
            return false;
        }
        pool.share(block);
        if let Some(parent) = parent.and_then(|parent| self.entries.get_mut(&parent)) {
            parent.child_count += 1;
        }
        self.now += 1;
        self.by_content.insert(content.clone(), block);
        let entry = Entry {
            content,
            child_count: 0,
            used: self.now,
        };
        self.entries.insert(block, entry);
        true
    }

    /// Gives back the block that no sequence holds, that no other follows, and that was unused for
    /// longest; `false` if there is none.
    pub(crate) fn evict(&mut self, pool: &mut BlockPool) -> bool {
        let idle = self
            .entries
            .iter()
            .filter(|(block, entry)| entry.child_count == 0 && pool.holder_count(**block) == 1);
        let Some(block) = idle
            .map(|(block, entry)| (entry.used, *block))
            .min()
            .map(|it| it.1)
        else {
            return false;
        };
        if let Some(entry) = self.entries.remove(&block) {
            let parent = entry.content.parent;
            if let Some(parent) = parent.and_then(|parent| self.entries.get_mut(&parent)) {
                parent.child_count -= 1;
            }
            self.by_content.remove(&entry.content);
        }
        pool.release(block);
        true
    }

    /// Blocks that no sequence holds: free as soon as anybody needs them.
    pub(crate) fn idle_count(&self, pool: &BlockPool) -> usize {
        let blocks = self.entries.keys();
        blocks
            .filter(|block| pool.holder_count(**block) == 1)
            .count()
    }
}
