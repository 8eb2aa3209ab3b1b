//! Small models of the same numbers as a Hugging Face folder and as a GGUF file.

#![allow(dead_code, reason = "every test program uses a part of this")]

pub(crate) mod byte_level;
pub(crate) mod gguf;

use std::fs;
use std::path::PathBuf;

use half::{bf16, f16};
use serde_json::{Value, json};
use tempfile::TempDir;

/// The architectures, with what sets them apart.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Architecture {
    Llama,
    Qwen2,
    Qwen3,
}

/// How a file stores the matrices; vectors are f32 as in published files.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Format {
    F32,
    F16,
    Bf16,
    Q8_0,
}

pub(crate) const HIDDEN_DIM: usize = 32;
pub(crate) const MLP_DIM: usize = 64;
pub(crate) const LAYER_COUNT: usize = 2;
pub(crate) const Q_HEADS: usize = 4;
pub(crate) const KV_HEADS: usize = 2;
pub(crate) const HEAD_DIM: usize = 8;

/// A tensor by its published name.
pub(crate) struct Named {
    pub(crate) name: String,
    pub(crate) shape: Vec<usize>,
    pub(crate) numbers: Vec<f32>,
}

/// A model of made-up numbers, and the folder its files are in while it lives.
pub(crate) struct SmallModel {
    pub(crate) architecture: Architecture,
    pub(crate) tensors: Vec<Named>,
    pub(crate) vocabulary: Vec<String>,
    pub(crate) directory: TempDir,
}

impl SmallModel {
    pub(crate) fn new(architecture: Architecture) -> Self {
        let vocabulary = pieces();
        Self {
            architecture,
            tensors: tensors(architecture, vocabulary.len()),
            vocabulary,
            directory: tempfile::tempdir().unwrap(),
        }
    }

    /// Takes another vocabulary, with tensors to match.
    pub(crate) fn resize_vocabulary(&mut self, vocabulary: Vec<String>) {
        self.tensors = tensors(self.architecture, vocabulary.len());
        self.vocabulary = vocabulary;
    }

    /// Whether embedding and head are one: so for Qwen 3 here.
    pub(crate) fn tied(&self) -> bool {
        self.architecture == Architecture::Qwen3
    }

    pub(crate) fn config_json(&self) -> Value {
        let name = match self.architecture {
            Architecture::Llama => "LlamaForCausalLM",
            Architecture::Qwen2 => "Qwen2ForCausalLM",
            Architecture::Qwen3 => "Qwen3ForCausalLM",
        };
        json!({
            "architectures": [name], "hidden_size": HIDDEN_DIM, "intermediate_size": MLP_DIM,
            "num_hidden_layers": LAYER_COUNT, "num_attention_heads": Q_HEADS,
            "num_key_value_heads": KV_HEADS, "head_dim": HEAD_DIM,
            "vocab_size": self.vocabulary.len(), "max_position_embeddings": 128,
            "rms_norm_eps": 1e-5, "rope_theta": 10000.0,
            "tie_word_embeddings": self.tied(), "bos_token_id": 1, "eos_token_id": 2,
        })
    }

    /// Writes a Hugging Face folder of one safetensors file and gives its path back.
    pub(crate) fn folder(&self, format: Format) -> PathBuf {
        let folder = self.directory.path().join("folder");
        fs::create_dir_all(&folder).unwrap();
        let write = |name: &str, text: String| fs::write(folder.join(name), text).unwrap();
        write("config.json", self.config_json().to_string());
        write(
            "tokenizer.json",
            tokenizer_json(&self.vocabulary).to_string(),
        );
        fs::write(
            folder.join("model.safetensors"),
            safetensors(self.tensors.iter(), format),
        )
        .unwrap();
        folder
    }

    /// The same in two shards with an index.
    pub(crate) fn sharded_folder(&self) -> PathBuf {
        let folder = self.folder(Format::F32);
        fs::remove_file(folder.join("model.safetensors")).unwrap();
        let mut weight_map = serde_json::Map::new();
        let middle = self.tensors.len() / 2;
        for (part, tensors) in [&self.tensors[..middle], &self.tensors[middle..]]
            .iter()
            .enumerate()
        {
            let shard = format!("model-{part}.safetensors");
            fs::write(
                folder.join(&shard),
                safetensors(tensors.iter(), Format::F32),
            )
            .unwrap();
            let names = tensors
                .iter()
                .map(|t| (t.name.clone(), Value::from(shard.clone())));
            weight_map.extend(names);
        }
        let index = json!({"metadata": {}, "weight_map": weight_map}).to_string();
        fs::write(folder.join("model.safetensors.index.json"), index).unwrap();
        folder
    }
}

/// The numbers are whole multiples of 1/128 up to one: every format keeps them exactly.
fn stored(numbers: &[f32], format: Format) -> Vec<u8> {
    match format {
        Format::F32 => numbers.iter().flat_map(|n| n.to_le_bytes()).collect(),
        Format::F16 => numbers
            .iter()
            .flat_map(|n| f16::from_f32(*n).to_le_bytes())
            .collect(),
        Format::Bf16 => numbers
            .iter()
            .flat_map(|n| bf16::from_f32(*n).to_le_bytes())
            .collect(),
        Format::Q8_0 => {
            let scale = f16::from_f32(1.0 / 128.0).to_le_bytes();
            let byte = |n: &f32| numbers_byte(*n);
            let block = |block: &[f32]| {
                let bytes = block.iter().map(byte);
                scale.into_iter().chain(bytes).collect::<Vec<u8>>()
            };
            numbers.chunks(32).flat_map(block).collect()
        }
    }
}

