//! What is asked: a request in OpenAI's shape.

use std::fmt;

use serde_json::{Map, Value, json};

/// Which of OpenAI's two shapes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    Chat,
    Text,
}

impl Endpoint {
    pub(crate) const fn path(self) -> &'static str {
        match self {
            Self::Chat => "/v1/chat/completions",
            Self::Text => "/v1/completions",
        }
    }
}

/// A request, the fields of which the server knows. Its `Debug` does not tell them.
#[derive(Clone)]
pub struct Question {
    pub(crate) endpoint: Endpoint,
    pub(crate) fields: Map<String, Value>,
}

impl Question {
    /// A text to continue.
    pub fn completion(prompt: &str) -> Self {
        Self::of(Endpoint::Text, "prompt", prompt.into())
    }

    /// One message of a user to answer.
    pub fn chat(message: &str) -> Self {
        let messages = json!([{ "role": "user", "content": message }]);
        Self::of(Endpoint::Chat, "messages", messages)
    }

    fn of(endpoint: Endpoint, name: &str, value: Value) -> Self {
        let fields = [
            (name.to_owned(), value),
            ("stream".to_owned(), true.into()),
            ("handover".to_owned(), "follow".into()),
        ];
        Self {
            endpoint,
            fields: fields.into_iter().collect(),
        }
    }

    /// Another field, such as `temperature` or a conversation's `messages`. An answer is always
    /// streamed and followed.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl Into<Value>) -> Self {
        if !matches!(name, "stream" | "handover") {
            self.fields.insert(name.to_owned(), value.into());
        }
        self
    }

    /// How long the answer may be, if the question says so.
    pub(crate) fn tokens_max(&self) -> Option<usize> {
        let named = ["max_completion_tokens", "max_tokens"].iter();
        let count = named
            .filter_map(|name| self.fields.get(*name)?.as_u64())
            .next()?;
        usize::try_from(count).ok()
    }
}

impl fmt::Debug for Question {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Question")
            .field("endpoint", &self.endpoint)
            .finish_non_exhaustive()
    }
}
