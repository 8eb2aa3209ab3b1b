//! The metrics over HTTP/1.1, for Prometheus to scrape: `GET /metrics` and `GET /health`, nothing
//! else, one request a connection. It knows no TLS and no passwords: listen on loopback, or where
//! whoever is there may read the metrics.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use edgeprompt_telemetry::exporter::MetricsHandle;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::time::{sleep, timeout};

/// Connections at a time; more wait in the system's queue until one of these is done.
const CONNECTIONS_MAX: usize = 16;

/// Longest request with all its headers; Prometheus sends some hundred bytes.
pub const REQUEST_BYTES_MAX: usize = 8 << 10;

/// For a whole connection: Prometheus itself gives up after ten seconds.
const CONNECTION_TIMEOUT: Duration = Duration::from_secs(10);

/// Until connections are accepted again after the system refused one, most likely because the
/// program has too many files open.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// The metrics cannot be served on this address.
#[derive(Debug, thiserror::Error)]
#[error("metrics cannot be served on {addr}: {source}")]
pub struct MetricsListenError {
    /// The address.
    pub addr: SocketAddr,
    /// What the system said.
    pub source: io::Error,
}

/// Serves the metrics of this process.
#[derive(Debug)]
pub struct MetricsListener {
    listener: TcpListener,
    local_addr: SocketAddr,
    metrics: MetricsHandle,
}

/// What is sent back.
struct Response {
    status: &'static str,
    body: String,
}

impl MetricsListener {
    /// Listens on `addr`; port 0 takes a free one. Needs a running tokio runtime.
    ///
    /// # Errors
    /// [`MetricsListenError`].
    pub async fn bind(
        addr: SocketAddr,
        metrics: MetricsHandle,
    ) -> Result<Self, MetricsListenError> {
        let refused = |source| MetricsListenError { addr, source };
        let listener = TcpListener::bind(addr).await.map_err(refused)?;
        let local_addr = listener.local_addr().map_err(refused)?;
        Ok(Self {
            listener,
            local_addr,
            metrics,
        })
    }

    /// The address it listens on.
    pub const fn local_addr(&self) -> SocketAddr {
        self.local_addr
    }

    /// Answers requests until the task it runs in is dropped.
    pub async fn run(self) {
        let connections = Arc::new(Semaphore::new(CONNECTIONS_MAX));
        loop {
            let free = Arc::clone(&connections).acquire_owned().await;
            let permit = free.expect("nothing closes this function's own semaphore");
            match self.listener.accept().await {
                Ok((stream, _)) => {
                    let metrics = self.metrics.clone();
                    tokio::spawn(async move {
                        // Whoever is too slow, or gone, gets no answer.
                        let _ = timeout(CONNECTION_TIMEOUT, answer(stream, &metrics)).await;
                        drop(permit);
                    });
                }
                Err(error) => {
                    tracing::warn!(%error, "a connection for metrics was not accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }
}

async fn answer(mut stream: TcpStream, metrics: &MetricsHandle) -> io::Result<()> {
    let response = match read_request(&mut stream).await? {
        Some(request) => respond(&request, metrics),
        None => Response::of("431 Request Header Fields Too Large"),
    };
    stream.write_all(response.encode().as_bytes()).await?;
    stream.shutdown().await
}

/// Reads as far as the headers' end; `None` if that is too far.
async fn read_request(stream: &mut TcpStream) -> io::Result<Option<Vec<u8>>> {
    let mut stream = stream.take(REQUEST_BYTES_MAX as u64);
    let mut request = Vec::new();
    while !request.windows(4).any(|end| end == b"\r\n\r\n") {
        if stream.read_buf(&mut request).await? == 0 {
            if request.len() == REQUEST_BYTES_MAX {
                return Ok(None);
            }
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
    }
    Ok(Some(request))
}

fn respond(request: &[u8], metrics: &MetricsHandle) -> Response {
    let line = request.split(|byte| *byte == b'\r').next();
    let mut words = line.unwrap_or_default().split(|byte| *byte == b' ');
    let (method, target) = (words.next(), words.next());
    let path = target.and_then(|target| target.split(|byte| *byte == b'?').next());
    match (method, path) {
        (Some(b"GET"), Some(b"/metrics")) => Response {
            status: "200 OK",
            body: metrics.render(),
        },
        (Some(b"GET"), Some(b"/health")) => Response::of("200 OK"),
        _ => Response::of("404 Not Found"),
    }
}

impl Response {
    /// A response whose body repeats its status.
    fn of(status: &'static str) -> Self {
        let body = format!("{status}\n");
        Self { status, body }
    }

    fn encode(&self) -> String {
        let Self { status, body } = self;
        format!(
            "HTTP/1.1 {status}\r\n\
             Content-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
             Content-Length: {}\r\n\
             Connection: close\r\n\r\n{body}",
            body.len()
        )
    }
}
