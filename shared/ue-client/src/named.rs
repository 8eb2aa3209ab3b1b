//! What the head of an answer says of its session.

use std::fmt;

use hyper::header::HeaderMap;
use serde_json::Value;

use crate::question::Question;

const SESSION: &str = "x-edgeprompt-session";
const TICKET: &str = "x-edgeprompt-ticket";
const SEED: &str = "x-edgeprompt-seed";
const CLOUD_PROMPT: &str = "x-edgeprompt-cloud-prompt";
const CLOUD_PROMPT_ID: &str = "x-edgeprompt-cloud-prompt-id";

/// The name of a session: 32 hexadecimal digits.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct SessionId(String);

impl fmt::Display for SessionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a server says of a session that begins. Deliberately not `Debug`.
pub(crate) struct Named {
    pub(crate) id: SessionId,
    pub(crate) ticket: String,
    seed: Option<u64>,
    cloud_prompt: Option<String>,
    pub(crate) cloud_prompt_id: Option<String>,
}

impl Named {
    pub(crate) fn of(headers: &HeaderMap) -> Option<Self> {
        let text = |name: &str| headers.get(name)?.to_str().ok();
        let hex = |name, len| {
            let is_hex =
                |text: &&str| text.len() == len && text.bytes().all(|b| b.is_ascii_hexdigit());
            text(name).filter(is_hex).map(str::to_owned)
        };
        Some(Self {
            id: SessionId(hex(SESSION, 32)?),
            ticket: hex(TICKET, 64)?,
            seed: text(SEED).and_then(|seed| seed.parse().ok()),
            cloud_prompt: text(CLOUD_PROMPT).map(str::to_owned),
            cloud_prompt_id: text(CLOUD_PROMPT_ID).map(str::to_owned),
        })
    }

    /// Writes down what the server chose, as another one might choose otherwise.
    pub(crate) fn complete(&self, question: &mut Question) {
        if let Some(seed) = self.seed {
            question.fields.insert("seed".to_owned(), seed.into());
        }
        let cloud_prompt = self
            .cloud_prompt
            .as_deref()
            .map_or(Value::Bool(false), Value::from);
        question
            .fields
            .entry("cloud_prompt")
            .or_insert(cloud_prompt);
    }
}
