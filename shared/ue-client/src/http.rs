//! One request on one connection, and its answer as it comes.

use std::io;
use std::time::Duration;

use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Incoming;
use hyper::client::conn::http1;
use hyper::header::{AUTHORIZATION, CONNECTION, CONTENT_TYPE, HOST, HeaderMap, HeaderValue};
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio::task::AbortHandle;
use tokio::time::timeout;

use crate::access::Access;
use crate::edge_url::{EdgeUrl, Scheme};

/// How long a server may take to accept a connection, TLS included.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(4);

/// How long until the head of an answer: a move that copies ahead takes its time.
const HEAD_TIME_MAX: Duration = Duration::from_secs(120);

/// How long a short body may take after its head.
const BODY_TIME_MAX: Duration = Duration::from_secs(30);

/// Largest head, and what is read in advance.
const BUFFER_BYTES_MAX: usize = 64 << 10;

/// Most headers.
const HEADERS_MAX: usize = 64;

/// Longest body that is read in one piece.
const BODY_BYTES_MAX: usize = 1 << 20;

/// Longest error code.
const CODE_BYTES_MAX: usize = 64;

/// Most characters of what a server says with it.
const MESSAGE_LEN_MAX: usize = 512;

/// A server did not give what was asked for. What it says in its own words is not in the text of
/// these, for it may repeat what was asked.
#[derive(Debug, thiserror::Error)]
pub enum HttpError {
    /// Nobody is there.
    #[error("{url} cannot be reached: {source}")]
    Unreachable {
        /// Who was asked.
        url: EdgeUrl,
        /// Why.
        source: io::Error,
    },
    /// The connection broke, or HTTP was not spoken on it.
    #[error("{url} broke off: {source}")]
    BrokeOff {
        /// Who was asked.
        url: EdgeUrl,
        /// How.
        source: hyper::Error,
    },
    /// It said nothing for too long.
    #[error("{url} did not answer in time")]
    TimedOut {
        /// Who was asked.
        url: EdgeUrl,
    },
    /// It says no.
    #[error("{url} refused with status {status}{}{code}", if .code.is_empty() { "" } else { " " })]
    Refused {
        /// Who was asked.
        url: EdgeUrl,
        /// How.
        status: u16,
        /// The error's code; empty for none.
        code: String,
        /// What it says beside, without control characters; empty for nothing. Not in this error's text,
        /// for it is the server's.
        message: String,
    },
    /// The answer is none of an edge node, or longer than any of them.
    #[error("{url} does not answer as an edge node does")]
    Nonsense {
        /// Who was asked.
        url: EdgeUrl,
    },
    /// It ended before the answer did.
    #[error("{url} ended before the answer did")]
    Ended {
        /// Who was asked.
        url: EdgeUrl,
    },
    /// A session that was read over TLS would have to be read in clear, or where nobody knows.
    #[error("{url} sent the session where it is not followed to")]
    NotFollowed {
        /// Who sent it there.
        url: EdgeUrl,
    },
}

/// The beginning of an answer, and the rest as it comes.
pub(crate) struct Reply {
    url: EdgeUrl,
    pub(crate) headers: HeaderMap,
    status: StatusCode,
    body: Incoming,
    _connection: Connection,
}

/// A task that moves bytes. Dropping it closes the connection.
struct Connection(AbortHandle);

