//! A model's chat template: messages to the text the model was trained on.

use std::path::Path;

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, ErrorKind, Value as Rendered, context};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::file_bytes::read_if_present;

/// Largest `tokenizer_config.json` read, in bytes: it lists added tokens, thousands at most.
const CONFIG_BYTES_MAX: u64 = 16 << 20;
/// Largest `chat_template.jinja` read, in bytes.
const TEMPLATE_BYTES_MAX: u64 = 1 << 20;

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct ChatMessage {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

/// Whether the rendered text ends where the assistant begins to speak.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Turn {
    /// The conversation so far.
    Closed,
    /// The assistant is to answer.
    AwaitingAssistant,
}

/// Why a template is refused or cannot be rendered. Messages are not repeated in it.
#[derive(Debug, thiserror::Error)]
pub enum ChatTemplateError {
    /// A file that should hold the template cannot be read.
    #[error("{file}: {reason}")]
    File {
        /// The file.
        file: String,
        /// What is wrong with it.
        reason: String,
    },
    /// The template does not parse.
    #[error("the chat template does not parse: {0}")]
    Syntax(String),
    /// The template refuses these messages.
    #[error("the chat template refuses these messages: {0}")]
    Render(ErrorKind),
}

/// A compiled chat template.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos_token: String,
    eos_token: String,
}

impl ChatTemplate {
    /// The template of a Hugging Face folder: `chat_template.jinja`, or `chat_template` in
    /// `tokenizer_config.json`; `None` if the model has none.
    ///
    /// # Errors
    /// [`ChatTemplateError::File`] or [`ChatTemplateError::Syntax`].
    pub fn open(folder: &Path) -> Result<Option<Self>, ChatTemplateError> {
        let read = |name: &str, bytes_max| {
            let file = folder.join(name);
            let bytes = read_if_present(&file, bytes_max);
            bytes.map_err(|e| file_error(folder, name, e.to_string()))
        };
        let name = "tokenizer_config.json";
        let config = match read(name, CONFIG_BYTES_MAX)? {
            None => Value::Null,
            Some(bytes) => serde_json::from_slice(&bytes)
                .map_err(|e| file_error(folder, name, e.to_string()))?,
        };
        let name = "chat_template.jinja";
        let source = read(name, TEMPLATE_BYTES_MAX)?.map(String::from_utf8);
        let source = source.transpose();
        let source = source.map_err(|e| file_error(folder, name, e.to_string()))?;
        let Some(source) = source.or_else(|| template_in(&config)) else {
            return Ok(None);
        };
        let token = |name: &str| special_token(&config[name]);
        Self::new(&source, token("bos_token"), token("eos_token")).map(Some)
    }

    /// Compiles a template.
    ///
    /// # Errors
    /// [`ChatTemplateError::Syntax`].
    pub fn new(
        source: &str,
        bos_token: String,
        eos_token: String,
    ) -> Result<Self, ChatTemplateError> {
        let mut environment = Environment::new();
        let mut syntax = SyntaxConfig::builder();
        let syntax = syntax.trim_blocks(true).lstrip_blocks(true).build();
        environment.set_syntax(syntax.map_err(|e| ChatTemplateError::Syntax(e.to_string()))?);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", raise_exception);
        // `strftime_now` is left undefined on purpose: templates that ask for today's date fall
        // back to a fixed one, and a public prompt keeps its identity from day to day.
        environment
            .add_template_owned("chat", source.to_owned())
            .map_err(|e| ChatTemplateError::Syntax(e.to_string()))?;
        Ok(Self {
            environment,
            bos_token,
            eos_token,
        })
    }

    /// What templates write where a sequence begins; empty if the model has no such token.
    pub fn bos_token(&self) -> &str {
        &self.bos_token
    }

    /// Renders messages.
    ///
    /// # Errors
    /// [`ChatTemplateError::Render`].
    pub fn render(
        &self,
        messages: &[ChatMessage],
        turn: Turn,
    ) -> Result<String, ChatTemplateError> {
        let pairs = |m: &ChatMessage| [("role", m.role.clone()), ("content", m.content.clone())];
        let messages: Vec<_> = messages
            .iter()
            .map(|m| Rendered::from_pairs(pairs(m)))
            .collect();
        let template = self.environment.get_template("chat");
        let rendered = template.and_then(|template| {
            template.render(context! {
                messages,
                add_generation_prompt => turn == Turn::AwaitingAssistant,
                bos_token => self.bos_token.clone(),
                eos_token => self.eos_token.clone(),
            })
        });
        // The library's sentence may quote a message, so only its kind is kept.
        rendered.map_err(|e| ChatTemplateError::Render(e.kind()))
    }
}

fn file_error(folder: &Path, name: &str, reason: String) -> ChatTemplateError {
    let file = folder.join(name).display().to_string();
    ChatTemplateError::File { file, reason }
}

/// Templates call this to refuse a conversation; its text may quote the messages and is dropped.
fn raise_exception(_reason: &str) -> Result<String, minijinja::Error> {
    Err(minijinja::Error::from(ErrorKind::InvalidOperation))
}

/// One template, or several of which one is called `default`.
fn template_in(config: &Value) -> Option<String> {
    match &config["chat_template"] {
        Value::String(source) => Some(source.clone()),
        Value::Array(named) => {
            let default = named.iter().find(|entry| entry["name"] == "default")?;
            default["template"].as_str().map(str::to_owned)
        }
        _ => None,
    }
}

/// Published as a string or as an object with a `content`.
fn special_token(value: &Value) -> String {
    value
        .as_str()
        .or_else(|| value["content"].as_str())
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const TEMPLATE: &str = "{{ bos_token }}{% for message in messages %}
{%- if message.role not in ['system', 'user', 'assistant'] %}{{ raise_exception('role ' + message.role) }}{% endif -%}
<|{{ message.role }}|>{{ message.content.strip() }}{{ eos_token }}{% endfor %}
{%- if add_generation_prompt %}<|assistant|>{% endif %}";

    fn message(role: &str, content: &str) -> ChatMessage {
        ChatMessage {
            role: role.to_owned(),
            content: content.to_owned(),
        }
    }

    #[test]
    fn messages_are_rendered_and_the_public_part_is_a_prefix() {
        let template = ChatTemplate::new(TEMPLATE, "<s>".to_owned(), "</s>".to_owned()).unwrap();
        let (system, user) = (message("system", " Be kind. "), message("user", "Hi"));
        let public = template
            .render(std::slice::from_ref(&system), Turn::Closed)
            .unwrap();
        let whole = template
            .render(&[system, user], Turn::AwaitingAssistant)
            .unwrap();
        assert_eq!(public, "<s><|system|>Be kind.</s>");
        assert_eq!(
            whole,
            "<s><|system|>Be kind.</s><|user|>Hi</s><|assistant|>"
        );
    }

    #[test]
    fn a_refusal_does_not_repeat_the_message() {
        let template = ChatTemplate::new(TEMPLATE, String::new(), String::new()).unwrap();
        let error = template
            .render(&[message("secret", "x")], Turn::Closed)
            .unwrap_err();
        assert!(
            !format!("{error} {error:?}").contains("secret"),
            "{error:?}"
        );
        assert!(ChatTemplate::new("{% if %}", String::new(), String::new()).is_err());
    }
}
