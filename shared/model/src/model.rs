//! A whole model: configuration, weights, tokenizer and chat template under one digest.

use std::fmt;
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::sync::{Mutex, PoisonError};

use burn::tensor::Device;
use edgeprompt_kv::{KvGeometry, ModelDigest};

use crate::chat_template::{ChatTemplate, ChatTemplateError};
use crate::checkpoint::{Checkpoint, CheckpointError};
use crate::config::{ConfigError, ModelConfig, QkNorm, QkvBias};
use crate::decoder::Decoder;
use crate::file_bytes::{FileBytes, read_within};
use crate::gguf::{Gguf, GgufError};
use crate::load::LoadProgress;
use crate::rope::{RopeConfig, RopeScaling, RopeTable};
use crate::tokenizer::{TOKENIZER_BYTES_MAX, TextTokenizer, TokenizerError};

/// Why a model cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum ModelError {
    /// A file of the model cannot be read.
    #[error("{file}: {source}")]
    Io {
        /// The file.
        file: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// The configuration is refused.
    #[error("{folder}: {source}")]
    Config {
        /// The file, or the model it belongs to.
        folder: String,
        /// Why.
        source: ConfigError,
    },
    /// The weights are refused.
    #[error("{folder}: {source}")]
    Checkpoint {
        /// The model's folder or file.
        folder: String,
        /// Why.
        source: CheckpointError,
    },
    /// The GGUF file is refused.
    #[error("{file}: {source}")]
    Gguf {
        /// The file.
        file: String,
        /// Why.
        source: GgufError,
    },
    /// The tokenizer is refused.
    #[error(transparent)]
    Tokenizer(#[from] TokenizerError),
    /// The chat template is refused.
    #[error(transparent)]
    ChatTemplate(#[from] ChatTemplateError),
    /// A model of random weights has no tokenizer.
    #[error("this model has no tokenizer.json: give token ids instead of text")]
    NoTokenizer,
}

/// The shape of a known model, for random weights.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ModelShape {
    /// 60 thousand parameters: 6 layers of 32. It answers nothing; it is there to try things with.
    Tiny,
    /// 110 million parameters: 12 layers of 768.
    M110,
    /// `TinyLlama` 1.1B.
    TinyLlama1B,
    /// Llama 2 7B.
    Llama2With7B,
    /// Qwen 2.5 7B.
    Qwen25With7B,
}

/// Why a shape is not known.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a model shape: use tiny, 110m, tinyllama-1.1b, llama-2-7b or qwen2.5-7b")]
pub struct UnknownShape(String);

impl FromStr for ModelShape {
    type Err = UnknownShape;

    fn from_str(text: &str) -> Result<Self, UnknownShape> {
        match text {
            "tiny" => Ok(Self::Tiny),
            "110m" => Ok(Self::M110),
            "tinyllama-1.1b" => Ok(Self::TinyLlama1B),
            "llama-2-7b" => Ok(Self::Llama2With7B),
            "qwen2.5-7b" => Ok(Self::Qwen25With7B),
            other => Err(UnknownShape(other.to_owned())),
        }
    }
}

impl fmt::Display for ModelShape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Tiny => "tiny",
            Self::M110 => "110m",
            Self::TinyLlama1B => "tinyllama-1.1b",
            Self::Llama2With7B => "llama-2-7b",
            Self::Qwen25With7B => "qwen2.5-7b",
        })
    }
}

