//! The way to trained models that live outside the repository.

use std::io::Write;
use std::path::PathBuf;

/// The folder of a trained model beside the repository, or `None` — said aloud — where it is not.
///
/// `EDGEPROMPT_MODELS` names the folder that holds the models; without it, `../shared/models`
/// beside the repository is looked at.
pub fn trained_model(name: &str) -> Option<PathBuf> {
    let beside = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/models");
    let models = std::env::var_os("EDGEPROMPT_MODELS").map_or(beside, PathBuf::from);
    let folder = models.join(name);
    if folder.join("config.json").is_file() {
        return Some(folder);
    }
    // Written past the test harness, which would swallow `println!` of a test that passes.
    let _ = writeln!(
        std::io::stderr(),
        "SKIPPED: no model at {}",
        folder.display()
    );
    None
}
