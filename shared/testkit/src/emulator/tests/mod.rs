//! The model against its definition in virtual time, and the relay over real sockets.

mod accuracy;
mod control;
mod faults;
mod model;
mod schedule;
mod trace;
