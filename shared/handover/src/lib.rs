//! Handover of a session from one edge node to the next: what to send, when, and who may speak.
//!
//! Everything here is pure: time comes in as a value, messages and actions go out as values. No
//! clock, no socket, no tensors.
//!
//! Source: ctHO (arXiv 2603.28018), with its transmission delay corrected.

pub mod planning;
pub mod session;
