//! Damaged model files load or are refused: no panic, and no more memory than the file's size
//! gives reason for.
//!
//! `EDGEPROMPT_MUTATIONS` is how many times each file is damaged, `EDGEPROMPT_MUTATION_SEED`
//! which damage is done.

// All of it is test code, so a panic is a failed test.
#![cfg(test)]

mod mutation;
mod small_model;

use std::fs;
use std::path::Path;

use burn::tensor::Device;
use edgeprompt_kv::TokenId;
use edgeprompt_model::{
    ChatMessage, ChatTemplate, Checkpoint, Decoder, Model, ModelConfig, TextTokenizer, Turn,
};
use edgeprompt_testkit::counting_allocator::{CountingAllocator, peak_of};
use edgeprompt_testkit::fixtures::trained_model;
use mutation::{Numbers, Patient, Witness};
use small_model::{Architecture, Format, SmallModel, byte_level};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

const MUTATION_COUNT: u64 = 10_000;
const SEED: u64 = 20_261_101;

fn number_from_environment(name: &str, otherwise: u64) -> u64 {
    std::env::var(name).map_or(otherwise, |text| text.parse().unwrap())
}

/// The most memory that weights may take: `widened` times their file as f32, an eighth more to fill
/// panels up, and names and modules from the header.
const fn weights_bytes_max(widened: usize, file_bytes: usize, header_bytes: usize) -> usize {
    widened * file_bytes * 9 / 8 + 10 * header_bytes + (64 << 10)
}

/// The most that JSON may take: the library keeps every text and number several times while it
/// reads, and builds the tables of fixed regular expressions beside.
const fn json_bytes_max(file_bytes: usize) -> usize {
    24 * file_bytes + (1 << 20)
}

/// The most that one regular expression of a file may take, and those that a sequence has twice:
/// the library refuses any beyond 10 MiB, however small it is written.
const REGEX_BYTES_MAX: usize = 32 << 20;

/// Where a file is damaged most, and the most memory it may take.
struct Limits {
    header_len: usize,
    bytes_max: usize,
}

/// Damages a file again and again and opens what it belongs to; `open` says whether it loads.
fn damage(path: &Path, limits: &Limits, mut open: impl FnMut() -> bool) {
    let count = number_from_environment("EDGEPROMPT_MUTATIONS", MUTATION_COUNT);
    let seed = number_from_environment("EDGEPROMPT_MUTATION_SEED", SEED);
    let mut patient = Patient::new(path, fs::read(path).unwrap(), limits.header_len);
    assert!(open(), "{} loads undamaged", path.display());
    let most = limits.bytes_max;
    let (mut loaded, mut highest) = (0, 0);
    for damage in 0..count {
        let witness = Witness {
            file: path.to_owned(),
            seed,
            damage,
        };
        let mut numbers = Numbers::new(seed ^ damage.wrapping_mul(0xd6e8_feb8_6659_fd93));
        let (opened, peak) = patient.damaged(&mut numbers, || peak_of(&mut open));
        assert!(
            peak <= most,
            "{peak} bytes are held, at most {most} are expected"
        );
        loaded += u64::from(opened);
        highest = highest.max(peak);
        drop(witness);
    }
    assert!(open(), "{} loads repaired", path.display());
    println!(
        "{}: {loaded} of {count} damaged files load, peak {highest} of {most} bytes, seed {seed}",
        path.display()
    );
}

/// Where the data of a safetensors file begin.
fn header_len(file: &Path) -> usize {
    let bytes = fs::read(file).unwrap();
    let length = u64::from_le_bytes(*bytes.first_chunk().unwrap());
    8 + usize::try_from(length).unwrap()
}

fn loads(config: &ModelConfig, checkpoint: &Checkpoint) -> bool {
    Decoder::load(config, checkpoint, &Device::flex(), |_| {}).is_ok()
}

fn config(folder: &Path) -> Option<ModelConfig> {
    let text = fs::read_to_string(folder.join("config.json")).ok()?;
    ModelConfig::from_json(&text).ok()
}

fn file_bytes(path: &Path) -> usize {
    fs::read(path).unwrap().len()
}

/// Damages a safetensors file whose numbers `widened` times as wide are f32.
fn damage_weights(folder: &Path, widened: usize) {
    let config = config(folder).unwrap();
    let path = folder.join("model.safetensors");
    let header_len = header_len(&path);
    let limits = Limits {
        header_len,
        bytes_max: weights_bytes_max(widened, file_bytes(&path), header_len),
    };
    let open = || Checkpoint::open(folder).is_ok_and(|checkpoint| loads(&config, &checkpoint));
    damage(&path, &limits, open);
}

fn damage_index(folder: &Path) {
    let config = config(folder).unwrap();
    let path = folder.join("model.safetensors.index.json");
    let weights = Checkpoint::open(folder).unwrap().file_bytes();
    let limits = Limits {
        header_len: usize::MAX,
        bytes_max: weights_bytes_max(1, weights, file_bytes(&path)),
    };
    let open = || Checkpoint::open(folder).is_ok_and(|checkpoint| loads(&config, &checkpoint));
    damage(&path, &limits, open);
}

