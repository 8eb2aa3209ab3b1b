//! QUIC between nodes: identities, endpoints and links. The only crate that knows QUIC and TLS.
//!
//! It moves messages and layers; it computes nothing, decides nothing about prompts and keeps
//! nothing but identities. Everything that a peer sends is bounded and checked before it is
//! handed on ([`edgeprompt_protocol`]).
//!
//! A trust domain starts with [`CloudIdentity::init`]; a [`JoinToken`] lets one edge node in
//! ([`EdgeIdentity::join`]). [`CloudEndpoint`] accepts [`EdgeLink`]s, [`EdgeEndpoint`] makes
//! [`CloudLink`]s.

mod arrival_meter;
mod certificates;
mod close;
mod cloud_endpoint;
mod cloud_identity;
mod cloud_link;
mod config;
mod congestion;
mod control;
mod edge_count;
mod edge_endpoint;
mod edge_identity;
mod edge_link;
mod enrolment;
mod identity_file;
mod layer_reader;
mod layer_router;
mod layer_sender;
mod layer_stream;
mod load;
mod parity;
mod path_memory;
mod peer_link;
#[cfg(feature = "bench")]
pub mod plain;
mod sent_messages;
mod socket;
#[cfg(test)]
mod tests;
mod tls;
mod tls_acceptor;
mod tls_connector;
mod token;

pub use close::{CloseReason, LinkLost};
pub use cloud_endpoint::{AcceptError, CloudEndpoint, Named, NotAName, Refusals};
pub use cloud_identity::CloudIdentity;
pub use cloud_link::{CloudLink, FETCHES_MAX, FetchError, ManifestMismatch};
pub use config::{BitRate, CongestionControl, LinkConfig, LinkEstimate, LinkProfile, Timeouts};
pub use edge_endpoint::{Callee, ConnectError, EdgeEndpoint, PeerEndpoint};
pub use edge_identity::{EdgeIdentity, JoinError};
pub use edge_link::{EdgeLink, IncomingRequest, RespondError, Responder};
pub use enrolment::{EnrolmentError, INVITATION_LIFETIME, INVITATIONS_MAX};
pub use identity_file::IdentityError;
#[cfg(feature = "fault-injection")]
pub use layer_sender::damage::Damage;
pub use layer_sender::{ComputeSpan, LayerSender, SendLayerError, SentLayer};
pub use layer_stream::{LayerFailure, LayerProblem, LayerStream, LayerStreamError, ReceivedLayer};
pub use peer_link::{IncomingPeerRequest, PeerError, PeerLink, PeerReceiver, PeerSender, Stopped};
pub use sent_messages::SentMessages;
pub use socket::{BindError, LinkStats, SOCKET_BUFFER_BYTES};
pub use tls::Validity;
pub use tls_acceptor::{TlsAcceptor, TlsFileError, TlsStream};
pub use tls_connector::{TlsClientStream, TlsConnector, Trust};
pub use token::{JoinToken, ParseTokenError};
