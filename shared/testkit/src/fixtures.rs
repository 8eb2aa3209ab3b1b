//! The way to trained models and measured links that live outside the repository.

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

/// The folder of a trained model beside the repository, or `None` — said aloud — where it is not.
///
/// `EDGEPROMPT_MODELS` names the folder that holds the models; without it, `../shared/models`
/// beside the repository is looked at.
///
/// # Panics
/// If it is not there and `EDGEPROMPT_REQUIRE_MODELS` is set, so that a run which is meant to prove
/// something cannot pass by skipping.
pub fn trained_model(name: &str) -> Option<PathBuf> {
    let folder = outside("EDGEPROMPT_MODELS", "models").join(name);
    if folder.join("config.json").is_file() {
        return Some(folder);
    }
    let required = std::env::var_os("EDGEPROMPT_REQUIRE_MODELS").is_some();
    assert!(!required, "no model at {}", folder.display());
    say_skipped("model", &folder);
    None
}

/// The measured links of a kind (`4g`, `5g`), in order of their names; none — said aloud — where
/// there are none.
///
/// `EDGEPROMPT_LINKS` names the folder that holds them; without it, `../shared/data/links` beside
/// the repository is looked at.
pub fn link_traces(kind: &str) -> Vec<PathBuf> {
    let folder = outside("EDGEPROMPT_LINKS", "data/links").join(kind);
    let entries = fs::read_dir(&folder).into_iter().flatten();
    let mut traces: Vec<_> = entries
        .filter_map(|entry| Some(entry.ok()?.path()))
        .collect();
    if traces.is_empty() {
        say_skipped("traces", &folder);
    }
    traces.sort();
    traces
}

/// A file of the data for tests and benchmarks, by its path within that folder, or `None` — said
/// aloud — where it is not.
///
/// `EDGEPROMPT_DATA` names the folder; without it, `../shared/data` beside the repository is looked
/// at.
pub fn data_file(path: &str) -> Option<PathBuf> {
    let file = outside("EDGEPROMPT_DATA", "data").join(path);
    if file.is_file() {
        return Some(file);
    }
    say_skipped("data", &file);
    None
}

fn outside(variable: &str, default: &str) -> PathBuf {
    let beside = || {
        Path::new(env!("CARGO_MANIFEST_DIR"))
            .join("../../../shared")
            .join(default)
    };
    std::env::var_os(variable).map_or_else(beside, PathBuf::from)
}

fn say_skipped(what: &str, folder: &Path) {
    // Written past the test harness, which would swallow `println!` of a test that passes.
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED: no {what} at {}",
        folder.display()
    );
}
