//! Answers in OpenAI's shapes, whole and in chunks. Pure.

use serde_json::{Value, json};

use crate::serve::answering::{Ended, FinishReason, Heard, Piece, TokenLogprob};
use crate::serve::fill_log::LayersCame;
use crate::serve::request::{Endpoint, StreamUsage};
use crate::serve::sessions::MovedTo;
use crate::serve::stopwatch::{KvCame, Times};
use crate::serve::timelines::KvTimes;

/// The least that OpenAI says of a probability.
const LOGPROB_MIN: f32 = -9999.0;

/// What is the same in every part of an answer.
#[derive(Clone, Debug)]
pub(crate) struct Envelope {
    pub(crate) endpoint: Endpoint,
    /// The request's id.
    pub(crate) id: String,
    /// Unix time in seconds.
    pub(crate) created: u64,
    /// The model's name.
    pub(crate) model: String,
    pub(crate) logprobs: bool,
    pub(crate) token_ids: bool,
}

impl Envelope {
    /// An answer in one piece.
    pub(crate) fn whole(&self, piece: &Piece, ended: &Ended) -> Value {
        let mut choice = self.choice(Some(ended.reason));
        choice["logprobs"] = self.logprobs(&piece.logprobs, 0);
        match self.endpoint {
            Endpoint::Chat => {
                choice["message"] = json!({ "role": "assistant", "content": piece.text });
            }
            Endpoint::Text => choice["text"] = piece.text.as_str().into(),
        }
        if self.token_ids {
            choice["token_ids"] = token_ids(piece);
        }
        let mut body = self.around(vec![choice], "");
        body["usage"] = usage(&ended.times);
        body["timings"] = timings(&ended.times);
        body
    }

    fn choice(&self, finish: Option<FinishReason>) -> Value {
        json!({ "index": 0, "finish_reason": finish.map(FinishReason::label) })
    }

    fn around(&self, choices: Vec<Value>, kind: &str) -> Value {
        let (prefix, object) = match self.endpoint {
            Endpoint::Chat => ("chatcmpl", format!("chat.completion{kind}")),
            Endpoint::Text => ("cmpl", "text_completion".to_owned()),
        };
        json!({
            "id": format!("{prefix}-{}", self.id),
            "object": object,
            "created": self.created,
            "model": self.model,
            "choices": choices,
        })
    }

    /// `offset`: characters of the answer before these tokens.
    fn logprobs(&self, tokens: &[TokenLogprob], offset: usize) -> Value {
        if !self.logprobs {
            return Value::Null;
        }
        match self.endpoint {
            Endpoint::Chat => {
                let content: Vec<_> = tokens.iter().map(chat_logprob).collect();
                json!({ "content": content, "refusal": null })
            }
            Endpoint::Text => text_logprobs(tokens, offset),
        }
    }
}

fn token_ids(piece: &Piece) -> Value {
    piece.tokens.iter().map(|token| token.0).collect()
}

fn chat_logprob(token: &TokenLogprob) -> Value {
    let one = |text: &str, logprob: Option<f32>| {
        // Half a character has no text of its own, so its bytes are not known here.
        let bytes = (!text.contains(char::REPLACEMENT_CHARACTER)).then_some(text.as_bytes());
        json!({ "token": text, "logprob": told(logprob), "bytes": bytes })
    };
    let mut entry = one(&token.text, token.logprob);
    let top = token.top.iter();
    entry["top_logprobs"] = top
        .map(|(text, logprob)| one(text, Some(*logprob)))
        .collect();
    entry
}

/// Nothing where a probability is not known.
fn told(logprob: Option<f32>) -> Option<f32> {
    logprob.map(|logprob| logprob.max(LOGPROB_MIN))
}

