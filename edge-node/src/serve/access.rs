//! Who may use the server, and how much at a time.

use std::collections::hash_map::RandomState;
use std::fs::File;
use std::hash::BuildHasher;
use std::io::{self, Read};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::http::{HeaderMap, header};
use edgeprompt_engine::SessionId;
use edgeprompt_kv::PromptId;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::serve::api_error::ApiError;

/// Largest key file, in bytes, and most keys in it: every request is compared with all of them.
const FILE_BYTES_MAX: u64 = 1 << 20;
const KEYS_MAX: usize = 4096;

/// Longest request id that is taken over from a client, in bytes.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// The API keys were not read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum KeyFileError {
    /// The file cannot be read.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// It is longer than keys are.
    #[error("it has more than {FILE_BYTES_MAX} bytes")]
    TooLarge,
    /// It has no key, or too many.
    #[error("it has {0} keys: 1 to {KEYS_MAX}, one on each line, are possible")]
    Count(usize),
}

/// Those who may use the server.
pub(crate) struct Callers {
    /// By the hash of the key; none at all if nobody needs one.
    known: Vec<(blake3::Hash, Caller)>,
    anybody: Caller,
}

/// One of them, with room for so many answers at a time.
#[derive(Clone, Debug)]
pub(crate) struct Caller {
    /// The hash of the key; of nothing for those who need none.
    key: blake3::Hash,
    places: Arc<Semaphore>,
    place_count: usize,
    rank: Rank,
}

/// What a caller may do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Rank {
    /// Ask, and see what it asked.
    User,
    /// Also see and move everybody's sessions, which are names and numbers.
    Operator,
}

impl Caller {
    fn new(key: blake3::Hash, (place_count, rank): (usize, Rank)) -> Self {
        Self {
            key,
            places: Arc::new(Semaphore::new(place_count)),
            place_count,
            rank,
        }
    }

    /// Whether it may see and move everybody's sessions.
    pub(crate) fn is_operator(&self) -> bool {
        self.rank == Rank::Operator
    }

    /// Whether this is the same one: who has the same key, or who needs none.
    pub(crate) fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.places, &other.places)
    }

    /// One of the caller's sessions, on one cloud prompt or none: nobody else's is the same, for
    /// what is already computed shows in how fast an answer begins.
    pub(crate) fn session(&self, name: blake3::Hash, prompt: Option<PromptId>) -> SessionId {
        let mut hasher = blake3::Hasher::new();
        hasher.update(self.key.as_bytes());
        hasher.update(name.as_bytes());
        if let Some(prompt) = prompt {
            hasher.update(prompt.as_bytes());
        }
        SessionId(*hasher.finalize().as_bytes())
    }

    /// A place for one answer; it is free again when what this returns is dropped.
    ///
    /// # Errors
    /// [`ApiError`] if all are taken.
    pub(crate) fn place(&self) -> Result<Arc<OwnedSemaphorePermit>, ApiError> {
        let place = Arc::clone(&self.places).try_acquire_owned();
        place.map(Arc::new).map_err(|_| {
            let count = self.place_count;
            ApiError::too_many(format!("{count} requests of this key are being answered"))
        })
    }

    /// A place that was kept, if it is one of this caller's, or another one.
    ///
    /// # Errors
    /// As [`Caller::place`].
    pub(crate) fn place_or(
        &self,
        kept: Option<Arc<OwnedSemaphorePermit>>,
    ) -> Result<Arc<OwnedSemaphorePermit>, ApiError> {
        match kept {
            Some(kept) if Arc::ptr_eq(kept.semaphore(), &self.places) => Ok(kept),
            _ => self.place(),
        }
    }
}

impl Callers {
    /// Everybody may use the server, `place_count` answers at a time, and is its operator.
    pub(crate) fn anybody(place_count: usize) -> Self {
        Self {
            known: Vec::new(),
            anybody: Caller::new(blake3::hash(&[]), (place_count, Rank::Operator)),
        }
    }

    /// So may who has a key of another file, as an operator.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub(crate) fn and_operators(mut self, file: &Path) -> Result<Self, KeyFileError> {
        let operators = Self::of_text(&read(file)?, (self.anybody.place_count, Rank::Operator))?;
        // Of a key in both files the operator's counts.
        self.known.splice(0..0, operators.known);
        Ok(self)
    }

    /// Whoever has a key of a file may use the server, each `place_count` answers at a time. A key
    /// is a line; lines that are empty or begin with `#` are none.
    ///
    /// # Errors
    /// [`KeyFileError`].
    pub(crate) fn of_file(file: &Path, place_count: usize) -> Result<Self, KeyFileError> {
        Self::of_text(&read(file)?, (place_count, Rank::User))
    }

    fn of_text(text: &str, (place_count, rank): (usize, Rank)) -> Result<Self, KeyFileError> {
        let lines = text.lines().map(str::trim);
        let keys = lines.filter(|line| !line.is_empty() && !line.starts_with('#'));
        let hash = |key: &str| {
            let key = blake3::hash(key.as_bytes());
            (key, Caller::new(key, (place_count, rank)))
        };
        let known: Vec<_> = keys.map(hash).collect();
        if !(1..=KEYS_MAX).contains(&known.len()) {
            return Err(KeyFileError::Count(known.len()));
        }
        Ok(Self {
            known,
            anybody: Caller::new(blake3::hash(&[]), (place_count, rank)),
        })
    }

    /// Who sends these headers.
    ///
    /// # Errors
    /// [`ApiError`] if a key is needed and they have none.
    pub(crate) fn identify(&self, headers: &HeaderMap) -> Result<Caller, ApiError> {
        if self.known.is_empty() {
            return Ok(self.anybody.clone());
        }
        let value = headers.get(header::AUTHORIZATION);
        let value = value.and_then(|value| value.to_str().ok());
        let key = value.and_then(|value| value.strip_prefix("Bearer "));
        let given = blake3::hash(key.ok_or_else(ApiError::unauthorised)?.trim().as_bytes());
        // Hashes are compared in constant time, and each with all: how long it takes says nothing.
        let known = self.known.iter();
        let found = known.fold(None, |found, (hash, caller)| match *hash == given {
            true => found.or(Some(caller)),
            false => found,
        });
        found.cloned().ok_or_else(ApiError::unauthorised)
    }
}

