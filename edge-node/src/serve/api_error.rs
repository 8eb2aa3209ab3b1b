//! What the HTTP API answers when it does not answer: OpenAI's error bodies. No text of a request
//! is repeated in them; a prompt is private.

use axum::Json;
use axum::http::{HeaderName, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use edgeprompt_engine::{AdmissionError, SubmitError};
use serde_json::{Value, json};

use crate::serve::generator::GenerateError;
use crate::serve::segments::SharedPromptError;

/// Seconds after which a client that was turned away for lack of room may come back.
const RETRY_AFTER: HeaderValue = HeaderValue::from_static("1");

/// A request that is not served.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct ApiError {
    status: StatusCode,
    kind: &'static str,
    code: Option<&'static str>,
    /// The field that is wrong.
    param: Option<String>,
    message: String,
}

impl ApiError {
    fn new(status: StatusCode, kind: &'static str, message: impl Into<String>) -> Self {
        Self {
            status,
            kind,
            code: None,
            param: None,
            message: message.into(),
        }
    }

    /// The client must change a field.
    pub(crate) fn field(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self {
            param: Some(param.into()),
            ..Self::request(message)
        }
    }

    /// The client must change the request.
    pub(crate) fn request(message: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "invalid_request_error", message)
    }

    /// The client must send another kind of request.
    pub(crate) fn status(status: StatusCode, message: impl Into<String>) -> Self {
        Self::new(status, "invalid_request_error", message)
    }

    /// The client must show a key.
    pub(crate) fn unauthorised() -> Self {
        let message = "this server asks for an API key: send `Authorization: Bearer KEY`";
        Self::new(StatusCode::UNAUTHORIZED, "authentication_error", message)
            .with_code("invalid_api_key")
    }

    /// The client must wait.
    pub(crate) fn too_many(message: impl Into<String>) -> Self {
        Self::new(StatusCode::TOO_MANY_REQUESTS, "rate_limit_error", message)
            .with_code("rate_limit_exceeded")
    }

    /// The server cannot serve now.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "server_error", message)
    }

    /// The server has failed; its log says why.
    pub(crate) fn failed(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "server_error", message)
    }

    /// There is no such thing.
    pub(crate) fn not_found(message: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "invalid_request_error", message)
    }

    pub(crate) const fn with_code(mut self, code: &'static str) -> Self {
        self.code = Some(code);
        self
    }

    pub(crate) fn with_param(mut self, param: &'static str) -> Self {
        self.param = Some(param.to_owned());
        self
    }

    /// The body.
    pub(crate) fn body(&self) -> Value {
        json!({ "error": {
            "message": self.message,
            "type": self.kind,
            "param": self.param,
            "code": self.code,
        }})
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let mut response = (self.status, Json(self.body())).into_response();
        let mut set = |name: HeaderName, value| response.headers_mut().insert(name, value);
        match self.status {
            StatusCode::UNAUTHORIZED => {
                set(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
            }
            StatusCode::TOO_MANY_REQUESTS | StatusCode::SERVICE_UNAVAILABLE => {
                set(header::RETRY_AFTER, RETRY_AFTER);
            }
            _ => {}
        }
        response
    }
}

impl From<GenerateError> for ApiError {
    fn from(error: GenerateError) -> Self {
        let message = error.to_string();
        match error {
            GenerateError::Stopped => Self::failed(message),
            GenerateError::Refused(SubmitError::EmptyPrompt) => Self::request(message),
            GenerateError::Refused(
                SubmitError::ContextTooShort { .. }
                | SubmitError::Admission(AdmissionError::NeverFits { .. }),
            ) => Self::request(message).with_code("context_length_exceeded"),
            GenerateError::Refused(SubmitError::Admission(AdmissionError::QueueFull(_))) => {
                Self::too_many(message)
            }
        }
    }
}

impl From<SharedPromptError> for ApiError {
    fn from(error: SharedPromptError) -> Self {
        let message = error.to_string();
        let error = match error {
            SharedPromptError::Unknown => {
                Self::not_found(message).with_code("cloud_prompt_not_found")
            }
            SharedPromptError::TooLarge { .. } => Self::request(message),
            SharedPromptError::Unavailable
            | SharedPromptError::Silent
            | SharedPromptError::OtherModel => {
                Self::unavailable(message).with_code("cloud_prompt_unavailable")
            }
            SharedPromptError::Busy => Self::too_many(message),
            SharedPromptError::Failed => Self::failed(message),
        };
        error.with_param("cloud_prompt")
    }
}
