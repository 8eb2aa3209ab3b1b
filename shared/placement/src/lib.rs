//! Placement of attention heads, output projections and feed-forward slices on edge devices.
//!
//! Everything here is pure: devices, links and a previous placement go in, a placement comes out.
//! No clock, no socket, no tensors.
//!
//! Source: head-level partitioning (arXiv 2505.02533), with its costs corrected.
