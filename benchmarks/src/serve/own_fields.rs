//! What an edge node tells of an answer beside what every server tells: where the keys and values of
//! the cloud prompt came from, in which number format, and what that cost. Read from `timings`; other
//! servers have none of it.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

/// The names of words: the source of most keys and values, and their number format.
pub(crate) const WORDS: [&str; 2] = ["kv_source", "kv_codec"];

/// The names of numbers.
pub(crate) const NUMBERS: [&str; 3] = ["kv_wait_ms", "kv_first_layer_ms", "kv_last_layer_ms"];

/// Longest word that is kept.
const WORD_LEN_MAX: usize = 32;

/// Those of one answer, as far as they were told.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct OwnFields {
    /// By name.
    #[serde(flatten)]
    pub(crate) words: BTreeMap<&'static str, String>,
    /// By name.
    #[serde(flatten)]
    pub(crate) numbers: BTreeMap<&'static str, f64>,
}

impl OwnFields {
    /// Those in `timings`.
    pub(crate) fn read(timings: &Map<String, Value>) -> Self {
        let word = |name| {
            let word = timings.get(name)?.as_str()?;
            Some((name, word.chars().take(WORD_LEN_MAX).collect()))
        };
        let number = |name| Some((name, timings.get(name)?.as_f64()?));
        Self {
            words: WORDS.into_iter().filter_map(word).collect(),
            numbers: NUMBERS.into_iter().filter_map(number).collect(),
        }
    }
}

/// Those of many answers: words by how often they occur, numbers by their mean where they were told.
#[expect(clippy::cast_precision_loss, reason = "a mean")]
pub(crate) fn summary<'a>(
    answers: impl Iterator<Item = &'a OwnFields> + Clone,
) -> Map<String, Value> {
    let mut summary = Map::new();
    for name in WORDS {
        let mut counts = BTreeMap::<&str, usize>::new();
        for word in answers.clone().filter_map(|own| own.words.get(name)) {
            *counts.entry(word).or_default() += 1;
        }
        if !counts.is_empty() {
            let counts = counts.into_iter();
            let counts = counts.map(|(word, count)| (word.to_owned(), count.into()));
            summary.insert(name.to_owned(), Value::Object(counts.collect()));
        }
    }
    for name in NUMBERS {
        let told: Vec<f64> = answers
            .clone()
            .filter_map(|own| own.numbers.get(name).copied())
            .collect();
        if !told.is_empty() {
            let mean = told.iter().sum::<f64>() / told.len() as f64;
            summary.insert(name.to_owned(), mean.into());
        }
    }
    summary
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(timings: &Value) -> OwnFields {
        OwnFields::read(timings.as_object().unwrap())
    }

    #[test]
    fn only_what_was_told_counts() {
        let answers = [
            read(
                &json!({"kv_source": "cloud", "kv_codec": "int8", "kv_wait_ms": 3, "prompt_ms": 5}),
            ),
            read(&json!({"kv_source": "memory", "kv_codec": "f32", "kv_wait_ms": 1.0})),
            read(&json!({"kv_source": "memory", "kv_codec": "int8", "kv_wait_ms": "long"})),
            read(&json!({})),
        ];
        assert_eq!(
            Value::Object(summary(answers.iter())),
            json!({"kv_source": {"cloud": 1, "memory": 2}, "kv_codec": {"f32": 1, "int8": 2},
                "kv_wait_ms": 2.0})
        );
        assert_eq!(
            serde_json::to_value(&answers[0]).unwrap(),
            json!({"kv_source": "cloud", "kv_codec": "int8", "kv_wait_ms": 3.0})
        );
        assert_eq!(summary(answers[3..].iter()), Map::new());
    }

    #[test]
    fn all_that_an_edge_node_tells_is_read() {
        // As `edge-node serve` writes it; the keys are compared with a real one's in tests/serve.
        let timings = json!({
            "cache_n": 10, "prompt_n": 2, "prompt_ms": 40.0, "prompt_per_token_ms": 20.0,
            "prompt_per_second": 50.0, "predicted_n": 3, "predicted_ms": 100.0,
            "predicted_per_token_ms": 50.0, "predicted_per_second": 20.0, "kv_source": "disk",
            "kv_codec": "int8", "kv_wait_ms": 12.0, "kv_first_layer_ms": 5.0, "kv_last_layer_ms": 30.0,
        });
        assert_eq!(
            serde_json::to_value(read(&timings)).unwrap(),
            json!({"kv_source": "disk", "kv_codec": "int8", "kv_wait_ms": 12.0,
                "kv_first_layer_ms": 5.0, "kv_last_layer_ms": 30.0})
        );
        let long = read(&json!({"kv_codec": "x".repeat(100)}));
        assert_eq!(long.words["kv_codec"].len(), WORD_LEN_MAX);
    }
}
