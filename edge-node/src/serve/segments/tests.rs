//! Without a cloud: what is remembered is brought in once for everybody.

use std::net::Ipv4Addr;
use std::time::Duration;

use burn::tensor::Device;
use cloud_node::compute::PromptComputer;
use cloud_node::library::ServedLibrary;
use cloud_node::service::{CloudService, PublicPrompts};
use edgeprompt_model::{Model, ModelShape};
use edgeprompt_transport::{CloudIdentity, EdgeIdentity, LinkConfig};
use tempfile::TempDir;

use super::*;
use crate::cloud_prompt::LossReason;
use crate::remembered::RememberedPrompts;
use crate::serve::cloud_health::CloudHealth;
use crate::serve::filling::{Filled, Keeping};
use crate::serve::running::prefetch;
use crate::uplink::Uplink;

/// If it takes longer it hangs.
const HANGS: Duration = Duration::from_secs(60);

const HOUR: Duration = Duration::from_secs(3600);

struct World {
    model: Arc<Model>,
    memory: RememberedPrompts,
    _folder: TempDir,
}

fn name(text: &str) -> PromptName {
    text.parse().unwrap()
}

impl World {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let model = Arc::new(Model::dummy(ModelShape::Tiny, &Device::flex()));
        Self {
            memory: RememberedPrompts::new(folder.path(), "a cloud", model.digest),
            model,
            _folder: folder,
        }
    }

    fn remember(&self, named: &str, token_count: u32) -> Vec<TokenId> {
        let tokens: Vec<_> = (0..token_count).map(|i| TokenId(i % 64)).collect();
        let known = RememberedPrompt {
            tokens: tokens.clone(),
            text: None,
        };
        self.memory.keep(&name(named), &known).unwrap();
        tokens
    }

    fn prompts(&self, bytes_max: u64) -> CloudPrompts {
        self.prompts_of((None, CloudHealth::default()), bytes_max)
    }

    fn prompts_of(
        &self,
        (cloud, health): (Option<Uplink>, CloudHealth),
        bytes_max: u64,
    ) -> CloudPrompts {
        let filler = Filler::for_prompts(&self.model, Duration::from_millis(1));
        let sources = Sources {
            memory: Some(self.memory.clone()),
            cloud,
            health,
            ..Sources::default()
        };
        CloudPrompts::new(sources, filler, bytes_max)
    }

    /// The tiny model's keys and values: 6 layers, 2 heads of 8, twice, 4 bytes each.
    const TOKEN_BYTES: u64 = 6 * 2 * 8 * 2 * 4;
}

#[tokio::test]
async fn many_who_ask_at_once_share_one_prompt() {
    let world = World::new();
    let tokens = world.remember("desk", 20);
    let prompts = world.prompts(1 << 20);
    let asked: Vec<_> = (0..20)
        .map(|_| {
            let prompts = prompts.clone();
            tokio::spawn(async move { prompts.get(&name("desk")).await.unwrap() })
        })
        .collect();
    let mut first: Option<SharedPrompt> = None;
    for asked in asked {
        let mut prompt = asked.await.unwrap();
        assert!(matches!(prompt.filling.ended().await, Filling::Filled(_)));
        assert!(prompt.segment.is_complete());
        assert_eq!(*prompt.tokens, *tokens);
        let first = first.get_or_insert_with(|| prompt.clone());
        assert!(first.segment.layers.is_same(&prompt.segment.layers));
    }
}

#[tokio::test]
async fn a_failure_is_told_and_the_next_request_tries_again() {
    let world = World::new();
    let prompts = world.prompts(1 << 20);
    let missing = prompts.get(&name("desk")).await.unwrap_err();
    assert_eq!(missing, SharedPromptError::Unknown);
    world.remember("desk", 4);
    assert!(prompts.get(&name("desk")).await.is_ok());
}

#[tokio::test]
async fn what_was_unused_for_longest_makes_room() {
    let world = World::new();
    for (named, token_count) in [("a", 10), ("b", 9), ("c", 11)] {
        world.remember(named, token_count);
    }
    world.remember("long", 30);
    let prompts = world.prompts(25 * World::TOKEN_BYTES);
    for named in ["a", "b", "a", "c"] {
        let mut prompt = prompts.get(&name(named)).await.unwrap();
        // What is on its way takes room of its own.
        prompt.filling.ended().await;
    }
    let kept: Vec<_> = prompts.list().into_iter().map(|(name, _)| name).collect();
    assert_eq!(kept, [name("a"), name("c")]);
    let refused = prompts.get(&name("long")).await.unwrap_err();
    assert_eq!(
        refused,
        SharedPromptError::TooLarge {
            bytes: 30 * World::TOKEN_BYTES,
            bytes_max: 25 * World::TOKEN_BYTES,
        }
    );
    // Trying again would not help.
    let prefetched = prefetch(prompts, name("long"));
    tokio::time::timeout(HANGS, prefetched).await.unwrap();
}

