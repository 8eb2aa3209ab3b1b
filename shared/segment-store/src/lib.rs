//! The keys and values of cloud prompts on disk: one file each, named by its [`PromptId`], verified
//! whenever it is read, bounded in bytes together.
//!
//! A file can come from anywhere and hold anything, and several processes may share a folder. This
//! crate decides nothing about which prompts to keep and knows neither tensors nor sockets; the
//! present time is an argument.
//!
//! [`PromptId`]: edgeprompt_kv::PromptId

pub mod files;
mod folder;
mod format;
mod reader;
mod store;
mod writer;

pub use files::NewFile;
pub use folder::{KeptSegment, SegmentFolder};
pub use format::{SEGMENT_HEADER_BYTES_MAX, SegmentInfo, SegmentProblem};
pub use reader::{ReadError, SegmentReader};
pub use store::{NewSegment, OpenError, SegmentStore, WriteError};
pub use writer::{EncodeError, SegmentWriter};
