//! The connections of the HTTP side, with limits on what each may take: a place among so many, time
//! to send a request's head, and time to take an answer in. Nothing is known yet of who is there.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Sleep, sleep};

/// Most connections at a time: more than any limit on requests lets through. Others wait.
pub(crate) const CONNECTIONS_MAX: usize = 4096;

/// Until connections are accepted again after the system refused one, most likely because the
/// program has too many files open.
const ACCEPT_PAUSE: Duration = Duration::from_millis(200);

/// How long a client may do nothing of what is its turn to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ClientPatience {
    /// For the TLS handshake, and then for each request's head, from the end of the answer before.
    pub(crate) head: Duration,
    /// For taking in the next bytes of an answer.
    pub(crate) read: Duration,
}

impl Default for ClientPatience {
    fn default() -> Self {
        Self {
            head: Duration::from_secs(30),
            read: Duration::from_secs(120),
        }
    }
}

/// Takes connections in while there are places.
#[derive(Debug)]
pub(crate) struct Connections {
    listener: TcpListener,
    places: Arc<Semaphore>,
    patience: ClientPatience,
}

/// A connection with a place, which breaks when its client reads nothing for too long.
#[derive(Debug)]
pub(crate) struct Connection {
    stream: TcpStream,
    read_patience: Duration,
    /// Ends the connection, while the client takes nothing.
    full: Option<Pin<Box<Sleep>>>,
    _place: Option<OwnedSemaphorePermit>,
}

impl Connections {
    /// Up to `count_max` connections at a time.
    pub(crate) fn new(listener: TcpListener, count_max: usize, patience: ClientPatience) -> Self {
        Self {
            listener,
            places: Arc::new(Semaphore::new(count_max)),
            patience,
        }
    }

    /// How patient its connections are.
    pub(crate) const fn patience(&self) -> ClientPatience {
        self.patience
    }

    /// The next connection. Cancel-safe.
    pub(crate) async fn accept(&mut self) -> Connection {
        // Nobody closes the semaphore.
        let place = Arc::clone(&self.places).acquire_owned().await.ok();
        let stream = loop {
            match self.listener.accept().await {
                Ok((stream, _)) => break stream,
                Err(error) => {
                    tracing::warn!(%error, "a connection was not accepted");
                    sleep(ACCEPT_PAUSE).await;
                }
            }
        };
        // A token is a small packet, and nobody wants to wait for the next one.
        if let Err(error) = stream.set_nodelay(true) {
            tracing::debug!(%error, "small packets may be late");
        }
        Connection {
            stream,
            read_patience: self.patience.read,
            full: None,
            _place: place,
        }
    }

    /// The address it listens on.
    #[cfg(test)]
    pub(crate) fn local_addr(&self) -> io::Result<std::net::SocketAddr> {
        self.listener.local_addr()
    }
}

impl AsyncRead for Connection {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Connection {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let written = Pin::new(&mut self.stream).poll_write(context, bytes);
        if written.is_ready() {
            self.full = None;
            return written;
        }
        let patience = self.read_patience;
        let full = self.full.get_or_insert_with(|| Box::pin(sleep(patience)));
        let over = full.as_mut().poll(context);
        over.map(|()| Err(io::ErrorKind::TimedOut.into()))
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_connection_waits_for_the_place_of_another() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let mut connections = Connections::new(listener, 1, ClientPatience::default());
        let addr = connections.local_addr().unwrap();
        let _clients = [
            TcpStream::connect(addr).await,
            TcpStream::connect(addr).await,
        ];
        let first = connections.accept().await;
        assert_eq!(connections.places.available_permits(), 0);
        let (_, second) = tokio::join!(async { drop(first) }, connections.accept());
        assert!(second.stream.peer_addr().unwrap().ip().is_loopback());
    }
}
