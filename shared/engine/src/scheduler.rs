//! Which sequences compute how many tokens in the next step: continuous batching with chunked
//! prefill. Pure: no tensors, no clock, no thread.
//!
//! Every sequence that generates gets its one token in every step, so generation never starves;
//! what is left of a step's tokens goes to prompts, first come first served. Those for which nobody
//! waits yet have a part of the step while anybody waits for something else. When blocks run out,
//! the sequence that came last gives its own back and computes them again later, so the one that
//! came first always goes on.

use std::collections::BTreeMap;
use std::num::NonZeroUsize;

use edgeprompt_kv::{BlockId, BlockPool, BlockTable, OutOfBlocks, TokenId};

use crate::prefix_cache::{PrefixCache, SessionId};

mod hold;

use hold::Hold;
pub use hold::NotRestored;

/// What a scheduler may use.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerLimits {
    /// Most sequences that compute at a time.
    pub max_num_seqs: NonZeroUsize,
    /// Most tokens of one step, of all sequences together; never less than `max_num_seqs`.
    pub max_num_batched_tokens: NonZeroUsize,
    /// Most sequences that wait for their turn.
    pub max_num_waiting: usize,
    /// Tokens of one block of private KV.
    pub block_len: NonZeroUsize,
    /// Blocks of private KV, of all sequences together.
    pub block_count: usize,
}

impl SchedulerLimits {
    /// Room for one sequence of next to nothing: of an engine that nobody asks anything.
    pub const LEAST: Self = Self {
        max_num_seqs: NonZeroUsize::MIN,
        max_num_batched_tokens: NonZeroUsize::MIN,
        max_num_waiting: 1,
        block_len: NonZeroUsize::MIN,
        block_count: 1,
    };
}

/// A sequence, numbered in the order of arrival.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SequenceId(u64);

/// Why a sequence is not taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdmissionError {
    /// It has more tokens than the pool could hold for it alone.
    #[error(
        "{token_count} private tokens, generated ones included, do not fit the KV pool of {token_count_max}"
    )]
    NeverFits {
        /// Private tokens of the prompt and those to generate.
        token_count: usize,
        /// Tokens of all blocks together.
        token_count_max: usize,
    },
    /// Too many wait already.
    #[error("{0} requests wait already")]
    QueueFull(usize),
}

/// Tokens of one sequence to compute in a step: `start..start + len` of its private tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScheduledRow {
    /// The sequence.
    pub id: SequenceId,
    /// The first token.
    pub start: usize,
    /// How many.
    pub len: usize,
}

/// What to do next.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Step {
    /// Sequences that gave their blocks back; whatever was under way for them is void.
    pub preempted: Vec<SequenceId>,
    /// What to compute.
    pub rows: Vec<ScheduledRow>,
}

/// Sequences that wait and sequences that compute.
///
/// Deliberately not `Debug`: it holds the private tokens of sessions.
pub struct Scheduler {
    limits: SchedulerLimits,
    pool: BlockPool,
    cache: PrefixCache,
    next_id: u64,
    /// In the order of arrival, which is their priority.
    waiting: BTreeMap<SequenceId, Waiting>,
    running: BTreeMap<SequenceId, Running>,
}

struct Waiting {
    /// Private tokens known: the prompt and what was generated.
    token_count: usize,
    session: Option<InSession>,
    hold: Option<Hold>,
}

/// A sequence of a session, whose blocks may be shared with others of it.
struct InSession {
    id: SessionId,
    /// Private tokens known.
    tokens: Vec<TokenId>,
}

struct Running {
    table: BlockTable,
    session: Option<InSession>,
    /// Blocks of the table that are in the cache, from the first on.
    cached: usize,
    /// Private tokens known: the prompt and what was generated.
    token_count: usize,
    /// Of those, the ones whose keys and values are in the blocks.
    computed: usize,
    /// Tokens after those that are being computed.
    in_flight: usize,
    hold: Option<Hold>,
}

