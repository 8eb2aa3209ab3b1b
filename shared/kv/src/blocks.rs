//! A bounded pool of KV blocks and the tables that say which blocks hold a sequence's tokens, as
//! PagedAttention introduced them (arXiv 2309.06180). Identities and counts only: the keys and
//! values themselves are the engine's.

use std::num::NonZeroUsize;

/// One block of a pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId(u32);

impl BlockId {
    /// As an index into the storage of all blocks.
    pub const fn as_usize(self) -> usize {
        self.0 as usize
    }
}

/// The pool is empty.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("every KV block is in use")]
pub struct OutOfBlocks;

/// A fixed number of blocks, each with the count of its holders.
#[derive(Debug)]
pub struct BlockPool {
    /// Taken from the end, so that a block used last, whose memory is warm, is used again first.
    free: Vec<BlockId>,
    holders: Vec<u32>,
}

impl BlockPool {
    /// A pool of `block_count` free blocks; a pool has at most `u32::MAX` of them.
    pub fn new(block_count: usize) -> Self {
        let count = u32::try_from(block_count).unwrap_or(u32::MAX);
        Self {
            free: (0..count).rev().map(BlockId).collect(),
            holders: vec![0; count as usize],
        }
    }

    /// How many blocks there are.
    pub const fn block_count(&self) -> usize {
        self.holders.len()
    }

    /// How many nobody holds.
    pub const fn free_count(&self) -> usize {
        self.free.len()
    }

    /// Takes a free block, which has one holder then.
    ///
    /// # Errors
    /// [`OutOfBlocks`].
    pub fn take(&mut self) -> Result<BlockId, OutOfBlocks> {
        let block = self.free.pop().ok_or(OutOfBlocks)?;
        self.holders[block.as_usize()] = 1;
        Ok(block)
    }

    /// Adds a holder to a block that has some.
    ///
    /// # Panics
    /// If the block is free.
    pub fn share(&mut self, block: BlockId) {
        let holders = &mut self.holders[block.as_usize()];
        assert!(*holders > 0, "a free block cannot be shared");
        *holders += 1;
    }

    /// Takes one holder from a block; without any it is free.
    ///
    /// # Panics
    /// If the block is free already.
    pub fn release(&mut self, block: BlockId) {
        let holders = &mut self.holders[block.as_usize()];
        assert!(*holders > 0, "a free block cannot be released");
        *holders -= 1;
        if *holders == 0 {
            self.free.push(block);
        }
    }

    /// The blocks that somebody holds.
    pub fn held(&self) -> impl Iterator<Item = BlockId> + '_ {
        (0u32..)
            .map(BlockId)
            .take(self.block_count())
            .filter(|block| self.holder_count(*block) > 0)
    }

    /// How many hold a block.
    pub fn holder_count(&self, block: BlockId) -> u32 {
        self.holders[block.as_usize()]
    }
}

/// Where the tokens of one sequence lie: token `i` is in slot `i % block_len` of block
/// `i / block_len` of the table.
///
/// A table does not free its blocks when it is dropped, for it does not know the pool: whoever ends
/// a sequence calls [`BlockTable::clear`].
#[derive(Debug)]
#[must_use = "blocks of a lost table are lost too"]
pub struct BlockTable {
    blocks: Vec<BlockId>,
    block_len: NonZeroUsize,
}

impl BlockTable {
    /// An empty table of blocks that hold `block_len` tokens each.
    pub const fn new(block_len: NonZeroUsize) -> Self {
        Self {
            blocks: Vec::new(),
            block_len,
        }
    }

    /// A table that begins with blocks which others hold as well.
    pub fn sharing(pool: &mut BlockPool, blocks: &[BlockId], block_len: NonZeroUsize) -> Self {
        for block in blocks {
            pool.share(*block);
        }
        Self {
            blocks: blocks.to_vec(),
            block_len,
        }
    }

    /// The blocks in the order of tokens.
    pub fn blocks(&self) -> &[BlockId] {
        &self.blocks
    }

