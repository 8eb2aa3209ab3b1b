//! Where nodes keep things unless told otherwise.

use std::path::PathBuf;

use anyhow::Context;

use crate::failure::{Exit, Failure};

/// The folder of a node's identity: the one given, or else `edgeprompt/<node>` in the XDG
/// configuration folder.
///
/// # Errors
/// [`Failure`] if none is given and neither `XDG_CONFIG_HOME` nor `HOME` is set.
pub fn identity_dir(given: Option<&PathBuf>, node: &str) -> Result<PathBuf, Failure> {
    let dir = given.cloned().or_else(|| default_identity_dir(node));
    dir.context("no home folder: give --identity DIR")
        .map_err(Failure::of(Exit::Usage))
}

fn default_identity_dir(node: &str) -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let config = set("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".config")));
    config.map(|config| config.join("edgeprompt").join(node))
}
