//! Users with plain streaming clients, and when they hear each token.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use serde::Serialize;
use serde_json::{Value, json};

use super::nodes::Nodes;
use super::plan::{Plan, Point};
use crate::http::Server;

/// Until an answer has begun.
const BEGIN_PATIENCE: Duration = Duration::from_secs(180);
/// Of the client, for one token.
const TOKEN_PATIENCE: Duration = Duration::from_secs(180);
const LOOK_PERIOD: Duration = Duration::from_millis(1);

/// A token and when it came.
#[derive(Clone, Copy, Debug)]
pub(super) struct HeardToken {
    pub(super) token: u64,
    pub(super) at: Instant,
}

/// Everything that one user has heard.
pub(super) type Heard = Vec<HeardToken>;

#[derive(Default)]
struct Shared {
    session: Mutex<Option<String>>,
    heard: Mutex<Heard>,
    /// So many tokens are enough.
    until: AtomicUsize,
}

struct User {
    shared: Arc<Shared>,
    /// Taken only when it has ended.
    thread: Option<JoinHandle<Result<()>>>,
}

impl User {
    fn has_ended(&self) -> bool {
        self.thread.as_ref().is_none_or(JoinHandle::is_finished)
    }
}

impl Drop for User {
    /// One whose move has failed leaves with its next token.
    fn drop(&mut self) {
        self.shared.until.store(0, Ordering::Relaxed);
    }
}

/// Users who read.
pub(super) struct Users(Vec<User>);

impl Users {
    /// All users of a point ask at once.
    pub(super) fn begin(server: &Server, plan: &Plan, point: &Point) -> Result<Self> {
        let users = (0..point.users).map(|user| {
            let body = question(plan, (user, point.context), plan.answer_len(point.context));
            let shared = Arc::new(Shared {
                until: AtomicUsize::new(usize::MAX),
                ..Shared::default()
            });
            let mut server = server.clone();
            server.patience = TOKEN_PATIENCE;
            let writing = Arc::clone(&shared);
            let thread = std::thread::Builder::new()
                .name(format!("user {user}"))
                .spawn(move || read(&server, &body, &writing))?;
            let thread = Some(thread);
            Ok(User { shared, thread })
        });
        users.collect::<Result<_>>().map(Self)
    }

    /// Waits until each has heard so many tokens.
    pub(super) fn wait_until_answered(&self, count: usize) -> Result<()> {
        let give_up = Instant::now() + BEGIN_PATIENCE;
        let all = || {
            self.0
                .iter()
                .all(|user| lock(&user.shared.heard).len() >= count)
        };
        while !all() {
            ensure!(Instant::now() < give_up, "an answer does not begin");
            ensure!(!self.have_ended(), "an answer ends before it moves");
            std::thread::sleep(LOOK_PERIOD);
        }
        Ok(())
    }

    fn have_ended(&self) -> bool {
        self.0.iter().any(User::has_ended)
    }

    /// The names of their sessions.
    pub(super) fn sessions(&self) -> Vec<String> {
        let named = self.0.iter().map(|user| lock(&user.shared.session).clone());
        named.flatten().collect()
    }

