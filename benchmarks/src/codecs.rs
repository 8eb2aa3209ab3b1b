//! `benchmarks codecs`: what each number format of keys and values costs and what it does to answers.
//! Everything happens in this process: a cloud prompt's layers go through a format and back, and what
//! follows is computed on them and on exact ones.

mod harm;
mod report;
mod speed;
mod text;

use std::num::NonZeroUsize;
use std::path::PathBuf;

use anyhow::{Result, ensure};
use clap::Args;
use edgeprompt_kv::KvDtype;
use edgeprompt_launch::{LoadFormat, ModelArgs};
use edgeprompt_model::{ComputeDevice, Model};

use crate::result_dir::ResultDirArgs;
use harm::{Harm, right_answers};
use report::{Report, Row};
use text::{Text, TextSource};

/// What everything is computed on: exactness is proved here.
const DEVICE: ComputeDevice = ComputeDevice::Flex;

/// Arguments of `benchmarks codecs`.
#[derive(Args)]
pub(crate) struct CodecsArgs {
    /// Model to measure besides the built-in one: a Hugging Face folder or a GGUF file; may be given
    /// several times
    #[arg(long = "model", value_name = "PATH")]
    models: Vec<PathBuf>,
    /// Tokens of each cloud prompt, whose keys and values go through the format
    #[arg(long, default_value = "256")]
    cloud_len: NonZeroUsize,
    /// Tokens after it, at each of which the next one is predicted
    #[arg(long, default_value = "128")]
    edge_len: NonZeroUsize,
    /// Texts of each kind
    #[arg(long, default_value = "40")]
    texts: NonZeroUsize,
    /// Conversations as in ShareGPT_V3_unfiltered_cleaned_split.json, to measure on real text as well
    /// as on text that the model itself draws
    #[arg(long, value_name = "FILE")]
    dataset_path: Option<PathBuf>,
    /// Questions to the shop desk that the built-in model answers
    #[arg(long, default_value_t = 200)]
    cases: usize,
    /// Seed of texts and questions
    #[arg(long, default_value_t = 0)]
    seed: u64,
    #[command(flatten)]
    results: ResultDirArgs,
}

/// Measures every format on every model, prints what came out and writes it down.
pub(crate) fn run(args: &CodecsArgs) -> Result<()> {
    let result_dir = args.results.open()?;
    let mut report = Report::new(args)?;
    let demo = Model::demo(&DEVICE.open()?)?;
    let desk = text::desk(&demo, args)?;
    for dtype in KvDtype::ALL {
        let harm = Harm::of(&demo, &desk, dtype);
        let right = right_answers(&demo, args, dtype)?;
        report.add(Row::new("built-in", TextSource::ShopDesk, harm).with_right_answers(right));
    }
    for path in &args.models {
        let model = ModelArgs {
            model: Some(path.clone()),
            load_format: LoadFormat::Auto,
            model_shape: None,
            device: DEVICE,
        };
        let model = model.open()?;
        let len = args.cloud_len.get() + args.edge_len.get();
        ensure!(
            len <= model.config.context_len_max,
            "{len} tokens do not fit the model's context of {}: give a smaller --cloud-len or --edge-len",
            model.config.context_len_max
        );
        let name = path.file_stem().unwrap_or(path.as_os_str());
        measure(&name.to_string_lossy(), &model, args, &mut report)?;
    }
    report.speeds = speed::measure();
    report.print();
    println!("written to {}", report.write(&result_dir)?.display());
    Ok(())
}

fn measure(name: &str, model: &Model, args: &CodecsArgs, report: &mut Report) -> Result<()> {
    let mut sources: Vec<(TextSource, Vec<Text>)> = Vec::new();
    eprintln!("{name}: drawing texts");
    sources.push((TextSource::Drawn, text::drawn(model, args)));
    if let Some(path) = &args.dataset_path {
        sources.push((TextSource::ShareGpt, text::share_gpt(model, path, args)?));
    }
    for (source, texts) in &sources {
        for dtype in KvDtype::ALL {
            eprintln!("{name}, {source}: {dtype}");
            report.add(Row::new(name, *source, Harm::of(model, texts, dtype)));
        }
    }
    Ok(())
}
