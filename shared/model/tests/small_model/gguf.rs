//! The same model as a GGUF file.

use std::fs;
use std::path::PathBuf;

use super::{
    Architecture, Format, HEAD_DIM, HIDDEN_DIM, KV_HEADS, LAYER_COUNT, MLP_DIM, Named, Q_HEADS,
    SmallModel, stored,
};

impl SmallModel {
    /// Writes a GGUF file and gives its path back.
    pub(crate) fn gguf(&self, format: Format) -> PathBuf {
        self.write_gguf(&self.gguf_file(format))
    }

    pub(crate) fn write_gguf(&self, file: &GgufFile) -> PathBuf {
        let path = self.directory.path().join("model.gguf");
        fs::write(&path, file.bytes()).unwrap();
        path
    }

    /// The parts of a GGUF file, for changing before it is written.
    pub(crate) fn gguf_file(&self, format: Format) -> GgufFile {
        let architecture = match self.architecture {
            Architecture::Llama => "llama",
            Architecture::Qwen2 => "qwen2",
            Architecture::Qwen3 => "qwen3",
        };
        let key = |name: &str| format!("{architecture}.{name}");
        let number = |value: usize| GgufValue::U32(u32::try_from(value).unwrap());
        let texts = self.vocabulary.clone();
        let kinds = texts
            .iter()
            .enumerate()
            .map(|(id, _)| [2, 3, 3].get(id).copied());
        let kinds: Vec<i32> = kinds.map(|kind| kind.unwrap_or(1)).collect();
        // Earlier pieces score higher.
        let scores = (0..texts.len()).map(|id| -f32::from(u16::try_from(id).unwrap()));
        let keys = vec![
            (
                "general.architecture".to_owned(),
                GgufValue::Text(architecture.to_owned()),
            ),
            (key("embedding_length"), number(HIDDEN_DIM)),
            (key("feed_forward_length"), number(MLP_DIM)),
            (key("block_count"), number(LAYER_COUNT)),
            (key("attention.head_count"), number(Q_HEADS)),
            (key("attention.head_count_kv"), number(KV_HEADS)),
            (key("attention.key_length"), number(HEAD_DIM)),
            (key("context_length"), number(128)),
            (
                key("attention.layer_norm_rms_epsilon"),
                GgufValue::F32(1e-5),
            ),
            (
                "tokenizer.ggml.model".to_owned(),
                GgufValue::Text("llama".to_owned()),
            ),
            ("tokenizer.ggml.tokens".to_owned(), GgufValue::Texts(texts)),
            (
                "tokenizer.ggml.scores".to_owned(),
                GgufValue::F32s(scores.collect()),
            ),
            (
                "tokenizer.ggml.token_type".to_owned(),
                GgufValue::I32s(kinds),
            ),
        ];
        let tensors = self
            .tensors
            .iter()
            .map(|t| gguf_tensor(t, format, self.architecture))
            .collect();
        GgufFile { keys, tensors }
    }
}

/// A value of GGUF metadata.
#[derive(Clone)]
pub(crate) enum GgufValue {
    U32(u32),
    F32(f32),
    Bool(bool),
    Text(String),
    Texts(Vec<String>),
    F32s(Vec<f32>),
    I32s(Vec<i32>),
}

/// A tensor as a GGUF file has it.
#[derive(Clone)]
pub(crate) struct GgufTensor {
    pub(crate) name: String,
    /// Contiguous dimension first.
    pub(crate) dimensions: Vec<u64>,
    pub(crate) number_type: u32,
    pub(crate) bytes: Vec<u8>,
}

/// The parts of a GGUF file.
#[derive(Clone)]
pub(crate) struct GgufFile {
    pub(crate) keys: Vec<(String, GgufValue)>,
    pub(crate) tensors: Vec<GgufTensor>,
}

impl GgufFile {
    /// Sets a key, new or not.
    pub(crate) fn set(&mut self, key: &str, value: GgufValue) {
        self.keys.retain(|(name, _)| name != key);
        self.keys.push((key.to_owned(), value));
    }

    pub(crate) fn tensor(&mut self, name: &str) -> &mut GgufTensor {
        self.tensors
            .iter_mut()
            .find(|tensor| tensor.name == name)
            .unwrap()
    }

