//! `benchmarks soak`: many streaming users for minutes, while the cloud is killed, the link is cut and
//! the disk cache is damaged and filled. No answer may fail or differ, no memory may stay behind.
//!
//! Cloud and edge are `serve` in processes of their own, with the link emulator between them.

mod disk;
mod nodes;
mod questions;
mod report;
mod schedule;
mod users;
mod verdict;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use clap::Args;
use edgeprompt_launch::{ModelArgs, progress_bar};
use indicatif::ProgressBar;

use crate::pipeline::plan::model_name;
use crate::provenance::Provenance;
use crate::result_dir::ResultDirArgs;
use crate::transfer::link_args::LinkSpec;
use nodes::{Nodes, Setting};
use questions::Questions;
use report::{Answers, Report};
use schedule::{Disturbance, Moment, Planned, moments, plan};
use users::{Known, Ledger, Users, ask_alone};
use verdict::{AtRest, Disturbed, Evidence, MemoryTrend, complaints};
use watch::{Counters, Watch, Watched};

/// Cloud prompts: several times as many as the edge has memory for.
const CLOUD_PROMPT_COUNT: usize = 16;
/// Fewest distinct requests: every kind is among them.
const QUESTIONS_MIN: usize = 48;

/// How long the edge may take to notice that its users have left.
const REST_PATIENCE: Duration = Duration::from_secs(30);

/// Between two looks at the clock.
const TICK: Duration = Duration::from_millis(100);
/// Between two lines where there is no terminal.
const LINE_PERIOD: Duration = Duration::from_secs(10);

/// The built-in model.
const DEMO_MODEL: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../shared/model/demo");

/// Arguments of `soak`.
#[derive(Args)]
pub(crate) struct SoakArgs {
    /// Users that ask at a time
    #[arg(long, default_value_t = 64)]
    users: usize,
    /// How long they ask
    #[arg(long, default_value_t = 300)]
    seconds: u64,
    /// What all requests and all chance of the link follow from
    #[arg(long, default_value_t = 0)]
    seed: u64,
    /// The link between cloud and edge: Mbit/s, round trip in ms and loss in percent
    #[arg(long, value_name = "RATE,RTT,LOSS", default_value = "1000,0.2,0")]
    link: LinkSpec,
    /// Growth of the edge's memory, from the second fifth of the time to the last, that fails the run,
    /// in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 10.0)]
    memory_growth_max: f64,
    /// The model [default: the one of the demo]
    #[command(flatten)]
    model: ModelArgs,
    #[command(flatten)]
    results: ResultDirArgs,
}

/// A soak under way.
struct Soak {
    nodes: Nodes,
    watched: Watched,
    plan: Vec<Planned>,
    /// What was counted when each disturbance began.
    counted_before: Vec<Counters>,
    /// Packets that the edge had sent towards its cloud then.
    sent_before: Vec<u64>,
    disturbed: Vec<Disturbed>,
}

/// Soaks, prints what came of it, writes it down.
///
/// # Errors
/// With a sentence for everything that was not as it must be.
pub(crate) fn run(args: &SoakArgs) -> Result<()> {
    ensure!(
        args.users > 0 && args.seconds > 0,
        "users and seconds are needed"
    );
    let result_dir = args.results.open()?;
    let provenance = Provenance::gather()?.computing_on(&[args.model.device]);
    let mut model = args.model.clone();
    if model.model.is_none() && model.model_shape.is_none() {
        model.model = Some(PathBuf::from(DEMO_MODEL));
    }
    let asked = Questions::new(
        CLOUD_PROMPT_COUNT,
        QUESTIONS_MIN.max(2 * args.users),
        args.seed,
    );
    let setting = Setting {
        model: &model,
        cloud: &asked.cloud,
        user_count: args.users,
        link: (args.link, args.seed),
        log_dir: result_dir.path(),
    };
    let nodes = Nodes::start(&setting)?;
    let known = ask_everything_alone(&nodes, asked)?;
    let report = soak(args, nodes, &Arc::new(known), (provenance, &model))?;
    report.print();
    let json = result_dir.write_json("soak.json", &report)?;
    result_dir.write("soak.svg", &report.plot())?;
    let dir = result_dir.path().display();
    println!(
        "{} and soak.svg; logs of both nodes in {dir}",
        json.display()
    );
    match report.complaints.as_slice() {
        [] => Ok(()),
        complaints => bail!("the soak has failed: {}", complaints.join("; ")),
    }
}

/// Asks every question once, one at a time.
fn ask_everything_alone(nodes: &Nodes, asked: Questions) -> Result<Vec<Known>> {
    let server = nodes.server();
    let count = asked.questions.len();
    eprintln!("asking {count} requests alone");
    let bar = progress_bar("alone", "requests");
    bar.set_length(count as u64);
    let known = asked.questions.into_iter().map(|question| {
        bar.inc(1);
        ask_alone(&server, question)
    });
    let known = known.collect::<Result<Vec<_>>>();
    bar.finish_and_clear();
    known.context("a request failed before anything was disturbed")
}