impl Scheduler {
    /// An empty schedule.
    pub fn new(limits: SchedulerLimits) -> Self {
        Self {
            pool: BlockPool::new(limits.block_count),
            cache: PrefixCache::new(),
            limits,
            next_id: 0,
            waiting: BTreeMap::new(),
            running: BTreeMap::new(),
        }
    }

    /// What it may use.
    pub const fn limits(&self) -> &SchedulerLimits {
        &self.limits
    }

    /// Lets a sequence wait for its turn: `prompt_len` private tokens at least one, and up to
    /// `max_tokens` generated ones.
    ///
    /// # Errors
    /// [`AdmissionError`].
    pub fn submit(
        &mut self,
        prompt_len: usize,
        max_tokens: usize,
    ) -> Result<SequenceId, AdmissionError> {
        self.take_in(prompt_len, max_tokens, None)
    }

    /// As [`Scheduler::submit`], for a sequence of a session: what other sequences of it have
    /// computed of the same beginning is not computed again, as long as its blocks are there.
    ///
    /// # Errors
    /// [`AdmissionError`].
    pub fn submit_in(
        &mut self,
        session: SessionId,
        prompt: &[TokenId],
        max_tokens: usize,
    ) -> Result<SequenceId, AdmissionError> {
        let session = InSession {
            id: session,
            tokens: prompt.to_vec(),
        };
        self.take_in(prompt.len(), max_tokens, Some(session))
    }

    fn take_in(
        &mut self,
        prompt_len: usize,
        max_tokens: usize,
        session: Option<InSession>,
    ) -> Result<SequenceId, AdmissionError> {
        let token_count_max = self.pool.block_count() * self.limits.block_len.get();
        // The last generated token is never computed.
        let token_count = prompt_len.saturating_add(max_tokens.saturating_sub(1));
        if token_count > token_count_max {
            return Err(AdmissionError::NeverFits {
                token_count,
                token_count_max,
            });
        }
        if self.waiting.len() >= self.limits.max_num_waiting {
            return Err(AdmissionError::QueueFull(self.waiting.len()));
        }
        let id = SequenceId(self.next_id);
        self.next_id += 1;
        let token_count = prompt_len;
        self.waiting.insert(
            id,
            Waiting {
                token_count,
                session,
                hold: None,
            },
        );
        Ok(id)
    }

    /// Plans a step. Its rows are under way until [`Scheduler::computed`]; a sequence whose row is
    /// under way gets no other.
    ///
    /// Sequences for which `arriving` holds wait for layers of a cloud prompt in between. Of those at
    /// most every second place is taken, so that they hold up nobody else.
    pub fn next_step(&mut self, arriving: impl Fn(SequenceId) -> bool) -> Step {
        let mut step = Step::default();
        let mut left = self
            .limits
            .max_num_batched_tokens
            .max(self.limits.max_num_seqs)
            .get();
        let generating = self.ids(|running| running.in_flight == 0 && running.generates());
        for id in generating {
            left -= self.schedule(id, 1, &mut step);
        }
        let has_prompt = |running: &Running| {
            running.in_flight == 0 && running.pending() > 0 && !running.generates()
        };
        let mut behind = self.behind_max(left);
        for id in self.ids(|running| has_prompt(running) && running.is_behind()) {
            let len = self.schedule(id, behind, &mut step);
            (left, behind) = (left - len, behind - len);
        }
        for id in self.ids(|running| has_prompt(running) && !running.is_behind()) {
            left -= self.schedule(id, left, &mut step);
        }
        self.admit((left, behind), arriving, &mut step);
        step
    }

    /// The row of a sequence is computed: its keys and values are in the blocks.
    pub fn computed(&mut self, id: SequenceId) {
        if let Some(running) = self.running.get_mut(&id) {
            running.computed += std::mem::take(&mut running.in_flight);
            running.skip_restored();
            running.cache_blocks(&mut self.cache, &mut self.pool);
        }
    }

    /// A token was generated after all others were computed, and is to be computed next.
    pub fn appended(&mut self, id: SequenceId, token: TokenId) {
        if let Some(running) = self.running.get_mut(&id) {
            running.token_count += 1;
            if let Some(session) = &mut running.session {
                session.tokens.push(token);
            }
        }
    }

