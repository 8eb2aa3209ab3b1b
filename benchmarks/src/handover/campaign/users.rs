//! The users of a campaign: each asks, reads to the end wherever that is, and asks again.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use edgeprompt_ue_client::{Access, EdgeUrl, Event, Session};
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use serde_json::json;
use tokio::runtime::{Builder, Runtime};
use tokio::time::timeout;

use super::questions::{Drawing, Known, Questions};
use super::verdict::{Client, Heard, Outcome, were_dead_at_once};
use super::world::World;

/// Longest wait for anything: a client that follows gives a silent edge up sooner.
const PATIENCE: Duration = Duration::from_secs(90);
/// Before an edge is asked again that is dead.
const PAUSE: Duration = Duration::from_millis(50);
/// Violations that are told in words; the others are counted.
const MISHAPS_TOLD_MAX: usize = 32;

/// Answers of one kind.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Answers {
    pub(super) client: Client,
    pub(super) drawing: Drawing,
    pub(super) outcome: Outcome,
    pub(super) count: u64,
}

/// Something that must not be. No prompt or answer is in it.
#[derive(Clone, Debug, Serialize)]
pub(super) struct Mishap {
    at_s: f64,
    what: String,
}

/// What came of all answers.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Totals {
    pub(super) answers: Vec<Answers>,
    /// Moves that followers saw: the session's, and to whoever goes on after a death.
    pub(super) changes: u64,
    /// Longest silence between two tokens, in ms, by client.
    pub(super) worst_gap_ms: BTreeMap<&'static str, f64>,
    pub(super) mishaps: Vec<Mishap>,
}

/// The totals under way. Clones share them.
#[derive(Clone, Default)]
pub(super) struct Ledger(Arc<Mutex<Totals>>);

impl Ledger {
    fn lock(&self) -> MutexGuard<'_, Totals> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn take(&self) -> Totals {
        let mut totals = self.lock().clone();
        totals
            .answers
            .sort_by_key(|it| (it.client as u8, it.drawing as u8, it.outcome));
        totals
    }

    pub(super) fn in_words(&self) -> String {
        let totals = self.lock();
        let of = |wanted: Outcome| -> u64 {
            let found = totals.answers.iter().filter(|it| it.outcome == wanted);
            found.map(|it| it.count).sum()
        };
        format!(
            "answers: {} the same, {} lost with both edges, {} different, {} failed",
            of(Outcome::Same),
            of(Outcome::Lost),
            of(Outcome::Different),
            of(Outcome::Failed)
        )
    }

    fn note(
        &self,
        (client, known): (Client, &Known),
        told: &Told,
        (now, may_fail): (Duration, bool),
    ) {
        let heard = Heard {
            text: &told.text,
            is_whole: told.error.is_none(),
            may_fail,
        };
        let outcome = Outcome::of(&heard, &known.text);
        let mut totals = self.lock();
        let (drawing, worst) = (known.drawing, told.worst_gap.as_secs_f64() * 1e3);
        let found = totals
            .answers
            .iter_mut()
            .find(|it| (it.client, it.drawing, it.outcome) == (client, drawing, outcome));
        match found {
            Some(found) => found.count += 1,
            None => totals.answers.push(Answers {
                client,
                drawing,
                outcome,
                count: 1,
            }),
        }
        totals.changes += told.changes;
        let name = match client {
            Client::Follows => "follows",
            Client::Plain => "plain",
        };
        let before = totals.worst_gap_ms.entry(name).or_default();
        *before = before.max(worst);
        if outcome.is_violation() && totals.mishaps.len() < MISHAPS_TOLD_MAX {
            let same = told.text.bytes().zip(known.text.bytes());
            let same = same.take_while(|(a, b)| a == b).count();
            totals.mishaps.push(Mishap {
                at_s: now.as_secs_f64(),
                what: format!(
                    "{name}, {drawing:?}: {outcome:?}, {} of {} bytes came, the first {same} are the same; session {}; {}",
                    told.text.len(),
                    known.text.len(),
                    told.session,
                    told.error.as_deref().unwrap_or("no error")
                ),
            });
        }
    }
}

/// Everything that one user was told.
struct Told {
    session: String,
    text: String,
    /// Why it is not whole.
    error: Option<String>,
    changes: u64,
    worst_gap: Duration,
    last_at: Instant,
}

impl Told {
    fn new(session: &str) -> Self {
        Self {
            session: session.to_owned(),
            text: String::new(),
            error: Some("the answer broke off".to_owned()),
            changes: 0,
            worst_gap: Duration::ZERO,
            last_at: Instant::now(),
        }
    }

    fn piece(&mut self, text: &str) {
        if !self.text.is_empty() {
            self.worst_gap = self.worst_gap.max(self.last_at.elapsed());
        }
        self.last_at = Instant::now();
        self.text += text;
    }
}

