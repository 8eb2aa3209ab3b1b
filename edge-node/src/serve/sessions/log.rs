//! The answer of a session as it grows, wherever it is generated, and those who read it here.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use edgeprompt_engine::Finish;
use edgeprompt_handover::session::Epoch;
use edgeprompt_kv::TokenId;
use edgeprompt_protocol::{AnswerToken, LastToken};
use tokio::sync::{Notify, OwnedSemaphorePermit, watch};
use zeroize::Zeroize;

/// A token of an answer. Deliberately not `Debug`: it follows from the private prompt.
#[derive(Clone)]
pub(crate) struct Entry {
    pub(crate) token: AnswerToken,
    pub(crate) finish: Option<Finish>,
    /// Tokens of the private prompt that its session had computed before.
    pub(crate) shared_len: usize,
}

/// Where a session has moved to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct MovedTo {
    /// The right that the target has.
    pub(crate) epoch: Epoch,
    /// The target, as nodes reach it.
    pub(crate) addr: String,
    /// And as users do, if it said so.
    pub(crate) url: Option<String>,
    /// Tokens before.
    pub(crate) len: usize,
}

/// How a session stands at this node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Standing {
    /// On its way here.
    Coming(Epoch),
    /// Generated here.
    Here(Epoch),
    /// Elsewhere.
    Moved(MovedTo),
    /// Nowhere any more.
    Broken,
}

/// What a reader is told.
pub(crate) enum News {
    /// A token, and its place in the answer.
    Entry(usize, Entry),
    /// The session has moved; only to readers that follow it.
    Moved(MovedTo),
    /// There will be no more.
    Broken,
}

/// Whether a reader goes where the session goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum ReaderKind {
    /// It stays, and knows nothing of moves.
    Staying,
    /// It follows.
    Following,
}

/// The answer so far. Deliberately not `Debug`.
pub(crate) struct Log {
    inner: Mutex<Inner>,
    changed: watch::Sender<()>,
    staying: AtomicUsize,
    gone: Notify,
}

struct Inner {
    entries: Vec<Entry>,
    standing: Standing,
    /// Its reader has heard enough.
    is_done: bool,
    /// Of its last reader, who may be gone, for as long as there may be more to generate here: closing a
    /// connection makes no room for another answer.
    place: Option<Arc<OwnedSemaphorePermit>>,
}

impl Inner {
    /// Whether the last token has come, or no more is wanted.
    fn has_ended(&self) -> bool {
        let last = self.entries.last();
        self.is_done || last.is_some_and(|last| last.finish.is_some())
    }

    /// Nothing more is generated here, as far as is known.
    fn free_place(&mut self) {
        self.place = None;
    }
}

impl Log {
    pub(crate) fn new(standing: Standing) -> Arc<Self> {
        Arc::new(Self {
            inner: Mutex::new(Inner {
                entries: Vec::new(),
                standing,
                is_done: false,
                place: None,
            }),
            changed: watch::Sender::new(()),
            staying: AtomicUsize::new(0),
            gone: Notify::new(),
        })
    }

    pub(crate) fn push(&self, entry: Entry) {
        let mut inner = self.lock();
        if entry.finish.is_some() {
            inner.free_place();
        }
        inner.entries.push(entry);
        drop(inner);
        self.changed.send_replace(());
    }

    /// Tokens that a reader or a source brought.
    pub(crate) fn extend(&self, tokens: impl IntoIterator<Item = AnswerToken>) {
        self.lock().entries.extend(tokens.into_iter().map(entry));
        self.changed.send_replace(());
    }

    /// Goes on from another answer than the one that is here.
    pub(crate) fn replace(&self, tokens: impl IntoIterator<Item = AnswerToken>) {
        self.lock().entries = tokens.into_iter().map(entry).collect();
        self.changed.send_replace(());
    }

    /// Whether these tokens are its first.
    pub(crate) fn begins_with(&self, tokens: &[TokenId]) -> bool {
        let inner = self.lock();
        let own = inner.entries.iter().map(|entry| entry.token.token);
        inner.entries.len() >= tokens.len() && own.zip(tokens).all(|(own, token)| own == *token)
    }

    /// Whether its tokens are the first of these.
    pub(crate) fn begins(&self, tokens: &[TokenId]) -> bool {
        let inner = self.lock();
        let own = inner.entries.iter().map(|entry| entry.token.token);
        inner.entries.len() <= tokens.len() && own.zip(tokens).all(|(own, token)| own == *token)
    }

    /// Nobody keeps the session any more: who still waits for it here need not.
    pub(crate) fn close(&self) {
        let mut inner = self.lock();
        if !matches!(inner.standing, Standing::Moved(_)) || self.staying_count() > 0 {
            inner.standing = Standing::Broken;
        }
        inner.free_place();
        drop(inner);
        self.changed.send_replace(());
    }

    pub(crate) fn stands(&self, standing: Standing) {
        let mut inner = self.lock();
        if matches!(standing, Standing::Moved(_) | Standing::Broken) {
            inner.free_place();
        }
        inner.standing = standing;
        drop(inner);
        self.changed.send_replace(());
    }

