//! `edge-node serve`: starts everything, says where it listens, and ends gracefully.

use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use anyhow::{Context, anyhow};
use edgeprompt_launch::{Exit, Failure, say};
use edgeprompt_model::Model;
use edgeprompt_protocol::PromptName;
use edgeprompt_telemetry::exporter;
use edgeprompt_transport::{CloudEndpoint, LinkConfig};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::oneshot;
use tokio::task::JoinHandle;
use tokio::time::{sleep, timeout, timeout_at};

use crate::link;
use crate::model_question::{self, ModelWord};
use crate::prefill_speed::PrefillSpeed;
use crate::serve::access::RequestIds;
use crate::serve::args::{ServeArgs, mib};
use crate::serve::cloud_health::CloudHealth;
use crate::serve::connections::{CONNECTIONS_MAX, ClientPatience, Connections};
use crate::serve::filling::Filler;
use crate::serve::first_counts;
use crate::serve::generator::Generator;
use crate::serve::listening::{self, Security};
use crate::serve::neighbourly::Neighbourly;
use crate::serve::routes::router;
use crate::serve::segments::{CloudPrompts, SharedPromptError};
use crate::serve::server::{App, Capacity, Server};
use crate::serve::sessions::Node;
use crate::serve::sources::Sources;
use crate::serve::status_line;
use crate::serve::timelines::Timelines;
use crate::serve::workers::Admission;
use crate::uplink::Uplink;

/// Threads for sockets; what computes has threads of its own.
const ASYNC_THREADS: usize = 2;

/// How long answers under way may take to end once the server is told to stop.
const DRAIN_PATIENCE: Duration = Duration::from_secs(30);
/// How long the cloud may take to notice.
const CLOSE_PATIENCE: Duration = Duration::from_secs(2);

/// How long segments may take to get on the disk at the end.
const DISK_PATIENCE: Duration = Duration::from_secs(10);

/// How long the start may wait for the cloud's first word. It is asked before what is waited for anyway.
const FIRST_WORD_PATIENCE: Duration = Duration::from_secs(2);

/// Between two attempts to fetch a prompt at the start: the first pause, and the longest.
const PREFETCH_PAUSE: Duration = Duration::from_secs(1);
const PREFETCH_PAUSE_MAX: Duration = Duration::from_secs(30);

/// Between two foldings of histogram samples: they pile up meanwhile, a few bytes each.
const UPKEEP_PERIOD: Duration = Duration::from_secs(5);

/// Serves until the process is told to stop.
///
/// # Errors
/// [`Failure`] with the exit code of what went wrong.
pub fn run(args: &ServeArgs) -> Result<(), Failure> {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(ASYNC_THREADS)
        .enable_all()
        .build()
        .map_err(Failure::of(Exit::Usage))?;
    let (listener, addr) = runtime.block_on(listen(args))?;
    let app = Arc::new(App {
        callers: args.callers(addr)?,
        ids: RequestIds::default(),
        metrics: exporter::install().map_err(Failure::of(Exit::Usage))?,
        origins: args.origins(),
        server: OnceLock::new(),
    });
    first_counts::begin();
    let security = args.security()?;
    let scheme = scheme(&security, addr);
    let url = args.handover.url(scheme, addr)?;
    let (stop, stopped) = oneshot::channel::<()>();
    let connections = Connections::new(listener, CONNECTIONS_MAX, ClientPatience::default());
    let routes = router(Arc::clone(&app));
    let serving = runtime.spawn(listening::serve(connections, security, routes, async {
        // Dropping the other end is as good a word.
        let _ = stopped.await;
    }));
    runtime.spawn(keep_up(Arc::clone(&app)));
    let (server, ways) = load(args, &runtime, url)?;
    let server = app.server.get_or_init(|| server);
    let prompts = server.prompts.clone();
    let tally = server.generator.tally().clone();
    runtime.spawn(status_line::tell(tally, move || prompts.list().len()));
    for name in &server.prefetched {
        runtime.spawn(prefetch(server.prompts.clone(), name.clone()));
    }
    if let Some(period) = args.revalidation_period() {
        runtime.spawn(revalidate(server.prompts.clone(), period));
    }
    let neighbourly = be_neighbourly(args, &runtime, server)?;
    say(format_args!("listening on {scheme}://{addr}\n"))?;
    runtime
        .block_on(told_to_stop())
        .map_err(Failure::of(Exit::Usage))?;
    drop(stop);
    if let Some(neighbourly) = neighbourly {
        neighbourly.abort();
    }
    runtime.block_on(end(serving, ways, server));
    Ok(())
}

