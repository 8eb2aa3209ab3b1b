//! A thousand faults, drawn from seeds: whatever becomes of cloud, link and bytes, and whenever,
//! the edge gives the answer that one machine alone gives.
//!
//! `EDGEPROMPT_FAULT_CASES` sets how many cases are run, `EDGEPROMPT_FAULT_SEED` the first seed;
//! a failure prints the seed of its case, so one case is run again by giving its seed and a count
//! of 1.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]
#![cfg(test)]

mod case;
mod cloud;
mod tally;

use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use case::{Case, Fault, link_of};
use cloud::{HostileCloud, link_config};
use edge_node::answer::{Answer, Cloud, Question, Stop, answer};
use edge_node::cloud_prompt::CloudPrompt;
use edge_node::private::PrivateTokens;
use edge_node::uplink::Uplink;
use edgeprompt_engine::{Sequence, SequenceOptions};
use edgeprompt_model::{ComputeDevice, Model};
use edgeprompt_protocol::{PromptRef, PublicPrompt};
use edgeprompt_testkit::emulator::LinkEmulator;
use edgeprompt_transport::{CloudIdentity, EdgeIdentity, INVITATION_LIFETIME};
use tally::{Outcome, Tally};
use tokio::task::{JoinSet, spawn_blocking};

const CASES: u64 = 1_000;
const FIRST_SEED: u64 = 20_260_101;
/// Cases at a time: most of them wait for something.
const CASES_AT_ONCE: usize = 24;
/// A case that takes so long hangs: every wait in it is far shorter.
const HANG: Duration = Duration::from_secs(60);

/// What the cases share.
struct World {
    model: Arc<Model>,
    identity: CloudIdentity,
    edge: EdgeIdentity,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_faults_give_a_thousand_right_answers() {
    let cases = from_env("EDGEPROMPT_FAULT_CASES", CASES);
    let first = from_env("EDGEPROMPT_FAULT_SEED", FIRST_SEED);
    println!("{cases} cases, first seed {first}");
    // A task that panics ends without a word, and the edge would make up for it.
    let panics = count_panics();
    let world = Arc::new(World::new());
    let (mut running, mut tally) = (JoinSet::new(), Tally::default());
    for seed in first..first + cases {
        if running.len() == CASES_AT_ONCE {
            tally.add(running.join_next().await.unwrap().unwrap());
        }
        let world = Arc::clone(&world);
        running.spawn(async move { world.run(seed).await });
    }
    while let Some(outcome) = running.join_next().await {
        tally.add(outcome.unwrap());
    }
    tally.check(cases);
    assert_eq!(panics.load(Ordering::SeqCst), 0, "something panicked");
}

fn count_panics() -> Arc<AtomicUsize> {
    let panics = Arc::new(AtomicUsize::new(0));
    let (counted, hook) = (Arc::clone(&panics), std::panic::take_hook());
    std::panic::set_hook(Box::new(move |info| {
        counted.fetch_add(1, Ordering::SeqCst);
        hook(info);
    }));
    panics
}

fn from_env(name: &str, default: u64) -> u64 {
    let value = std::env::var(name).ok();
    value.map_or(default, |value| value.parse().unwrap())
}

impl World {
    fn new() -> Self {
        let device = ComputeDevice::default().open().unwrap();
        let identity = CloudIdentity::in_memory().unwrap();
        let edge = EdgeIdentity::join(&identity.invite(INVITATION_LIFETIME).unwrap()).unwrap();
        Self {
            model: Arc::new(Model::demo(&device).unwrap()),
            identity,
            edge,
        }
    }

    /// One case to its end; a wrong answer ends the test.
    async fn run(&self, seed: u64) -> Outcome {
        let case = Arc::new(Case::draw(seed, &self.model));
        let said = format!("seed {seed}: {:?}, {:?}", case.fault, case.patience);
        match tokio::time::timeout(HANG, self.answer(case)).await {
            Ok((outcome, true)) => outcome,
            Ok((_, false)) => panic!("a wrong answer; {said}"),
            Err(_) => panic!("no answer; {said}"),
        }
    }

    /// What happened, and whether the answer is that of one machine.
    async fn answer(&self, case: Arc<Case>) -> (Outcome, bool) {
        let (model, drawn) = (Arc::clone(&self.model), Arc::clone(&case));
        let prepared = spawn_blocking(move || {
            let cloud = HostileCloud::new(&drawn, &model);
            let whole = [drawn.public.as_slice(), &drawn.private].concat();
            let mut alone = Sequence::new(&model, None, SequenceOptions::default());
            (cloud, alone.generate_greedy(&whole, drawn.max_tokens))
        });
        let (cloud, expected) = prepared.await.unwrap();
        let cloud = Arc::new(cloud);
        let addr = match case.fault {
            Fault::Unreachable => (Ipv4Addr::LOCALHOST, 1).into(),
            _ => self.emulated(&cloud),
        };
        let uplink = Uplink::new(&[addr], &self.edge, link_config()).unwrap();
        let answered = self.ask(&case, &uplink).await;
        let is_right = answered.tokens.for_engine() == expected;
        uplink.close(Duration::ZERO).await;
        let outcome = Outcome::of(&cloud, answered.recomputed);
        cloud.stop();
        (outcome, is_right)
    }

    /// The cloud behind its emulated link.
    fn emulated(&self, cloud: &Arc<HostileCloud>) -> SocketAddr {
        let addr = cloud.start(&self.identity);
        let emulator = LinkEmulator::start(addr, link_of(&cloud.case)).unwrap();
        let addr = emulator.addr();
        if let Fault::Corrupt(probability) = cloud.case.fault {
            emulator.corrupt(probability);
        }
        assert!(cloud.emulator.set(emulator).is_ok(), "started once");
        if let Fault::CutAt(moment) = cloud.case.fault {
            let cut = Arc::clone(cloud);
            cloud.spawn(async move {
                tokio::time::sleep(moment).await;
                cut.emulator.get().unwrap().cut();
            });
        }
        addr
    }

    async fn ask(&self, case: &Arc<Case>, uplink: &Uplink) -> Answer {
        let tokens = case.public.clone();
        let public = PromptRef::Public(PublicPrompt::Tokens(tokens.clone()));
        let asked_at = Instant::now();
        let cloud = match CloudPrompt::fetch(uplink, &self.model, public).await {
            Ok(prompt) => Cloud::Arriving(prompt),
            Err(error) => Cloud::Unavailable {
                tokens,
                loss: error.loss(),
            },
        };
        let (model, case) = (Arc::clone(&self.model), Arc::clone(case));
        let answered = spawn_blocking(move || {
            let private = PrivateTokens::new(case.private.clone());
            let question = Question {
                model: &model,
                private: &private,
                options: SequenceOptions::default(),
                max_tokens: case.max_tokens,
                stop: Stop::AtLengthOnly,
                patience: case.patience,
                asked_at,
            };
            answer(&question, cloud, |_| {})
        });
        answered.await.unwrap()
    }
}
