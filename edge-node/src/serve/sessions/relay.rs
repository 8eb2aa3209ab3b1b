//! Reads a session at the node that has it: for a user who knows nothing of moves, and stays.

use std::net::SocketAddr;
use std::sync::Arc;

use edgeprompt_protocol::{PeerRequest, ReaderNews, Reading};
use tokio::sync::mpsc;
use tokio::task::AbortHandle;

use crate::serve::sessions::keeper::Command;
use crate::serve::sessions::links::Links;

/// A stream that is being read. Dropping it ends the reading.
pub(crate) struct Relay {
    task: AbortHandle,
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Relay {
    /// Begins to read; the keeper hears what comes.
    pub(crate) fn begin(
        (addr, number): (SocketAddr, u64),
        reading: Reading,
        links: Arc<Links>,
        keeper: mpsc::WeakSender<Command>,
    ) -> Self {
        let task = tokio::spawn(async move {
            let ended = read(addr, reading, &links, |news| {
                let keeper = keeper.upgrade();
                async move {
                    let news = Command::Relayed(number, addr, Some(news));
                    match keeper {
                        Some(keeper) => keeper.send(news).await.is_ok(),
                        None => false,
                    }
                }
            });
            ended.await;
            if let Some(keeper) = keeper.upgrade() {
                // A keeper that is gone needs no word.
                let _ = keeper.send(Command::Relayed(number, addr, None)).await;
            }
        });
        Self {
            task: task.abort_handle(),
        }
    }
}

async fn read<F: Future<Output = bool>>(
    addr: SocketAddr,
    reading: Reading,
    links: &Links,
    tell: impl Fn(ReaderNews) -> F,
) {
    let Ok(link) = links.to(addr).await else {
        return;
    };
    let Ok((_sender, mut receiver)) = link.open(&PeerRequest::Read(reading), 1).await else {
        return;
    };
    while let Ok(news) = receiver.receive().await {
        if !tell(news).await {
            return;
        }
    }
}
