//! `edge-node worker`: lends this device to another edge of the same trust domain.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow};
use clap::Args;
use edgeprompt_engine::{Shard, SpeedProbe};
use edgeprompt_launch::{Exit, Failure, identity_dir, say};
use edgeprompt_model::{ComputeDevice, Model};
use edgeprompt_transport::{
    ConnectError, EdgeIdentity, JoinToken, LinkConfig, PeerEndpoint, PeerLink,
};
use tokio::sync::oneshot;
use tokio::time::sleep;

use crate::crew::lending::DeviceMemory;
use crate::crew::own_speed;
use crate::crew::work::{Lent, WorkError, work};
use crate::link;
use crate::serve::told_to_stop;

/// Between two attempts to reach a leader that was lost: the first pause, and the longest.
const PAUSE: Duration = Duration::from_millis(200);
const PAUSE_MAX: Duration = Duration::from_secs(10);

/// How long a leader may take to find another device for what this one does.
const LEAVE_PATIENCE: Duration = Duration::from_secs(30);

/// Arguments of `edge-node worker`.
#[derive(Args)]
pub struct WorkerArgs {
    /// The edge to lend this device to: its --worker-listen. It belongs to the same trust domain, and
    /// this device sees the text of its users
    #[arg(long, value_name = "ADDR", env = "EDGE_LEADER")]
    leader: String,
    /// Join the trust domain first, with a token that `cloud-node invite` printed; of no effect where an
    /// identity is there already
    // Parsed later: a parse error here would print the token, which holds a key.
    #[arg(long, value_name = "TOKEN", env = "EDGE_JOIN", hide_env_values = true)]
    join: Option<String>,
    /// Folder of this edge's identity [default: the XDG configuration folder]
    #[arg(long, value_name = "DIR", env = "EDGE_IDENTITY")]
    identity: Option<PathBuf>,
    /// What to compute on: flex (the processor), wgpu or cuda
    #[arg(
        long,
        value_name = "DEVICE",
        default_value = "flex",
        env = "EDGE_DEVICE"
    )]
    device: ComputeDevice,
    /// A copy of the leader's model, so that weights need not be sent: a Hugging Face folder or a GGUF
    /// file
    #[arg(long, value_name = "PATH", env = "EDGE_MODEL")]
    model: Option<PathBuf>,
    /// Memory to lend to weights, keys and values, in MiB
    #[arg(
        long,
        value_name = "MIB",
        default_value_t = 2048,
        value_parser = clap::value_parser!(u32).range(1..),
        env = "EDGE_MEMORY_MIB"
    )]
    memory_mib: u32,
    /// How much of the time to compute at most, in percent: the rest is for whatever else this device
    /// does
    #[arg(
        long,
        value_name = "PERCENT",
        default_value_t = 100,
        value_parser = clap::value_parser!(u8).range(1..=100),
        env = "EDGE_SHARE"
    )]
    share: u8,
}

/// Lends this device until the process is told to stop.
///
/// # Errors
/// [`Failure`] with the exit code of what went wrong.
pub fn run(args: &WorkerArgs) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .map_err(Failure::of(Exit::Usage))?;
    let identity = args.identity()?;
    let device = args.device.open().map_err(Failure::of(Exit::Usage))?;
    let model = match &args.model {
        None => None,
        Some(path) => {
            let model = Model::open(path, &device, |_| {});
            Some(Arc::new(model.map_err(Failure::of(Exit::ModelMismatch))?))
        }
    };
    let lent = Lent {
        flops_per_second: own_speed(&SpeedProbe::new(&device)),
        memory_bytes: u64::from(args.memory_mib) << 20,
        percent: args.share,
        model,
        device_memory: match args.device {
            ComputeDevice::Flex => DeviceMemory::of_this_machine,
            // A graphics processor has memory of its own, and says nothing of it.
            _ => || None,
        },
    };
    runtime.block_on(async {
        let any = SocketAddr::from((Ipv4Addr::UNSPECIFIED, 0));
        let endpoint = PeerEndpoint::bind_for_work(any, &identity, LinkConfig::default());
        let endpoint = endpoint.map_err(Failure::of(Exit::Usage))?;
        let first = args.dial(&endpoint).await?;
        say(format_args!("lending this device to {}\n", first.addr()))?;
        let empty = |shape, model| Shard::empty(shape, model, &device);
        lend(args, (&endpoint, first), &lent, &empty).await
    })
}