impl ModelShape {
    /// The configuration of this shape.
    pub const fn config(self) -> ModelConfig {
        let (layer_count, hidden_dim, q_head_count, kv_head_count, mlp_dim, vocab_size) = match self
        {
            Self::Tiny => (6, 32, 4, 2, 64, 64),
            Self::M110 => (12, 768, 12, 12, 2048, 32_000),
            Self::TinyLlama1B => (22, 2048, 32, 4, 5632, 32_000),
            Self::Llama2With7B => (32, 4096, 32, 32, 11_008, 32_000),
            Self::Qwen25With7B => (28, 3584, 28, 4, 18_944, 152_064),
        };
        let qwen = matches!(self, Self::Qwen25With7B);
        ModelConfig {
            hidden_dim,
            mlp_dim,
            layer_count,
            q_head_count,
            kv_head_count,
            head_dim: hidden_dim / q_head_count,
            vocab_size,
            context_len_max: match self {
                Self::Tiny => 128,
                Self::Qwen25With7B => 32_768,
                Self::M110 | Self::TinyLlama1B | Self::Llama2With7B => 4096,
            },
            norm_epsilon: if qwen { 1e-6 } else { 1e-5 },
            rope: RopeConfig {
                theta: if qwen { 1e6 } else { 1e4 },
                scaling: RopeScaling::None,
            },
            qkv_bias: if qwen {
                QkvBias::Present
            } else {
                QkvBias::Absent
            },
            qk_norm: QkNorm::Absent,
            tied_head: false,
            bos: None,
            eos: Vec::new(),
        }
    }
}

/// A model, ready to compute.
#[derive(Debug)]
pub struct Model {
    /// Its shape and constants.
    pub config: ModelConfig,
    /// Its weights.
    pub decoder: Decoder,
    /// Its position embedding.
    pub rope: RopeTable,
    /// What identifies it between nodes.
    pub digest: ModelDigest,
    /// The shape of its KV cache.
    pub geometry: KvGeometry,
    /// Its chat template, if it has one.
    pub chat_template: Option<ChatTemplate>,
    tokenizer: Option<TextTokenizer>,
}

/// Largest `config.json` read, in bytes; published ones have a few thousand.
const CONFIG_BYTES_MAX: u64 = 1 << 20;
/// The seed of random weights: nodes that name the same shape hold the same model.
const DUMMY_SEED: u64 = 0;

impl Model {
    /// Loads a Hugging Face folder or a GGUF file onto a device.
    ///
    /// # Errors
    /// [`ModelError`] names the file and what is wrong with it.
    pub fn open(
        path: &Path,
        device: &Device,
        progress: impl FnMut(LoadProgress),
    ) -> Result<Self, ModelError> {
        if path.is_dir() {
            Self::open_folder(path, device, progress)
        } else {
            Self::open_gguf(path, device, progress)
        }
    }

    fn open_folder(
        folder: &Path,
        device: &Device,
        progress: impl FnMut(LoadProgress),
    ) -> Result<Self, ModelError> {
        let read = |name: &str, bytes_max| {
            let file = folder.join(name);
            read_within(&file, bytes_max).map_err(|source| ModelError::Io { file, source })
        };
        let config = ModelConfig::from_slice(&read("config.json", CONFIG_BYTES_MAX)?);
        let config = config.map_err(|source| ModelError::Config {
            folder: folder.join("config.json").display().to_string(),
            source,
        })?;
        let shown = folder.display().to_string();
        let checkpoint = Checkpoint::open(folder);
        let checkpoint = checkpoint.map_err(|source| ModelError::Checkpoint {
            folder: shown.clone(),
            source,
        })?;
        let tokenizer_bytes = read("tokenizer.json", TOKENIZER_BYTES_MAX)?;
        let parts = Parts {
            name: &shown,
            config,
            checkpoint,
            tokenizer_json: &tokenizer_bytes,
            chat_template: ChatTemplate::open(folder)?,
        };
        parts.load(device, progress)
    }

    fn open_gguf(
        path: &Path,
        device: &Device,
        progress: impl FnMut(LoadProgress),
    ) -> Result<Self, ModelError> {
        let file = FileBytes::map(path).map_err(|source| ModelError::Io {
            file: path.to_owned(),
            source,
        })?;
        let shown = path.display().to_string();
        let refused = |source| ModelError::Gguf {
            file: shown.clone(),
            source,
        };
        let gguf = Gguf::parse(&file).map_err(refused)?;
        let config = gguf.config().map_err(refused)?;
        let tokenizer_json = gguf.tokenizer_json().map_err(refused)?;
        let [bos, eos] = gguf.special_texts().map(str::to_owned);
        let source = gguf.chat_template().map_err(refused)?;
        let template = source.map(|source| ChatTemplate::new(source, bos, eos));
        let chat_template = template.transpose()?;
        let tensors = gguf.into_published_tensors(&config).map_err(refused)?;
        let mut checkpoint = Checkpoint::default();
        let added = checkpoint.add(file, tensors);
        added.map_err(|source| ModelError::Checkpoint {
            folder: shown.clone(),
            source,
        })?;
        let parts = Parts {
            name: &shown,
            config,
            checkpoint,
            tokenizer_json: tokenizer_json.as_bytes(),
            chat_template,
        };
        parts.load(device, progress)
    }

