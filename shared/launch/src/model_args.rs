//! The flags that name the model, and opening it.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::{Args, ValueEnum};
use edgeprompt_model::{ComputeDevice, DeviceError, Model, ModelError, ModelShape};
use edgeprompt_telemetry::memory::peak_resident_bytes;
use indicatif::{ProgressBar, ProgressStyle};

use crate::failure::{Exit, Failure};

/// Where weights come from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum LoadFormat {
    /// A Hugging Face folder or a GGUF file.
    #[default]
    Auto,
    /// Random weights of `--model-shape`.
    Dummy,
}

/// The model and the device it runs on.
#[derive(Args, Clone, Debug)]
pub struct ModelArgs {
    /// Folder of a Hugging Face model (config.json, model.safetensors, tokenizer.json), or a GGUF
    /// file; both nodes need the same one
    #[arg(short, long, value_name = "PATH", env = "EDGEPROMPT_MODEL")]
    pub model: Option<PathBuf>,
    /// Where the weights come from: the folder, or random ones of --model-shape
    #[arg(long, value_enum, default_value_t, env = "EDGEPROMPT_LOAD_FORMAT")]
    pub load_format: LoadFormat,
    /// Shape of random weights: tiny, 110m, tinyllama-1.1b, llama-2-7b or qwen2.5-7b
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
    #[error("--model {}: {source}", .path.display())]
    Model {
        /// As it was named.
        path: PathBuf,
        /// Why.
        source: Box<ModelError>,
    },
}

impl OpenModelError {
    /// The exit code of this error.
    pub const fn exit(&self) -> Exit {
        match self {
            Self::NotNamed | Self::Device(_) => Exit::Usage,
            Self::Model { .. } => Exit::ModelMismatch,
        }
    }
}

impl From<OpenModelError> for Failure {
    fn from(error: OpenModelError) -> Self {
        Self {
            exit: error.exit(),
            error: error.into(),
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
                let mut tensor_bytes = 0;
                let model = Model::open(folder, &device, |progress| {
                    bar.set_length(progress.layer_count as u64);
                    bar.set_position(progress.layers_done as u64);
                    tensor_bytes = progress.tensor_bytes;
                });
                bar.finish_and_clear();
                let model = model.map_err(|source| {
                    let (path, source) = (folder.clone(), Box::new(source));
                    OpenModelError::Model { path, source }
                })?;
                log_loaded(&model, tensor_bytes);
                Ok(model)
            }
            _ => Err(OpenModelError::NotNamed),
        }
    }
}

/// What loading cost: the peak of the whole process so far, so nothing else should come before it.
fn log_loaded(model: &Model, tensor_bytes: u64) {
    let mib = |bytes: u64| format!("{:.1} MiB", bytes as f64 / f64::from(1 << 20));
    let peak = peak_resident_bytes().map_or_else(|| "unknown".to_owned(), mib);
    tracing::info!(
        model = model.digest.short(),
        tensors = mib(tensor_bytes),
        peak_memory = peak,
        "model loaded"
    );
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
