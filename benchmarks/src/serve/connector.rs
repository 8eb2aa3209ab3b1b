//! How connections to a measured server are made: TCP without delay of small packets, TLS over it
//! where the URL says so.

use std::error::Error;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use edgeprompt_transport::TlsConnector;
use hyper::Uri;
use hyper_util::client::legacy::connect::{Connected, Connection, HttpConnector};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tower_service::Service;

/// How long a server may take to accept a connection, TLS included.
const CONNECT_TIME_MAX: Duration = Duration::from_secs(30);

/// Makes connections. Clones share what they trust.
#[derive(Clone)]
pub(super) struct Connector {
    tcp: HttpConnector,
    tls: Option<TlsConnector>,
}

impl Connector {
    /// Speaks TLS, whatever the URL says, if `tls` is there.
    pub(super) fn new(tls: Option<TlsConnector>) -> Self {
        let mut tcp = HttpConnector::new();
        // The URL's scheme may be https.
        tcp.enforce_http(false);
        tcp.set_nodelay(true);
        Self { tcp, tls }
    }
}

/// A stream of whatever kind.
pub(super) trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

impl Connection for Box<dyn Io> {
    fn connected(&self) -> Connected {
        Connected::new()
    }
}

type BoxError = Box<dyn Error + Send + Sync>;
type Connecting = dyn Future<Output = Result<TokioIo<Box<dyn Io>>, BoxError>> + Send;

impl Service<Uri> for Connector {
    type Response = TokioIo<Box<dyn Io>>;
    type Error = BoxError;
    type Future = Pin<Box<Connecting>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.tcp.poll_ready(context).map_err(Into::into)
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let host = uri.host().unwrap_or_default().to_owned();
        let (tcp, tls) = (self.tcp.call(uri), self.tls.clone());
        let connecting = async move {
            let stream = tcp.await?.into_inner();
            let stream: Box<dyn Io> = match tls {
                Some(tls) => Box::new(tls.connect(&host, stream).await?),
                None => Box::new(stream),
            };
            Ok(TokioIo::new(stream))
        };
        Box::pin(async move {
            match tokio::time::timeout(CONNECT_TIME_MAX, connecting).await {
                Ok(connected) => connected,
                Err(_) => Err(io::Error::from(io::ErrorKind::TimedOut).into()),
            }
        })
    }
}
