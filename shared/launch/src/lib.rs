//! What both programs do when they start and when they end: find what they are told on the command
//! line, in the environment and in a file, find the model and show how loading
//! goes, set up the log, find a node's folders, speak on standard output, name an exit code.
//!
//! [`Failure`] holds an `anyhow::Error`, which no other library does, because this is part of two
//! `main`s: it reports errors of every kind and handles none of them.

mod config_args;
mod config_file;
mod failure;
mod flags;
mod folders;
mod log_args;
mod model_args;
mod pages;
mod printed_config;
mod program;
mod stdout;

pub use config_args::{ConfigArgs, ConfigFileArgs};
pub use config_file::{ConfigError, LineProblem};
pub use failure::{Exit, Failure};
pub use folders::{identity_dir, xdg_dir};
pub use log_args::LogArgs;
pub use model_args::{LoadFormat, ModelArgs, OpenModelError, progress_bar};
pub use pages::{CompletionsArgs, ManArgs};
pub use program::Program;
pub use stdout::say;