fn text_logprobs(tokens: &[TokenLogprob], mut offset: usize) -> Value {
    let (mut texts, mut logprobs) = (Vec::new(), Vec::new());
    let (mut tops, mut offsets) = (Vec::new(), Vec::new());
    for token in tokens {
        texts.push(token.text.as_str());
        logprobs.push(told(token.logprob));
        let top = token.top.iter();
        let top = top.map(|(text, logprob)| (text.clone(), logprob.max(LOGPROB_MIN).into()));
        tops.push(Value::Object(top.collect()));
        offsets.push(offset);
        offset += token.text.chars().count();
    }
    json!({
        "tokens": texts,
        "token_logprobs": logprobs,
        "top_logprobs": tops,
        "text_offset": offsets,
    })
}

fn usage(times: &Times) -> Value {
    let answer = times.token_count;
    let prompt = times.prompt.cloud + times.prompt.private;
    json!({
        "prompt_tokens": prompt,
        "completion_tokens": answer,
        "total_tokens": prompt + answer,
        "prompt_tokens_details": { "cached_tokens": times.prompt.cached() },
    })
}

/// As llama.cpp's server tells them: `cache_n` tokens were there, `prompt_n` were computed.
#[expect(clippy::cast_precision_loss, reason = "counts for a rate")]
fn timings(times: &Times) -> Value {
    let milliseconds = |time: std::time::Duration| time.as_secs_f64() * 1000.0;
    let prompt_n = times.prompt.computed();
    let predicted_n = times.token_count;
    let (prompt_ms, predicted_ms) = (
        milliseconds(times.until_first),
        milliseconds(times.after_first),
    );
    // The first token comes with the prompt.
    let gaps = predicted_n.saturating_sub(1);
    let mut timings = json!({
        "cache_n": times.prompt.cached(),
        "prompt_n": prompt_n,
        "prompt_ms": prompt_ms,
        "prompt_per_token_ms": prompt_ms / prompt_n.max(1) as f64,
        "prompt_per_second": prompt_n as f64 * 1000.0 / prompt_ms.max(f64::MIN_POSITIVE),
        "predicted_n": predicted_n,
        "predicted_ms": predicted_ms,
        "predicted_per_token_ms": predicted_ms / gaps.max(1) as f64,
        "predicted_per_second": match gaps {
            0 => 0.0,
            gaps => gaps as f64 * 1000.0 / predicted_ms.max(f64::MIN_POSITIVE),
        },
        "ttft_ms": prompt_ms,
    });
    if let Some(predicted) = times.first_predicted {
        timings["ttft_predicted_ms"] = milliseconds(predicted).into();
    }
    if let Some(KvCame { origin, codec }) = times.kv_came {
        timings["kv_source"] = origin.label().into();
        timings["kv_codec"] = codec.name().into();
    }
    if let Some(KvTimes { wait, layers }) = times.kv_times {
        timings["kv_wait_ms"] = milliseconds(wait).into();
        if let Some(LayersCame { first, last }) = layers {
            timings["kv_first_layer_ms"] = milliseconds(first).into();
            timings["kv_last_layer_ms"] = milliseconds(last).into();
        }
    }
    timings
}

/// Writes server-sent events.
pub(crate) struct Events {
    envelope: Envelope,
    usage: StreamUsage,
    /// Whether the client knows who speaks.
    introduced: bool,
    /// Characters written.
    offset: usize,
}

impl Events {
    pub(crate) const fn new(envelope: Envelope, usage: StreamUsage) -> Self {
        Self {
            envelope,
            usage,
            introduced: false,
            offset: 0,
        }
    }

    /// The events of what was heard, perhaps none.
    pub(crate) fn write(&mut self, heard: &Heard) -> String {
        match heard {
            Heard::Piece(piece) if piece.tokens.is_empty() && piece.text.is_empty() => {
                String::new()
            }
            Heard::Piece(piece) => event(&self.piece(piece)),
            Heard::Quiet => ": ping\n\n".to_owned(),
            Heard::Moved(moved) => moved_event(moved),
            Heard::Ended(ended) => self.end(ended),
            Heard::Failed(error) => event(&error.body()),
        }
    }