    /// Ends a sequence, however far it is; its blocks are free at once.
    pub fn end(&mut self, id: SequenceId) {
        self.waiting.remove(&id);
        if let Some(mut running) = self.running.remove(&id) {
            running.table.clear(&mut self.pool);
        }
    }

    /// Blocks for what a session's prompts begin with, as many as `tokens` fill: its sequences find
    /// them as if one of them had computed them. Their keys and values are the caller's to write.
    ///
    /// # Errors
    /// [`OutOfBlocks`]; nothing is taken then.
    pub fn adopt(
        &mut self,
        session: SessionId,
        tokens: &[TokenId],
    ) -> Result<Vec<BlockId>, OutOfBlocks> {
        let block_len = self.limits.block_len.get();
        let mut table = BlockTable::new(self.limits.block_len);
        table.reserve(&mut self.pool, tokens.len() / block_len * block_len)?;
        let blocks = table.blocks().to_vec();
        let mut parent = None;
        for (block, tokens) in blocks.iter().zip(tokens.chunks_exact(block_len)) {
            if !self
                .cache
                .keep(&mut self.pool, (session, parent), tokens, *block)
            {
                break;
            }
            parent = Some(*block);
        }
        // The cache holds them now, and gives them back when somebody else needs them.
        table.clear(&mut self.pool);
        Ok(blocks)
    }

    /// Sends every sequence back to wait: all keys and values are to be computed again.
    pub fn recompute_all(&mut self) {
        let mut step = Step::default();
        for id in self.ids(|_| true) {
            self.preempt(id, &mut step);
        }
        while self.cache.evict(&mut self.pool) {}
    }

    /// Blocks with keys and values that may be read again.
    pub fn used_blocks(&self) -> Vec<BlockId> {
        self.pool.held().collect()
    }

    /// Where the private tokens of a sequence lie, if it has its turn.
    pub fn table(&self, id: SequenceId) -> Option<&BlockTable> {
        self.running.get(&id).map(|running| &running.table)
    }

    /// Sequences that compute.
    pub fn running_count(&self) -> usize {
        self.running.len()
    }

    /// Sequences that wait for their turn.
    pub fn waiting_count(&self) -> usize {
        self.waiting.len()
    }

    /// Blocks in use, and all of them. What is only kept for a session is not in use.
    pub fn block_usage(&self) -> (usize, usize) {
        let all = self.pool.block_count();
        let idle = self.cache.idle_count(&self.pool);
        (all - self.pool.free_count() - idle, all)
    }

    fn ids(&self, chosen: impl Fn(&Running) -> bool) -> Vec<SequenceId> {
        let chosen = self.running.iter().filter(|(_, running)| chosen(running));
        chosen.map(|(id, _)| *id).collect()
    }

    /// Schedules up to `len_max` tokens of a running sequence and says how many. Those that came
    /// after it make room if they must; if that is not enough, it steps back itself.
    fn schedule(&mut self, id: SequenceId, len_max: usize, step: &mut Step) -> usize {
        loop {
            // It may have made room for an earlier one meanwhile.
            let Some(running) = self.running.get_mut(&id) else {
                return 0;
            };
            let len = running.pending().min(len_max);
            if len == 0 {
                return 0;
            }
            let start = running.computed;
            match running.table.reserve(&mut self.pool, start + len) {
                Ok(()) => {
                    running.in_flight = len;
                    step.rows.push(ScheduledRow { id, start, len });
                    return len;
                }
                Err(OutOfBlocks) => {
                    if self.cache.evict(&mut self.pool) {
                        continue;
                    }
                    let (last, _) = self.running.last_key_value().expect("this one runs");
                    self.preempt(*last, step);
                }
            }
        }
    }

    /// Sends a sequence back to wait, its blocks free.
    fn preempt(&mut self, id: SequenceId, step: &mut Step) {
        let Some(mut running) = self.running.remove(&id) else {
            return;
        };
        running.table.clear(&mut self.pool);
        let waiting = Waiting {
            token_count: running.token_count,
            session: running.session,
            hold: running.hold.and_then(Hold::without_restored),
        };
        self.waiting.insert(id, waiting);
        step.rows.retain(|row| row.id != id);
        step.preempted.push(id);
    }