    /// Tokens of one block.
    pub const fn block_len(&self) -> usize {
        self.block_len.get()
    }

    /// Tokens there is room for.
    pub const fn capacity(&self) -> usize {
        self.blocks.len() * self.block_len.get()
    }

    /// Takes blocks until `token_count` tokens have room.
    ///
    /// # Errors
    /// [`OutOfBlocks`]; blocks taken until then stay in the table.
    pub fn reserve(&mut self, pool: &mut BlockPool, token_count: usize) -> Result<(), OutOfBlocks> {
        while self.capacity() < token_count {
            self.blocks.push(pool.take()?);
        }
        Ok(())
    }

    /// Gives every block back.
    pub fn clear(&mut self, pool: &mut BlockPool) {
        // In reverse, so that the pool hands the first block out first again.
        for block in self.blocks.drain(..).rev() {
            pool.release(block);
        }
    }

    /// The block and the slot of a token.
    ///
    /// # Panics
    /// If the table has no room for that token.
    pub fn place(&self, token: usize) -> (BlockId, usize) {
        let block_len = self.block_len.get();
        (self.blocks[token / block_len], token % block_len)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const BLOCK_LEN: NonZeroUsize = NonZeroUsize::new(4).unwrap();

    #[test]
    fn tokens_have_places_in_the_order_of_blocks() {
        let mut pool = BlockPool::new(3);
        let mut table = BlockTable::new(BLOCK_LEN);
        table.reserve(&mut pool, 5).unwrap();
        assert_eq!((table.capacity(), pool.free_count()), (8, 1));
        assert_eq!(table.place(3), (BlockId(0), 3));
        assert_eq!(table.place(4), (BlockId(1), 0));
        assert_eq!(table.reserve(&mut pool, 13), Err(OutOfBlocks));
        table.clear(&mut pool);
        assert_eq!(pool.free_count(), 3);
    }

    /// What is done to one of four tables.
    #[derive(Clone, Debug)]
    enum Action {
        Reserve(usize, usize),
        Clear(usize),
        /// The second table becomes one that shares the first so many blocks of the first table.
        Share(usize, usize, usize),
    }

    fn actions() -> impl Strategy<Value = Vec<Action>> {
        let table = 0..4usize;
        let action = prop_oneof![
            (table.clone(), 0..40usize).prop_map(|(table, len)| Action::Reserve(table, len)),
            table.clone().prop_map(Action::Clear),
            (table.clone(), table, 0..6usize).prop_map(|(from, to, n)| Action::Share(from, to, n)),
        ];
        proptest::collection::vec(action, 0..60)
    }

    proptest! {
        #[test]
        fn every_block_is_free_or_held_as_often_as_tables_name_it(actions in actions()) {
            let mut pool = BlockPool::new(12);
            let mut tables: [BlockTable; 4] = std::array::from_fn(|_| BlockTable::new(BLOCK_LEN));
            for action in actions {
                match action {
                    Action::Reserve(table, len) => {
                        let done = tables[table].reserve(&mut pool, len);
                        prop_assert!(done.is_err() || tables[table].capacity() >= len);
                        prop_assert!(done.is_ok() || pool.free_count() == 0);
                    }
                    Action::Clear(table) => tables[table].clear(&mut pool),
                    Action::Share(from, to, count) => {
                        if from == to {
                            continue;
                        }
                        let shared: Vec<_> = tables[from].blocks().iter().take(count).copied().collect();
                        tables[to].clear(&mut pool);
                        tables[to] = BlockTable::sharing(&mut pool, &shared, BLOCK_LEN);
                    }
                }
                let named = |block| {
                    let in_tables = tables.iter().flat_map(|table| table.blocks());
                    in_tables.filter(|other| **other == block).count()
                };
                let mut held = 0;
                for block in (0..12).map(BlockId) {
                    prop_assert_eq!(pool.holder_count(block) as usize, named(block));
                    held += usize::from(named(block) > 0);
                }
                prop_assert_eq!(pool.free_count(), 12 - held);
            }
        }
    }
}
