//! Whole messages on a stream: reads bytes as the frame parser asks for them, writes frames.

use std::time::Duration;

use bytes::Bytes;
use edgeprompt_protocol::codec::DecodeError;
use edgeprompt_protocol::frame::{self, FrameError, FrameProgress};
use quinn::{ReadError, ReadExactError, RecvStream, SendStream, WriteError};
use tokio::time::timeout;

use crate::close::LinkLost;

/// Priority of control streams: above every layer's, whose priorities are zero and below.
pub(crate) const CONTROL_PRIORITY: i32 = 1;

/// Why no message could be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ReadMessageError {
    #[error(transparent)]
    Frame(#[from] FrameError),
    #[error(transparent)]
    Decode(#[from] DecodeError),
    #[error("the stream ended before the message did")]
    Ended,
    #[error("the message did not arrive in time")]
    TimedOut,
    #[error(transparent)]
    Lost(#[from] LinkLost),
}

/// Why no message could be written.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WriteMessageError {
    #[error("the reader wants no more of it")]
    Stopped,
    #[error("the message could not be sent in time")]
    TimedOut,
    #[error(transparent)]
    Lost(#[from] LinkLost),
}

/// Reads one frame and decodes its body.
pub(crate) async fn read_message<M>(
    stream: &mut RecvStream,
    decode: impl FnOnce(&[u8]) -> Result<M, DecodeError>,
    patience: Duration,
) -> Result<M, ReadMessageError> {
    let reading = async {
        let mut received = Vec::new();
        loop {
            match frame::parse(&received)? {
                FrameProgress::Whole { body, .. } => return Ok(decode(body)?),
                FrameProgress::Needs(byte_count) => {
                    let filled = received.len();
                    received.resize(filled + byte_count, 0);
                    stream.read_exact(&mut received[filled..]).await?;
                }
            }
        }
    };
    timeout(patience, reading)
        .await
        .unwrap_or(Err(ReadMessageError::TimedOut))
}

/// Writes one frame; the stream stays open.
pub(crate) async fn write_frame(
    stream: &mut SendStream,
    frame: Bytes,
    patience: Duration,
) -> Result<(), WriteMessageError> {
    match timeout(patience, stream.write_chunk(frame)).await {
        Ok(written) => Ok(written?),
        Err(_) => Err(WriteMessageError::TimedOut),
    }
}

impl From<ReadExactError> for ReadMessageError {
    fn from(error: ReadExactError) -> Self {
        match error {
            ReadExactError::FinishedEarly(_) => Self::Ended,
            ReadExactError::ReadError(error) => error.into(),
        }
    }
}

impl From<ReadError> for ReadMessageError {
    fn from(error: ReadError) -> Self {
        match error {
            ReadError::ConnectionLost(error) => Self::Lost(error.into()),
            ReadError::Reset(_)
            | ReadError::ClosedStream
            | ReadError::IllegalOrderedRead
            | ReadError::ZeroRttRejected => Self::Ended,
        }
    }
}

impl From<WriteError> for WriteMessageError {
    fn from(error: WriteError) -> Self {
        match error {
            WriteError::ConnectionLost(error) => Self::Lost(error.into()),
            WriteError::Stopped(_) | WriteError::ClosedStream | WriteError::ZeroRttRejected => {
                Self::Stopped
            }
        }
    }
}