    /// Gives waiting sequences their turn as long as tokens, places and blocks are left. Nobody is
    /// preempted for one that comes later.
    fn admit(
        &mut self,
        (mut left, mut behind): (usize, usize),
        arriving: impl Fn(SequenceId) -> bool,
        step: &mut Step,
    ) {
        // A block freed by a preemption is for the one it was freed for.
        if !step.preempted.is_empty() {
            return;
        }
        let places = self.limits.max_num_seqs.get();
        let arriving_max = places.div_ceil(2);
        let mut arriving_count = self.running.keys().filter(|id| arriving(**id)).count();
        let waiting: Vec<_> = self.waiting.keys().copied().collect();
        for id in waiting {
            if left == 0 || self.running.len() >= places {
                return;
            }
            let waiting = &self.waiting[&id];
            let (is_still, is_behind) = (waiting.is_still(), waiting.is_behind());
            let len_max = if is_behind { behind.min(left) } else { left };
            if is_still || len_max == 0 {
                continue;
            }
            let is_arriving = arriving(id);
            if is_arriving && arriving_count >= arriving_max {
                continue;
            }
            let Some(row) = self.admit_one(id, len_max) else {
                return;
            };
            arriving_count += usize::from(is_arriving);
            left -= row.len;
            behind = behind.saturating_sub(if is_behind { row.len } else { 0 });
            step.rows.push(row);
        }
    }

    /// Gives one its turn, with a row of at most `len_max` tokens; `None` without blocks for that.
    fn admit_one(&mut self, id: SequenceId, len_max: usize) -> Option<ScheduledRow> {
        let waiting = self.waiting.get(&id)?;
        let (session, block_len) = (&waiting.session, self.limits.block_len);
        let (token_count, target_count) = (waiting.token_count, waiting.target_count());
        // The last token is always computed: what follows it comes of that.
        let shared = session.as_ref().map_or_else(Vec::new, |session| {
            let tokens = &session.tokens[..token_count - 1];
            self.cache.find(session.id, tokens, block_len.get())
        });
        let computed = shared.len() * block_len.get();
        let len = target_count.saturating_sub(computed).min(len_max);
        let mut table = BlockTable::sharing(&mut self.pool, &shared, block_len);
        while table.reserve(&mut self.pool, computed + len).is_err() {
            if !self.cache.evict(&mut self.pool) {
                table.clear(&mut self.pool);
                return None;
            }
        }
        let Waiting { session, hold, .. } = self.waiting.remove(&id)?;
        let running = Running {
            table,
            session,
            cached: shared.len(),
            token_count,
            computed,
            in_flight: len,
            hold,
        };
        self.running.insert(id, running);
        Some(ScheduledRow {
            id,
            start: computed,
            len,
        })
    }
}

impl Running {
    /// Tokens whose keys and values are still to be computed.
    fn pending(&self) -> usize {
        let done = self.computed + self.in_flight;
        self.target_count().saturating_sub(done)
    }

    /// Whether all but the last token are computed, and a new one comes of that.
    fn generates(&self) -> bool {
        self.pending() == 1 && self.hold.is_none()
    }

    /// Lets the session have the blocks that have become full.
    fn cache_blocks(&mut self, cache: &mut PrefixCache, pool: &mut BlockPool) {
        let Some(session) = &self.session else {
            return;
        };
        let block_len = self.table.block_len();
        while self.cached < self.computed / block_len {
            let index = self.cached;
            let blocks = self.table.blocks();
            let parent = index.checked_sub(1).map(|before| blocks[before]);
            let tokens = &session.tokens[index * block_len..(index + 1) * block_len];
            if !cache.keep(pool, (session.id, parent), tokens, blocks[index]) {
                // Another sequence was faster: what follows its block would follow none of ours.
                self.session = None;
                return;
            }
            self.cached += 1;
        }
    }
}

#[cfg(test)]
mod tests;
