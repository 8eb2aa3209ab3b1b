//! A GGUF file gives the same configuration, weights and tokens as the Hugging Face folder of the
//! same model.

// All of it is test code, so a panic is a failed test.
#![cfg(test)]

mod small_model;

use std::path::Path;

use burn::module::{Module, ModuleVisitor, Param};
use burn::tensor::{Device, Tensor};
use edgeprompt_model::{ChatMessage, Decoder, Model, ModelConfig, RopeScaling, Turn};
use edgeprompt_testkit::fixtures::trained_model;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use small_model::gguf::{GgufFile, GgufTensor, GgufValue};
use small_model::{Architecture, Format, SmallModel, byte_level};

fn open(path: &Path) -> Model {
    Model::open(path, &Device::flex(), |_| {}).unwrap()
}

fn error(path: &Path) -> String {
    Model::open(path, &Device::flex(), |_| {})
        .unwrap_err()
        .to_string()
}

#[derive(Default)]
struct Weights {
    path: Vec<String>,
    found: Vec<(String, Vec<f32>)>,
}

impl ModuleVisitor for Weights {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let numbers = param.val().into_data().try_to_vec().unwrap();
        self.found.push((self.path.join("."), numbers));
    }
}

fn weights(decoder: &Decoder) -> Vec<(String, Vec<f32>)> {
    let mut weights = Weights::default();
    decoder.visit(&mut weights);
    // A file that stores a tied matrix twice has it as embedding too.
    weights.found.retain(|(name, _)| name != "embedding");
    weights.found
}

fn assert_same(gguf: &Model, folder: &Model) {
    let config = ModelConfig {
        tied_head: folder.config.tied_head,
        ..gguf.config.clone()
    };
    assert_eq!(config, folder.config);
    let (ours, theirs) = (weights(&gguf.decoder), weights(&folder.decoder));
    assert_eq!(ours.len(), theirs.len());
    for (ours, theirs) in ours.iter().zip(&theirs) {
        assert_eq!(ours.0, theirs.0);
        assert!(ours.1 == theirs.1, "{} differs", ours.0);
    }
}

fn assert_same_tokens(gguf: &Model, folder: &Model, text: &str) {
    let (gguf, folder) = (gguf.tokenizer().unwrap(), folder.tokenizer().unwrap());
    let tokens = gguf.encode(text).unwrap();
    assert_eq!(tokens, folder.encode(text).unwrap(), "{text:?}");
    assert_eq!(
        gguf.decode(&tokens).unwrap(),
        folder.decode(&tokens).unwrap()
    );
}

/// The fixed texts, then random ones.
fn assert_same_tokens_of_many(gguf: &Model, folder: &Model, texts: &[&str], pattern: &str) {
    for text in texts {
        assert_same_tokens(gguf, folder, text);
    }
    let config = ProptestConfig {
        cases: 3000,
        failure_persistence: None,
        ..Default::default()
    };
    let checked = TestRunner::new(config).run(&pattern, |text| {
        assert_same_tokens(gguf, folder, &text);
        Ok(())
    });
    checked.unwrap();
}

#[test]
fn stories260k_is_the_same_from_both_files() {
    let Some(folder) = trained_model("stories260K") else {
        return;
    };
    let (gguf, folder) = (open(&folder.join("stories260K.gguf")), open(&folder));
    assert_same(&gguf, &folder);
    let texts = [
        "",
        " ",
        "  two  spaces   ",
        "Once upon a time, there was a little girl named Lily.",
        "tabs\tand\nnew lines\r\n",
        "naïve café — 東京 🦀 \u{0}\u{7f}",
        "<s></s><unk> <s> x</s>",
        "▁already▁marked",
        "outoutout the thethe mmmmmm ooooo aaaaaaa",
    ];
    let story =
        "(Once|upon|the|and|Timmy|friend|little|happy|out|ould|They|[a-zA-Z .,!'\"]|\\PC){0,40}";
    assert_same_tokens_of_many(&gguf, &folder, &texts, story);
}

#[test]
fn every_architecture_and_format_gives_the_published_numbers() {
    for architecture in [
        Architecture::Llama,
        Architecture::Qwen2,
        Architecture::Qwen3,
    ] {
        let small = SmallModel::new(architecture);
        let folder = open(&small.folder(Format::F32));
        for format in [Format::F32, Format::F16, Format::Bf16, Format::Q8_0] {
            assert_same(&open(&small.gguf(format)), &folder);
        }
        for format in [Format::F16, Format::Bf16] {
            assert_same(&open(&small.folder(format)), &folder);
        }
    }
}

#[test]
fn shards_are_one_model() {
    let small = SmallModel::new(Architecture::Llama);
    let whole = open(&small.folder(Format::F32));
    let shards = open(&small.sharded_folder());
    assert_same(&shards, &whole);
    assert_eq!(shards.digest, whole.digest);
}

