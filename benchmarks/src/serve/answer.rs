//! One streamed answer as it comes in: when its chunks came and what the last ones say. It reads no
//! clock and no socket.
//!
//! Times are vLLM's: the first token is the first chunk with a choice, a gap lies between each two
//! of them. One thing is left out: a chat's chunk that says who speaks and nothing else is no token.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::own_fields::OwnFields;

/// Most chunks of an answer, each of which takes eight bytes here.
const CHUNKS_MAX: usize = 1 << 22;

/// What an answer came to.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answer {
    /// Time to the first token.
    pub(crate) ttft: Duration,
    /// The gaps between chunks.
    pub(crate) itls: Vec<Duration>,
    /// Time to the last chunk.
    pub(crate) latency: Duration,
    /// Tokens of the prompt, if the server said so.
    pub(crate) prompt_len: Option<usize>,
    /// Tokens of the answer; of a server that does not say, the number of chunks.
    pub(crate) output_len: usize,
    /// Tokens of the prompt whose keys and values were there.
    pub(crate) cached_len: Option<usize>,
    /// What an edge node tells beside that.
    pub(crate) own: OwnFields,
}

/// Whether more is to come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stream {
    /// It goes on.
    Open,
    /// The server has said that this is all.
    Done,
}

/// Why an answer is none.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum BadAnswer {
    /// Something else than JSON.
    #[error("the server sent an event that is not JSON")]
    NotJson,
    /// The server gave up.
    #[error("the server failed: {0}")]
    Failed(String),
    /// No chunk had a token.
    #[error("never received a valid chunk to calculate TTFT")]
    Empty,
    /// The stream ended, and nothing said that the answer does.
    #[error("the answer broke off")]
    BrokenOff,
    /// More than any answer has.
    #[error("the answer has no end: more than {CHUNKS_MAX} chunks")]
    Endless,
}

/// An answer that is coming in.
#[derive(Default)]
pub(crate) struct Incoming {
    first: Option<Duration>,
    last: Duration,
    itls: Vec<Duration>,
    is_finished: bool,
    usage: Option<Usage>,
    own: OwnFields,
}

#[derive(Deserialize)]
struct Chunk {
    #[serde(default)]
    choices: Option<Vec<Choice>>,
    #[serde(default)]
    usage: Option<Usage>,
    #[serde(default)]
    timings: Option<Map<String, Value>>,
    #[serde(default)]
    error: Option<Value>,
}

#[derive(Deserialize)]
struct Choice {
    #[serde(default)]
    delta: Option<Map<String, Value>>,
    #[serde(default)]
    finish_reason: Option<Value>,
}

#[derive(Clone, Copy, Deserialize)]
struct Usage {
    #[serde(default)]
    prompt_tokens: Option<usize>,
    #[serde(default)]
    completion_tokens: Option<usize>,
    #[serde(default)]
    prompt_tokens_details: Option<PromptDetails>,
}

#[derive(Clone, Copy, Deserialize)]
struct PromptDetails {
    #[serde(default)]
    cached_tokens: Option<usize>,
}

impl Choice {
    /// A chat's first words to say whose words follow.
    fn only_introduces(&self) -> bool {
        let Some(delta) = &self.delta else {
            return false;
        };
        let is_nothing = |value: &Value| value.is_null() || value == "";
        let says_nothing = delta
            .iter()
            .all(|(name, value)| name == "role" || is_nothing(value));
        delta.contains_key("role") && says_nothing && self.finish_reason.is_none()
    }
}

impl Incoming {
    /// Takes an event's data that came `at` after the request was sent.
    ///
    /// # Errors
    /// [`BadAnswer`].
    pub(crate) fn take(&mut self, data: &str, at: Duration) -> Result<Stream, BadAnswer> {
        if data.trim() == "[DONE]" {
            self.is_finished = true;
            return Ok(Stream::Done);
        }
        // The library's sentence may quote the answer.
        let chunk: Chunk = serde_json::from_str(data).map_err(|_| BadAnswer::NotJson)?;
        if let Some(error) = chunk.error.filter(|error| !error.is_null()) {
            return Err(BadAnswer::Failed(super::http::error_message(&error)));
        }
        if let Some([choice, ..]) = chunk.choices.as_deref() {
            self.is_finished |= choice
                .finish_reason
                .as_ref()
                .is_some_and(|it| !it.is_null());
            if !choice.only_introduces() {
                self.chunk(at)?;
            }
        }
        if let Some(timings) = &chunk.timings {
            self.own = OwnFields::read(timings);
        }
        self.usage = chunk.usage.or(self.usage);
        Ok(Stream::Open)
    }

    fn chunk(&mut self, at: Duration) -> Result<(), BadAnswer> {
        if self.first.is_none() {
            self.first = Some(at);
        } else if self.itls.len() == CHUNKS_MAX {
            return Err(BadAnswer::Endless);
        } else {
            self.itls.push(at.saturating_sub(self.last));
        }
        self.last = at;
        Ok(())
    }

