//! A model on several devices: an edge node leads, others lend it theirs. What is placed where is
//! `edgeprompt_placement`'s to say, how it is computed the engine's; here it travels.

mod awaited;
pub mod debt;
mod figures;
pub mod foreman;
pub mod gate;
mod hand;
mod legs;
pub mod lending;
mod measures;
pub mod port;
pub mod roster;
mod setbacks;
pub mod wire;
pub mod work;

pub use measures::own_speed;
