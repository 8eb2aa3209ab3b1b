//! `benchmarks serve`: a client that asks any server with OpenAI's API as `vllm bench serve` does,
//! with its flags, its definitions, its table and the keys of its JSON.

mod answer;
mod ask;
mod connector;
mod console;
pub(crate) mod data;
mod goodput;
mod http;
mod measured;
mod own_fields;
mod report;
mod sending;
mod server;
mod sse;

use std::io::IsTerminal;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow};
use clap::Args;
use edgeprompt_launch::{Exit, Failure};
use indicatif::{ProgressBar, ProgressStyle};
use time::OffsetDateTime;
use tokio::runtime::Runtime;

use crate::provenance::Provenance;
use crate::result_dir::ResultDir;
use ask::{AskArgs, Asking};
use console::Layout;
use data::{CloudText, DataArgs, Workload};
use goodput::Slos;
use http::HttpClient;
use measured::Measured;
use report::{ReportArgs, Setup};
use sending::{Ending, Run};
use server::{Server, ServerArgs, TokenCounter};

/// Threads that send and receive; the machine may have few, and the server may need them.
const THREADS: usize = 2;

/// Between two tries of a server that is not ready.
const RETRY_TIME: Duration = Duration::from_secs(1);

/// What the system is told after Ctrl-C, as shells do.
const INTERRUPTED: u8 = 130;

/// Arguments of `benchmarks serve`.
#[derive(Args)]
pub(crate) struct ServeArgs {
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    data: DataArgs,
    #[command(flatten)]
    ask: AskArgs,
    #[command(flatten)]
    report: ReportArgs,
    /// Most requests under way at a time; others wait, and their clock does not run
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    max_concurrency: Option<u32>,
    /// Requests before those that are measured
    #[arg(long, value_name = "N", default_value_t = 0,
        value_parser = clap::value_parser!(u32).range(..=100_000))]
    num_warmups: u32,
    /// How long to try until the server answers and a first request succeeds; 0 tries once
    #[arg(long, value_name = "SECONDS", default_value_t = 0,
        value_parser = clap::value_parser!(u32).range(..=86_400))]
    ready_check_timeout_sec: u32,
    /// Show no progress
    #[arg(long)]
    disable_tqdm: bool,
}

/// Measures, prints the table and writes the result; the exit code says what came of it.
pub(crate) fn run(args: &ServeArgs) -> ExitCode {
    match measure(args) {
        Ok(Ending::Complete) => ExitCode::SUCCESS,
        Ok(Ending::Interrupted) => ExitCode::from(INTERRUPTED),
        Err(failure) => failure.report("benchmarks"),
    }
}

/// A server and how it is asked.
struct Target {
    server: Server,
    counter: TokenCounter,
    asking: Arc<Asking>,
}

fn measure(args: &ServeArgs) -> Result<Ending, Failure> {
    let usage = |error: anyhow::Error| Failure::of(Exit::Usage)(error);
    let unreachable = |error: anyhow::Error| Failure::of(Exit::PeerUnreachable)(error);
    // Before a run of minutes, not at its end.
    let dir = args.report.results.open().map_err(usage)?;
    let provenance = Provenance::gather().map_err(usage)?;
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(THREADS)
        .enable_all()
        .build()
        .context("the async runtime does not start")
        .map_err(usage)?;
    let client = args.server.client().map_err(usage)?;
    let tokenizer = args.server.tokenizer().map_err(usage)?;
    let found = runtime.block_on(find(args, &client, tokenizer));
    let (server, counter) = found.map_err(unreachable)?;
    let (workload, cloud_text) = load(args, &dir, (&runtime, &counter)).map_err(usage)?;
    let target = Target {
        asking: Arc::new(
            args.ask
                .asking(args.server.backend, &server.model, cloud_text),
        ),
        server,
        counter,
    };
    for note in &workload.notes {
        println!("{note}");
    }
    runtime
        .block_on(warm_up(args, &target, &workload))
        .map_err(unreachable)?;
    let bar = progress_bar(args, workload.samples.len());
    let most = max_concurrency(args);
    let run = sending::send(&target.server, &target.asking, &workload, most, &bar);
    let run = runtime.block_on(run);
    bar.finish_and_clear();
    tell(args, &dir, (&target, &workload, run), provenance)
}

fn max_concurrency(args: &ServeArgs) -> Option<usize> {
    let most = args.max_concurrency?;
    usize::try_from(most).ok()
}

/// How long a server that is not ready is waited for.
struct Patience {
    ends: Instant,
}

impl Patience {
    fn of(args: &ServeArgs) -> Self {
        let patience = Duration::from_secs(args.ready_check_timeout_sec.into());
        Self {
            ends: Instant::now() + patience,
        }
    }

    /// Waits until the next try; false if there is none.
    async fn lasts(&self) -> bool {
        if Instant::now() + RETRY_TIME > self.ends {
            return false;
        }
        tokio::time::sleep(RETRY_TIME).await;
        true
    }
}

/// The server, and how tokens are counted if that is not known.
async fn find(
    args: &ServeArgs,
    client: &HttpClient,
    known: Option<TokenCounter>,
) -> Result<(Server, TokenCounter)> {
    let patience = Patience::of(args);
    let mut known = known;
    loop {
        let found = async {
            let server = args.server.find(client.clone()).await?;
            let counter = match known.take() {
                Some(counter) => counter,
                None => TokenCounter::of(&server).await?,
            };
            Ok((server, counter))
        };
        match found.await {
            Err(_) if patience.lasts().await => {}
            found => return found,
        }
    }
}

