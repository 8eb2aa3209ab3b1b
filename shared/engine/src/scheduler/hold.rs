//! Sequences that stand still at a token boundary: on their way to or from another node.
//!
//! A held sequence generates nothing. Its known tokens may be computed up to a bound, and keys and
//! values that were computed elsewhere may be put in; when both meet, nothing between is computed.

use std::ops::Range;

use edgeprompt_kv::{BlockId, BlockTable, OutOfBlocks, TokenId};

use super::{Running, Scheduler, SchedulerLimits, SequenceId, Waiting};

/// Of a step's tokens, those of sequences for which nobody waits yet are at most one in so many while
/// somebody waits for another one: a step takes as long as its tokens.
const BEHIND_PART: usize = 4;

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
    pace: Pace,
}

/// What a held sequence may have of a step.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Pace {
    /// Nobody waits for it yet: it is generated elsewhere.
    Behind,
    /// Its turn.
    InTurn,
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
            pace: self.pace,
        };
        (self.until == Until::Released).then_some(held)
    }

    fn is_behind(&self) -> bool {
        (self.until, self.pace) == (Until::Released, Pace::Behind)
    }

    /// Tokens to compute of so many that are known: never the last one, for what follows it would be
    /// asked for. What was put in is a bound until so much is computed that it counts.
    fn target_count(&self, token_count: usize, computed: usize) -> usize {
        let bound = match computed >= self.restored.end {
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
        hold.map_or(self.token_count, |hold| {
            hold.target_count(self.token_count, 0)
        })
    }

    /// Whether nobody waits for it yet.
    pub(super) fn is_behind(&self) -> bool {
        self.hold.as_ref().is_some_and(Hold::is_behind)
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
        hold.map_or(self.token_count, |hold| {
            hold.target_count(self.token_count, self.computed)
        })
    }

    /// Whether nobody waits for it yet.
    pub(super) fn is_behind(&self) -> bool {
        self.hold.as_ref().is_some_and(Hold::is_behind)
    }

    /// Whether nearly all of it is here: it may be asked for at any moment.
    pub(super) fn is_ready(&self) -> bool {
        self.computed > 0 && self.token_count - self.computed <= 2 * self.table.block_len()
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

impl SchedulerLimits {
    /// Most tokens of a step, together, of sequences for which nobody waits yet while somebody waits for
    /// another one.
    pub fn behind_len_max(&self) -> usize {
        (self.max_num_batched_tokens.get() / BEHIND_PART).max(1)
    }
}

impl Scheduler {
    /// Most tokens, of those that are left of a step, for sequences that nobody waits for yet.
    pub(super) fn behind_max(&self, left: usize) -> usize {
        let is_awaited = |running: &Running| !running.is_behind() || running.is_ready();
        let somebody_waits = self.running.values().any(is_awaited)
            || self.waiting.values().any(|waiting| !waiting.is_behind());
        match somebody_waits {
            true => left.min(self.limits.behind_len_max()),
            false => left,
        }
    }

    /// Stops a sequence at a token boundary; up to `compute_max` of its known tokens are computed
    /// meanwhile, as nobody waits for it. Also changes the bound of one that is held.
    pub fn hold(&mut self, id: SequenceId, compute_max: usize) {
        let running = self.running.get_mut(&id).map(|running| &mut running.hold);
        let waiting = self.waiting.get_mut(&id).map(|waiting| &mut waiting.hold);
        for hold in running.into_iter().chain(waiting) {
            let (restored, pace) = hold
                .take()
                .map_or((0..0, Pace::Behind), |hold| (hold.restored, hold.pace));
            *hold = Some(Hold {
                compute_max,
                restored,
                until: Until::Released,
                pace,
            });
        }
    }

    /// Somebody waits for a held sequence from now on: it computes in its turn.
    pub fn hasten(&mut self, id: SequenceId) {
        let running = self.running.get_mut(&id).map(|running| &mut running.hold);
        let waiting = self.waiting.get_mut(&id).map(|waiting| &mut waiting.hold);
        for hold in running.into_iter().chain(waiting).flatten() {
            hold.pace = Pace::InTurn;
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
