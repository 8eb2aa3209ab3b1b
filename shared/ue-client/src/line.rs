//! The one connection on which a session is read.

use std::pin::Pin;

use crate::http::{HttpError, Reply};
use crate::said::{Said, said};
use crate::server_sent::Decoder;

type Opening = Pin<Box<dyn Future<Output = Result<Reply, HttpError>> + Send>>;

/// A connection, from the moment in which it is wanted. Dropping it closes it.
pub(crate) enum Line {
    /// None.
    Idle,
    /// Nobody has answered yet.
    Opening(Opening),
    /// It is read.
    Open(Box<Reply>, Decoder),
}

/// What is new.
pub(crate) enum Progress {
    /// The node answers.
    Opened,
    /// It said so much.
    Said(Vec<Said>),
    /// It has gone, or says what no edge node says.
    Closed(HttpError),
}

impl Line {
    /// A connection that has been answered on.
    pub(crate) fn of(reply: Reply) -> Self {
        Self::Open(Box::new(reply), Decoder::default())
    }

    /// Waits for something new, for ever if there is no connection. Cancel-safe: what is under way goes
    /// on with the next call.
    pub(crate) async fn progress(&mut self) -> Progress {
        match self {
            Self::Idle => std::future::pending().await,
            Self::Opening(opening) => match opening.as_mut().await {
                Ok(reply) => {
                    *self = Self::of(reply);
                    Progress::Opened
                }
                Err(error) => self.close(error),
            },
            Self::Open(reply, decoder) => {
                let url = reply.url().clone();
                match reply.next().await {
                    Ok(Some(bytes)) => {
                        let decoded = decoder.push(&bytes).ok();
                        let all = decoded.map(|decoded| decoded.iter().map(said).collect());
                        match all {
                            Some(Ok(said)) => Progress::Said(said),
                            Some(Err(_)) | None => self.close(HttpError::Nonsense { url }),
                        }
                    }
                    Ok(None) => self.close(HttpError::Ended { url }),
                    Err(error) => self.close(error),
                }
            }
        }
    }

    pub(crate) const fn is_idle(&self) -> bool {
        matches!(self, Self::Idle)
    }

    fn close(&mut self, error: HttpError) -> Progress {
        *self = Self::Idle;
        Progress::Closed(error)
    }
}
