//! What an edge asks of a cloud: public facts only.

use edgeprompt_kv::{KvDtype, KvGeometry, LayerRange, ModelDigest};
use serde::{Deserialize, Serialize};

use crate::InvalidMessage;
use crate::invalid::check_layers;
use crate::prompt::PromptRef;

/// Tells the fetches of one link apart; the edge chooses it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(transparent)]
pub struct FetchId(pub u64);

/// Everything an edge can send to a cloud.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum CloudRequest {
    /// Send the KV of a cloud prompt.
    Fetch(Fetch),
    /// List the prompts served by name.
    ListPrompts,
}

/// A request for layers of a cloud prompt's KV.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fetch {
    /// The edge's number for this fetch; every layer stream repeats it.
    pub fetch: FetchId,
    /// The model both nodes must run.
    pub model: ModelDigest,
    /// The prompt.
    pub prompt: PromptRef,
    /// The layers, or all of them.
    pub layers: Option<LayerRange>,
    /// The number format wanted.
    pub dtype: KvDtype,
}

impl CloudRequest {
    pub(crate) fn check(&self) -> Result<(), InvalidMessage> {
        match self {
            Self::Fetch(fetch) => fetch.check(),
            Self::ListPrompts => Ok(()),
        }
    }
}

impl Fetch {
    fn check(&self) -> Result<(), InvalidMessage> {
        self.prompt.check()?;
        self.layers.map_or(Ok(()), |layers| {
            check_layers(layers, KvGeometry::LAYER_COUNT_MAX)
        })
    }
}