fn soak(
    args: &SoakArgs,
    nodes: Nodes,
    known: &Arc<Vec<Known>>,
    (provenance, model): (Provenance, &ModelArgs),
) -> Result<Report> {
    let length = Duration::from_secs(args.seconds);
    let (server, ledger) = (nodes.server(), Ledger::begin());
    let watched = Watched {
        server: server.clone(),
        process: nodes.edge_process(),
        ledger: ledger.clone(),
    };
    let before = watched.counters()?;
    let users = Users::start(&server, known, &ledger, (args.users, args.seed));
    let watch = Watch::start(watched.clone());
    let mut soak = Soak {
        nodes,
        watched,
        plan: plan(length),
        counted_before: Vec::new(),
        sent_before: Vec::new(),
        disturbed: Vec::new(),
    };
    soak.disturb(length)?;
    let counted = soak.watched.counters()?.since(&before);
    users.stop()?;
    let samples = watch.stop()?;
    let at_rest = soak.rest()?;
    let totals = ledger.totals().clone();
    let memory = MemoryTrend::of(&samples, length.as_secs_f64());
    let complaints = complaints(&Evidence {
        totals: &totals,
        disturbed: &soak.disturbed,
        memory,
        memory_growth_percent_max: args.memory_growth_max,
        at_rest,
    });
    Ok(Report {
        benchmark: "soak",
        provenance,
        model: model_name(model),
        users: args.users,
        seconds: args.seconds,
        seed: args.seed,
        link: format!("{:?}", args.link),
        distinct_requests: known.len(),
        cloud_prompts: CLOUD_PROMPT_COUNT,
        disk: soak.nodes.disk_how(),
        answers: Answers::of(&totals),
        memory,
        at_rest,
        disturbances: soak.disturbed,
        counted,
        complaints,
        samples,
    })
}

impl Soak {
    /// Lets everything go wrong that is planned, at its time.
    fn disturb(&mut self, length: Duration) -> Result<()> {
        let moments = moments(&self.plan);
        let mut coming = moments.into_iter().peekable();
        let mut progress = Progress::new(length);
        self.counted_before = vec![Counters::default(); self.plan.len()];
        self.sent_before = vec![0; self.plan.len()];
        loop {
            let now = Duration::try_from_secs_f64(self.watched.ledger.now_s())?;
            while let Some((_, moment, index)) = coming.next_if(|(at, _, _)| *at <= now) {
                self.meet(moment, index, &progress)?;
            }
            if now >= length {
                progress.bar.finish_and_clear();
                return Ok(());
            }
            self.nodes.go_on()?;
            progress.show(now, &self.watched.ledger);
            std::thread::sleep(TICK);
        }
    }

    fn meet(&mut self, moment: Moment, index: usize, progress: &Progress) -> Result<()> {
        let Planned { what, .. } = self.plan[index];
        let now_s = self.watched.ledger.now_s();
        match moment {
            Moment::Begin => {
                self.counted_before[index] = self.watched.counters()?;
                self.nodes.begin(what)?;
                self.sent_before[index] = self.nodes.sent_packets();
                progress.tell(&format!("{now_s:.1} s: {}", what.words()));
                self.disturbed.push(Disturbed {
                    what,
                    note: None,
                    begin_s: now_s,
                    end_s: now_s,
                    seen_by_s: now_s,
                    counted: Counters::default(),
                    packets_in_vain: 0,
                });
            }
            Moment::End => {
                let disturbed = &mut self.disturbed[index];
                if matches!(what, Disturbance::CloudKilled | Disturbance::LinkCut) {
                    let sent = self.nodes.sent_packets();
                    disturbed.packets_in_vain = sent.saturating_sub(self.sent_before[index]);
                }
                disturbed.note = self.nodes.end(what)?;
                progress.tell(&format!("{now_s:.1} s: end of \"{}\"", what.words()));
                self.disturbed[index].end_s = now_s;
            }
            Moment::Count => {
                let counted = self.watched.counters()?;
                let disturbed = &mut self.disturbed[index];
                disturbed.counted = counted.since(&self.counted_before[index]);
                disturbed.seen_by_s = now_s;
            }
        }
        Ok(())
    }

    /// The edge once it has noticed that its users have left.
    fn rest(&self) -> Result<AtRest> {
        let give_up = Instant::now() + REST_PATIENCE;
        loop {
            let sample = self.watched.sample()?;
            let is_idle = sample.running == 0 && sample.waiting == 0;
            let is_empty = is_idle && sample.used_blocks == 0;
            if is_empty || Instant::now() >= give_up {
                return Ok(AtRest { sample, is_idle });
            }
            std::thread::sleep(TICK);
        }
    }
}

/// A bar where a person watches, else a line now and then.
struct Progress {
    bar: ProgressBar,
    next_line: Duration,
}

impl Progress {
    fn new(length: Duration) -> Self {
        let bar = progress_bar("soaking", "s");
        bar.set_length(length.as_secs());
        Self {
            bar,
            next_line: Duration::ZERO,
        }
    }

    fn show(&mut self, now: Duration, ledger: &Ledger) {
        self.bar.set_position(now.as_secs());
        if !self.bar.is_hidden() || now < self.next_line {
            return;
        }
        self.next_line += LINE_PERIOD;
        let totals = ledger.totals();
        eprintln!(
            "{} s: {} answers, {} failed, {} different",
            now.as_secs(),
            totals.answer_count(),
            totals.failed_count,
            totals.different_count
        );
    }

    fn tell(&self, line: &str) {
        self.bar.suspend(|| eprintln!("{line}"));
    }
}
