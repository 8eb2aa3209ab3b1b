//! Reads a session at the node that has it: for a user who knows nothing of moves, and stays.

use std::net::SocketAddr;

use edgeprompt_handover::session::{Claim, ClaimReply, Epoch};
use edgeprompt_protocol::{PeerRequest, ReaderNews, Reading};
use edgeprompt_transport::ConnectError;
use tokio::sync::mpsc;
use tokio::task::AbortHandle;
use tokio::time::interval;

use crate::serve::sessions::Sessions;
use crate::serve::sessions::keeper::Command;
use crate::serve::sessions::log::{News, last_token};
use crate::serve::sessions::peers::ALIVE_PERIOD;

/// A stream that is being read. Dropping it ends the reading.
pub(crate) struct Relay {
    wanted: (SocketAddr, Claim, Epoch),
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
        sessions: Sessions,
        keeper: mpsc::WeakSender<Command>,
    ) -> Self {
        let wanted = (addr, reading.claim, reading.epoch);
        let task = tokio::spawn(async move {
            let ended = read(addr, reading, &sessions, |news| {
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
            wanted,
            task: task.abort_handle(),
        }
    }

    /// Whether this is what it asks for.
    pub(crate) fn asks(&self, wanted: (SocketAddr, Claim, Epoch)) -> bool {
        self.wanted == wanted
    }
}

async fn read<F: Future<Output = bool>>(
    addr: SocketAddr,
    reading: Reading,
    sessions: &Sessions,
    tell: impl Fn(ReaderNews) -> F,
) {
    let link = match sessions.0.links.to(addr).await {
        Ok(link) => link,
        Err(ConnectError::Itself { .. }) => return read_here(reading, sessions, tell).await,
        Err(_) => return,
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

/// The session has come back to the node that holds its user's connection.
async fn read_here<F: Future<Output = bool>>(
    reading: Reading,
    sessions: &Sessions,
    tell: impl Fn(ReaderNews) -> F,
) {
    let Ok(Some(handle)) = sessions.open(reading.session, &reading.ticket) else {
        return;
    };
    let from = reading.answer.len();
    let Ok((reply, moved)) = handle.claim(reading.epoch, reading.answer).await else {
        return;
    };
    let told = tell(ReaderNews::Claim(reply, moved.map(|moved| moved.addr)));
    let ClaimReply::Granted(epoch) = reply else {
        told.await;
        return;
    };
    let (mut reader, mut alive) = (handle.read(from), interval(ALIVE_PERIOD));
    let mut goes_on = told.await;
    while goes_on {
        let (news, is_last) = tokio::select! {
            news = reader.next() => told_of(news, epoch),
            _ = alive.tick() => (ReaderNews::Alive { epoch }, false),
        };
        goes_on = tell(news).await && !is_last;
    }
}

/// What a reader at another node is told, and whether it is the last word.
pub(crate) fn told_of(news: News, epoch: Epoch) -> (ReaderNews, bool) {
    match news {
        News::Entry(index, entry) => {
            let is_last = entry.finish.is_some();
            let token = ReaderNews::Token {
                epoch,
                index: u32::try_from(index).unwrap_or(u32::MAX),
                token: entry.token,
                last: entry.finish.map(last_token),
            };
            (token, is_last)
        }
        News::Moved(moved) => {
            let (epoch, addr) = (moved.epoch, moved.addr);
            (ReaderNews::Moved { epoch, addr }, true)
        }
        News::Broken => (ReaderNews::Broken, true),
    }
}
