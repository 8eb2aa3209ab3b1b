//! Loading holds the tensors and little more, and says how many bytes they are.

// All of it is test code, so a panic is a failed test.
#![cfg(test)]

mod small_model;

use std::path::Path;

use burn::tensor::Device;
use edgeprompt_model::{Checkpoint, Decoder, Model, ModelConfig};
use edgeprompt_testkit::counting_allocator::{CountingAllocator, peak_of};
use edgeprompt_testkit::fixtures::trained_model;
use small_model::{Architecture, Format, SmallModel};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// The tensors of a small model are small beside names and module bookkeeping.
const SLACK_BYTES: usize = 256 << 10;

/// Columns to which the last panel of a matrix is filled up, unless that takes more than as much again.
const PANEL_WIDTH: usize = 64;

/// Of all tensors as they are laid out on a processor.
fn tensor_bytes(config: &ModelConfig) -> usize {
    let hidden = config.hidden_dim;
    let kv_dim = config.kv_head_count * config.head_dim;
    let q_dim = config.q_head_count * config.head_dim;
    let matrix = |depth: usize, width: usize| {
        let filled = width.next_multiple_of(PANEL_WIDTH);
        depth
            * if filled - width <= width {
                filled
            } else {
                width
            }
    };
    let norms = 2 * hidden;
    let layer = norms
        + matrix(hidden, q_dim + 2 * kv_dim)
        + matrix(q_dim, hidden)
        + matrix(hidden, 2 * config.mlp_dim)
        + matrix(config.mlp_dim, hidden);
    let embedding = match config.tied_head {
        true => 0,
        false => hidden * config.vocab_size,
    };
    let outer = embedding + matrix(hidden, config.vocab_size) + hidden;
    4 * (outer + config.layer_count * layer)
}

/// Loads a folder's weights and gives back the bytes that are reported and the peak.
fn load(folder: &Path) -> (usize, usize, usize) {
    let text = std::fs::read_to_string(folder.join("config.json")).unwrap();
    let config = ModelConfig::from_json(&text).unwrap();
    let mut reported = 0;
    let (_, peak) = peak_of(|| {
        let checkpoint = Checkpoint::open(folder).unwrap();
        let report = |progress: edgeprompt_model::LoadProgress| reported = progress.tensor_bytes;
        Decoder::load(&config, &checkpoint, &Device::flex(), report).unwrap()
    });
    let reported = usize::try_from(reported).unwrap();
    (tensor_bytes(&config), reported, peak)
}

fn check(folder: &Path) {
    let (expected, reported, peak) = load(folder);
    assert_eq!(reported, expected);
    let most = expected + expected * 15 / 100 + SLACK_BYTES;
    assert!(
        peak <= most,
        "peak {peak} bytes for {expected} bytes of tensors"
    );
}

#[test]
fn small_models_load_in_the_memory_of_their_tensors() {
    let small = SmallModel::new(Architecture::Llama);
    for format in [Format::F32, Format::F16, Format::Bf16] {
        check(&small.folder(format));
    }
}

#[test]
fn trained_models_load_in_the_memory_of_their_tensors() {
    for name in ["stories260K", "tinystories-656K"] {
        if let Some(folder) = trained_model(name) {
            check(&folder);
        }
    }
}

#[test]
fn a_whole_gguf_model_reports_its_tensors() {
    let Some(folder) = trained_model("stories260K") else {
        return;
    };
    let path = folder.join("stories260K.gguf");
    let mut reported = 0;
    let report = |progress: edgeprompt_model::LoadProgress| reported = progress.tensor_bytes;
    let model = Model::open(&path, &Device::flex(), report).unwrap();
    assert_eq!(
        usize::try_from(reported).unwrap(),
        tensor_bytes(&model.config)
    );
}
