//! Pages of other origins that may use this server from a browser: what the Fetch standard calls CORS.
//! Without `--allowed-origin` no header of it is sent, and browsers keep such pages out.
//!
//! Keys travel in a header that pages set themselves, so nothing here lets a browser add credentials.

use std::str::FromStr;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};

use crate::serve::server::App;

/// How long a browser need not ask again before it sends a request.
const PREFLIGHT_SECONDS: HeaderValue = HeaderValue::from_static("600");

/// What pages may send, and what they may read beside the body.
const METHODS: HeaderValue = HeaderValue::from_static("GET, POST");
const REQUEST_HEADERS: HeaderValue =
    HeaderValue::from_static("authorization, content-type, x-request-id");
const RESPONSE_HEADERS: HeaderValue = HeaderValue::from_static(
    "x-request-id, x-edgeprompt-warning, x-edgeprompt-session, x-edgeprompt-ticket, \
     x-edgeprompt-seed, x-edgeprompt-cloud-prompt, retry-after",
);

/// An answer to one origin is no answer to another.
const VARY: HeaderValue = HeaderValue::from_static("origin");
const EVERYBODY: HeaderValue = HeaderValue::from_static("*");

/// An origin that may use the server.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum AllowedOrigin {
    /// Whichever it is.
    Every,
    /// This one, as browsers spell it.
    One(HeaderValue),
}

/// A text is no origin.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "an origin is a scheme, a host and perhaps a port, such as https://example.org:8443, without a path; \
     a scheme's usual port is left out"
)]
pub(crate) struct NoOrigin;

impl FromStr for AllowedOrigin {
    type Err = NoOrigin;

    fn from_str(text: &str) -> Result<Self, NoOrigin> {
        if text == "*" {
            return Ok(Self::Every);
        }
        let text = text.to_ascii_lowercase();
        let (scheme, host) = text.split_once("://").ok_or(NoOrigin)?;
        let is_scheme = scheme.starts_with(|char: char| char.is_ascii_lowercase())
            && scheme
                .chars()
                .all(|char| char.is_ascii_alphanumeric() || "+-.".contains(char));
        let is_host = !host.is_empty()
            && host
                .chars()
                .all(|char| char.is_ascii_alphanumeric() || "-._:[]".contains(char));
        let usual_port = match scheme {
            "http" => ":80",
            "https" => ":443",
            _ => ":",
        };
        if !is_scheme || !is_host || host.ends_with(usual_port) || host.ends_with(':') {
            return Err(NoOrigin);
        }
        HeaderValue::try_from(text)
            .map(Self::One)
            .map_err(|_| NoOrigin)
    }
}

/// The origins that may use the server.
#[derive(Clone, Debug, Default)]
pub(crate) struct Origins(Vec<AllowedOrigin>);

impl Origins {
    /// These.
    pub(crate) const fn new(origins: Vec<AllowedOrigin>) -> Self {
        Self(origins)
    }

    /// Whether every origin may.
    pub(crate) fn are_all(&self) -> bool {
        self.0.contains(&AllowedOrigin::Every)
    }

    /// What to answer to the origin of a request, if there is one that may use the server.
    fn answer_to(&self, headers: &HeaderMap) -> Option<HeaderValue> {
        let asked = headers.get(header::ORIGIN)?;
        if self.are_all() {
            return Some(EVERYBODY);
        }
        let asked = AllowedOrigin::One(asked.clone());
        let found = self.0.iter().find(|origin| **origin == asked)?;
        match found {
            AllowedOrigin::One(origin) => Some(origin.clone()),
            AllowedOrigin::Every => Some(EVERYBODY),
        }
    }
}

/// Answers what browsers ask before a request, and says in every answer who may read it.
pub(crate) async fn shared_with_origins(
    State(app): State<Arc<App>>,
    request: Request,
    next: Next,
) -> Response {
    let answer = app.origins.answer_to(request.headers());
    let asks_first = request.method() == Method::OPTIONS
        && request
            .headers()
            .contains_key(header::ACCESS_CONTROL_REQUEST_METHOD);
    let mut response = match (&answer, asks_first) {
        (Some(_), true) => permission(),
        _ => next.run(request).await,
    };
    if !app.origins.0.is_empty() && !app.origins.are_all() {
        response.headers_mut().append(header::VARY, VARY);
    }
    if let Some(origin) = answer {
        let mut set = |name: HeaderName, value| response.headers_mut().insert(name, value);
        set(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        set(header::ACCESS_CONTROL_EXPOSE_HEADERS, RESPONSE_HEADERS);
    }
    response
}

fn permission() -> Response {
    let headers = [
        (header::ACCESS_CONTROL_ALLOW_METHODS, METHODS),
        (header::ACCESS_CONTROL_ALLOW_HEADERS, REQUEST_HEADERS),
        (header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_SECONDS),
    ];
    (StatusCode::NO_CONTENT, headers).into_response()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_origin_is_what_browsers_send() {
        for origin in [
            "https://example.org",
            "http://localhost:3000",
            "http://[::1]:3000",
            "app://desk",
        ] {
            let parsed: AllowedOrigin = origin.parse().unwrap();
            assert_eq!(parsed, AllowedOrigin::One(HeaderValue::from_static(origin)));
        }
        let upper: AllowedOrigin = "HTTPS://Example.org".parse().unwrap();
        let lower = HeaderValue::from_static("https://example.org");
        assert_eq!(upper, AllowedOrigin::One(lower));
        assert_eq!("*".parse(), Ok(AllowedOrigin::Every));
        for text in [
            "",
            "null",
            "example.org",
            "https://",
            "https://example.org/",
            "https://example.org/path",
            "https://me@example.org",
            "https://example.org:443",
            "http://example.org:80",
            "https://example.org:",
            "https://*.example.org",
            "://example.org",
            "https://exam ple.org",
        ] {
            assert_eq!(text.parse::<AllowedOrigin>(), Err(NoOrigin), "{text}");
        }
    }
}
