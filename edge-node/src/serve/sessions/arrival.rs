//! A session on its way here: what has come of it, and whether more is waited for.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use edgeprompt_engine::KvChunk;
use tokio::sync::OwnedSemaphorePermit;

use super::PATIENCE;
use crate::serve::generator::Mover;

/// What a target knows of a move beside its seat.
pub(super) struct Arrival {
    pub(super) kv: KvComing,
    /// Since when the right is here.
    pub(super) activated_at: Option<Instant>,
    /// Until their tokens are known.
    pub(super) waiting: VecDeque<Placed>,
    pub(super) progress: Progress,
}

/// Keys and values of a session that comes.
#[derive(Clone)]
pub(super) enum KvComing {
    /// They are to come.
    Announced,
    /// They come, perhaps after those of other sessions.
    Begun(Heard),
    /// All have come that will.
    Ended,
}

/// When anything of any session's keys and values came last over a link. Clones share it.
#[derive(Clone)]
pub(crate) struct Heard(Arc<Mutex<Instant>>);

impl Heard {
    pub(super) fn now() -> Self {
        Self(Arc::new(Mutex::new(Instant::now())))
    }

    pub(super) fn again(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
    }

    fn at(&self) -> Instant {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A chunk, and its place in memory.
pub(super) type Placed = (KvChunk, OwnedSemaphorePermit);

/// How far the engine is with a session that comes, as far as it has told.
#[derive(Default)]
pub(super) struct Progress {
    computed: Arc<AtomicUsize>,
    is_asked: Arc<AtomicBool>,
}

impl Progress {
    /// Tokens that were computed when it was last asked.
    pub(super) fn known(&self) -> usize {
        self.computed.load(Ordering::Relaxed)
    }

    /// Asks, unless that is under way.
    pub(super) fn ask(&self, mover: Mover) {
        if self.is_asked.swap(true, Ordering::Relaxed) {
            return;
        }
        let (computed, is_asked) = (Arc::clone(&self.computed), Arc::clone(&self.is_asked));
        tokio::spawn(async move {
            if let Some(progress) = mover.progress().await {
                computed.store(progress.computed_count, Ordering::Relaxed);
            }
            is_asked.store(false, Ordering::Relaxed);
        });
    }
}

impl Arrival {
    /// Keeps a chunk until its tokens are known.
    pub(super) fn keep(&mut self, chunk: KvChunk, place: OwnedSemaphorePermit) {
        self.waiting.push_back((chunk, place));
    }

    /// Gives a chunk to the engine, which takes it between two steps.
    pub(super) fn put_in((chunk, place): Placed, mover: &Mover) {
        let taken = mover.put_in(chunk);
        tokio::spawn(async move {
            // An engine that has stopped takes nothing more.
            let _ = taken.await;
            drop(place);
        });
    }

    /// The next chunk of tokens that are known, in the order in which they came.
    pub(super) fn next_of(&mut self, known: usize) -> Option<Placed> {
        let (first, _) = self.waiting.front()?;
        // What follows the last token is asked for: it is computed here in any case.
        match first.tokens.end < known {
            true => self.waiting.pop_front(),
            false => None,
        }
    }

    /// Whether all has come that will, and has been put in.
    pub(super) fn has_all(&self) -> bool {
        matches!(self.kv, KvComing::Ended) && self.waiting.is_empty()
    }

    /// Whether there is nothing to wait for, or that takes too long.
    pub(super) fn may_go(&self) -> bool {
        let is_late = self.due().is_some_and(|due| due <= Instant::now());
        self.has_all() || is_late
    }

    /// Until when it is waited for that more come, once the right is here.
    pub(super) fn due(&self) -> Option<Instant> {
        let activated_at = self.activated_at?;
        let heard_at = match &self.kv {
            KvComing::Begun(heard) => heard.at().max(activated_at),
            KvComing::Announced | KvComing::Ended => activated_at,
        };
        Some(heard_at + PATIENCE.answer)
    }
}