#[allow(
    clippy::cast_possible_truncation,
    reason = "a whole number between -127 and 127"
)]
fn numbers_byte(number: f32) -> u8 {
    ((number * 128.0) as i8).cast_unsigned()
}

/// A safetensors file.
pub(crate) fn safetensors<'a>(tensors: impl Iterator<Item = &'a Named>, format: Format) -> Vec<u8> {
    let (mut header, mut data) = (serde_json::Map::new(), Vec::new());
    let dtype = match format {
        Format::F32 => "F32",
        Format::F16 => "F16",
        Format::Bf16 => "BF16",
        Format::Q8_0 => panic!("not a format of safetensors"),
    };
    for tensor in tensors {
        let start = data.len();
        data.extend(stored(&tensor.numbers, format));
        let entry =
            json!({"dtype": dtype, "shape": tensor.shape, "data_offsets": [start, data.len()]});
        header.insert(tensor.name.clone(), entry);
    }
    let header = Value::Object(header).to_string();
    let length = (header.len() as u64).to_le_bytes();
    [&length, header.as_bytes(), &data].concat()
}

fn tensors(architecture: Architecture, vocab_size: usize) -> Vec<Named> {
    let (q_dim, kv_dim) = (Q_HEADS * HEAD_DIM, KV_HEADS * HEAD_DIM);
    let mut shapes = vec![
        (
            "model.embed_tokens.weight".to_owned(),
            vec![vocab_size, HIDDEN_DIM],
        ),
        ("model.norm.weight".to_owned(), vec![HIDDEN_DIM]),
    ];
    if architecture != Architecture::Qwen3 {
        shapes.push(("lm_head.weight".to_owned(), vec![vocab_size, HIDDEN_DIM]));
    }
    for layer in 0..LAYER_COUNT {
        let mut add = |part: &str, shape: &[usize]| {
            shapes.push((format!("model.layers.{layer}.{part}"), shape.to_vec()));
        };
        add("input_layernorm.weight", &[HIDDEN_DIM]);
        add("post_attention_layernorm.weight", &[HIDDEN_DIM]);
        for (part, dim) in [("q", q_dim), ("k", kv_dim), ("v", kv_dim)] {
            add(&format!("self_attn.{part}_proj.weight"), &[dim, HIDDEN_DIM]);
            if architecture == Architecture::Qwen2 {
                add(&format!("self_attn.{part}_proj.bias"), &[dim]);
            }
        }
        if architecture == Architecture::Qwen3 {
            add("self_attn.q_norm.weight", &[HEAD_DIM]);
            add("self_attn.k_norm.weight", &[HEAD_DIM]);
        }
        add("self_attn.o_proj.weight", &[HIDDEN_DIM, q_dim]);
        add("mlp.gate_proj.weight", &[MLP_DIM, HIDDEN_DIM]);
        add("mlp.up_proj.weight", &[MLP_DIM, HIDDEN_DIM]);
        add("mlp.down_proj.weight", &[HIDDEN_DIM, MLP_DIM]);
    }
    let mut state = 1u64;
    let mut number = || {
        // Knuth's linear congruential generator; its upper bits are the good ones.
        state = state
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1);
        let byte = u8::try_from(state >> 56).unwrap().cast_signed().max(-127);
        f32::from(byte) / 128.0
    };
    let named = shapes.into_iter().map(|(name, shape)| {
        let count = shape.iter().product();
        let numbers = (0..count).map(|_| number()).collect();
        Named {
            name,
            shape,
            numbers,
        }
    });
    named.collect()
}

/// Pieces that overlap in every way SentencePiece's do.
fn pieces() -> Vec<String> {
    let text = "<unk> <s> </s> ▁ a b c ab bc ▁a ▁ab abc ▁abc aa aaa aaaa cb cab";
    text.split(' ').map(str::to_owned).collect()
}

/// The tokenizer of the pieces, its merges written by hand as SentencePiece would take them.
fn tokenizer_json(vocabulary: &[String]) -> Value {
    let ids: serde_json::Map<String, Value> = vocabulary
        .iter()
        .cloned()
        .zip((0..).map(Value::from))
        .collect();
    let added = |id: usize| {
        json!({"id": id, "content": vocabulary[id], "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true})
    };
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": [added(0), added(1), added(2)],
        "normalizer": {"type": "Sequence", "normalizers": [
            {"type": "Prepend", "prepend": "▁"},
            {"type": "Replace", "pattern": {"String": " "}, "content": "▁"}]},
        "pre_tokenizer": null,
        "post_processor": {"type": "TemplateProcessing",
            "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}},
                {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [{"Sequence": {"id": "A", "type_id": 0}}, {"Sequence": {"id": "B", "type_id": 1}}],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [1], "tokens": ["<s>"]}}},
        "decoder": {"type": "Sequence", "decoders": [
            {"type": "Replace", "pattern": {"String": "▁"}, "content": " "},
            {"type": "ByteFallback"}, {"type": "Fuse"},
            {"type": "Strip", "content": " ", "start": 1, "stop": 0}]},
        "model": {"type": "BPE", "dropout": null, "unk_token": "<unk>",
            "continuing_subword_prefix": null, "end_of_word_suffix": null, "fuse_unk": true,
            "byte_fallback": true, "ignore_merges": false, "vocab": ids,
            "merges": ["a b", "b c", "▁ a", "▁a b", "▁ ab", "ab c", "a bc", "▁ab c", "▁a bc",
                "▁ abc", "a a", "aa a", "a aa", "aaa a", "aa aa", "a aaa", "c b", "c ab"]},
    })
}