fn read(file: &Path) -> Result<String, KeyFileError> {
    let mut text = String::new();
    let mut reader = File::open(file)?.take(FILE_BYTES_MAX + 1);
    reader.read_to_string(&mut text)?;
    match text.len() as u64 > FILE_BYTES_MAX {
        true => Err(KeyFileError::TooLarge),
        false => Ok(text),
    }
}

/// Numbers requests that bring no id of their own. Ids are unique, not secret.
#[derive(Debug, Default)]
pub(crate) struct RequestIds {
    random: RandomState,
    count: AtomicU64,
}

impl RequestIds {
    /// What the client calls the request, if that is fit to be written to a log, or else a new id.
    pub(crate) fn of(&self, headers: &HeaderMap) -> String {
        let given = headers.get("x-request-id").and_then(|id| id.to_str().ok());
        let is_fit = |id: &&str| {
            let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-' | b':');
            (1..=REQUEST_ID_BYTES_MAX).contains(&id.len()) && id.bytes().all(fits)
        };
        let given = given.filter(is_fit).map(str::to_owned);
        given.unwrap_or_else(|| format!("{:016x}", self.number()))
    }

    /// Any number.
    pub(crate) fn number(&self) -> u64 {
        self.random
            .hash_one(self.count.fetch_add(1, Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    fn bearing(value: &str) -> HeaderMap {
        let value = HeaderValue::from_str(value).unwrap();
        HeaderMap::from_iter([(header::AUTHORIZATION, value)])
    }

    fn of_keys(text: &str, place_count: usize) -> Result<Callers, KeyFileError> {
        Callers::of_text(text, (place_count, Rank::User))
    }

    #[test]
    fn an_operator_has_a_key_of_its_own_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), "root\nalpha\n").unwrap();
        let callers = of_keys("alpha\nbeta", 1).unwrap();
        let callers = callers.and_operators(file.path()).unwrap();
        let is_operator = |key: &str| {
            let caller = callers.identify(&bearing(&format!("Bearer {key}")));
            caller.unwrap().is_operator()
        };
        assert!(is_operator("root") && is_operator("alpha"));
        assert!(!is_operator("beta"));
        let anybody = Callers::anybody(1).identify(&HeaderMap::new());
        assert!(anybody.unwrap().is_operator());
    }

    #[test]
    fn a_key_opens_and_nothing_else_does() {
        let callers = of_keys("# staff\nalpha\n\n  beta \n", 1).unwrap();
        for good in ["Bearer alpha", "Bearer beta"] {
            assert!(callers.identify(&bearing(good)).is_ok(), "{good}");
        }
        for bad in [
            "Bearer gamma",
            "Bearer ",
            "alpha",
            "Basic alpha",
            "Bearer # staff",
        ] {
            assert!(callers.identify(&bearing(bad)).is_err(), "{bad}");
        }
        assert!(callers.identify(&HeaderMap::new()).is_err());
        assert!(Callers::anybody(1).identify(&HeaderMap::new()).is_ok());
        assert!(matches!(
            of_keys("# none\n", 1),
            Err(KeyFileError::Count(0))
        ));
    }

    #[test]
    fn each_key_has_places_of_its_own() {
        let callers = of_keys("alpha\nbeta", 2).unwrap();
        let alpha = || callers.identify(&bearing("Bearer alpha")).unwrap().place();
        let (first, _second) = (alpha().unwrap(), alpha().unwrap());
        assert!(alpha().is_err());
        assert!(
            callers
                .identify(&bearing("Bearer beta"))
                .unwrap()
                .place()
                .is_ok()
        );
        drop(first);
        assert!(alpha().is_ok());
    }

    #[test]
    fn a_caller_is_known_by_the_key() {
        let callers = of_keys("alpha\nbeta", 1).unwrap();
        let who = |key: &str| {
            let key = format!("Bearer {key}");
            callers.identify(&bearing(&key)).unwrap()
        };
        assert!(who("alpha").is(&who("alpha")));
        assert!(!who("alpha").is(&who("beta")));
    }

    #[test]
    fn an_id_of_the_client_is_taken_over_if_it_is_fit_for_a_log() {
        let ids = RequestIds::default();
        let given = |id: &'static str| {
            ids.of(&HeaderMap::from_iter([(
                "x-request-id".parse().unwrap(),
                HeaderValue::from_static(id),
            )]))
        };
        assert_eq!(given("abc-1:2"), "abc-1:2");
        assert_ne!(given("a b"), "a b");
        assert_ne!(given("\"x\""), "\"x\"");
        assert_ne!(ids.of(&HeaderMap::new()), ids.of(&HeaderMap::new()));
    }
}
