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
    let dir = given
        .cloned()
        .or_else(|| Some(xdg_dir("XDG_CONFIG_HOME", ".config")?.join(node)));
    dir.context("no home folder: give --identity DIR")
        .map_err(Failure::of(Exit::Usage))
}

/// Our folder in the one that an XDG variable names, or else in `fallback` below the home folder;
/// `None` where neither is set.
pub fn xdg_dir(variable: &str, fallback: &str) -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let base = set(variable).map(PathBuf::from);
    let base = base.or_else(|| set("HOME").map(|home| PathBuf::from(home).join(fallback)));
    base.map(|base| base.join("edgeprompt"))
}
