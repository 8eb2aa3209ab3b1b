//! What users ask, and what is answered when nobody leaves.

use anyhow::{Context, Result};
use edgeprompt_ue_client::Question;
use serde_json::{Map, Value, json};

use super::world::World;

const PLANS: [&str; 3] = ["ruby", "jade", "amber"];
const WORDS: [&str; 3] = [
    "A guest asks:\nWhat does the PLAN plan cost?\n",
    "Grace writes: is the PLAN plan open on Sundays? I come from far away.\n",
    "Until when can I leave the PLAN plan",
];

/// How answers are drawn.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub(super) enum Drawing {
    Greedy,
    Seeded,
}

/// A question and its answer.
pub(super) struct Known {
    pub(super) drawing: Drawing,
    fields: Map<String, Value>,
    prompt: String,
    /// The whole answer.
    pub(super) text: String,
}

/// All questions.
pub(super) struct Questions(pub(super) Vec<Known>);

impl Questions {
    /// Asks each once, of an edge that nobody else asks.
    pub(super) fn answered_by(world: &World, answer_len: u32) -> Result<Self> {
        let prompts = WORDS
            .iter()
            .flat_map(|words| PLANS.map(|plan| words.replace("PLAN", plan)));
        let drawn = |seed: usize| {
            let top_p = if seed.is_multiple_of(2) { 1.0 } else { 0.95 };
            json!({ "temperature": 1.0, "seed": seed, "frequency_penalty": 0.2, "top_p": top_p })
        };
        let asked = prompts.enumerate().flat_map(|(seed, prompt)| {
            let greedy = (Drawing::Greedy, prompt.clone(), json!({ "temperature": 0 }));
            [greedy, (Drawing::Seeded, prompt, drawn(seed))]
        });
        let known = asked.map(|(drawing, prompt, more)| {
            let mut fields = json!({ "max_tokens": answer_len, "ignore_eos": true });
            let all = fields.as_object_mut().context("an object")?;
            all.extend(more.as_object().context("an object")?.clone());
            let mut known = Known {
                drawing,
                fields: all.clone(),
                prompt,
                text: String::new(),
            };
            let answer = world
                .server(0)
                .post_json("/v1/completions", &known.body(&json!({})))?;
            let text = answer["choices"][0]["text"].as_str();
            known.text = text.context("an answer has a text")?.to_owned();
            Ok(known)
        });
        known.collect::<Result<_>>().map(Self)
    }
}

impl Known {
    /// As a plain client asks.
    pub(super) fn body(&self, more: &Value) -> Value {
        let mut body = self.fields.clone();
        body.insert("prompt".to_owned(), self.prompt.as_str().into());
        body.extend(more.as_object().cloned().unwrap_or_default());
        Value::Object(body)
    }

    /// As a client asks that follows.
    pub(super) fn question(&self) -> Question {
        let fields = self.fields.clone();
        fields.into_iter().fold(
            Question::completion(&self.prompt),
            |question, (name, value)| question.with(&name, value),
        )
    }
}
