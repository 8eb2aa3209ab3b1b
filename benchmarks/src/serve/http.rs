//! The HTTP client of `benchmarks serve`: requests to one server over connections that are kept, as
//! vLLM's own client keeps them.

use std::error::Error;
use std::time::Duration;

use bytes::Bytes;
use edgeprompt_transport::TlsConnector;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderMap, HeaderValue};
use hyper::{Method, Request, Response, StatusCode, Uri};
use hyper_util::client::legacy::Client;
use hyper_util::rt::{TokioExecutor, TokioTimer};
use serde_json::Value;

use super::connector::Connector;

/// Longest body that is read in one piece: of a list of models, of token ids, of an error.
const BODY_BYTES_MAX: usize = 16 << 20;

/// Most characters of what a server says of a failure that are repeated.
const MESSAGE_LEN_MAX: usize = 200;

/// How long an unused connection is kept; vLLM's client keeps it as long.
const IDLE_TIME_MAX: Duration = Duration::from_secs(60);

/// Kept connections that may turn out to be closed for one request: servers close them after some
/// requests (llama.cpp's does) and do not always say so, and then nobody has read the request.
const CONNECTIONS_CLOSED_MAX: usize = 3;

/// Why a request got no answer.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HttpError {
    /// Nobody is there, or the connection broke.
    #[error("{0}")]
    Unreachable(String),
    /// The server refused.
    #[error("HTTP {status}{}{message}", if .message.is_empty() { "" } else { ": " })]
    Refused {
        /// How.
        status: StatusCode,
        /// In its words, shortened.
        message: String,
    },
    /// The answer is not what the endpoint should say.
    #[error("the answer is not JSON")]
    NotJson,
}

/// A server, and what every request to it carries.
#[derive(Clone)]
pub(crate) struct HttpClient {
    client: Client<Connector, Full<Bytes>>,
    /// Without a slash at its end.
    base: String,
    headers: HeaderMap,
}

impl HttpClient {
    /// A client of the server at `base`.
    pub(crate) fn new(base: String, headers: HeaderMap, tls: Option<TlsConnector>) -> Self {
        let client = Client::builder(TokioExecutor::new())
            .pool_timer(TokioTimer::new())
            .pool_idle_timeout(IDLE_TIME_MAX)
            .build(Connector::new(tls));
        Self {
            client,
            base,
            headers,
        }
    }

    /// The same over the same connections, with a header more.
    pub(crate) fn with_header(&self, name: &'static str, value: HeaderValue) -> Self {
        let mut client = self.clone();
        client.headers.insert(name, value);
        client
    }

    /// Sends a JSON body; the answer's head has come and is a good one.
    ///
    /// # Errors
    /// [`HttpError`].
    pub(crate) async fn post(
        &self,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, HttpError> {
        self.send(Method::POST, path, body).await
    }

    /// Posts a value and reads one.
    ///
    /// # Errors
    /// [`HttpError`].
    pub(crate) async fn post_json(&self, path: &str, value: &Value) -> Result<Value, HttpError> {
        read_json(self.post(path, value.to_string().into()).await?).await
    }

    /// Reads a value.
    ///
    /// # Errors
    /// [`HttpError`].
    pub(crate) async fn get_json(&self, path: &str) -> Result<Value, HttpError> {
        read_json(self.send(Method::GET, path, Bytes::new()).await?).await
    }

    async fn send(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<Response<Incoming>, HttpError> {
        let unreachable = |error: &dyn Error| HttpError::Unreachable(chain(error));
        let uri: Uri = format!("{}{path}", self.base)
            .parse()
            .map_err(|e| unreachable(&e))?;
        let mut request = Request::new(Full::new(body));
        *request.method_mut() = method;
        *request.uri_mut() = uri;
        request.headers_mut().clone_from(&self.headers);
        let json = HeaderValue::from_static("application/json");
        request.headers_mut().insert(CONTENT_TYPE, json);
        let mut answer = self.client.request(request.clone()).await;
        for _ in 0..CONNECTIONS_CLOSED_MAX {
            if !answer.as_ref().is_err_and(|error| was_closed(error)) {
                break;
            }
            answer = self.client.request(request.clone()).await;
        }
        let answer = answer.map_err(|e| unreachable(&e))?;
        if answer.status().is_success() {
            return Ok(answer);
        }
        let status = answer.status();
        let said = read_json(answer).await.unwrap_or_default();
        Err(HttpError::Refused {
            status,
            message: error_message(said.get("error").unwrap_or(&said)),
        })
    }
}

/// Whether a connection was closed before anything of an answer came.
fn was_closed(error: &(dyn Error + 'static)) -> bool {
    let mut cause = Some(error);
    while let Some(error) = cause {
        let closed = error.downcast_ref::<hyper::Error>();
        if closed.is_some_and(hyper::Error::is_incomplete_message) {
            return true;
        }
        cause = error.source();
    }
    false
}

async fn read_json(answer: Response<Incoming>) -> Result<Value, HttpError> {
    let body = Limited::new(answer.into_body(), BODY_BYTES_MAX);
    let body = body.collect().await;
    let body = body.map_err(|e| HttpError::Unreachable(chain(&*e)))?;
    serde_json::from_slice(&body.to_bytes()).map_err(|_| HttpError::NotJson)
}

/// An error with its causes.
pub(crate) fn chain(error: &dyn Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let said = error.to_string();
        if !text.contains(&said) {
            text = format!("{text}: {said}");
        }
        cause = error.source();
    }
    text
}

/// What a server says of a failure: OpenAI's error object, or a text; shortened, in one line.
pub(crate) fn error_message(error: &Value) -> String {
    let text = [&error["message"], &error["detail"], error]
        .into_iter()
        .find_map(Value::as_str);
    let text = text.unwrap_or_default().chars();
    let text = text.map(|c| if c.is_control() { ' ' } else { c });
    text.take(MESSAGE_LEN_MAX).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// Answers the first request on each of its connections and closes it without a word when the
    /// next one comes; so many connections.
    fn forgetful(connections: usize) -> std::net::SocketAddr {
        use std::io::{Read, Write};
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let addr = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            for _ in 0..connections {
                let (mut socket, _) = listener.accept().unwrap();
                let mut request = [0; 4096];
                assert!(socket.read(&mut request).unwrap() > 0);
                socket
                    .write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
                    .unwrap();
                let _ = socket.read(&mut request);
            }
        });
        addr
    }

    #[tokio::test]
    async fn a_kept_connection_that_turns_out_to_be_closed_is_no_failure() {
        let addr = forgetful(4);
        let client = HttpClient::new(format!("http://{addr}"), HeaderMap::new(), None);
        for _ in 0..4 {
            assert_eq!(client.get_json("/").await.unwrap(), json!({}));
        }
    }

    #[test]
    fn a_servers_words_are_short_and_in_one_line() {
        assert_eq!(
            error_message(&json!({"message": "too\nlong", "code": 1})),
            "too long"
        );
        assert_eq!(error_message(&json!({"detail": "no"})), "no");
        assert_eq!(error_message(&json!("\u{1b}[2Jx")), " [2Jx");
        assert_eq!(
            error_message(&json!("x".repeat(5_000))).len(),
            MESSAGE_LEN_MAX
        );
        assert_eq!(error_message(&json!(7)), "");
        let refused = |message: &str| HttpError::Refused {
            status: StatusCode::BAD_REQUEST,
            message: message.to_owned(),
        };
        assert_eq!(refused("why").to_string(), "HTTP 400 Bad Request: why");
        assert_eq!(refused("").to_string(), "HTTP 400 Bad Request");
    }
}