    pub(crate) fn bytes(&self) -> Vec<u8> {
        let mut file = b"GGUF".to_vec();
        file.extend(3u32.to_le_bytes());
        file.extend((self.tensors.len() as u64).to_le_bytes());
        file.extend((self.keys.len() as u64).to_le_bytes());
        for (key, value) in &self.keys {
            text(&mut file, key);
            write_value(&mut file, value);
        }
        let mut offset = 0u64;
        for tensor in &self.tensors {
            text(&mut file, &tensor.name);
            file.extend(
                u32::try_from(tensor.dimensions.len())
                    .unwrap()
                    .to_le_bytes(),
            );
            file.extend(tensor.dimensions.iter().flat_map(|dim| dim.to_le_bytes()));
            file.extend(tensor.number_type.to_le_bytes());
            file.extend(offset.to_le_bytes());
            offset += (tensor.bytes.len() as u64).next_multiple_of(32);
        }
        for tensor in &self.tensors {
            file.resize(file.len().next_multiple_of(32), 0);
            file.extend(&tensor.bytes);
        }
        file
    }
}

fn text(file: &mut Vec<u8>, text: &str) {
    file.extend((text.len() as u64).to_le_bytes());
    file.extend(text.as_bytes());
}

fn write_value(file: &mut Vec<u8>, value: &GgufValue) {
    let number = |number: u32| number.to_le_bytes();
    match value {
        GgufValue::U32(n) => file.extend([number(4), number(*n)].concat()),
        GgufValue::F32(n) => file.extend([number(6), n.to_le_bytes()].concat()),
        GgufValue::Bool(truth) => {
            file.extend(number(7));
            file.push(u8::from(*truth));
        }
        GgufValue::Text(value) => {
            file.extend(number(8));
            text(file, value);
        }
        GgufValue::Texts(values) => {
            list(file, 8, values.len());
            values.iter().for_each(|value| text(file, value));
        }
        GgufValue::F32s(values) => {
            list(file, 6, values.len());
            file.extend(values.iter().flat_map(|n| n.to_le_bytes()));
        }
        GgufValue::I32s(values) => {
            list(file, 5, values.len());
            file.extend(values.iter().flat_map(|n| n.to_le_bytes()));
        }
    }
}

fn list(file: &mut Vec<u8>, element: u32, count: usize) {
    file.extend(9u32.to_le_bytes());
    file.extend(element.to_le_bytes());
    file.extend((count as u64).to_le_bytes());
}

fn gguf_tensor(tensor: &Named, format: Format, architecture: Architecture) -> GgufTensor {
    let rotated = [".q_proj.", ".k_proj."]
        .iter()
        .any(|part| tensor.name.contains(part));
    let numbers = match (rotated, architecture) {
        (true, Architecture::Llama) => interleave(&tensor.numbers, tensor.shape[1]),
        _ => tensor.numbers.clone(),
    };
    let format = if tensor.shape.len() == 1 {
        Format::F32
    } else {
        format
    };
    GgufTensor {
        name: gguf_name(&tensor.name),
        dimensions: tensor.shape.iter().rev().map(|dim| *dim as u64).collect(),
        number_type: match format {
            Format::F32 => 0,
            Format::F16 => 1,
            Format::Q8_0 => 8,
            Format::Bf16 => 30,
        },
        bytes: stored(&numbers, format),
    }
}

/// As llama.cpp's converter reorders queries and keys: pairs of RoPE side by side.
fn interleave(numbers: &[f32], row_len: usize) -> Vec<f32> {
    let mut stored = numbers.to_vec();
    for (row, numbers) in numbers.chunks(row_len).enumerate() {
        let (head, within) = (row / HEAD_DIM, row % HEAD_DIM);
        let (half, pair) = (within / (HEAD_DIM / 2), within % (HEAD_DIM / 2));
        let target = head * HEAD_DIM + 2 * pair + half;
        stored[target * row_len..][..row_len].copy_from_slice(numbers);
    }
    stored
}

fn gguf_name(published: &str) -> String {
    let mut name = published.replace("model.layers.", "blk.");
    for (from, to) in [
        ("model.embed_tokens", "token_embd"),
        ("model.norm", "output_norm"),
        ("lm_head", "output"),
        ("input_layernorm", "attn_norm"),
        ("post_attention_layernorm", "ffn_norm"),
        ("self_attn.q_norm", "attn_q_norm"),
        ("self_attn.k_norm", "attn_k_norm"),
        ("self_attn.q_proj", "attn_q"),
        ("self_attn.k_proj", "attn_k"),
        ("self_attn.v_proj", "attn_v"),
        ("self_attn.o_proj", "attn_output"),
        ("mlp.gate_proj", "ffn_gate"),
        ("mlp.up_proj", "ffn_up"),
        ("mlp.down_proj", "ffn_down"),
    ] {
        name = name.replace(from, to);
    }
    name
}
