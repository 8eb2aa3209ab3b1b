//! Edges to move between: a cloud in this process and serving edges as processes of their own, on loopback, with the built-in
//! model. An edge is this program, started again with other arguments.

use std::io::{BufRead, BufReader};
use std::net::Ipv4Addr;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use burn::tensor::Device;
use clap::Parser;
use cloud_node::compute::PromptComputer;
use cloud_node::library::PromptLibrary;
use cloud_node::running::RunningCloud;
use cloud_node::service::{CloudService, PublicPrompts};
use edge_node::serve::{self, ServeArgs};
use edgeprompt_model::Model;
use edgeprompt_transport::{CloudIdentity, EdgeIdentity, INVITATION_LIFETIME, LinkConfig};
use edgeprompt_ue_client::{EdgeUrl, Event, Session};
use tempfile::TempDir;

/// What makes this program an edge.
const EDGE: &str = "serve-as-an-edge";

/// Memory for the keys and values of the cloud's prompts.
const STORE_BYTES_MAX: usize = 64 << 20;

const CLOUD_PROMPT: &str = "shop-desk";
const CLOUD_TEXT: &str = "You work at the shop desk. Begin every answer with \"Ahoy\".\n\
                          The teal plan costs 57 coins.\nThe plum plan costs 33 coins.\n";

#[derive(Parser)]
struct EdgeCli {
    #[command(flatten)]
    serve: ServeArgs,
}

/// Serves as an edge if this process was started as one: the first thing that `main` does.
pub fn served() -> Option<ExitCode> {
    let mut args = std::env::args_os();
    let program = args.next()?;
    if args.next()? != EDGE {
        return None;
    }
    let cli = EdgeCli::parse_from([program].into_iter().chain(args));
    Some(match serve::run(&cli.serve) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(EDGE),
    })
}

/// A serving edge. Dropping it ends it.
pub struct Edge {
    /// Where users reach it.
    pub url: EdgeUrl,
    /// Where other edges bring sessions.
    pub target: String,
    process: Child,
}

/// All of them. Dropping them ends them.
pub struct Edges {
    /// In the order of their numbers.
    pub edges: Vec<Edge>,
    _cloud: RunningCloud,
    _dir: TempDir,
}

impl Edges {
    /// Starts a cloud and `count` edges of its trust domain, whose sessions may move.
    ///
    /// # Errors
    /// If a process does not start, with what it said on standard error.
    pub fn start(count: usize) -> Result<Self> {
        let model = Arc::new(Model::demo(&Device::flex())?);
        let mut library = PromptLibrary::default();
        library.add(CLOUD_PROMPT.parse()?, CLOUD_TEXT, &model)?;
        let service = CloudService {
            computer: PromptComputer::start(model, STORE_BYTES_MAX),
            library: library.into(),
            public_prompts: PublicPrompts::Accepted,
        };
        let identity = CloudIdentity::in_memory()?;
        let listen = (Ipv4Addr::LOCALHOST, 0).into();
        let cloud = service.start(listen, &identity, LinkConfig::default())?;
        let dir = tempfile::tempdir()?;
        let edge = |index: usize| {
            let folder = dir.path().join(format!("edge-{index}"));
            EdgeIdentity::join(&identity.invite(INVITATION_LIFETIME)?)?.save(&folder)?;
            Edge::start(&cloud.addr().to_string(), &folder)
        };
        let edges = (0..count).map(edge).collect::<Result<_>>()?;
        Ok(Self {
            edges,
            _cloud: cloud,
            _dir: dir,
        })
    }
}

/// The whole answer of a user who stays.
///
/// # Errors
/// If the session is lost.
pub async fn whole(mut session: Session) -> Result<String> {
    let mut text = String::new();
    while let Some(event) = session.next().await {
        match event {
            Event::Text(piece) => text += &piece.text,
            Event::Moved(_) | Event::Ended(_) => {}
            Event::Failed(lost) => return Err(lost.into()),
        }
    }
    Ok(text)
}

impl Edge {
    fn start(cloud: &str, identity: &Path) -> Result<Self> {
        let model = Path::new(env!("CARGO_MANIFEST_DIR")).join("../shared/model/demo");
        let mut process = Command::new(std::env::current_exe()?)
            .args([EDGE, "--cloud", cloud, "--port", "0", "--model"])
            .arg(model)
            .arg("--identity")
            .arg(identity)
            .args(["--cloud-prompt", CLOUD_PROMPT])
            .args(["--handover-listen", "127.0.0.1:0", "--handover-target", "*"])
            .args(["--no-remembered", "--no-disk-cache"])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()?;
        let stdout = process.stdout.take().context("it has no output")?;
        let (mut target, mut url) = (None, None);
        for line in BufReader::new(stdout).lines().map_while(Result::ok) {
            let after = |prefix| line.strip_prefix(prefix).map(str::to_owned);
            target = target.or_else(|| after("listening for sessions on "));
            url = after("listening on ");
            if url.is_some() {
                break;
            }
        }
        let (Some(url), Some(target)) = (url, target) else {
            // It may have failed; if not, nobody needs it.
            let _ = process.kill();
            return Err(anyhow!("an edge does not listen"));
        };
        let url = url.parse()?;
        Ok(Self {
            url,
            target,
            process,
        })
    }
}

impl Drop for Edge {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}
