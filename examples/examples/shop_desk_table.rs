//! What exact fusion is worth: the built-in model answers 500 held-out shop-desk cases exactly
//! split, and with each of the shortcuts that look like attention and are not.
//!
//! `cargo run --release -p edgeprompt-examples --example shop_desk_table`

#![allow(clippy::print_stdout, reason = "an example shows something")]

use anyhow::{Result, ensure};
use burn::tensor::Device;
use clap::Parser;
use edgeprompt_attention::Fusion;
use edgeprompt_examples::fusion_ablation::{CaseTokens, Way};
use edgeprompt_examples::shop_desk::held_out_cases;
use edgeprompt_model::Model;
use indicatif::ProgressIterator;

/// Answers held-out shop-desk cases with and without exact fusion
#[derive(Parser)]
struct Args {
    /// How many cases
    #[arg(long, default_value_t = 500)]
    cases: usize,
    /// Seed of the cases
    #[arg(long, default_value_t = 2026)]
    seed: u64,
}

/// The share of right answers, in per cent, below which the model is broken.
const EXACT_SHARE_MIN: f64 = 95.0;

/// By how much, in per cent of the cases, exact fusion must beat every shortcut.
const LEAD_MIN: f64 = 10.0;

const WAYS: [(&str, Way); 6] = [
    ("exact split", Way::Split(Fusion::Exact)),
    ("no cloud prompt", Way::PrivateOnly),
    ("no private prompt", Way::CloudOnly),
    ("fixed α = 0.5", Way::Split(Fusion::Fixed(0.5))),
    ("fixed α = 0.8", Way::Split(Fusion::Fixed(0.8))),
    ("forgotten RoPE offset", Way::ForgottenOffset),
];

fn main() -> Result<()> {
    let args = Args::parse();
    let model = Model::demo(&Device::flex())?;
    let cases = held_out_cases(args.seed, args.cases);
    let tokens = cases.iter().map(|case| CaseTokens::of(&model, case));
    let cases = tokens.collect::<Result<Vec<_>, _>>()?;
    let (count, seed, digest) = (cases.len(), args.seed, model.digest.short());
    println!("{count} held-out cases, seed {seed}, model {digest}\n");
    println!("| | right answers |\n|---|---|");
    let mut shares = Vec::new();
    for (name, way) in WAYS {
        let answered = cases.iter().progress();
        let right = answered.filter(|case| way.answers(&model, case)).count();
        let share = 100.0 * right as f64 / count.max(1) as f64;
        println!("| {name} | {right} of {count} ({share:.1} %) |");
        shares.push(share);
    }
    // The table is a claim; it must not be printed by a model or an engine that does not hold it.
    let best_other = shares[1..].iter().copied().fold(0.0, f64::max);
    ensure!(
        shares[0] >= EXACT_SHARE_MIN,
        "exact fusion answers fewer than {EXACT_SHARE_MIN} %"
    );
    ensure!(
        shares[0] - best_other >= LEAD_MIN,
        "a shortcut does about as well as exact fusion"
    );
    Ok(())
}
