//! What of a `tokenizer.json` is accepted: what Llama-family models are published with.
//!
//! The library that runs it knows more, and panics on some of it: on a file that is not well-formed
//! inside a decoder, on a template that names no token, on a normalizer that fails.

use std::collections::HashSet;

use serde_json::Value;

/// Deepest nesting: the library copies what lies below once for each level. Published files have
/// eight.
const DEPTH_MAX: usize = 16;

/// One of the parts that text goes through.
struct Stage {
    name: &'static str,
    /// Types that are accepted, beside sequences of them.
    types: &'static [&'static str],
    /// Where a sequence has its members.
    members: &'static str,
    /// What the library does not check of a member.
    check: fn(&Value) -> Result<(), String>,
}

const STAGES: [Stage; 4] = [
    Stage {
        name: "normalizer",
        types: &["Prepend", "Replace", "NFC", "NFD", "NFKC", "NFKD"],
        members: "normalizers",
        check: check_normalizer,
    },
    Stage {
        name: "pre_tokenizer",
        types: &["Split", "ByteLevel", "Digits", "Metaspace"],
        members: "pretokenizers",
        check: |_| Ok(()),
    },
    Stage {
        name: "post_processor",
        types: &["TemplateProcessing", "ByteLevel"],
        members: "processors",
        check: check_processor,
    },
    Stage {
        name: "decoder",
        types: &[
            "Replace",
            "ByteFallback",
            "Fuse",
            "Strip",
            "ByteLevel",
            "Metaspace",
        ],
        members: "decoders",
        check: check_decoder,
    },
];

/// Refuses what is not known to be run without a panic, and the same way each time; the error is
/// one sentence.
pub(crate) fn check_published(published: &Value) -> Result<(), String> {
    if is_deeper(published, DEPTH_MAX) {
        return Err(format!("it is nested deeper than {DEPTH_MAX} levels"));
    }
    for stage in &STAGES {
        check_stage(stage, &published[stage.name])?;
    }
    check_model(&published["model"])
}

fn is_deeper(value: &Value, depth_max: usize) -> bool {
    let deeper = |inner| depth_max == 0 || is_deeper(inner, depth_max - 1);
    match value {
        Value::Array(inner) => inner.iter().any(deeper),
        Value::Object(inner) => inner.values().any(deeper),
        _ => false,
    }
}

fn check_stage(stage: &Stage, part: &Value) -> Result<(), String> {
    if part.is_null() {
        return Ok(());
    }
    let name = stage.name;
    let kind = part["type"].as_str().unwrap_or_default();
    if kind == "Sequence" {
        let members = part[stage.members].as_array().into_iter().flatten();
        return members
            .into_iter()
            .try_for_each(|member| check_stage(stage, member));
    }
    if !stage.types.contains(&kind) {
        return Err(format!("{name}: type {kind:?} is not read"));
    }
    (stage.check)(part).map_err(|reason| format!("{name}: {reason}"))
}

/// A regular expression may fail while it runs, and the library unwraps a normalizer's results.
fn check_normalizer(part: &Value) -> Result<(), String> {
    if part["pattern"]["Regex"].is_null() {
        return Ok(());
    }
    Err("regular expressions are not read".to_owned())
}

/// A template must not name what is not there.
fn check_processor(part: &Value) -> Result<(), String> {
    let pieces = part["single"].as_array().into_iter().flatten();
    for piece in pieces {
        let (token, text) = (&piece["SpecialToken"]["id"], &piece["Sequence"]["id"]);
        let known = |token: &str| part["special_tokens"].get(token).is_some();
        if text != "A" && !token.as_str().is_some_and(known) {
            return Err(format!("the template names {piece}, which is not there"));
        }
    }
    Ok(())
}

/// Cutting at the end of a token that is shorter than the cut is not guarded against.
fn check_decoder(part: &Value) -> Result<(), String> {
    if part["type"] == "Strip" && part["stop"] != 0 {
        return Err("Strip at the end is not read".to_owned());
    }
    Ok(())
}