async fn listen(args: &ServeArgs) -> Result<(TcpListener, SocketAddr), Failure> {
    let host = (args.host.as_str(), args.port);
    let listened = async {
        let listener = TcpListener::bind(host).await?;
        let addr = listener.local_addr()?;
        Ok::<_, std::io::Error>((listener, addr))
    };
    listened
        .await
        .with_context(|| {
            let (host, port) = (&args.host, args.port);
            format!("cannot listen on {host}:{port}: choose another --host or --port")
        })
        .map_err(Failure::of(Exit::Usage))
}

/// What an address of the server begins with.
fn scheme(security: &Security, addr: SocketAddr) -> &'static str {
    match security {
        Security::Tls(_) => "https",
        Security::Clear => {
            if !addr.ip().is_loopback() {
                tracing::warn!(
                    "keys and private prompts cross the network in the clear: give --tls-cert and --tls-key, or put a proxy with TLS before this server"
                );
            }
            "http"
        }
    }
}

/// To be closed at the end.
struct Ways {
    /// To the cloud.
    uplink: Option<Uplink>,
    /// For workers.
    admission: Option<Admission>,
}

/// Loads everything that answers; also the ways to others.
fn load(args: &ServeArgs, runtime: &Runtime, url: String) -> Result<(Server, Ways), Failure> {
    let model = Arc::new(args.model.open()?);
    let capacity = Capacity::new(&model, args.capacity());
    if capacity.pool_len() == 0 {
        let error = anyhow!("--kv-cache-mib does not hold one block of this model: give more");
        return Err(Failure {
            exit: Exit::Usage,
            error,
        });
    }
    let sources = sources(args, runtime, &model)?;
    let uplink = sources.cloud.clone();
    let first_word = uplink.as_ref().map(|cloud| FirstWord {
        asking: runtime.spawn(model_question::ask(cloud.clone(), model.digest)),
        asked_at: Instant::now(),
        health: sources.health.clone(),
        cloud: cloud.clone(),
    });
    let speed = PrefillSpeed::measure(&model);
    let limits = capacity.engine_limits(args.max_num_seqs(), args.max_num_batched_tokens);
    let generator = Generator::start(Arc::clone(&model), limits);
    let generator = generator.map_err(Failure::of(Exit::Usage))?;
    let admission = args
        .workers
        .open(runtime, (&model, &generator), || args.identity())?;
    let filler = Filler::new(Arc::clone(&model), generator.clone(), speed);
    let prompts = CloudPrompts::new(sources, filler, mib(args.cloud_kv_mib));
    let (root, name) = args.root_and_name();
    if let Some(first_word) = first_word {
        runtime.block_on(first_word.wait(&args.cloud.addr, &model))?;
    }
    tracing::info!(
        name,
        max_model_len = capacity.model_len_max,
        private_tokens = capacity.pool_len(),
        "ready to generate"
    );
    let node = Node {
        model: Arc::clone(&model),
        generator: generator.clone(),
        prompts: prompts.clone(),
        speed,
        len_max: capacity.model_len_max,
        behind_len_max: limits.behind_len_max(),
    };
    let sessions = args.handover.open(runtime, || args.identity(), (node, url));
    let server = Server {
        model,
        name,
        root,
        created: SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| since.as_secs()),
        began_at: Instant::now(),
        capacity,
        generator,
        prompts,
        sessions: sessions?,
        uplink: uplink.clone(),
        workers: admission.as_ref().map(|it| it.roster().clone()),
        timelines: Timelines::default(),
        prefetched: args.cloud_prompts.clone(),
        seam: args.seam(),
        was_ready: OnceLock::new(),
    };
    Ok((server, Ways { uplink, admission }))
}

/// The first question to the cloud, which is asked while this edge gets ready.
struct FirstWord {
    asking: JoinHandle<ModelWord>,
    asked_at: Instant,
    health: CloudHealth,
    cloud: Uplink,
}

impl FirstWord {
    /// Waits a little for the answer, and takes it in whenever it comes.
    ///
    /// # Errors
    /// [`Failure`] if the cloud at `addr` says so early that it runs another model.
    async fn wait(mut self, addr: &str, model: &Model) -> Result<(), Failure> {
        let ours = model.digest;
        match timeout_at(
            (self.asked_at + FIRST_WORD_PATIENCE).into(),
            &mut self.asking,
        )
        .await
        {
            Ok(Ok(ModelWord::Other(theirs))) => {
                let (ours, theirs) = (ours.short(), theirs.short());
                let error = anyhow!(
                    "the cloud at {addr} runs model {theirs}, and --model is {ours}: give both nodes the same model files, name another cloud with --cloud, or give --local"
                );
                let exit = Exit::ModelMismatch;
                return Err(Failure { exit, error });
            }
            // A task that panicked has said so.
            Ok(word) => {
                if let Ok(word) = word {
                    self.health.heard(word, &self.cloud, ours);
                }
            }
            Err(_) => {
                tokio::spawn(async move {
                    if let Ok(word) = self.asking.await {
                        self.health.heard(word, &self.cloud, ours);
                    }
                });
            }
        }
        Ok(())
    }
}

