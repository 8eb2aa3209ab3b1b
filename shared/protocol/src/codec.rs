//! Messages to bytes and back. The only file that knows the encoding; it frames nothing by hand
//! and lets no unchecked value out.
//!
//! # The privacy gate
//! Bytes for a cloud come from [`encode_to_cloud`] alone, and it takes only what implements
//! [`ToCloud`]. That trait is sealed and [`CloudRequest`] is its one implementor, so private types
//! (a private prompt, its tokens, its keys and values) cannot be encoded for a cloud at all:
//!
//! ```compile_fail,E0277
//! # use edgeprompt_protocol::codec::encode_to_cloud;
//! #[derive(serde::Serialize)]
//! struct PrivatePrompt(String);
//!
//! encode_to_cloud(&PrivatePrompt("my diagnosis".into()));
//! ```
//!
//! nor can another crate open the gate:
//!
//! ```compile_fail,E0277
//! # use edgeprompt_protocol::codec::ToCloud;
//! #[derive(serde::Serialize)]
//! struct PrivatePrompt(String);
//!
//! impl ToCloud for PrivatePrompt {}
//! ```
//!
//! A request goes through:
//!
//! ```
//! # use edgeprompt_protocol::{CloudRequest, codec::encode_to_cloud};
//! assert!(encode_to_cloud(&CloudRequest::ListPrompts).is_ok());
//! ```

use bincode::config::{Configuration, Limit, LittleEndian, Varint};
use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::frame::{FRAME_PREFIX_BYTES, MESSAGE_BYTES_MAX};
use crate::peer::{Move, MoveAnswer, PeerRequest, ReaderNews, TargetSpeed};
use crate::worker::{WorkerHello, WorkerOrder, WorkerReply, WorkerStream};
use crate::{CloudReply, CloudRequest, InvalidMessage};

type Config = Configuration<LittleEndian, Varint, Limit<MESSAGE_BYTES_MAX>>;

const CONFIG: Config = bincode::config::standard().with_limit::<MESSAGE_BYTES_MAX>();

mod sealed {
    use super::{CloudRequest, InvalidMessage};

    /// What other crates cannot implement.
    pub trait Sealed {
        /// Checks what the types do not.
        fn check_outgoing(&self) -> Result<(), InvalidMessage>;
    }

    impl Sealed for CloudRequest {
        fn check_outgoing(&self) -> Result<(), InvalidMessage> {
            self.check()
        }
    }
}

/// Marks what may be sent to a cloud: functions of public facts, nothing else.
///
/// Adding an implementor is a change of the threat model, not a convenience.
#[diagnostic::on_unimplemented(message = "`{Self}` may not be sent to a cloud")]
pub trait ToCloud: Serialize + sealed::Sealed {}

impl ToCloud for CloudRequest {}

mod sealed_peer {
    use super::InvalidMessage;
    use crate::peer::{Move, MoveAnswer, PeerRequest, ReaderNews, TargetSpeed};
    use crate::worker::{WorkerHello, WorkerOrder, WorkerReply, WorkerStream};

    /// What other crates cannot implement.
    pub trait Sealed {
        /// Checks what the types do not.
        fn check(&self) -> Result<(), InvalidMessage>;
    }

    impl Sealed for PeerRequest {
        fn check(&self) -> Result<(), InvalidMessage> {
            self.check()
        }
    }

    impl Sealed for Move {
        fn check(&self) -> Result<(), InvalidMessage> {
            self.check()
        }
    }

    impl Sealed for MoveAnswer {
        fn check(&self) -> Result<(), InvalidMessage> {
            self.check()
        }
    }

    impl Sealed for ReaderNews {
        fn check(&self) -> Result<(), InvalidMessage> {
            self.check()
        }
    }

    impl Sealed for TargetSpeed {
        fn check(&self) -> Result<(), InvalidMessage> {
            self.check()
        }
    }

    impl Sealed for WorkerStream {
        fn check(&self) -> Result<(), InvalidMessage> {
            self.check()
        }
    }

    impl Sealed for WorkerHello {
        fn check(&self) -> Result<(), InvalidMessage> {
            self.check()
        }
    }

    impl Sealed for WorkerOrder {
        fn check(&self) -> Result<(), InvalidMessage> {
            self.check()
        }
    }

    impl Sealed for WorkerReply {
        fn check(&self) -> Result<(), InvalidMessage> {
            self.check()
        }
    }
}

/// Marks what edges of one trust domain say to each other. It may hold what is private, so nothing
/// here has a way to [`encode_to_cloud`].
pub trait ToPeer: Serialize + DeserializeOwned + sealed_peer::Sealed {}

