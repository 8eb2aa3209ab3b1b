//! What both programs do when they start: find the model, show how loading goes, name an exit code.
//!
//! [`Failure`] holds an `anyhow::Error`, which nothing else in this library does, because this is
//! the start-up code of two `main`s: it reports errors of every kind and handles none of them.

use std::io::IsTerminal;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::{Args, ValueEnum};
use edgeprompt_model::{ComputeDevice, DeviceError, Model, ModelError, ModelShape};
use indicatif::{ProgressBar, ProgressStyle};

/// How a program ended, told apart so that scripts can act on it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Wrong arguments, or something on this machine that the user can put right.
    Usage,
    /// The other node cannot be reached or does not answer.
    PeerUnreachable,
    /// A model is refused, or two nodes hold different ones.
    ModelMismatch,
    /// Something received does not verify.
    VerificationFailed,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        match exit {
            Exit::Usage => Self::from(2),
            Exit::PeerUnreachable => Self::from(3),
            Exit::ModelMismatch => Self::from(4),
            Exit::VerificationFailed => Self::from(5),
        }
    }
}

/// An error and the exit code that goes with it.
#[derive(Debug)]
pub struct Failure {
    /// The exit code.
    pub exit: Exit,
    /// What happened, where, and what to do next.
    pub error: anyhow::Error,
}

impl Failure {
    /// Pairs an error with its exit code; made for `map_err`.
    pub fn of<E: Into<anyhow::Error>>(exit: Exit) -> impl Fn(E) -> Self {
        move |error| Self {
            exit,
            error: error.into(),
        }
    }

    /// The error and its causes, each said once: many errors already name their cause.
    pub fn message(&self) -> String {
        let mut message = String::new();
        for cause in self.error.chain().map(ToString::to_string) {
            if message.is_empty() {
                message = cause;
            } else if !message.contains(&cause) {
                message = format!("{message}: {cause}");
            }
        }
        message
    }

    /// Prints the error for a person and gives its exit code.
    pub fn report(&self, program: &str) -> ExitCode {
        eprintln!("{program}: {}", self.message());
        self.exit.into()
    }
}

/// Where weights come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LoadFormat {
    /// A Hugging Face folder.
    #[default]
    Auto,
    /// Random weights of `--model-shape`.
    Dummy,
}

/// The model and the device it runs on.
#[derive(Args, Clone, Debug)]
pub struct ModelArgs {
    /// Folder of a Hugging Face model (config.json, model.safetensors, tokenizer.json)
    #[arg(short, long, value_name = "DIR", env = "EDGEPROMPT_MODEL")]
    pub model: Option<PathBuf>,
    /// Where the weights come from: the folder, or random ones of --model-shape
    #[arg(long, value_enum, default_value_t, env = "EDGEPROMPT_LOAD_FORMAT")]
    pub load_format: LoadFormat,
    /// Shape of random weights: 110m, tinyllama-1.1b, llama-2-7b or qwen2.5-7b
    #[arg(long, value_name = "SHAPE", env = "EDGEPROMPT_MODEL_SHAPE")]
    pub model_shape: Option<ModelShape>,
    /// Device to compute on: flex (CPU), wgpu or cuda
    #[arg(
        long,
        default_value_t,
        value_name = "DEVICE",
        env = "EDGEPROMPT_DEVICE"
    )]
    pub device: ComputeDevice,
}

/// Why the named model could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenModelError {
    /// No model was named.
    #[error("no model: give --model DIR, or --load-format dummy --model-shape 110m")]
    NotNamed,
    /// The device cannot be used.
    #[error(transparent)]
    Device(#[from] DeviceError),
    /// The model is refused.
    #[error(transparent)]
    Model(#[from] ModelError),
}

impl OpenModelError {
    /// The exit code of this error.
    pub const fn exit(&self) -> Exit {
        match self {
            Self::NotNamed | Self::Device(_) => Exit::Usage,
            Self::Model(_) => Exit::ModelMismatch,
        }
    }
}

impl ModelArgs {
    /// Opens the model, with a progress bar on a terminal.
    ///
    /// # Errors
    /// [`OpenModelError`].
    pub fn open(&self) -> Result<Model, OpenModelError> {
        let device = self.device.open()?;
        match (self.load_format, &self.model, self.model_shape) {
            (LoadFormat::Dummy, _, Some(shape)) => Ok(Model::dummy(shape, &device)),
            (LoadFormat::Auto, Some(folder), _) => {
                let bar = progress_bar("loading model", "layers");
                let model = Model::open(folder, &device, |progress| {
                    bar.set_length(progress.layer_count as u64);
                    bar.set_position(progress.layers_done as u64);
                });
                bar.finish_and_clear();
                Ok(model?)
            }
            _ => Err(OpenModelError::NotNamed),
        }
    }
}

/// A bar on standard error if that is a terminal, else nothing.
///
/// # Panics
/// Never: the template is fixed.
pub fn progress_bar(what: &'static str, unit: &str) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let template = format!("{{msg}} [{{bar:30}}] {{pos}}/{{len}} {unit} {{elapsed}}");
    let style = ProgressStyle::with_template(&template).expect("the template is well-formed");
    ProgressBar::new(0).with_style(style).with_message(what)
}

/// The folder where a node keeps its identity unless told otherwise: the XDG configuration folder.
///
/// `None` where neither `XDG_CONFIG_HOME` nor `HOME` is set.
pub fn default_identity_dir(node: &str) -> Option<PathBuf> {
    let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
    let config = set("XDG_CONFIG_HOME").map(PathBuf::from);
    let config = config.or_else(|| set("HOME").map(|home| PathBuf::from(home).join(".config")));
    config.map(|config| config.join("edgeprompt").join(node))
}