#[test]
fn pieces_are_merged_by_score() {
    let small = SmallModel::new(Architecture::Llama);
    let (gguf, folder) = (
        open(&small.gguf(Format::F32)),
        open(&small.folder(Format::F32)),
    );
    let texts = ["", "abc", " abc abcab", "aaaaaaa cab", "xyz", "<s>abc</s>"];
    assert_same_tokens_of_many(&gguf, &folder, &texts, "[abc x]{0,24}");
}

#[test]
fn a_text_begins_as_the_metadata_says() {
    let small = SmallModel::new(Architecture::Llama);
    let mut file = small.gguf_file(Format::F32);
    let encode = |file: &GgufFile| {
        let model = open(&small.write_gguf(file));
        let tokens = model.tokenizer().unwrap().encode("ab").unwrap();
        tokens.iter().map(|token| token.0).collect::<Vec<_>>()
    };
    assert_eq!(encode(&file), [1, 10], "bos, then ▁ab");
    file.set("tokenizer.ggml.add_space_prefix", GgufValue::Bool(false));
    assert_eq!(encode(&file), [1, 7]);
    file.set("tokenizer.ggml.add_bos_token", GgufValue::Bool(false));
    file.set("tokenizer.ggml.add_eos_token", GgufValue::Bool(true));
    assert_eq!(encode(&file), [7, 2]);
}

#[test]
fn the_chat_template_is_rendered_with_the_special_tokens() {
    let small = SmallModel::new(Architecture::Llama);
    let mut file = small.gguf_file(Format::F32);
    let source = "{{ bos_token }}{{ messages[0].content }}{{ eos_token }}";
    file.set(
        "tokenizer.chat_template",
        GgufValue::Text(source.to_owned()),
    );
    let model = open(&small.write_gguf(&file));
    let message = ChatMessage {
        role: "user".to_owned(),
        content: "Hi".to_owned(),
    };
    let template = model.chat_template.unwrap();
    assert_eq!(
        template.render(&[message], Turn::Closed).unwrap(),
        "<s>Hi</s>"
    );
}

#[test]
fn rope_factors_are_the_scaling_they_come_from() {
    let small = SmallModel::new(Architecture::Llama);
    let mut file = small.gguf_file(Format::F32);
    // Llama 3.1's factors for the four frequencies of heads of eight at base 500000: rotations
    // over 8192 tokens are 1304, 49, 1.84 and 0.069, of which the third is blended.
    file.set("llama.rope.freq_base", GgufValue::F32(500_000.0));
    let factors = [1.0f32, 1.0, 2.694_53, 8.0];
    file.tensors.push(GgufTensor {
        name: "rope_freqs.weight".to_owned(),
        dimensions: vec![4],
        number_type: 0,
        bytes: factors.iter().flat_map(|n| n.to_le_bytes()).collect(),
    });
    let model = open(&small.write_gguf(&file));
    let RopeScaling::Llama3 { factor, .. } = model.config.rope.scaling else {
        panic!("{:?}", model.config.rope);
    };
    assert_eq!(factor, 8.0);
    file.tensor("rope_freqs.weight").bytes[..4].copy_from_slice(&1.5f32.to_le_bytes());
    assert!(error(&small.write_gguf(&file)).contains("rope_freqs.weight"));
}

#[test]
fn what_cannot_be_exact_is_refused_by_name() {
    let small = SmallModel::new(Architecture::Llama);
    let with = |key: &str, value: GgufValue| {
        let mut file = small.gguf_file(Format::F32);
        file.set(key, value);
        error(&small.write_gguf(&file))
    };
    let text = |text: &str| GgufValue::Text(text.to_owned());
    let number = GgufValue::U32;
    for (key, value, said) in [
        (
            "general.architecture",
            text("falcon"),
            "architecture falcon is not supported",
        ),
        (
            "llama.attention.sliding_window",
            number(4096),
            "attention.sliding_window = 4096",
        ),
        ("llama.expert_count", number(8), "llama.expert_count = 8"),
        (
            "llama.rope.dimension_count",
            number(4),
            "llama.rope.dimension_count = 4",
        ),
        (
            "llama.rope.scaling.type",
            text("longrope"),
            "rope.scaling.factor is missing",
        ),
        ("llama.block_count", number(1), "model.layers.1."),
        ("llama.block_count", number(3), "model.layers.2."),
        (
            "llama.block_count",
            text("2"),
            "\"llama.block_count\" is not a number",
        ),
        ("llama.vocab_size", number(17), "has shape [18, 32]"),
        ("llama.context_length", number(0), "context_length = 0"),
        (
            "tokenizer.ggml.model",
            text("bert"),
            "tokenizer.ggml.model = bert",
        ),
        (
            "tokenizer.ggml.bos_token_id",
            number(18),
            "tokenizer.ggml.bos_token_id = 18",
        ),
        (
            "tokenizer.ggml.scores",
            GgufValue::F32s(vec![0.0]),
            "has 1 entries",
        ),
        ("split.count", number(2), "split.count = 2"),
        ("general.alignment", number(24), "general.alignment = 24"),
    ] {
        let error = with(key, value);
        assert!(error.contains(said), "{key}: {error}");
        assert!(error.contains("model.gguf"), "{error}");
    }
}