impl ToPeer for PeerRequest {}
impl ToPeer for Move {}
impl ToPeer for MoveAnswer {}
impl ToPeer for ReaderNews {}
impl ToPeer for TargetSpeed {}
impl ToPeer for WorkerStream {}
impl ToPeer for WorkerHello {}
impl ToPeer for WorkerOrder {}
impl ToPeer for WorkerReply {}

/// The frame that carries `message` from an edge to another.
///
/// # Errors
/// [`EncodeError`].
pub fn encode_to_peer<M: ToPeer>(message: &M) -> Result<Bytes, EncodeError> {
    message.check()?;
    encode_frame(message)
}

/// Reads and checks the body of a frame from another edge.
///
/// # Errors
/// [`DecodeError`].
pub fn decode_from_peer<M: ToPeer>(body: &[u8]) -> Result<M, DecodeError> {
    let message: M = decode_body(body)?;
    message.check()?;
    Ok(message)
}

/// Why a message was not encoded.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The message breaks a limit that its reader checks.
    #[error("the message is not valid: {0}")]
    Invalid(#[from] InvalidMessage),
    /// The message is longer than a frame may be.
    #[error("a message of {bytes} bytes exceeds {MESSAGE_BYTES_MAX}")]
    TooLarge {
        /// Bytes of the body.
        bytes: usize,
    },
    /// The encoder failed; no message of this crate makes it.
    #[error("the message cannot be encoded: {0}")]
    Encoder(#[from] bincode::error::EncodeError),
}

/// Why bytes are not a message.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// The body is longer than a frame may be.
    #[error("a message of {bytes} bytes exceeds {MESSAGE_BYTES_MAX}")]
    TooLarge {
        /// Bytes of the body.
        bytes: usize,
    },
    /// The bytes do not have the form of the message.
    #[error("the bytes are not a message: {0}")]
    Malformed(#[from] bincode::error::DecodeError),
    /// The message ends before its bytes do.
    #[error("{bytes} bytes follow the message")]
    Trailing {
        /// Bytes left over.
        bytes: usize,
    },
    /// The message breaks a limit or contradicts itself.
    #[error("the message is not valid: {0}")]
    Invalid(#[from] InvalidMessage),
}

/// The frame that carries `message` from an edge to a cloud.
///
/// # Errors
/// [`EncodeError`].
pub fn encode_to_cloud<M: ToCloud>(message: &M) -> Result<Bytes, EncodeError> {
    message.check_outgoing()?;
    encode_frame(message)
}

/// The frame that carries `reply` from a cloud to an edge.
///
/// # Errors
/// [`EncodeError`].
pub fn encode_to_edge(reply: &CloudReply) -> Result<Bytes, EncodeError> {
    reply.check()?;
    encode_frame(reply)
}

/// Reads and checks the body of a frame from an edge.
///
/// # Errors
/// [`DecodeError`].
pub fn decode_request(body: &[u8]) -> Result<CloudRequest, DecodeError> {
    let request: CloudRequest = decode_body(body)?;
    request.check()?;
    Ok(request)
}

/// Reads and checks the body of a frame from a cloud.
///
/// # Errors
/// [`DecodeError`].
pub fn decode_reply(body: &[u8]) -> Result<CloudReply, DecodeError> {
    let reply: CloudReply = decode_body(body)?;
    reply.check()?;
    Ok(reply)
}

fn encode_frame<M: Serialize>(message: &M) -> Result<Bytes, EncodeError> {
    let mut frame = vec![0; FRAME_PREFIX_BYTES];
    bincode::serde::encode_into_std_write(message, &mut frame, CONFIG)?;
    let bytes = frame.len() - FRAME_PREFIX_BYTES;
    let length = u32::try_from(bytes).map_err(|_| EncodeError::TooLarge { bytes })?;
    if bytes > MESSAGE_BYTES_MAX {
        return Err(EncodeError::TooLarge { bytes });
    }
    frame[..FRAME_PREFIX_BYTES].copy_from_slice(&length.to_le_bytes());
    Ok(frame.into())
}

fn decode_body<M: DeserializeOwned>(body: &[u8]) -> Result<M, DecodeError> {
    if body.len() > MESSAGE_BYTES_MAX {
        return Err(DecodeError::TooLarge { bytes: body.len() });
    }
    let (message, consumed) = bincode::serde::decode_from_slice(body, CONFIG)?;
    match body.len() - consumed {
        0 => Ok(message),
        bytes => Err(DecodeError::Trailing { bytes }),
    }
}