    /// Each hears so many more tokens, and leaves.
    pub(super) fn finish(self, more: usize, patience: Duration) -> Result<Vec<Heard>> {
        for user in &self.0 {
            let until = lock(&user.shared.heard).len() + more;
            user.shared.until.store(until, Ordering::Relaxed);
        }
        let give_up = Instant::now() + patience;
        while !self.0.iter().all(User::has_ended) {
            ensure!(Instant::now() < give_up, "an answer does not go on");
            std::thread::sleep(LOOK_PERIOD);
        }
        let heard = self.0.into_iter().map(|mut user| {
            let read = user.thread.take().map(JoinHandle::join);
            let read = read.context("a user ends once")?;
            read.map_err(|_| anyhow!("a user has panicked"))??;
            let heard = lock(&user.shared.heard).clone();
            Ok(heard)
        });
        heard.collect()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn question(plan: &Plan, (user, context): (usize, usize), answer_len: usize) -> Value {
    json!({
        "prompt": plan.prompt(user, context),
        "max_tokens": answer_len,
        "temperature": 0,
        "ignore_eos": true,
        "stream": true,
        "return_token_ids": true,
        "cloud_prompt": false,
        // The source computes a prompt once; the target has none of it.
        "prompt_cache_key": format!("{user}-{context}"),
    })
}

fn read(server: &Server, body: &Value, shared: &Shared) -> Result<()> {
    let events = server.stream("/v1/completions", body)?;
    let session = events.header("x-edgeprompt-session").map(str::to_owned);
    *lock(&shared.session) = Some(session.context("an answer that may move names its session")?);
    for event in events {
        let event = event?;
        let at = Instant::now();
        let tokens = event["choices"][0]["token_ids"].as_array();
        let tokens = tokens.into_iter().flatten().filter_map(Value::as_u64);
        let mut heard = lock(&shared.heard);
        heard.extend(tokens.map(|token| HeardToken { token, at }));
        if heard.len() >= shared.until.load(Ordering::Relaxed) {
            return Ok(());
        }
    }
    Err(anyhow!("an answer ends before its user has heard enough"))
}

/// The longest time without a token from the one before the move on, in ms.
pub(super) fn gap_ms(heard: &[HeardToken], asked_at: Instant) -> Option<f64> {
    let before = heard.iter().rposition(|token| token.at <= asked_at)?;
    let gaps = heard[before..].windows(2);
    let gaps = gaps.map(|pair| pair[1].at.duration_since(pair[0].at));
    gaps.max().map(|gap| 1e3 * gap.as_secs_f64())
}

/// Everything that was heard of each prompt, to be compared with the answer without a move.
#[derive(Default)]
pub(super) struct Answers(BTreeMap<(usize, usize), Vec<Vec<u64>>>);

/// What came of comparing.
#[derive(Clone, Copy, Debug, Default, Serialize)]
pub(super) struct Compared {
    /// Answers that moved.
    pub(super) moved_count: usize,
    /// Those with other tokens.
    pub(super) different_count: usize,
    /// Tokens that were compared.
    pub(super) token_count: usize,
}

impl Answers {
    /// What the users of a point heard.
    pub(super) fn keep(&mut self, context: usize, heard: Vec<Heard>) {
        for (user, heard) in heard.into_iter().enumerate() {
            let tokens = heard.into_iter().map(|heard| heard.token).collect();
            self.0.entry((user, context)).or_default().push(tokens);
        }
    }

    /// Asks each prompt once more, and lets it stay.
    pub(super) fn compare(&self, nodes: &Nodes, plan: &Plan) -> Result<Compared> {
        let mut compared = Compared::default();
        for ((user, context), moved) in &self.0 {
            nodes.wait_until_idle()?;
            let longest = moved.iter().map(Vec::len).max().unwrap_or(1);
            let mut body = question(plan, (*user, *context), longest);
            body["stream"] = false.into();
            let mut server = nodes.source();
            server.patience = TOKEN_PATIENCE;
            let answer = server.post_json("/v1/completions", &body)?;
            let unmoved = answer["choices"][0]["token_ids"].as_array();
            let unmoved = unmoved.context("an answer has token ids")?;
            let unmoved: Vec<_> = unmoved.iter().filter_map(Value::as_u64).collect();
            for heard in moved {
                compared.moved_count += 1;
                compared.token_count += heard.len();
                compared.different_count += usize::from(!unmoved.starts_with(heard));
            }
        }
        Ok(compared)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_silence_after_asking_counts() {
        let began = Instant::now();
        let heard = |times: &[u64]| -> Heard {
            let at = |ms: &u64| began + Duration::from_millis(*ms);
            let heard = times.iter().map(|ms| HeardToken {
                token: 0,
                at: at(ms),
            });
            heard.collect()
        };
        let asked_at = began + Duration::from_millis(25);
        let gap = gap_ms(&heard(&[0, 20, 30, 80, 90]), asked_at);
        assert_eq!(gap, Some(50.0));
        // From the last token before it.
        assert_eq!(gap_ms(&heard(&[0, 20, 80]), asked_at), Some(60.0));
        assert_eq!(
            gap_ms(&heard(&[0, 900, 920]), began + Duration::from_millis(910)),
            Some(20.0)
        );
        assert_eq!(gap_ms(&heard(&[0]), asked_at), None);
        assert_eq!(gap_ms(&heard(&[30, 40]), asked_at), None);
    }
}
