//! A request for an answer, parsed: OpenAI's fields and vLLM's, and `cloud_prompt`, which is ours.
//!
//! Fields that are not known are ignored, as clients expect; fields that are known, would change
//! the answer and are not supported are refused by name.

use edgeprompt_engine::SamplingParams;
use edgeprompt_kv::TokenId;
use edgeprompt_model::ChatMessage;
use edgeprompt_protocol::PromptName;
use serde_json::Value;

use crate::private::{PrivateText, PrivateTokens};
use crate::serve::api_error::ApiError;
use crate::serve::fields::Fields;

/// Most stop strings, and the longest in bytes: each is looked for at every token.
const STOPS_MAX: usize = 16;
const STOP_BYTES_MAX: usize = 256;

/// Most alternatives told for each token, as OpenAI's and vLLM's.
const TOP_LOGPROBS_MAX: usize = 20;

/// Longest name of a session, in bytes.
const SESSION_KEY_BYTES_MAX: usize = 1024;

/// Tokens of a text completion that does not say how many, as OpenAI's.
const TEXT_MAX_TOKENS: usize = 16;

/// Which of OpenAI's two shapes a request and its answer have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Endpoint {
    /// `/v1/chat/completions`.
    Chat,
    /// `/v1/completions`.
    Text,
}

/// The private prompt as it was asked. Deliberately not `Debug`.
pub(crate) enum AskedPrompt {
    /// A conversation, all of it private.
    Messages(Vec<ChatMessage>),
    /// A text.
    Text(PrivateText),
    /// Token ids.
    Tokens(PrivateTokens),
}

/// Which cloud prompt an answer builds on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AskedCloudPrompt {
    /// The server's.
    Default,
    /// None: everything is private.
    Nothing,
    /// This one.
    Named(PromptName),
}

/// How an answer is delivered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Delivery {
    /// In one piece.
    Whole,
    /// As it is generated.
    Stream(StreamUsage),
}

/// Whether a stream ends with the usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum StreamUsage {
    Omitted,
    Included,
}

/// A request for an answer. Deliberately not `Debug`.
pub(crate) struct Request {
    pub(crate) prompt: AskedPrompt,
    pub(crate) cloud_prompt: AskedCloudPrompt,
    /// What the client calls its session, hashed.
    pub(crate) session: Option<blake3::Hash>,
    pub(crate) sampling: SamplingParams,
    pub(crate) seed: Option<u64>,
    /// Most tokens to generate; `None` for as many as there is room for.
    pub(crate) max_tokens: Option<usize>,
    pub(crate) stops: Vec<String>,
    /// How many alternatives to tell for each token; `None` for no probabilities at all.
    pub(crate) top_logprobs: Option<usize>,
    pub(crate) ignore_eos: bool,
    pub(crate) return_token_ids: bool,
    /// Whether the client goes where its session goes.
    pub(crate) follows: bool,
    pub(crate) delivery: Delivery,
}

impl Request {
    /// Parses the fields of a request.
    ///
    /// # Errors
    /// [`ApiError`] that names the field.
    pub(crate) fn parse(endpoint: Endpoint, fields: &Fields) -> Result<Self, ApiError> {
        refuse_unsupported(fields)?;
        let max_tokens = match fields.count("max_completion_tokens")? {
            Some(count) => Some(("max_completion_tokens", count)),
            None => fields
                .count("max_tokens")?
                .map(|count| ("max_tokens", count)),
        };
        if let Some((name, 0)) = max_tokens {
            return Err(ApiError::field(name, format!("{name} must be at least 1")));
        }
        let max_tokens = max_tokens.map(|(_, count)| count);
        let delivery = delivery(fields)?;
        let follows = follows(fields, delivery)?;
        Ok(Self {
            prompt: prompt(endpoint, fields)?,
            cloud_prompt: cloud_prompt(fields)?,
            session: session(fields)?,
            sampling: sampling(fields)?,
            seed: fields.read("seed", "a whole number", seed)?,
            max_tokens: match endpoint {
                Endpoint::Chat => max_tokens,
                Endpoint::Text => Some(max_tokens.unwrap_or(TEXT_MAX_TOKENS)),
            },
            stops: stops(fields)?,
            top_logprobs: top_logprobs(endpoint, fields)?,
            ignore_eos: fields.flag("ignore_eos")?,
            // Whoever goes on elsewhere brings the answer so far.
            return_token_ids: follows || fields.flag("return_token_ids")?,
            follows,
            delivery,
        })
    }
}

fn seed(value: &Value) -> Option<u64> {
    let negative = value.as_i64().map(i64::cast_unsigned);
    value.as_u64().or(negative)
}

