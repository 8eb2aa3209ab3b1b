//! What decoding spends its time on, in vector code for the processor at hand: attention of a few
//! queries over keys and values where they lie, products of a few rows with a matrix, and what gates an MLP.
//!
//! Plain slices in, plain vectors out: no tensors, no threads. A general matrix product is made for
//! many rows; with few it spends its time on preparing the matrix.

mod attention;
mod exp;
mod gated;
mod linear;
mod tile;

pub use attention::{Chunk, HeadPart, attend_chunks, merge_parts};
pub use gated::gated;
pub use linear::{PANEL_WIDTH, Panels, columns};
pub use tile::PackedRows;