/// A way to a cloud that takes packets and never answers, however long it is waited for.
fn silent_cloud() -> (std::net::UdpSocket, Uplink) {
    let cloud = std::net::UdpSocket::bind("127.0.0.1:0").unwrap();
    let identity = CloudIdentity::in_memory().unwrap();
    let edge = EdgeIdentity::join(&identity.invite(HOUR).unwrap()).unwrap();
    let mut config = LinkConfig::default();
    config.timeouts.connect = HOUR;
    let uplink = Uplink::new(&[cloud.local_addr().unwrap()], &edge, config).unwrap();
    (cloud, uplink)
}

#[tokio::test]
async fn a_cloud_that_says_nothing_is_waited_for_once_where_nobody_knows_the_tokens() {
    let world = World::new();
    let (_cloud, uplink) = silent_cloud();
    let health = CloudHealth::with_patience(Duration::from_millis(50));
    let prompts = world.prompts_of((Some(uplink), health.clone()), 1 << 20);
    let unheard = name("unheard");
    let asked = tokio::time::timeout(HANGS, prompts.get(&unheard));
    let refused = asked.await.expect("it gives up").unwrap_err();
    assert_eq!(refused, SharedPromptError::Silent);
    assert!(health.is_silent());

    // Another cloud would answer that it has no such prompt.
    let identity = CloudIdentity::in_memory().unwrap();
    let edge = EdgeIdentity::join(&identity.invite(HOUR).unwrap()).unwrap();
    let service = CloudService {
        computer: PromptComputer::start(Arc::clone(&world.model), 1 << 20),
        library: ServedLibrary::default(),
        public_prompts: PublicPrompts::Refused,
    };
    let (loopback, config) = ((Ipv4Addr::LOCALHOST, 0).into(), LinkConfig::default());
    let cloud = service.start(loopback, &identity, config).unwrap();
    for (health, refused) in [
        (health, SharedPromptError::Silent),
        (CloudHealth::default(), SharedPromptError::Unknown),
    ] {
        let uplink = Uplink::new(&[cloud.addr()], &edge, LinkConfig::default()).unwrap();
        let prompts = world.prompts_of((Some(uplink), health), 1 << 20);
        assert_eq!(prompts.get(&unheard).await.unwrap_err(), refused);
    }
}

#[tokio::test]
async fn a_cloud_that_says_nothing_holds_up_nobody_who_knows_the_tokens() {
    let world = World::new();
    world.remember("a", 10);
    world.remember("b", 12);
    let (_cloud, uplink) = silent_cloud();
    let prompts = world.prompts_of((Some(uplink), CloudHealth::default()), 1 << 20);
    for named in ["a", "b"] {
        let named = name(named);
        let asked = tokio::time::timeout(HANGS, prompts.get(&named));
        let mut prompt = asked.await.expect("nobody waits for the cloud").unwrap();
        let Filling::Filled(filled) = prompt.filling.ended().await else {
            panic!("not filled");
        };
        assert_eq!(prompt.origin(), KvOrigin::Local);
        assert_eq!(filled.loss.unwrap().reason, LossReason::Slow);
    }
    assert!(!prompts.source_is_well());
}

#[test]
fn a_last_word_is_never_missed() {
    let channels = || {
        let ((tell, told), (tell_kept, told_kept)) = (
            watch::channel(Filling::Filling),
            watch::channel(Keeping::Pending),
        );
        let watches = (FillingWatch::new(told), KeepingWatch::new(told_kept));
        ((tell, tell_kept), watches)
    };
    let (tellers, watches): (Vec<_>, Vec<_>) = (0..20_000).map(|_| channels()).unzip();
    let telling = std::thread::spawn(move || {
        for (tell, tell_kept) in tellers {
            tell.send_replace(Filling::Filled(Filled::default()));
            drop(tell);
            tell_kept.send_replace(Keeping::Kept);
        }
    });
    for (filling, keeping) in watches {
        let mut told = filling.now();
        while told == Filling::Filling {
            told = filling.now();
        }
        assert_eq!(told, Filling::Filled(Filled::default()));
        let mut kept = keeping.now();
        while kept == Keeping::Pending {
            kept = keeping.now();
        }
        assert_eq!(kept, Keeping::Kept);
    }
    telling.join().unwrap();
}

#[tokio::test]
async fn a_thread_that_dies_leaves_nobody_waiting() {
    let (tell, told) = watch::channel(Filling::Filling);
    let mut filling = FillingWatch::new(told);
    assert_eq!(filling.now(), Filling::Filling);
    drop(tell);
    assert_eq!(filling.now(), Filling::Broken);
    filling.broken().await;
    assert_eq!(filling.ended().await, Filling::Broken);
}