    /// Random weights of a named shape; the same on every node.
    pub fn dummy(shape: ModelShape, device: &Device) -> Self {
        Self::random(shape.config(), device, DUMMY_SEED)
    }

    /// Random weights of any shape from a seed.
    ///
    /// # Panics
    /// If the shape is beyond the limits of [`KvGeometry`].
    pub fn random(config: ModelConfig, device: &Device, seed: u64) -> Self {
        // A device's random numbers are one sequence for all threads: two models that are made at a time
        // would be neither's.
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let _alone = ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner);
        device.seed(seed);
        let named = format!("{config:?} {seed}");
        let digest = blake3::derive_key("edgeprompt 2026-11 random weights", named.as_bytes());
        Self {
            decoder: Decoder::init(&config, device).laid_out(),
            rope: RopeTable::new(&config.rope, config.head_dim),
            digest: ModelDigest::new(digest),
            geometry: config.geometry().expect("the shape is within the limits"),
            chat_template: None,
            tokenizer: None,
            config,
        }
    }

    /// The tokenizer.
    ///
    /// # Errors
    /// [`ModelError::NoTokenizer`] for random weights.
    pub fn tokenizer(&self) -> Result<&TextTokenizer, ModelError> {
        self.tokenizer.as_ref().ok_or(ModelError::NoTokenizer)
    }
}

/// What a model is made of, before its weights are on a device.
pub(crate) struct Parts<'a> {
    /// What errors call the model's folder or file.
    pub(crate) name: &'a str,
    pub(crate) config: ModelConfig,
    pub(crate) checkpoint: Checkpoint,
    pub(crate) tokenizer_json: &'a [u8],
    pub(crate) chat_template: Option<ChatTemplate>,
}

impl Parts<'_> {
    pub(crate) fn load(
        self,
        device: &Device,
        progress: impl FnMut(LoadProgress),
    ) -> Result<Model, ModelError> {
        let refused = |source| ModelError::Checkpoint {
            folder: self.name.to_owned(),
            source,
        };
        let decoder = Decoder::load(&self.config, &self.checkpoint, device, progress);
        let decoder = decoder.map_err(refused)?;
        let tokenizer = TextTokenizer::from_json(self.tokenizer_json, self.config.vocab_size);
        let tokenizer = tokenizer.map_err(|reason| TokenizerError::File {
            file: format!("{}/tokenizer.json", self.name),
            reason,
        })?;
        let geometry = self
            .config
            .geometry()
            .map_err(|source| ModelError::Config {
                folder: self.name.to_owned(),
                source: source.into(),
            })?;
        Ok(Model {
            decoder,
            rope: RopeTable::new(&self.config.rope, self.config.head_dim),
            digest: self.digest(),
            geometry,
            chat_template: self.chat_template,
            tokenizer: Some(tokenizer),
            config: self.config,
        })
    }

    /// BLAKE3 over what decides the numbers: the parsed configuration (not its spelling), every
    /// tensor as stored, and the tokenizer.
    fn digest(&self) -> ModelDigest {
        let mut hasher = blake3::Hasher::new_derive_key("edgeprompt 2026-11 model digest");
        hasher.update(format!("{:?}\n", self.config).as_bytes());
        self.checkpoint.hash_into(&mut hasher);
        hasher.update(&(self.tokenizer_json.len() as u64).to_le_bytes());
        hasher.update(self.tokenizer_json);
        hasher.finalize().into()
    }
}
