//! Brings in a public prompt whose tokens are known, as is planned: from the cloud as far as that is
//! sooner, computed here otherwise.

use std::sync::Arc;

use edgeprompt_kv::TokenId;
use edgeprompt_model::Model;
use edgeprompt_protocol::PromptRef;

use crate::answer::Cloud;
use crate::cloud_prompt::{CloudPrompt, CloudPromptError};
use crate::planner::{FromCloud, Job, Plan, Planner, Tokens, Ways};
use crate::uplink::Uplink;
use crate::wire_codec::Codecs;

/// The layers of a prompt: what is worth asking the cloud for is on its way, the rest is this edge's
/// to compute.
///
/// # Errors
/// [`CloudPromptError`] if the cloud was asked in vain.
pub async fn obtain(
    planner: &Planner,
    uplink: &Uplink,
    model: &Arc<Model>,
    (prompt, tokens): (PromptRef, Vec<TokenId>),
) -> Result<(Cloud, Option<Plan>), CloudPromptError> {
    let ways = Ways {
        cloud: Some(FromCloud {
            codecs: Codecs::Only(uplink.dtype()),
            speed: uplink.fresh_estimate().into(),
        }),
        tokens: Tokens::Known,
        ..Ways::default()
    };
    let plan = planner.plan(&Job::new(model.geometry, tokens.len()), &ways);
    let first = plan.as_ref().map(Plan::first_to_fetch).unwrap_or_default();
    if first.0 == model.geometry.layer_count() {
        return Ok((Cloud::Here { tokens }, plan));
    }
    let fetched = CloudPrompt::fetch_from(uplink, model, prompt, first);
    Ok((Cloud::Arriving(fetched.await?), plan))
}
