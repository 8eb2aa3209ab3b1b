//! An edge's link to a cloud: asks for prompts and layers, checks what is promised. The layers
//! themselves come through [`LayerStream`].

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use edgeprompt_kv::{ModelDigest, PromptId};
use edgeprompt_protocol::codec::{self, DecodeError, EncodeError};
use edgeprompt_protocol::frame::FrameError;
use edgeprompt_protocol::{
    CloudReply, CloudRequest, Fetch, FetchId, Manifest, PromptEntry, PromptRef, PublicPrompt,
    Refusal,
};
use quinn::{Connection, RecvStream};
use tokio::time::timeout;

use crate::close::{CloseReason, LinkLost};
use crate::config::{LinkConfig, LinkEstimate};
use crate::control::{self, CONTROL_PRIORITY, ReadMessageError, WriteMessageError};
use crate::layer_router::Routes;
use crate::layer_stream::LayerStream;
use crate::sent_messages::SentMessages;
use crate::socket::LinkStats;

/// Most fetches of one link at a time; the cloud allows as many requests.
pub const FETCHES_MAX: usize = 32;

/// Why a request brought nothing.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The cloud does not serve it.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The cloud answers for another model.
    #[error("model {} was asked for, the cloud answers for {}", .asked.short(), .answered.short())]
    DigestMismatch {
        /// The model of this edge.
        asked: ModelDigest,
        /// The model in the manifest.
        answered: ModelDigest,
    },
    /// The cloud promises something else than was asked for.
    #[error(transparent)]
    Manifest(#[from] ManifestMismatch),
    /// The layers together are more than this edge takes.
    #[error("the layers have {bytes} bytes, this node takes {bytes_max}")]
    TooLarge {
        /// Bytes announced.
        bytes: usize,
        /// Bytes taken.
        bytes_max: usize,
    },
    /// The request breaks a limit of the protocol; nothing was sent.
    #[error(transparent)]
    Encode(#[from] EncodeError),
    /// The cloud's answer is not a message.
    #[error("the cloud's answer is not a message")]
    Decode(#[from] DecodeError),
    /// The cloud's answer is not a frame.
    #[error("the cloud's answer is not a frame")]
    Frame(#[from] FrameError),
    /// The cloud answers another question.
    #[error("the cloud's answer is of the wrong kind")]
    WrongKind,
    /// The cloud ended the request without an answer.
    #[error("the cloud gave no answer: its log says why")]
    NoAnswer,
    /// The cloud took too long.
    #[error("the cloud did not answer in time")]
    TimedOut,
    /// Another fetch of this link has the number.
    #[error("fetch number {} is in use", .fetch.0)]
    IdInUse {
        /// The number.
        fetch: FetchId,
    },
    /// Too many fetches are open.
    #[error("{FETCHES_MAX} fetches are open on this link")]
    TooMany,
    /// The link is gone.
    #[error(transparent)]
    Lost(#[from] LinkLost),
}

/// How a manifest differs from what was asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ManifestMismatch {
    /// It answers another fetch.
    #[error("the manifest answers fetch {}", .answered.0)]
    Fetch {
        /// The fetch in the manifest.
        answered: FetchId,
    },
    /// It is of another prompt.
    #[error("prompt {} was asked for, the manifest is of {}", .asked.short(), .answered.short())]
    Prompt {
        /// The prompt asked for.
        asked: PromptId,
        /// The prompt in the manifest.
        answered: PromptId,
    },
    /// Its public text or tokens are not those that were sent.
    #[error("the manifest's public prompt is not the one that was sent")]
    PublicPrompt,
    /// It announces other layers.
    #[error("the manifest announces other layers than were asked for")]
    Layers,
    /// It announces another number format.
    #[error("the manifest announces another number format than was asked for")]
    Dtype,
}

impl From<ReadMessageError> for FetchError {
    fn from(error: ReadMessageError) -> Self {
        match error {
            ReadMessageError::Frame(error) => Self::Frame(error),
            ReadMessageError::Decode(error) => Self::Decode(error),
            ReadMessageError::Ended => Self::NoAnswer,
            ReadMessageError::TimedOut => Self::TimedOut,
            ReadMessageError::Lost(lost) => Self::Lost(lost),
        }
    }
}

impl From<WriteMessageError> for FetchError {
    fn from(error: WriteMessageError) -> Self {
        match error {
            WriteMessageError::Stopped => Self::NoAnswer,
            WriteMessageError::TimedOut => Self::TimedOut,
            WriteMessageError::Lost(lost) => Self::Lost(lost),
        }
    }
}

/// A link to a cloud. Clones share it; it closes with the last of them and of its layer streams.
#[derive(Clone)]
pub struct CloudLink {
    pub(crate) shared: Arc<CloudConnection>,
}

impl std::fmt::Debug for CloudLink {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let addr = self.shared.connection.remote_address();
        f.debug_struct("CloudLink")
            .field("addr", &addr)
            .finish_non_exhaustive()
    }
}

pub(crate) struct CloudConnection {
    pub(crate) connection: Connection,
    pub(crate) config: LinkConfig,
    routes: Routes,
    record: Option<SentMessages>,
    next_fetch: AtomicU64,
}

impl Drop for CloudConnection {
    fn drop(&mut self) {
        CloseReason::Done.close(&self.connection);
    }
}

impl CloudLink {
    pub(crate) fn start(
        connection: Connection,
        config: LinkConfig,
        record: Option<SentMessages>,
    ) -> Self {
        let routes = Routes::default();
        tokio::spawn(routes.clone().run(connection.clone(), config.timeouts));
        let next_fetch = AtomicU64::new(0);
        Self {
            shared: Arc::new(CloudConnection {
                connection,
                config,
                routes,
                record,
                next_fetch,
            }),
        }
    }

    /// A number that no fetch of this link had from here before.
    pub fn next_fetch_id(&self) -> FetchId {
        FetchId(self.shared.next_fetch.fetch_add(1, Ordering::Relaxed))
    }

    /// Asks for layers; returns once the cloud has said which will come.
    ///
    /// # Errors
    /// [`FetchError`], also if the manifest is not what was asked for.
    pub async fn fetch(&self, fetch: Fetch) -> Result<LayerStream, FetchError> {
        // Layers may overtake the manifest, so they are expected before anything is asked.
        let route = self.shared.routes.open(fetch.fetch)?;
        let request = CloudRequest::Fetch(fetch);
        let (reply, control) = self.ask(&request).await?;
        let manifest = match reply {
            CloudReply::Manifest(manifest) => manifest,
            CloudReply::Refused(refusal) => return Err(refusal.into()),
            CloudReply::Prompts(_) => return Err(FetchError::WrongKind),
        };
        if let CloudRequest::Fetch(fetch) = &request {
            check_manifest(fetch, &manifest)?;
        }
        let (bytes, bytes_max) = (manifest.total_bytes(), self.shared.config.fetch_bytes_max);
        if bytes > bytes_max {
            return Err(FetchError::TooLarge { bytes, bytes_max });
        }
        Ok(LayerStream::new(
            Arc::clone(&self.shared),
            Arc::new(manifest),
            route,
            control,
        ))
    }

    /// The prompts that the cloud serves by name.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn list_prompts(&self) -> Result<Vec<PromptEntry>, FetchError> {
        match self.ask(&CloudRequest::ListPrompts).await?.0 {
            CloudReply::Prompts(entries) => Ok(entries),
            CloudReply::Refused(refusal) => Err(refusal.into()),
            CloudReply::Manifest(_) => Err(FetchError::WrongKind),
        }
    }

    /// How fast layers arrive while any is on its way, and the smoothed round-trip time; `None`
    /// until enough of a layer has come.
    pub fn estimate(&self) -> Option<LinkEstimate> {
        let rate = self.shared.routes.arrival_rate()?;
        let rtt = self.shared.connection.rtt();
        Some(LinkEstimate { rate, rtt })
    }

    /// What the transport counted so far.
    pub fn stats(&self) -> LinkStats {
        LinkStats::of(&self.shared.connection)
    }

    /// Why the link is gone, if it is.
    pub fn lost(&self) -> Option<LinkLost> {
        self.shared.connection.close_reason().map(LinkLost::from)
    }

    /// Waits until the link is gone.
    pub async fn closed(&self) -> LinkLost {
        self.shared.connection.closed().await.into()
    }

    /// Closes the link at once; what is under way fails.
    pub fn close(&self) {
        CloseReason::Done.close(&self.shared.connection);
    }

    async fn ask(&self, request: &CloudRequest) -> Result<(CloudReply, RecvStream), FetchError> {
        let frame = codec::encode_to_cloud(request)?;
        let timeouts = self.shared.config.timeouts;
        let opening = timeout(timeouts.message, self.shared.connection.open_bi()).await;
        let opened = opening.map_err(|_| FetchError::TimedOut)?;
        let (mut send, mut receive) = opened.map_err(LinkLost::from)?;
        if let Some(record) = &self.shared.record {
            record.record(&frame);
        }
        // Both fail only if the cloud has stopped the stream, and then there is no answer.
        send.set_priority(CONTROL_PRIORITY)
            .map_err(|_| FetchError::NoAnswer)?;
        control::write_frame(&mut send, frame, timeouts.message).await?;
        send.finish().map_err(|_| FetchError::NoAnswer)?;
        let reply =
            control::read_message(&mut receive, codec::decode_reply, timeouts.reply).await?;
        Ok((reply, receive))
    }
}

fn check_manifest(fetch: &Fetch, manifest: &Manifest) -> Result<(), FetchError> {
    if manifest.fetch != fetch.fetch {
        return Err(ManifestMismatch::Fetch {
            answered: manifest.fetch,
        }
        .into());
    }
    if manifest.model != fetch.model {
        let (asked, answered) = (fetch.model, manifest.model);
        return Err(FetchError::DigestMismatch { asked, answered });
    }
    check_prompt(&fetch.prompt, manifest)?;
    let all = edgeprompt_kv::LayerRange::first(manifest.geometry.layer_count());
    if manifest.layers != fetch.layers.unwrap_or(all) {
        return Err(ManifestMismatch::Layers.into());
    }
    if manifest.dtype != fetch.dtype {
        return Err(ManifestMismatch::Dtype.into());
    }
    Ok(())
}

fn check_prompt(asked: &PromptRef, manifest: &Manifest) -> Result<(), ManifestMismatch> {
    let as_sent = match asked {
        PromptRef::Named(_) => true,
        PromptRef::Id(asked) if *asked != manifest.prompt => {
            let (asked, answered) = (*asked, manifest.prompt);
            return Err(ManifestMismatch::Prompt { asked, answered });
        }
        PromptRef::Id(_) => true,
        PromptRef::Public(PublicPrompt::Text(text)) => manifest
            .text
            .as_ref()
            .is_none_or(|answered| answered == text),
        PromptRef::Public(PublicPrompt::Tokens(tokens)) => manifest.tokens == *tokens,
    };
    if as_sent {
        Ok(())
    } else {
        Err(ManifestMismatch::PublicPrompt)
    }
}