impl Drop for Connection {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Sends a request; the answer's head has come and is a good one.
///
/// # Errors
/// [`HttpError`].
pub(crate) async fn send(
    url: &EdgeUrl,
    access: &Access,
    (method, endpoint): (Method, &str),
    body: Bytes,
) -> Result<Reply, HttpError> {
    let timed_out = |_| HttpError::TimedOut { url: url.clone() };
    let stream = timeout(CONNECT_TIME_MAX, connect(url, access)).await;
    let stream = stream.map_err(timed_out)?;
    let stream = stream.map_err(|source| HttpError::Unreachable {
        url: url.clone(),
        source,
    })?;
    let asking = ask(url, stream, request(url, access, (method, endpoint), body)?);
    let reply = timeout(HEAD_TIME_MAX, asking).await;
    reply.map_err(timed_out)??.good().await
}

/// A stream of whatever kind.
trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

async fn connect(url: &EdgeUrl, access: &Access) -> io::Result<Box<dyn Io>> {
    let bare = url.host().trim_start_matches('[').trim_end_matches(']');
    let stream = TcpStream::connect((bare, url.port())).await?;
    stream.set_nodelay(true)?;
    match (url.scheme(), access.tls()) {
        (Scheme::Http, _) => Ok(Box::new(stream)),
        (Scheme::Https, Some(tls)) => Ok(Box::new(tls.connect(url.host(), stream).await?)),
        (Scheme::Https, None) => Err(io::Error::other("this client was not made for TLS")),
    }
}

fn request(
    url: &EdgeUrl,
    access: &Access,
    (method, endpoint): (Method, &str),
    body: Bytes,
) -> Result<Request<Full<Bytes>>, HttpError> {
    let mut request = Request::builder()
        .method(method)
        .uri(url.path_of(endpoint))
        .header(HOST, format!("{}:{}", url.host(), url.port()))
        .header(CONNECTION, "close")
        .header(CONTENT_TYPE, HeaderValue::from_static("application/json"))
        .body(Full::new(body))
        // Only the path is from outside, and a server's URL was parsed.
        .map_err(|_| HttpError::Nonsense { url: url.clone() })?;
    if let Some(key) = access.authorization() {
        request.headers_mut().insert(AUTHORIZATION, key.clone());
    }
    Ok(request)
}

async fn ask(
    url: &EdgeUrl,
    stream: Box<dyn Io>,
    request: Request<Full<Bytes>>,
) -> Result<Reply, HttpError> {
    let broke_off = |source| HttpError::BrokeOff {
        url: url.clone(),
        source,
    };
    let mut builder = http1::Builder::new();
    builder
        .max_headers(HEADERS_MAX)
        .max_buf_size(BUFFER_BYTES_MAX);
    let (mut sender, connection) = builder
        .handshake(TokioIo::new(stream))
        .await
        .map_err(broke_off)?;
    // What goes wrong in it is heard by whoever reads.
    let connection = tokio::spawn(async { drop(connection.await) });
    let connection = Connection(connection.abort_handle());
    let (head, body) = sender
        .send_request(request)
        .await
        .map_err(broke_off)?
        .into_parts();
    Ok(Reply {
        url: url.clone(),
        headers: head.headers,
        status: head.status,
        body,
        _connection: connection,
    })
}

impl Reply {
    async fn good(self) -> Result<Self, HttpError> {
        if self.status.is_success() {
            return Ok(self);
        }
        let (url, status) = (self.url.clone(), self.status.as_u16());
        let said = self.json().await.unwrap_or_default();
        let code = said["error"]["code"].as_str().filter(|code| is_code(code));
        let message = said["error"]["message"].as_str().unwrap_or_default();
        let message = message.chars().filter(|it| !it.is_control());
        Err(HttpError::Refused {
            url,
            status,
            code: code.unwrap_or_default().to_owned(),
            message: message.take(MESSAGE_LEN_MAX).collect(),
        })
    }

    /// The next bytes; `None` after the last.
    ///
    /// Cancel-safe.
    ///
    /// # Errors
    /// [`HttpError::BrokeOff`].
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, HttpError> {
        loop {
            let Some(frame) = self.body.frame().await else {
                return Ok(None);
            };
            let frame = frame.map_err(|source| HttpError::BrokeOff {
                url: self.url.clone(),
                source,
            })?;
            if let Ok(bytes) = frame.into_data() {
                return Ok(Some(bytes));
            }
        }
    }

    /// The whole body, which is JSON.
    ///
    /// # Errors
    /// [`HttpError`].
    pub(crate) async fn json(self) -> Result<Value, HttpError> {
        let url = self.url;
        let body = Limited::new(self.body, BODY_BYTES_MAX).collect();
        let Ok(body) = timeout(BODY_TIME_MAX, body).await else {
            return Err(HttpError::TimedOut { url });
        };
        let body = body.ok().map(http_body_util::Collected::to_bytes);
        let value = body.and_then(|body| serde_json::from_slice(&body).ok());
        value.ok_or(HttpError::Nonsense { url })
    }

    /// Who answers.
    pub(crate) const fn url(&self) -> &EdgeUrl {
        &self.url
    }
}

/// Whether it is a word of a protocol, and no text of anybody.
fn is_code(code: &str) -> bool {
    let fits = |byte: u8| byte.is_ascii_lowercase() || byte == b'_';
    (1..=CODE_BYTES_MAX).contains(&code.len()) && code.bytes().all(fits)
}
