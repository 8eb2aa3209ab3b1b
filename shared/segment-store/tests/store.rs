//! The folder: what stays, what goes, what is put aside.

#![allow(clippy::unwrap_used, reason = "a test that cannot go on fails")]

#[allow(dead_code, reason = "the other test uses more of it")]
mod support;

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use edgeprompt_kv::PromptId;
use edgeprompt_segment_store::{
    OpenError, SegmentFolder, SegmentInfo, SegmentProblem, SegmentStore, WriteError,
};
use support::{info, layers};

fn at(seconds: u64) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
}

struct World {
    dir: tempfile::TempDir,
}

impl World {
    fn new() -> Self {
        let dir = tempfile::tempdir().unwrap();
        Self { dir }
    }

    fn folder(&self) -> SegmentFolder {
        SegmentFolder::new(self.dir.path().join("segments"))
    }

    fn store(&self, bytes_max: u64) -> SegmentStore {
        self.folder().domain("home", bytes_max)
    }

    fn kept(&self) -> Vec<PromptId> {
        let kept = self.folder().list().unwrap();
        kept.into_iter().map(|kept| kept.id).collect()
    }

    fn path(&self, id: &PromptId) -> PathBuf {
        self.dir.path().join(format!("segments/home/{id}.segment"))
    }
}

fn put(store: &SegmentStore, info: &SegmentInfo, now: SystemTime) -> Result<PromptId, WriteError> {
    let mut new = store.begin(info.clone(), now)?;
    for layer in layers(info) {
        new.layer(&layer)?;
    }
    new.commit(now)?;
    Ok(info.id())
}

fn file_count(folder: &Path) -> usize {
    fs::read_dir(folder).map_or(0, Iterator::count)
}

#[test]
fn what_was_unused_for_longest_goes_first_after_a_restart_too() {
    let world = World::new();
    let bytes = info(0, 4).file_bytes();
    let store = world.store(3 * bytes + 1);
    let ids: Vec<_> = (0..3)
        .map(|i| put(&store, &info(i, 4), at(u64::from(i))).unwrap())
        .collect();
    assert!(store.open(&ids[0], at(10)).unwrap().is_some());
    drop(store);
    let store = world.store(3 * bytes + 1);
    let new = put(&store, &info(3, 4), at(11)).unwrap();
    assert_eq!(world.kept(), [new, ids[0], ids[2]]);
    assert!(store.open(&ids[1], at(12)).unwrap().is_none());
    let smaller = world.store(bytes);
    let last = put(&smaller, &info(4, 4), at(13)).unwrap();
    assert_eq!(world.kept(), [last]);
}

#[test]
fn domains_share_the_bound_and_nothing_else() {
    let world = World::new();
    let bytes = info(0, 4).file_bytes();
    let (home, away) = (world.store(bytes), world.folder().domain("away", bytes));
    let id = put(&home, &info(0, 4), at(0)).unwrap();
    assert!(away.open(&id, at(1)).unwrap().is_none());
    put(&away, &info(1, 4), at(2)).unwrap();
    assert!(home.open(&id, at(3)).unwrap().is_none());
}

#[test]
fn what_is_too_large_evicts_nothing() {
    let world = World::new();
    let store = world.store(info(0, 4).file_bytes());
    let id = put(&store, &info(0, 4), at(0)).unwrap();
    let refused = put(&store, &info(0, 5), at(1)).unwrap_err();
    assert!(matches!(refused, WriteError::NoRoom { .. }), "{refused}");
    assert_eq!(world.kept(), [id]);
}

#[test]
fn a_damaged_file_is_put_aside_and_few_of_them_are_kept() {
    let world = World::new();
    let store = world.store(1 << 20);
    for first in 0..7 {
        let id = put(&store, &info(first, 4), at(u64::from(first))).unwrap();
        let path = world.path(&id);
        let file = File::options().write(true).open(&path).unwrap();
        file.set_len(50).unwrap();
        let damaged = store.open(&id, at(9)).unwrap_err();
        let problem = SegmentProblem::Size;
        assert!(
            matches!(&damaged, OpenError::Damaged { path: p, problem: q } if (p, q) == (&path, &problem)),
            "{damaged}"
        );
        store.quarantine(&id);
        assert!(store.open(&id, at(9)).unwrap().is_none());
    }
    assert_eq!(file_count(&world.dir.path().join("segments/quarantine")), 4);
    // They go before anything that is whole.
    let id = put(&store, &info(0, 4), at(10)).unwrap();
    let tight = world.store(2 * info(0, 4).file_bytes());
    put(&tight, &info(1, 4), at(11)).unwrap();
    assert_eq!(file_count(&world.dir.path().join("segments/quarantine")), 0);
    assert!(tight.open(&id, at(12)).unwrap().is_some());
}

#[test]
fn a_file_under_another_name_is_refused() {
    let world = World::new();
    let store = world.store(1 << 20);
    let id = put(&store, &info(0, 4), at(0)).unwrap();
    let other = info(1, 4).id();
    fs::rename(world.path(&id), world.path(&other)).unwrap();
    let refused = store.open(&other, at(1)).unwrap_err();
    let problem = SegmentProblem::OtherPrompt;
    assert!(matches!(refused, OpenError::Damaged { problem: p, .. } if p == problem));
}

