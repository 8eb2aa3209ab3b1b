//! The cloud process of `benchmarks pipeline`: the product's cloud, told when to store a prompt.

use std::net::Ipv4Addr;
use std::sync::Arc;

use anyhow::Result;
use clap::Args;
use cloud_node::compute::PromptComputer;
use cloud_node::job_queue::EdgeName;
use cloud_node::library::ServedLibrary;
use cloud_node::service::{CloudService, PublicPrompts};
use edgeprompt_kv::{KvDtype, LayerIndex, TokenId};
use edgeprompt_launch::ModelArgs;
use edgeprompt_model::Model;
use edgeprompt_transport::{CloudIdentity, INVITATION_LIFETIME, LinkConfig};
use tokio::runtime::Runtime;

use super::busy::BusyThreads;
use super::messages::{CloudReady, Store, Stored};
use crate::children;

/// Prompts that the store holds: the one asked for again and again, and the one being computed.
/// With a fresh prompt each time, older ones make room.
const PROMPTS_STORED: usize = 2;

/// Arguments of the cloud process.
#[derive(Args)]
pub(crate) struct CloudArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// Tokens of the longest prompt
    #[arg(long)]
    prompt_len_max: usize,
}

/// Serves until standard input ends.
pub(crate) fn run(args: &CloudArgs) -> Result<()> {
    let model = Arc::new(args.model.open()?);
    let geometry = &model.geometry;
    let layer_bytes = geometry.layer_bytes(args.prompt_len_max, KvDtype::F32);
    let store_bytes_max = PROMPTS_STORED * layer_bytes * model.decoder.layers().len();
    let computer = PromptComputer::start(Arc::clone(&model), store_bytes_max);
    let service = CloudService {
        computer: Arc::clone(&computer),
        library: ServedLibrary::default(),
        public_prompts: PublicPrompts::Accepted,
    };
    let runtime = super::network_runtime()?;
    let identity = CloudIdentity::in_memory()?;
    let running = runtime.block_on(async {
        let loopback = (Ipv4Addr::LOCALHOST, 0).into();
        service.start(loopback, &identity, LinkConfig::default())
    })?;
    let ready = CloudReady {
        addr: running.addr(),
        join_token: identity.invite(INVITATION_LIFETIME)?.to_string(),
        model_digest: model.digest.to_string(),
        geometry: *geometry,
    };
    children::serve(ready, |Store(spec): Store| {
        let tokens = spec.tokens(model.config.vocab_size).into();
        store(&runtime, (&computer, &model), &tokens)
    })
}

/// Computes a prompt, unless it is there, and waits until it is stored.
fn store(
    runtime: &Runtime,
    (computer, model): (&PromptComputer, &Model),
    tokens: &Arc<[TokenId]>,
) -> Result<Stored> {
    let busy = BusyThreads::start();
    let mut served = computer.serve(&EdgeName::from("benchmark"), tokens, KvDtype::F32)?;
    let last = LayerIndex(model.geometry.layer_count() - 1);
    runtime.block_on(served.layer(last))?;
    let busy_threads = busy.so_far();
    Ok(Stored { busy_threads })
}
