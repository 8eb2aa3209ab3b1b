//! `edge-node prompts`: the cloud prompts that a cloud serves by name.

use std::time::Duration;

use clap::Args;
use edgeprompt_launch::{Exit, Failure, say};
use edgeprompt_protocol::PromptEntry;
use edgeprompt_transport::EdgeIdentity;

use crate::cloud_prompt::CloudPromptError;
use crate::link::{self, CloudArgs};

/// Arguments of `edge-node prompts`.
#[derive(Args)]
pub struct PromptsArgs {
    #[command(flatten)]
    cloud: CloudArgs,
}

/// Asks a cloud for its prompts and prints them.
///
/// # Errors
/// [`Failure`] with the exit code of what went wrong.
pub fn run(args: &PromptsArgs) -> Result<(), Failure> {
    let identity = args.cloud.load_identity(link::JOIN_FIRST)?;
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .map_err(Failure::of(Exit::Usage))?;
    let entries = runtime.block_on(list(&args.cloud.addr, &identity))?;
    let mut page = format!("{:<24} {:>8}  PROMPT ID\n", "NAME", "TOKENS");
    for entry in entries {
        let (name, count) = (entry.name.as_str(), entry.token_count);
        page += &format!("{name:<24} {count:>8}  {}\n", entry.prompt);
    }
    say(page)
}

async fn list(cloud: &str, identity: &EdgeIdentity) -> Result<Vec<PromptEntry>, Failure> {
    let uplink = link::uplink(cloud, identity).await?;
    let listed = async {
        let link = uplink.link().await?;
        Ok(link.list_prompts().await?)
    };
    let listed: Result<_, CloudPromptError> = listed.await;
    uplink.close(Duration::ZERO).await;
    listed.map_err(link::cloud_failure)
}