/// The requests, and the text that stands before each.
fn load(
    args: &ServeArgs,
    dir: &ResultDir,
    (runtime, counter): (&Runtime, &TokenCounter),
) -> Result<(Workload, Option<String>)> {
    let mut count = |text: &str| runtime.block_on(counter.count(text));
    let given = args.ask.cloud_prompt_text.as_ref();
    let text = given.map(|given| given.text(args.data.seed, &mut count));
    let text = text.transpose()?;
    if let (Some(CloudText::Generated(len)), Some(text)) = (given, &text) {
        let path = dir.write(&format!("cloud-prompt-{len}.txt"), text)?;
        println!("the cloud prompt of {len} tokens is in {}", path.display());
    }
    Ok((args.data.load(&mut count)?, text))
}

/// Asks until a first request succeeds, then the warm-up requests.
async fn warm_up(args: &ServeArgs, target: &Target, workload: &Workload) -> Result<()> {
    let (server, asking) = (&target.server, &target.asking);
    let Some(sample) = workload.samples.first() else {
        return Err(anyhow!("there is no request to send"));
    };
    let ask = || sending::ask(&server.client, &server.path, asking.body(sample));
    let patience = Patience::of(args);
    while let Err(reason) = ask().await {
        if !patience.lasts().await {
            return Err(anyhow!(
                "the test request to {} failed: {reason}; is the server ready, and are --endpoint, --model and --cloud-prompt right? --ready-check-timeout-sec waits for it",
                server.path
            ));
        }
    }
    let count = usize::try_from(args.num_warmups)?;
    let samples = workload.samples.iter().cycle().take(count).cloned();
    let warming = Workload {
        samples: samples.collect(),
        arrivals: vec![Duration::ZERO; count],
        origin: serde_json::Value::Null,
        notes: Vec::new(),
    };
    let hidden = ProgressBar::hidden();
    let run = sending::send(server, asking, &warming, max_concurrency(args), &hidden).await;
    match run.ending {
        Ending::Complete => Ok(()),
        Ending::Interrupted => Err(anyhow!("interrupted while warming up")),
    }
}

/// Prints the table and writes the result.
fn tell(
    args: &ServeArgs,
    dir: &ResultDir,
    (target, workload, run): (&Target, &Workload, Run),
    provenance: Provenance,
) -> Result<Ending, Failure> {
    let prompt_lens: Vec<_> = workload.samples.iter().map(|it| it.prompt_len).collect();
    let slos = Slos::of(&args.report.goodput);
    let measured = Measured::of(&run.outcomes, run.duration, &prompt_lens, slos.as_ref());
    let layout = Layout {
        max_concurrency: max_concurrency(args),
        request_rate: args.data.request_rate,
        metrics: &args.report.percentile_metrics,
        percentiles: &args.report.metric_percentiles,
    };
    if run.ending == Ending::Interrupted {
        let (ended, all) = (run.outcomes.len(), workload.samples.len());
        println!("interrupted: {ended} of {all} requests have ended");
    }
    print!("{}", console::failures(&measured));
    print!("{}", console::table(&measured, &layout));
    if args.report.save_result || args.report.append_result {
        let setup = setup(args, target, workload, provenance);
        let result = report::result(&measured, &run, &prompt_lens, &setup, &args.report);
        let name = report::file_name(&setup, &args.report);
        let written = match args.report.append_result {
            true => dir.append_json(&name, &result),
            false => dir.write_json(&name, &result),
        };
        let path = written.map_err(Failure::of(Exit::Usage))?;
        println!("written to {}", path.display());
    }
    if measured.completed == 0 && run.ending == Ending::Complete {
        let error = anyhow!("no request was answered: the reasons are above the table");
        return Err(Failure::of(Exit::PeerUnreachable)(error));
    }
    Ok(run.ending)
}

fn setup(args: &ServeArgs, target: &Target, workload: &Workload, provenance: Provenance) -> Setup {
    Setup {
        date: compact(OffsetDateTime::now_utc()),
        backend: args.server.backend.label(),
        model: args.server.model_id(&target.server).to_owned(),
        tokenizer: target.counter.label(),
        num_prompts: workload.samples.len(),
        request_rate: args.data.request_rate,
        burstiness: args.data.burstiness,
        max_concurrency: max_concurrency(args),
        seed: args.data.seed,
        dataset: workload.origin.clone(),
        provenance,
    }
}

/// `%Y%m%d-%H%M%S`.
fn compact(date: OffsetDateTime) -> String {
    let (year, month, day) = date.to_calendar_date();
    let (hour, minute, second) = date.to_hms();
    let month = u8::from(month);
    format!("{year:04}{month:02}{day:02}-{hour:02}{minute:02}{second:02}")
}

fn progress_bar(args: &ServeArgs, count: usize) -> ProgressBar {
    if args.disable_tqdm || !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let style = ProgressStyle::with_template("[{bar:30}] {pos}/{len} requests {elapsed} {per_sec}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(count as u64).with_style(style)
}
