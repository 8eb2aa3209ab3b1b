//! The user's side of a session: asks an edge node, follows the session from edge to edge, and reads
//! one answer of it all.
//!
//! What it is to do is said by a pure machine,
//! [`Ue`](edgeprompt_handover::session::Ue); here are HTTP, time and the text. A node that is lost is
//! replaced by another one that is known: it gets the request and the tokens so far, and goes on after
//! them. Prompts and answers are in no error and no `Debug` but where the caller asks for them by
//! [`Lost::text`].
//!
//! ```no_run
//! # async fn example() -> Result<(), Box<dyn std::error::Error>> {
//! use edgeprompt_ue_client::{Access, Event, Question, Session};
//!
//! let question = Question::completion("A guest asks:\n").with("max_tokens", 40);
//! let edges = ["http://127.0.0.1:8000".parse()?];
//! let mut session = Session::begin(question, &edges, Access::default()).await?;
//! while let Some(event) = session.next().await {
//!     if let Event::Text(piece) = event {
//!         print!("{}", piece.text);
//!     }
//! }
//! # Ok(())
//! # }
//! ```

mod access;
mod edge_url;
mod event;
mod http;
mod line;
mod named;
mod operator;
mod question;
mod said;
mod server_sent;
mod session;

pub use access::Access;
pub use edge_url::{EdgeUrl, EdgeUrlError, Scheme};
pub use event::{Event, FinishReason, Lost, Moved, Piece};
pub use http::HttpError;
pub use named::SessionId;
pub use operator::{Edge, Handover, NotMoved, SessionEntry, Tried};
pub use question::Question;
pub use session::{BeginError, Session};
