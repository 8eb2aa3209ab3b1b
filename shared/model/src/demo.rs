//! The model compiled into the program: a shop desk of about a million parameters, so that
//! everything can be tried without a download. `examples` holds the program that trained it.

use burn::tensor::Device;

use crate::checkpoint::Checkpoint;
use crate::config::ModelConfig;
use crate::model::{Model, ModelError, Parts};

/// What the errors of the built-in model call its folder.
const NAME: &str = "built-in demo model";

impl Model {
    /// The built-in demo model.
    ///
    /// # Errors
    /// None for the model that is committed; the tests load it.
    pub fn demo(device: &Device) -> Result<Self, ModelError> {
        let refused = |source| ModelError::Checkpoint {
            folder: NAME.to_owned(),
            source,
        };
        let config =
            ModelConfig::from_json(include_str!("../demo/config.json")).map_err(|source| {
                ModelError::Config {
                    folder: NAME.to_owned(),
                    source,
                }
            })?;
        let weights = include_bytes!("../demo/model.safetensors");
        let parts = Parts {
            name: NAME,
            config,
            checkpoint: Checkpoint::from_static(NAME, weights).map_err(refused)?,
            tokenizer_json: include_bytes!("../demo/tokenizer.json"),
            chat_template: None,
        };
        parts.load(device, |_| {})
    }
}
