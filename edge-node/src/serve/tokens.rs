//! `/tokenize` and `/detokenize`, as vLLM's and llama.cpp's servers have them.

use std::sync::Arc;

use axum::Json;
use axum::extract::{Request as HttpRequest, State};
use edgeprompt_kv::TokenId;
use serde_json::{Value, json};

use crate::private::PrivateText;
use crate::serve::api_error::ApiError;
use crate::serve::fields::Fields;
use crate::serve::prompting::{Prompt, PromptingError, Seam, prompt};
use crate::serve::request::{AskedPrompt, messages};
use crate::serve::routes::fields;
use crate::serve::server::App;

/// Text, or a conversation, to token ids.
pub(crate) async fn tokenize(
    State(app): State<Arc<App>>,
    http: HttpRequest,
) -> Result<Json<Value>, ApiError> {
    let server = app.server()?;
    let fields = fields(http).await?;
    let special = fields.read("add_special_tokens", "true or false", Value::as_bool)?;
    let (asked, field) = asked(&fields)?;
    // llama.cpp's default is another one than vLLM's.
    let special = match field {
        "content" => Some(fields.flag("add_special")?),
        _ => special,
    };
    drop(fields);
    let model = Arc::clone(&server.model);
    let tokens = tokio::task::spawn_blocking(move || {
        let prompted = prompt(&model, &asked, None, Seam::Strict);
        let (Prompt::Private(tokens) | Prompt::InOnePiece(tokens)) = prompted?;
        let tokens = tokens.for_engine();
        let begins = model.config.bos.is_some() && tokens.first() == model.config.bos.as_ref();
        let skipped = usize::from(begins && special == Some(false));
        Ok::<Vec<u32>, PromptingError>(tokens[skipped..].iter().map(|token| token.0).collect())
    });
    let tokens = tokens
        .await
        .map_err(|_| ApiError::failed("the tokenizer failed"))?;
    let tokens = tokens.map_err(|error| ApiError::field(field, error.to_string()))?;
    Ok(Json(json!({
        "tokens": tokens,
        "count": tokens.len(),
        "max_model_len": server.capacity.model_len_max,
    })))
}

/// What to tokenise, and the field it is in: vLLM's `prompt` or `messages`, llama.cpp's `content`.
fn asked(fields: &Fields) -> Result<(AskedPrompt, &'static str), ApiError> {
    if fields.value("messages").is_some() {
        return Ok((AskedPrompt::Messages(messages(fields)?), "messages"));
    }
    for field in ["prompt", "content"] {
        if let Some(text) = fields.text(field)? {
            return Ok((AskedPrompt::Text(PrivateText::new(text)), field));
        }
    }
    Err(ApiError::field("prompt", "prompt is missing"))
}

/// Token ids to text.
pub(crate) async fn detokenize(
    State(app): State<Arc<App>>,
    http: HttpRequest,
) -> Result<Json<Value>, ApiError> {
    let server = app.server()?;
    let fields = fields(http).await?;
    let id = |value: &Value| u32::try_from(value.as_u64()?).ok().map(TokenId);
    let ids = |value: &Value| value.as_array()?.iter().map(id).collect::<Option<Vec<_>>>();
    let tokens = fields.read("tokens", "a list of token ids", ids)?;
    let tokens = tokens.ok_or_else(|| ApiError::field("tokens", "tokens is missing"))?;
    let model = Arc::clone(&server.model);
    let text = tokio::task::spawn_blocking(move || {
        let tokenizer = model.tokenizer().map_err(|error| error.to_string())?;
        tokenizer.decode(&tokens).map_err(|error| error.to_string())
    });
    let text = text
        .await
        .map_err(|_| ApiError::failed("the tokenizer failed"))?;
    let text = text.map_err(|error| ApiError::field("tokens", error))?;
    Ok(Json(json!({ "prompt": text, "content": text })))
}
