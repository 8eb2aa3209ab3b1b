//! The edge as a server: many private users at once, on shared cloud prompts.

pub mod filling;
pub mod generator;
pub mod segments;
mod shelf;
pub mod stop;