/// What would change the answer and is not done.
fn refuse_unsupported(fields: &Fields) -> Result<(), ApiError> {
    for name in ["n", "best_of"] {
        if fields.count(name)?.is_some_and(|count| count != 1) {
            return Err(ApiError::field(
                name,
                format!("{name} must be 1: one answer at a time"),
            ));
        }
    }
    let is_nothing = |value: &Value| match value {
        Value::Null | Value::Bool(false) => true,
        Value::String(text) => text.is_empty() || text == "none",
        Value::Array(list) => list.is_empty(),
        Value::Object(map) => map.is_empty() || map.get("type") == Some(&Value::from("text")),
        Value::Number(number) => number.as_f64() == Some(0.0),
        Value::Bool(true) => false,
    };
    let names = [
        "tools",
        "functions",
        "response_format",
        "logit_bias",
        "suffix",
        "echo",
        // vLLM's and llama.cpp's.
        "min_tokens",
        "stop_token_ids",
        "bad_words",
        "allowed_token_ids",
        "prompt_logprobs",
        "structured_outputs",
        "guided_json",
        "guided_regex",
        "guided_choice",
        "guided_grammar",
        "grammar",
        "json_schema",
        "mirostat",
    ];
    for name in names {
        if fields.value(name).is_some_and(|value| !is_nothing(value)) {
            return Err(ApiError::field(name, format!("{name} is not supported")));
        }
    }
    Ok(())
}

fn prompt(endpoint: Endpoint, fields: &Fields) -> Result<AskedPrompt, ApiError> {
    match endpoint {
        Endpoint::Chat => messages(fields).map(AskedPrompt::Messages),
        Endpoint::Text => {
            let expected = "a string or a list of token ids, one prompt at a time";
            let prompt = fields.read("prompt", expected, text_prompt)?;
            prompt.ok_or_else(|| ApiError::field("prompt", "prompt is missing"))
        }
    }
}

fn text_prompt(value: &Value) -> Option<AskedPrompt> {
    match value {
        Value::String(text) => Some(AskedPrompt::Text(PrivateText::new(text.clone()))),
        Value::Array(list) => match list.as_slice() {
            [only @ (Value::String(_) | Value::Array(_))] => text_prompt(only),
            list => {
                let id = |value: &Value| u32::try_from(value.as_u64()?).ok().map(TokenId);
                let ids = list.iter().map(id).collect::<Option<Vec<_>>>()?;
                Some(AskedPrompt::Tokens(PrivateTokens::new(ids)))
            }
        },
        _ => None,
    }
}

/// The messages of a conversation.
///
/// # Errors
/// [`ApiError`] that names the field.
pub(crate) fn messages(fields: &Fields) -> Result<Vec<ChatMessage>, ApiError> {
    let list = fields.read("messages", "a list", |value| value.as_array().cloned())?;
    let list = list.ok_or_else(|| ApiError::field("messages", "messages is missing"))?;
    if list.is_empty() {
        return Err(ApiError::field("messages", "messages is empty"));
    }
    let message = |(index, value): (usize, &Value)| {
        let role = match value["role"].as_str() {
            // OpenAI's newer word.
            Some("developer") => "system",
            Some(role @ ("system" | "user" | "assistant")) => role,
            _ => {
                let param = format!("messages[{index}].role");
                let message = format!("{param} must be system, developer, user or assistant");
                return Err(ApiError::field(param, message));
            }
        };
        let content = content(&value["content"]).ok_or_else(|| {
            let param = format!("messages[{index}].content");
            let message = format!("{param} must be a string or a list of text parts");
            ApiError::field(param, message)
        })?;
        Ok(ChatMessage {
            role: role.to_owned(),
            content,
        })
    };
    list.iter().enumerate().map(message).collect()
}

fn content(value: &Value) -> Option<String> {
    match value {
        Value::String(text) => Some(text.clone()),
        Value::Array(parts) => {
            let text = |part: &Value| match part["type"].as_str() {
                Some("text") => part["text"].as_str().map(str::to_owned),
                _ => None,
            };
            let texts = parts.iter().map(text).collect::<Option<Vec<_>>>()?;
            Some(texts.join("\n"))
        }
        _ => None,
    }
}

fn cloud_prompt(fields: &Fields) -> Result<AskedCloudPrompt, ApiError> {
    let expected = "the name of a cloud prompt, or false for none";
    let read = |value: &Value| match value {
        Value::Bool(false) => Some(AskedCloudPrompt::Nothing),
        Value::String(name) => name.parse().ok().map(AskedCloudPrompt::Named),
        _ => None,
    };
    let asked = fields.read("cloud_prompt", expected, read)?;
    Ok(asked.unwrap_or(AskedCloudPrompt::Default))
}

