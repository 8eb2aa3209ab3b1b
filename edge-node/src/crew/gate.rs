//! Where workers knock: a leader's endpoint for those that lend it their devices.

use std::net::SocketAddr;
use std::time::Duration;

use edgeprompt_protocol::{WorkerHello, WorkerSetup};
use edgeprompt_transport::{
    BindError, CloudEndpoint, EdgeIdentity, LinkConfig, Named, PeerError, PeerLink,
};

use crate::crew::port::{LinkPort, Standing};

/// Somebody who lends a device.
pub struct Newcomer {
    /// The way to it.
    pub port: LinkPort,
    /// What it says of itself.
    pub hello: WorkerHello,
    /// What is known of it beside.
    pub standing: Standing,
}

/// The endpoint.
#[derive(Debug)]
pub struct Gate {
    endpoint: CloudEndpoint<PeerLink>,
    setup: WorkerSetup,
    patience: Duration,
}

impl Gate {
    /// Listens on `addr`; port 0 takes a free one. Lets in those that are named. Needs a running tokio
    /// runtime.
    ///
    /// # Errors
    /// [`BindError`].
    pub fn open(
        addr: SocketAddr,
        named: (&EdgeIdentity, Named),
        (setup, patience): (WorkerSetup, Duration),
    ) -> Result<Self, BindError> {
        let endpoint = CloudEndpoint::bind_for_workers(addr, named, LinkConfig::default())?;
        Ok(Self {
            endpoint,
            setup,
            patience,
        })
    }

    /// The address it listens on.
    ///
    /// # Errors
    /// [`BindError`] if the socket is gone.
    pub fn addr(&self) -> Result<SocketAddr, BindError> {
        self.endpoint.local_addr()
    }

    /// Lets workers in, one after the other, and hands each to `admit`, until `stop` has ended; then it
    /// tells them.
    pub async fn run(
        mut self,
        admit: impl Fn(Newcomer) + Clone + Send + 'static,
        stop: impl Future<Output = ()>,
    ) {
        tokio::pin!(stop);
        loop {
            let link = tokio::select! {
                link = self.endpoint.accept() => link,
                () = &mut stop => None,
            };
            let Some(link) = link else {
                break;
            };
            let (setup, patience, admit) = (self.setup.clone(), self.patience, admit.clone());
            tokio::spawn(async move {
                let addr = link.addr();
                match welcome(link, setup, patience).await {
                    Ok(newcomer) => admit(newcomer),
                    Err(error) => tracing::warn!(%addr, %error, "a worker is not let in"),
                }
            });
        }
        self.endpoint.drain().await;
    }
}

async fn welcome(
    link: PeerLink,
    setup: WorkerSetup,
    patience: Duration,
) -> Result<Newcomer, PeerError> {
    let (port, hello, standing) = LinkPort::open(link, setup, patience).await?;
    Ok(Newcomer {
        port,
        hello,
        standing,
    })
}
