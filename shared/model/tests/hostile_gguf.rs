//! GGUF files made to do harm: each is refused with one sentence, at once and in little memory.

// All of it is test code, so a panic is a failed test.
#![cfg(test)]

mod small_model;

use std::path::Path;

use burn::tensor::Device;
use edgeprompt_model::Model;
use edgeprompt_testkit::counting_allocator::{CountingAllocator, peak_of};
use small_model::gguf::GgufValue;
use small_model::{Architecture, Format, SmallModel};

#[global_allocator]
static ALLOCATOR: CountingAllocator = CountingAllocator;

/// What a refusal may take beyond a multiple of the file.
const SLACK_BYTES: usize = 64 << 10;

/// The error of a file, which must come without memory out of proportion.
fn refused(path: &Path, bytes: &[u8]) -> String {
    std::fs::write(path, bytes).unwrap();
    refused_file(path, bytes.len())
}

fn refused_file(path: &Path, file_bytes: usize) -> String {
    let (opened, peak) = peak_of(|| Model::open(path, &Device::flex(), |_| {}).map(drop));
    let most = 20 * file_bytes + SLACK_BYTES;
    assert!(peak <= most, "{peak} bytes for a file of {file_bytes}");
    let error = opened.unwrap_err().to_string();
    assert!(error.contains(&path.display().to_string()), "{error}");
    error
}

fn header(version: u32, tensors: u64, keys: u64) -> Vec<u8> {
    let counts = [tensors.to_le_bytes(), keys.to_le_bytes()].concat();
    [b"GGUF".as_slice(), &version.to_le_bytes(), &counts].concat()
}

/// A file of one key with a value of any type.
fn key(name: &[u8], value_type: u32, value: &[u8]) -> Vec<u8> {
    let length = (name.len() as u64).to_le_bytes();
    let parts = [&length, name, &value_type.to_le_bytes(), value];
    [header(3, 0, 1), parts.concat()].concat()
}

/// A value that is a list.
fn list(element: u32, count: u64, elements: &[u8]) -> Vec<u8> {
    [
        &element.to_le_bytes(),
        count.to_le_bytes().as_slice(),
        elements,
    ]
    .concat()
}

#[test]
fn lengths_and_counts_beyond_the_file_are_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("model.gguf");
    let huge = u64::MAX.to_le_bytes();
    let (text, array) = (8, 9);
    for (bytes, said) in [
        (Vec::new(), "neither a model's folder nor a GGUF file"),
        (
            b"GGUF".to_vec(),
            "the version at byte 4 needs 4 bytes, 0 are left",
        ),
        (header(1, 0, 0), "GGUF version 1 is not read"),
        (header(3u32.swap_bytes(), 0, 0), "GGUF version 50331648"),
        (
            header(3, 0, u64::MAX),
            "18446744073709551615 keys do not fit into the 0 bytes",
        ),
        (
            header(2, u64::MAX, 0),
            "18446744073709551615 tensors do not fit",
        ),
        (header(3, 1 << 60, 0), "tensors do not fit"),
        (
            key(b"a", text, &huge),
            "a text at byte 45 needs 18446744073709551615 bytes",
        ),
        (key(b"a\xff", 4, &[0; 4]), "a key at byte 24 is not UTF-8"),
        (
            key(b"a", 13, &[]),
            "key \"a\" has a value of the unread type 13",
        ),
        (key(b"a", 7, &[2]), "key \"a\" is not true or false"),
        (
            key(b"a", array, &list(6, u64::MAX / 2, &[])),
            "list elements do not fit",
        ),
        (key(b"a", array, &list(8, 1 << 61, &[])), "texts do not fit"),
        (
            key(b"a", array, &list(8, 1, &huge)),
            "a text in a list at byte",
        ),
        (
            key(b"a", array, &list(9, 1, &[0; 12])),
            "key \"a\" has a value of the unread type 9",
        ),
        (
            key(&[b'k'; 70_000], 4, &[0; 4]),
            "the key at byte 24 has 70000 bytes",
        ),
    ] {
        let error = refused(&path, &bytes);
        assert!(error.contains(said), "{said}: {error}");
    }
}

#[test]
fn a_file_cut_anywhere_is_refused() {
    let small = SmallModel::new(Architecture::Llama);
    let mut file = small.gguf_file(Format::Q8_0);
    file.set("tokenizer.ggml.eot_token_id", GgufValue::U32(2));
    let whole = file.bytes();
    let path = small.directory.path().join("cut.gguf");
    std::fs::write(&path, &whole).unwrap();
    let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
    for len in (0..whole.len()).rev() {
        file.set_len(len as u64).unwrap();
        refused_file(&path, len);
    }
}

#[test]
fn keys_and_tokens_are_there_once() {
    let small = SmallModel::new(Architecture::Llama);
    let path = small.directory.path().join("twice.gguf");
    let mut file = small.gguf_file(Format::F32);
    file.keys
        .push(("llama.block_count".to_owned(), GgufValue::U32(2)));
    let error = refused(&path, &file.bytes());
    assert!(
        error.contains("key \"llama.block_count\" is there twice"),
        "{error}"
    );
    let mut file = small.gguf_file(Format::F32);
    let mut tokens = small.vocabulary.clone();
    tokens[9] = tokens[8].clone();
    file.set("tokenizer.ggml.tokens", GgufValue::Texts(tokens));
    let error = refused(&path, &file.bytes());
    assert!(
        error.contains("token 9 has the text of an earlier one"),
        "{error}"
    );
}

#[test]
fn tensors_begin_where_the_alignment_says() {
    let small = SmallModel::new(Architecture::Llama);
    let path = small.directory.path().join("misaligned.gguf");
    let mut file = small.gguf_file(Format::F32);
    // The second tensor begins at a multiple of 32 and of no larger power of two.
    file.set("general.alignment", GgufValue::U32(1 << 20));
    let error = refused(&path, &file.bytes());
    assert!(
        error.contains("needs") || error.contains("multiple of 1048576"),
        "{error}"
    );
    let mut bytes = small.gguf_file(Format::F32).bytes();
    let name = b"output_norm.weight";
    let at = bytes
        .windows(name.len())
        .position(|window| window == name)
        .unwrap();
    // Name, one dimension, number format: then the place.
    let place = at + name.len() + 4 + 8 + 4;
    bytes[place] += 1;
    let error = refused(&path, &bytes);
    assert!(
        error.contains("\"output_norm.weight\" begins at byte"),
        "{error}"
    );
    assert!(error.contains("not a multiple of 32"), "{error}");
}

/// Every prefix of a long run in the vocabulary makes merges grow with the square of its length.
#[test]
fn a_vocabulary_of_runs_is_refused() {
    let mut small = SmallModel::new(Architecture::Llama);
    let run = |len: usize| "a".repeat(len);
    let mut vocabulary = small.vocabulary[..4].to_vec();
    vocabulary.extend((1..=200).map(run));
    small.resize_vocabulary(vocabulary.clone());
    let path = small.directory.path().join("runs.gguf");
    let error = refused(&path, &small.gguf_file(Format::F32).bytes());
    assert!(error.contains("more than 3264 merges"), "{error}");
    vocabulary.truncate(10);
    vocabulary.push(run(257));
    small.resize_vocabulary(vocabulary);
    let error = refused(&path, &small.gguf_file(Format::F32).bytes());
    assert!(error.contains("token 10 has 257 bytes"), "{error}");
}