fn session(fields: &Fields) -> Result<Option<blake3::Hash>, ApiError> {
    let expected = "a text of 1 to 1024 bytes";
    let read = |value: &Value| {
        let key = value.as_str()?.as_bytes();
        (1..=SESSION_KEY_BYTES_MAX)
            .contains(&key.len())
            .then(|| blake3::hash(key))
    };
    fields.read("prompt_cache_key", expected, read)
}

fn sampling(fields: &Fields) -> Result<SamplingParams, ApiError> {
    let default = SamplingParams::default();
    let number = |name, default| Ok::<_, ApiError>(fields.number(name)?.unwrap_or(default));
    // vLLM's word for all of them is -1.
    let top_k = |value: &Value| match value.as_i64()? {
        -1 => Some(0),
        count => usize::try_from(count).ok(),
    };
    let params = SamplingParams {
        temperature: number("temperature", default.temperature)?,
        top_p: number("top_p", default.top_p)?,
        top_k: fields
            .read("top_k", "a whole number, not negative, or -1", top_k)?
            .unwrap_or(default.top_k),
        min_p: number("min_p", default.min_p)?,
        repetition_penalty: number("repetition_penalty", default.repetition_penalty)?,
        presence_penalty: number("presence_penalty", default.presence_penalty)?,
        frequency_penalty: number("frequency_penalty", default.frequency_penalty)?,
    };
    let checked = params.check();
    checked.map_err(|error| ApiError::field(error.name, error.to_string()))?;
    Ok(params)
}

fn stops(fields: &Fields) -> Result<Vec<String>, ApiError> {
    let expected =
        format!("a string or a list of up to {STOPS_MAX}, each of 1 to {STOP_BYTES_MAX} bytes");
    let fits = |stop: &String| (1..=STOP_BYTES_MAX).contains(&stop.len());
    let read = |value: &Value| match value {
        Value::String(stop) => Some(vec![stop.clone()]).filter(|stops| stops.iter().all(fits)),
        Value::Array(list) if list.len() <= STOPS_MAX => {
            let stop = |value: &Value| value.as_str().map(str::to_owned).filter(fits);
            list.iter().map(stop).collect()
        }
        _ => None,
    };
    Ok(fields.read("stop", &expected, read)?.unwrap_or_default())
}

fn top_logprobs(endpoint: Endpoint, fields: &Fields) -> Result<Option<usize>, ApiError> {
    let (name, count) = match endpoint {
        Endpoint::Text => ("logprobs", fields.count("logprobs")?),
        Endpoint::Chat => {
            let (wanted, count) = (fields.flag("logprobs")?, fields.count("top_logprobs")?);
            if !wanted && count.is_some_and(|count| count > 0) {
                let message = "top_logprobs needs logprobs to be true";
                return Err(ApiError::field("top_logprobs", message));
            }
            ("top_logprobs", wanted.then(|| count.unwrap_or(0)))
        }
    };
    if count.is_some_and(|count| count > TOP_LOGPROBS_MAX) {
        let message = format!("{name} must be at most {TOP_LOGPROBS_MAX}");
        return Err(ApiError::field(name, message));
    }
    Ok(count)
}

fn follows(fields: &Fields, delivery: Delivery) -> Result<bool, ApiError> {
    let read = |value: &Value| match value.as_str()? {
        "forward" => Some(false),
        "follow" => Some(true),
        _ => None,
    };
    let follows = fields.read("handover", "\"forward\" or \"follow\"", read)?;
    let follows = follows.unwrap_or(false);
    if follows && delivery == Delivery::Whole {
        let message = "handover \"follow\" needs stream to be true";
        return Err(ApiError::field("handover", message));
    }
    Ok(follows)
}

fn delivery(fields: &Fields) -> Result<Delivery, ApiError> {
    if !fields.flag("stream")? {
        return Ok(Delivery::Whole);
    }
    let read = |options: &Value| {
        let options = options.as_object()?;
        match options.get("include_usage") {
            None | Some(Value::Null | Value::Bool(false)) => Some(StreamUsage::Omitted),
            Some(Value::Bool(true)) => Some(StreamUsage::Included),
            Some(_) => None,
        }
    };
    let expected = "an object with include_usage, true or false";
    let usage = fields.read("stream_options", expected, read)?;
    Ok(Delivery::Stream(usage.unwrap_or(StreamUsage::Omitted)))
}

#[cfg(test)]
mod tests;