fn damage_config(folder: &Path, widened: usize) {
    let checkpoint = Checkpoint::open(folder).unwrap();
    let path = folder.join("config.json");
    let limits = Limits {
        header_len: usize::MAX,
        bytes_max: weights_bytes_max(widened, checkpoint.file_bytes(), file_bytes(&path)),
    };
    let open = || config(folder).is_some_and(|config| loads(&config, &checkpoint));
    damage(&path, &limits, open);
}

fn damage_tokenizer(path: &Path, regex_bytes_max: usize) {
    let limits = Limits {
        header_len: usize::MAX,
        bytes_max: json_bytes_max(file_bytes(path)) + regex_bytes_max,
    };
    let open = || {
        let Ok(tokenizer) = TextTokenizer::open(path, usize::MAX) else {
            return false;
        };
        // What loads must not panic when it is used either.
        let tokens = tokenizer
            .encode("Once upon a time <s> abc 東京\n")
            .unwrap_or_default();
        tokenizer.decode(&tokens).ok();
        tokenizer.decode(&[TokenId(0), TokenId(u32::MAX)]).ok();
        true
    };
    damage(path, &limits, open);
}

fn damage_chat_template(folder: &Path) {
    let message = ChatMessage {
        role: "user".to_owned(),
        content: "Hi".to_owned(),
    };
    let open = || {
        let Ok(template) = ChatTemplate::open(folder) else {
            return false;
        };
        let rendered = template.map(|t| t.render(std::slice::from_ref(&message), Turn::Closed));
        drop(rendered);
        true
    };
    let path = folder.join("tokenizer_config.json");
    let limits = Limits {
        header_len: usize::MAX,
        bytes_max: json_bytes_max(file_bytes(&path)),
    };
    damage(&path, &limits, open);
}

fn damage_gguf(path: &Path, header_len: usize, widened: usize) {
    let open = || Model::open(path, &Device::flex(), |_| {}).is_ok();
    let weights = weights_bytes_max(widened, file_bytes(path), header_len);
    let limits = Limits {
        header_len,
        bytes_max: weights + json_bytes_max(header_len),
    };
    damage(path, &limits, open);
}

/// A copy of a trained model that may be damaged.
fn copied(name: &str) -> Option<tempfile::TempDir> {
    let folder = trained_model(name)?;
    let copy = tempfile::tempdir().unwrap();
    for file in fs::read_dir(folder).unwrap() {
        let file = file.unwrap().path();
        fs::write(
            copy.path().join(file.file_name().unwrap()),
            fs::read(&file).unwrap(),
        )
        .unwrap();
    }
    Some(copy)
}

#[test]
fn damaged_weights_of_stories260k() {
    if let Some(copy) = copied("stories260K") {
        damage_weights(copy.path(), 1);
    }
}

#[test]
fn damaged_gguf_of_stories260k() {
    if let Some(copy) = copied("stories260K") {
        damage_gguf(&copy.path().join("stories260K.gguf"), 14_112, 1);
    }
}

#[test]
fn damaged_config_and_tokenizer_of_stories260k() {
    if let Some(copy) = copied("stories260K") {
        damage_config(copy.path(), 1);
        damage_tokenizer(&copy.path().join("tokenizer.json"), 0);
    }
}

#[test]
fn damaged_weights_of_tinystories() {
    if let Some(copy) = copied("tinystories-656K") {
        damage_weights(copy.path(), 1);
    }
}

#[test]
fn damaged_config_and_chat_template_of_tinystories() {
    if let Some(copy) = copied("tinystories-656K") {
        damage_config(copy.path(), 1);
        damage_chat_template(copy.path());
    }
}

#[test]
fn damaged_tokenizer_of_tinystories() {
    if let Some(copy) = copied("tinystories-656K") {
        damage_tokenizer(&copy.path().join("tokenizer.json"), 0);
    }
}

#[test]
fn damaged_small_files() {
    let small = SmallModel::new(Architecture::Llama);
    let folder = small.folder(Format::Bf16);
    damage_weights(&folder, 2);
    damage_config(&folder, 2);
    damage_tokenizer(&folder.join("tokenizer.json"), 0);
    let template = "{% for m in messages %}<{{ m.role }}>{{ m.content.strip() }}{% endfor %}";
    let text = serde_json::json!({"chat_template": template, "eos_token": {"content": "</s>"}});
    fs::write(folder.join("tokenizer_config.json"), text.to_string()).unwrap();
    damage_chat_template(&folder);
    for (format, widened) in [(Format::Q8_0, 4), (Format::F16, 2)] {
        let path = small.gguf(format);
        let tensors = fs::read(&path).unwrap().len();
        // The metadata of the small model are a small part of its file.
        damage_gguf(&path, tensors / 8, widened);
    }
}

#[test]
fn damaged_byte_level_tokenizers() {
    let directory = tempfile::tempdir().unwrap();
    for cut in ["llama-bpe", "smollm", "qwen2"] {
        let path = directory.path().join(cut);
        fs::write(&path, byte_level::tokenizer_json(cut).to_string()).unwrap();
        damage_tokenizer(&path, REGEX_BYTES_MAX);
    }
}

#[test]
fn a_damaged_index_of_shards() {
    let small = SmallModel::new(Architecture::Qwen2);
    damage_index(&small.sharded_folder());
}
