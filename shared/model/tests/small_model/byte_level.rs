//! Byte-level tokenizers of a small vocabulary, as Hugging Face publishes them.

use serde_json::{Value, json};
use tokenizers::pre_tokenizers::byte_level::ByteLevel;

/// A byte-level vocabulary: every byte's character, then merges of common pairs.
pub(crate) fn vocabulary() -> (Vec<String>, Vec<String>) {
    let alphabet = ByteLevel::alphabet();
    let mut tokens: Vec<String> = alphabet.into_iter().map(String::from).collect();
    tokens.sort_unstable();
    let merges = [
        "t h",
        "th e",
        "Ġ the",
        "1 2",
        "12 3",
        "Ġ Ġ",
        "ĠĠ ĠĠ",
        "' s",
        "e Ì",
        "eÌ ģ",
    ];
    let merges: Vec<String> = merges.iter().map(|merge| (*merge).to_owned()).collect();
    tokens.extend(merges.iter().map(|merge| merge.replace(' ', "")));
    tokens.extend(["<|begin|>".to_owned(), "<|end|>".to_owned()]);
    (tokens, merges)
}

/// The `tokenizer.json` that Hugging Face publishes for each way of cutting text.
pub(crate) fn tokenizer_json(cut: &str) -> Value {
    let (tokens, merges) = vocabulary();
    let bytes = |use_regex: bool| {
        json!({"type": "ByteLevel", "add_prefix_space": false, "trim_offsets": true,
            "use_regex": use_regex})
    };
    let words = |digits: &str| {
        let words = format!(
            r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{{L}}\p{{N}}]?\p{{L}}+|\p{{N}}{digits}| ?[^\s\p{{L}}\p{{N}}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
        );
        let split = json!({"type": "Split", "pattern": {"Regex": words},
            "behavior": "Isolated", "invert": false});
        json!({"type": "Sequence", "pretokenizers": [split, bytes(false)]})
    };
    let digits = json!({"type": "Digits", "individual_digits": true});
    let (normalizer, pre_tokenizer) = match cut {
        "qwen2" => (json!({"type": "NFC"}), words("")),
        "llama-bpe" => (Value::Null, words("{1,3}")),
        "smollm" => {
            let both = json!([digits, bytes(true)]);
            (
                Value::Null,
                json!({"type": "Sequence", "pretokenizers": both}),
            )
        }
        _ => (Value::Null, bytes(true)),
    };
    let vocab: serde_json::Map<String, Value> =
        tokens.iter().cloned().zip((0..).map(Value::from)).collect();
    let added = tokens
        .iter()
        .enumerate()
        .skip(tokens.len() - 2)
        .map(|(id, content)| {
            json!({"id": id, "content": content, "single_word": false, "lstrip": false,
            "rstrip": false, "normalized": false, "special": true})
        });
    json!({
        "version": "1.0", "truncation": null, "padding": null,
        "added_tokens": added.collect::<Vec<_>>(), "normalizer": normalizer,
        "pre_tokenizer": pre_tokenizer, "post_processor": null, "decoder": bytes(true),
        "model": {"type": "BPE", "vocab": vocab, "merges": merges,
            "ignore_merges": cut == "llama-bpe"},
    })
}
