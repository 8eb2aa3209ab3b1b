//! What an edge node tells of an answer beside what every server tells: where the keys and values of
//! the cloud prompt came from and what that cost. Read from `timings`; other servers have none of it.

use std::collections::BTreeMap;

use serde::Serialize;
use serde_json::{Map, Value};

/// The names of numbers.
pub(crate) const NUMBERS: [&str; 7] = [
    "kv_bytes_wire",
    "kv_bytes_logical",
    "kv_first_layer_ms",
    "kv_last_layer_ms",
    "kv_overlap_ratio",
    "kv_wait_ms",
    "kv_layers_recomputed",
];

/// The name of the source.
pub(crate) const SOURCE: &str = "kv_source";

/// Longest name of a source that is kept.
const SOURCE_LEN_MAX: usize = 32;

/// Those of one answer, as far as they were told.
#[derive(Clone, Debug, Default, PartialEq, Serialize)]
pub(crate) struct OwnFields {
    /// Where most of the keys and values came from.
    #[serde(rename = "kv_source", skip_serializing_if = "Option::is_none")]
    pub(crate) source: Option<String>,
    /// By name.
    #[serde(flatten)]
    pub(crate) numbers: BTreeMap<&'static str, f64>,
}

impl OwnFields {
    /// Those in `timings`.
    pub(crate) fn read(timings: &Map<String, Value>) -> Self {
        let number = |name| Some((name, timings.get(name)?.as_f64()?));
        let source = timings.get(SOURCE).and_then(Value::as_str);
        Self {
            source: source.map(|source| source.chars().take(SOURCE_LEN_MAX).collect()),
            numbers: NUMBERS.into_iter().filter_map(number).collect(),
        }
    }
}

/// Those of many answers: sources by how often they occur, numbers by their mean where they were
/// told.
#[expect(clippy::cast_precision_loss, reason = "a mean")]
pub(crate) fn summary<'a>(
    answers: impl Iterator<Item = &'a OwnFields> + Clone,
) -> Map<String, Value> {
    let mut summary = Map::new();
    let mut sources = BTreeMap::<&str, usize>::new();
    for source in answers.clone().filter_map(|own| own.source.as_deref()) {
        *sources.entry(source).or_default() += 1;
    }
    if !sources.is_empty() {
        let counts = sources.into_iter();
        let counts = counts.map(|(source, count)| (source.to_owned(), count.into()));
        summary.insert(SOURCE.to_owned(), Value::Object(counts.collect()));
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
            read(&json!({"kv_source": "cloud", "kv_wait_ms": 3, "prompt_ms": 5})),
            read(&json!({"kv_source": "memory", "kv_wait_ms": 1.0})),
            read(&json!({"kv_source": "memory", "kv_wait_ms": "long"})),
            read(&json!({})),
        ];
        assert_eq!(
            Value::Object(summary(answers.iter())),
            json!({"kv_source": {"cloud": 1, "memory": 2}, "kv_wait_ms": 2.0})
        );
        assert_eq!(
            serde_json::to_value(&answers[0]).unwrap(),
            json!({"kv_source": "cloud", "kv_wait_ms": 3.0})
        );
        assert_eq!(summary(answers[3..].iter()), Map::new());
    }
}