#[test]
fn what_is_not_finished_leaves_nothing_and_what_crashed_is_tidied_up() {
    let world = World::new();
    let store = world.store(1 << 20);
    let folder = world.dir.path().join("segments/home");
    let mut begun = store.begin(info(0, 4), at(0)).unwrap();
    begun.layer(&layers(&info(0, 4))[0]).unwrap();
    assert!(begun.commit(at(0)).is_err(), "a layer is missing");
    assert_eq!(file_count(&folder), 0);

    let under_way = store.begin(info(1, 4), at(0)).unwrap();
    let crashed = folder.join(format!("{}.1-0.unfinished", info(2, 4).id()));
    fs::write(&crashed, b"half").unwrap();
    let now = SystemTime::now();
    world.folder().tidy_up(now);
    assert_eq!(file_count(&folder), 2, "it may have been made this moment");
    world.folder().tidy_up(now + Duration::from_secs(3600));
    assert_eq!(file_count(&folder), 1, "the one that is locked stays");
    drop(under_way);
    assert_eq!(file_count(&folder), 0);
}

#[test]
fn what_a_crashed_writer_left_goes_before_anything_that_is_kept() {
    let world = World::new();
    let bytes = info(0, 4).file_bytes();
    let store = world.store(2 * bytes);
    // As files have the time of the machine, so does whoever writes here.
    let now = SystemTime::now();
    let kept = put(&store, &info(0, 4), now).unwrap();
    let crashed = format!("segments/home/{}.1-0.unfinished", info(2, 4).id());
    let crashed = world.dir.path().join(crashed);
    let length = usize::try_from(bytes).unwrap();
    fs::write(&crashed, vec![0; length]).unwrap();
    put(&store, &info(1, 4), now).unwrap();
    assert!(crashed.exists(), "it may have been made this moment");
    assert!(!world.path(&kept).exists());
    let later = now + Duration::from_secs(3600);
    put(&store, &info(3, 4), later).unwrap();
    assert!(!crashed.exists());
    assert_eq!(world.kept(), [info(3, 4).id(), info(1, 4).id()]);
}

#[test]
fn what_is_used_from_memory_does_not_go_first() {
    let world = World::new();
    let bytes = info(0, 4).file_bytes();
    let store = world.store(2 * bytes);
    let first = put(&store, &info(0, 4), at(0)).unwrap();
    put(&store, &info(1, 4), at(1)).unwrap();
    store.mark_used(&first, at(2));
    let last = put(&store, &info(2, 4), at(3)).unwrap();
    assert_eq!(world.kept(), [last, first]);
    store.mark_used(&info(9, 4).id(), at(4));
    assert_eq!(world.kept(), [last, first], "nothing is made");
}

#[test]
fn nothing_goes_for_what_does_not_fit_even_then() {
    let world = World::new();
    let bytes = info(0, 4).file_bytes();
    let store = world.store(2 * bytes);
    let kept = put(&store, &info(0, 4), at(0)).unwrap();
    let _under_way = store.begin(info(1, 4), at(1)).unwrap();
    let file = world.dir.path().join("segments/home/other.2-0.unfinished");
    fs::write(file, vec![0; usize::try_from(2 * bytes).unwrap()]).unwrap();
    let refused = put(&store, &info(2, 4), at(2)).unwrap_err();
    assert!(matches!(refused, WriteError::NoRoom { .. }), "{refused}");
    assert_eq!(world.kept(), [kept]);
}

#[test]
fn a_name_that_a_crashed_process_took_is_passed_over() {
    let world = World::new();
    let store = world.store(1 << 20);
    let folder = world.dir.path().join("segments/home");
    fs::create_dir_all(&folder).unwrap();
    let (id, process) = (info(0, 4).id(), std::process::id());
    for number in 0..3 {
        fs::write(
            folder.join(format!("{id}.{process}-{number}.unfinished")),
            b"",
        )
        .unwrap();
    }
    put(&store, &info(0, 4), at(0)).unwrap();
    assert_eq!(world.kept(), [id]);
}

#[test]
fn a_folder_that_cannot_be_made_is_an_error_that_names_it() {
    let world = World::new();
    let root = world.dir.path().join("segments");
    fs::write(&root, b"not a folder").unwrap();
    let store = world.store(1 << 20);
    let refused = put(&store, &info(0, 4), at(0)).unwrap_err();
    assert!(matches!(refused, WriteError::Io { .. }), "{refused}");
    let opened = store.open(&info(0, 4).id(), at(0));
    assert!(matches!(opened, Err(OpenError::Io { .. })));
}

#[test]
fn many_processes_may_put_the_same_segment_at_once() {
    let world = World::new();
    let bytes = info(0, 4).file_bytes();
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                let store = world.store(10 * bytes);
                for _ in 0..10 {
                    put(&store, &info(0, 4), at(0)).unwrap();
                    store
                        .open(&info(0, 4).id(), at(0))
                        .unwrap()
                        .unwrap()
                        .verify()
                        .unwrap();
                }
            });
        }
    });
    assert_eq!(world.kept(), [info(0, 4).id()]);
}
