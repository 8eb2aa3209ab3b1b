//! `benchmarks first-token`: the time to the first token of the first request on a cloud prompt, of the
//! second, and of the first after a restart of the edge, with the bytes that each had from the cloud.
//!
//! The cloud runs in this process. The edge is `edge-node serve` in a process of its own, with a
//! cache that is empty at the start of each round.

mod edge;

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use clap::Args;
use cloud_node::compute::PromptComputer;
use cloud_node::library::PromptLibrary;
use cloud_node::prompt_limit::PromptLimit;
use cloud_node::service::{CloudService, PublicPrompts};
use edgeprompt_launch::ModelArgs;
use edgeprompt_model::Model;
use edgeprompt_testkit::emulator::EmulatorHandle;
use edgeprompt_transport::{CloudIdentity, EdgeIdentity, INVITATION_LIFETIME, LinkConfig};
use serde::Serialize;
use serde_json::json;

use crate::provenance::Provenance;
use crate::result_dir::ResultDirArgs;
use crate::statistics::Spread;
use crate::transfer::link_args::LinkArgs;
use edge::Edge;

/// What the cloud prompt is called.
const NAME: &str = "desk";
/// What it says unless told otherwise.
const TEXT: &str = include_str!("../../edge-node/src/demo/cloud_prompt.txt");
/// Bytes of the cloud's store.
const STORE_BYTES_MAX: usize = 8 << 30;

/// Arguments of `first-token`.
#[derive(Args)]
pub(crate) struct FirstTokenArgs {
    #[command(flatten)]
    model: ModelArgs,
    /// File of the cloud prompt's text [default: the demo's]
    #[arg(long, value_name = "FILE")]
    cloud_text: Option<PathBuf>,
    /// Rounds, each from an empty cache
    #[arg(long, default_value_t = 5)]
    rounds: usize,
    #[command(flatten)]
    link: LinkArgs,
    #[command(flatten)]
    results: ResultDirArgs,
}

/// The three requests of a round.
const WHICH: [&str; 3] = ["first request", "second request", "after a restart"];

/// What one request took and had.
#[derive(Clone, Debug, Serialize)]
pub(crate) struct Sample {
    /// From sending it to the first event with a token.
    pub(crate) ttft_ms: f64,
    /// Bytes of keys and values that came over the network for it.
    pub(crate) cloud_bytes: u64,
    /// Where the keys and values came from.
    pub(crate) kv_source: String,
    /// The answer, to compare.
    #[serde(skip)]
    pub(crate) text: String,
}

/// One of the three requests over all rounds.
#[derive(Serialize)]
struct Row {
    request: &'static str,
    ttft_ms: Spread,
    samples: Vec<Sample>,
}

/// Measures, prints a table and writes it down.
pub(crate) fn run(args: &FirstTokenArgs) -> Result<()> {
    ensure!(args.rounds > 0, "at least one round is needed");
    let result_dir = args.results.open()?;
    let device = args.model.device;
    let provenance = Provenance::gather()?.computing_on(&[device]);
    let model = Arc::new(args.model.open()?);
    let dir = tempfile::tempdir()?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()?;
    let (cloud, token_count) = runtime.block_on(start_cloud(args, &model, dir.path()))?;
    let mut rounds = Vec::new();
    for round in 0..args.rounds {
        let cache = dir.path().join(format!("cache-{round}"));
        let start = || Edge::start(&args.model, &cloud.addr, (dir.path(), &cache));
        let edge = start()?;
        let (first, second) = (edge.ask(NAME)?, edge.ask(NAME)?);
        edge.wait_until_on_disk()?;
        drop(edge);
        let restarted = start()?.ask(NAME)?;
        ensure!(
            first.text == second.text && first.text == restarted.text,
            "round {round}: the three answers differ"
        );
        rounds.push([first, second, restarted]);
    }
    let rows = (0..WHICH.len()).map(|index| {
        let samples: Vec<Sample> = rounds.iter().map(|round| round[index].clone()).collect();
        Row {
            request: WHICH[index],
            ttft_ms: Spread::of(samples.iter().map(|sample| sample.ttft_ms)),
            samples,
        }
    });
    let rows: Vec<_> = rows.collect();
    print(&rows, token_count);
    let report = json!({
        "provenance": provenance,
        "model_digest": model.digest.to_string(),
        "device": device.to_string(),
        "threads": rayon::current_num_threads(),
        "cloud_token_count": token_count,
        "link": args.link.spec().map(|link| format!("{link:?}")),
        "seed": args.link.seed(),
        "rows": rows,
    });
    let path = result_dir.write_json("first-token.json", &report)?;
    println!("written to {}", path.display());
    Ok(())
}

fn print(rows: &[Row], token_count: usize) {
    println!("cloud prompt of {token_count} tokens; TTFT in ms: median (smallest to largest)\n");
    println!("{:<16} {:>24} {:>12}  KV FROM", "", "TTFT", "CLOUD BYTES");
    for row in rows {
        let Spread { median, min, max } = row.ttft_ms;
        let ttft = format!("{median:.1} ({min:.1} to {max:.1})");
        let bytes = row.samples.iter().map(|sample| sample.cloud_bytes).max();
        let mut sources: Vec<_> = row.samples.iter().map(|it| it.kv_source.as_str()).collect();
        sources.dedup();
        let (request, bytes, sources) = (row.request, bytes.unwrap_or(0), sources.join(", "));
        println!("{request:<16} {ttft:>24} {bytes:>12}  {sources}");
    }
}

/// A cloud that serves one prompt, and where an edge finds it.
struct Cloud {
    addr: String,
    /// Both stop when dropped.
    _running: cloud_node::running::RunningCloud,
    _link: Option<EmulatorHandle>,
}

/// Starts the cloud and joins an edge, whose identity is kept in `dir`.
async fn start_cloud(
    args: &FirstTokenArgs,
    model: &Arc<Model>,
    dir: &Path,
) -> Result<(Cloud, usize)> {
    let text = match &args.cloud_text {
        Some(file) => std::fs::read_to_string(file)
            .with_context(|| format!("{} is not read", file.display()))?,
        None => TEXT.to_owned(),
    };
    let mut library = PromptLibrary::default();
    let token_count = library.add(NAME.parse()?, &text, model)?;
    PromptLimit::of_model(model).check(token_count)?;
    let service = CloudService {
        computer: PromptComputer::start(Arc::clone(model), STORE_BYTES_MAX),
        library: library.into(),
        public_prompts: PublicPrompts::Refused,
    };
    let identity = CloudIdentity::in_memory()?;
    EdgeIdentity::join(&identity.invite(INVITATION_LIFETIME)?)?.save(&dir.join("identity"))?;
    let loopback = (Ipv4Addr::LOCALHOST, 0).into();
    let running = service.start(loopback, &identity, LinkConfig::default())?;
    let link = args.link.emulate(running.addr())?;
    let addr = link
        .as_ref()
        .map_or_else(|| running.addr(), EmulatorHandle::addr);
    let cloud = Cloud {
        addr: addr.to_string(),
        _running: running,
        _link: link,
    };
    Ok((cloud, token_count))
}