    fn piece(&mut self, piece: &Piece) -> Value {
        let mut choice = self.envelope.choice(None);
        choice["logprobs"] = self.envelope.logprobs(&piece.logprobs, self.offset);
        self.offset += piece.text.chars().count();
        self.say(&mut choice, &piece.text);
        if self.envelope.token_ids {
            choice["token_ids"] = token_ids(piece);
        }
        self.chunk(choice)
    }

    fn say(&mut self, choice: &mut Value, text: &str) {
        match self.envelope.endpoint {
            Endpoint::Chat => {
                choice["delta"] = json!({ "content": text });
                if !self.introduced {
                    choice["delta"]["role"] = "assistant".into();
                }
                self.introduced = true;
            }
            Endpoint::Text => choice["text"] = text.into(),
        }
    }

    fn chunk(&self, choice: Value) -> Value {
        let mut body = self.envelope.around(vec![choice], ".chunk");
        if self.usage == StreamUsage::Included {
            body["usage"] = Value::Null;
        }
        body
    }

    fn end(&mut self, ended: &Ended) -> String {
        let mut choice = self.envelope.choice(Some(ended.reason));
        choice["logprobs"] = Value::Null;
        match self.introduced {
            true => choice["delta"] = json!({}),
            // An answer without a word.
            false => self.say(&mut choice, ""),
        }
        let mut body = self.chunk(choice);
        body["timings"] = timings(&ended.times);
        let mut events = event(&body);
        if self.usage == StreamUsage::Included {
            let mut body = self.envelope.around(Vec::new(), ".chunk");
            body["usage"] = usage(&ended.times);
            events += &event(&body);
        }
        events + "data: [DONE]\n\n"
    }
}

/// An event of its own, which OpenAI's clients pass over: where the answer goes on.
fn moved_event(moved: &MovedTo) -> String {
    let body = json!({
        "url": moved.url,
        "node": moved.addr,
        "epoch": [moved.epoch.claim, moved.epoch.hop],
        "next_token": moved.len,
    });
    format!("event: handover\ndata: {body}\n\n")
}