    /// The answer, once the stream has ended.
    ///
    /// # Errors
    /// [`BadAnswer`].
    pub(crate) fn finish(self) -> Result<Answer, BadAnswer> {
        let ttft = self.first.ok_or(BadAnswer::Empty)?;
        let said = self.usage.and_then(|usage| usage.completion_tokens);
        if !self.is_finished && said.is_none() {
            return Err(BadAnswer::BrokenOff);
        }
        let details = self.usage.and_then(|usage| usage.prompt_tokens_details);
        Ok(Answer {
            ttft,
            latency: self.last,
            prompt_len: self.usage.and_then(|usage| usage.prompt_tokens),
            output_len: said.unwrap_or(1 + self.itls.len()),
            cached_len: details.and_then(|details| details.cached_tokens),
            itls: self.itls,
            own: self.own,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const fn ms(milliseconds: u64) -> Duration {
        Duration::from_millis(milliseconds)
    }

    /// The answer to events that come at the given milliseconds.
    fn answer(events: &[(u64, &str)]) -> Result<Answer, BadAnswer> {
        let mut incoming = Incoming::default();
        for (at, data) in events {
            if incoming.take(data, ms(*at))? == Stream::Done {
                break;
            }
        }
        incoming.finish()
    }

    const USAGE: &str = r#"{"choices":[],"usage":{"prompt_tokens":9,"completion_tokens":4,
        "prompt_tokens_details":{"cached_tokens":5}}}"#;

    #[test]
    fn times_are_vllms() {
        let got = answer(&[
            (
                40,
                r#"{"choices":[{"text":"","finish_reason":null}],"usage":null}"#,
            ),
            (50, r#"{"choices":[{"text":"ab"}]}"#),
            (
                70,
                r#"{"choices":[{"text":"","finish_reason":"length"}],
                "timings":{"kv_source":"disk","kv_wait_ms":1.5}}"#,
            ),
            (90, USAGE),
            (95, "[DONE]"),
        ])
        .unwrap();
        assert_eq!((got.ttft, got.latency), (ms(40), ms(70)));
        assert_eq!(got.itls, [ms(10), ms(20)]);
        assert_eq!(
            (got.prompt_len, got.output_len, got.cached_len),
            (Some(9), 4, Some(5))
        );
        assert_eq!(got.own.words["kv_source"], "disk");
    }

    #[test]
    fn who_speaks_is_no_token() {
        let got = answer(&[
            (5, r#"{"choices":[{"delta":{"role":"assistant","content":null},"finish_reason":null}]}"#),
            (20, r#"{"choices":[{"delta":{"role":"assistant","content":"a"}}]}"#),
            (30, r#"{"choices":[{"delta":{},"finish_reason":"stop"}]}"#),
        ])
        .unwrap();
        assert_eq!((got.ttft, got.latency, got.output_len), (ms(20), ms(30), 2));
        // Words that think are words.
        let thinking = r#"{"choices":[{"delta":{"role":"assistant","reasoning_content":"hm"}}]}"#;
        assert_eq!(answer(&[(7, thinking), (9, "[DONE]")]).unwrap().ttft, ms(7));
    }

    #[test]
    fn what_is_no_answer_is_told_apart() {
        let chunk = r#"{"choices":[{"text":"a"}]}"#;
        let error = r#"{"error":{"message":"out of blocks","code":500}}"#;
        assert_eq!(answer(&[(1, "[DONE]")]), Err(BadAnswer::Empty));
        assert_eq!(answer(&[(1, USAGE)]), Err(BadAnswer::Empty));
        assert_eq!(answer(&[(1, chunk)]), Err(BadAnswer::BrokenOff));
        assert_eq!(
            answer(&[(1, chunk), (2, "<html>")]),
            Err(BadAnswer::NotJson)
        );
        let failed = answer(&[(1, chunk), (2, error)]);
        assert_eq!(failed, Err(BadAnswer::Failed("out of blocks".to_owned())));
        assert!(answer(&[(1, chunk), (2, "[DONE]")]).is_ok());
    }

    proptest! {
        #[test]
        fn any_text_is_taken(data in ".{0,60}") {
            let _ = Incoming::default().take(&data, ms(1));
        }

        #[test]
        fn gaps_add_up(times in prop::collection::vec(0u64..10_000, 1..40)) {
            let mut times = times;
            times.sort_unstable();
            let chunk = r#"{"choices":[{"text":"a","finish_reason":"stop"}]}"#;
            let events: Vec<_> = times.iter().map(|at| (*at, chunk)).collect();
            let answer = answer(&events).unwrap();
            prop_assert_eq!(answer.itls.len(), times.len() - 1);
            let gaps: Duration = answer.itls.iter().sum();
            prop_assert_eq!(answer.ttft + gaps, answer.latency);
        }
    }
}
