//! The body of each request: vLLM's fields, and our own for a cloud prompt.

use bytes::Bytes;
use clap::Args;
use edgeprompt_protocol::PromptName;
use hyper::header::HeaderValue;
use serde_json::{Map, Value, json};

use super::data::CloudText;
use super::server::{Backend, object};
use crate::dataset::Sample;

/// What every request asks.
#[derive(Args)]
pub(crate) struct AskArgs {
    /// Go on after the model's end token, so that every answer is as long as asked
    #[arg(long)]
    ignore_eos: bool,
    /// Cloud prompt that every request builds on, by its name at the edge node
    #[arg(long, value_name = "NAME", conflicts_with = "cloud_prompt_text")]
    cloud_prompt: Option<PromptName>,
    /// For servers without cloud prompts: text that stands before every prompt (a chat's system
    /// message), from a file, or made up of so many tokens and written to --result-dir
    #[arg(long, value_name = "FILE|TOKENS")]
    pub(crate) cloud_prompt_text: Option<CloudText>,
    /// Temperature; the server's own unless given
    #[arg(long)]
    temperature: Option<f64>,
    /// Nucleus
    #[arg(long)]
    top_p: Option<f64>,
    /// Most likely tokens that are drawn from
    #[arg(long)]
    top_k: Option<i64>,
    /// Least probability, as a share of the largest
    #[arg(long)]
    min_p: Option<f64>,
    /// Penalty by how often a token occurred
    #[arg(long)]
    frequency_penalty: Option<f64>,
    /// Penalty for a token that occurred
    #[arg(long)]
    presence_penalty: Option<f64>,
    /// Factor for a token that occurred
    #[arg(long)]
    repetition_penalty: Option<f64>,
    /// Sent in x-request-id with the request's number behind it, to find it in the server's log
    #[arg(long, value_name = "PREFIX", value_parser = header_value)]
    request_id_prefix: Option<String>,
    /// More fields of every request, which win over all others
    #[arg(long, value_name = "JSON", value_parser = object)]
    extra_body: Option<Value>,
}

/// Writes requests.
pub(crate) struct Asking {
    backend: Backend,
    /// What all requests have.
    common: Map<String, Value>,
    /// What wins over everything.
    extra: Map<String, Value>,
    cloud_text: Option<String>,
    request_id_prefix: Option<String>,
}

/// Text that can be sent in a header.
fn header_value(text: &str) -> Result<String, String> {
    match HeaderValue::from_str(text) {
        Ok(_) => Ok(text.to_owned()),
        Err(_) => Err("it is sent in a header, where control characters cannot be".to_owned()),
    }
}

impl AskArgs {
    /// Requests to `model` with `cloud_text` before each prompt.
    pub(crate) fn asking(
        &self,
        backend: Backend,
        model: &str,
        cloud_text: Option<String>,
    ) -> Asking {
        let mut common = Map::new();
        let mut set = |name: &str, value: Value| common.insert(name.to_owned(), value);
        set("model", model.into());
        set("stream", true.into());
        set("stream_options", json!({"include_usage": true}));
        if self.ignore_eos {
            set("ignore_eos", true.into());
        }
        if let Some(name) = &self.cloud_prompt {
            set("cloud_prompt", name.to_string().into());
        }
        let numbers = [
            ("temperature", self.temperature),
            ("top_p", self.top_p),
            ("min_p", self.min_p),
            ("frequency_penalty", self.frequency_penalty),
            ("presence_penalty", self.presence_penalty),
            ("repetition_penalty", self.repetition_penalty),
        ];
        for (name, number) in numbers {
            if let Some(number) = number {
                set(name, number.into());
            }
        }
        if let Some(top_k) = self.top_k {
            set("top_k", top_k.into());
        }
        let extra = self.extra_body.as_ref().and_then(Value::as_object);
        Asking {
            backend,
            common,
            extra: extra.cloned().unwrap_or_default(),
            cloud_text,
            request_id_prefix: self.request_id_prefix.clone(),
        }
    }
}

impl Asking {
    /// What the request of this number is called, if requests have names.
    pub(crate) fn request_id(&self, index: usize) -> Option<HeaderValue> {
        let prefix = self.request_id_prefix.as_ref()?;
        HeaderValue::from_str(&format!("{prefix}{index}")).ok()
    }

    /// The body that asks a sample.
    pub(crate) fn body(&self, sample: &Sample) -> Bytes {
        let mut body = self.common.clone();
        let mut set = |name: &str, value: Value| body.insert(name.to_owned(), value);
        let (prompt, cloud_text) = (&*sample.prompt, self.cloud_text.as_deref());
        // Newer servers know the one name in chats, others the other.
        set("max_tokens", sample.output_len.into());
        match self.backend {
            Backend::Openai => {
                set(
                    "prompt",
                    format!("{}{prompt}", cloud_text.unwrap_or_default()).into(),
                );
            }
            Backend::OpenaiChat => {
                set("max_completion_tokens", sample.output_len.into());
                let system = cloud_text.map(|text| json!({"role": "system", "content": text}));
                let user = json!({"role": "user", "content": prompt});
                set("messages", system.into_iter().chain([user]).collect());
            }
        }
        body.extend(self.extra.clone());
        Value::Object(body).to_string().into()
    }
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        ask: AskArgs,
    }

    fn body(backend: Backend, args: &[&str], cloud_text: Option<&str>) -> Value {
        let line = Line::try_parse_from(["x"].iter().chain(args)).unwrap();
        let asking = line.ask.asking(backend, "m", cloud_text.map(str::to_owned));
        let sample = Sample {
            prompt: "hi".into(),
            prompt_len: 2,
            output_len: 7,
        };
        serde_json::from_slice(&asking.body(&sample)).unwrap()
    }

    #[test]
    fn a_completion_has_vllms_fields() {
        assert_eq!(
            body(
                Backend::Openai,
                &["--ignore-eos", "--top-k", "3"],
                Some("Be brief.\n")
            ),
            json!({"model": "m", "prompt": "Be brief.\nhi", "max_tokens": 7, "stream": true,
                "stream_options": {"include_usage": true}, "ignore_eos": true, "top_k": 3})
        );
    }

    #[test]
    fn a_chat_has_the_public_text_as_its_system_message() {
        let chat = body(Backend::OpenaiChat, &[], Some("Be brief."));
        assert_eq!(
            chat["messages"],
            json!([{"role": "system", "content": "Be brief."}, {"role": "user", "content": "hi"}])
        );
        assert_eq!(
            (&chat["max_tokens"], &chat["max_completion_tokens"]),
            (&json!(7), &json!(7))
        );
        assert_eq!(chat.get("prompt"), None);
    }

    #[test]
    fn extra_fields_win() {
        let args = [
            "--cloud-prompt",
            "desk",
            "--temperature",
            "0",
            "--extra-body",
        ];
        let extra = r#"{"temperature": 1, "cloud_prompt": false}"#;
        let asked = body(Backend::Openai, &args[..4], None);
        assert_eq!(
            (&asked["cloud_prompt"], &asked["temperature"]),
            (&json!("desk"), &json!(0.0))
        );
        let asked = body(Backend::Openai, &[&args[..], &[extra]].concat(), None);
        assert_eq!(
            (&asked["cloud_prompt"], &asked["temperature"]),
            (&json!(false), &json!(1))
        );
    }
}