/// Something done to a tensor.
type Change = fn(&mut GgufTensor);

#[test]
fn tensors_of_other_kinds_are_refused_by_name() {
    let small = SmallModel::new(Architecture::Llama);
    let with = |change: Change| {
        let mut file = small.gguf_file(Format::F32);
        change(file.tensor("blk.1.ffn_up.weight"));
        error(&small.write_gguf(&file))
    };
    let name = "tensor \"blk.1.ffn_up.weight\"";
    let cases: [(Change, &str); 6] = [
        (|t| t.number_type = 12, "is stored as Q4_K"),
        (|t| t.number_type = 99, "is stored as format number 99"),
        (
            |t| t.dimensions = vec![1 << 40, 1 << 40],
            "impossible shape",
        ),
        (|t| t.dimensions = vec![1 << 30], "lies at bytes"),
        (|t| t.dimensions = vec![1; 5], "has 5 dimensions"),
        (|t| t.dimensions.push(2), "begins inside another tensor"),
    ];
    for (change, said) in cases {
        let error = with(change);
        assert!(error.contains(said), "{error}");
        assert!(
            error.contains(name) || said.starts_with("begins"),
            "{error}"
        );
    }
    let renamed = with(|t| t.name = "blk.1.ffn_up_exps.weight".to_owned());
    assert!(
        renamed.contains("ffn_up_exps.weight\" is not a tensor of"),
        "{renamed}"
    );
    let twice = with(|t| t.name = "blk.1.ffn_gate.weight".to_owned());
    assert!(
        twice.contains("ffn_gate.weight\" is there twice"),
        "{twice}"
    );
    let swapped = with(|t| t.dimensions.reverse());
    assert!(
        swapped.contains("the configuration asks for [64, 32]"),
        "{swapped}"
    );
}

#[test]
fn byte_level_text_is_cut_as_the_metadata_says() {
    let (tokens, merges) = byte_level::vocabulary();
    let mut small = SmallModel::new(Architecture::Qwen2);
    small.resize_vocabulary(tokens);
    let begin = u32::try_from(small.vocabulary.len() - 2).unwrap();
    for cut in ["gpt-2", "smollm", "qwen2", "llama-bpe"] {
        let mut file = small.gguf_file(Format::F32);
        file.set("tokenizer.ggml.model", GgufValue::Text("gpt2".to_owned()));
        file.set("tokenizer.ggml.pre", GgufValue::Text(cut.to_owned()));
        file.set("tokenizer.ggml.merges", GgufValue::Texts(merges.clone()));
        let kind = |id: usize| {
            if id < small.vocabulary.len() - 2 {
                1
            } else {
                3
            }
        };
        let kinds = (0..small.vocabulary.len()).map(kind).collect();
        file.set("tokenizer.ggml.token_type", GgufValue::I32s(kinds));
        file.set("tokenizer.ggml.bos_token_id", GgufValue::U32(begin));
        let model = open(&small.write_gguf(&file));
        let published = byte_level::tokenizer_json(cut).to_string();
        let published = tokenizers::Tokenizer::from_bytes(published).unwrap();
        let check = |text: &str| {
            let ours = model.tokenizer().unwrap().encode(text).unwrap();
            let ours: Vec<u32> = ours.iter().map(|token| token.0).collect();
            let theirs = published.encode_fast(text, false).unwrap();
            // Only Llama 3's kind begins with the first special token unless told otherwise.
            let bos = (cut == "llama-bpe").then_some(begin);
            let theirs: Vec<u32> = bos
                .into_iter()
                .chain(theirs.get_ids().iter().copied())
                .collect();
            assert_eq!(ours, theirs, "{cut}: {text:?}");
        };
        check("the theme's 123456  end\r\n\n   e\u{301} 東京 <|end|>the THE'S 1 2 3");
        let config = ProptestConfig {
            cases: 1000,
            failure_persistence: None,
            ..Default::default()
        };
        let pattern = "(the|123|'s| |\n|e\u{301}|[a-z0-9 '\r\n]|\\PC){0,30}";
        let checked = TestRunner::new(config).run(&pattern, |text| {
            check(&text);
            Ok(())
        });
        checked.unwrap();
    }
    let mut file = small.gguf_file(Format::F32);
    file.set("tokenizer.ggml.model", GgufValue::Text("gpt2".to_owned()));
    file.set("tokenizer.ggml.pre", GgufValue::Text("tekken".to_owned()));
    file.set("tokenizer.ggml.merges", GgufValue::Texts(merges));
    assert!(error(&small.write_gguf(&file)).contains("tokenizer.ggml.pre = tekken"));
}
