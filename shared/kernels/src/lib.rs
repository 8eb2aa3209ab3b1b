//! What computing tokens spends its time on, in vector code for the processor at hand: attention over
//! keys and values where they lie, products of rows with a matrix, and what gates an MLP.
//!
//! Plain slices in, plain vectors out: no tensors, no threads. A general matrix product is made for
//! many rows; with few it spends its time on preparing the matrix.
//!
//! A row's numbers depend, to the last bit, on nothing but the row: not on how many rows there are, nor
//! on where one stands among them.

mod attention;
mod exp;
mod gated;
mod linear;
mod tile;

pub use attention::{Chunk, HeadPart, Queries, SPAN_LEN, attend_span, merge_into, merge_spans};
pub use gated::gated;
pub use linear::{PANEL_WIDTH, Panels, columns};
pub use tile::PackedRows;
