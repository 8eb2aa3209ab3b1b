//! The folder that results go to.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::Args;
use serde::Serialize;

/// Where results go.
#[derive(Args, Clone, Debug)]
pub(crate) struct ResultDirArgs {
    /// Folder for the JSON file, the tables and the plots
    #[arg(
        long,
        value_name = "DIR",
        default_value = "target/bench",
        env = "EDGEPROMPT_RESULT_DIR"
    )]
    pub(crate) result_dir: PathBuf,
}

/// An existing folder for results.
pub(crate) struct ResultDir {
    path: PathBuf,
}

impl ResultDirArgs {
    /// Makes the folder, so that a run of minutes does not fail at its end.
    pub(crate) fn open(&self) -> Result<ResultDir> {
        let path = self.result_dir.clone();
        std::fs::create_dir_all(&path)
            .with_context(|| format!("{} cannot be made", path.display()))?;
        Ok(ResultDir { path })
    }
}

impl ResultDir {
    /// Writes a text file, replacing one of that name, and says where.
    pub(crate) fn write(&self, name: &str, text: &str) -> Result<PathBuf> {
        let path = self.path.join(name);
        std::fs::write(&path, text)
            .with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(path)
    }

    /// Writes a JSON file, indented, for people read it too.
    pub(crate) fn write_json(&self, name: &str, value: &impl Serialize) -> Result<PathBuf> {
        let mut text = serde_json::to_string_pretty(value)?;
        text.push('\n');
        self.write(name, &text)
    }

    /// Writes a line of JSON behind what is in the file, if there is one.
    pub(crate) fn append_json(&self, name: &str, value: &impl Serialize) -> Result<PathBuf> {
        let path = self.path.join(name);
        let line = serde_json::to_string(value)? + "\n";
        let file = OpenOptions::new().create(true).append(true).open(&path);
        file.and_then(|mut file| file.write_all(line.as_bytes()))
            .with_context(|| format!("{} cannot be written", path.display()))?;
        Ok(path)
    }

    /// The folder.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}
