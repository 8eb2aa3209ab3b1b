//! Speaks HTTP on connections, in the clear or over TLS, and ends gracefully. What is said there is
//! the router's business.

use std::pin::pin;
use std::time::Duration;

use axum::Router;
use edgeprompt_transport::TlsAcceptor;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::{GracefulShutdown, Watcher};
use hyper_util::service::TowerToHyperService;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::time::timeout;

use crate::serve::connections::{Connection, Connections};

/// Largest head of a request: each connection may hold so much of one in memory.
const HEAD_BYTES_MAX: usize = 64 << 10;

/// How the bytes of a connection are protected.
#[derive(Clone)]
pub(crate) enum Security {
    /// Not at all.
    Clear,
    /// With this server's certificate.
    Tls(TlsAcceptor),
}

/// What one connection is served with.
struct Conversation {
    router: Router,
    head_patience: Duration,
    watcher: Watcher,
}

/// Serves until `stop`, then takes no more connections, lets answers under way end, and returns.
pub(crate) async fn serve(
    mut connections: Connections,
    security: Security,
    router: Router,
    stop: impl Future<Output = ()>,
) {
    let graceful = GracefulShutdown::new();
    let mut stop = pin!(stop);
    loop {
        let connection = tokio::select! {
            connection = connections.accept() => connection,
            () = &mut stop => break,
        };
        let conversation = Conversation {
            router: router.clone(),
            head_patience: connections.patience().head,
            watcher: graceful.watcher(),
        };
        tokio::spawn(conversation.begin(connection, security.clone()));
    }
    // Whoever dials now is refused rather than kept waiting.
    drop(connections);
    graceful.shutdown().await;
}

impl Conversation {
    async fn begin(self, connection: Connection, security: Security) {
        let acceptor = match security {
            Security::Clear => return self.hold(connection).await,
            Security::Tls(acceptor) => acceptor,
        };
        match timeout(self.head_patience, acceptor.accept(connection)).await {
            Ok(Ok(stream)) => self.hold(stream).await,
            Ok(Err(error)) => tracing::debug!(%error, "a TLS handshake failed"),
            Err(_) => tracing::debug!("a TLS handshake took too long"),
        }
    }

    async fn hold(self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) {
        let service = TowerToHyperService::new(self.router);
        let conversation = http1::Builder::new()
            .timer(TokioTimer::new())
            .header_read_timeout(self.head_patience)
            .max_buf_size(HEAD_BYTES_MAX)
            .serve_connection(TokioIo::new(stream), service);
        if let Err(error) = self.watcher.watch(conversation).await {
            tracing::debug!(%error, "a connection broke off");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;
    use std::net::SocketAddr;

    use axum::body::{Body, Bytes};
    use axum::routing::get;
    use futures_util::stream;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::{TcpListener, TcpStream};
    use tokio::sync::oneshot;

    use super::*;
    use crate::serve::connections::ClientPatience;

    const LONG: Duration = Duration::from_secs(3600);
    const SHORT: Duration = Duration::from_millis(20);

    /// A server with room for one connection, and a way to it.
    async fn serving(patience: ClientPatience) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let connections = Connections::new(listener, 1, patience);
        let addr = connections.local_addr().unwrap();
        let piece = || Ok::<_, Infallible>(Bytes::from_static(&[b'x'; 1 << 16]));
        let endless = move || async move { Body::from_stream(stream::repeat_with(piece)) };
        let router = Router::new()
            .route("/", get(async || "hello"))
            .route("/endless", get(endless));
        tokio::spawn(serve(
            connections,
            Security::Clear,
            router,
            std::future::pending(),
        ));
        addr
    }

    async fn sent(addr: SocketAddr, text: &str) -> TcpStream {
        let mut client = TcpStream::connect(addr).await.unwrap();
        client.write_all(text.as_bytes()).await.unwrap();
        client
    }

    /// Everything until the server closes the connection.
    async fn all(mut client: TcpStream) -> String {
        let mut text = String::new();
        client.read_to_string(&mut text).await.unwrap();
        text
    }

    #[tokio::test]
    async fn a_head_that_does_not_come_ends_the_connection() {
        let patience = ClientPatience {
            head: SHORT,
            read: LONG,
        };
        let addr = serving(patience).await;
        assert_eq!(all(sent(addr, "GET / HT").await).await, "");
        assert_eq!(all(sent(addr, "").await).await, "");
    }

    #[tokio::test]
    async fn an_idle_connection_ends_and_not_before_its_answer() {
        // Long enough for a whole head to arrive, however busy the machine is.
        let patience = ClientPatience {
            head: Duration::from_secs(2),
            read: LONG,
        };
        let addr = serving(patience).await;
        let answer = all(sent(addr, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await).await;
        assert!(answer.ends_with("hello"), "{answer}");
    }

    #[tokio::test]
    async fn a_client_that_does_not_read_gives_its_place_to_others() {
        let patience = ClientPatience {
            head: LONG,
            read: SHORT,
        };
        let addr = serving(patience).await;
        let _deaf = sent(addr, "GET /endless HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let request = "GET / HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n";
        let answer = all(sent(addr, request).await).await;
        assert!(answer.ends_with("hello"), "{answer}");
    }

    #[tokio::test]
    async fn idle_connections_do_not_hold_up_the_end() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let patience = ClientPatience {
            head: LONG,
            read: LONG,
        };
        let connections = Connections::new(listener, 1, patience);
        let addr = connections.local_addr().unwrap();
        let (stop, stopped) = oneshot::channel::<()>();
        let router = Router::new().route("/", get(async || "hello"));
        let serving = tokio::spawn(serve(connections, Security::Clear, router, async {
            let _ = stopped.await;
        }));
        let mut client = sent(addr, "GET / HTTP/1.1\r\nhost: x\r\n\r\n").await;
        let mut some = [0; 1];
        client.read_exact(&mut some).await.unwrap();
        drop(stop);
        serving.await.unwrap();
        assert!(all(client).await.ends_with("hello"));
    }
}