/// All of them.
pub(super) struct Users {
    stop: Arc<AtomicBool>,
    threads: Vec<JoinHandle<()>>,
}

struct User {
    world: Arc<World>,
    questions: Arc<Questions>,
    ledger: Ledger,
    stop: Arc<AtomicBool>,
    rng: ChaCha8Rng,
}

impl Users {
    pub(super) fn start(
        (followers, plain): (u32, u32),
        (world, questions, ledger): (&Arc<World>, &Arc<Questions>, &Ledger),
        seed: u64,
    ) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..followers + plain).map(|index| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(u64::from(index) + 1);
            let user = User {
                world: Arc::clone(world),
                questions: Arc::clone(questions),
                ledger: ledger.clone(),
                stop: Arc::clone(&stop),
                rng,
            };
            std::thread::spawn(move || match index < followers {
                true => user.follow(index),
                false => user.stay(),
            })
        });
        let threads = threads.collect();
        Self { stop, threads }
    }

    /// Lets each read its answer to the end.
    pub(super) fn stop(self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            // One that has panicked has said so.
            let _ = thread.join();
        }
    }
}

impl User {
    /// Of two that follow, one knows every edge, and one only those that its session was at.
    fn follow(mut self, index: u32) {
        let runtime = match Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => runtime,
            Err(error) => return eprintln!("a user has no runtime: {error}"),
        };
        while !self.stop.load(Ordering::Relaxed) {
            let count = self.world.edge_count();
            let first = self.rng.random_range(0..count);
            let known = if index.is_multiple_of(2) { count } else { 1 };
            let urls: Vec<EdgeUrl> = (0..known)
                .filter_map(|next| {
                    let addr = self.world.addr((first + next) % count);
                    format!("http://{addr}").parse().ok()
                })
                .collect();
            self.ask_and_follow(&runtime, &urls);
        }
    }

    fn ask_and_follow(&mut self, runtime: &Runtime, urls: &[EdgeUrl]) {
        let which = self.rng.random_range(0..self.questions.0.len());
        let known = &self.questions.0[which];
        let began = self.world.now();
        let begin = Session::begin(known.question(), urls, Access::default());
        let Ok(mut session) = runtime.block_on(begin) else {
            // Nobody lives there.
            return std::thread::sleep(PAUSE);
        };
        let mut told = Told::new(&session.id().to_string());
        loop {
            let next = runtime.block_on(async { timeout(PATIENCE, session.next()).await });
            match next {
                Ok(Some(Event::Text(piece))) => told.piece(&piece.text),
                Ok(Some(Event::Moved(_))) => told.changes += 1,
                Ok(Some(Event::Ended(_))) => told.error = None,
                Ok(Some(Event::Failed(lost))) => told.error = Some(lost.to_string()),
                Ok(None) => break,
                Err(_) => {
                    told.error = Some(format!("nothing for {} s", PATIENCE.as_secs()));
                    break;
                }
            }
        }
        let edges = session.known().filter_map(|url| {
            let edge = self
                .world
                .edge_at(url.to_string().trim_start_matches("http://"));
            edge.map(|edge| self.world.dead(edge))
        });
        let (edges, now): (Vec<_>, _) = (edges.collect(), self.world.now());
        let is_silent = told.last_at.elapsed() >= PATIENCE;
        let may_fail = !is_silent && were_dead_at_once(&edges, began, now);
        self.ledger
            .note((Client::Follows, known), &told, (now, may_fail));
    }

    fn stay(mut self) {
        while !self.stop.load(Ordering::Relaxed) {
            let edge = self.rng.random_range(0..self.world.edge_count());
            let which = self.rng.random_range(0..self.questions.0.len());
            let known = &self.questions.0[which];
            let began = self.world.now();
            let mut server = self.world.server(edge);
            server.patience = PATIENCE;
            let events = server.stream("/v1/completions", &known.body(&json!({ "stream": true })));
            let died = |now| were_dead_at_once(&[self.world.dead(edge)], began, now);
            let events = match events {
                Ok(events) => events,
                Err(error) => {
                    let (now, mut told) = (self.world.now(), Told::new("of no name"));
                    if !died(now) {
                        told.error = Some(error.to_string());
                        self.ledger
                            .note((Client::Plain, known), &told, (now, false));
                    }
                    std::thread::sleep(PAUSE);
                    continue;
                }
            };
            let mut told = Told::new(events.header("x-edgeprompt-session").unwrap_or_default());
            told.error = None;
            for event in events {
                match event {
                    Ok(event) => {
                        told.piece(event["choices"][0]["text"].as_str().unwrap_or_default())
                    }
                    Err(error) => told.error = Some(error.to_string()),
                }
            }
            let now = self.world.now();
            self.ledger
                .note((Client::Plain, known), &told, (now, died(now)));
        }
    }
}
