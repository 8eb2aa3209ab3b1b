//! Who moves sessions, and kills edges before, in and after a move.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::Result;
use rand::seq::IndexedRandom;
use rand::{RngExt, SeedableRng};
use rand_chacha::ChaCha8Rng;
use serde::Serialize;
use serde_json::{Value, json};

use super::world::World;

/// Ways to move; the edge chooses where none is named.
const STRATEGIES: [Option<&str>; 6] = [
    None,
    Some("token"),
    Some("cache"),
    Some("joint"),
    Some("stream"),
    Some("precopy"),
];

/// Until an edge says what became of a move.
const PATIENCE: Duration = Duration::from_secs(60);
/// After a kill in a move that has begun, at most.
const INTO_MOVE_MAX_MS: u64 = 40;
/// For how long an edge is dead, at most; and how long it takes to start again.
const DEAD_MAX_MS: u64 = 1500;
/// Where nobody asks anything.
const PAUSE: Duration = Duration::from_millis(5);

/// Who is killed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Victim {
    Source,
    Target,
    Both,
}

/// When.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Moment {
    Before,
    During,
    After,
}

/// What came of all moves so far.
#[derive(Clone, Debug, Default, Serialize)]
pub(super) struct Tally {
    /// Moves that the source says have succeeded.
    pub(super) moved: usize,
    /// Those, by strategy.
    pub(super) strategies: BTreeMap<String, usize>,
    /// Why the others have not, in the API's words.
    pub(super) not_moved: BTreeMap<String, usize>,
    /// Moves in which an edge was killed.
    pub(super) kills: usize,
    /// Who, and when.
    pub(super) victims: BTreeMap<String, usize>,
    /// Longest time that nobody could emit, as the source says, in ms.
    pub(super) switch_ms_max: f64,
    /// Moves of which no edge has said anything within a minute.
    pub(super) unanswered: usize,
    /// Edges that did not start again.
    pub(super) not_started: Vec<String>,
}

impl Tally {
    pub(super) fn in_words(&self) -> String {
        let not_moved: usize = self.not_moved.values().sum();
        let Self { moved, kills, .. } = self;
        format!("{moved} moved, {not_moved} not, {kills} with kills")
    }
}

#[derive(Clone)]
struct Shared {
    world: Arc<World>,
    tally: Arc<Mutex<Tally>>,
    /// Held by whoever kills: one move with kills at a time.
    killing: Arc<Mutex<()>>,
    stop: Arc<AtomicBool>,
    /// Moves, and those with kills.
    wanted: (usize, usize),
}

/// All of them.
pub(super) struct Movers {
    shared: Shared,
    threads: Vec<JoinHandle<()>>,
}

struct Mover {
    shared: Shared,
    rng: ChaCha8Rng,
}

/// A session that could move.
struct Leaving {
    id: String,
    source: usize,
    target: usize,
}

impl Movers {
    pub(super) fn start(count: u32, world: &Arc<World>, wanted: (usize, usize), seed: u64) -> Self {
        let shared = Shared {
            world: Arc::clone(world),
            tally: Arc::default(),
            killing: Arc::default(),
            stop: Arc::default(),
            wanted,
        };
        let threads = (0..count).map(|index| {
            let mut rng = ChaCha8Rng::seed_from_u64(seed);
            rng.set_stream(1 << 32 | u64::from(index));
            let mover = Mover {
                shared: shared.clone(),
                rng,
            };
            std::thread::spawn(move || mover.run())
        });
        let threads = threads.collect();
        Self { shared, threads }
    }

    pub(super) fn have_ended(&self) -> bool {
        self.threads.iter().all(JoinHandle::is_finished)
    }

    pub(super) fn tally(&self) -> Tally {
        self.shared.tally().clone()
    }

    pub(super) fn stop(self) -> Tally {
        self.shared.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            // One that has panicked has said so.
            let _ = thread.join();
        }
        self.shared.tally().clone()
    }
}

impl Shared {
    fn tally(&self) -> MutexGuard<'_, Tally> {
        self.tally.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn is_over(&self) -> bool {
        let (moves, kills) = self.wanted;
        let tally = self.tally();
        self.stop.load(Ordering::Relaxed) || (tally.moved >= moves && tally.kills >= kills)
    }

    /// Whether a kill is due: they are spread over all moves.
    fn kill_is_due(&self) -> bool {
        let (moves, kills) = self.wanted;
        let tally = self.tally();
        tally.kills < kills && tally.kills * moves <= tally.moved * kills
    }
}

impl Mover {
    fn run(mut self) {
        while !self.shared.is_over() {
            let Some(leaving) = self.choose() else {
                std::thread::sleep(PAUSE);
                continue;
            };
            let strategy = *STRATEGIES.choose(&mut self.rng).unwrap_or(&None);
            let killing = Arc::clone(&self.shared.killing);
            match killing.try_lock() {
                Ok(_killing) if self.shared.kill_is_due() => self.move_and_kill(&leaving, strategy),
                _ => self.shared.hand_over(&leaving, strategy),
            }
        }
    }