    pub(crate) fn standing(&self) -> Standing {
        self.lock().standing.clone()
    }

    /// Tokens so far.
    pub(crate) fn len(&self) -> usize {
        self.lock().entries.len()
    }

    /// Whether the last token has come, or no more is wanted.
    pub(crate) fn has_ended(&self) -> bool {
        self.lock().has_ended()
    }

    /// Whether its reader has heard enough.
    pub(crate) fn is_done(&self) -> bool {
        self.lock().is_done
    }

    /// A reader wants more of it.
    pub(crate) fn reopen(&self) {
        self.lock().is_done = false;
    }

    /// The tokens from `from` on, for the engine.
    pub(crate) fn tokens(&self, from: usize) -> Vec<TokenId> {
        let inner = self.lock();
        let entries = inner.entries.iter().skip(from);
        entries.map(|entry| entry.token.token).collect()
    }

    /// The tokens of a range, for another node.
    pub(crate) fn answer(&self, range: std::ops::Range<usize>) -> Vec<AnswerToken> {
        let inner = self.lock();
        let entries = inner.entries.iter().skip(range.start).take(range.len());
        entries.map(|entry| entry.token.clone()).collect()
    }

    /// Overwrites and forgets what is private.
    pub(crate) fn wipe(&self) {
        let mut inner = self.lock();
        for entry in &mut inner.entries {
            entry.token.token.0.zeroize();
            for (token, _) in &mut entry.token.top {
                token.0.zeroize();
            }
        }
        inner.entries.clear();
    }

    /// Reads from token `next` on.
    pub(crate) fn reader(self: &Arc<Self>, next: usize, kind: ReaderKind) -> Reader {
        if kind == ReaderKind::Staying {
            self.staying.fetch_add(1, Ordering::Relaxed);
        }
        Reader {
            changed: self.changed.subscribe(),
            log: Arc::clone(self),
            next,
            kind,
        }
    }

    /// The place that the session has, if it has one.
    pub(crate) fn place(&self) -> Option<Arc<OwnedSemaphorePermit>> {
        self.lock().place.clone()
    }

    pub(crate) fn reader_count(&self) -> usize {
        self.changed.receiver_count()
    }

    /// Readers that stay.
    pub(crate) fn staying_count(&self) -> usize {
        self.staying.load(Ordering::Relaxed)
    }

    /// Returns when a reader has gone.
    pub(crate) async fn reader_gone(&self) {
        self.gone.notified().await;
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Reads an answer as it grows. Deliberately not `Debug`.
pub(crate) struct Reader {
    log: Arc<Log>,
    changed: watch::Receiver<()>,
    next: usize,
    kind: ReaderKind,
}

impl Reader {
    /// What comes next. Cancel-safe.
    pub(crate) async fn next(&mut self) -> News {
        loop {
            self.changed.borrow_and_update();
            if let Some(news) = self.now() {
                return news;
            }
            if self.changed.changed().await.is_err() {
                return News::Broken;
            }
        }
    }

    /// Nobody wants more of the answer: its end was in what came.
    pub(crate) fn finish(self) {
        let mut inner = self.log.lock();
        inner.is_done = true;
        inner.free_place();
    }

    /// The session takes this place for as long as it is generated here, whoever reads.
    pub(crate) fn hold(&self, place: &Arc<OwnedSemaphorePermit>) {
        let mut inner = self.log.lock();
        if !inner.has_ended() && matches!(inner.standing, Standing::Here(_) | Standing::Coming(_)) {
            inner.place = Some(Arc::clone(place));
        }
    }

    fn now(&mut self) -> Option<News> {
        let inner = self.log.lock();
        let moved = match (&inner.standing, self.kind) {
            (Standing::Moved(moved), ReaderKind::Following) => Some(moved),
            _ => None,
        };
        // What it has not read and is wiped here, it reads there.
        if let Some(moved) = moved
            && self.next >= moved.len.min(inner.entries.len())
        {
            return Some(News::Moved(moved.clone()));
        }
        if let Some(entry) = inner.entries.get(self.next) {
            let index = self.next;
            self.next += 1;
            return Some(News::Entry(index, entry.clone()));
        }
        (inner.standing == Standing::Broken).then_some(News::Broken)
    }
}

impl Drop for Reader {
    fn drop(&mut self) {
        if self.kind == ReaderKind::Staying {
            self.log.staying.fetch_sub(1, Ordering::Relaxed);
        }
        self.log.gone.notify_one();
    }
}

/// A token that another node generated.
pub(crate) const fn entry(token: AnswerToken) -> Entry {
    Entry {
        token,
        finish: None,
        shared_len: 0,
    }
}

/// A token of which only the number is known.
pub(crate) const fn bare(token: TokenId) -> AnswerToken {
    AnswerToken {
        token,
        logprob: None,
        top: Vec::new(),
    }
}

pub(crate) const fn last_token(finish: Finish) -> LastToken {
    match finish {
        Finish::EndToken => LastToken::EndToken,
        Finish::Length => LastToken::Length,
    }
}

pub(crate) const fn finish(last: LastToken) -> Finish {
    match last {
        LastToken::EndToken => Finish::EndToken,
        LastToken::Length => Finish::Length,
    }
}