fn check_model(model: &Value) -> Result<(), String> {
    match &model["type"] {
        Value::Null => {}
        Value::String(kind) if kind == "BPE" => {}
        other => return Err(format!("model.type = {other} is not read: BPE is")),
    }
    if model["dropout"]
        .as_f64()
        .is_some_and(|dropout| dropout != 0.0)
    {
        return Err("model.dropout is for training only".to_owned());
    }
    let prefix = model["continuing_subword_prefix"].as_str();
    if prefix.is_some_and(|prefix| !prefix.is_empty()) {
        return Err("model.continuing_subword_prefix is not read".to_owned());
    }
    let mut numbers = HashSet::new();
    let vocab = model["vocab"].as_object().into_iter().flatten();
    for (token, number) in vocab {
        if !numbers.insert(number.as_u64()) {
            return Err(format!(
                "model.vocab: {token:?} has the number of another token"
            ));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::tokenizer::TextTokenizer;

    fn refused(key: &str, part: Value) -> String {
        let mut value = json!({
            "version": "1.0", "added_tokens": [],
            "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "ab": 2}, "merges": ["a b"]},
        });
        *value.pointer_mut(key).unwrap() = part;
        let text = value.to_string();
        TextTokenizer::from_json(text.as_bytes(), 3).unwrap_err()
    }

    #[test]
    fn a_vocabulary_that_is_not_for_use_is_refused() {
        let twice = refused("/model/vocab/b", json!(0));
        assert_eq!(twice, "model.vocab: \"b\" has the number of another token");
        assert!(refused("/model/type", json!("Unigram")).contains("BPE is"));
        let change = |key: &str, value: Value| {
            let mut model = json!({"type": "BPE", "vocab": {"a": 0}, "merges": []});
            model[key] = value;
            refused("/model", model)
        };
        assert!(change("dropout", json!(0.5)).contains("training"));
        let prefix = change("continuing_subword_prefix", json!("##"));
        assert!(prefix.contains("continuing_subword_prefix"), "{prefix}");
        let mut deep = json!(0);
        for _ in 0..DEPTH_MAX {
            deep = json!([deep]);
        }
        assert!(refused("/version", deep).contains("nested deeper"));
    }

    #[test]
    fn stages_that_the_library_panics_in_are_refused() {
        let refused = |name: &str, part: Value| {
            let mut value = json!({"model": {"type": "BPE", "vocab": {"a": 0}, "merges": []}});
            value[name] = json!({"type": "Sequence"});
            let stage = STAGES.iter().find(|stage| stage.name == name).unwrap();
            value[name][stage.members] = json!([part]);
            check_published(&value).unwrap_err()
        };
        let table = json!({"type": "Precompiled", "precompiled_charsmap": "A"});
        assert!(refused("normalizer", table).contains("type \"Precompiled\" is not read"));
        let regex = json!({"type": "Replace", "pattern": {"Regex": "a"}, "content": ""});
        assert!(refused("normalizer", regex).contains("regular expressions"));
        let strip = json!({"type": "Strip", "content": " ", "start": 0, "stop": 1});
        assert!(refused("decoder", strip).contains("Strip at the end"));
        assert!(refused("decoder", json!({"start": 0})).contains("type \"\""));
        for piece in [
            json!({"SpecialToken": {"id": "<s>"}}),
            json!({"Sequence": {"id": "B"}}),
        ] {
            let part =
                json!({"type": "TemplateProcessing", "single": [piece], "special_tokens": {}});
            let error = refused("post_processor", part);
            assert!(error.contains("which is not there"), "{error}");
        }
    }

    #[test]
    fn text_that_is_no_json_is_refused_without_a_panic() {
        let refused = |text: &[u8]| TextTokenizer::from_json(text, 3).unwrap_err();
        // The library itself panics on each of these inside a decoder.
        assert!(refused(br#"{"decoder":{"type":"Fuse","x":1e999}}"#).contains("out of range"));
        assert!(refused(b"{\"decoder\":{\"type\":\"F\xe9\"}}").contains("unicode"));
        let deep = [br#"{"decoder":"#.as_slice(), &[b'['; 10_000]].concat();
        assert!(refused(&deep).contains("recursion limit"));
    }
}
