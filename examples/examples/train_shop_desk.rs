//! Trains the shop desk's model:
//! `cargo run --release -p edgeprompt-examples --features train --example train_shop_desk -- --out DIR`

#![expect(clippy::print_stdout, reason = "the result of the program")]

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Result, anyhow};
use clap::Parser;
use edgeprompt_examples::shop_desk::held_out_cases;
use edgeprompt_examples::training::{
    Curriculum, Interval, MODEL_CONFIG, RunLog, Tasks, Trainer, draw_curve, export, round_to_f16,
};
use edgeprompt_model::ModelConfig;

/// Trains the shop desk's model from nothing.
#[derive(Parser)]
struct Args {
    /// Where the model, the curve and the checkpoint go.
    #[arg(long)]
    out: PathBuf,
    /// Determines initial weights and data.
    #[arg(long, default_value_t = 1)]
    seed: u64,
    /// Go on from the checkpoint in the output directory.
    #[arg(long)]
    resume: bool,
    /// Steps between two lines of the log.
    #[arg(long, default_value_t = 20)]
    log_every: u64,
    /// Steps between two held-out probes, each with a checkpoint.
    #[arg(long, default_value_t = 100)]
    probe_every: u64,
}

fn main() -> Result<()> {
    let args = Args::parse();
    let config = ModelConfig::from_json(MODEL_CONFIG)?;
    let mut trainer = Trainer::new(&config, Tasks::new()?, Curriculum::shop_desk(), args.seed);
    fs::create_dir_all(&args.out)?;
    let checkpoint = args.out.join("checkpoint");
    if args.resume {
        trainer = trainer.resume(&checkpoint)?;
    }
    train(&mut trainer, &args, &checkpoint)?;
    finish(&trainer, &config, &args.out)
}

fn train(trainer: &mut Trainer, args: &Args, checkpoint: &Path) -> Result<()> {
    let probe = held_out_cases(1, 100);
    let log = RunLog::new(trainer.curriculum().steps_max());
    let mut interval = Interval::start();
    while let Some(stage) = trainer.stage() {
        let (name, stage_index) = (stage.name, trainer.progress.stage_index);
        let Some(report) = trainer.step() else { break };
        interval.add(&report);
        let step = trainer.progress.step;
        log.moved_to(step, name);
        let stage_over = trainer.progress.stage_index != stage_index;
        if step.is_multiple_of(args.log_every) || stage_over {
            let (point, speed) = interval.take(step, stage_index);
            let (loss, right) = (point.loss, point.right_share);
            log.say(&format!(
                "{name} {step}: loss {loss:.4}, right {right:.3}, {speed:.0} tokens/s"
            ))?;
            trainer.progress.curve.push(point);
        }
        if step.is_multiple_of(args.probe_every) || stage_over {
            let found = trainer.score(&trainer.decoder(), &probe);
            log.say(&format!(
                "{name} {step}: held-out {} of {}",
                found.right, found.of
            ))?;
            trainer.save(checkpoint)?;
        }
    }
    Ok(())
}

fn finish(trainer: &Trainer, config: &ModelConfig, out: &Path) -> Result<()> {
    let names: Vec<_> = trainer.curriculum().stages.iter().map(|s| s.name).collect();
    draw_curve(&trainer.progress.curve, &names, &out.join("loss.svg"))
        .map_err(|error| anyhow!("{error}"))?;
    let decoder = round_to_f16(trainer.decoder());
    export(&decoder, config, out)?;
    let listed = trainer.score(&decoder, &held_out_cases(2, 500));
    let spelled = trainer.score(&decoder, &Tasks::spelled_cases(2, 500));
    println!(
        "held-out, f16 weights: {} of {} right",
        listed.right, listed.of
    );
    println!(
        "with spelled names: {} of {} right",
        spelled.right, spelled.of
    );
    Ok(())
}
