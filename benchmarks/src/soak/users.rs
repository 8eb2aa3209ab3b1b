//! The users of a soak: each asks, reads the answer as it comes, asks again. What they hear is compared,
//! token by token, with what was answered when nobody else asked.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Instant;

use anyhow::{Context, Result, bail};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;

use super::questions::{Choice, Question};
use crate::http::Server;

/// Of so many requests one is left before it is answered.
const LEAVING_EVERY: u32 = 8;
/// After at most so many tokens; at 0 before the answer begins.
const LEFT_AFTER_MAX: usize = 12;

/// Failures that are told in words; the others are counted.
const FAILURES_TOLD_MAX: usize = 16;

/// What was heard of an answer.
#[derive(Clone, Debug, Default)]
struct Heard {
    tokens: Vec<u64>,
    /// Until the first token.
    ttft_s: Option<f64>,
    /// Whether the answer came to its end.
    is_whole: bool,
}

/// When an answer began and how long its first token took.
#[derive(Clone, Copy, Debug)]
pub(super) struct AnswerTime {
    /// Since the users began.
    pub(super) asked_s: f64,
    /// From asking to the first token.
    pub(super) ttft_s: f64,
}

/// Something that must not happen.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Mishap {
    /// Since the users began.
    pub(super) at_s: f64,
    /// What. No prompt or answer is in it.
    pub(super) what: String,
}

/// What came of all requests so far.
#[derive(Clone, Debug, Default)]
pub(super) struct Totals {
    /// Whole answers to greedy requests.
    pub(super) greedy_count: u64,
    /// Whole answers to seeded requests.
    pub(super) seeded_count: u64,
    /// Requests that their users left.
    pub(super) left_count: u64,
    /// Tokens that were heard.
    pub(super) token_count: u64,
    /// Requests without a whole answer whose users had not left.
    pub(super) failed_count: u64,
    /// Answers with other tokens than alone.
    pub(super) different_count: u64,
    /// The first of both.
    pub(super) mishaps: Vec<Mishap>,
    /// Of every whole answer.
    pub(super) times: Vec<AnswerTime>,
}

/// Totals under way. Clones share them.
#[derive(Clone)]
pub(super) struct Ledger {
    began_at: Instant,
    totals: Arc<Mutex<Totals>>,
}

/// A question and the tokens of its answer when nobody else asked.
pub(super) struct Known {
    pub(super) question: Question,
    tokens: Vec<u64>,
}

/// Users at work.
pub(super) struct Users {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

/// Asks alone.
pub(super) fn ask_alone(server: &Server, question: Question) -> Result<Known> {
    let heard = ask(server, &question, usize::MAX)?;
    if heard.tokens.is_empty() {
        bail!("an answer without a token cannot be compared");
    }
    Ok(Known {
        question,
        tokens: heard.tokens,
    })
}

impl Users {
    /// Lets `count` users ask until they are stopped, each in an order of its own that follows from the
    /// seed.
    pub(super) fn start(
        server: &Server,
        known: &Arc<Vec<Known>>,
        ledger: &Ledger,
        (count, seed): (usize, u64),
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..count).map(|user| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(user as u64 + 1);
            let (server, known) = (server.clone(), Arc::clone(known));
            let (ledger, stop) = (ledger.clone(), Arc::clone(&stop));
            std::thread::spawn(move || {
                while !stop.load(Ordering::Relaxed) {
                    let known = &known[rng.random_range(0..known.len())];
                    let leaves = rng.random_range(0..LEAVING_EVERY) == 0;
                    let until = match leaves {
                        true => rng.random_range(0..=LEFT_AFTER_MAX),
                        false => usize::MAX,
                    };
                    let asked_at = Instant::now();
                    let heard = ask(&server, &known.question, until);
                    ledger.note(known, asked_at, heard);
                }
            })
        });
        Self {
            threads: threads.collect(),
            stop,
        }
    }

    /// Lets everybody hear the end of what they asked, and sends them home.
    pub(super) fn stop(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            if thread.join().is_err() {
                bail!("a user has panicked");
            }
        }
        Ok(())
    }
}

impl Ledger {
    /// Nothing yet.
    pub(super) fn begin() -> Self {
        Self {
            began_at: Instant::now(),
            totals: Arc::default(),
        }
    }

    /// Since the users began.
    pub(super) fn now_s(&self) -> f64 {
        self.began_at.elapsed().as_secs_f64()
    }

    /// Until now.
    pub(super) fn totals(&self) -> MutexGuard<'_, Totals> {
        self.totals.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Something besides an answer failed.
    pub(super) fn failed(&self, what: String) {
        let at_s = self.now_s();
        self.totals().fail(Mishap { at_s, what });
    }

    fn note(&self, known: &Known, asked_at: Instant, heard: Result<Heard>) {
        let asked_s = (asked_at - self.began_at).as_secs_f64();
        let mut totals = self.totals();
        match heard {
            Ok(heard) => totals.heard(known, asked_s, &heard),
            Err(error) => totals.fail(Mishap {
                at_s: asked_s,
                what: format!("{}: {error:#}", known.words()),
            }),
        }
    }
}

