//! Congestion control of links that carry layers: how many bytes may be on their way.
//!
//! QUIC's usual controllers take every lost packet for a full queue. On a radio link packets are
//! also lost for other reasons, and CUBIC then leaves most of the link unused. [`RateController`]
//! keeps a model of the path instead, as BBR does (Cardwell et al., "BBR: Congestion-Based
//! Congestion Control", ACM Queue 2016): the highest rate at which bytes arrived lately and the
//! shortest round trip. It is arithmetic; [`PathControllerFactory`] hands it to QUIC, which paces
//! by window and smoothed round-trip time.

mod adapter;
mod controller;
mod rate_filter;
mod round;
#[cfg(test)]
mod simulation;
#[cfg(test)]
mod tests;

pub(crate) use adapter::{PathController, PathControllerFactory, PathHint};
