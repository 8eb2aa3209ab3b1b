//! Sequences that stand still at a token boundary: on their way to or from another node.
//!
//! A held sequence generates nothing. Its known tokens may be computed up to a bound, and keys and
//! values that were computed elsewhere may be put in; when both meet, nothing between is computed.

use std::ops::Range;

use edgeprompt_kv::{BlockId, BlockTable, OutOfBlocks, TokenId};

use super::{Running, Scheduler, SequenceId, Waiting};

/// Why keys and values from elsewhere are not put in. They are computed here then.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotRestored {
    /// The sequence is not here, or is not held.
    #[error("the sequence is not held")]
    NotHeld,
    /// They are of tokens that are not known here, or not next to those that were put in before.
    #[error("the tokens do not follow those that are here")]
    OutOfOrder,
    /// Heads are on several devices.
    #[error("attention heads are on several devices")]
    Spread,
    /// There is no place for one more sequence.
    #[error("as many sequences compute as may")]
    NoPlace,
    /// The pool has no room.
    #[error(transparent)]
    OutOfBlocks(#[from] OutOfBlocks),
}

/// What a held sequence may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Hold {
    /// So many tokens may be computed.
    compute_max: usize,
    /// Tokens whose keys and values were put in.
    restored: Range<usize>,
    until: Until,
}

/// How long a sequence is held.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Until {
    /// It is released.
    Released,
    /// It was released, and goes on behind what was put in once everything before that is computed.
    Joined,
}

impl Hold {
    /// As it is once its blocks are gone; nothing if it was only for what was put in.
    pub(super) fn without_restored(self) -> Option<Self> {
        let held = Self {
            restored: 0..0,
            // What was to come from elsewhere does not come again.
            compute_max: match self.restored.is_empty() {
                true => self.compute_max,
                false => usize::MAX,
            },
            until: self.until,
        };
        (self.until == Until::Released).then_some(held)
    }

    /// Tokens to compute of so many that are known: never the last one, for what follows it would be
    /// asked for.
    fn target_count(&self, token_count: usize) -> usize {
        let bound = match self.restored.is_empty() {
            true => self.compute_max,
            false => self.compute_max.min(self.restored.start),
        };
        bound.min(token_count.saturating_sub(1))
    }
}

impl Waiting {
    /// Tokens to compute, in all.
    pub(super) fn target_count(&self) -> usize {
        let hold = self.hold.as_ref();
        hold.map_or(self.token_count, |hold| hold.target_count(self.token_count))
    }

    /// Whether there is nothing for it to compute.
    pub(super) fn is_still(&self) -> bool {
        self.target_count() == 0
    }
}

impl Running {
    /// Tokens to compute, in all.
    pub(super) fn target_count(&self) -> usize {
        let hold = self.hold.as_ref();
        hold.map_or(self.token_count, |hold| hold.target_count(self.token_count))
    }

    /// Goes on behind what was put in, once everything before it is computed.
    pub(super) fn skip_restored(&mut self) {
        if let Some(hold) = &self.hold
            && hold.restored.start <= self.computed
        {
            self.computed = self.computed.max(hold.restored.end);
            if hold.until == Until::Joined {
                self.hold = None;
            }
        }
    }
}

impl Scheduler {
    /// Stops a sequence at a token boundary; up to `compute_max` of its known tokens are computed
    /// meanwhile. Also changes the bound of one that is held.
    pub fn hold(&mut self, id: SequenceId, compute_max: usize) {
        let running = self.running.get_mut(&id).map(|running| &mut running.hold);
        let waiting = self.waiting.get_mut(&id).map(|waiting| &mut waiting.hold);
        for hold in running.into_iter().chain(waiting) {
            let restored = hold.take().map_or(0..0, |hold| hold.restored);
            *hold = Some(Hold {
                compute_max,
                restored,
                until: Until::Released,
            });
        }
    }

    /// Lets a held sequence go on.
    pub fn release(&mut self, id: SequenceId) {
        if let Some(running) = self.running.get_mut(&id) {
            running.skip_restored();
            let computed = running.computed;
            running.hold = running
                .hold
                .take()
                .filter(|hold| hold.restored.start > computed);
            if let Some(hold) = &mut running.hold {
                hold.compute_max = usize::MAX;
                hold.until = Until::Joined;
            }
        }
        if let Some(waiting) = self.waiting.get_mut(&id) {
            waiting.hold = None;
        }
    }

    /// More tokens of a held sequence are known.
    pub fn extended(&mut self, id: SequenceId, tokens: &[TokenId]) {
        let running = self.running.get_mut(&id);
        let running = running.map(|it| (&mut it.token_count, &mut it.session));
        let waiting = self.waiting.get_mut(&id);
        let waiting = waiting.map(|it| (&mut it.token_count, &mut it.session));
        for (token_count, session) in running.into_iter().chain(waiting) {
            *token_count += tokens.len();
            if let Some(session) = session {
                session.tokens.extend_from_slice(tokens);
            }
        }
    }

    /// Makes room for keys and values of `tokens` that were computed elsewhere, and counts them as
    /// computed from when everything before them is. The caller writes them where the table says.
    ///
    /// # Errors
    /// [`NotRestored`]; nothing is changed then.
    pub fn restore(
        &mut self,
        id: SequenceId,
        tokens: Range<usize>,
    ) -> Result<&BlockTable, NotRestored> {
        self.give_place(id)?;
        let Self {
            running,
            pool,
            cache,
            ..
        } = self;
        let running = running.get_mut(&id).ok_or(NotRestored::NotHeld)?;
        let hold = running.hold.as_mut();
        let hold = hold.filter(|hold| hold.until == Until::Released);
        let hold = hold.ok_or(NotRestored::NotHeld)?;
        let restored = match hold.restored.is_empty() {
            true => tokens.clone(),
            false if tokens.end == hold.restored.start => tokens.start..hold.restored.end,
            false if tokens.start == hold.restored.end => hold.restored.start..tokens.end,
            false => return Err(NotRestored::OutOfOrder),
        };
        // The last token is always computed here: what follows it comes of that.
        if tokens.is_empty() || restored.end >= running.token_count {
            return Err(NotRestored::OutOfOrder);
        }
        while let Err(full) = running.table.reserve(pool, restored.end) {
            if !cache.evict(pool) {
                return Err(full.into());
            }
        }
        hold.restored = restored;
        if running.in_flight == 0 {
            running.skip_restored();
        }
        Ok(&running.table)
    }

    /// Whether anybody else holds a block.
    pub fn is_shared(&self, block: BlockId) -> bool {
        self.pool.holder_count(block) > 1
    }

    /// Tokens of a sequence whose keys and values are in its blocks.
    pub fn computed_len(&self, id: SequenceId) -> usize {
        self.running.get(&id).map_or(0, |running| running.computed)
    }

    /// A held sequence has its turn as soon as there is something to put into its blocks.
    fn give_place(&mut self, id: SequenceId) -> Result<(), NotRestored> {
        let Some(waiting) = self.waiting.get(&id) else {
            return Ok(());
        };
        if waiting.hold.is_none() {
            return Err(NotRestored::NotHeld);
        }
        if self.running.len() >= self.limits.max_num_seqs.get() {
            return Err(NotRestored::NoPlace);
        }
        let waiting = self.waiting.remove(&id).ok_or(NotRestored::NotHeld)?;
        self.running.insert(
            id,
            Running {
                table: BlockTable::new(self.limits.block_len),
                session: waiting.session,
                cached: 0,
                token_count: waiting.token_count,
                computed: 0,
                in_flight: 0,
                hold: waiting.hold,
            },
        );
        Ok(())
    }
}