impl Totals {
    fn heard(&mut self, known: &Known, asked_s: f64, heard: &Heard) {
        self.token_count += heard.tokens.len() as u64;
        if !is_same(known, heard) {
            self.different_count += 1;
            let place = heard.tokens.iter().zip(&known.tokens);
            let place = place.take_while(|(heard, alone)| heard == alone).count();
            let what = format!("{}: other tokens from token {place} on", known.words());
            self.tell(Mishap {
                at_s: asked_s,
                what,
            });
        }
        if !heard.is_whole {
            self.left_count += 1;
            return;
        }
        match known.question.choice {
            Choice::Greedy => self.greedy_count += 1,
            Choice::Seeded => self.seeded_count += 1,
        }
        if let Some(ttft_s) = heard.ttft_s {
            self.times.push(AnswerTime { asked_s, ttft_s });
        }
    }

    fn fail(&mut self, mishap: Mishap) {
        self.failed_count += 1;
        self.tell(mishap);
    }

    fn tell(&mut self, mishap: Mishap) {
        if self.mishaps.len() < FAILURES_TOLD_MAX {
            self.mishaps.push(mishap);
        }
    }

    /// Whole answers.
    pub(super) const fn answer_count(&self) -> u64 {
        self.greedy_count + self.seeded_count
    }
}

impl Known {
    fn words(&self) -> String {
        let body = &self.question.body;
        let choice = match self.question.choice {
            Choice::Greedy => "greedy",
            Choice::Seeded => "seeded",
        };
        let on = body.get("cloud_prompt").map(ToString::to_string);
        let on = on.unwrap_or_else(|| "the default".to_owned());
        format!("{}, {choice}, cloud prompt {on}", self.question.path)
    }
}

/// Whether what was heard is what was answered alone, as far as it goes.
fn is_same(known: &Known, heard: &Heard) -> bool {
    match heard.is_whole {
        true => heard.tokens == known.tokens,
        false => known.tokens.starts_with(&heard.tokens),
    }
}

/// Asks, and leaves after `until` tokens.
fn ask(server: &Server, question: &Question, until: usize) -> Result<Heard> {
    let start = Instant::now();
    let mut heard = Heard::default();
    if until == 0 {
        server.ask_and_leave(question.path, &question.body)?;
        return Ok(heard);
    }
    for event in server.stream(question.path, &question.body)? {
        let event = event?;
        let Some(choice) = event["choices"].get(0) else {
            continue;
        };
        if let Some(tokens) = choice["token_ids"].as_array() {
            heard
                .ttft_s
                .get_or_insert_with(|| start.elapsed().as_secs_f64());
            for token in tokens {
                heard
                    .tokens
                    .push(token.as_u64().context("a token is a number")?);
            }
        }
        if heard.tokens.len() >= until {
            return Ok(heard);
        }
    }
    heard.is_whole = true;
    Ok(heard)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn known(tokens: &[u64]) -> Known {
        let question = Question {
            path: "/v1/completions",
            body: json!({ "prompt": "secret" }),
            choice: Choice::Greedy,
        };
        Known {
            question,
            tokens: tokens.to_vec(),
        }
    }

    fn whole(tokens: &[u64]) -> Heard {
        Heard {
            tokens: tokens.to_vec(),
            ttft_s: Some(0.1),
            is_whole: true,
        }
    }

    fn left_after(tokens: &[u64]) -> Heard {
        Heard {
            is_whole: false,
            ..whole(tokens)
        }
    }

    #[test]
    fn an_answer_is_the_same_as_alone_as_far_as_it_was_heard() {
        let alone = known(&[1, 2, 3]);
        let mut totals = Totals::default();
        for heard in [whole(&[1, 2, 3]), left_after(&[1, 2]), left_after(&[])] {
            totals.heard(&alone, 0.0, &heard);
        }
        assert_eq!(totals.different_count, 0);
        assert_eq!((totals.answer_count(), totals.left_count), (1, 2));
        for heard in [whole(&[1, 2]), left_after(&[1, 3]), whole(&[1, 2, 3, 4])] {
            totals.heard(&alone, 0.0, &heard);
        }
        assert_eq!(totals.different_count, 3);
        assert!(totals.mishaps[1].what.ends_with("from token 1 on"));
    }

    #[test]
    fn what_fails_is_counted_and_the_first_ones_are_told_without_the_prompt() {
        let ledger = Ledger::begin();
        for _ in 0..100 {
            let failed = Err(anyhow::anyhow!("HTTP/1.0 503"));
            ledger.note(&known(&[1]), Instant::now(), failed);
        }
        let totals = ledger.totals();
        assert_eq!((totals.failed_count, totals.mishaps.len()), (100, 16));
        let what = &totals.mishaps[0].what;
        assert!(what.contains("503") && !what.contains("secret"), "{what}");
    }
}