fn sources(args: &ServeArgs, runtime: &Runtime, model: &Model) -> Result<Sources, Failure> {
    let needs_identity = !args.local || !args.cloud_prompts.is_empty() || args.neighbours.is_used();
    let identity = match needs_identity {
        true => Some(args.identity()?),
        // Only what is remembered depends on whose cloud it is.
        false => args.identity().ok(),
    };
    let Some(identity) = identity else {
        return Ok(Sources::default());
    };
    let codecs = args.wire.codecs()?;
    let dtype = codecs.smallest();
    let cloud = match args.local {
        true => None,
        false => Some(
            runtime
                .block_on(link::uplink(&args.cloud.addr, &identity))?
                .asking_for(dtype),
        ),
    };
    Ok(Sources {
        memory: args.memory.open(&identity, model),
        disk: args.cache.open(&identity).map(Arc::new),
        neighbours: runtime
            .block_on(args.neighbours.open(&identity))?
            .asking_for(dtype),
        health: match cloud {
            Some(_) => CloudHealth::unheard(),
            None => CloudHealth::default(),
        },
        cloud,
        codecs,
    })
}

/// Lets neighbours have the cloud prompts that are here, if that is asked for.
fn be_neighbourly(
    args: &ServeArgs,
    runtime: &Runtime,
    server: &Server,
) -> Result<Option<JoinHandle<()>>, Failure> {
    let Some(addr) = args.neighbours.peer_listen else {
        return Ok(None);
    };
    let identity = args.identity()?;
    let _in_runtime = runtime.enter();
    let endpoint = CloudEndpoint::bind_for_neighbours(addr, &identity, LinkConfig::default());
    let endpoint = endpoint
        .with_context(|| format!("--peer-listen {addr}"))
        .map_err(Failure::of(Exit::Usage))?;
    let addr = endpoint.local_addr().map_err(Failure::of(Exit::Usage))?;
    say(format_args!("listening for neighbours on {addr}\n"))?;
    let disk = server.prompts.disk();
    let neighbourly = Neighbourly::new(Arc::clone(&server.model), server.prompts.clone(), disk);
    Ok(Some(runtime.spawn(neighbourly.run(endpoint))))
}

/// Asks the cloud now and then what the names in memory mean. When it does so depends on nobody's
/// requests.
async fn revalidate(prompts: CloudPrompts, period: Duration) {
    loop {
        sleep(period).await;
        prompts.revalidate().await;
    }
}

/// Brings a prompt before anybody asks for it, however often that must be tried.
pub(crate) async fn prefetch(prompts: CloudPrompts, name: PromptName) {
    let mut pause = PREFETCH_PAUSE;
    while let Err(error) = prompts.get(&name).await {
        match error {
            SharedPromptError::TooLarge { .. } => {
                tracing::error!(%name, %error, "a cloud prompt will not be here: give more with --cloud-kv-mib");
                return;
            }
            // That is said once, and is so until the cloud is another one.
            SharedPromptError::OtherModel => {
                tracing::debug!(%name, "a cloud prompt is not here yet")
            }
            _ => tracing::warn!(%name, %error, "a cloud prompt is not here yet"),
        }
        sleep(pause).await;
        pause = (pause * 2).min(PREFETCH_PAUSE_MAX);
    }
}

async fn keep_up(app: Arc<App>) {
    loop {
        sleep(UPKEEP_PERIOD).await;
        app.metrics.run_upkeep();
    }
}

/// Returns once the process is told to stop, by a person or by a service manager.
pub(crate) async fn told_to_stop() -> std::io::Result<()> {
    #[cfg(unix)]
    {
        use tokio::signal::unix::{SignalKind, signal};
        let mut terminate = signal(SignalKind::terminate())?;
        tokio::select! {
            () = async { terminate.recv().await.unwrap_or_default() } => Ok(()),
            told = tokio::signal::ctrl_c() => told,
        }
    }
    #[cfg(not(unix))]
    tokio::signal::ctrl_c().await
}

/// Lets answers, fetches and writing to the disk cache end, unless the process is told to stop again.
async fn end(serving: JoinHandle<()>, ways: Ways, server: &Server) {
    tracing::info!("draining: no new requests");
    let drained = async {
        if timeout(DRAIN_PATIENCE, serving).await.is_err() {
            tracing::warn!("answers under way were cut off");
        }
        if let Some(uplink) = ways.uplink {
            uplink.close(CLOSE_PATIENCE).await;
        }
        if let Some(admission) = ways.admission {
            admission.end().await;
        }
        if let Some(sessions) = &server.sessions {
            sessions.end(CLOSE_PATIENCE).await;
        }
        server.prompts.settle(DISK_PATIENCE).await;
    };
    tokio::select! {
        () = drained => {}
        _ = told_to_stop() => tracing::warn!("told again to stop: ending at once"),
    }
}
