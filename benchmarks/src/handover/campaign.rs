//! `benchmarks handover campaign`: users whose sessions move to and fro between edge nodes over links that
//! lose packets, while either edge of a move is killed. Every text must be the one without moves, or an
//! error that names itself where every edge that the user knew was dead at once.
//!
//! Cloud and edges are `serve` in processes of their own, with a link emulator before each.

mod mover;
mod questions;
mod report;
mod users;
mod verdict;
mod world;

use std::num::{NonZeroU32, NonZeroUsize};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};
use clap::Args;
use edgeprompt_launch::progress_bar;

use crate::provenance::Provenance;
use crate::result_dir::ResultDirArgs;
use crate::transfer::link_args::LinkSpec;
use mover::Movers;
use questions::Questions;
use report::{Asked, Report};
use users::{Ledger, Users};
use world::{Setting, World};

/// Between two looks at how far it is.
const TICK: Duration = Duration::from_millis(200);
/// Between two lines where there is no terminal.
const LINE_PERIOD: Duration = Duration::from_secs(10);
/// Without any move for so long it has come to a standstill.
const STANDSTILL: Duration = Duration::from_secs(120);

/// Arguments of `benchmarks handover campaign`.
#[derive(Args)]
pub(crate) struct CampaignArgs {
    /// Moves that are to succeed
    #[arg(long, value_name = "N", default_value = "1000")]
    handovers: NonZeroUsize,
    /// Moves in which an edge is killed: the source, the target, or both
    #[arg(long, value_name = "N", default_value_t = 100)]
    kills: usize,
    /// Packets that each link loses, in percent
    #[arg(long, value_name = "PERCENT", default_value_t = 2.0)]
    loss: f64,
    /// Rate of each link in Mbit/s
    #[arg(long, value_name = "MBITS", default_value_t = 200)]
    rate: u64,
    /// Round trip of each link in ms
    #[arg(long, value_name = "MS", default_value_t = 2)]
    rtt_ms: u64,
    /// Edge nodes
    #[arg(long, value_name = "N", default_value_t = 3, value_parser = clap::value_parser!(u8).range(2..=8))]
    edges: u8,
    /// Users who follow their session
    #[arg(long, value_name = "N", default_value = "6")]
    followers: NonZeroU32,
    /// Users with plain clients of OpenAI's API
    #[arg(long, value_name = "N", default_value_t = 3)]
    plain: u32,
    /// Who moves sessions, at a time
    #[arg(long, value_name = "N", default_value = "2")]
    movers: NonZeroU32,
    /// Tokens of an answer
    #[arg(long, value_name = "TOKENS", default_value = "400")]
    answer: NonZeroU32,
    /// What all chance follows from
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    results: ResultDirArgs,
}

/// Moves sessions and kills edges, prints what came of it, writes it down.
///
/// # Errors
/// With a sentence for everything that was not as it must be.
pub(crate) fn run(args: &CampaignArgs) -> Result<()> {
    ensure!(
        (0.0..50.0).contains(&args.loss),
        "a link that loses half of all packets carries nothing"
    );
    let (dir, provenance) = (args.results.open()?, Provenance::gather()?);
    println!("seed {}", args.seed);
    let setting = Setting {
        edge_count: args.edges.into(),
        link: LinkSpec {
            megabits: args.rate,
            rtt: Duration::from_millis(args.rtt_ms),
            loss_percent: args.loss,
        },
        seed: args.seed,
        log_dir: dir.path(),
    };
    let world = Arc::new(World::start(&setting)?);
    let questions = Arc::new(Questions::answered_by(&world, args.answer.get())?);
    let began_at = Instant::now();
    let ledger = Ledger::default();
    let (movers, stands_still) = move_and_kill(args, &world, (&questions, &ledger))?;
    let rest = world.rest();
    let report = Report::new(
        Asked::of(args),
        provenance,
        (&ledger.take(), &movers, rest),
        (began_at.elapsed(), stands_still),
    );
    report.print();
    let json = dir.write_json("handover-campaign.json", &report)?;
    println!("{}; the nodes' logs are beside it", json.display());
    match report.violations() {
        0 => Ok(()),
        count => bail!(
            "the campaign has failed: {count} violations, seed {}",
            args.seed
        ),
    }
}

/// Until so many moves have succeeded; also whether it came to a standstill before.
fn move_and_kill(
    args: &CampaignArgs,
    world: &Arc<World>,
    (questions, ledger): (&Arc<Questions>, &Ledger),
) -> Result<(mover::Tally, bool)> {
    let users = Users::start(
        (args.followers.get(), args.plain),
        (world, questions, ledger),
        args.seed,
    );
    let movers = Movers::start(
        args.movers.get(),
        world,
        (args.handovers.get(), args.kills),
        args.seed,
    );
    let bar = progress_bar("moving", "handovers");
    bar.set_length(args.handovers.get() as u64);
    let (mut line_at, mut moved_at, mut moved) = (Instant::now(), Instant::now(), 0);
    let mut stands_still = false;
    while !movers.have_ended() && !stands_still {
        let tally = movers.tally();
        bar.set_position(tally.moved as u64);
        if tally.moved > moved {
            (moved, moved_at) = (tally.moved, Instant::now());
        }
        stands_still = moved_at.elapsed() > STANDSTILL;
        if bar.is_hidden() && line_at.elapsed() >= LINE_PERIOD {
            line_at = Instant::now();
            eprintln!("{}; {}", tally.in_words(), ledger.in_words());
        }
        std::thread::sleep(TICK);
    }
    bar.finish_and_clear();
    let tally = movers.stop();
    users.stop();
    Ok((tally, stands_still))
}
