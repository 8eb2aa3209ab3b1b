//! Which source of a cloud prompt is used, and what is said of it.

use std::sync::Arc;
use std::time::Duration;

use burn::tensor::Device;
use edgeprompt_kv::TokenId;
use edgeprompt_model::{Model, ModelShape};
use edgeprompt_segment_store::SegmentFolder;
use tempfile::TempDir;

use super::*;
use crate::disk_cache::DiskCache;
use crate::planner::ReadSpeed;
use crate::remembered::RememberedPrompts;
use crate::serve::filling::{Filled, Filling, Keeping};
use crate::serve::plan_log::Outcome;
use crate::serve::segments::CloudPrompts;

/// An edge that remembers a prompt of twenty tokens and has a disk.
struct Edge {
    model: Arc<Model>,
    memory: RememberedPrompts,
    disk: Arc<DiskCache>,
    _dir: TempDir,
}

fn name() -> PromptName {
    "desk".parse().unwrap()
}

impl Edge {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let model = Arc::new(Model::dummy(ModelShape::Tiny, &Device::flex()));
        let memory = RememberedPrompts::new(&dir.path().join("names"), "a cloud", model.digest);
        let known = RememberedPrompt {
            tokens: (0..20).map(TokenId).collect(),
            text: None,
        };
        memory.keep(&name(), &known).unwrap();
        let folder = SegmentFolder::new(dir.path().join("segments"));
        let disk = Arc::new(DiskCache::new(&folder, "a cloud", 1 << 20));
        Self {
            model,
            memory,
            disk,
            _dir: dir,
        }
    }

    /// Brings the prompt in after a restart; a layer takes 20 ms here, as far as it knows.
    async fn filled(&self) -> (Filled, Outcome) {
        let filler = Filler::for_prompts(&self.model, Duration::from_millis(1));
        let sources = Sources {
            memory: Some(self.memory.clone()),
            disk: Some(Arc::clone(&self.disk)),
            ..Sources::default()
        };
        let prompts = CloudPrompts::new(sources, filler, 1 << 20);
        let mut prompt = prompts.get(&name()).await.unwrap();
        let Filling::Filled(filled) = prompt.filling.ended().await else {
            panic!("not filled");
        };
        assert_eq!(prompt.keeping.ended().await, Keeping::Kept);
        let outcome = filled.outcome.unwrap();
        (filled, outcome)
    }

    fn note_disk(&self, time: Duration) {
        let bytes = 1 << 20;
        self.disk
            .note_speed(ReadSpeed { bytes, time }, Instant::now());
    }
}

#[tokio::test]
async fn a_disk_known_to_be_slow_is_declined_and_every_plan_is_compared_with_what_it_took() {
    let edge = Edge::new();
    let (filled, outcome) = edge.filled().await;
    assert_eq!(filled.bytes.main(), Some(KvOrigin::Local));
    assert_eq!(outcome.source, Source::Local);
    assert_eq!(outcome.predicted, Some(Duration::from_millis(6 * 20)));
    assert_eq!(outcome.regret, None, "there was no choice");

    let (filled, outcome) = edge.filled().await;
    assert_eq!(filled.bytes.main(), Some(KvOrigin::Disk));
    assert_eq!((outcome.source, outcome.predicted), (Source::Disk, None));
    let here = Duration::from_millis(6 * 20);
    assert_eq!(outcome.regret, Some(outcome.actual.saturating_sub(here)));
    assert!(
        edge.disk.fresh_speed(Instant::now()).is_some(),
        "it was measured"
    );

    // A minute for the 15 KiB.
    edge.note_disk(Duration::from_secs(4096));
    let (filled, outcome) = edge.filled().await;
    assert_eq!(filled.bytes.main(), Some(KvOrigin::Local));
    assert_eq!(filled.loss, None);
    assert_eq!(outcome.source, Source::Local);

    edge.note_disk(Duration::from_millis(1));
    let (filled, outcome) = edge.filled().await;
    assert_eq!(filled.bytes.main(), Some(KvOrigin::Disk));
    assert_eq!(outcome.source, Source::Disk);
    assert!(outcome.predicted.unwrap() < Duration::from_millis(1));
}

#[tokio::test]
async fn an_edge_learns_from_what_it_computes_how_fast_it_is() {
    let edge = Edge::new();
    let filler = Filler::for_prompts(&edge.model, Duration::from_secs(1));
    let sources = Sources {
        memory: Some(edge.memory.clone()),
        ..Sources::default()
    };
    let before = filler.planner().computing(20);
    assert_eq!(before, Duration::from_secs(20));
    let prompts = CloudPrompts::new(sources, filler.clone(), 1 << 20);
    let mut prompt = prompts.get(&name()).await.unwrap();
    assert!(matches!(prompt.filling.ended().await, Filling::Filled(_)));
    // It took next to nothing.
    let after = filler.planner().computing(20);
    assert!(Duration::ZERO < after && after < before / 2, "{after:?}");
}
