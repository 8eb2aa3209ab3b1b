//! One prompt's layers through our transport, beside a plain QUIC stream and TCP with the same
//! bytes, in turn. The layers are ready-made: nothing is computed, so only the transport counts.

mod contender;
pub(crate) mod link_args;
mod report;

use anyhow::{Result, ensure};
use clap::Args;
use tokio::runtime;

use contender::{Contender, Kind, Payload};
use link_args::LinkArgs;
use report::{Report, Row};

use crate::result_dir::ResultDirArgs;

/// What to transfer, how often, over what.
#[derive(Args)]
pub(crate) struct TransferArgs {
    /// Layers of the prompt
    #[arg(long, default_value_t = 12)]
    layers: u32,
    /// Size of a layer, in MiB
    #[arg(long, default_value_t = 3)]
    layer_mib: u32,
    /// Rounds; in each, everyone transfers once
    #[arg(long, default_value_t = 9)]
    rounds: usize,
    /// Who takes part
    #[arg(long, value_delimiter = ',', default_values_t = [Kind::Ours, Kind::Plain, Kind::Tcp])]
    contenders: Vec<Kind>,
    #[command(flatten)]
    link: LinkArgs,
    #[command(flatten)]
    results: ResultDirArgs,
}

/// Runs everyone in turn, prints what came out and writes it down.
pub(crate) fn run(args: &TransferArgs) -> Result<()> {
    ensure!(args.rounds > 0, "at least one round is needed");
    ensure!(
        (1..=128).contains(&args.layers) && (1..=256).contains(&args.layer_mib),
        "1 to 128 layers of 1 to 256 MiB can be transferred"
    );
    let result_dir = args.results.open()?;
    let runtime = runtime::Builder::new_multi_thread().enable_all().build()?;
    let report = runtime.block_on(measure(args))?;
    report.print();
    let path = report.write(&result_dir)?;
    println!("written to {}", path.display());
    Ok(())
}

async fn measure(args: &TransferArgs) -> Result<Report> {
    let payload = Payload::new(args.layers, args.layer_mib)?;
    let mut report = Report::new(args, payload.bytes())?;
    let mut contenders = Vec::new();
    for kind in &args.contenders {
        let contender = Contender::start(*kind, &payload, &args.link).await?;
        let cold = contender.transfer(&payload).await?;
        contenders.push((contender, cold, Vec::new()));
    }
    // In turn, so that whatever else the machine does disturbs everyone.
    for _ in 0..args.rounds {
        for (contender, _, warm) in &mut contenders {
            warm.push(contender.transfer(&payload).await?);
        }
    }
    for (contender, cold, warm) in contenders {
        let (kind, losses) = (contender.kind, contender.losses());
        report.add(Row {
            kind,
            cold,
            warm,
            losses,
        });
    }
    Ok(report)
}