    /// A session that somebody reads, at an edge that lives, and another edge that does.
    fn choose(&mut self) -> Option<Leaving> {
        let world = &self.shared.world;
        let alive = |edge: &usize| world.is_alive(*edge);
        let alive: Vec<usize> = (0..world.edge_count()).filter(alive).collect();
        let source = *alive.choose(&mut self.rng)?;
        let others: Vec<usize> = alive.into_iter().filter(|edge| *edge != source).collect();
        let target = *others.choose(&mut self.rng)?;
        let listed = world.server(source).get_json("/v1/sessions").ok()?;
        let here = listed["data"].as_array()?.iter();
        let here: Vec<&str> = here
            .filter(|it| it["state"] == "here" && it["token_count"] != 0)
            .filter_map(|it| it["id"].as_str())
            .collect();
        let id = (*here.choose(&mut self.rng)?).to_owned();
        Some(Leaving { id, source, target })
    }

    fn move_and_kill(&mut self, leaving: &Leaving, strategy: Option<&str>) {
        let victims = [Victim::Source, Victim::Target, Victim::Both];
        let victim = victims[[0, 0, 1, 1, 2][self.rng.random_range(0..5)]];
        let moments = [
            Moment::Before,
            Moment::During,
            Moment::During,
            Moment::After,
        ];
        let moment = moments[self.rng.random_range(0..moments.len())];
        let edges = match victim {
            Victim::Source => vec![leaving.source],
            Victim::Target => vec![leaving.target],
            Victim::Both => vec![leaving.source, leaving.target],
        };
        let shared = &self.shared;
        let kill = || edges.iter().for_each(|edge| shared.world.kill(*edge));
        match moment {
            Moment::Before => {
                kill();
                shared.hand_over(leaving, strategy);
            }
            Moment::During => {
                let into = Duration::from_millis(self.rng.random_range(0..INTO_MOVE_MAX_MS));
                std::thread::scope(|scope| {
                    scope.spawn(|| shared.hand_over(leaving, strategy));
                    std::thread::sleep(into);
                    kill();
                });
            }
            Moment::After => {
                shared.hand_over(leaving, strategy);
                kill();
            }
        }
        std::thread::sleep(Duration::from_millis(self.rng.random_range(0..DEAD_MAX_MS)));
        for edge in edges {
            if let Err(error) = shared.world.start_again(edge) {
                shared.tally().not_started.push(format!("{error:#}"));
                shared.stop.store(true, Ordering::Relaxed);
            }
        }
        let mut tally = shared.tally();
        tally.kills += 1;
        let what = format!("{victim:?}, {moment:?}").to_lowercase();
        *tally.victims.entry(what).or_default() += 1;
    }
}

impl Shared {
    fn hand_over(&self, leaving: &Leaving, strategy: Option<&str>) {
        let mut body = json!({ "target": self.world.target(leaving.target).to_string() });
        if let Some(strategy) = strategy {
            body["strategy"] = strategy.into();
        }
        let path = format!("/v1/sessions/{}/handover", leaving.id);
        let mut server = self.world.server(leaving.source);
        server.patience = PATIENCE;
        let asked_at = Instant::now();
        let answer = server.post_json(&path, &body);
        let is_answered = asked_at.elapsed() < PATIENCE;
        self.note(answer, is_answered.then_some(()));
    }

    fn note(&self, answer: Result<Value>, answered: Option<()>) {
        let mut tally = self.tally();
        let moved = match answer {
            Ok(moved) => moved,
            Err(error) => {
                if answered.is_none() {
                    tally.unanswered += 1;
                }
                *tally.not_moved.entry(code(&error.to_string())).or_default() += 1;
                return;
            }
        };
        tally.moved += 1;
        let strategy = moved["strategy"].as_str().unwrap_or("none").to_owned();
        *tally.strategies.entry(strategy).or_default() += 1;
        let switch = moved["switch_ms"].as_f64().unwrap_or_default();
        tally.switch_ms_max = tally.switch_ms_max.max(switch);
    }
}

/// The API's word for what is wrong, and whose; a connection that breaks has none.
fn code(error: &str) -> String {
    let body = error.split_once(": ").map_or("", |(_, body)| body);
    let body: Value = serde_json::from_str(body).unwrap_or_default();
    let word = body["error"]["code"].as_str();
    let message = body["error"]["message"].as_str().unwrap_or_default();
    match word {
        // Addresses differ, and are of no interest.
        Some("handover_failed") if message.contains("no edge answers") => {
            "handover_failed: nobody answers there".to_owned()
        }
        Some("handover_failed") => format!("handover_failed: {message}"),
        Some(word) => word.to_owned(),
        None => "the source breaks off".to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_move_that_fails_is_counted_by_the_word_for_it() {
        let busy = r#"HTTP/1.0 409 Conflict: {"error":{"code":"session_busy","message":"x"}}"#;
        assert_eq!(code(busy), "session_busy");
        assert_eq!(code("no answer came"), "the source breaks off");
        let failed = r#"HTTP/1.0 502 B: {"error":{"code":"handover_failed","message":"m"}}"#;
        assert_eq!(code(failed), "handover_failed: m");
    }
}
