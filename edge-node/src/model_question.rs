//! The one question that tells which model a cloud runs: a fetch of the prompt without tokens, which
//! no cloud has. A cloud of the same model says so, another one names its own. Nothing is computed
//! for it, and it is the same whatever anybody has asked here.

use edgeprompt_kv::{KvDtype, ModelDigest, PromptId};
use edgeprompt_protocol::{Fetch, PromptRef, Refusal};
use edgeprompt_transport::FetchError;

use crate::cloud_prompt::{CloudPromptError, Loss};
use crate::uplink::Uplink;

/// What a cloud says of its model.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum ModelWord {
    /// It runs the one that was asked for.
    Same,
    /// It runs this one.
    Other(ModelDigest),
    /// It says nothing.
    Nothing(Loss),
}

/// Asks a cloud whether it runs `model`.
pub(crate) async fn ask(cloud: Uplink, model: ModelDigest) -> ModelWord {
    match fetch(&cloud, model).await {
        Err(CloudPromptError::Fetch(FetchError::Refused(Refusal::ModelMismatch { cloud }))) => {
            ModelWord::Other(cloud)
        }
        Err(CloudPromptError::Fetch(FetchError::DigestMismatch { answered, .. })) => {
            ModelWord::Other(answered)
        }
        // The model is compared before anything else.
        Ok(()) | Err(CloudPromptError::Fetch(FetchError::Refused(_))) => ModelWord::Same,
        Err(error) => ModelWord::Nothing(error.loss()),
    }
}

/// Whether a fetch is the question.
pub(crate) fn is_asked_by(fetch: &Fetch) -> bool {
    fetch.prompt == PromptRef::Id(nobodys(&fetch.model))
}

async fn fetch(cloud: &Uplink, model: ModelDigest) -> Result<(), CloudPromptError> {
    let link = cloud.link().await?;
    let fetch = Fetch {
        fetch: link.next_fetch_id(),
        model,
        prompt: PromptRef::Id(nobodys(&model)),
        layers: None,
        dtype: KvDtype::F32,
    };
    link.fetch(fetch).await?;
    Ok(())
}

/// The prompt that nobody has.
fn nobodys(model: &ModelDigest) -> PromptId {
    PromptId::of(model, &[])
}