/// For as long as it is not told to stop; a leader that is lost is looked for again.
async fn lend(
    args: &WorkerArgs,
    (endpoint, first): (&PeerEndpoint, PeerLink),
    lent: &Lent,
    empty: &(impl Fn(edgeprompt_engine::ShardShape, Option<Arc<Model>>) -> Shard + Sync),
) -> Result<(), Failure> {
    let mut link = Some(first);
    let mut pause = PAUSE;
    loop {
        if let Some(link) = link.take() {
            let began = Instant::now();
            match lend_once(link, lent, empty).await {
                Ended::Stopped => return Ok(()),
                Ended::ByLeader(Ok(())) => {}
                Ended::ByLeader(Err(error)) => tracing::warn!(%error, "the leader is lost"),
            }
            // One that takes it and ends at once is asked ever less often.
            if began.elapsed() > PAUSE_MAX {
                pause = PAUSE;
            }
        }
        let again = async {
            sleep(pause).await;
            args.dial(endpoint).await
        };
        let again = tokio::select! {
            _ = told_to_stop() => return Ok(()),
            again = again => again,
        };
        pause = (pause * 2).min(PAUSE_MAX);
        match again {
            Ok(again) => {
                tracing::info!(leader = %again.addr(), "lending this device again");
                link = Some(again);
            }
            Err(failure) => {
                tracing::debug!(error = %failure.error, "the leader is not there");
            }
        }
    }
}

enum Ended {
    Stopped,
    ByLeader(Result<(), WorkError>),
}

async fn lend_once(
    link: PeerLink,
    lent: &Lent,
    empty: &(impl Fn(edgeprompt_engine::ShardShape, Option<Arc<Model>>) -> Shard + Sync),
) -> Ended {
    let (leave, left) = oneshot::channel();
    let mut leave = Some(leave);
    let working = work(link, lent.clone(), empty, left);
    tokio::pin!(working);
    tokio::select! {
        ended = &mut working => return Ended::ByLeader(ended),
        _ = told_to_stop() => {
            tracing::info!("leaving: the leader finds another device for what this one does");
            if let Some(leave) = leave.take() {
                // Fails only if the work has ended already.
                let _ = leave.send(());
            }
        }
    }
    tokio::select! {
        ended = &mut working => {
            if let Err(error) = ended {
                tracing::debug!(%error, "the link ended");
            }
        }
        _ = told_to_stop() => tracing::warn!("told again to stop: leaving at once"),
        () = sleep(LEAVE_PATIENCE) => tracing::warn!("the leader found no other device: leaving"),
    }
    Ended::Stopped
}

impl WorkerArgs {
    fn identity(&self) -> Result<EdgeIdentity, Failure> {
        let dir = identity_dir(self.identity.as_ref(), "edge")?;
        let Some(token) = self
            .join
            .as_ref()
            .filter(|_| !EdgeIdentity::file(&dir).exists())
        else {
            let advice = "give --join TOKEN, with a token that `cloud-node invite` printed";
            return link::load_identity(self.identity.as_ref(), advice);
        };
        let token: JoinToken = token.parse().map_err(Failure::of(Exit::Usage))?;
        let identity = EdgeIdentity::join(&token).map_err(Failure::of(Exit::VerificationFailed))?;
        identity.save(&dir).map_err(Failure::of(Exit::Usage))?;
        Ok(identity)
    }

    async fn dial(&self, endpoint: &PeerEndpoint) -> Result<PeerLink, Failure> {
        let leader = &self.leader;
        let addrs = tokio::net::lookup_host(leader)
            .await
            .with_context(|| {
                format!(
                    "--leader {leader} is no address like 10.0.0.7:4436, or its name is not known"
                )
            })
            .map_err(Failure::of(Exit::Usage))?;
        let mut refused: Option<ConnectError> = None;
        for addr in addrs {
            match endpoint.connect(addr).await {
                Ok(link) => return Ok(link),
                Err(error) => refused = Some(error),
            }
        }
        let error = match refused {
            Some(error) => anyhow::Error::from(error).context(format!(
                "nobody at {leader} takes this device: is that edge's --worker-listen, and is it of the same trust domain?"
            )),
            None => anyhow!("--leader {leader} has no address"),
        };
        let exit = Exit::PeerUnreachable;
        Err(Failure { exit, error })
    }
}