fn event(body: &Value) -> String {
    format!("data: {body}\n\n")
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use edgeprompt_kv::{KvDtype, TokenId};

    use super::*;
    use crate::kv_origin::KvOrigin;
    use crate::serve::stopwatch::PromptLens;

    fn envelope(endpoint: Endpoint) -> Envelope {
        Envelope {
            endpoint,
            id: "7".to_owned(),
            created: 1,
            model: "m".to_owned(),
            logprobs: true,
            token_ids: true,
        }
    }

    fn piece(text: &str) -> Piece {
        Piece {
            text: text.to_owned(),
            tokens: vec![TokenId(5)],
            logprobs: vec![TokenLogprob {
                text: text.to_owned(),
                logprob: Some(-0.5),
                top: vec![("x".to_owned(), f32::NEG_INFINITY)],
            }],
        }
    }

    const ENDED: Ended = Ended {
        reason: FinishReason::Length,
        times: Times {
            prompt: PromptLens {
                cloud: 8,
                private: 4,
                shared: 2,
            },
            until_first: Duration::from_millis(40),
            first_predicted: Some(Duration::from_millis(35)),
            after_first: Duration::from_millis(100),
            token_count: 3,
            kv_came: Some(KvCame {
                origin: KvOrigin::Disk,
                codec: KvDtype::Int8,
            }),
            kv_times: Some(KvTimes {
                wait: Duration::from_millis(12),
                layers: Some(LayersCame {
                    first: Duration::from_millis(5),
                    last: Duration::from_millis(30),
                }),
            }),
        },
    };

    fn data(events: &str) -> Vec<Value> {
        let lines = events
            .lines()
            .filter_map(|line| line.strip_prefix("data: "));
        lines
            .filter_map(|line| serde_json::from_str(line).ok())
            .collect()
    }

    #[test]
    fn a_whole_answer_has_text_usage_and_timings() {
        let chat = envelope(Endpoint::Chat).whole(&piece("hé"), &ENDED);
        assert_eq!(chat["id"], "chatcmpl-7");
        assert_eq!(chat["object"], "chat.completion");
        let choice = &chat["choices"][0];
        assert_eq!(
            choice["message"],
            json!({"role": "assistant", "content": "hé"})
        );
        assert_eq!(choice["finish_reason"], "length");
        assert_eq!(choice["token_ids"], json!([5]));
        let logprob = &choice["logprobs"]["content"][0];
        assert_eq!(logprob["bytes"], json!([104, 195, 169]));
        assert_eq!(logprob["top_logprobs"][0]["logprob"], -9999.0);
        assert_eq!(
            chat["usage"],
            json!({"prompt_tokens": 12, "completion_tokens": 3, "total_tokens": 15,
                   "prompt_tokens_details": {"cached_tokens": 10}})
        );
        assert_eq!(chat["timings"]["kv_source"], "disk");
        assert_eq!(chat["timings"]["kv_codec"], "int8");
        assert_eq!(chat["timings"]["predicted_per_token_ms"], 50.0);
        assert_eq!(chat["timings"]["prompt_per_second"], 50.0);
        let own = ["kv_wait_ms", "kv_first_layer_ms", "kv_last_layer_ms"];
        let own = own.map(|name| chat["timings"][name].as_f64());
        assert_eq!(own, [12.0, 5.0, 30.0].map(Some));
        let first = ["ttft_ms", "ttft_predicted_ms"].map(|name| chat["timings"][name].as_f64());
        assert_eq!(first, [40.0, 35.0].map(Some));
        let text = envelope(Endpoint::Text).whole(&piece("hé"), &ENDED);
        assert_eq!(text["choices"][0]["text"], "hé");
        assert_eq!(text["choices"][0]["logprobs"]["tokens"], json!(["hé"]));
    }

    #[test]
    fn what_was_not_foretold_is_not_told() {
        let times = Times {
            first_predicted: None,
            ..ENDED.times
        };
        let told = timings(&times);
        assert_eq!(told["ttft_ms"], 40.0);
        assert!(told.get("ttft_predicted_ms").is_none(), "{told}");
    }

    #[test]
    fn a_stream_begins_with_words_and_ends_with_done() {
        let mut events = Events::new(envelope(Endpoint::Chat), StreamUsage::Included);
        let first = data(&events.write(&Heard::Piece(piece("a"))));
        let delta = json!({"role": "assistant", "content": "a"});
        assert_eq!(first[0]["choices"][0]["delta"], delta);
        assert_eq!(first[0]["usage"], Value::Null);
        let next = data(&events.write(&Heard::Piece(piece("b"))));
        assert_eq!(next[0]["choices"][0]["delta"], json!({"content": "b"}));
        assert_eq!(events.write(&Heard::Quiet), ": ping\n\n");
        assert_eq!(events.write(&Heard::Piece(Piece::default())), "");
        let end = events.write(&Heard::Ended(ENDED));
        assert!(end.ends_with("data: [DONE]\n\n"), "{end}");
        let end = data(&end);
        assert_eq!(end[0]["choices"][0]["finish_reason"], "length");
        assert_eq!(end[1]["choices"], json!([]));
        assert_eq!(end[1]["usage"]["completion_tokens"], 3);
    }

    #[test]
    fn offsets_count_the_characters_before() {
        let mut events = Events::new(envelope(Endpoint::Text), StreamUsage::Omitted);
        events.write(&Heard::Piece(piece("hé")));
        let next = data(&events.write(&Heard::Piece(piece("b"))));
        assert_eq!(next[0]["choices"][0]["logprobs"]["text_offset"], json!([2]));
        assert!(next[0].get("usage").is_none());
        assert_eq!(data(&events.write(&Heard::Ended(ENDED))).len(), 1);
    }
}
