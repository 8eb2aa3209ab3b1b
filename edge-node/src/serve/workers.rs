//! Arguments about devices that others lend this node, and the way in for them.

use std::net::SocketAddr;
use std::num::NonZeroUsize;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, anyhow};
use clap::Args;
use edgeprompt_engine::SpeedProbe;
use edgeprompt_launch::{Exit, Failure, say};
use edgeprompt_model::Model;
use edgeprompt_transport::{EdgeIdentity, Named};
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;

use crate::crew::foreman::{ForemanConfig, PlacementPolicy};
use crate::crew::gate::Gate;
use crate::crew::roster::Roster;
use crate::crew::{own_speed, wire};
use crate::serve::generator::Generator;

/// Devices that others lend this node.
#[derive(Args)]
pub(crate) struct WorkersArgs {
    /// Address where other edges of the same trust domain may lend this one their devices, to compute
    /// attention heads; UDP, port 0 takes a free one. Needs --worker or --workers-any
    #[arg(long, value_name = "ADDR", env = "EDGE_WORKER_LISTEN")]
    worker_listen: Option<SocketAddr>,
    /// Name of an edge that may lend its device, as `edge-node worker` and `edge-node join` print it; may
    /// be given several times. It sees hidden states, and so the users' text: the default is nobody
    #[arg(
        long = "worker",
        value_name = "NAME",
        value_delimiter = ',',
        env = "EDGE_WORKER"
    )]
    workers: Vec<String>,
    /// Let any edge of the trust domain lend its device and so see the users' text: whoever has, or ever
    /// had, a join token
    #[arg(long, env = "EDGE_WORKERS_ANY")]
    workers_any: bool,
    /// Seconds after which a worker that does not answer is taken for lost
    #[arg(
        long,
        value_name = "SECONDS",
        default_value_t = 10,
        value_parser = clap::value_parser!(u32).range(1..),
        env = "EDGE_WORKER_PATIENCE_S"
    )]
    worker_patience_s: u32,
    /// Tokens between two decisions about which device computes what
    #[arg(
        long,
        value_name = "TOKENS",
        default_value = "32",
        env = "EDGE_PLAN_EVERY"
    )]
    plan_every: NonZeroUsize,
    /// How heads and feed-forward slices are placed on this node and its workers
    #[arg(
        long,
        value_name = "POLICY",
        default_value = "best",
        env = "EDGE_PLACEMENT"
    )]
    placement: PlacementPolicy,
    /// How much of the time this node computes at most while workers are linked, in percent: the rest is
    /// for whatever else it does
    #[arg(
        long,
        value_name = "PERCENT",
        default_value_t = 100,
        value_parser = clap::value_parser!(u8).range(1..=100),
        env = "EDGE_OWN_SHARE"
    )]
    own_share: u8,
}

/// Workers that are let in, as long as this is not asked to end.
pub(crate) struct Admission {
    stop: oneshot::Sender<()>,
    gate: JoinHandle<()>,
    roster: Roster,
}

impl Admission {
    /// Who is there.
    pub(crate) const fn roster(&self) -> &Roster {
        &self.roster
    }

    /// Tells the workers that they are needed no more.
    pub(crate) async fn end(self) {
        // Dropping it is the word.
        drop(self.stop);
        // A task that panicked has said so.
        let _ = self.gate.await;
    }
}

impl WorkersArgs {
    /// Lets workers in, if that is asked for.
    ///
    /// # Errors
    /// [`Failure`] if the address cannot be listened on, or there is no identity.
    pub(crate) fn open(
        &self,
        runtime: &Runtime,
        (model, generator): (&Arc<Model>, &Generator),
        identity: impl FnOnce() -> Result<EdgeIdentity, Failure>,
    ) -> Result<Option<Admission>, Failure> {
        let Some(addr) = self.worker_listen else {
            return self.nobody();
        };
        let named = self.named()?;
        let identity = identity()?;
        let speed = own_speed(&SpeedProbe::new(&model.decoder.device()));
        let patience = Duration::from_secs(self.worker_patience_s.into());
        let config = ForemanConfig {
            plan_every: self.plan_every.get(),
            own_flops_per_second: speed * f64::from(self.own_share) / 100.0,
            own_percent: self.own_share,
            policy: self.placement,
            patience,
        };
        let roster = Roster::default();
        let shape = runtime.block_on(generator.lead(config, roster.clone()));
        let shape = shape.map_err(Failure::of(Exit::Usage))?;
        let _in_runtime = runtime.enter();
        let terms = (wire::setup(&shape, model.digest), patience);
        let gate = Gate::open(addr, (&identity, named), terms)
            .with_context(|| format!("--worker-listen {addr}"))
            .map_err(Failure::of(Exit::Usage))?;
        let addr = gate.addr().map_err(Failure::of(Exit::Usage))?;
        say(format_args!("listening for workers on {addr}\n"))?;
        let generator = generator.clone();
        let admit = move |newcomer| generator.admit(newcomer);
        let (stop, stopped) = oneshot::channel::<()>();
        let gate = runtime.spawn(gate.run(admit, async {
            // Dropping the other end is as good a word.
            let _ = stopped.await;
        }));
        Ok(Some(Admission { stop, gate, roster }))
    }

    /// Nobody is let in. Whoever names workers all the same means something else.
    fn nobody(&self) -> Result<Option<Admission>, Failure> {
        if self.workers.is_empty() && !self.workers_any {
            return Ok(None);
        }
        let error = anyhow!(
            "--worker and --workers-any say who may lend a device, and nobody can without --worker-listen ADDR, such as 0.0.0.0:4436"
        );
        Err(Failure::of(Exit::Usage)(error))
    }

    /// Who is let in.
    fn named(&self) -> Result<Named, Failure> {
        if self.workers_any {
            return Ok(Named::All);
        }
        if self.workers.is_empty() {
            let error = anyhow!(
                "--worker-listen lets nobody in: name each worker with --worker NAME, which `edge-node join` and `edge-node worker` print, or give --workers-any"
            );
            return Err(Failure::of(Exit::Usage)(error));
        }
        let named = Named::these(&self.workers);
        let named = named.context("--worker");
        named.map_err(Failure::of(Exit::Usage))
    }
}
